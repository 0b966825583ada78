// SPDX-License-Identifier: GPL-2.0-only

//! What a crash kernel finds: it is at EL2, has the whole memory of the kernel that has died, with its log, and can load the
//! module.

use std::fs;

use anyhow::{
    ensure,
    Context,
    Result, //
};
use memchr::memmem;

use super::standard;
use crate::{
    crash::{
        self,
        Panic,
        ENDED, //
    },
    guest::{
        debugfs,
        kmsg::{
            self,
            Record, //
        },
        module,
        page,
        printk,
        vmcore::Vmcore, //
    },
    ktap::{
        note,
        Test, //
    },
};

pub fn test() -> Test {
    standard()
        .case("crash_kernel_started_at_el2", started_at_el2)
        .case("vmcore_has_all_memory", all_memory)
        .case("vmcore_has_every_cpu", every_cpu)
        .case("vmcore_is_readable_to_its_end", readable)
        .case("vmcore_has_the_log_of_the_panic", log)
        .case("crash_kernel_insmod_works", insmod_works)
}

fn started_at_el2() -> Result<()> {
    let line = kmsg::boot_line("CPU: All CPU(s) started at")?;
    note(&line);
    ensure!(line.contains("EL2"), "{line}");
    Ok(())
}

/// What the first kernel has put on our command line.
fn told(name: &str) -> Result<String> {
    let line = fs::read_to_string("/proc/cmdline")?;
    let word = crash::word(&line, name);
    Ok(word.with_context(|| format!("no {name}="))?.to_string())
}

/// Every byte of RAM that the first kernel had, but for ours, is in a segment.
fn all_memory() -> Result<()> {
    let vmcore = Vmcore::open()?;
    for range in told("eltwo.ram")?.split(',') {
        let ends = range.split_once('-').context("eltwo.ram")?;
        let [first, last] = [ends.0, ends.1].map(|word| u64::from_str_radix(&word[2..], 16));
        let (mut next, last) = (first?, last?);
        while next <= last {
            let segment = vmcore.segments.iter().find(|s| s.holds(next));
            let segment =
                segment.with_context(|| format!("{next:#x} of {range} is not in {vmcore:x?}"))?;
            next = segment.pa + segment.bytes;
        }
    }
    note(format!("{:x?}", vmcore.segments));
    Ok(())
}

/// Each CPU that was online has saved its registers, as it does when it is stopped, in a guest or not; and the kernel's facts are
/// there.
fn every_cpu() -> Result<()> {
    let vmcore = Vmcore::open()?;
    let online: usize = told("eltwo.online")?.parse()?;
    ensure!(
        vmcore.cpus == online,
        "{} CPUs have saved their registers, of {online}",
        vmcore.cpus
    );
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let line = format!("OSRELEASE={}", release.trim());
    ensure!(
        vmcore.info.lines().any(|found| found == line),
        "VMCOREINFO lacks {line}: {}",
        vmcore.info
    );
    Ok(())
}

/// How much is mapped at a time, in bytes.
const WINDOW: usize = 64 << 20;

/// Every page can be read, and what the dead kernel knew is in there.
fn readable() -> Result<()> {
    let vmcore = Vmcore::open()?;
    let words = Panic::ordered()?.last_words();
    let finder = memmem::Finder::new(&words);
    let page = page::size_bytes()?;
    let mut seen = false;
    for offset in (0..vmcore.size).step_by(WINDOW) {
        // They may lie across the border of two windows.
        let rest = usize::try_from(vmcore.size - offset)?;
        let window = vmcore.map(offset, rest.min(WINDOW + page))?;
        // A search that finds nothing has touched each page.
        seen |= finder.find_iter(&window).count() != 0;
    }
    ensure!(
        seen,
        "the last words of the dead kernel are not in its memory"
    );
    for segment in &vmcore.segments {
        let last = segment.pa + segment.bytes - 1;
        for pa in [segment.pa, last] {
            vmcore.read(pa, 1)?;
        }
    }
    note(format!("{} bytes", vmcore.size));
    Ok(())
}

/// The log of the dead kernel is whole: from its first line to the panic, with what the module had to say.
fn log() -> Result<()> {
    let panic = Panic::ordered()?;
    let lines = printk::lines(&Vmcore::open()?)?;
    let first = lines.first().context("the log is empty")?;
    ensure!(
        first.starts_with("Booting Linux on physical CPU"),
        "it begins with {first:?}"
    );
    let message = format!("Kernel panic - not syncing: {}", panic.message());
    let at = lines.iter().position(|line| *line == message);
    let (before, after) = lines.split_at(at.with_context(|| format!("no panic in {lines:#?}"))?);
    let last_words = panic.last_words();
    for words in ["eltwo: loaded: ", &last_words] {
        ensure!(
            before.iter().any(|line| line.starts_with(words)),
            "the log lacks {words:?}: {before:#?}"
        );
    }
    ensure!(
        !before.iter().any(|line| line.starts_with(ENDED)),
        "what was to go on until the panic has ended: {before:#?}"
    );
    let before: Vec<Record> = before.iter().cloned().map(|text| Record { text }).collect();
    let complaints = kmsg::complaints(&before);
    ensure!(complaints.is_empty(), "before the panic: {complaints:?}");
    let cpu = format!("CPU: {} ", panic.cpu());
    ensure!(
        after.iter().any(|line| line.starts_with(&cpu)),
        "the panic is not on that CPU: {after:#?}"
    );
    // KVM_RUN was on the stack.
    ensure!(
        panic != Panic::Guest || after.iter().any(|line| line.contains("[eltwo]")),
        "no trace of the module: {after:#?}"
    );
    note(format!("{} lines; {}", lines.len(), after.join("; ")));
    Ok(())
}

fn insmod_works() -> Result<()> {
    let loaded = module::load()?;
    debugfs::expect_online_are_hyp()?;
    debugfs::hypercall("ping 1")?.ok()?;
    loaded.unload()
}
