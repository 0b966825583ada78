// SPDX-License-Identifier: GPL-2.0-only

//! One step of a thread that cannot be stopped: it is run again from its beginning, with the answers that it has got.

use std::{
    cell::{
        Cell,
        RefCell, //
    },
    panic::{
        catch_unwind,
        resume_unwind,
        AssertUnwindSafe, //
    },
};

use crate::{
    mutant::Mutant,
    world::{
        Slot,
        World, //
    },
};

/// Choices that a step may have.
const CHOICES: u8 = 3;

/// Why a thread does not go on.
enum Stop {
    /// It has taken its step; the next one has so many choices.
    Paused(u8),
    /// Its next step cannot be taken now, or not with this choice.
    Blocked,
}

/// What became of a thread.
#[derive(PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It goes on, with a step that has so many choices.
    Paused(u8),
    /// It has ended.
    Ended,
}

/// Whose thread it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    /// A process.
    Process(Slot),
    /// The section of this CPU.
    Cpu(usize),
}

/// A thread while it takes a step.
pub struct Replay<'a> {
    world: RefCell<&'a mut World>,
    answers: RefCell<&'a mut Vec<u8>>,
    at: Cell<usize>,
    /// The step has been taken.
    acted: Cell<bool>,
    choice: u8,
    /// Whose thread it is.
    pub who: Who,
    /// The seeded bug.
    pub mutant: Mutant,
}

impl Replay<'_> {
    fn known(&self) -> Option<u8> {
        let at = self.at.get();
        let answer = self.answers.borrow().get(at).copied();
        if answer.is_some() {
            self.at.set(at + 1);
        }
        answer
    }

    fn note(&self, answer: u8) -> u8 {
        self.answers.borrow_mut().push(answer);
        self.at.set(self.at.get() + 1);
        answer
    }

    /// A step on what others can touch too. `act` gets the choice among what may happen, and returns the answer, or `None` if
    /// the step cannot be taken now or there is no such choice.
    pub fn choose(&self, act: impl FnOnce(&mut World, u8) -> Option<u8>) -> u8 {
        self.choose_from(CHOICES, act)
    }

    /// As [`Self::choose`], with so many choices.
    pub fn choose_from(&self, choices: u8, act: impl FnOnce(&mut World, u8) -> Option<u8>) -> u8 {
        if let Some(answer) = self.known() {
            return answer;
        }
        if self.acted.replace(true) {
            resume_unwind(Box::new(Stop::Paused(choices)));
        }
        let answer = act(&mut self.world.borrow_mut(), self.choice);
        match answer {
            Some(answer) => self.note(answer),
            None => resume_unwind(Box::new(Stop::Blocked)),
        }
    }

    /// As [`Self::choose`], where only one thing can happen, at any time.
    pub fn shared(&self, act: impl FnOnce(&mut World) -> u8) -> u8 {
        self.choose_from(1, |world, _| Some(act(world)))
    }

    /// Waits until `ready`, and then acts.
    pub fn wait(&self, ready: impl FnOnce(&World) -> bool, act: impl FnOnce(&mut World)) {
        self.choose_from(1, |world, _| {
            ready(world).then(|| {
                act(world);
                0
            })
        });
    }

    /// What only this thread touches: no step of its own.
    pub fn local(&self, act: impl FnOnce(&mut World) -> u8) -> u8 {
        match self.known() {
            Some(answer) => answer,
            None => {
                let answer = act(&mut self.world.borrow_mut());
                self.note(answer)
            }
        }
    }
}

/// Has `body` take its next step, or, with no answers, come to its first. `None` if it cannot.
pub fn step(
    world: &mut World,
    answers: &mut Vec<u8>,
    who: Who,
    mutant: Mutant,
    (fresh, choice): (bool, u8),
    body: impl FnOnce(&Replay<'_>),
) -> Option<Outcome> {
    let replay = Replay {
        world: RefCell::new(world),
        answers: RefCell::new(answers),
        at: Cell::new(0),
        // Up to its first step a thread touches nothing that is shared.
        acted: Cell::new(fresh),
        choice,
        who,
        mutant,
    };
    match catch_unwind(AssertUnwindSafe(|| body(&replay))) {
        Ok(()) => Some(Outcome::Ended),
        Err(stop) => match stop.downcast::<Stop>() {
            Ok(stop) => match *stop {
                Stop::Paused(choices) => Some(Outcome::Paused(choices)),
                Stop::Blocked => None,
            },
            // A panic of the code that is checked, or of the checker.
            Err(panic) => resume_unwind(panic),
        },
    }
}
