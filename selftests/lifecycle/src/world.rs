// SPDX-License-Identifier: GPL-2.0-only

//! The state of the simulated machine, with all that may become of it in one step.

use eltwo::common::lifecycle::{
    Gate,
    Hook,
    Stage,
    State, //
};

use crate::mutant::Mutant;

/// Who owns EL2 of a CPU, as the hardware has it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum El2 {
    /// The kernel's stub.
    Stub,
    /// Our vectors and tables, in our memory.
    Ours,
}

/// Our memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Memory {
    /// The kernel has it.
    Free,
    /// It is ours.
    Live,
    /// It is ours for ever.
    Abandoned,
}

/// What a CPU does with interrupts off.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Section {
    /// A hook.
    Tell(Hook),
    /// A hypercall, which may fault.
    Call,
    /// A hypercall that faults.
    Provoke,
    /// A guest, which may fault.
    Run,
}

/// What a process does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Op {
    /// insmod.
    Load,
    /// rmmod.
    Unload,
    /// A CPU is taken offline.
    Offline(u8),
    /// A CPU comes online.
    Online(u8),
    /// System suspend, or hibernation, and resume.
    Suspend,
    /// reboot.
    Reboot,
    /// kexec: as reboot, and the last CPU is handed over by a stub call.
    Kexec,
    /// A VM is created, its vCPU run once on this CPU, and destroyed.
    Vm(u8),
    /// A hypercall on this CPU.
    Call(u8),
    /// A hypercall on this CPU that faults.
    Fault(u8),
    /// A nap of this CPU: no process, but scripts name it.
    Nap(u8),
    /// A stub call of the kernel's on this CPU: no process either.
    StubCall(u8),
    /// A file of debugfs is read.
    Look,
}

/// Places for processes: at most one of each kind runs at a time, but for users.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(usize)]
pub enum Slot {
    /// insmod and rmmod.
    Loader,
    /// Hotplug.
    Hotplug,
    /// Suspend and shutdown.
    Power,
    /// A user.
    UserA,
    /// Another one.
    UserB,
}

impl Slot {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Loader,
        Self::Hotplug,
        Self::Power,
        Self::UserA,
        Self::UserB,
    ];
}

/// A thread: what it does, and the answers that it has got so far.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Thread<T> {
    /// What it does.
    pub what: T,
    /// The answers.
    pub answers: Vec<u8>,
    /// How many choices its next step has.
    pub choices: u8,
}

/// A section that a CPU is in.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Running {
    /// Its steps.
    pub thread: Thread<Section>,
    /// Who waits for it; nobody for a section that the kernel enters by itself.
    pub by: Option<Slot>,
    /// The gate was closed, or should have been, when it began.
    pub began_closed: bool,
    /// EL2 of some CPU had failed when it began.
    pub began_failed: bool,
}

/// A CPU.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Cpu {
    /// It is in the kernel's mask.
    pub online: bool,
    /// Who owns its EL2.
    pub el2: El2,
    /// What the module thinks.
    pub state: State,
    /// It has lost its state in idle, and comes back by CPU_PM_EXIT.
    pub napping: bool,
    /// It was ours when it went there.
    pub was_hyp: bool,
    /// Times that it was taken, less the times that it was given back, as the module counts them.
    pub booked: i8,
    /// A stub call has taken it from us, and it has not come online since.
    pub gone: bool,
    /// Its EL2 did not let itself be reset: it goes on in our memory, which must stay.
    pub stuck: bool,
    /// What a reset puts back was read on this CPU, since its EL2 last became the stub's.
    pub kept: bool,
    /// We have given it back, and its registers are still to be compared.
    pub due: bool,
    /// It runs a guest.
    pub guest: bool,
    /// The section that it is in.
    pub running: Option<Running>,
    /// Sections that processes want of it.
    pub posted: [Option<Section>; 5],
}

impl Cpu {
    /// Whether its EL2 is ours, and could be given back.
    fn is_up(&self) -> bool {
        self.el2 == El2::Ours && !self.stuck
    }

    /// A stub call gives it back.
    pub fn give_back(&mut self) {
        self.give_up();
        self.gone = true;
    }

    /// Its EL2 is the stub's again. What was kept has done its duty: the kernel may have the stub do as it likes now.
    pub fn give_up(&mut self) {
        self.el2 = El2::Stub;
        self.kept = false;
    }

    /// Counts that a stub call has given it back.
    pub fn count_gone(&mut self, mutant: Mutant) {
        self.booked -= i8::from(mutant != Mutant::NoCounting);
    }

