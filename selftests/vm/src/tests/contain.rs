// SPDX-License-Identifier: GPL-2.0-only

//! An exception at EL2 is contained: the host lives, is told, and can unload the module and load it again.

use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use nix::libc;

use super::standard;
use crate::{
    guest::{
        cpu,
        debugfs::{
            self,
            hypercall, //
        },
        kmsg::Log,
        module, //
    },
    ktap::{
        note,
        Test, //
    },
};

/// How to provoke an exception, and the class (ESR_EL2.EC) that it must have.
const WAYS: [(&str, u64); 5] = [
    ("read-unmapped", EC_DATA_ABORT),
    ("write-text", EC_DATA_ABORT),
    ("exec-data", EC_INSTRUCTION_ABORT),
    ("stack-overflow", EC_DATA_ABORT),
    ("brk", EC_BRK),
];
const EC_INSTRUCTION_ABORT: u64 = 0x21;
const EC_DATA_ABORT: u64 = 0x25;
const EC_BRK: u64 = 0x3c;
/// ESR_ELx.WnR of a data abort.
const ISS_WNR: u64 = 1 << 6;

pub fn test() -> Test {
    let mut test = standard();
    for (way, class) in WAYS {
        test = test.case(format!("{way}_is_contained_on_every_cpu"), move || {
            for cpu in cpu::online()? {
                contained(way, class, cpu).with_context(|| format!("{way} on CPU {cpu}"))?;
            }
            Ok(())
        });
    }
    test.case("hotplug_works_after_a_fault", hotplug_after_fault)
        .case("unknown_way_einval", unknown_way)
}

/// Faults on `cpu` of a fresh module.
fn provoke(way: &str, cpu: usize) -> Result<()> {
    cpu::on(cpu, || match debugfs::write("provoke", way) {
        Ok(()) => bail!("the write succeeded"),
        Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(()),
        Err(error) => bail!("the write failed with {error}, expected EIO"),
    })
}

fn contained(way: &str, class: u64, cpu: usize) -> Result<()> {
    let loaded = module::load()?;
    ensure!(
        debugfs::read("log")?.is_empty(),
        "the log is not empty at first"
    );
    let mut kernel_log = Log::from_now()?;
    provoke(way, cpu)?;
    let lines = kernel_log.eltwo()?;
    ensure!(
        lines
            .iter()
            .any(|line| line.contains("contained") && line.contains("ESR_EL2")),
        "the kernel log has no report: {lines:?}"
    );
    super::load_unload::equal_images(&lines)?;
    let row = debugfs::cpu(cpu)?;
    ensure!(
        row.state == "faulted" && row.faults == 1,
        "cpus shows {row:?}"
    );
    check_report(way, class, cpu)?;
    // The service is retired on all CPUs, and nobody hangs or crashes who asks for it.
    for other in cpu::online()? {
        let error = cpu::on(other, || Ok(debugfs::write("hypercall", "ping 1").err()))?;
        ensure!(
            error.as_ref().and_then(|e| e.raw_os_error()) == Some(libc::EBUSY),
            "ping on CPU {other} after the fault: {error:?}"
        );
    }
    loaded.unload()?;
    let loaded = module::load()?;
    debugfs::expect_online_are_hyp()?;
    cpu::on(cpu, || hypercall("ping 1")?.ok().map(|_| ()))?;
    loaded.unload()
}

/// The value behind `name` in the fault log.
fn logged(text: &str, name: &str) -> Result<u64> {
    let word = text
        .split_whitespace()
        .skip_while(|word| *word != name)
        .nth(1)
        .with_context(|| format!("no {name} in {text:?}"))?;
    Ok(u64::from_str_radix(word.trim_start_matches("0x"), 16)?)
}

fn check_report(way: &str, class: u64, cpu: usize) -> Result<()> {
    let text = debugfs::read("log")?;
    ensure!(
        text.contains(&format!("cpu {cpu} ")),
        "the log is not about CPU {cpu}: {text}"
    );
    let esr = logged(&text, "ESR_EL2")?;
    let far = logged(&text, "FAR_EL2")?;
    let elr = logged(&text, "ELR_EL2")?;
    ensure!(
        (esr >> 26) & 0x3f == class,
        "ESR_EL2 {esr:#x}, expected class {class:#x}"
    );
    let mappings = debugfs::mappings()?;
    let region_of = |va: u64| {
        let mut all = mappings.iter().filter(|m| m.table == "runtime");
        all.find(|m| m.contains(va)).map(|m| m.region.as_str())
    };
    match way {
        "read-unmapped" => ensure!(
            region_of(far).is_none() && esr & ISS_WNR == 0,
            "FAR_EL2 {far:#x} is in {:?}, ESR_EL2 {esr:#x}",
            region_of(far)
        ),
        "write-text" => ensure!(
            region_of(far) == Some("image.text") && esr & ISS_WNR != 0,
            "FAR_EL2 {far:#x} is in {:?}, ESR_EL2 {esr:#x}",
            region_of(far)
        ),
        "exec-data" => ensure!(
            region_of(elr).is_some_and(|region| region != "image.text") && far == elr,
            "ELR_EL2 {elr:#x} is in {:?}, FAR_EL2 {far:#x}",
            region_of(elr)
        ),
        "stack-overflow" => ensure!(
            region_of(far).is_none()
                && mappings
                    .iter()
                    .any(|m| m.region == "stack" && far < m.start && m.start - far <= 65536),
            "FAR_EL2 {far:#x} is not below a stack"
        ),
        _ => ensure!(
            region_of(elr) == Some("image.text"),
            "ELR_EL2 {elr:#x} is in {:?}",
            region_of(elr)
        ),
    }
    if cpu == 0 {
        note(&text);
    }
    Ok(())
}

/// CPUs still come and go, the one that has faulted too; none of them is ours until the module is loaded again.
fn hotplug_after_fault() -> Result<()> {
    super::needs_two_cpus()?;
    let loaded = module::load()?;
    let secondaries = cpu::secondaries()?;
    let first = secondaries[0];
    provoke("brk", first)?;
    for cpu in secondaries {
        cpu::set_online(cpu, false)?;
        cpu::set_online(cpu, true)?;
        ensure!(
            debugfs::cpu(cpu)?.state != "hyp",
            "CPU {cpu} was taken after the fault"
        );
    }
    loaded.unload()?;
    let loaded = module::load()?;
    debugfs::expect_online_are_hyp()?;
    loaded.unload()
}

fn unknown_way() -> Result<()> {
    let loaded = module::load()?;
    for text in ["nonsense", "", " ", "brk brk", "read_unmapped"] {
        match debugfs::write("provoke", text) {
            // Nothing was written, so the file was never called.
            Ok(()) => ensure!(text.is_empty(), "{text:?} was accepted"),
            Err(error) => ensure!(
                error.raw_os_error() == Some(libc::EINVAL),
                "{text:?}: {error}"
            ),
        }
    }
    debugfs::expect_online_are_hyp()?;
    loaded.unload()
}
