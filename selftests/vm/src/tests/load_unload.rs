// SPDX-License-Identifier: GPL-2.0-only

//! insmod takes EL2 over on every CPU, rmmod gives it back and leaves nothing behind.

use std::{
    collections::{
        BTreeMap,
        BTreeSet, //
    },
    path::Path, //
};

use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use nix::errno::Errno;

use super::standard;
use crate::{
    guest::{
        cpu,
        debugfs,
        kmsg::Log,
        module, //
    },
    ktap::{
        note,
        Test, //
    },
};

pub fn test() -> Test {
    standard()
        .case("insmod_makes_files", insmod_makes_files)
        .case("insmod_every_cpu_hyp", insmod_every_cpu_hyp)
        .case("insmod_pool_accounts_add_up", insmod_pool_accounts_add_up)
        .case("insmod_tables_are_w_xor_x", insmod_tables_are_w_xor_x)
        .case(
            "insmod_tables_meet_in_the_trampoline",
            insmod_tables_meet_in_the_trampoline,
        )
        .case("insmod_stacks_have_guards", insmod_stacks_have_guards)
        .case(
            "insmod_ttbr0_is_the_runtime_pgd",
            insmod_ttbr0_is_the_runtime_pgd,
        )
        .case("insmod_twice_fails", insmod_twice_fails)
        .case("insmod_bad_parameter_fails", insmod_bad_parameter_fails)
        .case("rmmod_log_register_image_equal", rmmod_register_image_equal)
        .case("rmmod_leaves_nothing", rmmod_leaves_nothing)
        .case("rmmod_open_file_is_busy_or_safe", rmmod_open_file)
}

fn insmod_makes_files() -> Result<()> {
    let loaded = module::load()?;
    for file in debugfs::FILES {
        let path = format!("/sys/kernel/debug/eltwo/{file}");
        ensure!(Path::new(&path).exists(), "{path} is missing");
    }
    loaded.unload()
}

fn insmod_every_cpu_hyp() -> Result<()> {
    let mut log = Log::from_now()?;
    let loaded = module::load()?;
    let lines = log.eltwo()?;
    ensure!(
        lines.iter().any(|line| line.starts_with("loaded")),
        "the log does not say loaded: {lines:?}"
    );
    for row in debugfs::cpus()? {
        debugfs::expect_hyp(&row)?;
        ensure!(row.faults == 0, "CPU {} has faulted: {row:?}", row.cpu);
        ensure!(
            row.inits == 1,
            "CPU {} was initialised more than once: {row:?}",
            row.cpu
        );
    }
    loaded.unload()
}

/// Every page of the pool is free or used for something that `pool` names.
fn insmod_pool_accounts_add_up() -> Result<()> {
    let loaded = module::load()?;
    let pool = debugfs::pool()?;
    let get = |key: &str| {
        pool.get(key)
            .copied()
            .with_context(|| format!("pool has no {key}"))
    };
    let sum: u64 = pool
        .iter()
        .filter(|(key, _)| key.starts_with("pages_") && *key != "pages_total")
        .map(|(_, pages)| pages)
        .sum();
    ensure!(
        get("pages_total")? == sum,
        "the pages do not add up: {pool:?}"
    );
    let granule = get("granule_bytes")?;
    ensure!(
        get("pages_image")? * granule >= get("image_bytes")? && get("image_bytes")? > 0,
        "the image does not fit in its pages: {pool:?}"
    );
    ensure!(
        get("pages_tables")? >= 6,
        "two PGDs in fewer than six tables: {pool:?}"
    );
    let cpus = cpu::present()?.len() as u64;
    for kind in ["pages_contexts", "pages_stacks"] {
        ensure!(get(kind)? >= cpus, "fewer {kind} than CPUs: {pool:?}");
    }
    note(format!("{pool:?}"));
    loaded.unload()
}

