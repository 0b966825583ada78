// SPDX-License-Identifier: GPL-2.0-only

//! The simulated kernel: what it does around the life cycle (hotplug, insmod, suspend, shutdown, as `el2-facts` has it from
//! Linux 7.2), and what the hardware answers.

use eltwo::common::lifecycle::{
    self,
    service,
    Comparison,
    Done,
    Gate,
    Here,
    Hook,
    Loader,
    Machine,
    Stage,
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
        Op,
        Rule,
        Section,
        Slot,
        World, //
    },
};

/// Answers of what can go wrong.
const WELL: u8 = 0;
const FAULT: u8 = 1;
const REFUSED: u8 = 2;
const GONE: u8 = 3;

fn trouble(answer: u8) -> Result<(), Trouble> {
    match answer {
        WELL => Ok(()),
        FAULT => Err(Trouble::Fault),
        GONE => Err(Trouble::Gone),
        _ => Err(Trouble::Injected),
    }
}

/// The CPU takes an exception at EL2, if one may still come.
fn take_fault(world: &mut World, cpu: usize) -> Option<u8> {
    world.faults = world.faults.checked_sub(1)?;
    world.cpus[cpu].el2 = El2::Stub;
    Some(FAULT)
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

    fn slot(&self) -> Slot {
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

    fn get_gate(&self) -> Gate {
        Gate::from_bits(self.shared(|world| world.gate.bits() as u8).into())
    }

    fn raise_gate(&self, what: Gate) {
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
                0 => Some(WELL),
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
                    _ => GONE,
                }
            }),
            0 => {
                world.cpus[cpu].el2 = El2::Stub;
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
            _ => None,
        });
        match answer {
            REFUSED => Err(Trouble::NotReset(1)),
            answer => trouble(answer),
        }
    }

    fn stub_owns_el2(&self) -> bool {
        let cpu = self.cpu();
        self.local(|world| (world.cpus[cpu].el2 == El2::Stub).into()) != 0
    }

    fn compare(&self, _how: Comparison) {}

    fn advance(&self, event: lifecycle::Event) -> Result<(), Trouble> {
        let state = Here::state(self);
        match state.after(event) {
            Some(next) => {
                self.set_state(next);
                Ok(())
            }
            None => {
                self.local(|world| {
                    world.break_rule(Rule::WaysOfTheTable);
                    0
                });
                Err(Trouble::Order { state, event })
            }
        }
    }
}

/// A process, on any CPU.
impl Machine for Replay<'_> {
    fn gate(&self) -> Gate {
        self.get_gate()
    }

    fn raise(&self, what: Gate) {
        if self.mutant != Mutant::NoClosing || what != Gate::CLOSED {
            self.raise_gate(what);
        }
    }

    fn lower(&self, what: Gate) -> Gate {
        let before = self.shared(|world| {
            let before = world.gate.bits();
            world.gate = Gate::from_bits(before & !what.bits());
            before as u8
        });
        Gate::from_bits(before.into())
    }

    fn tell(&self, cpu: u32, hook: Hook) -> Option<Result<Done, Trouble>> {
        if self.mutant == Mutant::LockInCallback {
            self.lock();
        }
        let answer = self.post(cpu as usize, Section::Tell(hook));
        if self.mutant == Mutant::LockInCallback {
            self.unlock();
        }
        Some(trouble(answer).map(|()| Done::Moved))
    }

    fn tell_all(&self, hook: Hook) {
        if self.mutant == Mutant::NoSettling && self.slot() != Slot::Power {
            return;
        }
        let (slot, skip) = (
            self.slot() as usize,
            usize::from(self.mutant == Mutant::SkipLast),
        );
        self.shared(|world| {
            let count = world.cpus.len() - skip;
            for cpu in world.cpus[..count].iter_mut().filter(|cpu| cpu.online) {
                cpu.posted[slot] = Some(Section::Tell(hook));
            }
            0
        });
        self.wait(|world| is_done(world, self.slot()), |_| {});
    }

    fn report(&self) {}
}

