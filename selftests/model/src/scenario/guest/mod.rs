// SPDX-License-Identifier: GPL-2.0-only

//! The switch to a guest and back (`asm/guest.S`), with each thing that it may be asked for and each thing that may happen.
//!
//! In every story the host and each vCPU have values of their own in all registers, and these are compared at each end; the CPU
//! has the errata that cost nothing to have.

mod checks;
mod ends;
mod faults;
mod stage;
mod values;

use anyhow::Result;
use eltwo::{
    common::guest::{
        extra,
        flags, //
    },
    fake::{
        Access,
        Quirks,
        Translation, //
    },
};

use super::drive::{
    same,
    take_down,
    unload,
    Leave, //
};
use crate::{
    core::Outcome,
    elf::Image,
    machine::UNLEARN, //
};
pub(super) use ends::{
    guest_aborts,
    guest_refused,
    guest_serrors,
    guest_serrors_with_ras, //
};
pub(super) use faults::{
    guest_faults,
    guest_vectors, //
};
use stage::{
    Setup,
    Stage,
    Vcpu,
    BY_HVC,
    BY_IRQ,
    CPU,
    GUEST_RAM,
    WRITABLE, //
};
use values::PRESENT;

/// The errata that are always there.
const QUIRKS: Quirks = Quirks {
    hcr_alone: true,
    par_barrier: false,
    unlearn: false,
    ras: false,
};

/// The least.
fn plain() -> Setup {
    Setup {
        quirks: QUIRKS,
        ..Setup::default()
    }
}

/// `setup` on a CPU with FEAT_RAS.
fn with_ras(setup: Setup) -> Setup {
    Setup {
        quirks: Quirks {
            ras: true,
            ..setup.quirks
        },
        ..setup
    }
    .with(&[flags::RAS])
}

/// A guest runs twice, and leaves for two reasons.
fn visit(image: &Image, setup: Setup, vcpu: &Vcpu) -> Result<()> {
    let mut stage = Stage::new(image, setup)?;
    stage.fill(vcpu)?;
    stage.enter(vcpu)?;
    let later = vcpu.later();
    stage.exit(&later, &BY_HVC)?;
    stage.enter(&later)?;
    stage.exit(&later.later(), &BY_IRQ)?;
    end(stage)
}

/// EL2 is handed back as it was found.
fn end(mut stage: Stage) -> Result<()> {
    take_down(&mut stage.world, CPU, Leave::Reset)?;
    unload(&mut stage.world)?;
    Ok(())
}

const VCPU: Vcpu = Vcpu::new(1, 5);

/// Each flag alone, and all together.
pub(super) fn guest_visits(image: &Image) -> Result<()> {
    visit(image, plain(), &VCPU)?;
    visit(image, plain().with(&[flags::FP]), &VCPU)?;
    visit(image, with_ras(plain()), &VCPU)?;
    let all = [flags::FP, flags::FLUSH, flags::AARCH32_EL0];
    visit(image, with_ras(plain().with(&all)).with_extras(), &VCPU)
}

/// Each optional register alone; and buffers that nobody uses.
pub(super) fn guest_extras(image: &Image) -> Result<()> {
    for place in PRESENT {
        // The trace buffer needs the register that stops the trace.
        let with = match place {
            extra::TRBLIMITR => 1 << extra::TRFCR,
            _ => 0,
        };
        let setup = Setup {
            present: (1 << place) | with,
            ..plain()
        };
        visit(image, setup.with(&[flags::EXTRA]), &VCPU)?;
    }
    let idle = Setup {
        idle_buffers: true,
        ..plain().with_extras()
    };
    visit(image, idle, &VCPU)
}

/// A CPU that walks by whatever is in the registers, with guests that have their MMU on and off.
pub(super) fn guest_speculative_at(image: &Image) -> Result<()> {
    for (before, after) in [(true, true), (false, false), (false, true), (true, false)] {
        let setup = Setup {
            speculative_at: true,
            ..plain().with(&[flags::SPECULATIVE_AT])
        };
        let mut vcpu = VCPU;
        vcpu.owner.mmu = before;
        let mut stage = Stage::new(image, setup)?;
        stage.fill(&vcpu)?;
        stage.enter(&vcpu)?;
        let mut later = vcpu.later();
        later.owner.mmu = after;
        stage.exit(&later, &BY_HVC)?;
        end(stage)?;
    }
    Ok(())
}

