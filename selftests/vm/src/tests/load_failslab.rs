// SPDX-License-Identifier: GPL-2.0-only

//! Every allocation that loading makes, the kernel's own among them, fails once: insmod reports it, and nothing is left.
//!
//! Needs a kernel with fault injection.

use std::{
    collections::BTreeMap,
    ffi::CStr, //
};

use anyhow::{
    ensure,
    Context,
    Result, //
};
use nix::kmod::{
    finit_module,
    ModuleInitFlags, //
};

use super::standard;
use crate::{
    guest::{
        cpu,
        debugfs,
        kmsg::Log,
        module, //
    },
    ktap::{
        note,
        Test, //
    },
    kvm::faults::{
        By,
        Faults,
        Then, //
    },
};

/// Loading makes fewer allocations than that.
const LAST: u32 = 5000;
/// The module's own counter is on, and never comes to its end: only then it says that it has begun to run. The kernel's part of
/// insmod comes before that, with some allocations more or less each time, which fail without a word.
const COUNTING: &CStr = c"fail_nth=4294967295";
/// What it says.
const BEGUN: &str = "steps that may fail are counted";

pub fn test() -> Test {
    standard().case("each_allocation_of_insmod_fails_and_is_undone", each)
}

/// How attempts to load have ended, and how many.
#[derive(Default)]
struct Outcomes {
    /// The kernel failed before the module's own code ran.
    by_kernel: u32,
    /// The module did, and said what it had no memory for.
    named: BTreeMap<String, u32>,
    /// The module did, and did not say what it had no memory for: the allocation, and what was said.
    silent: Vec<String>,
    /// Loaded all the same.
    not_minded: u32,
}

impl Outcomes {
    /// Counts an attempt that failed at allocation `nth`, with what the module said.
    fn count(&mut self, nth: u32, lines: &[String]) {
        match lines.iter().find(|line| line.starts_with("refused: ")) {
            Some(line) => *self.named.entry(line.clone()).or_default() += 1,
            None if !lines.iter().any(|line| line.starts_with(BEGUN)) => self.by_kernel += 1,
            None => self.silent.push(format!("allocation {nth}: {lines:?}")),
        }
    }
}

fn each() -> Result<()> {
    let _quiet = By::kernel()?;
    let before = cpu::hotplug_states()?;
    let mut outcomes = Outcomes::default();
    let mut steps = 0;
    for nth in 1..LAST {
        let (file, mut log) = (module::file()?, Log::from_now()?);
        let mut faults = Faults::new(By::Kernel, nth, Then::GiveUp)?;
        let outcome = faults.call("insmod", || {
            Ok(finit_module(&file, COUNTING, ModuleInitFlags::empty())?)
        });
        let lines = log.eltwo()?;
        match (outcome, faults.failed()) {
            (Ok(()), _) => {
                module::unload()?;
                outcomes.not_minded += u32::from(faults.hit().is_some());
            }
            (Err(_), Some(_)) => outcomes.count(nth, &lines),
            (Err(error), None) => return Err(error.context(format!("allocation {nth}: {lines:?}"))),
        }
        module::nothing_left().with_context(|| format!("allocation {nth}"))?;
        ensure!(
            cpu::hotplug_states()? == before,
            "allocation {nth}: hotplug states differ"
        );
        if faults.hit().is_none() {
            steps = nth - 1;
            break;
        }
    }
    ensure!(steps != 0, "no end of allocations");
    let loaded = module::load()?;
    debugfs::expect_online_are_hyp()?;
    loaded.unload()?;
    report(steps, &outcomes)
}

fn report(steps: u32, outcomes: &Outcomes) -> Result<()> {
    let named: u32 = outcomes.named.values().sum();
    note(format!(
        "{steps} allocations failed in turn: {} before the module ran, {named} in it, {} not minded",
        outcomes.by_kernel, outcomes.not_minded
    ));
    for (line, count) in &outcomes.named {
        note(format!("{count} times: {line}"));
    }
    ensure!(
        outcomes.silent.is_empty(),
        "the module does not say what failed: {:?}",
        outcomes.silent
    );
    ensure!(named >= 10, "only {named} allocations of the module failed");
    Ok(())
}