/// Whether every CPU has done what the process wanted of it.
fn is_done(world: &World, slot: Slot) -> bool {
    world.cpus.iter().all(|cpu| {
        let running = cpu.running.as_ref();
        cpu.posted[slot as usize].is_none()
            && running.is_none_or(|running| running.by != Some(slot))
    })
}

impl Replay<'_> {
    /// Has `cpu` do `section`, and waits for its answer.
    fn post(&self, cpu: usize, section: Section) -> u8 {
        let slot = self.slot() as usize;
        self.shared(|world| {
            if world.cpus[cpu].online {
                world.cpus[cpu].posted[slot] = Some(section);
            } else {
                world.results[slot] = REFUSED;
            }
            0
        });
        self.choose_from(1, |world, _| {
            is_done(world, self.slot()).then(|| world.results[slot])
        })
    }

    fn lock(&self) {
        let slot = self.slot();
        self.wait(
            |world| world.hotplug_lock.is_none(),
            |world| world.hotplug_lock = Some(slot),
        );
    }

    fn unlock(&self) {
        self.shared(|world| {
            world.hotplug_lock = None;
            0
        });
    }

    fn count(&self) -> usize {
        usize::from(self.local(|world| world.cpus.len() as u8))
    }

    fn has_hotplug(&self) -> bool {
        self.local(|world| world.stages[Stage::Hotplug as usize].into()) != 0
    }

    fn is_online(&self, cpu: usize) -> bool {
        self.local(|world| world.cpus[cpu].online.into()) != 0
    }
}

/// insmod and rmmod.
struct Module<'a, 'b>(&'a Replay<'b>);

impl Loader for Module<'_, '_> {
    type Error = ();

    fn enter(&mut self, stage: Stage) -> Result<(), ()> {
        let replay = self.0;
        // It finds no memory, or somebody else there.
        let refused = replay.choose_from(2, |world, choice| match choice {
            0 => Some(WELL),
            _ if stage == Stage::Published => None,
            _ => {
                world.faults = world.faults.checked_sub(1)?;
                Some(REFUSED)
            }
        });
        if refused != WELL {
            return Err(());
        }
        match stage {
            Stage::Hotplug => return self.bring_all_up(),
            Stage::Syscore => replay.wait(
                |world| world.syscore_lock.is_none(),
                |world| world.stages[stage as usize] = true,
            ),
            Stage::Published | Stage::CpuPm => {
                replay.shared(|world| {
                    world.stages[stage as usize] = true;
                    0
                });
            }
        }
        Ok(())
    }

    fn leave(&mut self, stage: Stage) {
        let replay = self.0;
        match stage {
            Stage::Hotplug => {
                replay.lock();
                for cpu in (0..replay.count()).filter(|cpu| replay.is_online(*cpu)) {
                    if replay.mutant != Mutant::FreeWhileUp {
                        let _ = service::offline(replay, cpu as u32);
                    }
                }
                replay.shared(|world| {
                    world.stages[stage as usize] = false;
                    world.hotplug_lock = None;
                    0
                });
            }
            Stage::Syscore => replay.wait(
                |world| world.syscore_lock.is_none(),
                |world| world.stages[stage as usize] = false,
            ),
            Stage::CpuPm => {
                replay.shared(|world| {
                    world.stages[stage as usize] = replay.mutant == Mutant::NoUnregistering;
                    0
                });
                // synchronize_rcu: the chain is walked under RCU.
                replay.wait(
                    |world| world.cpus.iter().all(|cpu| !is_in_chain(cpu)),
                    |_| {},
                );
            }
            Stage::Published => {
                replay.shared(|world| {
                    world.stages[stage as usize] = false;
                    0
                });
            }
        }
    }