fn insmod_tables_are_w_xor_x() -> Result<()> {
    let loaded = module::load()?;
    let mappings = debugfs::mappings()?;
    for mapping in &mappings {
        ensure!(
            mapping.allows('R') && mapping.end > mapping.start,
            "odd: {mapping:x?}"
        );
        ensure!(
            !(mapping.allows('W') && mapping.allows('X')),
            "writable and executable: {mapping:x?}"
        );
    }
    for code in mappings.iter().filter(|mapping| !mapping.allows('W')) {
        let alias = mappings
            .iter()
            .filter(|mapping| mapping.allows('W') && mapping.region != "linear/shared")
            .find(|mapping| code.holds(mapping.pa) || mapping.holds(code.pa));
        ensure!(
            alias.is_none(),
            "{code:x?} is writable by way of {alias:x?}"
        );
    }
    loaded.unload()
}

/// Boot and runtime tables have no VA in common but the trampoline, and each has what the journeys need.
fn insmod_tables_meet_in_the_trampoline() -> Result<()> {
    let loaded = module::load()?;
    let mappings = debugfs::mappings()?;
    let table = |name: &'static str| mappings.iter().filter(move |mapping| mapping.table == name);
    ensure!(
        table("boot").any(|m| m.region == "idmap" && m.start == m.pa && m.allows('X')),
        "the boot tables have no idmap page with VA = PA"
    );
    ensure!(
        table("boot").count() == 2,
        "more than idmap and trampoline in the boot tables"
    );
    ensure!(
        table("runtime").all(|m| m.start != m.pa),
        "a runtime VA is the PA"
    );
    for boot in table("boot") {
        for runtime in table("runtime") {
            ensure!(
                boot.end <= runtime.start
                    || runtime.end <= boot.start
                    || (boot.region == "trampoline"
                        && runtime.region == "trampoline"
                        && (boot.start, boot.end, boot.pa)
                            == (runtime.start, runtime.end, runtime.pa)),
                "a VA in both tables: {boot:x?} and {runtime:x?}"
            );
        }
    }
    for region in [
        "trampoline",
        "image.text",
        "image.rodata",
        "stack",
        "context",
    ] {
        ensure!(
            table("runtime").any(|m| m.region == region),
            "the runtime tables have no {region}"
        );
    }
    loaded.unload()
}

/// Below each stack is a page that nothing maps, so that an overflow cannot go unnoticed.
fn insmod_stacks_have_guards() -> Result<()> {
    let loaded = module::load()?;
    let mappings = debugfs::mappings()?;
    let stacks: Vec<_> = mappings
        .iter()
        .filter(|mapping| mapping.region == "stack")
        .collect();
    for stack in &stacks {
        let below = mappings
            .iter()
            .find(|m| m.table == stack.table && m.contains(stack.start - 1));
        ensure!(
            below.is_none_or(|m| m.region == "stack"),
            "below {stack:x?} is {below:x?}"
        );
    }
    let bottoms = stacks
        .iter()
        .filter(|stack| !stacks.iter().any(|other| other.end == stack.start));
    let cpus = cpu::present()?.len();
    ensure!(
        bottoms.count() == cpus,
        "not one stack for each of {cpus} CPUs: {stacks:x?}"
    );
    loaded.unload()
}

/// The address in TTBR0_EL2. With PAs of 52 bits, bits 5:2 are bits 51:48 of it.
fn table_at(ttbr0: u64) -> Result<u64> {
    const BADDR: u64 = 0x0000_ffff_ffff_fffe;
    const BADDR_52: u64 = 0x0000_ffff_ffff_ffc0;
    Ok(match debugfs::pool_value("pa_bits")? {
        52 => (ttbr0 & BADDR_52) | (((ttbr0 >> 2) & 0xf) << 48),
        _ => ttbr0 & BADDR,
    })
}

