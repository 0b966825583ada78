// SPDX-License-Identifier: GPL-2.0-only

//! `map=linear`: all of RAM in EL2's linear window, and nothing there that must not be.

use std::fs;

use anyhow::{
    ensure,
    Context,
    Result, //
};
use nix::errno::Errno;

use super::{
    standard,
    tables_at::runtime, //
};
use crate::{
    guest::{
        debugfs::{
            self,
            hypercall,
            Mapping,
            Status, //
        },
        module,
        page::{
            self,
            Pages, //
        },
    },
    ktap::Test,
};

pub fn test() -> Test {
    standard()
        .case("map_unknown_word_refused", unknown)
        .case("linear_window_is_ram_without_private_pages", window)
        .case("linear_window_uses_blocks", blocks)
        .case("linear_no_page_has_two_writable_mappings", no_alias)
        .case("linear_share_changes_no_table", share)
        .case("linear_unshare_more_than_shared_refused", unshare)
        .case("linear_map_read_only_refused", read_only)
        .case("linear_read_any_page_but_the_pool", read)
        .case("linear_walk_reads_many_pages", walk)
        .case("ondemand_is_the_default", default_mode)
        .case("ondemand_tlbis_per_share", tlbis)
        .case("ondemand_share_beyond_the_limit_refused", limit)
}

fn unknown() -> Result<()> {
    for word in ["foo", "", "Linear", "linear ", "ondemandx"] {
        module::expect_refusal(&format!("map=\"{word}\""), Errno::EINVAL)?;
    }
    module::load_with("map=linear")?.unload()
}

/// First and last byte of each piece of System RAM, as the kernel has them.
fn ram() -> Result<Vec<(u64, u64)>> {
    let text = fs::read_to_string("/proc/iomem")?;
    let mut pieces: Vec<(u64, u64)> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with(' ')) {
        let Some(bounds) = line.strip_suffix(" : System RAM") else {
            continue;
        };
        let (first, last) = bounds.split_once('-').context("no range")?;
        let (first, last) = (
            u64::from_str_radix(first, 16)?,
            u64::from_str_radix(last, 16)?,
        );
        match pieces.last_mut() {
            Some(piece) if piece.1 + 1 == first => piece.1 = last,
            _ => pieces.push((first, last)),
        }
    }
    ensure!(!pieces.is_empty(), "/proc/iomem has no System RAM");
    Ok(pieces)
}

fn in_window(mapping: &Mapping) -> bool {
    mapping.region.starts_with("linear")
}

/// Ranges of PAs that `mappings` lead to, sorted and joined.
fn outputs<'a>(mappings: impl Iterator<Item = &'a Mapping>) -> Vec<(u64, u64)> {
    let mut all: Vec<(u64, u64)> = mappings
        .map(|one| (one.pa, one.pa + (one.end - one.start) - 1))
        .collect();
    all.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for (first, last) in all {
        match joined.last_mut() {
            Some(range) if range.1 + 1 == first => range.1 = last,
            _ => joined.push((first, last)),
        }
    }
    joined
}

/// The window and the pages with a place of their own make up RAM, and have nothing in common.
fn window() -> Result<()> {
    let loaded = module::load_with("map=linear")?;
    let mappings = runtime()?;
    let trampoline = |one: &&Mapping| one.region == "trampoline";
    let window = outputs(mappings.iter().filter(|one| in_window(one)));
    let private = outputs(
        mappings
            .iter()
            .filter(|one| !in_window(one) && !trampoline(one)),
    );
    for (first, last) in &private {
        let clash = window
            .iter()
            .find(|range| range.0 <= *last && *first <= range.1);
        ensure!(
            clash.is_none(),
            "{first:#x} to {last:#x} is in the window too: {clash:x?}"
        );
    }
    let bytes = |ranges: &[(u64, u64)]| -> u64 {
        ranges.iter().map(|(first, last)| last - first + 1).sum()
    };
    let ram = ram()?;
    for (first, last) in &window {
        ensure!(
            ram.iter()
                .any(|piece| piece.0 <= *first && *last <= piece.1),
            "{first:#x} to {last:#x} is in the window and is not RAM"
        );
    }
    let (all, mapped) = (bytes(&ram), bytes(&window) + bytes(&private));
    ensure!(
        all == mapped,
        "{all:#x} bytes of RAM, {mapped:#x} are mapped"
    );
    loaded.unload()
}

/// Size of the largest block that a granule has without 52-bit descriptors, and of the next smaller one, if any.
fn block_sizes() -> Result<&'static [u64]> {
    Ok(match page::size_bytes()? {
        0x1000 => &[1 << 30, 1 << 21],
        0x4000 => &[1 << 25],
        _ => &[1 << 29],
    })
}

