// SPDX-License-Identifier: GPL-2.0-only

//! The model: what can happen next.

use std::{
    collections::HashSet,
    ops::ControlFlow, //
};

use eltwo::common::lifecycle::{
    Hook,
    Stage,
    State, //
};
use stateright::{
    Checker,
    Model,
    Property, //
};

use crate::{
    cpu, kernel,
    mutant::Mutant,
    replay::{
        self,
        Outcome,
        Who, //
    },
    world::{
        El2,
        Op,
        Rule,
        Running,
        Section,
        Slot,
        Thread,
        World, //
    },
};

/// Name of the property that everything that has begun comes to its end: at every moment a part of it can go on, and each has a
/// limited number of steps.
pub const DEADLOCK: &str = "every operation ends";

/// Name of the property that a crash kernel gets EL2 at any moment, if our EL2 answers the call (see the crate).
pub const CRASH: &str = "a crash at any moment finds the stub";

/// What can happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// A process starts.
    Start(Slot, Op),
    /// A process takes a step.
    Process(Slot, u8),
    /// A CPU begins with what a process wants of it.
    Take(usize, Slot),
    /// A CPU takes a step of its section.
    Cpu(usize, u8),
    /// A CPU begins to sleep: CPU_PM_ENTER.
    Nap(usize),
    /// A CPU wakes up: CPU_PM_EXIT.
    Wake(usize),
    /// The kernel makes a stub call that gives the CPU back: 0, 1 or 2.
    StubCall(usize),
}

/// The life cycle of a machine.
#[derive(Clone, Debug)]
pub struct Life {
    /// Where it begins.
    pub begin: Vec<World>,
    /// The only processes that start, in this order; else all, in any order.
    pub script: Option<Vec<Op>>,
    /// The seeded bug.
    pub mutant: Mutant,
}

/// The place where a process is.
pub fn slot_of(op: Op) -> &'static [Slot] {
    match op {
        Op::Load | Op::Unload => &[Slot::Loader],
        Op::Offline(_) | Op::Online(_) => &[Slot::Hotplug],
        Op::Suspend | Op::Reboot | Op::Kexec => &[Slot::Power],
        Op::Vm(_) | Op::Call(_) | Op::Fault(_) | Op::Nap(_) | Op::StubCall(_) | Op::Look => {
            &[Slot::UserA, Slot::UserB]
        }
    }
}

impl Life {
    /// Whether Linux would let `op` start now.
    fn can_start(world: &World, op: Op) -> bool {
        let idle = |slot: Slot| world.processes[slot as usize].is_none();
        match op {
            // These are no processes.
            Op::Nap(cpu) => Self::can_nap(world, cpu.into()),
            Op::StubCall(cpu) => Self::can_stub_call(world, cpu.into()),
            _ if world.frozen => false,
            Op::Load => world.memory == crate::world::Memory::Free,
            Op::Unload => world.loaded && world.vms == 0,
            Op::Offline(cpu) => world.cpus[usize::from(cpu)].online && !world.going_down,
            Op::Online(cpu) => !world.cpus[usize::from(cpu)].online && !world.going_down,
            // Processes are frozen where they wait for nothing.
            Op::Suspend => {
                let busy = [Slot::Loader, Slot::Hotplug, Slot::UserA, Slot::UserB];
                busy.into_iter().all(idle) && !world.going_down && world.cpus[0].online
            }
            Op::Reboot | Op::Kexec => !world.going_down,
            Op::Vm(cpu) | Op::Call(cpu) | Op::Fault(cpu) => {
                world.loaded && world.cpus[usize::from(cpu)].online
            }
            Op::Look => world.loaded,
        }
    }

    /// Whether a CPU can begin to sleep.
    fn can_nap(world: &World, at: usize) -> bool {
        Self::is_free(world, at)
    }

    /// Whether a stub call can take a CPU from us. As with refusals, insmod would not know of it while it is under way.
    fn can_stub_call(world: &World, at: usize) -> bool {
        let cpu = &world.cpus[at];
        let ours = cpu.el2 == El2::Ours && !cpu.stuck;
        let loader = world.processes[Slot::Loader as usize].as_ref();
        let loading = loader.is_some_and(|process| process.what == Op::Load);
        ours && !loading && Self::is_free(world, at)
    }

    /// Whether a CPU does what it likes.
    fn is_free(world: &World, at: usize) -> bool {
        let cpu = &world.cpus[at];
        let idles = cpu.online && cpu.running.is_none() && !cpu.napping;
        idles && !(at == 0 && world.alone)
    }

