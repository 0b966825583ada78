// SPDX-License-Identifier: GPL-2.0-only

//! Host pages at EL2: share and unshare with a count, map and unmap of ranges, and every argument that is wrong.

use anyhow::{
    ensure,
    Context,
    Result, //
};

use super::standard;
use crate::{
    guest::{
        cpu,
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
        .case("share_el2_reads_what_the_host_writes", share_read)
        .case("share_is_seen_by_every_cpu", share_every_cpu)
        .case("share_twice_counts", share_counts)
        .case("share_shows_in_tables", share_in_tables)
        .case("share_pages_come_back_to_the_pool", share_pool)
        .case("share_wrong_address_refused", share_wrong)
        .case("unshare_not_shared_not_found", unshare_wrong)
        .case("map_read_only_and_read_write", map_protections)
        .case("map_range_page_by_page", map_range)
        .case("map_wrong_arguments_refused", map_wrong)
        .case("unmap_wrong_arguments_refused", unmap_wrong)
        .case("map_and_share_do_not_mix", mix)
        .case("read_only_what_is_mapped", read_denied)
        .case("rmmod_with_pages_shared", rmmod_shared)
}

/// Translates at EL2. Returns the PA, or nothing where the translation faults.
fn translate(va: u64, write: bool) -> Result<Option<u64>> {
    hypercall(&format!("at {va:#x} {}", u64::from(write)))?.translation()
}

fn share(pa: u64) -> Result<(u64, u64)> {
    let [va, count, ..] = hypercall(&format!("share {pa:#x}"))?
        .ok()
        .with_context(|| format!("share {pa:#x}"))?;
    Ok((va, count))
}

fn unshare(pa: u64) -> Result<u64> {
    let answer = hypercall(&format!("unshare {pa:#x}"))?;
    Ok(answer.ok().with_context(|| format!("unshare {pa:#x}"))?[1])
}

fn read(va: u64) -> Result<u64> {
    Ok(hypercall(&format!("read {va:#x}"))?.ok()?[0])
}

/// Mappings of the runtime tables that hold `pa`.
fn mappings_of(pa: u64) -> Result<Vec<Mapping>> {
    let all = debugfs::mappings()?;
    Ok(all
        .into_iter()
        .filter(|mapping| mapping.table == "runtime" && mapping.holds(pa))
        .collect())
}

fn share_read() -> Result<()> {
    let loaded = module::load()?;
    let mut pages = Pages::new(1)?;
    let pa = pages.pa(0)?;
    let (va, count) = share(pa)?;
    ensure!(count == 1, "count is {count} after the first share");
    for (index, value) in [
        (0, 0x6f_7774_6c65),
        (1, u64::MAX),
        (511, 0x1122_3344_5566_7788),
    ] {
        pages.set(index, value);
        let got = read(va + 8 * index as u64)?;
        ensure!(
            got == value,
            "wrote {value:#x} at word {index}, EL2 reads {got:#x}"
        );
    }
    ensure!(
        translate(va, false)? == Some(pa),
        "EL2 translates {va:#x} to {:x?}",
        translate(va, false)?
    );
    ensure!(
        translate(va, true)? == Some(pa),
        "a shared page is not writable at EL2"
    );
    ensure!(
        pages.pa(0)? == pa,
        "the kernel has moved the page: the test is wrong"
    );
    ensure!(unshare(pa)? == 0, "count is not 0 after unshare");
    ensure!(
        translate(va, false)?.is_none(),
        "still mapped after unshare"
    );
    loaded.unload()
}

/// All CPUs use the same tables: a page shared on one is readable, and gone after unshare, on every other.
fn share_every_cpu() -> Result<()> {
    let loaded = module::load()?;
    let mut pages = Pages::new(1)?;
    let pa = pages.pa(0)?;
    let cpus = cpu::online()?;
    for &sharer in &cpus {
        pages.set(3, 0x1000 + sharer as u64);
        let (va, _) = cpu::on(sharer, || share(pa))?;
        for &reader in &cpus {
            let got = cpu::on(reader, || read(va + 24))?;
            ensure!(got == 0x1000 + sharer as u64, "CPU {reader} reads {got:#x}");
        }
        cpu::on(sharer, || unshare(pa))?;
        for &reader in &cpus {
            let left = cpu::on(reader, || translate(va, false))?;
            ensure!(
                left.is_none(),
                "CPU {reader} still translates {va:#x} after unshare on {sharer}"
            );
        }
    }
    loaded.unload()
}

fn share_counts() -> Result<()> {
    let loaded = module::load()?;
    let pages = Pages::new(1)?;
    let pa = pages.pa(0)?;
    let (va, _) = share(pa)?;
    for wanted in 2..=5 {
        let (again, count) = share(pa)?;
        ensure!(
            (again, count) == (va, wanted),
            "share {wanted} gives {again:#x}, count {count}"
        );
    }
    for wanted in (1..=4).rev() {
        let count = unshare(pa)?;
        ensure!(
            count == wanted,
            "count {count} after unshare, expected {wanted}"
        );
        ensure!(
            translate(va, false)? == Some(pa),
            "unmapped with count {count}"
        );
    }
    ensure!(unshare(pa)? == 0, "count is not 0 at the end");
    ensure!(translate(va, false)?.is_none(), "still mapped at count 0");
    let (again, count) = share(pa)?;
    ensure!(
        (again, count) == (va, 1),
        "a page that was shared before: {again:#x}, count {count}"
    );
    unshare(pa)?;
    loaded.unload()
}

fn share_in_tables() -> Result<()> {
    let loaded = module::load()?;
    let pages = Pages::new(1)?;
    let pa = pages.pa(0)?;
    ensure!(
        mappings_of(pa)?.is_empty(),
        "mapped before share: {:x?}",
        mappings_of(pa)?
    );
    let (va, _) = share(pa)?;
    let shown = mappings_of(pa)?;
    let [mapping] = &shown[..] else {
        anyhow::bail!("tables shows {} mappings of the page", shown.len());
    };
    ensure!(
        mapping.start + (pa - mapping.pa) == va,
        "tables shows it at {:#x}",
        mapping.start
    );
    ensure!(
        mapping.region.starts_with("linear"),
        "in region {}",
        mapping.region
    );
    ensure!(mapping.access == "RW-", "with {}", mapping.access);
    unshare(pa)?;
    ensure!(
        mappings_of(pa)?.is_empty(),
        "tables still shows {:x?}",
        mappings_of(pa)?
    );
    loaded.unload()
}

/// Table pages that a share needs are given back when it goes.
fn share_pool() -> Result<()> {
    let loaded = module::load()?;
    let pages = Pages::new(64)?;
    let before = debugfs::pool_value("pages_free")?;
    let pas = (0..64)
        .map(|index| pages.pa(index))
        .collect::<Result<Vec<_>>>()?;
    for pa in &pas {
        share(*pa)?;
    }
    let during = debugfs::pool_value("pages_free")?;
    ensure!(
        during <= before,
        "{before} pages free before, {during} with 64 pages shared"
    );
    for pa in pas.iter().rev() {
        unshare(*pa)?;
    }
    let after = debugfs::pool_value("pages_free")?;
    ensure!(after == before, "{before} pages free before, {after} after");
    loaded.unload()
}

/// A page of the pool: the one that holds the runtime PGD.
fn pool_page() -> Result<u64> {
    debugfs::pgd("runtime")
}

fn share_wrong() -> Result<()> {
    let loaded = module::load()?;
    let pages = Pages::new(1)?;
    let pa = pages.pa(0)?;
    for (pa, wanted, why) in [
        (pa + 8, vec![Status::Invalid], "unaligned"),
        (pa | 1, vec![Status::Invalid], "unaligned"),
        (pool_page()?, vec![Status::Denied], "a page of the pool"),
        (
            page::iomem("pl011").or_else(|_| page::iomem("uart"))?,
            vec![Status::Denied],
            "a device",
        ),
        (page::ram_end()?, vec![Status::Denied], "behind RAM"),
        (
            1 << 51,
            vec![Status::Denied, Status::Invalid],
            "behind the PA space",
        ),
        (
            !0xfff,
            vec![Status::Denied, Status::Invalid],
            "the last page of all",
        ),
    ] {
        let status = hypercall(&format!("share {pa:#x}"))?.status;
        ensure!(
            wanted.contains(&status),
            "share {pa:#x} ({why}): {status:?}"
        );
    }
    debugfs::expect_online_are_hyp()?;
    loaded.unload()
}

fn unshare_wrong() -> Result<()> {
    let loaded = module::load()?;
    let pages = Pages::new(1)?;
    let pa = pages.pa(0)?;
    hypercall(&format!("unshare {pa:#x}"))?.expect(Status::NotFound)?;
    share(pa)?;
    hypercall(&format!("unshare {:#x}", pa + 4))?.expect(Status::Invalid)?;
    unshare(pa)?;
    hypercall(&format!("unshare {pa:#x}"))?.expect(Status::NotFound)?;
    let status = hypercall(&format!("unshare {:#x}", pool_page()?))?.status;
    ensure!(
        [Status::NotFound, Status::Denied].contains(&status),
        "unshare of a pool page: {status:?}"
    );
    loaded.unload()
}

fn map_protections() -> Result<()> {
    let loaded = module::load()?;
    let size = page::size_bytes()?;
    let mut pages = Pages::new(1)?;
    let pa = pages.pa(0)?;
    for (protection, writable) in [(1, false), (3, true)] {
        let va = hypercall(&format!("map {pa:#x} {size} {protection}"))?.ok()?[0];
        pages.set(7, 0x7070 + protection);
        ensure!(
            read(va + 56)? == 0x7070 + protection,
            "EL2 reads something else"
        );
        ensure!(translate(va, false)? == Some(pa), "not readable");
        ensure!(
            translate(va, true)?.is_some() == writable,
            "protection {protection}: writable is {}",
            !writable
        );
        hypercall(&format!("unmap {va:#x} {size}"))?.ok()?;
        ensure!(translate(va, false)?.is_none(), "still mapped after unmap");
        hypercall(&format!("read {va:#x}"))?.expect(Status::Denied)?;
    }
    loaded.unload()
}

/// Pages next to each other, if the kernel has given us two; each is found at its own VA.
fn map_range() -> Result<()> {
    let loaded = module::load()?;
    let size = page::size_bytes()? as u64;
    let pages = Pages::new(256)?;
    let pas = (0..256)
        .map(|index| pages.pa(index))
        .collect::<Result<Vec<_>>>()?;
    let run = longest_run(&pas, size);
    let (first, length) = (run.start, run.len() as u64);
    let free = debugfs::pool_value("pages_free")?;
    let va = hypercall(&format!("map {:#x} {} 3", pas[first], length * size))?.ok()?[0];
    for index in 0..length {
        let got = translate(va + index * size, true)?;
        ensure!(
            got == Some(pas[first] + index * size),
            "page {index} of the range is at {got:x?}"
        );
        let word = read(va + index * size)?;
        let wanted = (first as u64 + index) * size / 8;
        ensure!(
            word == wanted,
            "page {index} reads {word:#x}, expected {wanted:#x}"
        );
    }
    hypercall(&format!("unmap {va:#x} {}", length * size))?.ok()?;
    for index in 0..length {
        ensure!(
            translate(va + index * size, false)?.is_none(),
            "page {index} is still mapped"
        );
    }
    ensure!(
        debugfs::pool_value("pages_free")? == free,
        "table pages were not given back"
    );
    crate::ktap::note(format!("range of {length} pages"));
    loaded.unload()
}

/// Indices of the longest run of pages that follow each other in physical memory.
fn longest_run(pas: &[u64], size: u64) -> std::ops::Range<usize> {
    let mut best = 0..1;
    let mut start = 0;
    for end in 1..=pas.len() {
        if end == pas.len() || pas[end] != pas[end - 1] + size {
            if end - start > best.len() {
                best = start..end;
            }
            start = end;
        }
    }
    best
}

fn map_wrong() -> Result<()> {
    let loaded = module::load()?;
    let size = page::size_bytes()? as u64;
    let pages = Pages::new(1)?;
    let pa = pages.pa(0)?;
    let free = debugfs::pool_value("pages_free")?;
    let invalid = [Status::Invalid];
    let outside = [Status::Denied, Status::Invalid];
    for (pa, bytes, protection, wanted, why) in [
        (pa, 0, 3, &invalid[..], "no bytes"),
        (pa + 1, size, 3, &invalid, "unaligned PA"),
        (pa, size + 1, 3, &invalid, "unaligned size"),
        (pa, size - 1, 3, &invalid, "less than a page"),
        (pa, size, 0, &invalid, "no access"),
        (pa, size, 2, &invalid, "write only"),
        (pa, size, 7, &invalid, "executable"),
        (pa, size, u64::MAX, &invalid, "all bits"),
        (
            pa,
            0u64.wrapping_sub(size),
            3,
            &outside,
            "a size that wraps",
        ),
        (!0xfff, 2 * size, 3, &outside, "a range that wraps"),
        (
            page::ram_end()? - size,
            2 * size,
            3,
            &outside,
            "a range over the end of RAM",
        ),
        (1 << 51, size, 3, &outside, "behind the PA space"),
        (
            pool_page()?,
            size,
            1,
            &[Status::Denied],
            "a page of the pool",
        ),
    ] {
        let status = hypercall(&format!("map {pa:#x} {bytes:#x} {protection:#x}"))?.status;
        ensure!(
            wanted.contains(&status),
            "map {pa:#x} {bytes:#x} {protection:#x} ({why}): {status:?}"
        );
    }
    ensure!(
        debugfs::pool_value("pages_free")? == free,
        "a refused map has kept pages of the pool"
    );
    debugfs::expect_online_are_hyp()?;
    loaded.unload()
}

fn unmap_wrong() -> Result<()> {
    let loaded = module::load()?;
    let size = page::size_bytes()? as u64;
    let pages = Pages::new(1)?;
    let va = hypercall(&format!("map {:#x} {size} 3", pages.pa(0)?))?.ok()?[0];
    let text = debugfs::mappings()?
        .into_iter()
        .find(|m| m.region == "image.text")
        .context("no image.text")?;
    let not_ours = [Status::Denied, Status::NotFound, Status::Invalid];
    for (va, bytes, wanted, why) in [
        (va, 0, &[Status::Invalid][..], "no bytes"),
        (va + 1, size, &[Status::Invalid], "unaligned VA"),
        (va, size / 2, &[Status::Invalid], "half a page"),
        (va, 0u64.wrapping_sub(size), &not_ours, "a size that wraps"),
        (0, size, &not_ours, "address 0"),
        (!0xfff, size, &not_ours, "the last page of all"),
        (text.start, size, &not_ours, "EL2's own text"),
    ] {
        let status = hypercall(&format!("unmap {va:#x} {bytes:#x}"))?.status;
        ensure!(
            wanted.contains(&status),
            "unmap {va:#x} {bytes:#x} ({why}): {status:?}"
        );
    }
    ensure!(
        translate(va, true)?.is_some(),
        "a refused unmap has unmapped the page"
    );
    hypercall(&format!("unmap {va:#x} {size}"))?.ok()?;
    hypercall(&format!("unmap {va:#x} {size}"))?.expect(Status::NotFound)?;
    debugfs::expect_online_are_hyp()?;
    loaded.unload()
}

/// A mapped page cannot be shared over, a shared one not be mapped over, and each is undone by its own call only.
fn mix() -> Result<()> {
    let loaded = module::load()?;
    let size = page::size_bytes()?;
    let pages = Pages::new(1)?;
    let pa = pages.pa(0)?;
    let va = hypercall(&format!("map {pa:#x} {size} 3"))?.ok()?[0];
    hypercall(&format!("map {pa:#x} {size} 3"))?.expect(Status::Busy)?;
    hypercall(&format!("share {pa:#x}"))?.expect(Status::Busy)?;
    hypercall(&format!("unshare {pa:#x}"))?.expect(Status::NotFound)?;
    hypercall(&format!("unmap {va:#x} {size}"))?.ok()?;
    let (va, _) = share(pa)?;
    hypercall(&format!("map {pa:#x} {size} 1"))?.expect(Status::Busy)?;
    let status = hypercall(&format!("unmap {va:#x} {size}"))?.status;
    ensure!(status != Status::Ok, "unmap undoes a share");
    ensure!(translate(va, true)? == Some(pa), "the share is gone");
    unshare(pa)?;
    loaded.unload()
}

/// `read` is no way to look at EL2's own memory or to make EL2 fault.
fn read_denied() -> Result<()> {
    let loaded = module::load()?;
    let pages = Pages::new(1)?;
    let (va, _) = share(pages.pa(0)?)?;
    for mapping in debugfs::mappings()?
        .iter()
        .filter(|m| m.table == "runtime" && !m.region.ends_with("shared"))
    {
        let status = hypercall(&format!("read {:#x}", mapping.start))?.status;
        ensure!(
            status == Status::Denied,
            "read of {}: {status:?}",
            mapping.region
        );
    }
    for wrong in [0, 8, u64::MAX & !7, va + page::size_bytes()? as u64] {
        let status = hypercall(&format!("read {wrong:#x}"))?.status;
        ensure!(
            [Status::Denied, Status::Invalid].contains(&status),
            "read {wrong:#x}: {status:?}"
        );
    }
    hypercall(&format!("read {:#x}", va + 1))?.expect(Status::Invalid)?;
    unshare(pages.pa(0)?)?;
    loaded.unload()
}

/// Pages that are still shared are simply no longer mapped after rmmod.
fn rmmod_shared() -> Result<()> {
    let mut pages = Pages::new(2)?;
    for round in 0..3 {
        let loaded = module::load()?;
        let (va, count) = share(pages.pa(0)?)?;
        ensure!(count == 1, "round {round}: count {count}");
        hypercall(&format!(
            "map {:#x} {} 3",
            pages.pa(1)?,
            page::size_bytes()?
        ))?
        .ok()?;
        pages.set(0, round);
        ensure!(
            read(va)? == round,
            "round {round}: EL2 reads something else"
        );
        loaded.unload()?;
    }
    Ok(())
}