/// Whatever could be a block is one: outside of the blocks there is less than one at either end of a piece.
fn blocks() -> Result<()> {
    let loaded = module::load_with("map=linear")?;
    let text = debugfs::read("tables")?;
    let in_blocks: u64 = text
        .lines()
        .filter(|line| line.contains(" BLOCK ") && line.contains(" linear/"))
        .filter_map(|line| {
            line.split_whitespace()
                .nth(2)?
                .strip_suffix('K')?
                .parse::<u64>()
                .ok()
        })
        .map(|kib| kib * 1024)
        .sum();
    let smallest = block_sizes()?.last().context("no block size")?;
    let pieces = ram()?;
    let whole: u64 = pieces
        .iter()
        .map(|(first, last)| {
            let (start, end) = (
                first.next_multiple_of(*smallest),
                (last + 1) / smallest * smallest,
            );
            end.saturating_sub(start)
        })
        .sum();
    // The pool's private pages tear one block, or two if they lie across a border.
    let least = whole.saturating_sub(2 * smallest);
    ensure!(
        in_blocks >= least,
        "{in_blocks:#x} bytes in blocks; {whole:#x} could be, but for the private pages"
    );
    loaded.unload()
}

fn no_alias() -> Result<()> {
    for parameters in ["map=linear", "map=ondemand"] {
        let loaded = module::load_with(parameters)?;
        let mappings = runtime()?;
        for (index, one) in mappings.iter().enumerate() {
            let last = one.pa + (one.end - one.start) - 1;
            for other in &mappings[index + 1..] {
                let other_last = other.pa + (other.end - other.start) - 1;
                let common = one.pa <= other_last && other.pa <= last;
                ensure!(
                    !common || !(one.allows('W') || other.allows('W')),
                    "{parameters}: {one:x?} and {other:x?} lead to the same memory"
                );
            }
        }
        loaded.unload()?;
    }
    Ok(())
}

fn share() -> Result<()> {
    let loaded = module::load_with("map=linear")?;
    let mut pages = Pages::new(2)?;
    pages.set(0, 0xe12);
    let before = debugfs::read("tables")?;
    let free = debugfs::pool_value("pages_free")?;
    let (one, two) = (pages.pa(0)?, pages.pa(1)?);
    for (pa, count) in [(one, 1), (one, 2), (two, 3)] {
        let [va, shares, ..] = hypercall(&format!("share {pa:#x}"))?.ok()?;
        ensure!(shares == count, "{shares} shares, expected {count}");
        let wanted = if pa == one {
            0xe12
        } else {
            page::size_bytes()? as u64 / 8
        };
        let got = hypercall(&format!("read {va:#x}"))?.ok()?[0];
        ensure!(
            got == wanted,
            "EL2 reads {got:#x} at {va:#x}, the page has {wanted:#x}"
        );
    }
    for (pa, count) in [(one, 2), (two, 1), (one, 0)] {
        let shares = hypercall(&format!("unshare {pa:#x}"))?.ok()?[1];
        ensure!(shares == count, "{shares} shares, expected {count}");
    }
    ensure!(debugfs::read("tables")? == before, "a table has changed");
    ensure!(
        debugfs::pool_value("pages_free")? == free,
        "a page of the pool was taken"
    );
    ensure!(debugfs::pool_value("tlbis")? == 0, "a TLB was invalidated");
    loaded.unload()
}

fn unshare() -> Result<()> {
    let loaded = module::load_with("map=linear")?;
    let pages = Pages::new(1)?;
    let pa = pages.pa(0)?;
    hypercall(&format!("unshare {pa:#x}"))?.expect(Status::NotFound)?;
    hypercall(&format!("share {:#x}", pa + 8))?.expect(Status::Invalid)?;
    hypercall(&format!("share {:#x}", debugfs::pgd("runtime")?))?.expect(Status::Denied)?;
    hypercall(&format!("share {:#x}", page::ram_end()?))?.expect(Status::Denied)?;
    hypercall(&format!("share {pa:#x}"))?.ok()?;
    hypercall(&format!("unshare {pa:#x}"))?.ok()?;
    hypercall(&format!("unshare {pa:#x}"))?.expect(Status::NotFound)?;
    loaded.unload()
}

/// What is asked for is not what is there: the window is writable.
fn read_only() -> Result<()> {
    let loaded = module::load_with("map=linear")?;
    let pages = Pages::new(1)?;
    let (pa, size) = (pages.pa(0)?, page::size_bytes()?);
    hypercall(&format!("map {pa:#x} {size} 1"))?.expect(Status::Busy)?;
    let va = hypercall(&format!("map {pa:#x} {size} 3"))?.ok()?[0];
    hypercall(&format!("unmap {va:#x} {size}"))?.ok()?;
    hypercall(&format!("read {va:#x}"))?.ok()?;
    loaded.unload()
}

