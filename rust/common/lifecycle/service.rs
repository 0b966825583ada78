// SPDX-License-Identifier: GPL-2.0-only

//! Common: what concerns all CPUs: loading and unloading, hotplug, shutdown, and what is left to do after a fault.
//!
//! Everything here runs in process context and may wait for other CPUs.

use super::{
    cpu::{
        Done,
        Hook, //
    },
    trouble::Trouble, //
};

/// What holds for all CPUs: a set of flags in one word, so that a fault raises all of its flags at once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Gate(u32);

impl Gate {
    /// Guests may run, and CPUs may come.
    pub const OPEN: Self = Self(0);
    /// No CPU is brought up any more.
    pub const CLOSED: Self = Self(1 << 0);
    /// EL2 has failed on some CPU: no guest runs any more.
    pub const FAILED: Self = Self(1 << 1);
    /// It has, and nobody has taken the other CPUs down yet.
    pub const UNSETTLED: Self = Self(1 << 2);
    /// What a fault raises.
    pub const FAULT: Self = Self(Self::CLOSED.0 | Self::FAILED.0 | Self::UNSETTLED.0);

    /// The flags of a word that [`Gate::bits`] has given.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits & Self::FAULT.0)
    }

    /// As a word.
    pub const fn bits(self) -> u32 {
        self.0
    }

    const fn has(self, what: Self) -> bool {
        self.0 & what.0 != 0
    }

    /// Whether CPUs are left alone.
    pub const fn is_closed(self) -> bool {
        self.has(Self::CLOSED)
    }

    /// Whether EL2 has failed.
    pub const fn has_failed(self) -> bool {
        self.has(Self::FAILED)
    }

    /// Whether a fault has left something to do.
    pub const fn is_unsettled(self) -> bool {
        self.has(Self::UNSETTLED)
    }
}

/// All CPUs, seen from process context.
pub trait Machine {
    /// What holds for all CPUs.
    fn gate(&self) -> Gate;
    /// Adds `what` to it, ordered before everything that the caller does afterwards.
    fn raise(&self, what: Gate);
    /// Takes `what` away from it, and returns what it was: of several callers one gets each flag.
    fn lower(&self, what: Gate) -> Gate;
    /// Runs [`super::run`] on that CPU and waits for it; `None` if the CPU is offline.
    fn tell(&self, cpu: u32, hook: Hook) -> Option<Result<Done, Trouble>>;
    /// Runs [`super::run`] on every CPU that is online, says what went wrong, and waits for all.
    fn tell_all(&self, hook: Hook);
    /// Says what was found where nothing could be printed: reports of faults, registers that differ.
    fn report(&self);
}

/// Hotplug: `cpu` has come. With the service closed it is left alone, which is no error: the kernel can use it.
///
/// # Errors
///
/// It cannot serve, so it must not stay online.
pub fn online<M: Machine>(machine: &M, cpu: u32) -> Result<Done, Trouble> {
    let result = machine.tell(cpu, Hook::Up);
    settle(machine);
    result.unwrap_or(Ok(Done::Nothing))
}

/// Hotplug: `cpu` goes.
///
/// # Errors
///
/// It was not given back as it should be. It goes nevertheless.
pub fn offline<M: Machine>(machine: &M, cpu: u32) -> Result<Done, Trouble> {
    let result = machine.tell(cpu, Hook::Down);
    settle(machine);
    result.unwrap_or(Ok(Done::Nothing))
}

/// Reboot and kexec: takes every CPU down, for good.
pub fn close<M: Machine>(machine: &M) {
    machine.raise(Gate::CLOSED);
    machine.tell_all(Hook::Down);
}

/// Finishes what a fault left to do: a CPU that was on its way up when the gate closed, and all that are up, go down. Whoever
/// returns from here, none is up: if two come at the same time, both tell all CPUs, which does no harm.
pub fn settle<M: Machine>(machine: &M) {
    if machine.gate().is_unsettled() {
        machine.tell_all(Hook::Down);
        machine.lower(Gate::UNSETTLED);
    }
    machine.report();
}

/// What a loaded module has registered, in the order of loading.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Stage {
    /// The callbacks find the service.
    Published,
    /// CPU power management. From here on a CPU that sleeps is told; none is ours yet.
    CpuPm,
    /// System suspend and shutdown.
    Syscore,
    /// CPU hotplug. Entering it brings every CPU up, leaving it takes every CPU down.
    Hotplug,
}

impl Stage {
    /// All of them, in the order of loading.
    pub const ALL: [Self; 4] = [Self::Published, Self::CpuPm, Self::Syscore, Self::Hotplug];
}

/// Who registers.
pub trait Loader {
    /// Why not.
    type Error;
    /// Enters a stage, all or nothing.
    fn enter(&mut self, stage: Stage) -> Result<(), Self::Error>;
    /// Leaves a stage. Behind this none of its callbacks runs.
    fn leave(&mut self, stage: Stage);
    /// Whether all CPUs can still be taken: a fault, or a shutdown, may have come between the first and the last.
    fn still_open(&self) -> Result<(), Self::Error>;
}

/// Enters all stages, or none.
///
/// # Errors
///
/// That of the stage that failed. Those before it have been left again.
pub fn load<L: Loader>(loader: &mut L) -> Result<(), L::Error> {
    for stage in Stage::ALL {
        if let Err(error) = loader.enter(stage) {
            leave_from(loader, Some(stage));
            return Err(error);
        }
    }
    loader
        .still_open()
        .inspect_err(|_| leave_from(loader, None))
}

/// Leaves all stages.
pub fn unload<L: Loader>(loader: &mut L) {
    leave_from(loader, None);
}

/// Leaves the stages before `failed`, the last one first.
fn leave_from<L: Loader>(loader: &mut L, failed: Option<Stage>) {
    let entered = Stage::ALL
        .into_iter()
        .take_while(|stage| Some(*stage) != failed);
    let count = entered.count();
    for stage in Stage::ALL.into_iter().take(count).rev() {
        loader.leave(stage);
    }
}
