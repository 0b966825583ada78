// SPDX-License-Identifier: GPL-2.0-only

//! Host: fault injection, so that the way back from every step that may fail can be tested.
//!
//! Two ways to name the step that fails as if the kernel or the machine had refused it:
//!
//! - `insmod eltwo.ko fail_at=N` names a step of loading by its number below; `fail_cpu=C` (default 0) names the CPU for
//!   steps that every CPU takes. Numbers from 100 on are not about loading: they spoil something that happens later.
//! - `insmod eltwo.ko fail_nth=N` has the N-th step fail, whatever it is: of loading, or later of the calls of user space.
//!   A module that is loaded so has the file `fail_nth` in debugfs. It is told another N, from when on steps are counted
//!   anew, and shows N and how many steps were taken.
//!
//! A step that fails goes the way of a real failure from there on, and is told as that: where the module would be silent, it is.
//!
//! So that no step is forgotten, the flags of all of the module's allocations come from here (`make check` looks for
//! others), and whoever asks the kernel for anything else that it may refuse passes [`step`] first. The name of a step is
//! a word in the source, which no other step has: the tests know all of them from there, and expect to see each one fail.

use kernel::{
    alloc::Flags,
    prelude::*, //
};

use super::{
    parameter,
    refused::{
        Reason,
        Refused, //
    },
};
use crate::{
    common::{
        abi::{
            Status,
            HVC_STUB_ERR, //
        },
        lifecycle::{
            admission::{
                Ids,
                Refusal, //
            },
            Trouble, //
        },
        nth::NthFailure,
    },
    module_parameters, //
};

/// What `fail_nth` counts.
static NTH: NthFailure = NthFailure::off();

/// The steps of loading that are not a CPU's. Their numbers are what users know them by, and roughly their order.
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
    /// After all CPUs are up: the files in debugfs.
    Debugfs = 15,
}

/// The steps that each CPU takes, by numbers among those of [`Step`].
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum CpuStep {
    /// Admission.
    Admit = 11,
    /// Reading what is to be saved.
    Save = 12,
    /// Init. It is not entered.
    Init = 13,
    /// The first call after init. The CPU is at EL2 with us by then.
    Verify = 14,
}

/// What can be spoilt after loading.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Spoil {
    /// A guest's first use of FP/SIMD ends in an exception at EL2 while the guest's registers are in the CPU.
    GuestSwitch = 100,
    /// The copy of one register that a CPU's image is compared with is not what was read.
    ImageCopy = 101,
}

impl Step {
    /// What it makes, for messages.
    pub(super) fn what(self) -> &'static str {
        match self {
            Self::PoolFirstChunk => "the first chunk of the pool",
            Self::PoolNextChunk => "a further chunk of the pool",
            Self::RamMap => "the map of RAM",
            Self::Image => "the EL2 image",
            Self::Layout => "the layout of EL2's addresses",
            Self::BootTables => "the boot PGD",
            Self::RuntimeTables => "the runtime PGD",
            Self::Contexts => "the contexts of the CPUs",
            Self::CpuPm => "the registration for CPU power management",
            Self::Syscore => "the registration for suspend and shutdown",
            Self::Debugfs => "the files in debugfs",
        }
    }

    fn errno(self) -> Error {
        match self {
            Self::RamMap | Self::Image | Self::Layout | Self::CpuPm => EIO,
            _ => ENOMEM,
        }
    }
}

impl CpuStep {
    /// What such a step fails with when no one has asked for it.
    fn trouble(self) -> Trouble {
        match self {
            Self::Admit => Trouble::NoEl2,
            // What keeps the registers from being read.
            Self::Save => Trouble::Refused(Refusal::E2h),
            Self::Init => Trouble::Answer(HVC_STUB_ERR),
            Self::Verify => Trouble::Answer(Status::NotSupported.to_x0()),
        }
    }
}

/// Begins to count, if `fail_nth` says so. To be called when loading begins. An attempt that fails ends with the module unloaded, so
/// no count is left over.
pub(crate) fn start() {
    NTH.arm(parameter::<u32>(module_parameters::fail_nth.value()));
    if is_on() {
        // Also the sign that the module itself has begun to run, for who counts the kernel's steps before that.
        pr_info!("steps that may fail are counted from here on\n");
    }
}

/// Whether this module was loaded to have steps fail.
pub(crate) fn is_on() -> bool {
    parameter::<u32>(module_parameters::fail_nth.value()) != 0
}

/// From now on step number `nth` fails; 0 for none.
pub(crate) fn fail_nth(nth: u32) {
    NTH.arm(nth);
}

