// SPDX-License-Identifier: GPL-2.0-only

//! Common: why a CPU could not be taken, or not be given back.
//!
//! The life of a CPU also goes on where nothing may be printed (CPU power management), so it returns a reason, and who asked
//! says it aloud or not.

use core::fmt;

use super::{
    admission::Refusal,
    state::{
        Event,
        State, //
    },
};

/// The reason.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Trouble {
    /// It cannot do what was chosen for all.
    Refused(Refusal),
    /// It has no EL2 below the kernel.
    NoEl2,
    /// EL2 gave this in x0 where it should have given 0, and is the stub's.
    Answer(u64),
    /// EL2 gave this in x0 where it should have been given back.
    NotReset(u64),
    /// The stub has answered where our EL2 should have.
    Gone,
    /// An exception was taken at EL2; the stub owns the CPU's EL2 again.
    Fault,
    /// A bug: this cannot happen in this state.
    Order {
        /// Where the CPU is.
        state: State,
        /// What should have become of it.
        event: Event,
    },
}

impl Trouble {
    /// Whether EL2 of the CPU has failed, so that nothing more can be asked of it.
    pub const fn is_fault(self) -> bool {
        matches!(self, Self::Fault | Self::NotReset(_))
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Refused(refusal) => fmt::Display::fmt(&refusal, f),
            Self::NoEl2 => f.write_str("it has no EL2, as the others have; keep it offline"),
            Self::Answer(x0) | Self::NotReset(x0) => {
                write!(f, "its EL2 answered {x0:#x}; please report this")
            }
            Self::Gone => {
                f.write_str("its EL2 was given back by a stub call; take it offline and online")
            }
            Self::Fault => {
                f.write_str("it took an exception at EL2; see eltwo/log in debugfs, then unload")
            }
            Self::Order { state, event } => {
                write!(f, "{event:?} in state {}; please report this", state.name())
            }
        }
    }
}
