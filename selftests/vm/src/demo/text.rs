// SPDX-License-Identifier: GPL-2.0-only

//! How the story is printed.

use std::{
    fmt::Display,
    time::{
        Duration,
        Instant, //
    },
};

use anyhow::Result;

use crate::ktap;

/// One line.
pub fn line(text: &str) {
    ktap::line(format!("DEMO {text}").trim_end());
}

/// A line of a chapter that is a table of its own.
pub fn row(text: impl Display) {
    line(&format!("   {text}"));
}

/// A line of a chapter: what, and what about it.
pub fn fact(name: &str, text: impl Display) {
    row(format!("{name:<10} {text}"));
}

/// The story ends here.
pub fn failed(error: &anyhow::Error) {
    line(&format!("FAILED {error:#}"));
}

/// Does something, and says how long it took.
pub fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Time)> {
    let start = Instant::now();
    let result = work()?;
    Ok((result, Time(start.elapsed())))
}

/// A duration, in milliseconds.
pub struct Time(pub Duration);

impl Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ms", self.0.as_millis())
    }
}
