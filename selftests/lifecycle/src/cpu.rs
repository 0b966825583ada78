// SPDX-License-Identifier: GPL-2.0-only

//! A simulated CPU: what the hardware answers to the life cycle, and what runs there with interrupts off.

use eltwo::common::lifecycle::{
    self,
    Comparison,
    Gate,
    Here,
    Hook,
    State,
    Trouble, //
};

use crate::{
    mutant::Mutant,
    replay::{
        Replay,
        Who, //
    },
    world::{
        El2,
        Memory,
        Rule,
        Section,
        Slot,
        World, //
    },
};

/// Answers of what can go wrong.
pub(crate) const WELL: u8 = 0;
pub(crate) const FAULT: u8 = 1;
pub(crate) const REFUSED: u8 = 2;
const GONE: u8 = 3;

/// The same for the life cycle.
pub(crate) fn trouble(answer: u8) -> Result<(), Trouble> {
    match answer {
        WELL => Ok(()),
        FAULT => Err(Trouble::Fault),
        GONE => Err(Trouble::Gone),
        _ => Err(Trouble::Answer(1)),
    }
}

/// The CPU takes an exception at EL2, if one may still come.
fn take_fault(world: &mut World, cpu: usize) -> Option<u8> {
    world.faults = world.faults.checked_sub(1)?;
    world.cpus[cpu].give_up();
    world.cpus[cpu].due = true;
    Some(FAULT)
}

/// The stub answers: a stub call has given the CPU back, and whoever notices compares.
fn gone(world: &mut World, cpu: usize) -> u8 {
    world.cpus[cpu].due = true;
    GONE
}

/// The CPU cannot be taken, which counts as one of the things that may go wrong. While insmod is under way no CPU that has been
/// taken is refused when it wakes: insmod would not know of it, as it does not a moment later.
fn refuse(world: &mut World, cpu: usize) -> Option<u8> {
    let running = world.cpus[cpu].running.as_ref();
    let comes = running.is_some_and(|running| running.thread.what == Section::Tell(Hook::Up));
    if !comes && !world.loaded {
        return None;
    }
    world.faults = world.faults.checked_sub(1)?;
    Some(REFUSED)
}

const STATES: [State; 6] = State::ALL;
impl Replay<'_> {
    fn cpu(&self) -> usize {
        match self.who {
            Who::Cpu(cpu) => cpu,
            Who::Process(_) => unreachable!("a process is on no CPU of its own"),
        }
    }

    pub(crate) fn slot(&self) -> Slot {
        match self.who {
            Who::Process(slot) => slot,
            Who::Cpu(_) => unreachable!("a section is no process"),
        }
    }

    fn count_gone(&self) {
        let cpu = self.cpu();
        self.local(|world| {
            world.cpus[cpu].count_gone(self.mutant);
            0
        });
    }

    pub(crate) fn get_gate(&self) -> Gate {
        Gate::from_bits(self.shared(|world| world.gate.bits() as u8).into())
    }

    pub(crate) fn raise_gate(&self, what: Gate) {
        self.shared(|world| {
            world.gate = Gate::from_bits(world.gate.bits() | what.bits());
            0
        });
    }
}

