// SPDX-License-Identifier: GPL-2.0-only

//! What EL2 makes of this machine: page size, address sizes, levels, descriptors.
//!
//! The lab knows the machine that it has built and says on the kernel command line what to expect, as keys of `pool`:
//! `eltwo.expect=granule_bytes:4096,va_bits:39,levels:3,pa_bits:44,lpa2:0`. Besides, `idmap_above:39` says that the idmap page
//! needs more bits of address than that: with RAM high up, so are the pool and the idmap page in it.

use std::fs;

use anyhow::{
    ensure,
    Context,
    Result, //
};

use super::{
    standard,
    tables_at::{
        runtime,
        Walker, //
    },
};
use crate::{
    guest::{
        debugfs,
        module,
        page, //
    },
    ktap::{
        Skip,
        Test, //
    },
};

pub fn test() -> Test {
    standard()
        .needs(told_what_to_expect)
        .case("layout_as_expected_of_this_machine", as_expected)
        .case("tcr_el2_says_the_same", tcr)
        .case("idmap_page_is_in_ram_and_within_the_va_size", idmap)
}

/// The one that is no key of `pool`.
const IDMAP_ABOVE: &str = "idmap_above";

/// Keys of `pool` and their values, from the command line.
fn expectations() -> Result<Vec<(String, u64)>> {
    let line = fs::read_to_string("/proc/cmdline")?;
    let Some(list) = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix("eltwo.expect="))
    else {
        return Ok(Vec::new());
    };
    list.split(',')
        .map(|item| {
            let (key, value) = item
                .split_once(':')
                .with_context(|| format!("eltwo.expect: {item:?}"))?;
            Ok((key.to_string(), value.parse()?))
        })
        .collect()
}

fn told_what_to_expect() -> Result<()> {
    if expectations()?.is_empty() {
        return Skip::because("the command line has no eltwo.expect=");
    }
    Ok(())
}

fn as_expected() -> Result<()> {
    for parameters in ["map=ondemand", "map=linear"] {
        let loaded = module::load_with(parameters)?;
        let pool = debugfs::pool()?;
        for (key, wanted) in expectations()? {
            if key == IDMAP_ABOVE {
                continue;
            }
            let found = pool
                .get(&key)
                .with_context(|| format!("pool has no {key}"))?;
            ensure!(
                *found == wanted,
                "{parameters}: {key} is {found}, expected {wanted}"
            );
        }
        ensure!(
            pool.get("granule_bytes") == Some(&(page::size_bytes()? as u64)),
            "the granule is not the kernel's page size"
        );
        loaded.unload()?;
    }
    Ok(())
}

/// TCR_EL2 with HCR_EL2.E2H = 0.
fn tcr() -> Result<()> {
    let loaded = module::load()?;
    let registers = debugfs::registers()?;
    let tcr = registers
        .iter()
        .filter(|register| register.name == "TCR_EL2")
        .map(|register| register.now.context("a CPU is not ours"))
        .collect::<Result<Vec<_>>>()?;
    let value = |key| debugfs::pool_value(key);
    let granule = match value("granule_bytes")? {
        0x1000 => 0,
        0x4000 => 2,
        _ => 1,
    };
    let size = match value("pa_bits")? {
        32 => 0,
        36 => 1,
        40 => 2,
        42 => 3,
        44 => 4,
        48 => 5,
        _ => 6,
    };
    for tcr in tcr {
        for (name, shift, mask, wanted) in [
            ("T0SZ", 0, 0x3f, 64 - value("va_bits")?),
            ("TG0", 14, 3, granule),
            ("PS", 16, 7, size),
            ("DS", 32, 1, value("lpa2")?),
        ] {
            let found = (tcr >> shift) & mask;
            ensure!(
                found == wanted,
                "TCR_EL2 {tcr:#x}: {name} is {found}, expected {wanted}"
            );
        }
    }
    loaded.unload()
}

/// The idmap page is somewhere in RAM, as high as expected; it is mapped in the boot PGD, whose trampoline EL2 translates to
/// the same page.
fn idmap() -> Result<()> {
    let loaded = module::load()?;
    let boot: Vec<_> = debugfs::mappings()?
        .into_iter()
        .filter(|mapping| mapping.table == "boot")
        .collect();
    let idmap = boot
        .iter()
        .find(|mapping| mapping.region == "idmap")
        .context("tables has no idmap")?;
    ensure!(
        idmap.start == idmap.pa,
        "the idmap page is not at its own address: {idmap:x?}"
    );
    let va_bits = debugfs::pool_value("va_bits")?;
    ensure!(
        idmap.end <= 1 << va_bits,
        "{idmap:x?} is beyond {va_bits} bits"
    );
    let trampoline = runtime()?
        .into_iter()
        .find(|mapping| mapping.region == "trampoline")
        .context("tables has no trampoline")?;
    let found = Walker::new()?.at(trampoline.start, false)?;
    ensure!(
        found == Some(idmap.pa),
        "the trampoline is at {found:x?}, the idmap at {:#x}",
        idmap.pa
    );
    let lowest = lowest_ram()?;
    ensure!(
        idmap.pa >= lowest,
        "{idmap:x?} is below RAM, which starts at {lowest:#x}"
    );
    for (_, bits) in expectations()?.iter().filter(|(key, _)| key == IDMAP_ABOVE) {
        ensure!(
            idmap.pa >> bits != 0,
            "{idmap:x?} does not need more than {bits} bits"
        );
    }
    println!(
        "# RAM starts at {lowest:#x}, the idmap page is at {:#x}, VA size {va_bits} bits",
        idmap.pa
    );
    loaded.unload()
}

fn lowest_ram() -> Result<u64> {
    let text = fs::read_to_string("/proc/iomem")?;
    let line = text
        .lines()
        .find(|line| line.ends_with(" : System RAM"))
        .context("/proc/iomem has no System RAM")?;
    let first = line.split('-').next().unwrap_or_default();
    Ok(u64::from_str_radix(first.trim(), 16)?)
}