    /// Whether its books are what its state says. A fault ends them.
    fn balances(&self) -> bool {
        let wanted = match self.state {
            State::Hyp => 1,
            State::Stub | State::Refused | State::Asleep => 0,
            State::Boot | State::Faulted => return true,
        };
        self.running.is_some() || self.booked == wanted
    }

    /// Whether nothing is under way on it.
    pub fn is_idle(&self) -> bool {
        self.running.is_none() && self.posted.iter().all(Option::is_none)
    }
}

/// The machine.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct World {
    /// Its CPUs.
    pub cpus: Vec<Cpu>,
    /// The module's flags.
    pub gate: Gate,
    /// The module's mark that the image must be cleaned.
    pub stale: bool,
    /// Whether the image is clean to the PoC.
    pub clean: bool,
    /// The module's memory.
    pub memory: Memory,
    /// What it has registered.
    pub stages: [bool; Stage::ALL.len()],
    /// insmod has succeeded, and rmmod has not begun.
    pub loaded: bool,
    /// VMs.
    pub vms: u8,
    /// The hotplug lock.
    pub hotplug_lock: Option<Slot>,
    /// The lock of the list of system-wide operations.
    pub syscore_lock: Option<Slot>,
    /// Processes.
    pub processes: [Option<Thread<Op>>; 5],
    /// Answers for processes that wait for a section.
    pub results: [u8; 5],
    /// Processes are frozen.
    pub frozen: bool,
    /// CPU 0 is alone, with interrupts off.
    pub alone: bool,
    /// The system goes down.
    pub going_down: bool,
    /// Our shutdown hook has been here.
    pub closed: bool,
    /// EL2 of some CPU has failed since insmod, and who was there is done with it.
    pub failed: bool,
    /// Who was there could take the others down.
    pub owed: bool,
    /// Nothing happens any more.
    pub ended: bool,
    /// How much may still go wrong: faults at EL2, CPUs and registrations that are refused, stub calls.
    pub faults: u8,
    /// Processes that may still start.
    pub starts: u8,
    /// Naps that may still begin.
    pub naps: u8,
    /// A rule was broken.
    pub broken: Option<Rule>,
}

/// What must never be, or happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Rule {
    /// No CPU is ever in Hyp with its memory freed.
    MemoryOutlivesHyp,
    /// None is left in Hyp when it goes offline or loses its power.
    NoneLostInHyp,
    /// None is left in Hyp after shutdown or kexec.
    NoneInHypAfterShutdown,
    /// No vCPU runs on a CPU that is not in Hyp.
    GuestsInHypOnly,
    /// insmod is all or nothing.
    LoadIsAllOrNothing,
    /// After a fault or a shutdown nobody is brought up.
    ClosedMeansClosed,
    /// Who was Hyp before its nap is Hyp after it.
    NapsEndInHyp,
    /// The image is clean to the PoC when it is entered with the MMU off.
    ImageIsClean,
    /// A CPU takes no way that the table of states does not have.
    WaysOfTheTable,
    /// Who is Hyp was taken once more than given back, who is at the stub as often.
    BooksBalance,
    /// A CPU that a stub call has taken from us is ours again when it comes online, and not before.
    GoneUntilOnline,
    /// No guest is entered after a fault.
    NoGuestAfterFault,
    /// When the memory goes, no callback is left, and none was taken back that was not registered.
    NothingStaysRegistered,
    /// Registers are compared each time that we have given a CPU back, and only where the stub can read them.
    ImageIsCompared,
}

impl Rule {
    /// As a test is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MemoryOutlivesHyp => "memory_outlives_hyp",
            Self::NoneLostInHyp => "none_loses_power_in_hyp",
            Self::NoneInHypAfterShutdown => "none_in_hyp_after_shutdown_or_kexec",
            Self::GuestsInHypOnly => "guests_run_in_hyp_only",
            Self::LoadIsAllOrNothing => "load_is_all_or_nothing",
            Self::ClosedMeansClosed => "nobody_comes_up_after_a_fault",
            Self::NapsEndInHyp => "naps_end_in_hyp",
            Self::ImageIsClean => "image_is_clean_when_entered",
            Self::WaysOfTheTable => "states_follow_the_table",
            Self::BooksBalance => "inits_and_resets_balance",
            Self::GoneUntilOnline => "stub_calls_are_respected",
            Self::NoGuestAfterFault => "no_guest_runs_after_a_fault",
            Self::NothingStaysRegistered => "nothing_stays_registered",
            Self::ImageIsCompared => "image_is_compared_when_given_back",
        }
    }

    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::MemoryOutlivesHyp,
        Self::NoneLostInHyp,
        Self::NoneInHypAfterShutdown,
        Self::GuestsInHypOnly,
        Self::LoadIsAllOrNothing,
        Self::ClosedMeansClosed,
        Self::NapsEndInHyp,
        Self::ImageIsClean,
        Self::WaysOfTheTable,
        Self::BooksBalance,
        Self::GoneUntilOnline,
        Self::NoGuestAfterFault,
        Self::NothingStaysRegistered,
        Self::ImageIsCompared,
    ];
}

