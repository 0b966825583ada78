// SPDX-License-Identifier: GPL-2.0-only

//! Host: what the CPUs need so that a guest cannot steer the branch predictor of who runs after it (Spectre variant 2 and
//! branch history injection).
//!
//! What the kernel has found out about this is not exported, so the CPU and the firmware are asked again. A mitigation that the
//! kernel makes of a loop of branches, for cores whose firmware is too old to have one, is not known here.
//!
//! Source: Arm SMCCC (ARM DEN 0028) 7; `arch/arm64/kernel/proton-pack.c` of Linux.

use core::sync::atomic::{
    AtomicU32,
    Ordering, //
};

use super::probe;
use crate::{
    arch::sysreg,
    bindings, //
};

const SMCCC_ARCH_FEATURES: usize = 0x8000_0001;
/// SMCCC_ARCH_WORKAROUND_1: forget what the branch predictor has learned.
const WORKAROUND_1: u32 = 0x8000_8000;
/// SMCCC_ARCH_WORKAROUND_3: as 1, and the branch history too.
const WORKAROUND_3: u32 = 0x8000_3fff;

/// What some CPU has been found to need. Bits are set, never cleared.
static NEEDED: AtomicU32 = AtomicU32::new(0);

const NEEDS_WORKAROUND_1: u32 = 1 << 0;
const NEEDS_WORKAROUND_3: u32 = 1 << 1;
const NEEDS_CLRBHB: u32 = 1 << 2;

/// What has to be done when a guest stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unlearn {
    /// The instruction CLRBHB.
    Clrbhb,
    /// The SMC with this function number.
    Smc(u32),
}

/// Asks this CPU and its firmware. On every CPU that comes, before a guest can run there.
pub(crate) fn admit_this_cpu() {
    let mut needs = 0;
    if firmware_wants(WORKAROUND_1) {
        needs |= NEEDS_WORKAROUND_1;
    }
    if firmware_wants(WORKAROUND_3) {
        needs |= NEEDS_WORKAROUND_3;
    }
    // The instruction is there because its CPU needs it: those that are safe without say so by CSV2 = 3.
    let safe = probe::field(sysreg::id_aa64pfr0(), 56) >= 3;
    if probe::field(sysreg::id_aa64isar2(), 28) != 0 && !safe {
        needs |= NEEDS_CLRBHB;
    }
    NEEDED.fetch_or(needs, Ordering::Relaxed);
}

/// What has to be done at each exit, on any CPU. A CPU that does not need it loses some time only.
pub(crate) fn unlearn() -> Option<Unlearn> {
    let needed = NEEDED.load(Ordering::Relaxed);
    // The firmware's third does what its first does.
    if needed & NEEDS_WORKAROUND_3 != 0 {
        Some(Unlearn::Smc(WORKAROUND_3))
    } else if needed & NEEDS_WORKAROUND_1 != 0 {
        Some(Unlearn::Smc(WORKAROUND_1))
    } else if needed & NEEDS_CLRBHB != 0 {
        Some(Unlearn::Clrbhb)
    } else {
        None
    }
}

/// Whether the firmware has the function and says that this CPU needs it (0; 1 is: it does not).
fn firmware_wants(function: u32) -> bool {
    // SAFETY: It only reads what the kernel has found at boot.
    let conduit = unsafe { bindings::arm_smccc_1_1_get_conduit() };
    if conduit != bindings::arm_smccc_conduit_SMCCC_CONDUIT_SMC {
        return false;
    }
    let mut result = bindings::arm_smccc_res::default();
    // SAFETY: The firmware speaks SMCCC 1.1 by SMC, and this call only asks.
    unsafe {
        bindings::__arm_smccc_smc(
            SMCCC_ARCH_FEATURES,
            function as usize,
            0,
            0,
            0,
            0,
            0,
            0,
            &mut result,
            core::ptr::null_mut(),
        )
    };
    result.a0 as i32 == 0
}
