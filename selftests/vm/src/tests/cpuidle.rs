// SPDX-License-Identifier: GPL-2.0-only

//! CPUs that the kernel powers down when they idle (PSCI CPU_SUSPEND): the kernel itself calls CPU PM, from its idle task.
//!
//! The emulated firmware waits for an interrupt and returns, as firmware does that finds one pending: the CPU keeps its
//! state, and the kernel takes that for a refusal. So every nap ends by CPU_PM_EXIT without a power cycle.

use std::{
    fs,
    path::Path,
    thread,
    time::Duration, //
};

use anyhow::{
    ensure,
    Context,
    Result, //
};
use kvm_ioctls::Kvm;

use super::{
    equal_images_on,
    standard, //
};
use crate::{
    guest::{
        cpu,
        debugfs::{
            self,
            hypercall, //
        },
        kmsg::Log,
        module, //
    },
    hooks::table,
    ktap::{
        note,
        Skip,
        Test, //
    },
    kvm::{
        fleet::{
            compute_while,
            Size, //
        },
        host::Host,
        ram::Ram,
    },
};

/// How long the machine is left alone.
const IDLE: Duration = Duration::from_secs(2);
/// Naps that each CPU must take meanwhile, at least.
const NAPS: u64 = 5;

pub fn test() -> Test {
    standard()
        .needs(needs_power_down)
        .case("idle_cpu_is_handed_back_and_taken_again", idle)
        .case("guests_compute_while_cpus_nap", with_guests)
        .case("cpus_nap_while_they_come_and_go", with_hotplug)
        .case("suspend_to_idle_powers_cpus_down", suspended)
}

fn state(cpu: usize, file: &str) -> String {
    format!("/sys/devices/system/cpu/cpu{cpu}/cpuidle/state1/{file}")
}

fn needs_power_down() -> Result<()> {
    if !Path::new(&state(0, "usage")).exists() {
        return Skip::because("this machine has no idle state but WFI");
    }
    Ok(())
}

/// Times that the kernel has tried the state, in suspend to idle as well.
fn tries(cpu: usize) -> Result<u64> {
    const FILES: [&str; 3] = ["usage", "rejected", "s2idle/usage"];
    FILES.iter().try_fold(0, |sum, file| {
        let path = state(cpu, file);
        let text = fs::read_to_string(&path).context(path)?;
        Ok(sum + text.trim().parse::<u64>()?)
    })
}

/// The line of a CPU that is awake, because it is the one that asks.
fn awake(cpu: usize) -> Result<debugfs::Cpu> {
    cpu::on(cpu, || {
        let row = debugfs::cpu(cpu)?;
        debugfs::expect_hyp(&row)?;
        ensure!(row.faults == 0, "{row:x?}");
        let echo = hypercall("ping 1 2 3 4")?.ok()?;
        ensure!(echo == [1, 2, 3, 4], "ping gives {echo:?}");
        Ok(row)
    })
}

/// Leaves the machine alone while `work` goes on. Returns how often each CPU has napped: `tries` of the kernel and resets go
/// together.
fn napping(work: impl FnOnce() -> Result<()>) -> Result<Vec<u64>> {
    let cpus = cpu::online()?;
    let look = |cpu: &usize| Ok((tries(*cpu)?, awake(*cpu)?.resets));
    let before: Vec<(u64, u64)> = cpus.iter().map(look).collect::<Result<_>>()?;
    work()?;
    let mut naps = Vec::new();
    for (cpu, (tries_before, resets_before)) in cpus.iter().zip(before) {
        // The resets first: what happens in between then only makes the tries more.
        let resets = awake(*cpu)?.resets - resets_before;
        let tries = tries(*cpu)? - tries_before;
        note(format!(
            "CPU {cpu}: {tries} naps of the kernel, {resets} resets"
        ));
        ensure!(
            resets <= tries + 1,
            "CPU {cpu}: {tries} naps, and {resets} resets"
        );
        naps.push(resets);
    }
    Ok(naps)
}

/// As [`napping`], and every CPU naps, at least so often.
fn all_napping(least: u64, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let naps = napping(work)?;
    ensure!(naps.iter().all(|naps| *naps >= least), "naps: {naps:?}");
    Ok(())
}

/// But for what makes each CPU wake up often enough to nap again, however few events the kernel has for it.
fn nothing_to_do() -> Result<()> {
    const WAKE_UPS: u64 = 2 * NAPS;
    const BETWEEN: Duration = Duration::from_millis(5);
    thread::sleep(IDLE);
    for cpu in cpu::online()? {
        for _ in 0..WAKE_UPS {
            cpu::on(cpu, || {
                thread::sleep(BETWEEN);
                Ok(())
            })?;
        }
    }
    Ok(())
}

fn idle() -> Result<()> {
    let loaded = module::load()?;
    all_napping(NAPS, nothing_to_do)?;
    let mut log = Log::from_now()?;
    loaded.unload()?;
    equal_images_on(&log.eltwo()?, &cpu::online()?).map(drop)
}

fn with_guests() -> Result<()> {
    const SIZE: Size = Size {
        machines: 1,
        vcpus: 1,
        words: 512,
        pause: 20_000,
    };
    let host = Host::start()?;
    let rounds = compute_while(&Kvm::new()?, SIZE, Ram::new, |_| {
        // But for the CPU that the guest is on.
        let naps = napping(nothing_to_do)?;
        ensure!(naps.iter().any(|naps| *naps >= NAPS), "naps: {naps:?}");
        Ok(())
    });
    host.end()?;
    note(format!("{} rounds", rounds?));
    Ok(())
}

fn with_hotplug() -> Result<()> {
    let loaded = module::load()?;
    for cpu in cpu::secondaries()? {
        cpu::set_online(cpu, false)?;
        // Of those that stay.
        all_napping(1, nothing_to_do)?;
        cpu::set_online(cpu, true)?;
    }
    for cpu in cpu::online()? {
        awake(cpu)?;
    }
    loaded.unload()
}

fn suspended() -> Result<()> {
    table::can_sleep()?;
    let loaded = module::load()?;
    all_napping(1, || table::sleep("freeze"))?;
    loaded.unload()
}
