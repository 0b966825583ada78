// SPDX-License-Identifier: GPL-2.0-only

//! Runs that do not begin, and ends of a run that need more than a change of registers: aborts and SErrors.

use std::mem::offset_of;

use anyhow::Result;
use eltwo::{
    common::{
        abi::Status,
        guest::{
            flags,
            ExitReason,
            HPFAR_INVALID, //
        },
        shared::Shared, //
    },
    fake::DEFERRED,
};

use super::{
    end, plain,
    stage::{
        Leave,
        Setup,
        Stage,
        Vcpu,
        BY_HVC,
        CPU,
        GUEST_SPSR, //
    },
    with_ras, VCPU,
};
use crate::{
    core::Outcome,
    elf::Image,
    machine::{
        model_reg,
        ABORTED,
        GUEST_WALK,
        PAR_F, //
    },
    scenario::drive::same,
    sysreg::SysReg,
    world::ESR_SERROR,
};

/// ESR_EL2 of a data abort from a guest.
const ABORT: u64 = (0x24 << 26) | (1 << 25);
/// ESR_EL2.S1PTW and FnV.
const S1PTW: u64 = 1 << 7;
const FNV: u64 = 1 << 10;
/// A page that a guest's walk finds, and the same as HPFAR_EL2 has it.
const PAGE: u64 = 0x0000_7654_3210_f000;
const PAGE_AS_HPFAR: u64 = 0x0000_0076_5432_10f0;

/// Where the IPA of an abort comes from.
#[derive(Clone, Copy)]
enum Source {
    Hpfar,
    Walk,
    Nowhere,
}

/// A run that was refused has changed nothing.
fn refused(stage: &mut Stage, va: u64, status: Status, reason: ExitReason) -> Outcome<()> {
    stage.call(va)?;
    let exit = stage.world.run(CPU)?;
    stage.check_host(exit, status, reason)?;
    stage.check_host_el2()
}

/// Not admitted, no longer shared, an interrupt is pending, PSTATE is illegal.
pub(in super::super) fn guest_refused(image: &Image) -> Result<()> {
    let mut stage = Stage::new(image, plain())?;
    stage.fill(&VCPU)?;
    let va = stage.va(VCPU.pa())?;
    refused(&mut stage, va, Status::NotFound, ExitReason::Irq)?;
    stage.admit(&VCPU)?;
    refused(&mut stage, va + 4096, Status::NotFound, ExitReason::Irq)?;
    let unshares = stage.shared_pa() + offset_of!(Shared, unshares) as u64;
    let before = stage.world.system.read(unshares).unwrap_or(0);
    stage.write(unshares, before + 1)?;
    refused(&mut stage, va, Status::NotFound, ExitReason::Irq)?;
    stage.write(unshares, before)?;
    for pending in [1 << 6, 1 << 7, 1 << 8] {
        let isr = model_reg(SysReg::ISR_EL1);
        stage.preset(isr, pending)?;
        refused(&mut stage, va, Status::Ok, ExitReason::Irq)?;
        stage.preset(isr, 0)?;
    }
    // EL1t, EL1h and EL0 may be; anything else would be illegal, or lead to EL2.
    for mode in (0..32).filter(|mode| ![0, 4, 5].contains(mode)) {
        stage.set_pstate(&VCPU, GUEST_SPSR & !0x1f | mode)?;
        refused(&mut stage, va, Status::Ok, ExitReason::Illegal)?;
    }
    stage.set_pstate(&VCPU, GUEST_SPSR)?;
    stage.enter(&VCPU)?;
    stage.exit(&VCPU.later(), &BY_HVC)?;
    end(stage)
}

/// Every kind of abort: the host is told the IPA from where it is right.
pub(in super::super) fn guest_aborts(image: &Image) -> Result<()> {
    guest_aborts_with(image, plain())?;
    let unsure = plain().with(&[flags::HPFAR_UNSURE]);
    let mut stage = Stage::new(image, unsure)?;
    for (fsc, from) in [
        (0x04, Source::Walk),
        (0x07, Source::Walk),
        (0x00, Source::Hpfar),
    ] {
        abort(&mut stage, ABORT | fsc, from, PAGE)?;
    }
    end(stage)
}

pub(super) fn guest_aborts_with(image: &Image, setup: Setup) -> Result<()> {
    use Source::{
        Hpfar,
        Nowhere,
        Walk, //
    };
    let mut stage = Stage::new(image, setup)?;
    let kinds = [
        (0x00, Hpfar),
        (0x03, Hpfar),
        (0x04, Hpfar),
        (0x07, Hpfar),
        (0x08, Hpfar),
        (0x0b, Hpfar),
        (0x0c, Walk),
        (0x0f, Walk),
        (0x0d | S1PTW, Hpfar),
        (0x10, Walk),
        (0x10 | FNV, Nowhere),
        (0x13, Nowhere),
        (0x1f, Nowhere),
        (0x21, Walk),
        (0x29, Hpfar),
        (0x2b, Hpfar),
    ];
    for (fsc, from) in kinds {
        abort(&mut stage, ABORT | fsc, from, PAGE)?;
    }
    // The tables have changed since: the guest faults again, or not.
    abort(&mut stage, ABORT | 0x0f, Walk, PAR_F)?;
    abort(&mut stage, ABORT | 0x0f, Walk, ABORTED)?;
    end(stage)
}