    /// If all is well, the module counts as loaded from this very look.
    fn still_open(&self) -> Result<(), ()> {
        let blind = self.0.mutant == Mutant::NoLastLook;
        let open = self.0.shared(|world| {
            let open = !world.going_down && !world.gate.is_closed();
            world.loaded = open || blind;
            let up = |state| matches!(state, State::Hyp | State::Asleep | State::Boot);
            let mut online = world.cpus.iter().filter(|cpu| cpu.online);
            // Who has the lock may be taking a CPU away, or another one online, which is no matter of insmod's.
            let hotplug = world.hotplug_lock.is_some();
            if world.loaded && !hotplug && !online.all(|cpu| up(cpu.state)) {
                world.break_rule(Rule::LoadIsAllOrNothing);
            }
            world.loaded.into()
        });
        (open != 0).then_some(()).ok_or(())
    }
}

/// Whether the CPU walks the chain of CPU PM.
fn is_in_chain(cpu: &crate::world::Cpu) -> bool {
    cpu.running.as_ref().is_some_and(|running| {
        running.by.is_none() && matches!(running.thread.what, Section::Tell(_))
    })
}

impl Module<'_, '_> {
    /// `__cpuhp_setup_state`: the startup on every CPU, and the teardown on those done if one refuses.
    fn bring_all_up(&mut self) -> Result<(), ()> {
        let replay = self.0;
        replay.lock();
        let online: Vec<usize> = (0..replay.count())
            .filter(|cpu| replay.is_online(*cpu))
            .collect();
        for (done, cpu) in online.iter().enumerate() {
            if service::online(replay, *cpu as u32).is_ok() {
                continue;
            }
            for cpu in online[..done].iter().rev() {
                if replay.mutant != Mutant::NoRollback {
                    let _ = service::offline(replay, *cpu as u32);
                }
            }
            replay.unlock();
            return Err(());
        }
        replay.shared(|world| {
            world.stages[Stage::Hotplug as usize] = true;
            world.hotplug_lock = None;
            0
        });
        Ok(())
    }
}

/// The module's memory goes back to the kernel, unless some EL2 still needs it.
fn free(world: &mut World) -> u8 {
    if world.stages.contains(&true) {
        world.break_rule(Rule::NothingStaysRegistered);
    }
    if world.memory == Memory::Live {
        world.memory = Memory::Free;
    }
    0
}

fn load(replay: &Replay<'_>) {
    replay.shared(|world| {
        world.memory = Memory::Live;
        world.clean = true;
        world.stale = false;
        world.gate = Gate::OPEN;
        world.closed = false;
        world.failed = false;
        for cpu in &mut world.cpus {
            cpu.state = State::Stub;
            cpu.was_hyp = false;
            cpu.booked = 0;
            cpu.gone = false;
        }
        0
    });
    if service::load(&mut Module(replay)).is_err() {
        replay.shared(free);
    }
}

fn unload(replay: &Replay<'_>) {
    service::unload(&mut Module(replay));
    replay.shared(free);
}

/// The rest of a CPU's way off: nothing may be left on it.
fn power_off(replay: &Replay<'_>, cpu: usize) {
    replay.wait(
        |world| world.cpus[cpu].is_idle() && !world.cpus[cpu].napping,
        |world| {
            world.cpus[cpu].online = false;
            world.power_off(cpu);
        },
    );
}

fn take_offline(replay: &Replay<'_>, cpu: usize) {
    if replay.has_hotplug() {
        let _ = service::offline(replay, cpu as u32);
    }
    power_off(replay, cpu);
}

fn bring_online(replay: &Replay<'_>, cpu: usize) {
    replay.shared(|world| {
        world.cpus[cpu].online = true;
        0
    });
    if replay.has_hotplug() && service::online(replay, cpu as u32).is_err() {
        power_off(replay, cpu);
    }
}

