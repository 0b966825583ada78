// SPDX-License-Identifier: GPL-2.0-only

//! Steps that fail on request, one after the other: by the module's own count, or by the kernel's.
//!
//! Source: `Documentation/fault-injection/fault-injection.rst` of Linux (`/proc/<pid>/fail-nth`); the file `fail_nth` of the
//! module in debugfs.

use std::{
    fs::{
        self,
        File,
        OpenOptions, //
    },
    os::unix::fs::FileExt,
    path::Path,
};

use anyhow::{
    ensure,
    Context,
    Result, //
};
use nix::{
    errno::Errno,
    libc, //
};

use crate::{
    guest::debugfs,
    ktap::Skip, //
};

/// What a module is loaded with so that it has the file `fail_nth`, but nothing fails: no step has this number.
pub const COUNT_ONLY: &str = "fail_nth=4294967295";

/// Of this thread.
const FAIL_NTH: &str = "/proc/thread-self/fail-nth";
const CAPABILITIES: [&str; 2] = ["failslab", "fail_page_alloc"];

/// How much of its log the kernel shows on the console.
const PRINTK: &str = "/proc/sys/kernel/printk";

/// A quiet console, for as long as this lives.
pub struct Quiet(String);

impl Quiet {
    /// Only emergencies and alerts.
    fn new() -> Result<Self> {
        let before = fs::read_to_string(PRINTK).context(PRINTK)?;
        fs::write(PRINTK, "2").context(PRINTK)?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // What could be written can be written again.
        let _ = fs::write(PRINTK, &self.0);
    }
}

/// Who makes steps fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The module: each of its own steps.
    Module,
    /// The kernel: each allocation, and each copy from or to user space, that a system call of this thread makes.
    Kernel,
}

impl By {
    /// Gets the kernel ready to make steps fail, and skips where it cannot.
    pub fn kernel() -> Result<Quiet> {
        if !Path::new(FAIL_NTH).exists() {
            return Skip::because("the kernel has no fault injection");
        }
        // Each page that cannot be had is worth a report with a call trace to the kernel, which on the console would count
        // as trouble. The log has it all the same, and is looked through for what is.
        let quiet = Quiet::new()?;
        for capability in CAPABILITIES {
            let set = |file: &str, value: &str| {
                let path = format!("/sys/kernel/debug/{capability}/{file}");
                fs::write(&path, value).context(path)
            };
            // Those that may wait are what the module makes.
            set("ignore-gfp-wait", "N")?;
            set("verbose", "0")?;
        }
        Ok(quiet)
    }
}

/// The switch of it.
enum Switch {
    Module,
    /// [`FAIL_NTH`], open: opening it makes allocations that would count.
    Kernel(File),
}

impl Switch {
    fn of(by: By) -> Result<Self> {
        Ok(match by {
            By::Module => Self::Module,
            By::Kernel => {
                let file = OpenOptions::new().read(true).write(true).open(FAIL_NTH);
                Self::Kernel(file.context(FAIL_NTH)?)
            }
        })
    }

    fn arm(&self, nth: u32) -> Result<()> {
        let nth = nth.to_string();
        match self {
            Self::Module => debugfs::write("fail_nth", &nth)?,
            Self::Kernel(file) => file.write_all_at(nth.as_bytes(), 0)?,
        }
        Ok(())
    }

    /// Switches it off, and returns how many steps were left before one fails, of `nth` that there were; 0 if one has failed.
    fn disarm(&self, nth: u32) -> Result<u32> {
        match self {
            Self::Module => {
                let left = nth.saturating_sub(taken()?);
                self.arm(0)?;
                Ok(left)
            }
            Self::Kernel(file) => {
                let mut digits = [0; 16];
                // The copies of these two calls are steps too: one that fails has been told to, and was the last.
                let left = match file.read_at(&mut digits, 0) {
                    Ok(length) => {
                        let text = String::from_utf8_lossy(&digits[..length]).into_owned();
                        text.trim().parse().context(text)?
                    }
                    Err(error) if error.raw_os_error() == Some(libc::EFAULT) => 1,
                    Err(error) => return Err(error).context(FAIL_NTH),
                };
                match self.arm(0) {
                    Err(error) if left == 0 => Err(error),
                    _ => Ok(left),
                }
            }
        }
    }
}

/// How many steps the module has counted.
fn taken() -> Result<u32> {
    let text = debugfs::read("fail_nth")?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix("steps_taken: "));
    value
        .context("no steps_taken")?
        .parse()
        .context("steps_taken")
}

/// What to do when a call has failed as requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Make it again: it must succeed.
    Again,
    /// Give up.
    GiveUp,
}

/// A row of calls of which one step fails.
pub struct Faults {
    by: By,
    switch: Switch,
    then: Then,
    /// Steps that are left before one fails; 0 if it has failed, or is not to.
    left: u32,
    /// The step has failed in this call.
    hit: Option<&'static str>,
    /// The call has failed with this.
    failed: Option<Errno>,
}

impl Faults {
    /// Step number `nth` fails; 0 for none.
    pub fn new(by: By, nth: u32, then: Then) -> Result<Self> {
        Ok(Self {
            by,
            switch: Switch::of(by)?,
            then,
            left: nth,
            hit: None,
            failed: None,
        })
    }

    /// Whether the step was reached, and in which call.
    pub fn hit(&self) -> Option<&'static str> {
        self.hit
    }

    /// What the call failed with; `None` if it succeeded all the same.
    pub fn failed(&self) -> Option<Errno> {
        self.failed
    }

    /// Makes a call. Only it can fail on request, not what is between the calls.
    ///
    /// # Errors
    ///
    /// Whatever is wrong; with [`Then::GiveUp`] the error that was requested.
    pub fn call<T>(
        &mut self,
        what: &'static str,
        mut call: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        if self.left == 0 {
            return call().context(what);
        }
        self.switch.arm(self.left)?;
        let result = call();
        self.left = self.switch.disarm(self.left)?;
        if self.left != 0 {
            return result.context(what);
        }
        self.hit = Some(what);
        let error = match result {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let errno = error.downcast_ref::<Errno>().copied();
        // A copy from or to user space that fails is one from or to a wrong address.
        let expected = match self.by {
            By::Module => errno == Some(Errno::ENOMEM),
            By::Kernel => matches!(errno, Some(Errno::ENOMEM | Errno::EFAULT)),
        };
        ensure!(expected, "{what} fails with another error: {error:#}");
        self.failed = errno;
        match self.then {
            Then::Again => call().with_context(|| format!("{what}, the second time")),
            Then::GiveUp => Err(error.context(what)),
        }
    }
}