/// The guest takes an abort with `esr`, and a walk of its tables would find `walk`.
fn abort(stage: &mut Stage, esr: u64, from: Source, walk: u64) -> Result<()> {
    let again = matches!(from, Source::Walk) && walk & PAR_F != 0;
    stage.fill(&VCPU)?;
    stage.enter(&VCPU)?;
    let later = VCPU.later();
    stage.guest_runs(&later)?;
    let none = 0xffff_0000_1111_2222;
    stage.preset(
        GUEST_WALK,
        if matches!(from, Source::Walk) {
            walk
        } else {
            none
        },
    )?;
    let leave = Leave {
        esr,
        reason: if again {
            ExitReason::Again
        } else {
            ExitReason::Sync
        },
        ..BY_HVC
    };
    stage.leave(&later, &leave)?;
    stage.finish(&later, &leave)?;
    let expected = match from {
        Source::Hpfar => stage.hpfar,
        Source::Walk => PAGE_AS_HPFAR,
        Source::Nowhere => HPFAR_INVALID,
    };
    if !again {
        let told = stage.told_hpfar(&later);
        same(&stage.world, "HPFAR", told, Some(expected))?;
    }
    Ok(())
}

/// The vectors for exceptions from a guest: AArch64 and AArch32.
const VECTORS: [u64; 8] = [
    0x400, 0x480, 0x500, 0x580, 0x600, 0x680, 0x700, 0x780, //
];

/// An SError that the guest has caused comes in with the exception by `vector`, whose syndrome is `esr`.
fn serror(stage: &mut Stage, vector: u64, esr: u64, deferred: u64) -> Result<()> {
    stage.fill(&VCPU)?;
    stage.enter(&VCPU)?;
    let later = VCPU.later();
    stage.guest_runs(&later)?;
    stage.world.system.cpu(CPU).cause_serror();
    let leave = Leave {
        vector,
        esr,
        reason: ExitReason::SError,
    };
    stage.leave(&later, &leave)?;
    stage.finish(&later, &leave)?;
    // The HVC had completed: it is done again.
    let is_hvc = vector == BY_HVC.vector && esr == BY_HVC.esr;
    let pc = later.owner.other(1) - if is_hvc { 4 } else { 0 };
    let told = stage.told(&later);
    same(&stage.world, "ESR and PC", told, [Some(deferred), Some(pc)])?;
    Ok(())
}

/// What the exception by `vector` has for a syndrome.
fn syndrome(vector: u64) -> u64 {
    match vector {
        0x400 => BY_HVC.esr,
        0x580 | 0x780 => ESR_SERROR,
        _ => ABORT | 0x07,
    }
}

/// With FEAT_RAS an ESB defers it.
pub(in super::super) fn guest_serrors_with_ras(image: &Image) -> Result<()> {
    let mut stage = Stage::new(image, with_ras(plain()))?;
    let deferred = (0x2f << 26) | DEFERRED & 0x1ff_ffff;
    for vector in VECTORS {
        serror(&mut stage, vector, syndrome(vector), deferred)?;
    }
    serror(&mut stage, 0x400, ABORT | 0x07, deferred)?;
    end(stage)
}

/// Without it, it is waited for and taken, at once or as late as can be; or it goes away again.
pub(in super::super) fn guest_serrors(image: &Image) -> Result<()> {
    for eager_serrors in [true, false] {
        let setup = Setup {
            eager_serrors,
            ..plain()
        };
        let mut stage = Stage::new(image, setup)?;
        for vector in VECTORS {
            serror(&mut stage, vector, syndrome(vector), ESR_SERROR)?;
        }
        end(stage)?;
    }
    let mut stage = Stage::new(image, plain())?;
    stage.fill(&VCPU)?;
    stage.enter(&VCPU)?;
    let later: Vcpu = VCPU.later();
    stage.guest_runs(&later)?;
    stage.world.system.cpu(CPU).cause_serror();
    stage.leave(&later, &BY_HVC)?;
    while !stage.world.system.cpu(CPU).serror_pending() {
        let end = stage.world.step(CPU)?;
        same(&stage.world, "the way to the SError", end, None)?;
    }
    // Behind the read of ISR_EL1 that has seen it.
    stage.world.step(CPU)?;
    stage.world.system.cpu(CPU).withdraw_serror();
    stage.finish(&later, &BY_HVC)?;
    end(stage)
}
