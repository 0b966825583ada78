// SPDX-License-Identifier: GPL-2.0-only

//! What happens in a soak, in an order that a seed decides.

pub mod orders;
pub mod random;
pub mod stock;
pub mod troop;

use std::{
    fmt::{
        self,
        Display, //
    },
    fs,
    sync::atomic::{
        AtomicBool,
        AtomicU64,
        Ordering::Relaxed, //
    },
    thread,
    time::{
        Duration,
        Instant, //
    },
};

use anyhow::{
    bail,
    Context,
    Result, //
};
use nix::sys::signal::Signal;

use crate::{
    guest::{
        cpu,
        fault,
        module,
        poll, //
    },
    hooks::{
        model::State,
        table,
        world::{
            Ground,
            Look,
            World, //
        },
    },
};

use random::Random;
use troop::{
    Troop,
    MOST_VMS, //
};

/// How long rmmod may be put off by what is being closed.
const RMMOD_LIMIT: Duration = Duration::from_secs(20);
/// Hooks of one CPU, of which one is taken at random: CPU PM, and calls of the kernel's stub.
const NAPS: [&str; 4] = ["cpu_pm", "cpu_pm_failed", "cpu_pm_nested", "cluster_pm"];
const STUB_CALLS: [&str; 6] = [
    "stub_0",
    "stub_1",
    "stub_2",
    "stub_3",
    "stub_4",
    "stub_unknown",
];
/// Steps after which the machine is looked at closely.
const CLOSE_LOOK: u64 = 16;

/// What has been done.
#[derive(Default)]
pub struct Counts {
    /// insmod, each followed by an rmmod.
    pub loads: u64,
    /// CPUs that went or came.
    pub transitions: AtomicU64,
    naps: u64,
    stub_calls: u64,
    faults: u64,
    sleeps: u64,
    /// VMs that were started.
    pub vms: u64,
    signals: u64,
    hogs: u64,
    /// All steps.
    pub steps: u64,
}

impl Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} steps: {} loads, {} hotplug transitions, {} CPU PM calls, {} stub calls, {} faults, {} times asleep, {} VMs, {} signals, {} times short of memory",
            self.steps,
            self.loads,
            self.transitions.load(Relaxed),
            self.naps,
            self.stub_calls,
            self.faults,
            self.sleeps,
            self.vms,
            self.signals,
            self.hogs
        )
    }
}

/// A step of a soak.
type Step<S> = fn(&mut S) -> Result<()>;

/// A soak.
pub struct Soak<'a> {
    /// The machine, and what the state of every CPU must be.
    world: World<'a>,
    random: Random,
    cpus: Vec<usize>,
    troop: Troop,
    /// What has been done.
    pub counts: Counts,
}

impl<'a> Soak<'a> {
    /// The steps, and how often each comes among all. What takes seconds comes seldom.
    const STEPS: [(usize, Step<Self>); 12] = [
        (60, Self::move_cpus),
        (28, Self::load_or_unload),
        (10, Self::nap),
        (10, Self::call_the_stub),
        (3, Self::fault),
        (10, Self::start_a_vm),
        (3, Self::kill_one),
        (6, Self::send_a_signal),
        (1, Self::want_memory),
        (4, Self::storm),
        (1, Self::suspend),
        (1, Self::syscore),
    ];

    /// A soak that nothing has been done of. All CPUs are online, and the module is not loaded.
    pub fn new(ground: &'a Ground, seed: u64) -> Result<Self> {
        Ok(Self {
            world: World::new(ground)?,
            random: Random::new(seed),
            cpus: cpu::secondaries()?,
            troop: Troop::default(),
            counts: Counts::default(),
        })
    }

    /// What became of the VMs.
    pub fn vms(&self) -> String {
        let Troop {
            finished,
            killed,
            dead,
            ..
        } = &self.troop;
        format!(
            "{finished} VMs computed to their end, {killed} were killed, {dead} ended by a fault"
        )
    }

