// SPDX-License-Identifier: GPL-2.0-only

//! Faults in maintenance sequences: an instruction is left out, or weaker than it must be.
//!
//! A run with [`Injector::recording`] tells which instructions there are, of which sequence, and where they are issued; a run
//! with [`Injector::faulty`] makes one [`Fault`] in some of them. An instruction is needed if some
//! run with a fault in its place ends in a violation.

use core::panic::Location;
use std::{
    collections::{
        BTreeMap,
        BTreeSet, //
    },
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
    /// A TLBI is for EL1&0 and not for EL2, or the other way round.
    OtherRegime,
}

/// An instruction of a recorded run.
#[derive(Clone, Debug)]
pub struct Site {
    /// The instruction.
    pub instruction: Instruction,
    /// The sequence that it is part of.
    pub sequence: String,
    /// File, from the top of the source tree, and line that issue it.
    pub line: String,
    /// How often the sequence has issued the same from there before. A loop over addresses counts as once.
    pub round: usize,
}

/// Line and name of an instruction.
type Spot = (String, String);

type Edit = Arc<dyn Fn(usize, Instruction) -> Vec<Instruction> + Send + Sync>;

#[derive(Default)]
struct State {
    passed: usize,
    /// The sequence that is being issued, and how often each spot of it was reached.
    sequence: String,
    rounds: BTreeMap<Spot, usize>,
    last: Option<Spot>,
    sites: Option<Vec<Site>>,
}

impl State {
    fn record(&mut self, instruction: Instruction, from: &Location<'_>) {
        let Some(sites) = &mut self.sites else { return };
        // Where the tree stands is nobody's business.
        let file = from.file();
        let file = file.rfind("rust/").map_or(file, |start| &file[start..]);
        let line = format!("{file}:{}", from.line());
        let spot = (line.clone(), instruction.name());
        let rounds = self.rounds.entry(spot.clone()).or_default();
        if self.last.as_ref() != Some(&spot) {
            *rounds += 1;
        }
        sites.push(Site {
            instruction,
            sequence: self.sequence.clone(),
            line,
            round: *rounds - 1,
        });
        self.last = Some(spot);
    }
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

    /// What follows is sequence `name`.
    pub fn begin(&self, name: &str) {
        let mut state = self.state.lock().expect("no user of it panics");
        state.sequence = name.into();
        state.rounds.clear();
        state.last = None;
    }

    /// What was recorded.
    pub fn sites(&self) -> Vec<Site> {
        let state = self.state.lock().expect("no user of it panics");
        state.sites.clone().unwrap_or_default()
    }

    /// What is to be executed in place of `instruction`, which was issued from `from`.
    pub(super) fn pass(&self, instruction: Instruction, from: &Location<'_>) -> Vec<Instruction> {
        let mut state = self.state.lock().expect("no user of it panics");
        let number = state.passed;
        state.passed += 1;
        state.record(instruction, from);
        match &self.edit {
            Some(edit) => edit(number, instruction),
            None => vec![instruction],
        }
    }
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
            (Self::OtherRegime, Instruction::Tlbi(Tlbi::Alle1 { is })) => {
                Instruction::Tlbi(Tlbi::Alle2 { is })
            }
            _ => return None,
        };
        Some(vec![other])
    }
}
