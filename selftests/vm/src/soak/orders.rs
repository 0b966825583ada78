// SPDX-License-Identifier: GPL-2.0-only

//! How long a soak is, and its seed.

use std::{
    fs,
    str::FromStr,
    time::Duration, //
};

use anyhow::{
    Context,
    Result, //
};

/// A short soak. On a slow machine it lasts longer: see the test.
const SHORT: Duration = Duration::from_secs(20);

/// What the kernel command line says. Without a word it is a short soak that is always the same.
#[derive(Clone, Copy, Debug)]
pub struct Orders {
    /// `eltwo.soak_seed=`
    pub seed: u64,
    /// `eltwo.soak_seconds=`: it goes on for as long at least.
    pub time: Duration,
    /// `eltwo.soak_loads=`: and until the module was loaded as often,
    pub loads: u64,
    /// `eltwo.soak_transitions=`: and CPUs have gone or come as often.
    pub transitions: u64,
}

impl Orders {
    /// Reads the kernel command line.
    pub fn read() -> Result<Self> {
        let line = fs::read_to_string("/proc/cmdline")?;
        let short = SHORT.as_secs();
        Ok(Self {
            seed: word(&line, "eltwo.soak_seed=", 1)?,
            time: Duration::from_secs(word(&line, "eltwo.soak_seconds=", short)?),
            loads: word(&line, "eltwo.soak_loads=", 0)?,
            transitions: word(&line, "eltwo.soak_transitions=", 0)?,
        })
    }
}

fn word<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    line: &str,
    name: &str,
    default: T,
) -> Result<T> {
    let mut words = line.split_whitespace();
    match words.find_map(|word| word.strip_prefix(name)) {
        Some(value) => value.parse().with_context(|| format!("{name}{value}")),
        None => Ok(default),
    }
}
