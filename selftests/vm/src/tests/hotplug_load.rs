// SPDX-License-Identifier: GPL-2.0-only

//! Hotplug, hypercalls, readers of debugfs and insmod/rmmod, all at the same time.

use std::{
    hint, io,
    sync::{
        atomic::{
            AtomicBool,
            AtomicU64,
            Ordering::Relaxed, //
        },
        Mutex,
        PoisonError,
        RwLock, //
    },
    thread,
    time::Duration,
};

use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use nix::libc;

use super::{
    needs_two_cpus,
    standard, //
};
use crate::{
    guest::{
        cpu,
        debugfs::{
            self,
            Caller, //
        },
        kmsg::Log,
        module,
        poll, //
    },
    ktap::{
        note,
        Test, //
    },
};

/// Times that each secondary CPU goes and comes.
const ROUNDS: u32 = 10;
/// Times that the module is loaded.
const LOADS: u32 = 15;
/// How long rmmod may be put off by files that are open: it needs a moment at which none is.
const RMMOD_LIMIT: Duration = Duration::from_secs(120);
/// How long a thread has no file open after a call.
const PAUSE: Duration = Duration::from_micros(200);
/// How long it may take until a thread's call works.
const CALL_LIMIT: Duration = Duration::from_secs(10);

pub fn test() -> Test {
    standard()
        .needs(needs_two_cpus)
        .case("hotplug_under_hypercalls_none_fails", under_hypercalls)
        .case("insmod_rmmod_while_cpus_come_and_go", while_cpus_move)
        .case("rmmod_under_hypercalls", under_rmmod)
}

/// What the threads of a case share.
#[derive(Default)]
struct Crew {
    stop: AtomicBool,
    done: AtomicU64,
    errors: Mutex<Vec<String>>,
}

impl Crew {
    /// Repeats `work` until told to stop or until it fails.
    fn repeat(&self, mut work: impl FnMut() -> Result<()>) {
        while !self.stop.load(Relaxed) {
            match work() {
                Ok(()) => {
                    self.done.fetch_add(1, Relaxed);
                }
                Err(error) => {
                    let mut errors = self
                        .errors
                        .lock()
                        .unwrap_or_else(|poisoned| poisoned.into_inner());
                    errors.push(format!("{error:#}"));
                    return;
                }
            }
        }
    }

    /// Keeps a CPU busy.
    fn burn(&self) {
        while !self.stop.load(Relaxed) {
            hint::spin_loop();
        }
    }

    /// Runs `work`, then stops the others. Their errors are the case's.
    fn lead<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let result = work();
        self.stop.store(true, Relaxed);
        result
    }

    fn verdict(&self) -> Result<()> {
        let errors = self
            .errors
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        ensure!(errors.is_empty(), "{}", errors.join("; "));
        Ok(())
    }
}

/// A thread of user space only ever runs on a CPU that is ours, so not one hypercall may fail.
fn under_hypercalls() -> Result<()> {
    let loaded = module::load()?;
    let secondaries = cpu::secondaries()?;
    let crew = Crew::default();
    thread::scope(|scope| {
        for _ in 0..=secondaries.len() {
            scope.spawn(|| {
                let mut caller = Caller::open();
                crew.repeat(|| ping(&mut caller));
            });
            scope.spawn(|| crew.burn());
        }
        scope.spawn(|| {
            crew.repeat(|| {
                debugfs::cpus()?;
                debugfs::registers()?;
                debugfs::pool()?;
                debugfs::mappings().map(drop)
            })
        });
        crew.lead(|| {
            for _ in 0..ROUNDS {
                for &cpu in &secondaries {
                    cpu::set_online(cpu, false)?;
                    cpu::set_online(cpu, true)?;
                }
            }
            Ok(())
        })
    })?;
    crew.verdict()?;
    note(format!("{} calls and readings", crew.done.load(Relaxed)));
    ensure!(crew.done.load(Relaxed) > 100, "hardly any calls were made");
    debugfs::expect_online_are_hyp()?;
    loaded.unload()
}

fn ping(caller: &mut Result<Caller>) -> Result<()> {
    match caller {
        Ok(caller) => caller.write("ping 1 2 3 4").context("ping"),
        Err(error) => bail!("{error:#}"),
    }
}

