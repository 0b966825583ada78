// SPDX-License-Identifier: GPL-2.0-only

//! Host: why a CPU could not be taken, or not be given back.
//!
//! The state machine of a CPU also runs where nothing may be printed (CPU power management), so it returns a reason, and
//! who called it says it aloud or not.

use kernel::{
    fmt,
    prelude::*, //
};

/// The reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Trouble {
    /// `fail_at` asked for it.
    Injected,
    /// The CPU reaches fewer bits of physical address than were chosen for all.
    PaRange {
        /// What it has.
        has: u8,
        /// What was chosen.
        chosen: u8,
    },
    /// The kernel entered this CPU at EL1.
    NotAtEl2,
    /// HCR_EL2.E2H is set.
    E2h,
    /// The MMU of EL2 is on under the stub.
    MmuOn,
    /// EL2 gave this in x0 where it should have given 0.
    Answer(u64),
    /// An exception was taken at EL2; the stub owns the CPU's EL2 again.
    Fault,
}

impl Trouble {
    /// What loading, or the hotplug of the CPU, fails with.
    pub(crate) fn to_errno(self) -> Error {
        match self {
            Trouble::PaRange { .. } | Trouble::NotAtEl2 | Trouble::E2h => ENODEV,
            Trouble::MmuOn => EBUSY,
            Trouble::Injected | Trouble::Answer(_) | Trouble::Fault => EIO,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Trouble::Injected => f.write_str("this step fails on request (fail_at)"),
            Trouble::PaRange { has, chosen } => write!(
                f,
                "it reaches {has} bits of physical address, the others {chosen}; keep it offline"
            ),
            Trouble::NotAtEl2 => {
                f.write_str("the kernel was entered at EL1 on it; have the firmware enter at EL2")
            }
            Trouble::E2h => f.write_str(
                "its EL2 runs with HCR_EL2.E2H=1, which is not supported; on a CPU that has VHE only \
                 no boot argument changes that, elsewhere remove what set it",
            ),
            Trouble::MmuOn => f.write_str(
                "the MMU of its EL2 is on under the stub, so EL2 is in use; remove what uses it",
            ),
            Trouble::Answer(x0) => write!(f, "its EL2 answered {x0:#x}; please report this"),
            Trouble::Fault => {
                f.write_str("it took an exception at EL2; see eltwo/log in debugfs, then unload")
            }
        }
    }
}
