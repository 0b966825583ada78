// SPDX-License-Identifier: GPL-2.0-only

//! Faults in maintenance sequences: an instruction is left out, or weaker than it must be.
//!
//! A run with [`Injector::recording`] tells which instructions there are and where in the sources they are issued; a run
//! with [`Injector::faulty`] makes one [`Fault`] in one of them, or in all that a line of the sources issues. A line is
//! needed if some run with a fault in it ends in a violation.

use std::{
    backtrace::Backtrace,
    collections::BTreeSet,
    sync::{
        Arc,
        Mutex, //
    },
};

use super::types::{
    Domain,
    Instruction,
    Kind,
    Tlbi, //
};

/// The file whose lines are the places of instructions.
const SEQUENCES: &str = "pgtable/tlb.rs";

/// A mistake in an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It is missing.
    Missing,
    /// A DSB waits for this CPU alone.
    NonShareable,
    /// A DSB waits for loads alone.
    LoadsOnly,
    /// A DSB waits for stores alone.
    StoresOnly,
    /// A TLBI is for this CPU alone.
    Local,
    /// A TLBI leaves the cached walks.
    LastLevel,
    /// A TLBI for both stages leaves stage 2.
    Stage1Only,
    /// A TLBI is for EL1&0 and not for EL2.
    OtherRegime,
}

/// An instruction of a recorded run.
#[derive(Clone, Debug)]
pub struct Site {
    /// The instruction.
    pub instruction: Instruction,
    /// File and line that issue it, as far as debug information tells.
    pub place: String,
}

type Edit = Arc<dyn Fn(usize, Instruction) -> Vec<Instruction> + Send + Sync>;

#[derive(Default)]
struct State {
    passed: usize,
    sites: Option<Vec<Site>>,
}

/// Stands between the sequences and the CPU. Clones are the same injector.
#[derive(Clone, Default)]
pub struct Injector {
    edit: Option<Edit>,
    state: Arc<Mutex<State>>,
}

impl Injector {
    /// Lets everything pass and records it.
    pub fn recording() -> Self {
        let state = State {
            sites: Some(Vec::new()),
            ..State::default()
        };
        Self {
            edit: None,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Makes one mistake in each of the instructions `targets`, given by their numbers.
    pub fn faulty(targets: BTreeSet<usize>, fault: Fault) -> Self {
        Self::editing(move |number, instruction| {
            let edited = fault.apply(instruction);
            match edited.filter(|_| targets.contains(&number)) {
                Some(edited) => edited,
                None => vec![instruction],
            }
        })
    }

    /// Replaces each instruction, given with its number, by what `edit` says.
    pub fn editing(
        edit: impl Fn(usize, Instruction) -> Vec<Instruction> + Send + Sync + 'static,
    ) -> Self {
        Self {
            edit: Some(Arc::new(edit)),
            state: Arc::default(),
        }
    }

    /// What was recorded.
    pub fn sites(&self) -> Vec<Site> {
        let state = self.state.lock().expect("no user of it panics");
        state.sites.clone().unwrap_or_default()
    }

    /// What is to be executed in place of `instruction`.
    pub(super) fn pass(&self, instruction: Instruction) -> Vec<Instruction> {
        let mut state = self.state.lock().expect("no user of it panics");
        let number = state.passed;
        state.passed += 1;
        if let Some(sites) = &mut state.sites {
            sites.push(Site {
                instruction,
                place: place(),
            });
        }
        match &self.edit {
            Some(edit) => edit(number, instruction),
            None => vec![instruction],
        }
    }
}

/// The line of the sequences that this is called for.
fn place() -> String {
    let trace = Backtrace::force_capture().to_string();
    trace
        .lines()
        .filter_map(|line| line.find(SEQUENCES).map(|start| &line[start..]))
        .map(|found| match found.rsplit_once(':') {
            // The column says nothing.
            Some((line, _)) => line.to_string(),
            None => found.to_string(),
        })
        .next()
        .unwrap_or_else(|| format!("{SEQUENCES}:?"))
}

impl Fault {
    /// All mistakes.
    pub const ALL: [Self; 8] = [
        Self::Missing,
        Self::NonShareable,
        Self::LoadsOnly,
        Self::StoresOnly,
        Self::Local,
        Self::LastLevel,
        Self::Stage1Only,
        Self::OtherRegime,
    ];

    /// What takes the place of `instruction`; `None` if it cannot have this fault.
    pub fn apply(self, instruction: Instruction) -> Option<Vec<Instruction>> {
        let other = match (self, instruction) {
            (Self::Missing, _) => return Some(Vec::new()),
            (Self::NonShareable, Instruction::Dsb(domain, kind)) if domain > Domain::Nsh => {
                Instruction::Dsb(Domain::Nsh, kind)
            }
            (Self::LoadsOnly, Instruction::Dsb(domain, _)) => Instruction::Dsb(domain, Kind::Loads),
            (Self::StoresOnly, Instruction::Dsb(domain, Kind::Full)) => {
                Instruction::Dsb(domain, Kind::Stores)
            }
            (Self::Local, Instruction::Tlbi(tlbi)) if tlbi.is_broadcast() => {
                Instruction::Tlbi(tlbi.local())
            }
            (Self::LastLevel, Instruction::Tlbi(Tlbi::Vae2 { operand, is })) => {
                Instruction::Tlbi(Tlbi::Vale2 { operand, is })
            }
            (Self::LastLevel, Instruction::Tlbi(Tlbi::Ipas2e1 { operand, is })) => {
                Instruction::Tlbi(Tlbi::Ipas2le1 { operand, is })
            }
            (Self::Stage1Only, Instruction::Tlbi(Tlbi::Vmalls12e1 { is })) => {
                Instruction::Tlbi(Tlbi::Vmalle1 { is })
            }
            (Self::OtherRegime, Instruction::Tlbi(Tlbi::Alle2 { is })) => {
                Instruction::Tlbi(Tlbi::Alle1 { is })
            }
            _ => return None,
        };
        Some(vec![other])
    }
}
