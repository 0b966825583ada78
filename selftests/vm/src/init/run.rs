// SPDX-License-Identifier: GPL-2.0-only

//! Running tests one after the other, each within its time, and judging the kernel log after each.

use std::{
    fs::{
        self,
        File, //
    },
    io::Read,
    os::{
        fd::AsFd,
        unix::process::CommandExt, //
    },
    process::{
        Child,
        Command,
        ExitStatus,
        Stdio, //
    },
    time::{
        Duration,
        Instant, //
    },
};

use anyhow::{
    bail,
    Context,
    Result, //
};
use nix::{
    fcntl::OFlag,
    poll::{
        poll,
        PollFd,
        PollFlags,
        PollTimeout, //
    },
    sys::{
        signal::{
            killpg,
            Signal, //
        },
        utsname::uname,
    },
    unistd::{
        pipe2,
        Pid, //
    },
};

use super::{
    setup::{
        Results,
        PATH, //
    },
    watch::Watch,
    Orders,
};
use crate::{
    guest::{
        cpu,
        kmsg::{
            self,
            Log,
            Record, //
        },
        poll as wait,
    },
    handover::End,
    ktap::{
        Skip,
        Totals,
        EXIT_SKIP, //
    },
    tests,
};

/// How long a killed test may take to be gone. One that hangs in the kernel never is.
const DYING: Duration = Duration::from_secs(10);
/// How often the kernel log is read, at least.
const LOG_LOOK: Duration = Duration::from_secs(1);
/// Lines of the kernel log that are quoted, at most.
const QUOTED: usize = 80;

/// How a test has ended.
enum Verdict {
    Pass,
    Skip(String),
    Fail,
    /// With the limit.
    TimeOut(Duration),
    /// It cannot be run, or cannot be ended.
    Error(String),
}

/// Runs all tests that were ordered, and prints the document.
pub fn all(orders: &Orders) -> Result<()> {
    let results = Results::open(orders.verbose)?;
    let kernel = uname()?;
    results.line(&format!(
        "# eltwo-init: kernel {}, {} CPUs, run={}",
        kernel.release().to_string_lossy(),
        cpu::online()?.len(),
        orders.run.join(",")
    ));
    results.line("KTAP version 1");
    results.line(&format!("1..{}", orders.run.len()));
    let watch = Watch::begin(&orders.watch)?;
    if let Some(description) = watch.description() {
        results.line(&format!("# eltwo-init: watched by {description}"));
    }
    let mut totals = Totals::default();
    let mut stuck = None;
    for (index, name) in orders.run.iter().enumerate() {
        let start = Instant::now();
        let verdict = match &stuck {
            Some(test) => Verdict::Error(format!("not run, as {test} could not be ended")),
            None => one(name, orders, &results)
                .unwrap_or_else(|error| Verdict::Error(format!("{error:#}"))),
        };
        let last = index + 1 == orders.run.len();
        let verdict = watched(verdict, watch.look(last), &results);
        if matches!(verdict, Verdict::TimeOut(_)) && still_running(name) {
            stuck = Some(name.clone());
        }
        if stuck.is_none() {
            results.line(&format!("# {name}: {:.1} s", start.elapsed().as_secs_f32()));
        }
        results.line(&result_line(index + 1, name, &verdict));
        totals.count(&match verdict {
            Verdict::Pass => Ok(()),
            Verdict::Skip(why) => Skip::because(why),
            _ => Err(anyhow::anyhow!("failed")),
        });
    }
    results.line(&totals.to_string());
    results.line(&format!("# eltwo-init: taint {}", taint()?));
    results.line(&format!("# eltwo-init: end: {}", End::requested().name()));
    results.drain();
    Ok(())
}

fn result_line(number: usize, name: &str, verdict: &Verdict) -> String {
    match verdict {
        Verdict::Pass => format!("ok {number} {name}"),
        Verdict::Skip(why) => format!("ok {number} {name} # SKIP {why}"),
        Verdict::Fail => format!("not ok {number} {name}"),
        Verdict::TimeOut(limit) => {
            format!(
                "not ok {number} {name} # TIMEOUT {} seconds",
                limit.as_secs()
            )
        }
        Verdict::Error(why) => format!("not ok {number} {name} # ERROR {why}"),
    }
}

/// The taint of the kernel as a number and as the letters of its oopses.
fn taint() -> Result<String> {
    const LETTERS: &str = "PFSRMBUDAWCIOELKXTN";
    let taint = tests::taint()?;
    let letters: Vec<String> = LETTERS
        .chars()
        .enumerate()
        .filter(|(bit, _)| (taint >> bit) & 1 != 0)
        .map(|(_, letter)| letter.to_string())
        .collect();
    Ok(format!("{taint} ({})", letters.join(" ")))
}

/// The verdict on a test that may have left something behind that it does not know of.
fn watched(verdict: Verdict, wrong: Result<Vec<String>>, results: &Results) -> Verdict {
    let wrong = wrong.unwrap_or_else(|error| vec![format!("cannot look: {error:#}")]);
    for line in wrong.iter().take(QUOTED) {
        results.line(&format!("# found: {line}"));
    }
    match verdict {
        Verdict::Pass | Verdict::Skip(_) if !wrong.is_empty() => Verdict::Fail,
        verdict => verdict,
    }
}

