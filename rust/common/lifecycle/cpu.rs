// SPDX-License-Identifier: GPL-2.0-only

//! Common: what one CPU does, on that CPU with interrupts off.

use super::{
    service::Gate,
    state::{
        Event,
        State, //
    },
    trouble::Trouble, //
};

/// The CPU that this runs on, with interrupts off for as long as the value lives.
pub trait Here {
    /// What holds for all CPUs. Shared.
    fn gate(&self) -> Gate;
    /// Adds `what` to it, ordered before everything that this CPU does afterwards. Shared.
    fn raise(&self, what: Gate);
    /// Nobody may wait for a lock that this CPU held at EL2. Shared.
    fn break_lock(&self);
    /// Whether the image may be clean to the PoU only. Shared.
    fn is_stale(&self) -> bool;
    /// Cleans the image to the PoC. Several CPUs may do so at a time.
    fn clean(&self);
    /// The image has been cleaned. Shared.
    fn set_fresh(&self);
    /// EL2 of this CPU goes on running out of our memory: it must never be freed. Shared.
    fn abandon(&self);

    /// Where the CPU is.
    fn state(&self) -> State;
    /// Only [`Here::advance`] calls this.
    fn set_state(&self, state: State);
    /// Whether this CPU can serve. Reads its EL2 registers by way of the stub, keeps them, and changes nothing.
    fn admit(&self) -> Result<(), Trouble>;
    /// From the stub to our address space.
    fn init(&self) -> Result<(), Trouble>;
    /// The first call of our EL2.
    fn verify(&self) -> Result<(), Trouble>;
    /// From our address space to what was found at init.
    fn reset(&self) -> Result<(), Trouble>;
    /// Whether the stub answers, whatever we believe.
    fn stub_owns_el2(&self) -> bool;
    /// Compares the registers with those that were kept.
    fn compare(&self, how: Comparison);

    /// An event was refused that cannot happen in this state. The model checker takes note.
    fn out_of_order(&self) {}

    /// The one place where a CPU changes its state. An event that cannot happen is refused.
    fn advance(&self, event: Event) -> Result<(), Trouble> {
        let state = self.state();
        match state.after(event) {
            Some(next) => {
                self.set_state(next);
                Ok(())
            }
            None => {
                self.out_of_order();
                Err(Trouble::Order { state, event })
            }
        }
    }
}

/// How registers are compared.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Comparison {
    /// The result is told at once.
    Told,
    /// Nothing may be printed here: a difference is kept for [`super::Machine::report`].
    Kept,
}

/// What the kernel tells a CPU, or we by IPI.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Hook {
    /// It has come online, or the module is being loaded.
    Up,
    /// It goes offline, the module is unloaded, the machine is shut down, or a fault somewhere has ended the service.
    Down,
    /// It may lose its state: CPU_PM_ENTER, system suspend. Nothing may be printed.
    Nap,
    /// It is back: CPU_PM_ENTER_FAILED, CPU_PM_EXIT, system resume. Nothing may be printed.
    Wake,
}

/// How a hook has ended, if all went well.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Done {
    /// There is nothing to do in this state.
    Nothing,
    /// The service is closed: the CPU is left alone.
    LeftAlone,
    /// The CPU has changed hands.
    Moved,
}

/// Tells this CPU. Every hook can come in every state, and twice.
///
/// # Errors
///
/// The CPU could not be taken, or not be given back as it should be. Whatever the reason, its EL2 is the stub's, or our memory
/// is never freed.
pub fn run<H: Here>(here: &H, hook: Hook) -> Result<Done, Trouble> {
    match (hook, here.state()) {
        (Hook::Up, State::Stub | State::Refused | State::Asleep) | (Hook::Wake, State::Asleep) => {
            if !here.gate().is_closed() {
                return bring_up(here).map(|()| Done::Moved);
            }
            if here.state() == State::Asleep {
                here.advance(Event::Forget)?;
            }
            Ok(Done::LeftAlone)
        }
        (Hook::Down, State::Hyp) => give_back(here, Event::Reset, Comparison::Told),
        (Hook::Down, State::Asleep) => {
            here.advance(Event::Forget)?;
            Ok(Done::Moved)
        }
        (Hook::Nap, State::Hyp) => give_back(here, Event::Nap, Comparison::Kept),
        _ => Ok(Done::Nothing),
    }
}

