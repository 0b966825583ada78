// SPDX-License-Identifier: GPL-2.0-only

//! `make soak`: all hooks, loads and VMs in an order that a seed decides, for as long as one likes, and what is left behind.

use std::time::{
    Duration,
    SystemTime,
    UNIX_EPOCH, //
};

use anyhow::Result;
use clap::Args;

use crate::{
    cmd,
    runs::{
        self,
        Run, //
    },
    session::Session,
    ui::Ui, //
};

/// How a line that is shown starts. That of the program's duration looks like it, and has no indentation.
const MARK: &str = "  # soak: ";

/// Lines of the console that are shown if it fails.
const CONSOLE_TAIL: usize = 60;

/// What a machine may need beyond the time of the soak: to boot, to warm up, to take stock twice.
const REST: Duration = Duration::from_secs(900);
/// The most that a load or a transition may take on the average.
const MOST_PER_LOAD: Duration = Duration::from_secs(4);
const MOST_PER_TRANSITION: Duration = Duration::from_secs(1);

/// How long, and in which order.
#[derive(Clone, Copy, Debug, Args)]
pub struct Options {
    /// Minutes that it takes at least.
    #[arg(long, default_value_t = 5, conflicts_with = "hours")]
    minutes: u64,
    /// Hours that it takes at least.
    #[arg(long)]
    hours: Option<u64>,
    /// Go on until the module was loaded this many times.
    #[arg(long, default_value_t = 0)]
    loads: u32,
    /// Go on until CPUs went or came this many times.
    #[arg(long, default_value_t = 0)]
    transitions: u32,
    /// Do what this seed decides, instead of a new one.
    #[arg(long)]
    seed: Option<u64>,
}

impl Options {
    fn time(&self) -> Duration {
        let minutes = self
            .hours
            .map_or(self.minutes, |hours| hours.saturating_mul(60));
        Duration::from_secs(minutes.saturating_mul(60))
    }

    /// The longest that it may take.
    fn limit(&self) -> Duration {
        let counted = MOST_PER_LOAD
            .saturating_mul(self.loads)
            .max(MOST_PER_TRANSITION.saturating_mul(self.transitions));
        self.time().max(counted).saturating_add(REST)
    }

    /// What the kernel command line says.
    fn words(&self, seed: u64) -> String {
        format!(
            "eltwo.soak_seed={seed} eltwo.soak_seconds={} eltwo.soak_loads={} eltwo.soak_transitions={} eltwo.timeout={}",
            self.time().as_secs(),
            self.loads,
            self.transitions,
            self.limit().as_secs()
        )
    }
}

/// The run, which may take its time.
pub fn run_of(options: &Options) -> Run {
    Run {
        // The test's own limit comes first, as it tells more.
        timeout: options.limit().saturating_add(Duration::from_secs(120)),
        ..runs::SOAK
    }
}

/// Runs the soak, and returns whether all is well.
pub fn run(ui: &Ui, session: &Session<'_>, run: &Run, options: &Options) -> Result<bool> {
    let seed = options.seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(1, |now| u64::from(now.subsec_nanos()) ^ now.as_secs())
    });
    let minutes = options.time().as_secs() / 60;
    let label = format!(
        "soak: seed {seed}, {minutes} minutes at least ({})",
        run.description()
    );
    let mut told = Vec::new();
    let tally = ui.step(&label, |step| {
        session.run_with(run, &options.words(seed), |line| {
            step.news(line.text());
            if let Some(text) = line.text().strip_prefix(MARK) {
                told.push(text.to_owned());
            }
        })
    })?;
    for line in &told {
        ui.line(format_args!("  {line}"));
    }
    if tally.failed.is_empty() && tally.skipped.is_empty() && !told.is_empty() {
        ui.line("nothing was left behind");
        return Ok(true);
    }
    let dir = session.vm_dir(run.name);
    for line in cmd::tail(&dir.join("results.log"), CONSOLE_TAIL) {
        ui.line(format_args!("    | {line}"));
    }
    for name in tally.failed.iter().chain(&tally.skipped) {
        ui.line(format_args!("failed: {name}"));
    }
    ui.line(format_args!(
        "log: {} and console.log beside it; again: make soak ARGS=\"--seed {seed}\"",
        dir.join("results.log").display()
    ));
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: Options = Options {
        minutes: 5,
        hours: None,
        loads: 0,
        transitions: 0,
        seed: None,
    };

    #[test]
    fn hours_take_the_place_of_minutes() {
        let hours = Options {
            hours: Some(2),
            ..OPTIONS
        };
        assert_eq!(OPTIONS.time(), Duration::from_secs(300));
        assert_eq!(hours.time(), Duration::from_secs(7200));
        assert!(hours.limit() > hours.time());
        assert!(hours
            .words(7)
            .starts_with("eltwo.soak_seed=7 eltwo.soak_seconds=7200 "));
    }

    #[test]
    fn limit_leaves_time_for_what_is_counted() {
        let counted = Options {
            loads: 1000,
            transitions: 10_000,
            ..OPTIONS
        };
        assert!(counted.limit() >= MOST_PER_LOAD * 1000);
        assert!(counted.limit() >= MOST_PER_TRANSITION * 10_000);
    }
}