fn read() -> Result<()> {
    let loaded = module::load_with("map=linear")?;
    let mut pages = Pages::new(64)?;
    let words = page::size_bytes()? / 8;
    let window = runtime()?
        .into_iter()
        .find(in_window)
        .context("no linear window")?;
    let to_va = |pa: u64| pa.wrapping_sub(window.pa).wrapping_add(window.start);
    for index in 0..64 {
        pages.set(index * words, 0xe12_0000 + index as u64);
        let va = to_va(pages.pa(index)?);
        let got = hypercall(&format!("read {va:#x}"))?.ok()?[0];
        ensure!(
            got == 0xe12_0000 + index as u64,
            "page {index}: EL2 reads {got:#x}"
        );
    }
    let root = to_va(debugfs::pgd("runtime")?);
    hypercall(&format!("read {root:#x}"))?.expect(Status::Denied)?;
    loaded.unload()
}

fn walk() -> Result<()> {
    let loaded = module::load_with("map=linear")?;
    let window = runtime()?
        .into_iter()
        .find(in_window)
        .context("no linear window")?;
    let page = page::size_bytes()? as u64;
    let start = window.start;
    let count = 16.min((window.end - start) / page);
    hypercall(&format!("walk {start:#x} {count}"))?.ok()?;
    hypercall(&format!("walk {start:#x} 0"))?.expect(Status::Invalid)?;
    hypercall(&format!("walk {start:#x} 4097"))?.expect(Status::Invalid)?;
    hypercall(&format!("walk {:#x} 1", start + 8))?.expect(Status::Invalid)?;
    let outside = start - page;
    hypercall(&format!("walk {outside:#x} 2"))?.expect(Status::Denied)?;
    loaded.unload()
}

fn default_mode() -> Result<()> {
    for (parameters, linear) in [("", 0), ("map=ondemand", 0), ("map=linear", 1)] {
        let loaded = module::load_with(parameters)?;
        ensure!(
            debugfs::pool_value("map_linear")? == linear,
            "{parameters:?}: map_linear is not {linear}"
        );
        loaded.unload()?;
    }
    Ok(())
}

/// Only the last unshare of a page invalidates: its leaf, and each table that is empty then. CPUs with an erratum need
/// each TLBI twice (`ARM64_WORKAROUND_REPEAT_TLBI`); a page whose neighbour stays shared, so that no table is emptied,
/// shows which ones.
fn tlbis() -> Result<()> {
    let loaded = module::load()?;
    let pages = Pages::new(1)?;
    let pa = pages.pa(0)?;
    // In the same table, as the number of its entries is even.
    let neighbour = pa ^ page::size_bytes()? as u64;
    let tlbis = || debugfs::pool_value("tlbis");
    for pa in [pa, neighbour] {
        hypercall(&format!("share {pa:#x}"))?.ok()?;
    }
    hypercall(&format!("unshare {neighbour:#x}"))?.ok()?;
    let once = tlbis()?;
    ensure!(
        once == 1 || once == 2,
        "{once} TLBIs for one page, expected 1, or 2 with the erratum"
    );
    for _ in 1..20 {
        hypercall(&format!("share {pa:#x}"))?.ok()?;
    }
    for _ in 0..19 {
        hypercall(&format!("unshare {pa:#x}"))?.ok()?;
    }
    ensure!(
        tlbis()? == once,
        "{} TLBIs before the last unshare",
        tlbis()? - once
    );
    let tables = debugfs::pool_value("pages_tables")?;
    hypercall(&format!("unshare {pa:#x}"))?.ok()?;
    let emptied = tables - debugfs::pool_value("pages_tables")?;
    let last = tlbis()? - once;
    ensure!(
        last == once * (1 + emptied),
        "{last} TLBIs for the last unshare, with {emptied} tables emptied and {once} for each"
    );
    loaded.unload()
}

/// The count of a page has an end, and nothing is lost there.
fn limit() -> Result<()> {
    const LIMIT: u64 = 511;
    let loaded = module::load()?;
    let pages = Pages::new(1)?;
    let pa = pages.pa(0)?;
    for count in 1..=LIMIT {
        let shares = hypercall(&format!("share {pa:#x}"))?.ok()?[1];
        ensure!(shares == count, "{shares} shares, expected {count}");
    }
    for _ in 0..2 {
        hypercall(&format!("share {pa:#x}"))?.expect(Status::Busy)?;
    }
    for count in (0..LIMIT).rev() {
        let shares = hypercall(&format!("unshare {pa:#x}"))?.ok()?[1];
        ensure!(shares == count, "{shares} shares, expected {count}");
    }
    hypercall(&format!("unshare {pa:#x}"))?.expect(Status::NotFound)?;
    loaded.unload()
}
