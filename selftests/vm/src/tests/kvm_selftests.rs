// SPDX-License-Identifier: GPL-2.0-only

//! The kernel's own KVM selftests (`tools/testing/selftests/kvm` of Linux), unchanged, one case each.
//!
//! They run on whatever answers on `/dev/kvm`: the kernel's own KVM if it is live, eltwo otherwise. The kernel's command
//! line may choose: `eltwo.kvm_selftests=NAME,NAME` runs these only, in this order. A program ends with 0 if it passes
//! and with 4 (`KSFT_SKIP`) if the machine lacks what it is about.

use std::{
    fs::{
        self,
        File, //
    },
    os::unix::process::CommandExt,
    path::Path,
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
    ensure,
    Context,
    Result, //
};
use nix::{
    sys::signal::{
        killpg,
        Signal, //
    },
    unistd::Pid,
};

use crate::{
    guest::{
        kmsg::{
            self,
            Log, //
        },
        module,
        poll, //
    },
    ktap::{
        note,
        Skip,
        Test,
        EXIT_SKIP, //
    },
};

/// Where the lab puts the programs.
const DIR: &str = "/kselftest/kvm";
/// The device that they open.
const DEVICE: &str = "/dev/kvm";
/// Keeps the output of the program that runs.
const OUTPUT: &str = "/tmp/kvm_selftest.out";
/// The word of the kernel's command line that chooses programs.
const CHOICE: &str = "eltwo.kvm_selftests=";

/// Time after which a program counts as hung.
const LIMIT: Duration = Duration::from_secs(180);
/// How long a killed program may take to be gone.
const DYING: Duration = Duration::from_secs(20);
/// Lines at the end of the output that are quoted if a program does not pass.
const QUOTED: usize = 12;
/// Characters of a line that is quoted, at most.
const QUOTED_LENGTH: usize = 160;

/// Arguments for programs whose defaults are made for real CPUs: less memory, fewer rounds, one of several modes, or (for the
/// timer) more patience.
const ARGUMENTS: [(&str, &[&str]); 8] = [
    ("arch_timer", &["-e", "200000"]),
    ("demand_paging_test", &["-b", "16M"]),
    ("dirty_log_perf_test", &["-b", "16M"]),
    ("dirty_log_test", &["-M", "clear-log", "-i", "3"]),
    ("kvm_page_table_test", &["-b", "16M"]),
    (
        "memslot_modification_stress_test",
        &["-b", "16M", "-i", "3"],
    ),
    (
        "memslot_perf_test",
        &["-f", "3", "-e", "4", "-l", "1", "-s", "64"],
    ),
    ("mmu_stress_test", &["-m", "1", "-s", "1"]),
];

pub fn test() -> Test {
    let test = Test::new().needs(hypervisor);
    let names = names().unwrap_or_default();
    let test = names.into_iter().fold(test, |test, name| {
        let case = name.clone();
        test.case(name, move || run(&case))
    });
    test.finally("module_unloads", unload)
}

/// The programs to run: those that the command line names, or all that are there, in the order of their names.
fn names() -> Result<Vec<String>> {
    let line = fs::read_to_string("/proc/cmdline")?;
    let choice = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix(CHOICE));
    if let Some(choice) = choice {
        return Ok(choice.split(',').map(str::to_string).collect());
    }
    let mut names = Vec::new();
    collect(Path::new(DIR), "", &mut names)?;
    names.sort();
    Ok(names)
}

/// Adds the files below `dir`, whose own name inside [`DIR`] is `prefix`.
fn collect(dir: &Path, prefix: &str, names: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), &format!("{name}/"), names)?;
        } else {
            names.push(name);
        }
    }
    Ok(())
}

/// Makes sure that there is a hypervisor, and something to run on it.
fn hypervisor() -> Result<()> {
    if !Path::new(DIR).exists() {
        return Skip::because(format!("no {DIR}"));
    }
    ensure!(!names()?.is_empty(), "{DIR} is empty");
    if !Path::new(DEVICE).exists() {
        module::load()?.keep();
    }
    let by = if module::is_loaded()? {
        "eltwo"
    } else {
        "the kernel's own KVM"
    };
    ensure!(Path::new(DEVICE).exists(), "{by} makes no {DEVICE}");
    note(format!("{DEVICE} is answered by {by}"));
    Ok(())
}

