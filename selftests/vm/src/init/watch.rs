// SPDX-License-Identifier: GPL-2.0-only

//! What a kernel that looks for errors has found: taint, lockdep, kmemleak. Nothing on a kernel that does not look.
//!
//! Its messages are judged with the kernel log, as on every kernel. What is asked here is what it does not say by itself.
//!
//! Source: `Documentation/dev-tools/kmemleak.rst`, `Documentation/locking/lockdep-design.rst`,
//! `Documentation/admin-guide/tainted-kernels.rst` of Linux.

use std::{
    fs,
    path::Path,
    thread,
    time::Duration, //
};

use anyhow::{
    bail,
    Context,
    Result, //
};

use crate::{
    guest::{
        account::KMEMLEAK,
        cpu,
        module, //
    },
    tests, //
};

/// The scheduler's deadline servers, by class.
const SERVERS: [&str; 2] = [
    "/sys/kernel/debug/sched/fair_server",
    "/sys/kernel/debug/sched/ext_server",
];
const LOCKDEP: &str = "/proc/lockdep_stats";

/// Objects younger than this are not reported (`MSECS_MIN_AGE` of `mm/kmemleak.c`).
const MIN_AGE: Duration = Duration::from_secs(6);

/// An out-of-tree module, and an unsigned one, were loaded.
const TAINT_OF_MODULES: u64 = (1 << 12) | (1 << 13);

/// Looks after each test.
pub struct Watch {
    /// Whether there is a kmemleak that works.
    kmemleak: bool,
    lockdep: bool,
}

impl Watch {
    /// Begins, and on every kernel stops what would warn of a busy host ([`stop_servers`]). The kernel itself has lost nothing when it
    /// has started: it need not be looked for.
    ///
    /// # Errors
    ///
    /// Something of `required` does not look: it is not in this kernel, or kmemleak is off, as it is for good when it has run out of
    /// memory.
    pub fn begin(required: &[String]) -> Result<Self> {
        let watch = Self {
            // kmemleak refuses this when it is off, and does not scan by itself anyway.
            kmemleak: Path::new(KMEMLEAK).exists() && fs::write(KMEMLEAK, "scan=off").is_ok(),
            lockdep: Path::new(LOCKDEP).exists(),
        };
        let names = watch.names();
        let missing = required.iter().find(|name| !names.contains(&name.as_str()));
        if let Some(name) = missing {
            bail!("this kernel does not look for errors with {name}, only with {names:?}");
        }
        stop_servers()?;
        Ok(watch)
    }

    /// What looks.
    fn names(&self) -> Vec<&'static str> {
        let names = [(self.kmemleak, "kmemleak"), (self.lockdep, "lockdep")];
        names
            .into_iter()
            .filter(|(there, _)| *there)
            .map(|(_, name)| name)
            .collect()
    }

    /// What it looks at, for the log; nothing on an ordinary kernel.
    pub fn description(&self) -> Option<String> {
        let names = self.names();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// What is wrong after a test, one line each. kmemleak takes its time, so it is asked after the `last` test only: an object
    /// that is lost stays lost, and its report says where it was allocated.
    pub fn look(&self, last: bool) -> Result<Vec<String>> {
        let mut wrong = Vec::new();
        let taint = tests::taint()? & !TAINT_OF_MODULES;
        // An ordinary kernel's own KVM may have tainted it.
        if taint != 0 && self.lockdep {
            wrong.push(format!("the kernel's taint is {taint:#x}"));
        }
        if self.lockdep {
            let stats = fs::read_to_string(LOCKDEP).context(LOCKDEP)?;
            if !stats.lines().any(is_enabled) {
                wrong.push("lockdep has switched itself off".to_string());
            }
        }
        // What a loaded module keeps where kmemleak does not look is no leak; a test that leaves it loaded hands it over.
        if last && self.kmemleak && !module::is_loaded()? {
            wrong.extend(self.leaks()?);
        }
        Ok(wrong)
    }

    /// Two scans in a row: an object whose only pointer was in a register, or on its way from one place to another, is
    /// found by the second.
    fn scan(&self) -> Result<()> {
        thread::sleep(MIN_AGE);
        for _ in 0..2 {
            fs::write(KMEMLEAK, "scan").context(KMEMLEAK)?;
        }
        Ok(())
    }

    fn leaks(&self) -> Result<Vec<String>> {
        self.scan()?;
        let first = fs::read_to_string(KMEMLEAK).context(KMEMLEAK)?;
        if first.is_empty() {
            return Ok(Vec::new());
        }
        // It may have been a false alarm: the file lists only what the last scan did not find either.
        self.scan()?;
        let leaks = fs::read_to_string(KMEMLEAK).context(KMEMLEAK)?;
        Ok(leaks
            .lines()
            .map(|line| format!("kmemleak: {line}"))
            .collect())
    }
}

/// Stops the scheduler's deadline servers, which keep real-time tasks from starving others. Linux 7.2 forwards a server's timer that is
/// queued again already (`dl_server_timer`, a warning of `hrtimer_forward`) when a CPU has had no time for long, as emulated
/// CPUs may have. A CPU that was never online has none yet. Source: `Documentation/scheduler/sched-rt-group.rst`.
fn stop_servers() -> Result<()> {
    for cpu in cpu::online()? {
        for server in SERVERS.iter().filter(|server| Path::new(server).exists()) {
            let runtime = format!("{server}/cpu{cpu}/runtime");
            fs::write(&runtime, "0").context(runtime)?;
        }
    }
    Ok(())
}

/// Whether a line of `/proc/lockdep_stats` says that lockdep works.
fn is_enabled(line: &str) -> bool {
    line.trim()
        .strip_prefix("debug_locks:")
        .is_some_and(|value| value.trim() == "1")
}
