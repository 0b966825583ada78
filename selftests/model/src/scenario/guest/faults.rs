// SPDX-License-Identifier: GPL-2.0-only

//! Faults of EL2 itself in the switch: at each access to the vCPU's page, and by each vector. The host gets all of its registers
//! back, and the CPU is at the stub.

use anyhow::Result;
use eltwo::{
    common::{
        abi::Status,
        guest::{
            flags,
            ExitReason, //
        },
    },
    fake::Reg,
};

use super::{
    plain,
    stage::{
        Leave,
        Setup,
        Stage,
        BY_HVC,
        CPU, //
    },
    with_ras, VCPU,
};
use crate::{
    core::Outcome,
    elf::Image,
    insn::{
        decode,
        Insn, //
    },
    scenario::drive::{
        check_down,
        same,
        unload, //
    },
    world::HYP_SPSR,
};

/// ESR_EL2 of a data abort at EL2.
const ESR: u64 = 0x9600_0045;

/// The instruction that comes next accesses the vCPU's page, whose address is in x1 or, plus something, in another register.
fn is_access(stage: &Stage) -> bool {
    let core = &stage.world.cores[CPU];
    let image = stage.world.prepared.layout.image().first().raw();
    let word = stage.world.image().word(core.pc - image);
    let base = match word.map(decode) {
        Some(Ok(Insn::Single { rn, .. } | Insn::Pair { rn, .. } | Insn::FpPair { rn, .. })) => rn,
        _ => return false,
    };
    let page = stage.va(VCPU.pa()).unwrap_or(0);
    let address = core.x.get(usize::from(base)).copied().unwrap_or(0);
    address & !0xfff == page
}

/// A fault, here, by the vector at `vector`.
fn fault(mut stage: Stage, vector: u64) -> Outcome<()> {
    let pc = stage.world.cores[CPU].pc;
    stage.world.system.note(CPU, &format!("a fault at {pc:#x}"));
    stage.world.from_hyp(CPU, vector, ESR, pc, HYP_SPSR)?;
    let leave = stage.world.image().function("eltwo_leave")?.range.start;
    let leave = stage.world.prepared.layout.image().first().raw() + leave;
    while stage.world.cores[CPU].pc != leave {
        let end = stage.world.step(CPU)?;
        same(&stage.world, "the way to eltwo_leave", end, None)?;
    }
    // A further fault on the way out finds the vectors in place.
    stage.check_host_el2()?;
    let exit = stage.world.run(CPU)?;
    // FP/SIMD is the host's business where the guest has it.
    stage.check_host(exit, Status::Fault, ExitReason::Irq)?;
    check_down(&mut stage.world, CPU, &[])?;
    unload(&mut stage.world)
}

/// Runs up to the end, with a fault at each access on the way. Returns how many there were.
fn fault_everywhere(stage: &mut Stage) -> Outcome<usize> {
    let mut faults = 0;
    while stage.world.step(CPU)?.is_none() {
        if is_access(stage) {
            fault(stage.clone(), 0x200)?;
            faults += 1;
        }
    }
    Ok(faults)
}

fn all_faults(image: &Image, setup: Setup, mmu: bool) -> Result<()> {
    let mut vcpu = VCPU;
    vcpu.owner.mmu = mmu;
    let mut stage = Stage::new(image, setup)?;
    stage.fill(&vcpu)?;
    stage.admit(&vcpu)?;
    stage.know(&vcpu);
    let va = stage.va(vcpu.pa())?;
    stage.call(va)?;
    let entry = fault_everywhere(&mut stage)?;
    let later = vcpu.later();
    stage.guest_runs(&later)?;
    stage.leave(&later, &BY_HVC)?;
    let exit = fault_everywhere(&mut stage)?;
    same(
        &stage.world,
        "faults were met",
        entry > 30 && exit > 30,
        true,
    )?;
    Ok(())
}

/// A fault at each access to the vCPU's page.
pub(in super::super) fn guest_faults(image: &Image) -> Result<()> {
    let all = with_ras(plain().with(&[flags::FP, flags::FLUSH])).with_extras();
    all_faults(image, plain(), true)?;
    all_faults(image, all, true)?;
    for mmu in [true, false] {
        let walking = Setup {
            speculative_at: true,
            ..all.with(&[flags::SPECULATIVE_AT])
        };
        all_faults(image, walking, mmu)?;
    }
    Ok(())
}

/// Each vector of the switch that must not be used.
pub(in super::super) fn guest_vectors(image: &Image) -> Result<()> {
    let mut stage = Stage::new(image, plain())?;
    stage.fill(&VCPU)?;
    stage.enter(&VCPU)?;
    stage.guest_runs(&VCPU.later())?;
    stage.leave(&VCPU.later(), &Leave { ..BY_HVC })?;
    for vector in (0..0x400).step_by(0x80) {
        let mut stage = stage.clone();
        stage.preset(Reg::SpEl0, 0)?;
        fault(stage, vector)?;
    }
    Ok(())
}
