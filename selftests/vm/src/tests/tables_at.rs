// SPDX-License-Identifier: GPL-2.0-only

//! EL2 against the dump: AT S1E2R and AT S1E2W on what `tables` shows, and on what lies beside it.
//!
//! The dump is the host's reading of the tables; AT is the reading of the CPU's own table walker, with TCR_EL2, MAIR_EL2 and
//! TTBR0_EL2 as they are. Both must agree on every page: its address, whether it may be written, and that its neighbours,
//! among them the guards of the stacks, are not there. AT does not tell whether a page may be executed; `contain` does.

use anyhow::{
    ensure,
    Result, //
};

use super::standard;
use crate::{
    guest::{
        cpu,
        debugfs::{
            self,
            Caller,
            Mapping, //
        },
        module,
        page::{
            self,
            Pages, //
        },
    },
    ktap::Test,
};

/// Pages of a mapping that are all probed; of a larger one both ends of this many pages, and a sample.
const ALL_OF: u64 = 256;
/// Distance of the samples in pages: a prime, so that they hit every place in a table.
const SAMPLE: u64 = 509;

pub fn test() -> Test {
    standard()
        .case("ondemand_every_page_as_in_the_dump", || {
            as_dumped("map=ondemand")
        })
        .case("linear_every_page_as_in_the_dump", || {
            as_dumped("map=linear")
        })
        .case("shared_and_mapped_pages_as_in_the_dump", shared)
        .case("every_cpu_translates_alike", every_cpu)
        .case("nothing_is_mapped_between_the_mappings", holes)
}

/// Translations by EL2. As long as one lives, a file of the module is open, and it cannot be unloaded.
pub(super) struct Walker {
    caller: Caller,
    page: u64,
    /// Translations that were asked for.
    asked: u64,
}

impl Walker {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            caller: Caller::open()?,
            page: page::size_bytes()? as u64,
            asked: 0,
        })
    }

    /// The PA of `va` for a read or a write; nothing where the translation faults.
    pub(super) fn at(&mut self, va: u64, write: bool) -> Result<Option<u64>> {
        self.asked += 1;
        self.caller
            .call(&format!("at {va:#x} {}", u64::from(write)))?
            .translation()
    }

    /// Fails unless `va` is mapped to `pa`, writable or not.
    fn expect(&mut self, va: u64, pa: u64, writable: bool) -> Result<()> {
        let read = self.at(va, false)?;
        ensure!(
            read == Some(pa),
            "{va:#x}: EL2 reads {read:x?}, tables has {pa:#x}"
        );
        let wanted = writable.then_some(pa);
        let written = self.at(va, true)?;
        ensure!(
            written == wanted,
            "{va:#x}: EL2 writes {written:x?}, tables has {wanted:x?}"
        );
        Ok(())
    }

    /// Fails if `va` is mapped.
    fn expect_nothing(&mut self, va: u64) -> Result<()> {
        for write in [false, true] {
            let found = self.at(va, write)?;
            ensure!(
                found.is_none(),
                "{va:#x} is not in tables, and EL2 translates it to {found:x?}"
            );
        }
        Ok(())
    }

    /// Compares `mappings`, which are all of one table, with what EL2 says.
    pub(super) fn compare(&mut self, mappings: &[Mapping]) -> Result<()> {
        let covered = |va| {
            mappings
                .iter()
                .any(|other| other.start <= va && va < other.end)
        };
        for mapping in mappings {
            let pages = (mapping.end - mapping.start) / self.page;
            for number in samples(pages) {
                let offset = number * self.page;
                let (va, pa) = (mapping.start + offset, mapping.pa + offset);
                self.expect(va, pa, mapping.allows('W'))?;
            }
            let before = mapping.start.checked_sub(self.page);
            for beside in before.into_iter().chain([mapping.end]) {
                if !covered(beside) {
                    self.expect_nothing(beside)?;
                }
            }
        }
        Ok(())
    }
}

/// Numbers of the pages to probe, out of `pages`.
fn samples(pages: u64) -> impl Iterator<Item = u64> {
    let all = 0..pages.min(ALL_OF);
    let sample = (ALL_OF..pages).step_by(SAMPLE as usize);
    let end = pages.saturating_sub(ALL_OF).max(ALL_OF)..pages;
    all.chain(sample).chain(end)
}

/// The mappings of the runtime PGD.
pub(super) fn runtime() -> Result<Vec<Mapping>> {
    let all = debugfs::mappings()?;
    Ok(all
        .into_iter()
        .filter(|mapping| mapping.table == "runtime")
        .collect())
}

fn as_dumped(parameters: &str) -> Result<()> {
    let loaded = module::load_with(parameters)?;
    let mut walker = Walker::new()?;
    let mappings = runtime()?;
    walker.compare(&mappings)?;
    let mapped: u64 = mappings
        .iter()
        .map(|one| (one.end - one.start) / walker.page)
        .sum();
    println!(
        "# {parameters}: {} mappings of {mapped} pages, {} translations by EL2",
        mappings.len(),
        walker.asked
    );
    drop(walker);
    loaded.unload()
}

fn shared() -> Result<()> {
    let loaded = module::load()?;
    let pages = Pages::new(8)?;
    let mut caller = Caller::open()?;
    let size = page::size_bytes()?;
    for index in 0..4 {
        caller
            .call(&format!("share {:#x}", pages.pa(index)?))?
            .ok()?;
        let protection = if index % 2 == 0 { 1 } else { 3 };
        let pa = pages.pa(index + 4)?;
        caller
            .call(&format!("map {pa:#x} {size} {protection}"))?
            .ok()?;
    }
    let mappings = runtime()?;
    for index in 0..8 {
        let pa = pages.pa(index)?;
        ensure!(
            mappings.iter().any(|mapping| mapping.holds(pa)),
            "tables has no mapping of {pa:#x}"
        );
    }
    Walker::new()?.compare(&mappings)?;
    drop(caller);
    loaded.unload()
}

fn every_cpu() -> Result<()> {
    let loaded = module::load()?;
    let mappings = runtime()?;
    for number in cpu::online()? {
        cpu::on(number, || Walker::new()?.compare(&mappings))?;
    }
    loaded.unload()
}

/// Addresses far from any mapping: both ends of the space, the middle of each hole, and what only the boot PGD maps.
fn holes() -> Result<()> {
    let loaded = module::load()?;
    let mut walker = Walker::new()?;
    let mut mappings = runtime()?;
    mappings.sort_by_key(|mapping| mapping.start);
    let top = 1u64 << debugfs::pool_value("va_bits")?;
    let mut nowhere = vec![0, top - walker.page, top];
    for pair in mappings.windows(2) {
        let hole = pair[1].start - pair[0].end;
        if hole != 0 {
            nowhere.push(pair[0].end + hole / 2 / walker.page * walker.page);
        }
    }
    let idmap = debugfs::mappings()?
        .into_iter()
        .find(|mapping| mapping.region == "idmap");
    nowhere.extend(idmap.map(|mapping| mapping.start));
    for va in nowhere {
        walker.expect_nothing(va)?;
    }
    drop(walker);
    loaded.unload()
}
