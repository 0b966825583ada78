// SPDX-License-Identifier: GPL-2.0-only

//! The VM runs of `make check-debug`: those of `make check`, on the debug kernel.

use std::time::Duration;

use anyhow::Result;

use crate::{
    cmd::Failure,
    debug_kernel,
    runs::{
        Run,
        FAILSLAB,
        FLAVOUR,
        RUNS, //
    },
};

/// Runs of `make check` that are not done again, and why.
const LEFT_OUT: [(&str, &str); 6] = [
    (
        "base",
        "its tests are those of max, where this kernel has the same code",
    ),
    (
        "a53",
        "its tests are those of max, where this kernel has the same code",
    ),
    (
        "n1",
        "its tests are among those of max, where this kernel has the same code",
    ),
    (
        "guests",
        "its tests are those of guests-max, where this kernel has the same code but for clearing a core's branch history",
    ),
    (
        "faults",
        "its tests are among those of faults-max, where this kernel has the same code",
    ),
    (
        "guests-stock",
        "it is about the kernel's own KVM, not about the module",
    ),
];

/// Why runs on other flavours of the kernel are not done.
const OTHER_FLAVOUR: &str = "the debug kernel has pages of 4 KiB";

/// How much longer tests may take: every access to memory is checked, and every lock.
pub const PATIENCE: u32 = 8;

/// Memory of a machine in MiB, at least: an eighth of it is KASAN's, and freed memory waits in a quarantine.
const LEAST_MIB: u64 = 2048;

/// Memory for a crash kernel, on the command line: it is as large as this one, and has a file system with kernel and module in it.
pub const CRASH_MEMORY: &str = "crashkernel=640M";

/// Longest that a run may take.
const LONGEST: Duration = Duration::from_secs(2 * 3600);

/// What is done and what is not.
pub struct Plan {
    /// The runs.
    pub runs: Vec<Run>,
    /// What is left out, each with its reason.
    pub left_out: Vec<String>,
}

impl Plan {
    /// The runs that are named in `only`, or all if it is empty.
    pub fn new(only: &[String]) -> Result<Self> {
        let mut plan = Self {
            runs: Vec::new(),
            left_out: Vec::new(),
        };
        for run in RUNS {
            let reason = LEFT_OUT.iter().find(|(name, _)| *name == run.name);
            let reason = match reason {
                Some((_, reason)) => Some(*reason),
                None if run.flavour != FLAVOUR => Some(OTHER_FLAVOUR),
                None => None,
            };
            match reason {
                Some(reason) => plan.left_out.push(format!("VM {}: {reason}", run.name)),
                None => plan.runs.push(on_debug_kernel(run)),
            }
        }
        plan.runs.push(on_debug_kernel(&FAILSLAB));
        if only.is_empty() {
            return Ok(plan);
        }
        let names: Vec<&str> = plan.runs.iter().map(|run| run.name).collect();
        if let Some(name) = only.iter().find(|name| !names.contains(&name.as_str())) {
            let remedy = format!("name one of: {}", names.join(", "));
            let cause = format!("there is no VM run {name} on the debug kernel");
            return Err(Failure::new(cause, remedy).into());
        }
        plan.runs
            .retain(|run| only.iter().any(|name| name == run.name));
        plan.left_out.clear();
        Ok(plan)
    }
}

/// The same run on the debug kernel.
fn on_debug_kernel(run: &Run) -> Run {
    Run {
        flavour: debug_kernel::FLAVOUR,
        memory_mib: match run.ram_base {
            Some(_) => run.memory_mib,
            None => run.memory_mib.max(LEAST_MIB),
        },
        timeout: (run.timeout * PATIENCE).min(LONGEST),
        ..run.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_run_is_done_or_left_out_for_a_reason() {
        let plan = Plan::new(&[]).unwrap();
        assert_eq!(plan.runs.len() + plan.left_out.len(), RUNS.len() + 1);
        let known = |name: &str| RUNS.iter().any(|run| run.name == name);
        assert!(LEFT_OUT.iter().all(|(name, _)| known(name)));
        let max = Plan::new(&["max".to_owned()]).unwrap();
        assert_eq!((max.runs.len(), max.left_out.len()), (1, 0));
        assert!(Plan::new(&["a53".to_owned()]).is_err());
    }
}
