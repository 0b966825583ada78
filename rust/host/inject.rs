// SPDX-License-Identifier: GPL-2.0-only

//! Host: fault injection, so that the way back from every step of loading can be tested.
//!
//! `insmod eltwo.ko fail_at=N` makes step N of loading fail as if the kernel or the machine had refused it;
//! `fail_cpu=C` (default 0) names the CPU for steps that every CPU takes. Steps have the numbers below; a number behind
//! the last one fails nothing. Numbers from 100 on are not about loading: they spoil something that happens later.

use kernel::prelude::*;

use crate::{
    common::lifecycle::{
        admission::Ids,
        Trouble, //
    },
    module_parameters,
};

/// The steps of loading. Their numbers are what users know them by, and roughly their order.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Step {
    /// Reserving the first chunk of the pool.
    PoolFirstChunk = 1,
    /// Reserving the rest.
    PoolNextChunk = 2,
    /// Finding out what RAM there is.
    RamMap = 3,
    /// Copying and relocating the EL2 image.
    Image = 4,
    /// Computing the address space.
    Layout = 5,
    /// Building the boot PGD.
    BootTables = 6,
    /// Building the runtime PGD.
    RuntimeTables = 7,
    /// Preparing the context and the stack of each CPU.
    Contexts = 8,
    /// Registering for CPU power management.
    CpuPm = 9,
    /// Registering for suspend and shutdown.
    Syscore = 10,
    /// On a CPU: admission.
    CpuAdmit = 11,
    /// On a CPU: reading what is to be saved.
    CpuSave = 12,
    /// On a CPU: init. It is not entered.
    CpuInit = 13,
    /// On a CPU: the first call after init. The CPU is at EL2 with us by then.
    CpuVerify = 14,
    /// After all CPUs are up: the files in debugfs.
    Debugfs = 15,
    /// A guest's first use of FP/SIMD ends in an exception at EL2 while the guest's registers are in the CPU.
    GuestSwitch = 100,
    /// The copy of one register that a CPU's image is compared with is not what was read.
    ImageCopy = 101,
}

/// Fails if this is the step that `fail_at` names.
pub(crate) fn check(step: Step) -> Result {
    if *module_parameters::fail_at.value() == step as u32 {
        pr_warn!("fail_at={}: this step fails on request\n", step as u32);
        return Err(match step {
            Step::PoolFirstChunk
            | Step::PoolNextChunk
            | Step::BootTables
            | Step::RuntimeTables
            | Step::Contexts => ENOMEM,
            _ => EIO,
        });
    }
    Ok(())
}

/// As [`check`], for a step that `cpu` takes.
pub(crate) fn check_on(step: Step, cpu: u32) -> Result<(), Trouble> {
    let wanted = *module_parameters::fail_at.value() == step as u32;
    if wanted && *module_parameters::fail_cpu.value() == cpu {
        Err(Trouble::Injected)
    } else {
        Ok(())
    }
}

/// Replaces what `cpu` says about itself: `fake_id=N fake_value=V` on the CPU that `fail_cpu` names. N is 0 for nothing,
/// 1 to 3 for ID_AA64MMFR0_EL1 to ID_AA64MMFR2_EL1, 4 for ICH_VTR_EL2.
pub(crate) fn fake_id(cpu: u32, ids: &mut Ids) {
    if *module_parameters::fail_cpu.value() != cpu {
        return;
    }
    let value = *module_parameters::fake_value.value();
    match *module_parameters::fake_id.value() {
        1 => ids.mmfr0 = value,
        2 => ids.mmfr1 = value,
        3 => ids.mmfr2 = value,
        4 => ids.ich_vtr = Some(value),
        _ => {}
    }
}