/// A CPU, with interrupts off.
impl Here for Replay<'_> {
    fn gate(&self) -> Gate {
        let gate = self.get_gate();
        match self.mutant {
            Mutant::BlindToGate => Gate::OPEN,
            _ => gate,
        }
    }

    fn raise(&self, what: Gate) {
        if self.mutant != Mutant::NoRaising {
            self.raise_gate(what);
        }
    }

    fn break_lock(&self) {}

    fn is_stale(&self) -> bool {
        let stale = self.shared(|world| world.stale.into()) != 0;
        stale && self.mutant != Mutant::NoCleaning
    }

    fn clean(&self) {
        self.shared(|world| {
            world.clean = true;
            0
        });
    }

    fn set_fresh(&self) {
        self.shared(|world| {
            world.stale = false;
            0
        });
    }

    fn abandon(&self) {
        self.shared(|world| {
            if self.mutant != Mutant::NoAbandoning {
                world.memory = Memory::Abandoned;
            }
            0
        });
    }

    fn state(&self) -> State {
        let cpu = self.cpu();
        STATES[usize::from(self.local(|world| world.cpus[cpu].state as u8))]
    }

    fn set_state(&self, state: State) {
        let cpu = self.cpu();
        let state = match (state, self.mutant) {
            (State::Asleep, Mutant::ForgetNap) => State::Stub,
            _ => state,
        };
        self.local(|world| {
            world.cpus[cpu].state = state;
            0
        });
    }

    fn admit(&self) -> Result<(), Trouble> {
        let cpu = self.cpu();
        trouble(self.choose(|world, choice| {
            if !world.clean {
                world.break_rule(Rule::ImageIsClean);
            }
            match choice {
                0 => {
                    world.cpus[cpu].kept = self.mutant != Mutant::NoKeeping;
                    Some(WELL)
                }
                1 => refuse(world, cpu),
                _ => None,
            }
        }))
    }

    fn init(&self) -> Result<(), Trouble> {
        let cpu = self.cpu();
        self.shared(|world| {
            let running = world.cpus[cpu].running.as_ref();
            if running.is_some_and(|running| running.began_closed) {
                world.break_rule(Rule::ClosedMeansClosed);
            }
            if world.cpus[cpu].gone {
                world.break_rule(Rule::GoneUntilOnline);
            }
            world.cpus[cpu].el2 = El2::Ours;
            world.cpus[cpu].booked += 1;
            0
        });
        Ok(())
    }

    fn verify(&self) -> Result<(), Trouble> {
        let cpu = self.cpu();
        trouble(self.choose(|world, choice| match choice {
            0 => Some(WELL),
            1 => take_fault(world, cpu),
            2 => refuse(world, cpu),
            _ => None,
        }))
    }

    fn reset(&self) -> Result<(), Trouble> {
        let cpu = self.cpu();
        let answer = self.choose(|world, choice| match choice {
            _ if world.cpus[cpu].el2 == El2::Stub => (choice == 0).then(|| {
                world.cpus[cpu].count_gone(self.mutant);
                match self.mutant {
                    Mutant::BlindToStub => WELL,
                    _ => gone(world, cpu),
                }
            }),
            0 => {
                world.cpus[cpu].give_up();
                world.cpus[cpu].due = true;
                world.cpus[cpu].booked -= 1;
                if self.mutant == Mutant::TakenTwice {
                    world.cpus[cpu].state = State::Stub;
                }
                Some(WELL)
            }
            1 => take_fault(world, cpu),
            // It answers, and goes on.
            2 if world.faults != 0 => {
                world.faults -= 1;
                world.cpus[cpu].stuck = true;
                Some(REFUSED)
            }
            // It says that it is done, and goes on.
            3 if world.faults != 0 => {
                world.faults -= 1;
                world.cpus[cpu].stuck = true;
                Some(WELL)
            }
            _ => None,
        });
        match answer {
            REFUSED => Err(Trouble::NotReset(1)),
            answer => trouble(answer),
        }
    }

    fn stub_owns_el2(&self) -> bool {
        let cpu = self.cpu();
        let stub = self.local(|world| (world.cpus[cpu].el2 == El2::Stub).into()) != 0;
        stub || self.mutant == Mutant::BelieveAnswers
    }

    fn compare(&self, _how: Comparison) {
        let cpu = self.cpu();
        self.local(|world| {
            if world.cpus[cpu].el2 == El2::Ours {
                world.break_rule(Rule::ImageIsCompared);
            }
            world.cpus[cpu].due &= self.mutant == Mutant::NoComparing;
            0
        });
    }

    fn out_of_order(&self) {
        self.local(|world| {
            world.break_rule(Rule::WaysOfTheTable);
            0
        });
    }
}

/// A section of a CPU. Returns its answer.
pub fn section(replay: &Replay<'_>, what: Section) -> u8 {
    let cpu = replay.cpu();
    match what {
        Section::Tell(Hook::Nap) if replay.mutant == Mutant::NoNap => WELL,
        Section::Tell(hook) => match lifecycle::run(replay, hook) {
            Ok(_) => WELL,
            Err(Trouble::Fault) => FAULT,
            Err(_) => REFUSED,
        },
        Section::Call | Section::Provoke => {
            if !lifecycle::may_call(replay) {
                return REFUSED;
            }
            let answer = replay.choose(|world, choice| match (what, choice) {
                _ if world.cpus[cpu].el2 == El2::Stub => (choice == 0).then(|| gone(world, cpu)),
                (Section::Provoke, 0) => {
                    world.cpus[cpu].give_up();
                    world.cpus[cpu].due = true;
                    Some(FAULT)
                }
                (Section::Call, 0) => Some(WELL),
                (Section::Call, 1) => take_fault(world, cpu),
                _ => None,
            });
            note(replay, answer)
        }
        Section::Run => {
            let may_run = match replay.mutant {
                Mutant::RunAnyway => true,
                Mutant::RunAfterFault => lifecycle::may_call(replay),
                _ => lifecycle::may_run(replay),
            };
            if !may_run {
                let failed = Here::gate(replay).has_failed();
                return if failed { FAULT } else { REFUSED };
            }
            let entered = replay.shared(|world| {
                let bold = replay.mutant == Mutant::RunAnyway;
                if world.cpus[cpu].el2 == El2::Stub && !bold {
                    return gone(world, cpu);
                }
                let running = world.cpus[cpu].running.as_ref();
                if running.is_some_and(|running| running.began_failed) {
                    world.break_rule(Rule::NoGuestAfterFault);
                }
                world.cpus[cpu].guest = true;
                WELL
            });
            if entered == GONE {
                return note(replay, GONE);
            }
            let answer = replay.choose(|world, choice| {
                let answer = match choice {
                    0 => WELL,
                    1 => take_fault(world, cpu)?,
                    _ => return None,
                };
                world.cpus[cpu].guest = false;
                Some(answer)
            });
            note(replay, answer)
        }
    }
}

/// What a hypercall's answer says of EL2, and the answer.
fn note(replay: &Replay<'_>, answer: u8) -> u8 {
    match answer {
        FAULT => lifecycle::fault(replay),
        // The module counts a reset here, and where a reset finds the stub.
        GONE if lifecycle::lost(replay) => replay.count_gone(),
        _ => {}
    }
    answer
}
