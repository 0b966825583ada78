// SPDX-License-Identifier: GPL-2.0-only

//! What went wrong, and the trace that led there.

use core::fmt;
use std::collections::VecDeque;

use super::types::{
    Clean,
    Domain,
    El,
    Kind,
    Reg,
    Tlbi, //
};

/// Events that are kept.
const TRACE_EVENTS: usize = 512;

/// A rule that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// A TLB or a walk may use a translation that the tables no longer hold, or not yet.
    StaleTranslation,
    /// Two entries for one address may be in one TLB that differ in size, address or memory type.
    TlbConflict,
    /// A valid entry was replaced by another one without break-before-make, or before the break was complete.
    BreakBeforeMake,
    /// A table was freed while a walk could still see it.
    FreedTable,
    /// A table was made reachable before its contents were visible to the walkers.
    UnpublishedTable,
    /// A read past the caches of a line that was not cleaned to the PoC.
    UncleanedRead,
    /// A cacheable read of a line that was written past the caches, or such a write that a dirty line can undo.
    HiddenStore,
    /// An instruction fetch that may see what the memory held before.
    StaleInstruction,
    /// An EL2 operation at EL1.
    WrongLevel,
    /// A store to memory that is not writable.
    WriteProtected,
    /// A fetch from memory that is not executable.
    NotExecutable,
    /// No translation.
    NotMapped,
    /// A register is used that may have its old or its new value.
    Unsynchronised,
    /// A register of the EL1&0 regime is changed at EL2 while a walk that began at EL1 may still be on its way (R_LFHQG).
    WalkInProgress,
    /// A walk of one guest, or of the host, can begin under the VMID of another one.
    MixedVmid,
    /// The host runs under a guest's VMID.
    WrongVmid,
    /// The host, or a guest, does not find a register as it was.
    LostRegister,
    /// An SError of one owner can come to another, or to EL2.
    Serror,
    /// An interrupt is not taken for sure where it should be.
    Interrupt,
    /// A debug exception of the kernel's can be taken with a guest's breakpoints, or with half of its own.
    DebugException,
    /// Branches are predicted by what a guest has taught.
    Predictor,
    /// Samples or trace data are lost, or written with the wrong tables.
    Buffer,
    /// Something that an erratum forbids.
    Erratum,
    /// The tables do not say what they should.
    WrongTranslation,
    /// Memory is read that nobody has written.
    UnknownMemory,
    /// Something that the model does not know.
    Unsupported,
}

/// One broken rule.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which one.
    pub rule: Rule,
    /// The CPU on which it shows.
    pub cpu: usize,
    /// Addresses and values.
    pub detail: String,
    /// What happened before, newest last.
    pub trace: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?} on CPU{}: {}", self.rule, self.cpu, self.detail)?;
        write!(f, "{}", self.trace)
    }
}

/// The result of an operation of the model.
pub type Checked<T> = Result<T, Box<Violation>>;

/// Something that a CPU did.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Store { pa: u64, old: Option<u64>, new: u64 },
    Msr(Reg, u64),
    Isb,
    Dsb(Domain, Kind),
    Tlbi(Tlbi),
    Dc(Clean, u64),
    Ic { is: bool },
    IcIvau(u64),
    Exception,
    Eret(El),
    Alloc(u64),
    Free(u64),
    Note(String),
}

/// The events of all CPUs in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Trace {
    events: VecDeque<(usize, Event)>,
    count: usize,
}

impl Trace {
    pub(super) fn push(&mut self, cpu: usize, event: Event) {
        if self.events.len() == TRACE_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back((cpu, event));
        self.count += 1;
    }

    /// Number of the last event.
    pub(super) fn now(&self) -> usize {
        self.count
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.count - self.events.len() + 1;
        for (number, (cpu, event)) in self.events.iter().enumerate() {
            writeln!(f, "{:6} CPU{cpu} {event}", first + number)?;
        }
        Ok(())
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store { pa, old, new } => match old {
                Some(old) => write!(f, "[{pa:#x}] = {new:#x} (was {old:#x})"),
                None => write!(f, "[{pa:#x}] = {new:#x}"),
            },
            Self::Msr(reg, value) => write!(f, "msr {reg:?}, {value:#x}"),
            Self::Isb => write!(f, "isb"),
            Self::Dsb(domain, kind) => write!(f, "dsb {domain:?} {kind:?}"),
            Self::Tlbi(tlbi) => write!(f, "{tlbi}"),
            Self::Dc(clean, pa) => write!(f, "dc {clean:?} [{pa:#x}]"),
            Self::Ic { is: true } => write!(f, "ic ialluis"),
            Self::Ic { is: false } => write!(f, "ic iallu"),
            Self::IcIvau(pa) => write!(f, "ic ivau [{pa:#x}]"),
            Self::Exception => write!(f, "exception to EL2"),
            Self::Eret(el) => write!(f, "eret to {el:?}"),
            Self::Alloc(pa) => write!(f, "table at {pa:#x} taken"),
            Self::Free(pa) => write!(f, "memory at {pa:#x} given back"),
            Self::Note(text) => write!(f, "; {text}"),
        }
    }
}