/// Suspend to RAM or hibernation: the others go offline, and CPU 0 loses its power between the hooks. cpu_pm has hooks of its own
/// among the system-wide ones, so CPU 0 is told twice.
fn suspend(replay: &Replay<'_>) {
    replay.lock();
    let others: Vec<usize> = (1..replay.count())
        .filter(|cpu| replay.is_online(*cpu))
        .collect();
    for cpu in &others {
        take_offline(replay, *cpu);
    }
    let told = replay.local(|world| world.stages[Stage::Syscore as usize].into()) != 0;
    // From here on CPU 0 has its interrupts off.
    replay.wait(
        |world| world.cpus[0].is_idle() && !world.cpus[0].napping,
        |world| {
            world.alone = true;
            world.stale |= told;
        },
    );
    if told {
        replay.post(0, Section::Tell(Hook::Nap));
        replay.post(0, Section::Tell(Hook::Nap));
    }
    replay.choose_from(2, |world, choice| {
        world.power_off(0);
        // Hibernation restores pages that are clean to the PoU only.
        world.clean &= choice == 0;
        Some(0)
    });
    if told {
        replay.post(0, Section::Tell(Hook::Wake));
        replay.post(0, Section::Tell(Hook::Wake));
    }
    replay.shared(|world| {
        world.alone = false;
        0
    });
    for cpu in &others {
        bring_online(replay, *cpu);
    }
    replay.shared(|world| {
        world.hotplug_lock = None;
        world.frozen = false;
        0
    });
}

fn shut_down(replay: &Replay<'_>, kexec: bool) {
    let slot = replay.slot();
    replay.shared(|world| {
        world.going_down = true;
        0
    });
    replay.wait(
        |world| world.syscore_lock.is_none() && world.processes[Slot::Hotplug as usize].is_none(),
        |world| world.syscore_lock = Some(slot),
    );
    if replay.local(|world| world.stages[Stage::Syscore as usize].into()) != 0 {
        service::close(replay);
        replay.shared(|world| {
            world.closed = true;
            0
        });
    }
    replay.shared(|world| {
        world.syscore_lock = None;
        0
    });
    if !kexec {
        return;
    }
    replay.lock();
    for cpu in (1..replay.count()).filter(|cpu| replay.is_online(*cpu)) {
        take_offline(replay, cpu);
    }
    replay.unlock();
    // machine_kexec: SOFT_RESTART on the last CPU, whoever owns its EL2.
    let mute = replay.mutant == Mutant::MuteVectors;
    replay.wait(
        |world| world.cpus[0].running.is_none() && !world.cpus[0].napping,
        |world| {
            if world.crash(0, mute) == El2::Ours {
                world.break_rule(Rule::NoneInHypAfterShutdown);
            }
            world.cpus[0].el2 = El2::Stub;
            world.ended = true;
        },
    );
}

/// What KVM_RUN and the other ioctls do about an exception at EL2.
fn use_cpu(replay: &Replay<'_>, cpu: usize, section: Section) {
    if replay.post(cpu, section) == FAULT {
        service::settle(replay);
    }
}

/// A process.
pub fn process(replay: &Replay<'_>, op: Op) {
    match op {
        Op::Load => load(replay),
        Op::Unload => unload(replay),
        Op::Offline(cpu) => {
            replay.lock();
            take_offline(replay, cpu.into());
            replay.unlock();
        }
        Op::Online(cpu) => {
            replay.lock();
            bring_online(replay, cpu.into());
            replay.unlock();
        }
        Op::Suspend => suspend(replay),
        Op::Reboot => shut_down(replay, false),
        Op::Kexec => shut_down(replay, true),
        Op::Vm(cpu) => {
            use_cpu(replay, cpu.into(), Section::Run);
            replay.shared(|world| {
                world.vms -= 1;
                0
            });
        }
        Op::Call(cpu) | Op::Fault(cpu) => {
            let fault = matches!(op, Op::Fault(_));
            let section = if fault {
                Section::Provoke
            } else {
                Section::Call
            };
            use_cpu(replay, cpu.into(), section);
            replay.shared(|world| {
                world.vms -= 1;
                0
            });
        }
        Op::Nap(_) | Op::StubCall(_) => {}
        Op::Look => {
            service::settle(replay);
            replay.shared(|world| {
                world.vms -= 1;
                0
            });
        }
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
                _ if world.cpus[cpu].el2 == El2::Stub => (choice == 0).then_some(GONE),
                (Section::Provoke, 0) => {
                    world.cpus[cpu].el2 = El2::Stub;
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
                    return GONE;
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