/// From the stub to EL2. If it fails, the stub owns EL2 of this CPU as before.
fn bring_up<H: Here>(here: &H) -> Result<(), Trouble> {
    here.advance(Event::Begin)?;
    let result = climb(here);
    here.advance(match result {
        Ok(()) => Event::Taken,
        Err(trouble) if trouble.is_fault() => Event::Fault,
        Err(_) => Event::Refuse,
    })?;
    result
}

fn climb<H: Here>(here: &H) -> Result<(), Trouble> {
    // Cleaned first and noted afterwards: a CPU that finds it noted finds it done.
    if here.is_stale() {
        here.clean();
        here.set_fresh();
    }
    here.admit()?;
    here.init()?;
    let Err(trouble) = here.verify() else {
        return Ok(());
    };
    let left = match trouble {
        // The stub owns EL2 already.
        Trouble::Fault => {
            fail(here);
            Left::Now
        }
        // The CPU is at EL2 with us: take it back by the way that always works.
        _ => leave(here),
    };
    left.compare(here, Comparison::Kept);
    Err(left.trouble().unwrap_or(trouble))
}

fn give_back<H: Here>(here: &H, event: Event, how: Comparison) -> Result<Done, Trouble> {
    let left = leave(here);
    here.advance(match left {
        Left::Now => event,
        Left::Before => Event::Lost,
        Left::Badly(_) | Left::Never(_) => Event::Fault,
    })?;
    left.compare(here, how);
    left.trouble().map_or(Ok(Done::Moved), Err)
}

/// When EL2 of a CPU became the stub's again.
enum Left {
    /// By the reset.
    Now,
    /// By a stub call of the kernel's, before. It stays away until it comes online again, as if the call had been noticed at once.
    Before,
    /// In another way than the reset's, for this reason.
    Badly(Trouble),
    /// It did not, for this reason.
    Never(Trouble),
}

impl Left {
    /// What went wrong.
    fn trouble(&self) -> Option<Trouble> {
        match *self {
            Self::Now | Self::Before => None,
            Self::Badly(trouble) | Self::Never(trouble) => Some(trouble),
        }
    }

    /// Compares the registers, if the stub is there to read them.
    fn compare<H: Here>(&self, here: &H, how: Comparison) {
        if !matches!(self, Self::Never(_)) {
            here.compare(how);
        }
    }
}

/// Reset: EL2 of this CPU is the stub's again.
fn leave<H: Here>(here: &H) -> Left {
    let trouble = match here.reset() {
        // An answer is no proof. Our memory goes back to the kernel on the strength of this; and the comparison that follows reads
        // by a stub call, which our EL2, were it still there, would answer by handing itself back.
        Ok(()) if here.stub_owns_el2() => return Left::Now,
        Ok(()) => Trouble::NotReset(0),
        Err(Trouble::Gone) => return Left::Before,
        Err(trouble) => trouble,
    };
    fail(here);
    if here.stub_owns_el2() {
        return Left::Badly(trouble);
    }
    here.abandon();
    Left::Never(trouble)
}

/// EL2 has failed on this CPU: nobody is brought up any more, no guest runs any more, nobody waits for what this CPU held. The
/// rest is for [`super::service::settle`].
fn fail<H: Here>(here: &H) {
    here.raise(Gate::FAULT);
    here.break_lock();
}

/// Whether EL2 of this CPU can be called.
pub fn may_call<H: Here>(here: &H) -> bool {
    here.state() == State::Hyp
}

/// Whether a guest can be entered on this CPU.
#[inline]
pub fn may_run<H: Here>(here: &H) -> bool {
    here.state() == State::Hyp && !here.gate().has_failed()
}

/// A call of this CPU's EL2, or a guest, has ended in an exception at EL2: the stub owns it again.
pub fn fault<H: Here>(here: &H) {
    fail(here);
    if here.advance(Event::Fault).is_ok() {
        here.compare(Comparison::Told);
    }
}

/// The stub has answered where our EL2 should have: a stub call of the kernel's has given this CPU back. Returns whether that is
/// news: in any other state than [`State::Hyp`] there was nothing to lose.
pub fn lost<H: Here>(here: &H) -> bool {
    let news = here.advance(Event::Lost).is_ok();
    if news {
        here.compare(Comparison::Told);
    }
    news
}