    fn starts(&self, world: &World, actions: &mut Vec<Action>) {
        let all;
        let ops = match &self.script {
            // Each one when the one before it has started.
            Some(script) => {
                let left = usize::from(world.starts);
                let next = script.len().saturating_sub(left);
                script
                    .get(next..(next + 1).min(script.len()))
                    .unwrap_or(&[])
            }
            None => {
                let mut ops = vec![
                    Op::Load,
                    Op::Unload,
                    Op::Suspend,
                    Op::Reboot,
                    Op::Kexec,
                    Op::Look,
                ];
                for cpu in 0..world.cpus.len() as u8 {
                    ops.extend([Op::Vm(cpu), Op::Call(cpu)]);
                    if cpu != 0 {
                        ops.extend([Op::Offline(cpu), Op::Online(cpu)]);
                    }
                }
                all = ops;
                all.as_slice()
            }
        };
        if world.starts == 0 {
            return;
        }
        for op in ops.iter().filter(|op| Self::can_start(world, **op)) {
            let free = |slot: &&Slot| world.processes[**slot as usize].is_none();
            if let Some(slot) = slot_of(*op).iter().find(free) {
                actions.push(Action::Start(*slot, *op));
            }
        }
    }

    /// What ends something that has begun.
    fn progress(&self, world: &World, actions: &mut Vec<Action>) {
        for slot in Slot::ALL {
            if let Some(thread) = &world.processes[slot as usize] {
                actions.extend((0..thread.choices).map(|choice| Action::Process(slot, choice)));
            }
        }
        for (at, cpu) in world.cpus.iter().enumerate() {
            if let Some(running) = &cpu.running {
                let choices = 0..running.thread.choices;
                actions.extend(choices.map(|choice| Action::Cpu(at, choice)));
            } else if cpu.napping {
                actions.push(Action::Wake(at));
            } else {
                let posted = Slot::ALL
                    .into_iter()
                    .filter(|slot| cpu.posted[*slot as usize].is_some());
                actions.extend(posted.map(|slot| Action::Take(at, slot)));
            }
        }
    }

    /// Whether something that has begun can go on, or nothing has.
    fn moves(&self, world: &World) -> bool {
        if world.ended || world.is_quiet() {
            return true;
        }
        let mut actions = Vec::new();
        self.progress(world, &mut actions);
        actions
            .into_iter()
            .any(|action| self.next_state(world, action).is_some())
    }

    fn step_process(&self, world: &mut World, slot: Slot, how: (bool, u8)) -> Option<()> {
        let Thread {
            what, mut answers, ..
        } = world.processes[slot as usize].take()?;
        let outcome = replay::step(
            world,
            &mut answers,
            Who::Process(slot),
            self.mutant,
            how,
            |replay| kernel::process(replay, what),
        )?;
        world.processes[slot as usize] = match outcome {
            Outcome::Paused(choices) => Some(Thread {
                what,
                answers,
                choices,
            }),
            Outcome::Ended => None,
        };
        Some(())
    }

    fn begin_section(
        &self,
        world: &mut World,
        cpu: usize,
        what: Section,
        by: Option<Slot>,
    ) -> Option<()> {
        world.cpus[cpu].running = Some(Running {
            thread: Thread {
                what,
                answers: Vec::new(),
                choices: 1,
            },
            by,
            began_closed: world.failed || world.gate.is_closed(),
            began_failed: world.failed,
        });
        world.cpus[cpu].gone &= what != Section::Tell(Hook::Up);
        self.step_section(world, cpu, (true, 0))
    }

    fn step_section(&self, world: &mut World, cpu: usize, how: (bool, u8)) -> Option<()> {
        let mut running = world.cpus[cpu].running.clone()?;
        let (what, mut result) = (running.thread.what, 0);
        let outcome = replay::step(
            world,
            &mut running.thread.answers,
            Who::Cpu(cpu),
            self.mutant,
            how,
            |replay| result = cpu::section(replay, what),
        )?;
        if let Outcome::Paused(choices) = outcome {
            running.thread.choices = choices;
            world.cpus[cpu].running = Some(running);
            return Some(());
        }
        world.cpus[cpu].running = None;
        if std::mem::take(&mut world.cpus[cpu].due) {
            world.break_rule(Rule::ImageIsCompared);
        }
        if let Some(slot) = running.by {
            world.results[slot as usize] = result;
        }
        let faulted = world.cpus[cpu].state == State::Faulted;
        world.failed |= faulted;
        // Nobody can do more where interrupts are off: in a nap, and in system suspend.
        world.owed |= faulted && !running.began_failed && running.by.is_some() && !world.alone;
        self.end_section(world, cpu, what, running.by);
        Some(())
    }

    fn end_section(&self, world: &mut World, cpu: usize, what: Section, by: Option<Slot>) {
        match what {
            // The kernel takes the power away.
            Section::Tell(Hook::Nap) if by.is_none() => {
                world.power_off(cpu);
                world.cpus[cpu].napping = true;
            }
            Section::Tell(Hook::Wake) if by.is_none() => {
                let cpu = &mut world.cpus[cpu];
                let tried = matches!(cpu.state, State::Hyp | State::Refused | State::Faulted);
                let lost = cpu.was_hyp && !tried;
                cpu.was_hyp = false;
                if lost && !world.gate.is_closed() {
                    world.break_rule(Rule::NapsEndInHyp);
                }
            }
            _ => {}
        }
    }

