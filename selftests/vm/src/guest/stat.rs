// SPDX-License-Identifier: GPL-2.0-only

//! What the kernel says of a thread of this process. Source: proc_pid_stat(5).

use std::fs;

use anyhow::{
    Context,
    Result, //
};
use nix::unistd::Pid;

/// The `stat` of a thread, as it was when it was read.
pub struct Stat {
    fields: Vec<String>,
}

impl Stat {
    /// The number of the first field behind the name.
    const FIRST: usize = 3;

    /// Reads that of `thread`.
    pub fn of(thread: Pid) -> Result<Self> {
        let text = fs::read_to_string(format!("/proc/self/task/{thread}/stat"))?;
        // The name, which may have any characters, ends with the last parenthesis.
        let (_, rest) = text.rsplit_once(')').context("no name")?;
        let fields = rest.split_whitespace().map(str::to_owned).collect();
        Ok(Self { fields })
    }

    /// The field with this number, counted from 1 as the manual does, behind the name.
    fn field(&self, number: usize) -> Result<&str> {
        let field = self.fields.get(number - Self::FIRST);
        field.map(String::as_str).context("too few fields")
    }

    /// A number.
    pub fn number(&self, field: usize) -> Result<u64> {
        Ok(self.field(field)?.parse()?)
    }

    /// Whether it sleeps, and a signal would wake it up.
    pub fn sleeps(&self) -> Result<bool> {
        Ok(self.field(3)? == "S")
    }
}