/// Unloads eltwo, of which nothing may be left. The kernel's own KVM stays.
fn unload() -> Result<()> {
    if !module::is_loaded()? {
        return Skip::because("the kernel's own KVM is in use");
    }
    // What a program has left behind was killed, and nobody has waited for its end.
    poll::until(DYING, module::unload)?;
    module::nothing_left()
}

/// Runs one program to its end or to the limit.
fn run(name: &str) -> Result<()> {
    let arguments = ARGUMENTS
        .iter()
        .find(|(program, _)| *program == name)
        .map_or(&[][..], |(_, arguments)| arguments);
    let mut log = Log::from_now()?;
    kmsg::mark(&format!("eltwo-test: kvm selftest {name}"));
    let output = File::create(OUTPUT)?;
    let start = Instant::now();
    let mut child = Command::new(format!("{DIR}/{name}"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .process_group(0)
        .spawn()
        .with_context(|| name.to_string())?;
    let status = wait(&mut child);
    let took = start.elapsed();
    let output = String::from_utf8_lossy(&fs::read(OUTPUT)?).into_owned();
    let result = status
        .and_then(|status| judge(status, &output))
        .and_then(|()| sane_kernel(&mut log));
    if result.as_ref().is_err_and(|error| !error.is::<Skip>()) {
        let lines: Vec<&str> = output.lines().collect();
        for line in &lines[lines.len().saturating_sub(QUOTED)..] {
            // Of a line that was written over again and again, the last state counts.
            let last = line.rsplit('\r').next().unwrap_or(line);
            let cut: String = last.chars().take(QUOTED_LENGTH).collect();
            note(format!("| {cut}"));
        }
    }
    note(format!("took {:.1} s", took.as_secs_f32()));
    result
}

/// Waits for a program, and kills it with all that it has started if it is late.
fn wait(child: &mut Child) -> Result<ExitStatus> {
    let group = Pid::from_raw(child.id().try_into()?);
    let in_time = poll::until(LIMIT, || child.try_wait()?.context("still running"));
    // Those that it has left behind go in any case.
    let _ = killpg(group, Signal::SIGKILL);
    if let Ok(status) = in_time {
        return Ok(status);
    }
    let gone = poll::until(DYING, || child.try_wait()?.context("still running"));
    match gone {
        Ok(_) => bail!("time-out: no end after {} s", LIMIT.as_secs()),
        Err(_) => bail!(
            "time-out: no end after {} s, and it cannot be killed",
            LIMIT.as_secs()
        ),
    }
}

/// What the end of a program says.
fn judge(status: ExitStatus, output: &str) -> Result<()> {
    match status.code() {
        Some(0) => Ok(()),
        Some(code) if code == i32::from(EXIT_SKIP) => Skip::because(skip_reason(output)),
        _ => bail!("{} ({status})", failure_reason(output)),
    }
}

/// The last reason that a program gives for skipping.
fn skip_reason(output: &str) -> String {
    let marked = output
        .lines()
        .rev()
        .find_map(|line| Some(line.split_once("SKIP")?.1));
    let line = marked.or_else(|| output.lines().last());
    let text = line.unwrap_or_default().trim_start_matches([' ', '-', ':']);
    text.trim().to_string()
}

/// Why a program has failed: the place and the message of its first failed assertion, else its last line.
///
/// The library prints a line of equal signs, place and condition, the process, a backtrace, the message.
fn failure_reason(output: &str) -> String {
    let mut lines = output.lines().map(str::trim);
    let found = lines.any(|line| line.contains("Test Assertion Failure"));
    if !found {
        let last = output.lines().rev().find(|line| !line.trim().is_empty());
        return last.unwrap_or("it says nothing").trim().to_string();
    }
    let place = lines.next().unwrap_or_default();
    let message = lines.find(|line| {
        let frame = line.split_once(':').is_some_and(|(head, _)| {
            head.split_whitespace()
                .all(|word| word.parse::<u32>().is_ok())
        });
        !(line.is_empty() || line.starts_with("pid=") || line.starts_with("sh: ") || frame)
    });
    message.map_or_else(
        || place.to_string(),
        |message| format!("{place}: {message}"),
    )
}

/// Fails if the kernel had to complain while the program ran.
fn sane_kernel(log: &mut Log) -> Result<()> {
    match kmsg::complaints(&log.records()?).first() {
        None => Ok(()),
        Some(record) => bail!("kernel: {}", record.text),
    }
}