    fn nap(&self, world: &mut World, cpu: usize) -> Option<()> {
        let ours = world.cpus[cpu].el2 == El2::Ours;
        world.cpus[cpu].was_hyp = ours && world.cpus[cpu].state == State::Hyp;
        if !is_told(world) {
            world.cpus[cpu].was_hyp = false;
            world.power_off(cpu);
            world.cpus[cpu].napping = true;
            return Some(());
        }
        self.begin_section(world, cpu, Section::Tell(Hook::Nap), None)
    }

    fn start(&self, world: &mut World, slot: Slot, op: Op) -> Option<()> {
        world.starts -= 1;
        match op {
            Op::Nap(cpu) => return self.nap(world, cpu.into()),
            Op::StubCall(cpu) => {
                world.cpus[usize::from(cpu)].give_back();
                return Some(());
            }
            Op::Unload => world.loaded = false,
            // Each holds a reference to the module.
            Op::Vm(_) | Op::Call(_) | Op::Fault(_) | Op::Look => world.vms += 1,
            Op::Suspend => world.frozen = true,
            _ => {}
        }
        world.processes[slot as usize] = Some(Thread {
            what: op,
            answers: Vec::new(),
            choices: 1,
        });
        self.step_process(world, slot, (true, 0))
    }
}

/// Whether CPU PM tells us.
fn is_told(world: &World) -> bool {
    world.stages[Stage::CpuPm as usize] && world.stages[Stage::Published as usize]
}

impl Model for Life {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        self.begin.clone()
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.ended || world.broken.is_some() {
            return;
        }
        self.starts(world, actions);
        self.progress(world, actions);
        let naps =
            (0..world.cpus.len()).filter(|cpu| world.naps != 0 && Self::can_nap(world, *cpu));
        actions.extend(naps.map(Action::Nap));
        let calls = (0..world.cpus.len())
            .filter(|cpu| world.faults != 0 && Self::can_stub_call(world, *cpu));
        actions.extend(calls.map(Action::StubCall));
    }

    fn next_state(&self, before: &World, action: Action) -> Option<World> {
        let mut world = before.clone();
        let done = match action {
            Action::Start(slot, op) => self.start(&mut world, slot, op),
            Action::Process(slot, choice) => self.step_process(&mut world, slot, (false, choice)),
            Action::Take(cpu, slot) => {
                let what = world.cpus[cpu].posted[slot as usize].take()?;
                self.begin_section(&mut world, cpu, what, Some(slot))
            }
            Action::Cpu(cpu, choice) => self.step_section(&mut world, cpu, (false, choice)),
            Action::Nap(cpu) => {
                world.naps -= 1;
                self.nap(&mut world, cpu)
            }
            Action::StubCall(cpu) => {
                world.faults -= 1;
                world.cpus[cpu].give_back();
                Some(())
            }
            Action::Wake(cpu) => {
                world.cpus[cpu].napping = false;
                if is_told(&world) {
                    self.begin_section(&mut world, cpu, Section::Tell(Hook::Wake), None)
                } else {
                    Some(())
                }
            }
        };
        done?;
        world.look();
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no rule is broken", |_, world: &World| {
                world.broken.is_none()
            }),
            Property::always(DEADLOCK, |life: &Life, world: &World| life.moves(world)),
            Property::always(CRASH, |_, world: &World| {
                (0..world.cpus.len()).all(|cpu| world.leads_home(cpu))
            }),
        ]
    }
}

/// What the checker has found.
#[derive(Debug)]
pub struct Findings {
    /// Different states.
    pub states: usize,
    /// Properties that do not hold, each with the way to where it does not.
    pub broken: Vec<String>,
    /// The rule that was broken, if one was.
    pub rule: Option<Rule>,
}

/// Walks through everything that can happen.
pub fn explore(life: &Life) -> Findings {
    let checker = life.clone().checker().threads(2).spawn_bfs().join();
    let mut rule = None;
    let mut broken = Vec::new();
    for (name, path) in checker.discoveries() {
        let last = path.last_state().clone();
        rule = rule.or(last.broken);
        let steps: Vec<String> = path
            .into_actions()
            .iter()
            .map(|action| format!("{action:?}"))
            .collect();
        broken.push(format!("{name} ({:?}): {}", last.broken, steps.join(", ")));
    }
    Findings {
        states: checker.unique_state_count(),
        broken,
        rule,
    }
}

/// Visits every state in which nothing is under way, and nothing more can start. Breaks off where a property does not hold.
pub fn for_each_end(life: &Life, mut visit: impl FnMut(&World)) -> ControlFlow<World> {
    let mut seen = HashSet::new();
    let mut todo = life.init_states();
    while let Some(world) = todo.pop() {
        if !seen.insert(world.clone()) {
            continue;
        }
        if world.broken.is_some() || !life.moves(&world) {
            return ControlFlow::Break(world);
        }
        let mut actions = Vec::new();
        life.actions(&world, &mut actions);
        if actions.is_empty() {
            visit(&world);
        }
        let next = |action| life.next_state(&world, action);
        todo.extend(actions.into_iter().filter_map(next));
    }
    ControlFlow::Continue(())
}
