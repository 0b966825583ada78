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
    ensure,
    Context,
    Result, //
};
use nix::sys::signal::Signal;

use crate::{
    guest::{
        cpu,
        debugfs,
        kmsg::Log,
        module,
        poll, //
    },
    hooks::{
        helper::{
            Hooks,
            Owner, //
        },
        table, //
    },
    tests::equal_images,
};

use random::Random;
use troop::{
    Troop,
    MOST_VMS, //
};

/// How long rmmod may be put off by what is being closed.
const RMMOD_LIMIT: Duration = Duration::from_secs(20);
/// CPU PM calls, of which one is taken at random.
const NAPS: [&str; 4] = [
    "enter exit",
    "fail",
    "exit enter enter exit exit",
    "enter cluster-enter cluster-exit exit",
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
    sleeps: u64,
    vms: u64,
    signals: u64,
    hogs: u64,
    /// All steps.
    pub steps: u64,
}

impl Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} steps: {} loads, {} hotplug transitions, {} CPU PM calls, {} times asleep, {} VMs, {} signals, {} times short of memory",
            self.steps,
            self.loads,
            self.transitions.load(Relaxed),
            self.naps,
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
    hooks: &'a Hooks,
    random: Random,
    log: Log,
    cpus: Vec<usize>,
    troop: Troop,
    /// What has been done.
    pub counts: Counts,
}

impl<'a> Soak<'a> {
    /// The steps, and how often each comes among all. What takes seconds comes seldom.
    const STEPS: [(usize, Step<Self>); 10] = [
        (60, Self::move_cpus),
        (28, Self::load_or_unload),
        (10, Self::nap),
        (8, Self::start_a_vm),
        (3, Self::kill_one),
        (6, Self::send_a_signal),
        (1, Self::want_memory),
        (4, Self::storm),
        (1, Self::suspend),
        (1, Self::syscore),
    ];

    /// A soak that nothing has been done of. All CPUs are online, and the module is not loaded.
    pub fn new(hooks: &'a Hooks, seed: u64) -> Result<Self> {
        Ok(Self {
            hooks,
            random: Random::new(seed),
            log: Log::from_now()?,
            cpus: cpu::secondaries()?,
            troop: Troop::default(),
            counts: Counts::default(),
        })
    }

    /// VMs that computed to their end and were right, and VMs that were killed.
    pub fn vms(&self) -> (u64, u64) {
        (self.troop.finished, self.troop.killed)
    }

    /// Does one of the steps.
    pub fn step(&mut self) -> Result<()> {
        let total = Self::STEPS.iter().map(|(weight, _)| weight).sum();
        let mut place = self.random.below(total);
        for (weight, step) in Self::STEPS {
            if place < weight {
                step(self)?;
                break;
            }
            place -= weight;
        }
        self.counts.steps += 1;
        self.troop.reap()?;
        if self.counts.steps % CLOSE_LOOK == 0 {
            self.look()?;
        }
        equal_images(&self.log.eltwo()?).map(drop)
    }

    /// Every CPU that is online is eltwo's while the module is loaded, and the stub's otherwise.
    fn look(&self) -> Result<()> {
        let loaded = module::is_loaded()?;
        let owner = match loaded {
            true => Owner::Eltwo,
            false => Owner::Stub,
        };
        self.hooks.expect_owner_of_all(owner)?;
        if !loaded {
            return module::nothing_left();
        }
        debugfs::expect_online_are_hyp()?;
        let rows = debugfs::cpus()?;
        let odd = rows
            .iter()
            .find(|row| row.faults != 0 || row.inits < row.resets);
        ensure!(odd.is_none(), "{odd:?}");
        Ok(())
    }

    fn move_cpus(&mut self) -> Result<()> {
        for _ in 0..=self.random.below(6) {
            let cpu = self.random.pick(&self.cpus);
            let on = cpu::online()?.contains(&cpu);
            cpu::set_online(cpu, !on)?;
            self.counts.transitions.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    fn load_or_unload(&mut self) -> Result<()> {
        match module::is_loaded()? {
            true => self.unload(),
            false => self.load(),
        }
    }

    fn load(&mut self) -> Result<()> {
        module::load()?.keep();
        self.counts.loads += 1;
        Ok(())
    }

    /// All VMs end before it, by themselves or not.
    fn unload(&mut self) -> Result<()> {
        if self.random.below(2) == 0 {
            self.troop.wait_for_vms()?;
        }
        self.troop.kill_all()?;
        poll::until(RMMOD_LIMIT, module::unload)
    }

    fn nap(&mut self) -> Result<()> {
        let cpu = self.random.pick(&cpu::online()?);
        let steps = self.random.pick(&NAPS);
        self.hooks.run(cpu, steps)?;
        self.counts.naps += 1;
        Ok(())
    }

    fn start_a_vm(&mut self) -> Result<()> {
        if !module::is_loaded()? {
            self.load()?;
        }
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
        if module::is_loaded()? {
            self.unload()?;
        }
        let cpu = self.random.pick(&self.cpus);
        let over = AtomicBool::new(false);
        let transitions = &self.counts.transitions;
        thread::scope(|scope| {
            let mover = scope.spawn(|| -> Result<()> {
                while !over.load(Relaxed) {
                    let on = cpu::online()?.contains(&cpu);
                    cpu::set_online(cpu, !on)?;
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
        Ok(())
    }

    fn suspend(&mut self) -> Result<()> {
        self.counts.sleeps += 1;
        table::sleep("freeze")
    }

    fn syscore(&mut self) -> Result<()> {
        self.counts.sleeps += 1;
        table::hibernate_up_to_core()
    }

    /// Ends all that runs, unloads the module and brings all CPUs online.
    pub fn end(&mut self) -> Result<()> {
        self.troop.kill_all()?;
        if module::is_loaded()? {
            poll::until(RMMOD_LIMIT, module::unload)?;
        }
        cpu::bring_online(&self.cpus)?;
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