/// The number of the step that fails, and how many were taken.
pub(crate) fn progress() -> (u32, u32) {
    (NTH.nth(), NTH.taken())
}

/// Whether `fail_at` has this number.
fn is_named(number: u32) -> bool {
    parameter::<u32>(module_parameters::fail_at.value()) == number
}

/// Whether `fail_cpu` has this number.
fn is_of(cpu: u32) -> bool {
    parameter::<u32>(module_parameters::fail_cpu.value()) == cpu
}

/// Fails if `fail_at` or `fail_nth` name this step.
pub(crate) fn check(step: Step) -> Result {
    // One after the other, so that steps are counted whatever `fail_at` says.
    let by_count = NTH.fails();
    if by_count || is_named(step as u32) {
        pr_warn!("{}: this step fails on request\n", step.what());
        return Err(step.errno());
    }
    Ok(())
}

/// As [`check`], for a step that `cpu` takes. Nothing may be printed here.
pub(crate) fn check_on(step: CpuStep, cpu: u32) -> Result<(), Trouble> {
    if NTH.fails() || (is_named(step as u32) && is_of(cpu)) {
        Err(step.trouble())
    } else {
        Ok(())
    }
}

/// A step of loading: `make` gets the flags for its allocations. If it fails, on request or not, the log says why.
pub(crate) fn at<T, E: Reason>(
    step: Step,
    make: impl FnOnce(Flags) -> Result<T, E>,
) -> Result<T, Refused> {
    match check(step) {
        Ok(()) => make(GFP_KERNEL).map_err(|reason| reason.tell(step.what())),
        Err(error) => Err(error.tell(step.what())),
    }
}

/// Makes way for `what`, which the kernel may refuse. May sleep.
///
/// # Errors
///
/// `ENOMEM` if `fail_nth` names this step.
pub(crate) fn step(what: &'static str) -> Result {
    if NTH.fails() {
        pr_warn!("{what}: this step fails on request\n");
        return Err(ENOMEM);
    }
    Ok(())
}

/// The flags of an allocation for `what`, which is the module's own.
///
/// # Errors
///
/// As [`step`].
pub(crate) fn kernel(what: &'static str) -> Result<Flags> {
    step(what).map(|()| GFP_KERNEL)
}

/// The flags of an allocation for `what`, which is accounted to the process that asked for it.
///
/// # Errors
///
/// As [`step`].
pub(crate) fn account(what: &'static str) -> Result<Flags> {
    step(what).map(|()| GFP_KERNEL_ACCOUNT)
}

/// As [`at`], for a step that has a name only.
pub(crate) fn loading<T, E: Reason>(
    what: &'static str,
    make: impl FnOnce(Flags) -> Result<T, E>,
) -> Result<T, Refused> {
    match kernel(what) {
        Ok(flags) => make(flags).map_err(|reason| reason.tell(what)),
        Err(error) => Err(error.tell(what)),
    }
}

/// Whether `fail_at` asks for this, wherever it happens.
pub(crate) fn spoils(what: Spoil) -> bool {
    is_named(what as u32)
}

/// Whether `fail_at` and `fail_cpu` ask for this on `cpu`.
pub(crate) fn spoils_on(what: Spoil, cpu: u32) -> bool {
    spoils(what) && is_of(cpu)
}

/// What `cpu` is to say about itself instead of the truth: the number of a register, and its value.
fn fake(cpu: u32) -> Option<(u32, u64)> {
    let value = parameter::<u64>(module_parameters::fake_value.value());
    is_of(cpu).then(|| (parameter(module_parameters::fake_id.value()), value))
}

/// Replaces what `cpu` says about itself: `fake_id=N fake_value=V` on the CPU that `fail_cpu` names. N is 0 for nothing,
/// 1 to 3 for ID_AA64MMFR0_EL1 to ID_AA64MMFR2_EL1, 4 for ICH_VTR_EL2, 5 for HCR_EL2 ([`fake_hcr`]), 6 for SCTLR_EL2.
pub(crate) fn fake_id(cpu: u32, ids: &mut Ids) {
    match fake(cpu) {
        Some((1, value)) => ids.mmfr0 = value,
        Some((2, value)) => ids.mmfr1 = value,
        Some((3, value)) => ids.mmfr2 = value,
        Some((4, value)) => ids.ich_vtr = Some(value),
        Some((6, value)) => ids.sctlr = value,
        _ => {}
    }
}

/// HCR_EL2 of `cpu` as admission sees it.
pub(crate) fn fake_hcr(cpu: u32, read: u64) -> u64 {
    match fake(cpu) {
        Some((5, value)) => value,
        _ => read,
    }
}
