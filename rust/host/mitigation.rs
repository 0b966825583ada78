// SPDX-License-Identifier: GPL-2.0-only

//! Host: what the CPUs need so that a guest cannot steer the branch predictor of who runs after it, see
//! [`crate::common::bhb`].
//!
//! What the kernel has found out about this is not exported, so the CPU and the firmware are asked again.
//!
//! Source: Arm SMCCC (ARM DEN 0028) 7.

use core::sync::atomic::{
    AtomicU64,
    Ordering, //
};

use crate::{
    arch::sysreg,
    bindings,
    common::{
        bhb::{
            Answer,
            Facts,
            Unlearn,
            WORKAROUND_1,
            WORKAROUND_3, //
        },
        idreg,
    },
};

const SMCCC_ARCH_FEATURES: usize = 0x8000_0001;

/// What some CPU has been found to need, as [`Unlearn::to_word`] has it.
static NEEDED: AtomicU64 = AtomicU64::new(0);

/// Asks this CPU and its firmware. On every CPU that comes, before a guest can run there.
pub(crate) fn admit_this_cpu() {
    let needs = Unlearn::of(&Facts {
        midr: sysreg::midr_el1(),
        csv2: idreg::field(sysreg::id_aa64pfr0(), 56),
        ecbhb: idreg::field(sysreg::id_aa64mmfr1(), 60) != 0,
        clrbhb: idreg::field(sysreg::id_aa64isar2(), 28) != 0,
        workaround_1: firmware_about(WORKAROUND_1),
        workaround_3: firmware_about(WORKAROUND_3),
    });
    let join = |word| Some(Unlearn::from_word(word).join(needs).to_word());
    // It cannot fail: there always is a result.
    let _ = NEEDED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, join);
}

/// What has to be done at each exit, on any CPU that has come so far. One that does not need it loses some time only.
pub(crate) fn unlearn() -> Unlearn {
    Unlearn::from_word(NEEDED.load(Ordering::Relaxed))
}

/// What the firmware says of its function: 0 is that this CPU needs it, 1 that it does not.
fn firmware_about(function: u32) -> Answer {
    // SAFETY: It only reads what the kernel has found at boot.
    let conduit = unsafe { bindings::arm_smccc_1_1_get_conduit() };
    if conduit != bindings::arm_smccc_conduit_SMCCC_CONDUIT_SMC {
        return Answer::Unknown;
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
    match result.a0 as i32 {
        0 => Answer::Required,
        1 => Answer::NotRequired,
        _ => Answer::Unknown,
    }
}