fn insmod_ttbr0_is_the_runtime_pgd() -> Result<()> {
    let loaded = module::load()?;
    let pgd = debugfs::pgd("runtime")?;
    ensure!(pgd != debugfs::pgd("boot")?, "one PGD for both");
    for row in debugfs::cpus()? {
        let ttbr0 = row.ttbr0.context("no TTBR0_EL2")?;
        ensure!(
            table_at(ttbr0)? == pgd,
            "CPU {}: TTBR0_EL2 {ttbr0:#x}, PGD at {pgd:#x}",
            row.cpu
        );
    }
    loaded.unload()
}

fn insmod_twice_fails() -> Result<()> {
    let loaded = module::load()?;
    match module::try_load("")? {
        Ok(_) => bail!("a second insmod succeeded"),
        Err(refused) => ensure!(refused.errno == Errno::EEXIST, "{refused}"),
    }
    debugfs::expect_online_are_hyp()?;
    loaded.unload()
}

fn insmod_bad_parameter_fails() -> Result<()> {
    module::expect_refusal("pool_kib=many", Errno::EINVAL).map(|_| ())
}

fn rmmod_register_image_equal() -> Result<()> {
    let loaded = module::load()?;
    let mut log = Log::from_now()?;
    loaded.unload()?;
    let lines = log.eltwo()?;
    let equal = equal_images_on(&lines, &cpu::online()?)?;
    ensure!(
        equal.values().all(|registers| *registers >= 23),
        "too few registers: {equal:?}"
    );
    ensure!(
        lines.iter().any(|line| line.starts_with("unload")),
        "the log does not say unloaded: {lines:?}"
    );
    note(format!("registers compared, by CPU: {equal:?}"));
    Ok(())
}

/// CPUs whose register image the log reports as equal at reset, with the number of registers. A difference is an error.
pub fn equal_images(log: &[String]) -> Result<BTreeMap<usize, u64>> {
    let mut equal = BTreeMap::new();
    for line in log {
        let Some((cpu, rest)) = line.split_once(": EL2 register image ") else {
            continue;
        };
        let Some(count) = rest
            .strip_prefix("equal (")
            .and_then(|r| r.split(' ').next())
        else {
            bail!("the register image differs: {line}");
        };
        let cpu = cpu.strip_prefix("CPU").with_context(|| line.clone())?;
        equal.insert(cpu.parse()?, count.parse()?);
    }
    Ok(equal)
}

/// As [`equal_images`]. They must have been compared on the CPUs `due`, and on no others.
pub fn equal_images_on(log: &[String], due: &[usize]) -> Result<BTreeMap<usize, u64>> {
    let equal = equal_images(log)?;
    let due: BTreeSet<usize> = due.iter().copied().collect();
    ensure!(
        equal.keys().eq(&due),
        "register images were compared on CPUs {:?}, expected {due:?}: {log:?}",
        equal.keys()
    );
    Ok(equal)
}

/// A file of the module that is open keeps it loaded: it never reaches freed code.
fn rmmod_open_file() -> Result<()> {
    let loaded = module::load()?;
    let mut caller = debugfs::Caller::open()?;
    caller.call("version")?.ok()?;
    module::expect_busy("a file in debugfs")?;
    caller.call("version")?.ok()?;
    drop(caller);
    loaded.unload()
}

fn rmmod_leaves_nothing() -> Result<()> {
    let before = cpu::hotplug_states()?;
    let loaded = module::load()?;
    let during = cpu::hotplug_states()?;
    loaded.unload()?;
    let after = cpu::hotplug_states()?;
    ensure!(
        before == after,
        "hotplug states differ: {before:?} and {after:?}"
    );
    ensure!(
        during.iter().any(|(_, name)| name.contains("eltwo")),
        "no hotplug state of ours while loaded"
    );
    match module::unload() {
        Ok(()) => bail!("a second rmmod succeeded"),
        Err(error) => ensure!(
            error.downcast_ref() == Some(&Errno::ENOENT),
            "second rmmod: {error:#}"
        ),
    }
    Ok(())
}