/// A CPU that hangs on a careless read of PAR_EL1.
pub(super) fn guest_par_barrier(image: &Image) -> Result<()> {
    let setup = Setup {
        quirks: Quirks {
            par_barrier: true,
            ..QUIRKS
        },
        ..plain().with(&[flags::PAR_BARRIER])
    };
    visit(image, setup, &VCPU)?;
    // FEAT_RAS needs no DSB for an SError, which would do for the barrier.
    visit(image, with_ras(setup), &VCPU)?;
    ends::guest_aborts_with(image, with_ras(setup))?;
    ends::guest_aborts_with(image, setup)
}

/// The branch predictor unlearns what a guest has taught, by firmware or by CLRBHB.
pub(super) fn guest_unlearn(image: &Image) -> Result<()> {
    for unlearn in [UNLEARN, 0] {
        for setup in [plain(), plain().with_extras()] {
            let setup = Setup {
                quirks: Quirks {
                    unlearn: true,
                    ..QUIRKS
                },
                unlearn,
                ..setup.with(&[flags::UNLEARN])
            };
            visit(image, setup, &VCPU)?;
        }
    }
    Ok(())
}

/// A virtual SError is pending, and the guest takes it or does not.
pub(super) fn guest_virtual_serror(image: &Image) -> Result<()> {
    for taken in [true, false] {
        let mut stage = Stage::new(image, plain())?;
        let vcpu = Vcpu { vse: true, ..VCPU };
        stage.fill(&vcpu)?;
        stage.enter(&vcpu)?;
        let later = Vcpu {
            vse: !taken,
            ..vcpu.later()
        };
        let before = stage.told_hcr(&vcpu);
        let bit = values::HCR_VSE;
        let hcr = before.map(|hcr| if taken { hcr & !bit } else { hcr });
        stage.preset(eltwo::fake::Reg::HcrEl2, hcr.unwrap_or(0))?;
        stage.exit(&later, &BY_HVC)?;
        same(&stage.world, "HCR_EL2", stage.told_hcr(&vcpu), hcr)?;
        end(stage)?;
    }
    Ok(())
}

/// The guest writes to its RAM.
fn guest_writes(stage: &mut Stage) -> Outcome<()> {
    let mut cpu = stage.world.system.cpu(CPU);
    let found = cpu.probe_guest(GUEST_RAM + 0x1000, Access::Write)?;
    let is_there = matches!(found, Translation::Mapped { .. });
    same(
        &stage.world,
        "the guest's access to its RAM",
        is_there,
        true,
    )
}

/// Two vCPUs of a VM take turns on one CPU, with one of another VM between.
pub fn vcpus_in_turn(image: &Image, flush: bool) -> Result<()> {
    let list: &[u32] = if flush { &[flags::FLUSH] } else { &[] };
    let mut stage = Stage::new(image, plain())?;
    let stranger = Vcpu::new(3, 6);
    for (vcpu, list) in [
        (Vcpu::new(1, 5), [].as_slice()),
        (stranger, [].as_slice()),
        (Vcpu::new(2, 5), list),
        (Vcpu::new(1, 5), list),
    ] {
        stage.setup = plain().with(list);
        stage.fill(&vcpu)?;
        stage.enter(&vcpu)?;
        guest_writes(&mut stage)?;
        stage.exit(&vcpu.later(), &BY_HVC)?;
        let left = stage.told_flags(&vcpu);
        same(&stage.world, "the flags that are left", left, Some(0))?;
    }
    end(stage)
}

pub(super) fn guest_vcpus_in_turn(image: &Image) -> Result<()> {
    vcpus_in_turn(image, true)
}

/// Stage 2 allows more than it did: what this CPU still holds of it goes with the flush.
pub(super) fn guest_stage2_relaxed(image: &Image) -> Result<()> {
    let mut stage = Stage::new(image, plain())?;
    stage.set_block(VCPU.vm, 0)?;
    stage.fill(&VCPU)?;
    stage.enter(&VCPU)?;
    stage.exit(&VCPU.later(), &BY_HVC)?;
    stage.set_block(VCPU.vm, WRITABLE)?;
    stage.setup = plain().with(&[flags::FLUSH]);
    stage.fill(&VCPU)?;
    stage.enter(&VCPU)?;
    guest_writes(&mut stage)?;
    stage.exit(&VCPU.later(), &BY_HVC)?;
    end(stage)
}
