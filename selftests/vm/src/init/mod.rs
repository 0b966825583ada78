// SPDX-License-Identifier: GPL-2.0-only

//! Process 1: sets the machine up, runs what the kernel command line names, and ends the machine.
//!
//! | word | meaning |
//! |---|---|
//! | `eltwo.run=a,b,c` | tests, in this order; `all` stands for every plain one; `shell` and `demo` for those |
//! | `eltwo.timeout=S` | seconds for every test, instead of its own limit |
//! | `eltwo.resume=1` | go on where the image on the disk ends, if there is one |
//! | `eltwo.patience=N` | times that a test may take longer than its limit |
//! | `eltwo.watch=a,b` | it is a failure if this kernel does not look for errors with each of these: `kmemleak`, `lockdep` |
//! | `eltwo.verbose=1` | leave the log level of the console alone |

mod resume;
mod run;
mod setup;
mod watch;

use std::{
    fs,
    path::Path,
    process::{
        Command,
        Stdio, //
    },
    thread,
    time::Duration,
};

use anyhow::{
    Context,
    Result, //
};
use nix::unistd::sync;

use crate::{
    handover::End,
    tests, //
};

/// What the kernel command line says.
pub struct Orders {
    run: Vec<String>,
    limit: Option<Duration>,
    patience: u32,
    watch: Vec<String>,
    verbose: bool,
    resume: bool,
}

impl Orders {
    fn parse(line: &str) -> Self {
        let mut orders = Self {
            run: Vec::new(),
            limit: None,
            patience: 1,
            watch: Vec::new(),
            verbose: false,
            resume: false,
        };
        for word in line.split_whitespace() {
            match word.split_once('=') {
                Some(("eltwo.run", names)) => {
                    orders.run = names.split(',').flat_map(expand).collect();
                }
                Some(("eltwo.timeout", seconds)) => {
                    orders.limit = seconds.parse().ok().map(Duration::from_secs);
                }
                Some(("eltwo.resume", value)) => orders.resume = value != "0",
                Some(("eltwo.patience", times)) => {
                    orders.patience = times.parse().unwrap_or(orders.patience).max(1);
                }
                Some(("eltwo.watch", names)) => {
                    orders.watch = names.split(',').map(str::to_string).collect();
                }
                Some(("eltwo.verbose", value)) => orders.verbose = value != "0",
                _ => {}
            }
        }
        orders
    }
}

/// `all` stands for every plain test.
fn expand(name: &str) -> Vec<String> {
    if name == "all" {
        let plain = tests::PROGRAMS.iter().filter(|program| program.plain);
        plain.map(|program| program.name.to_string()).collect()
    } else {
        vec![name.to_string()]
    }
}

/// Runs as process 1, to the end of the machine.
pub fn run() -> ! {
    let end = match everything() {
        Ok(end) => end,
        Err(error) => {
            eprintln!("eltwo-init: {error:#}");
            End::PowerOff
        }
    };
    sync();
    for end in [end, End::PowerOff] {
        let error = end.go();
        eprintln!("eltwo-init: {} failed: {error:#}", end.name());
    }
    // Process 1 must not end, or the kernel panics and hides what went wrong.
    loop {
        thread::park();
    }
}

fn everything() -> Result<End> {
    setup::mount_all()?;
    setup::link_tests()?;
    setup::install_busybox()?;
    let line = fs::read_to_string("/proc/cmdline")?;
    let orders = Orders::parse(&line);
    if orders.resume {
        resume::if_there_is_an_image()?;
    }
    match orders.run.first().map(String::as_str) {
        None | Some("shell") => shell()?,
        Some(name @ ("demo" | "demo_second")) => demo(name)?,
        Some(_) => run::all(&orders)?,
    }
    Ok(End::requested())
}

/// A shell on the console, until it ends.
fn shell() -> Result<()> {
    let console = ["/dev/ttyAMA0", "/dev/console"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .context("no console")?;
    let terminal = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(console)?;
    // A session of its own with the console as its terminal, so that job control and Ctrl-C work.
    Command::new("/bin/busybox")
        .args(["setsid", "-c", "/bin/busybox", "sh"])
        .env("PATH", setup::PATH)
        .env("HOME", "/")
        .env("PS1", "eltwo# ")
        .stdin(terminal.try_clone()?)
        .stdout(terminal.try_clone()?)
        .stderr(terminal)
        .status()
        .context("/bin/busybox")?;
    Ok(())
}

fn demo(name: &str) -> Result<()> {
    let results = setup::Results::open(false)?;
    let status = Command::new(format!("/tests/{name}"))
        .env("PATH", setup::PATH)
        .stdin(Stdio::null())
        .stdout(results.for_child()?)
        .status()
        .context(name.to_string())?;
    if status.code().is_none() {
        // It had no time to say so itself.
        results.line(&format!("DEMO FAILED {status}"));
    }
    results.drain();
    Ok(())
}