impl World {
    /// A machine with `cpus` CPUs, all at the stub, or with the module loaded and all CPUs in Hyp.
    pub fn new(cpus: usize, loaded: bool) -> Self {
        let (el2, state, memory) = if loaded {
            (El2::Ours, State::Hyp, Memory::Live)
        } else {
            (El2::Stub, State::Stub, Memory::Free)
        };
        Self {
            cpus: vec![
                Cpu {
                    online: true,
                    el2,
                    state,
                    napping: false,
                    was_hyp: false,
                    booked: i8::from(loaded),
                    gone: false,
                    stuck: false,
                    kept: loaded,
                    due: false,
                    guest: false,
                    running: None,
                    posted: [None; 5],
                };
                cpus
            ],
            gate: Gate::OPEN,
            stale: false,
            clean: loaded,
            memory,
            stages: [loaded; Stage::ALL.len()],
            loaded,
            vms: 0,
            hotplug_lock: None,
            syscore_lock: None,
            processes: [const { None }; 5],
            results: [0; 5],
            frozen: false,
            alone: false,
            going_down: false,
            closed: false,
            failed: false,
            owed: false,
            ended: false,
            faults: 1,
            starts: 0,
            naps: 0,
            broken: None,
        }
    }

    /// The same with `cpu` offline.
    pub fn without(mut self, cpu: usize) -> Self {
        self.cpus[cpu].online = false;
        self.cpus[cpu].give_up();
        self.cpus[cpu].state = State::Stub;
        self.cpus[cpu].booked = 0;
        self
    }

    /// Notes that `rule` was broken; the first one stays.
    pub fn break_rule(&mut self, rule: Rule) {
        self.broken.get_or_insert(rule);
    }

    /// A CPU loses its power.
    pub fn power_off(&mut self, cpu: usize) {
        if self.cpus[cpu].is_up() {
            self.break_rule(Rule::NoneLostInHyp);
        }
        self.cpus[cpu].give_up();
        self.cpus[cpu].stuck = false;
    }

    /// Whether nothing is under way.
    pub fn is_quiet(&self) -> bool {
        self.processes.iter().all(Option::is_none) && self.cpus.iter().all(Cpu::is_idle)
    }

    /// What holds between steps, whatever the steps were.
    pub fn look(&mut self) {
        let in_use = self.cpus.iter().any(|cpu| cpu.el2 == El2::Ours);
        let up = self.cpus.iter().any(Cpu::is_up);
        if in_use && self.memory == Memory::Free {
            self.break_rule(Rule::MemoryOutlivesHyp);
        }
        let guest_elsewhere =
            |cpu: &Cpu| cpu.guest && (cpu.el2 != El2::Ours || cpu.state != State::Hyp);
        if self.cpus.iter().any(guest_elsewhere) {
            self.break_rule(Rule::GuestsInHypOnly);
        }
        if self.memory != Memory::Free && !self.cpus.iter().all(Cpu::balances) {
            self.break_rule(Rule::BooksBalance);
        }
        if self.closed && up {
            self.break_rule(Rule::NoneInHypAfterShutdown);
        }
        let settled = self.failed && (self.owed || !self.gate.is_unsettled());
        if settled && up && self.is_quiet() {
            self.break_rule(Rule::ClosedMeansClosed);
        }
    }

    /// Whether a panic now leaves `cpu` to the crash kernel with the stub as it was, when it is asked for by SOFT_RESTART.
    ///
    /// Our EL2 answers by the way back, which needs its memory, reads it with the MMU off, and ends with the registers that
    /// were kept. That it answers at all is not asked here (see the crate). An EL2 that has not let itself be reset before
    /// lets nobody have it.
    pub fn leads_home(&self, cpu: usize) -> bool {
        let Cpu {
            el2, stuck, kept, ..
        } = self.cpus[cpu];
        el2 == El2::Stub || stuck || kept && self.clean && self.memory != Memory::Free
    }
}
