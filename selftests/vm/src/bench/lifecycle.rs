// SPDX-License-Identifier: GPL-2.0-only

//! What it costs to take EL2 over and to give it back: insmod and rmmod, and CPUs that come and go, on eltwo, on the stock KVM,
//! and on a kernel without either. Init and reset are what the hypervisor does when one CPU comes and goes. Each figure of eltwo
//! is taken twice: the stock KVM compares no registers.
//!
//! QEMU counts the instructions of all CPUs as one, in the PMU of every CPU: a figure is what the whole machine executes from
//! the start of a system call to its end, interrupts and other CPUs included. Idle time has no instructions. Every figure but
//! those of whole trips is the least of several.

use std::{
    arch::asm,
    ffi::CStr,
    thread,
    time::Duration, //
};

use anyhow::{
    anyhow,
    ensure,
    Context,
    Result, //
};
use nix::kmod::{
    finit_module,
    ModuleInitFlags, //
};

use super::{
    figure,
    needs_counting,
    steps::Steps,
    Counter, //
};
use crate::{
    guest::{
        cpu::{
            self,
            Pinned, //
        },
        debugfs::Caller,
        module,
    },
    ktap::{
        note,
        Test, //
    },
    kvm::host,
    tests::standard, //
};

/// How often the module is loaded.
const LOADS: u32 = 5;
/// How often a CPU goes and comes.
const TRIPS: usize = 200;
/// Trips of which one is cheaper than the figure that counts.
const CHEAP: usize = 20;
/// How often it does so while single steps are measured: they hardly vary.
const STEPPED: u32 = 20;
/// Steps of a loop of two instructions.
const STEPS: u64 = 5_000_000;

/// A time in which so many could be executed, and more.
const SLEEP: Duration = Duration::from_millis(20);

/// Columns. The lab's list of cells has the same, and the rows.
const ALONE: &str = "no KVM";
const STOCK: &str = "stock KVM";

/// The hotplug state of the stock KVM.
const STOCK_STATE: &str = "kvm/cpu";

/// The columns of eltwo, by the module's parameters: without and with the comparison of all EL2 registers at each reset.
const MODES: [(&str, &CStr); 2] = [
    ("eltwo bare", c"selfcheck=0"),
    ("eltwo checked", c"selfcheck=1"),
];

pub fn test() -> Test {
    let test = standard()
        .needs(needs_counting)
        .case("counter_counts_every_cpu", every_cpu);
    if host::is_reference() {
        return test
            .case("hotplug_with_stock_kvm", stock)
            .case("steps_with_stock_kvm", stock_steps);
    }
    let test = test.case("loading", loading);
    match cpu::secondaries() {
        // The only CPU cannot go offline.
        Ok(cpus) if cpus.is_empty() => test.case("reset", reset),
        _ => test.case("hotplug", hotplug).case("steps", steps),
    }
}

/// A figure of the whole machine.
fn figure_of(column: &str, what: &str, instructions: u64) -> Result<()> {
    let row = match cpu::online()?.len() {
        1 => format!("1 CPU: {what}"),
        count => format!("{count} CPUs: {what}"),
    };
    figure(column, &row, "instructions", instructions);
    Ok(())
}

/// What everything else here builds on: the counter has what other CPUs execute, and nothing for the time that they sleep.
fn every_cpu() -> Result<()> {
    let _pinned = Pinned::to(0)?;
    let counter = Counter::new()?;
    let last = *cpu::online()?.last().context("no CPU is online")?;
    let elsewhere = counter.least(LOADS, || {
        let spinner = thread::spawn(move || {
            cpu::on(last, || {
                spin();
                Ok(())
            })
        });
        spinner.join().map_err(|_| anyhow!("the thread panicked"))?
    })?;
    let here = counter.least(LOADS, || {
        spin();
        Ok(())
    })?;
    let asleep = counter.least(LOADS, || {
        thread::sleep(SLEEP);
        Ok(())
    })?;
    note(format!(
        "a loop of {} instructions: {elsewhere} on CPU {last}, {here} here; {asleep} in a sleep of {SLEEP:?}",
        2 * STEPS
    ));
    for counted in [elsewhere, here] {
        ensure!(
            (2 * STEPS..3 * STEPS).contains(&counted),
            "{counted} instructions"
        );
    }
    ensure!(asleep < STEPS, "{asleep} instructions while all sleep");
    Ok(())
}

fn spin() {
    // SAFETY: A loop that changes nothing but its counter.
    unsafe {
        asm!(
            "1: subs {0}, {0}, #1",
            "b.ne 1b",
            inout(reg) STEPS => _,
            options(nomem, nostack)
        )
    };
}

