// SPDX-License-Identifier: GPL-2.0-only

//! What the user sees: steps with their duration, on a terminal or in a log.
//!
//! On a terminal a running step is a spinner with its elapsed time and its latest news; anywhere else (a CI log, a
//! pipe) a step is one line when it starts and one when it ends, without control characters.

use std::{
    fmt,
    io::{
        self,
        IsTerminal as _,
        Write as _, //
    },
    time::{
        Duration,
        Instant, //
    }, //
};

use anyhow::Result;
use indicatif::{
    MultiProgress,
    ProgressBar,
    ProgressStyle, //
};

/// Column at which durations are printed.
const TIME_COLUMN: usize = 64;

/// The user interface of one run of the program. It can be shared by threads.
#[derive(Debug)]
pub struct Ui {
    bars: MultiProgress,
    terminal: bool,
}

/// A step that is running.
#[derive(Debug)]
pub struct Step {
    bar: Option<ProgressBar>,
}

impl Ui {
    /// Looks at standard output to see whether it is a terminal.
    pub fn new() -> Self {
        Self {
            bars: MultiProgress::new(),
            terminal: io::stdout().is_terminal() && io::stderr().is_terminal(),
        }
    }

    /// Prints one line, above the running steps.
    pub fn line(&self, text: impl fmt::Display) {
        self.bars.suspend(|| {
            let mut out = io::stdout().lock();
            // A reader that has gone away (`| head`) is no reason to stop the work.
            let _ = writeln!(out, "{text}").and_then(|()| out.flush());
        });
    }

    /// Prints a line that the user should not miss.
    pub fn notice(&self, text: impl fmt::Display) {
        self.line(format_args!("notice: {text}"));
    }

    /// Runs `work`, a step of some length, and tells when it starts, what it does and how long it took.
    pub fn step<T>(&self, label: &str, work: impl FnOnce(&Step) -> Result<T>) -> Result<T> {
        let start = Instant::now();
        if !self.terminal {
            self.line(format_args!("{label} ..."));
        }
        let result = self.busy(label, work);
        let took = Seconds(start.elapsed());
        let verdict = if result.is_ok() { "" } else { " FAILED" };
        let label = format!("{label}{verdict}");
        self.line(format_args!("{label:<TIME_COLUMN$}{took}"));
        result
    }

    /// Runs `work` and shows that it is running, on a terminal only. The caller tells the result.
    pub fn busy<T>(&self, label: &str, work: impl FnOnce(&Step) -> Result<T>) -> Result<T> {
        let step = Step {
            bar: self.terminal.then(|| self.spinner(label)),
        };
        let result = work(&step);
        if let Some(bar) = &step.bar {
            bar.finish_and_clear();
        }
        result
    }

    fn spinner(&self, label: &str) -> ProgressBar {
        let bar = self.bars.add(ProgressBar::new_spinner());
        // The template is a constant: that it parses is seen at the first run.
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg}")
        {
            bar.set_style(style);
        }
        bar.set_prefix(label.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }
}

impl Step {
    /// Shows the latest news of the step, on a terminal only.
    pub fn news(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.trim().to_owned());
        }
    }
}

/// A duration as the lab prints it, for example `  12.3 s`.
#[derive(Clone, Copy, Debug)]
pub struct Seconds(pub Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>6.1} s", self.0.as_secs_f64())
    }
}
