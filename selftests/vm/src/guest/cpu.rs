// SPDX-License-Identifier: GPL-2.0-only

//! CPUs: which there are, hotplug through sysfs, and threads pinned to one.

use std::fs;

use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use nix::{
    sched::{
        sched_getaffinity,
        sched_setaffinity,
        CpuSet, //
    },
    unistd::Pid,
};

const DIR: &str = "/sys/devices/system/cpu";

/// A CPU list of sysfs, such as `0,2-3`.
fn parse_list(text: &str) -> Result<Vec<usize>> {
    let mut cpus = Vec::new();
    for range in text.trim().split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        cpus.extend(first.parse::<usize>()?..=last.parse::<usize>()?);
    }
    Ok(cpus)
}

fn list(file: &str) -> Result<Vec<usize>> {
    let path = format!("{DIR}/{file}");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    parse_list(&text).with_context(|| format!("{path}: {text:?}"))
}

/// CPUs that are online.
pub fn online() -> Result<Vec<usize>> {
    list("online")
}

/// CPUs that are in the machine, online or not.
pub fn present() -> Result<Vec<usize>> {
    list("present")
}

/// CPUs that are online, without the one that the tests always leave alone (CPU 0).
pub fn secondaries() -> Result<Vec<usize>> {
    Ok(online()?.into_iter().filter(|cpu| *cpu != 0).collect())
}

/// Takes a CPU online or offline, and checks that it went.
pub fn set_online(cpu: usize, on: bool) -> Result<()> {
    let verb = if on { "online" } else { "offline" };
    fs::write(format!("{DIR}/cpu{cpu}/online"), if on { "1" } else { "0" })
        .with_context(|| format!("CPU {cpu} does not go {verb}"))?;
    ensure!(
        online()?.contains(&cpu) == on,
        "CPU {cpu} did not go {verb}, although the write succeeded"
    );
    Ok(())
}

/// Takes every CPU of `cpus` online that is not.
pub fn bring_online(cpus: &[usize]) -> Result<()> {
    let now = online()?;
    for cpu in cpus.iter().filter(|cpu| !now.contains(cpu)) {
        set_online(*cpu, true)?;
    }
    Ok(())
}

/// Name of a hotplug state of the kernel and where it stands, as in `hotplug/states`: `(168, "base/cacheinfo:online")`.
pub fn hotplug_states() -> Result<Vec<(u32, String)>> {
    let text = fs::read_to_string(format!("{DIR}/hotplug/states"))?;
    text.lines()
        .map(|line| {
            let (number, name) = line
                .split_once(':')
                .with_context(|| format!("hotplug/states: {line:?}"))?;
            Ok((number.trim().parse()?, name.trim().to_string()))
        })
        .collect()
}

/// The calling thread runs on one CPU for as long as this lives.
pub struct Pinned {
    before: CpuSet,
}

impl Pinned {
    /// Moves the calling thread to `cpu`.
    pub fn to(cpu: usize) -> Result<Self> {
        let this = Pid::from_raw(0);
        let before = sched_getaffinity(this)?;
        let mut set = CpuSet::new();
        set.set(cpu)?;
        sched_setaffinity(this, &set).with_context(|| format!("pin to CPU {cpu}"))?;
        Ok(Self { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // If all CPUs of the old set have gone offline, the kernel has already let the thread run elsewhere.
        let _ = sched_setaffinity(Pid::from_raw(0), &self.before);
    }
}

/// Runs `body` on `cpu`.
pub fn on<T>(cpu: usize, body: impl FnOnce() -> Result<T>) -> Result<T> {
    let _pinned = Pinned::to(cpu)?;
    body().with_context(|| format!("on CPU {cpu}"))
}

/// Fails if `got` is not the CPUs in `want`; says which differ.
pub fn expect_online(want: &[usize]) -> Result<()> {
    let got = online()?;
    if got != want {
        bail!("CPUs {got:?} are online, expected {want:?}");
    }
    Ok(())
}
