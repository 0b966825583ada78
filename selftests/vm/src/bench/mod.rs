// SPDX-License-Identifier: GPL-2.0-only

//! Benches: what things cost, in instructions of a machine that counts them.
//!
//! A bench is a test like the others, whose cases print figures beside their results; the lab makes tables of them. It
//! fails if what it measures fails, never because of a figure. QEMU's PMU counts instructions if `-icount` makes it count them
//! at all; the lab says so with `eltwo.counting=1` on the kernel command line.

pub mod guests;
pub mod lifecycle;
pub mod maps;
mod steps;

use std::{
    fmt::Display,
    fs::{
        self,
        File, //
    },
    io::Read,
    os::fd::{
        FromRawFd,
        RawFd, //
    },
    thread,
    time::Duration, //
};

use anyhow::{
    bail,
    Context,
    Result, //
};
use nix::{
    errno::Errno,
    libc, //
};

use crate::ktap::{
    self,
    Skip, //
};

/// Looks at the counter from which the cost of looking is taken.
const LOOKS: u32 = 32;

/// The machine is at rest if it executes fewer instructions than [`QUIET`] in each of [`RESTS`] times of [`REST`] in a row.
const REST: Duration = Duration::from_millis(20);
const QUIET: u64 = 500_000;
const RESTS: u32 = 5;
/// How often that is tried.
const MOST_RESTS: u32 = 500;

/// Prints one figure: a cell of the lab's table, by the name of its column and of its row.
pub fn figure(column: &str, row: &str, unit: &str, value: impl Display) {
    ktap::line(&format!("# BENCH {column} | {row} | {unit} | {value}"));
}

/// Skips the bench on a machine that does not count instructions.
pub fn needs_counting() -> Result<()> {
    let line = fs::read_to_string("/proc/cmdline")?;
    if !line
        .split_whitespace()
        .any(|word| word == "eltwo.counting=1")
    {
        return Skip::because("the command line has no eltwo.counting=1");
    }
    Ok(())
}

/// The first version of `struct perf_event_attr`, see `include/uapi/linux/perf_event.h`.
#[repr(C)]
#[derive(Default)]
struct EventAttributes {
    kind: u32,
    size_bytes: u32,
    event: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    /// Nothing is excluded: neither the kernel nor EL2.
    flags: u64,
    wakeup_events: u32,
    breakpoint_kind: u32,
    config1: u64,
}

/// Counts the instructions of the whole machine, whatever runs there: the counter is that of CPU 0, but QEMU has one count of
/// instructions for all CPUs, in turn.
pub struct Counter {
    event: File,
    /// What a look at it costs.
    look: u64,
}

impl Counter {
    /// Starts to count, and finds out what counting costs.
    pub fn new() -> Result<Self> {
        const PERF_TYPE_HARDWARE: u32 = 0;
        const PERF_COUNT_HW_INSTRUCTIONS: u64 = 1;
        const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
        let attributes = EventAttributes {
            kind: PERF_TYPE_HARDWARE,
            size_bytes: size_of::<EventAttributes>() as u32,
            event: PERF_COUNT_HW_INSTRUCTIONS,
            ..Default::default()
        };
        let (every_process, cpu, no_group) = (-1, 0, -1);
        // SAFETY: The kernel reads as many bytes of the attributes as they say that they have.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                &raw const attributes,
                every_process,
                cpu,
                no_group,
                PERF_FLAG_FD_CLOEXEC,
            )
        };
        let fd = RawFd::try_from(Errno::result(fd).context("perf_event_open")?)?;
        // SAFETY: The kernel has just made it, and nobody else knows it.
        let event = unsafe { File::from_raw_fd(fd) };
        let mut counter = Self { event, look: 0 };
        counter.look = counter.least(LOOKS, || Ok(()))?;
        counter.settle()?;
        Ok(counter)
    }

    /// Waits until nothing else runs: what the kernel has put off at boot takes a while, and would be counted.
    fn settle(&self) -> Result<()> {
        let mut quiet = 0;
        for _ in 0..MOST_RESTS {
            let busy = self.count(|| {
                thread::sleep(REST);
                Ok(())
            })?;
            quiet = if busy < QUIET { quiet + 1 } else { 0 };
            if quiet == RESTS {
                return Ok(());
            }
        }
        bail!("the machine has not come to rest within {MOST_RESTS} times {REST:?}")
    }

    /// Instructions so far.
    fn now(&self) -> Result<u64> {
        let mut count = [0; 8];
        (&self.event).read_exact(&mut count)?;
        Ok(u64::from_ne_bytes(count))
    }

    /// Instructions that the machine executes during `work`, interrupts included.
    pub fn count(&self, work: impl FnOnce() -> Result<()>) -> Result<u64> {
        let start = self.now()?;
        work()?;
        Ok((self.now()? - start).saturating_sub(self.look))
    }

    /// The least of `times` counts: that of a time when no interrupt came, if the work is short.
    pub fn least(&self, times: u32, mut work: impl FnMut() -> Result<()>) -> Result<u64> {
        let mut least = None;
        for _ in 0..times {
            let count = self.count(&mut work)?;
            least = Some(least.map_or(count, |least: u64| least.min(count)));
        }
        least.context("nothing was counted")
    }
}
