// SPDX-License-Identifier: GPL-2.0-only

//! The kernel log, read from a point in time on.
//!
//! Source: `Documentation/ABI/testing/dev-kmsg` of Linux.

use std::{
    fs::{
        self,
        File,
        OpenOptions, //
    },
    io::{
        Read,
        Seek,
        SeekFrom, //
    },
    os::unix::fs::OpenOptionsExt,
};

use anyhow::{
    bail,
    Context,
    Result, //
};
use nix::libc;

/// What no kernel log may have in it after a test, whatever the test.
const COMPLAINTS: [&str; 19] = [
    "WARNING:",
    "BUG:",
    "kernel BUG at",
    "Oops",
    "Internal error",
    "Unable to handle",
    "detected stall",
    "soft lockup",
    "possible circular locking",
    "possible recursive locking",
    "inconsistent lock state",
    "UBSAN:",
    "suspected memory leaks",
    "sleeping function called",
    "ODEBUG:",
    "corruption",
    "blocked for more than",
    "workqueue lockup",
    "EL2 register image differs",
];

/// What is no complaint about the module: one about the stock kernel itself, which it makes without us too (KVM in nVHE mode,
/// when a CPU comes online again: `data->slot` in `cpu_set_hyp_vector`, Linux 7.2); and a difference that a test has asked for.
const KNOWN: [&str; 2] = ["arch/arm64/kvm/arm.c", "as fail_at asks for"];

/// One record of the kernel log.
#[derive(Clone, Debug)]
pub struct Record {
    /// The text, without time stamp.
    pub text: String,
}

/// The kernel log from the moment of its creation on.
pub struct Log(File);

impl Log {
    /// Starts at the end of the log.
    pub fn from_now() -> Result<Self> {
        let mut log = Self::from_boot()?;
        log.0.seek(SeekFrom::End(0))?;
        Ok(log)
    }

    /// Starts at the oldest record.
    pub fn from_boot() -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")
            .context("/dev/kmsg")?;
        Ok(Self(file))
    }

    /// Returns the records that have come since the last call.
    pub fn records(&mut self) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        let mut buffer = [0; 8192];
        loop {
            match self.0.read(&mut buffer) {
                Ok(length) => records.extend(parse(&String::from_utf8_lossy(&buffer[..length]))),
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => return Ok(records),
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {
                    bail!("the kernel log has overrun its buffer between two looks")
                }
                Err(error) => return Err(error).context("/dev/kmsg"),
            }
        }
    }

    /// Returns the records of the module that have come since the last call, without the `eltwo: ` in front.
    pub fn eltwo(&mut self) -> Result<Vec<String>> {
        let records = self.records()?;
        Ok(records.iter().filter_map(of_eltwo).collect())
    }
}

/// A line of the kernel log since boot.
pub fn boot_line(text: &str) -> Result<String> {
    let records = Log::from_boot()?.records()?;
    records
        .into_iter()
        .map(|record| record.text)
        .find(|line| line.contains(text))
        .with_context(|| format!("the kernel log has no {text:?}"))
}

/// The text behind `eltwo: `, if the module wrote the record.
pub fn of_eltwo(record: &Record) -> Option<String> {
    record.text.strip_prefix("eltwo: ").map(str::to_string)
}

/// Records that say that the kernel is unwell.
pub fn complaints(records: &[Record]) -> Vec<&Record> {
    records
        .iter()
        .filter(|record| COMPLAINTS.iter().any(|words| record.text.contains(words)))
        .filter(|record| !KNOWN.iter().any(|words| record.text.contains(words)))
        .collect()
}

/// `<prefix>,<sequence>,<time>,<flags>;<text>` and lines of properties, each of which begins with a blank.
fn parse(raw: &str) -> Option<Record> {
    let (head, rest) = raw.split_once(';')?;
    // A line of properties has no such head.
    head.split(',').next()?.parse::<u32>().ok()?;
    Some(Record {
        text: rest.lines().next().unwrap_or_default().to_string(),
    })
}

/// Adds a line to the kernel log at level 6, so that it can be read in step with the results.
pub fn mark(text: &str) {
    // A log that cannot be written to is no reason to stop.
    let _ = fs::write("/dev/kmsg", format!("<6>{text}\n"));
}