fn while_cpus_move() -> Result<()> {
    let secondaries = cpu::secondaries()?;
    let crew = Crew::default();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut turn = 0;
            crew.repeat(|| {
                let cpu = secondaries[turn % secondaries.len()];
                turn += 1;
                cpu::set_online(cpu, false)?;
                cpu::set_online(cpu, true)
            })
        });
        crew.lead(|| {
            for number in 1..=LOADS {
                load_once().with_context(|| format!("load {number}"))?;
            }
            Ok(())
        })
    })?;
    crew.verdict()?;
    note(format!(
        "{LOADS} loads, {} CPUs went and came meanwhile",
        crew.done.load(Relaxed)
    ));
    ensure!(crew.done.load(Relaxed) > 0, "no CPU went");
    let loaded = module::load()?;
    debugfs::expect_online_are_hyp()?;
    loaded.unload()
}

/// CPU 0 stays, so it can be looked at; the others may be anywhere but in `refused` or `faulted`.
fn load_once() -> Result<()> {
    let loaded = module::load()?;
    for row in debugfs::cpus()? {
        if row.cpu == 0 {
            debugfs::expect_hyp(&row)?;
        }
        ensure!(
            !["refused", "faulted"].contains(&row.state.as_str()) && row.faults == 0,
            "{row:?}"
        );
    }
    loaded.unload()
}

/// A call during rmmod either works or fails for one of the reasons that a file may have to go away. While the module is loaded
/// every thread's calls work. EIO is also what a call says after an exception at EL2, so the log must not have one.
///
/// No file is opened while `delete_module` decides: Linux 7.2 warns of a file in debugfs whose module has no user any more and is
/// not yet marked as going (`full_proxy_open_regular`). Files that are open by then go on.
fn under_rmmod() -> Result<()> {
    let mut log = Log::from_now()?;
    let crew = Crew::default();
    let worked: Vec<AtomicU64> = cpu::online()?.iter().map(|_| AtomicU64::new(0)).collect();
    let all = || -> u64 { worked.iter().map(|count| count.load(Relaxed)).sum() };
    let door = RwLock::new(());
    let result = thread::scope(|scope| {
        for count in &worked {
            let (crew, door) = (&crew, &door);
            scope.spawn(move || {
                crew.repeat(|| {
                    count.fetch_add(u64::from(call_or_miss(door)?), Relaxed);
                    thread::sleep(PAUSE);
                    Ok(())
                })
            });
        }
        crew.lead(|| {
            for _ in 0..LOADS {
                let loaded = module::load()?;
                debugfs::expect_online_are_hyp()?;
                expect_more(&worked)?;
                loaded.keep();
                poll::until(RMMOD_LIMIT, || {
                    let _closed = door.write().unwrap_or_else(PoisonError::into_inner);
                    module::unload()
                })?;
            }
            Ok(())
        })
    });
    crew.verdict()?;
    result?;
    let lines = log.eltwo()?;
    let fault = lines.iter().find(|line| line.contains("exception at EL2"));
    ensure!(fault.is_none(), "{fault:?}");
    let tried = crew.done.load(Relaxed);
    note(format!("{LOADS} loads, {} of {tried} calls worked", all()));
    ensure!(all() < tried, "no call was made while there was no module");
    Ok(())
}

/// Waits until each of the counts has grown.
fn expect_more(counts: &[AtomicU64]) -> Result<()> {
    for (number, count) in counts.iter().enumerate() {
        let before = count.load(Relaxed);
        poll::until(CALL_LIMIT, || {
            ensure!(
                count.load(Relaxed) > before,
                "no call of thread {number} works"
            );
            Ok(())
        })?;
    }
    Ok(())
}

/// Returns whether the call worked. The file is opened when the door is.
fn call_or_miss(door: &RwLock<()>) -> Result<bool> {
    const GONE: [i32; 5] = [
        libc::ENOENT,
        libc::ENODEV,
        libc::EIO,
        libc::ENXIO,
        libc::EBUSY,
    ];
    let opened = {
        let _open = door.read().unwrap_or_else(PoisonError::into_inner);
        Caller::open()
    };
    match opened.and_then(|mut caller| Ok(caller.write("ping 1")?)) {
        Ok(()) => Ok(true),
        Err(error) if is_one_of(&error, &GONE) => Ok(false),
        Err(error) => Err(error).context("ping during rmmod"),
    }
}

/// Whether the kernel has given one of these errors.
fn is_one_of(error: &anyhow::Error, codes: &[i32]) -> bool {
    let io = error.root_cause().downcast_ref::<io::Error>();
    io.and_then(io::Error::raw_os_error)
        .is_some_and(|code| codes.contains(&code))
}
