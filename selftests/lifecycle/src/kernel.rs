// SPDX-License-Identifier: GPL-2.0-only

//! The simulated kernel: what it does around the life cycle: hotplug, insmod, suspend, shutdown, as Linux 7.2 does it.

use eltwo::common::lifecycle::{
    service,
    Done,
    Gate,
    Hook,
    Loader,
    Machine,
    Stage,
    State,
    Trouble, //
};

use crate::{
    cpu::{
        trouble,
        FAULT,
        REFUSED,
        WELL, //
    },
    mutant::Mutant,
    replay::Replay,
    world::{
        Memory,
        Op,
        Rule,
        Section,
        Slot,
        World, //
    },
};

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

    /// Whether the callbacks of a stage are called, and find the service.
    fn is_told(&self, stage: Stage) -> bool {
        self.local(|world| {
            let published = world.stages[Stage::Published as usize];
            (published && world.stages[stage as usize]).into()
        }) != 0
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
        replay.local(|world| {
            if !world.stages[stage as usize] {
                world.break_rule(Rule::NothingStaysRegistered);
            }
            0
        });
        match stage {
            Stage::Hotplug => {
                replay.lock();
                for cpu in (0..replay.count()).filter(|cpu| replay.is_online(*cpu)) {
                    if replay.mutant != Mutant::FreeWhileUp && replay.is_told(stage) {
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
        world.owed = false;
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
    if replay.is_told(Stage::Hotplug) {
        let _ = service::offline(replay, cpu as u32);
    }
    power_off(replay, cpu);
}

fn bring_online(replay: &Replay<'_>, cpu: usize) {
    replay.shared(|world| {
        world.cpus[cpu].online = true;
        0
    });
    if replay.is_told(Stage::Hotplug) && service::online(replay, cpu as u32).is_err() {
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
    let told = replay.is_told(Stage::Syscore);
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
    if replay.is_told(Stage::Syscore) {
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
    replay.wait(
        |world| world.cpus[0].running.is_none() && !world.cpus[0].napping,
        |world| {
            if !world.leads_home(0) {
                world.break_rule(Rule::NoneInHypAfterShutdown);
            }
            world.cpus[0].give_up();
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