/// Runs one test.
fn one(name: &str, orders: &Orders, results: &Results) -> Result<Verdict> {
    let Some(program) = tests::find(name) else {
        bail!("there is no such test");
    };
    let limit = orders.limit.unwrap_or(program.limit * orders.patience);
    let mut log = Log::from_now()?;
    kmsg::mark(&format!("eltwo-test: start {name}"));
    // A process that outlives the test must not inherit it.
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    let mut child = Command::new(format!("/tests/{name}"))
        .env("PATH", PATH)
        .env(wait::PATIENCE, orders.patience.to_string())
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0)
        .spawn()
        .context("cannot be started")?;
    let mut forward = Forward {
        results,
        rest: Vec::new(),
        skip: None,
        log: &mut log,
        records: Ok(Vec::new()),
    };
    let timely = forward.run(File::from(reader), Instant::now() + limit)?;
    let status = end(&mut child, timely)?;
    forward.follow_log();
    let Forward { skip, records, .. } = forward;
    let complaints = complain(&records, results);
    let verdict = match status {
        _ if !timely => Verdict::TimeOut(limit),
        None => Verdict::Error("it has closed its output and does not end".into()),
        Some(status) => match status.code() {
            _ if complaints => Verdict::Fail,
            Some(0) => Verdict::Pass,
            Some(code) if code == i32::from(EXIT_SKIP) => Verdict::Skip(skip.unwrap_or_default()),
            Some(_) => Verdict::Fail,
            None => Verdict::Error(status.to_string()),
        },
    };
    if !matches!(verdict, Verdict::Pass | Verdict::Skip(_)) {
        quote(&records.unwrap_or_default(), results);
    }
    Ok(verdict)
}

/// Passes the output of a test on, indented as a nested document.
struct Forward<'a> {
    results: &'a Results,
    /// The beginning of a line.
    rest: Vec<u8>,
    /// The reason that the test gives for skipping itself.
    skip: Option<String>,
    log: &'a mut Log,
    /// The kernel log so far. It is read now and then, because its buffer is too small for a long test.
    records: Result<Vec<Record>>,
}

impl Forward<'_> {
    /// Passes everything on until the test closes its output. False if that is not so by `deadline`.
    fn run(&mut self, mut reader: File, deadline: Instant) -> Result<bool> {
        let mut buffer = [0; 4096];
        loop {
            self.follow_log();
            let left = deadline.saturating_duration_since(Instant::now());
            let left = left.min(LOG_LOOK);
            let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            if poll(&mut fds, timeout)? == 0 && Instant::now() >= deadline {
                return Ok(false);
            }
            if fds[0].any() != Some(true) {
                continue;
            }
            let length = reader.read(&mut buffer)?;
            if length == 0 {
                if !self.rest.is_empty() {
                    self.feed(b"\n");
                }
                return Ok(true);
            }
            self.feed(&buffer[..length]);
        }
    }

    /// Takes what the kernel has said since the last time.
    fn follow_log(&mut self) {
        if let Ok(records) = &mut self.records {
            match self.log.records() {
                Ok(fresh) => records.extend(fresh),
                Err(error) => self.records = Err(error),
            }
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line[..end]).into_owned();
            if let Some(reason) = line.strip_prefix("1..0 # SKIP ") {
                self.skip = Some(reason.to_string());
            }
            self.results.line(&format!("  {line}"));
        }
    }
}

/// Ends a test that is late, and waits for it. Nothing if it does not go.
fn end(child: &mut Child, timely: bool) -> Result<Option<ExitStatus>> {
    if !timely {
        // The backtraces of all CPUs and of blocked tasks go to the kernel log.
        for key in ["l", "w"] {
            let _ = fs::write("/proc/sysrq-trigger", key);
        }
        let _ = killpg(Pid::from_raw(child.id().try_into()?), Signal::SIGKILL);
    }
    let gone = wait::until(DYING, || child.try_wait()?.context("still running"));
    Ok(gone.ok())
}

/// Is there still a process with this name?
fn still_running(name: &str) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else {
        return false;
    };
    processes
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("comm")).ok())
        .any(|comm| name.starts_with(comm.trim()))
}

/// Quotes what the kernel had to complain about. True if there was anything, or may have been.
fn complain(records: &Result<Vec<Record>>, results: &Results) -> bool {
    match records {
        Ok(records) => {
            let complaints = kmsg::complaints(records);
            for record in complaints.iter().take(QUOTED) {
                results.line(&format!("# kernel: {}", record.text));
            }
            !complaints.is_empty()
        }
        Err(error) => {
            // Whatever it said is lost.
            results.line(&format!("# kernel log: {error:#}"));
            true
        }
    }
}

/// Quotes the end of the kernel log of a test that has not passed.
fn quote(records: &[Record], results: &Results) {
    for record in &records[records.len().saturating_sub(QUOTED)..] {
        results.line(&format!("# dmesg: {}", record.text));
    }
}
