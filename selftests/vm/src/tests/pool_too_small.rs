// SPDX-License-Identifier: GPL-2.0-only

//! The size of the pool: what is too small or too large is refused with the reason, the rest is honoured.

use std::fs;

use anyhow::{
    ensure,
    Context,
    Result, //
};
use nix::errno::Errno;

use super::standard;
use crate::{
    guest::{
        debugfs,
        module,
        page, //
    },
    ktap::{
        note,
        Test, //
    },
};

pub fn test() -> Test {
    standard()
        .case("pool_of_16_kib_enomem_with_the_remedy", too_small)
        .case("pool_larger_than_memory_enomem", too_large)
        .case("pool_size_beyond_all_numbers_refused", absurd)
        .case("pool_of_two_largest_chunks_has_several", honoured)
        .case("smallest_pool_that_loads_also_works", smallest)
}

fn too_small() -> Result<()> {
    let log = module::expect_refusal("pool_kib=16", Errno::ENOMEM)?;
    ensure!(
        log.iter().any(|line| line.contains("load with pool_kib=")),
        "no message that names the remedy: {log:?}"
    );
    note(format!("{log:?}"));
    Ok(())
}

fn too_large() -> Result<()> {
    let log = module::expect_refusal("pool_kib=8589934592", Errno::ENOMEM)?;
    ensure!(
        log.iter().any(|line| line.contains("is more than")),
        "no message: {log:?}"
    );
    Ok(())
}

fn absurd() -> Result<()> {
    let log = module::expect_refusal("pool_kib=18446744073709551615", Errno::ENOMEM)?;
    ensure!(
        log.iter().any(|line| line.contains("is more than")),
        "no message: {log:?}"
    );
    module::nothing_left()
}

/// The largest piece of contiguous memory that the kernel gives, in KiB: a column of `buddyinfo` for each order.
fn largest_chunk_kib() -> Result<u64> {
    let text = fs::read_to_string("/proc/buddyinfo")?;
    let (_, line) = text.split_once("zone").context("no zone in buddyinfo")?;
    let line = line.lines().next().unwrap_or_default();
    let orders = line.split_whitespace().skip(1).count();
    let largest = orders.checked_sub(1).context("no order in buddyinfo")?;
    Ok((page::size_bytes()? as u64 / 1024) << largest)
}

fn honoured() -> Result<()> {
    let kib = 2 * largest_chunk_kib()?;
    let loaded = module::load_with(&format!("pool_kib={kib}"))?;
    let pool = debugfs::pool()?;
    let bytes = pool["pages_total"] * pool["granule_bytes"];
    ensure!(bytes >= kib << 10, "asked for {kib} KiB, got {bytes} bytes");
    ensure!(pool["chunks"] >= 2, "{kib} KiB in one chunk: {pool:?}");
    debugfs::expect_online_are_hyp()?;
    loaded.unload()
}

/// Between "refused" and "works" there is nothing: no size at which insmod succeeds and CPUs do not come up.
fn smallest() -> Result<()> {
    for kib in (16..=4096).step_by(16) {
        match module::try_load(&format!("pool_kib={kib}"))? {
            Err(refused) => ensure!(refused.errno == Errno::ENOMEM, "{kib} KiB: {refused}"),
            Ok(loaded) => {
                debugfs::expect_online_are_hyp()?;
                debugfs::hypercall("ping 1")?.ok()?;
                note(format!("{kib} KiB: {:?}", debugfs::pool()?));
                return loaded.unload();
            }
        }
    }
    anyhow::bail!("4 MiB are not enough")
}