/// The costs of taking a CPU offline and online again. In few trips CPUs happen not to wait for each other: the least of all
/// was seen to differ by up to 9 % where nothing else did; the cost that one trip in [`CHEAP`] stays below differs less.
struct Trip {
    offline: u64,
    online: u64,
}

impl Trip {
    /// Measures it with the CPU that has the highest number.
    fn measure(counter: &Counter) -> Result<Self> {
        let last = *cpu::online()?.last().context("no CPU is online")?;
        let (mut offline, mut online) = ([0; TRIPS], [0; TRIPS]);
        for (offline, online) in offline.iter_mut().zip(&mut online) {
            *offline = counter.count(|| cpu::set_online(last, false))?;
            *online = counter.count(|| cpu::set_online(last, true))?;
        }
        offline.sort_unstable();
        online.sort_unstable();
        Ok(Self {
            offline: offline[TRIPS / CHEAP],
            online: online[TRIPS / CHEAP],
        })
    }

    fn print(&self, column: &str) -> Result<()> {
        figure_of(column, "offline", self.offline)?;
        figure_of(column, "online", self.online)
    }
}

/// The number of the hotplug state whose name has `name`.
fn state_of(name: &str) -> Result<u32> {
    let states = cpu::hotplug_states()?;
    let state = states.iter().find(|(_, other)| other.contains(name));
    let (number, _) = state.with_context(|| format!("{name} does not follow CPUs: {states:?}"))?;
    Ok(*number)
}

/// With nobody else's state there, the stock KVM would be compared as one that does nothing.
fn stock() -> Result<()> {
    state_of(STOCK_STATE)?;
    let _pinned = Pinned::to(0)?;
    Trip::measure(&Counter::new()?)?.print(STOCK)
}

fn stock_steps() -> Result<()> {
    print_steps(&Steps::new()?, STOCK, state_of(STOCK_STATE)?)
}

/// What the hypervisor does in `state` when the last CPU comes and goes: init and reset.
fn print_steps(steps: &Steps, column: &str, state: u32) -> Result<()> {
    let _pinned = Pinned::to(0)?;
    let last = *cpu::online()?.last().context("no CPU is online")?;
    let (mut init, mut reset) = (u64::MAX, u64::MAX);
    for _ in 0..STEPPED {
        reset = reset.min(steps.cost(state, || cpu::set_online(last, false))?);
        init = init.min(steps.cost(state, || cpu::set_online(last, true))?);
    }
    figure_of(column, "init", init)?;
    figure_of(column, "reset", reset)
}

/// insmod and rmmod, by the system calls alone.
fn loading() -> Result<()> {
    let _pinned = Pinned::to(0)?;
    let counter = Counter::new()?;
    let file = module::file()?;
    for (column, parameters) in MODES {
        let (mut load, mut unload) = (u64::MAX, u64::MAX);
        for _ in 0..LOADS {
            let insmod = || finit_module(&file, parameters, ModuleInitFlags::empty());
            load = load.min(counter.count(|| insmod().context("insmod"))?);
            unload = unload.min(counter.count(module::unload)?);
        }
        figure_of(column, "insmod", load)?;
        figure_of(column, "rmmod", unload)?;
    }
    Ok(())
}

/// CPUs come and go without the module, and with it.
fn hotplug() -> Result<()> {
    let _pinned = Pinned::to(0)?;
    let counter = Counter::new()?;
    Trip::measure(&counter)?.print(ALONE)?;
    for (column, parameters) in MODES {
        let loaded = module::load_with(parameters.to_str()?)?;
        Trip::measure(&counter)?.print(column)?;
        loaded.unload()?;
    }
    Ok(())
}

/// The hotplug steps of both modes.
fn steps() -> Result<()> {
    let steps = Steps::new()?;
    for (column, parameters) in MODES {
        let loaded = module::load_with(parameters.to_str()?)?;
        print_steps(&steps, column, state_of("eltwo")?)?;
        loaded.unload()?;
    }
    Ok(())
}

/// Reset of this CPU through debugfs, beyond a call that finds nothing to reset any more.
fn reset() -> Result<()> {
    let _pinned = Pinned::to(0)?;
    let counter = Counter::new()?;
    for (column, parameters) in MODES {
        let mut least = u64::MAX;
        for _ in 0..LOADS {
            let loaded = module::load_with(parameters.to_str()?)?;
            let mut caller = Caller::open()?;
            let mut once = || counter.count(|| Ok(caller.write("reset")?));
            let (first, second) = (once()?, once()?);
            caller.answer()?.ok()?;
            drop(caller);
            loaded.unload()?;
            ensure!(
                first > second,
                "reset takes {first} instructions, and {second} once the CPU is back at the stub"
            );
            least = least.min(first - second);
        }
        figure_of(column, "reset alone", least)?;
    }
    Ok(())
}
