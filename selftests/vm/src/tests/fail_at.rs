// SPDX-License-Identifier: GPL-2.0-only

//! Every step of loading fails once, on request: insmod reports it, nothing is left behind, and the next insmod works.

use std::{
    cell::RefCell,
    rc::Rc, //
};

use anyhow::{
    ensure,
    Context,
    Result, //
};
use nix::errno::Errno;

use super::standard;
use crate::{
    guest::{
        account::{
            rounds,
            Account, //
        },
        cpu,
        debugfs,
        kmsg::Log,
        module, //
    },
    ktap::{
        note,
        Test, //
    },
};

/// The steps of loading have the numbers from 1 to this: `Step` in `rust/host/inject.rs`.
const STEPS: u32 = 15;
/// The last number that is tried: between the two there must be no step.
const LAST: u32 = 20;
/// Rounds of all failures over which memory is compared.
const ROUNDS: u32 = 8;

pub fn test() -> Test {
    let found = Rc::new(RefCell::new(Vec::new()));
    let again = Rc::clone(&found);
    let fallible = Rc::new(RefCell::new(Vec::new()));
    let repeated = Rc::clone(&fallible);
    standard()
        .case("each_step_fails_and_is_undone", move || each_step(&found))
        .case("each_step_on_each_cpu_is_undone", move || {
            each_cpu(&again.borrow())
        })
        .case("each_fallible_step_fails_and_is_undone", move || {
            each_fallible(&fallible)
        })
        .case("failed_loads_lose_no_memory", move || {
            no_leak(repeated.borrow().len())
        })
}

/// Loads with this failure. Returns whether there is such a step (on that CPU).
fn fails(step: u32, cpu: usize) -> Result<bool> {
    Ok(named(&format!("fail_at={step} fail_cpu={cpu}"))?.is_some())
}

/// Loads with this failure. Returns what the module calls the step, if there is one.
fn named(failure: &str) -> Result<Option<String>> {
    const REQUESTED: &str = ": this step fails on request";
    let before = cpu::hotplug_states()?;
    let mut log = Log::from_now()?;
    // A pool of more than one chunk, so that the step that reserves the second one exists.
    let parameters = format!("{failure} pool_kib=8192");
    let outcome = module::try_load(&parameters)?;
    let lines = log.eltwo()?;
    let requested = lines
        .iter()
        .find_map(|line| Some(line[..line.find(REQUESTED)?].to_string()));
    match outcome {
        Ok(loaded) => {
            ensure!(
                requested.is_none(),
                "{parameters}: insmod succeeded although {lines:?}"
            );
            loaded.unload()?;
            Ok(None)
        }
        Err(refused) => {
            ensure!(requested.is_some(), "{parameters}: {refused}");
            ensure!(
                [Errno::ENOMEM, Errno::EIO].contains(&refused.errno),
                "{parameters}: {refused}"
            );
            module::nothing_left().context(parameters.clone())?;
            ensure!(
                cpu::hotplug_states()? == before,
                "{parameters}: hotplug states differ"
            );
            super::load_unload::equal_images(&lines).context(parameters)?;
            Ok(requested)
        }
    }
}

/// All steps that exist, each having failed once on `cpu`.
fn steps(cpu: usize) -> Result<Vec<u32>> {
    let mut steps = Vec::new();
    for step in 1..=LAST {
        if fails(step, cpu)? {
            steps.push(step);
            works()?;
        }
    }
    Ok(steps)
}

fn works() -> Result<()> {
    let loaded = module::load()?;
    debugfs::expect_online_are_hyp()?;
    loaded.unload()
}

fn each_step(found: &RefCell<Vec<u32>>) -> Result<()> {
    let steps = steps(0)?;
    note(format!("steps: {steps:?}"));
    ensure!(
        steps.iter().copied().eq(1..=STEPS),
        "steps {steps:?}, expected 1 to {STEPS}"
    );
    *found.borrow_mut() = steps;
    Ok(())
}

/// The steps that may fail, found by counting: every allocation, every registration, every step of every CPU.
fn each_fallible(found: &RefCell<Vec<String>>) -> Result<()> {
    let mut steps = Vec::new();
    while let Some(step) = named(&format!("fail_nth={}", steps.len() + 1))? {
        steps.push(step);
    }
    works()?;
    note(format!("{} steps: {steps:?}", steps.len()));
    let cpus = cpu::online()?.len();
    ensure!(steps.len() >= 20 + 4 * cpus, "only {} steps", steps.len());
    *found.borrow_mut() = steps;
    Ok(())
}

/// Steps that a CPU takes can fail on any CPU, with others done before it and others still to come.
fn each_cpu(steps: &[u32]) -> Result<()> {
    for cpu in cpu::secondaries()? {
        for &step in steps {
            ensure!(fails(step, cpu)?, "step {step} does not fail on CPU {cpu}");
        }
        works()?;
    }
    Ok(())
}

fn no_leak(steps: usize) -> Result<()> {
    let before = Account::take()?;
    let rounds = rounds(ROUNDS);
    for _ in 0..rounds {
        for nth in 1..=steps {
            let failure = named(&format!("fail_nth={nth}"))?;
            ensure!(failure.is_some(), "step {nth} does not fail");
        }
    }
    // A step that loses one unit each time would lose as many as there are rounds.
    let now = before.expect_back_at(i64::from(rounds) / 2)?;
    note(before.compare(&now));
    Ok(())
}
