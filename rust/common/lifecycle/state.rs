// SPDX-License-Identifier: GPL-2.0-only

//! Common: where a CPU is, and all ways from there.

/// Where a CPU is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u32)]
pub enum State {
    /// The kernel's stub owns EL2 of this CPU, as before we came; also while it is offline.
    Stub = 0,
    /// On its way to EL2.
    Boot = 1,
    /// Ours.
    Hyp = 2,
    /// It was not taken, or could not be; the stub owns its EL2.
    Refused = 3,
    /// It took an exception at EL2; the stub owns its EL2 again.
    Faulted = 4,
    /// It was ours when it went to sleep, and is to be ours when it wakes; the stub owns its EL2.
    Asleep = 5,
}

/// What can become of a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// The way to EL2 begins.
    Begin,
    /// EL2 is ours and has answered.
    Taken,
    /// It could not be taken; the stub has it.
    Refuse,
    /// It took an exception at EL2, or does not answer as it should.
    Fault,
    /// It was given back.
    Reset,
    /// It was given back for as long as the CPU sleeps.
    Nap,
    /// The CPU sleeps, and is not to be ours when it wakes.
    Forget,
    /// A stub call of the kernel's, answered by us, has given it back.
    Lost,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Stub,
        Self::Boot,
        Self::Hyp,
        Self::Refused,
        Self::Faulted,
        Self::Asleep,
    ];

    /// The state with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as u32 == number)
    }

    /// Where `event` leads to from here; `None` if it cannot happen here.
    pub const fn after(self, event: Event) -> Option<Self> {
        Some(match (self, event) {
            (Self::Stub | Self::Refused | Self::Asleep, Event::Begin) => Self::Boot,
            (Self::Boot, Event::Taken) => Self::Hyp,
            (Self::Boot, Event::Refuse) => Self::Refused,
            (Self::Boot | Self::Hyp, Event::Fault) => Self::Faulted,
            (Self::Hyp, Event::Reset | Event::Lost) | (Self::Asleep, Event::Forget) => Self::Stub,
            (Self::Hyp, Event::Nap) => Self::Asleep,
            _ => return None,
        })
    }

    /// As debugfs shows it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stub => "stub",
            Self::Boot => "boot",
            Self::Hyp => "hyp",
            Self::Refused => "refused",
            Self::Faulted => "faulted",
            Self::Asleep => "asleep",
        }
    }
}
