// SPDX-License-Identifier: GPL-2.0-only

//! What one step of CPU hotplug costs, in instructions of a machine that counts them.
//!
//! The whole of it costs some hundred times as much as a hypervisor's step, and no two times the same: the CPUs wait for each
//! other. So the kernel's own trace events `cpuhp_enter` and `cpuhp_exit` say when a step begins and ends. The machine executes one
//! instruction in one nanosecond of its own time (QEMU's `-icount shift=0`), and its counter has steps of 16 ns.
//!
//! Source: `Documentation/trace/histogram.rst` of Linux, 2.2 (inter-event histograms).

use std::fs;

use anyhow::{
    ensure,
    Context,
    Result, //
};
use nix::mount::{
    mount,
    MsFlags, //
};

const DIR: &str = "/sys/kernel/tracing";

/// What the kernel is told, and where: at the end of each step it is to note what the step has cost.
const SETTINGS: [(&str, &str); 5] = [
    ("tracing_on", "0"),
    ("synthetic_events", "hotplug_step int step; u64 cost"),
    (
        "events/cpuhp/cpuhp_enter/trigger",
        "hist:keys=idx:start=common_timestamp",
    ),
    (
        "events/cpuhp/cpuhp_exit/trigger",
        "hist:keys=idx:cost=common_timestamp-$start:\
         onmatch(cpuhp.cpuhp_enter).hotplug_step(idx,$cost)",
    ),
    ("events/synthetic/hotplug_step/enable", "1"),
];

/// The kernel notes what each step costs. It goes on doing so, which makes hotplug dearer: what is to be measured without comes
/// first.
pub struct Steps(());

impl Steps {
    /// Has it begin.
    pub fn new() -> Result<Self> {
        mount(
            Some("tracefs"),
            DIR,
            Some("tracefs"),
            MsFlags::empty(),
            None::<&str>,
        )
        .context("mount tracefs")?;
        for (file, text) in SETTINGS {
            write(file, text)?;
        }
        Ok(Self(()))
    }

    /// What the step `wanted` costs while `work` takes a CPU online or offline, beyond the cheapest step of all: that one is the
    /// tracing.
    pub fn cost(&self, wanted: u32, work: impl FnOnce() -> Result<()>) -> Result<u64> {
        write("trace", "")?;
        write("tracing_on", "1")?;
        let result = work();
        write("tracing_on", "0")?;
        result?;
        let text = fs::read_to_string(format!("{DIR}/trace")).context("trace")?;
        let costs: Vec<(u32, u64)> = text.lines().filter_map(parse).collect();
        let own = costs.iter().find(|(step, _)| *step == wanted);
        let (_, own) = own.with_context(|| format!("step {wanted} is not in the trace: {text}"))?;
        let least = costs.iter().map(|(_, cost)| *cost).min().unwrap_or(0);
        ensure!(
            *own > least,
            "step {wanted} costs no more than its tracing: {text}"
        );
        Ok(own - least)
    }
}

fn write(file: &str, text: &str) -> Result<()> {
    fs::write(format!("{DIR}/{file}"), text).with_context(|| format!("{text:?} to {DIR}/{file}"))
}

/// `… hotplug_step: step=… cost=…`
fn parse(line: &str) -> Option<(u32, u64)> {
    let (_, fields) = line.split_once("hotplug_step: step=")?;
    let (step, cost) = fields.split_once(" cost=")?;
    Some((step.trim().parse().ok()?, cost.trim().parse().ok()?))
}