    /// Does one of the steps.
    pub fn step(&mut self) -> Result<()> {
        let total = Self::STEPS.iter().map(|(weight, _)| weight).sum();
        let mut place = self.random.below(total);
        for (weight, step) in Self::STEPS {
            if place < weight {
                return self.take(step);
            }
            place -= weight;
        }
        Ok(())
    }

    /// Does each of the steps once.
    pub fn each(&mut self) -> Result<()> {
        for (_, step) in Self::STEPS {
            self.take(step)?;
        }
        Ok(())
    }

    fn take(&mut self, step: Step<Self>) -> Result<()> {
        step(self)?;
        self.counts.steps += 1;
        self.troop.reap()?;
        if self.counts.steps % CLOSE_LOOK == 0 {
            self.look()?;
        }
        self.world.check_log()
    }

    /// Every CPU, its counters and the owner of its EL2 are as the model says.
    fn look(&mut self) -> Result<()> {
        self.world.check(Look::Close)?;
        match self.world.model.loaded {
            true => Ok(()),
            false => module::nothing_left(),
        }
    }

    fn move_cpus(&mut self) -> Result<()> {
        for _ in 0..=self.random.below(6) {
            let cpu = self.random.pick(&self.cpus);
            if self.world.model.cpus[cpu].online {
                self.prepare_to_lose(cpu)?;
                cpu::set_online(cpu, false)?;
                self.world.model.offline(cpu);
            } else {
                cpu::set_online(cpu, true)?;
                self.world.model.online(cpu);
            }
            self.counts.transitions.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    /// The VMs end before the last CPU goes that can run them.
    fn prepare_to_lose(&mut self, cpu: usize) -> Result<()> {
        match self.world.model.online_in(State::Hyp) == [cpu] {
            true => self.troop.kill_all(),
            false => Ok(()),
        }
    }

    fn load_or_unload(&mut self) -> Result<()> {
        match self.world.model.loaded {
            true => self.unload(),
            false => self.load(),
        }
    }

    fn load(&mut self) -> Result<()> {
        fault::load()?.keep();
        self.world.model.insmod();
        self.counts.loads += 1;
        Ok(())
    }

    /// All VMs end before it, by themselves or not.
    fn unload(&mut self) -> Result<()> {
        if self.random.below(2) == 0 {
            self.troop.wait_for_vms()?;
        }
        self.troop.kill_all()?;
        poll::until(RMMOD_LIMIT, module::unload)?;
        self.world.model.rmmod();
        Ok(())
    }

    /// Loads the module, again if no CPU is eltwo's any more, so that VMs can run.
    fn make_ready(&mut self) -> Result<()> {
        if !self.world.model.online_in(State::Hyp).is_empty() {
            return Ok(());
        }
        if self.world.model.loaded {
            self.unload()?;
        }
        self.load()
    }

    fn pick_cpu(&mut self) -> usize {
        self.random.pick(&self.world.model.online_cpus())
    }

    fn nap(&mut self) -> Result<()> {
        let cpu = self.pick_cpu();
        let hook = table::named(self.random.pick(&NAPS))?;
        self.counts.naps += 1;
        self.world.step_on(cpu, hook, Look::FromAfar)
    }

    /// Half of the time it is left to what comes next to notice what EL2 has handed back.
    fn call_the_stub(&mut self) -> Result<()> {
        let cpu = self.pick_cpu();
        let hook = table::named(self.random.pick(&STUB_CALLS))?;
        let look = self.random.pick(&[Look::Close, Look::FromAfar]);
        self.prepare_to_lose(cpu)?;
        self.counts.stub_calls += 1;
        self.world.step_on(cpu, hook, look)
    }

    /// An exception at EL2, which ends all VMs. The module stays, and takes neither CPUs nor VMs until it is loaded again.
    fn fault(&mut self) -> Result<()> {
        self.start_a_vm()?;
        // Wherever the VM has got to.
        thread::sleep(Duration::from_millis(self.random.below(60) as u64));
        let cpu = self.pick_cpu();
        let kind = self.random.pick(&fault::KINDS);
        table::provoke(&self.world, cpu, kind.name).with_context(|| kind.name)?;
        self.world.model.fault(cpu);
        // A CPU that is the stub's takes none.
        if self.world.model.closed {
            self.counts.faults += 1;
            self.troop.bury_vms()?;
        }
        self.look()
    }

    fn start_a_vm(&mut self) -> Result<()> {
        self.make_ready()?;
        // Drawn in any case, or how long VMs live would decide what comes next.
        let size = 1 + self.random.below(20) as u64;
        if self.troop.vms() < MOST_VMS {
            self.troop.start_vm(size)?;
            self.counts.vms += 1;
        }
        Ok(())
    }

    fn kill_one(&mut self) -> Result<()> {
        // Not at once, so that it has got somewhere.
        thread::sleep(Duration::from_millis(self.random.below(60) as u64));
        let number = self.random.below(usize::MAX);
        self.troop.kill(number)
    }

    fn send_a_signal(&mut self) -> Result<()> {
        let number = self.random.below(usize::MAX);
        for signal in self.random.pick(&[
            [Signal::SIGUSR1, Signal::SIGUSR1],
            [Signal::SIGSTOP, Signal::SIGCONT],
        ]) {
            self.counts.signals += u64::from(self.troop.signal(number, signal)?);
        }
        Ok(())
    }

    /// A program wants memory, and the kernel gives up what it has cached.
    fn want_memory(&mut self) -> Result<()> {
        let mib = 64 << self.random.below(3);
        let time = Duration::from_millis(self.random.below(500) as u64);
        self.troop.start_hog(mib, time)?;
        for file in ["drop_caches", "compact_memory"] {
            let text = if file == "drop_caches" { "3" } else { "1" };
            let path = format!("/proc/sys/vm/{file}");
            fs::write(&path, text).context(path)?;
        }
        self.counts.hogs += 1;
        Ok(())
    }

    /// CPUs come and go while the module is loaded and unloaded. In which order is for the machine to say.
    fn storm(&mut self) -> Result<()> {
        const LOADS: u64 = 3;
        if self.world.model.loaded {
            self.unload()?;
        }
        self.world.check_log()?;
        let cpu = self.random.pick(&self.cpus);
        let at_first = self.world.model.cpus[cpu].online;
        let over = AtomicBool::new(false);
        let transitions = &self.counts.transitions;
        thread::scope(|scope| {
            let mover = scope.spawn(|| -> Result<()> {
                let mut on = at_first;
                while !over.load(Relaxed) || on != at_first {
                    on = !on;
                    cpu::set_online(cpu, on)?;
                    transitions.fetch_add(1, Relaxed);
                }
                Ok(())
            });
            let cycles = || -> Result<()> {
                for _ in 0..LOADS {
                    module::load()?.keep();
                    poll::until(RMMOD_LIMIT, module::unload)?;
                }
                Ok(())
            };
            let result = cycles();
            over.store(true, Relaxed);
            match mover.join() {
                Ok(moved) => moved.and(result),
                Err(_) => bail!("the thread that moves a CPU has panicked"),
            }
        })?;
        self.counts.loads += LOADS;
        self.world.skip_log()
    }

    fn suspend(&mut self) -> Result<()> {
        self.counts.sleeps += 1;
        table::sleep("freeze")
    }

    fn syscore(&mut self) -> Result<()> {
        self.counts.sleeps += 1;
        table::hibernate_up_to_core()?;
        self.world.model.system_nap();
        Ok(())
    }

    /// Ends all that runs, unloads the module and brings all CPUs online.
    pub fn end(&mut self) -> Result<()> {
        self.troop.kill_all()?;
        self.world.finish()?;
        self.look()
    }

    /// Goes on until `time` is over and `enough` says so.
    pub fn run(&mut self, time: Duration, mut enough: impl FnMut(&Counts) -> bool) -> Result<()> {
        let end = Instant::now() + time;
        while !enough(&self.counts) || Instant::now() < end {
            let number = self.counts.steps;
            self.step().with_context(|| format!("step {number}"))?;
        }
        Ok(())
    }
}
