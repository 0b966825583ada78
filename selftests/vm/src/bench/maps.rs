// SPDX-License-Identifier: GPL-2.0-only

//! `map=ondemand` against `map=linear`: what each costs in table pages, TLB invalidations and instructions.

use std::{
    ffi::CString,
    fs::File, //
};

use anyhow::{
    ensure,
    Context,
    Result, //
};
use nix::kmod::{
    finit_module,
    ModuleInitFlags, //
};

use super::{
    figure,
    needs_counting,
    Counter, //
};
use crate::{
    guest::{
        debugfs::{
            self,
            Caller, //
        },
        module,
        page::Pages, //
    },
    ktap::Test,
    tests::standard, //
};

/// How often the module is loaded; the least count is taken.
const LOADS: u32 = 5;
/// How often a hypercall is made; likewise.
const CALLS: u32 = 15;

pub fn test() -> Test {
    standard()
        .needs(needs_counting)
        .case("ondemand_is_measured", || measure("ondemand"))
        .case("linear_is_measured", || measure("linear"))
}

fn measure(mode: &str) -> Result<()> {
    let mut bench = Bench {
        column: format!("map={mode}"),
        counter: Counter::new()?,
    };
    bench.loading()?;
    let loaded = module::load_with(&bench.column)?;
    bench.sharing()?;
    loaded.unload()
}

/// A mode and how it is measured.
struct Bench {
    /// The module's parameter, which names the column too.
    column: String,
    counter: Counter,
}

/// Counters of the module.
struct Counts {
    tables: u64,
    tlbis: u64,
    calls: u64,
}

impl Counts {
    fn read() -> Result<Self> {
        Ok(Self {
            tables: debugfs::pool_value("pages_tables")?,
            tlbis: debugfs::pool_value("tlbis")?,
            calls: debugfs::cpus()?.iter().map(|cpu| cpu.calls).sum(),
        })
    }
}

impl Bench {
    fn figure(&self, row: &str, unit: &str, value: u64) {
        figure(&self.column, row, unit, value);
    }

    /// A figure with two decimals.
    fn ratio(&self, row: &str, unit: &str, value: u64, of: u64) {
        let hundredths = (value * 100 + of / 2) / of;
        let text = format!("{}.{:02}", hundredths / 100, hundredths % 100);
        figure(&self.column, row, unit, text);
    }

    /// insmod and rmmod, by the system calls alone.
    fn loading(&mut self) -> Result<()> {
        let file = module::file()?;
        let parameters = CString::new(self.column.as_str())?;
        let insmod = |file: &File| {
            finit_module(file, &parameters, ModuleInitFlags::empty()).context("insmod")
        };
        let (mut load, mut unload) = (u64::MAX, u64::MAX);
        for _ in 0..LOADS {
            load = load.min(self.counter.count(|| insmod(&file))?);
            unload = unload.min(self.counter.count(module::unload)?);
        }
        self.figure("insmod", "instructions", load);
        self.figure("rmmod", "instructions", unload);
        Ok(())
    }

    /// Shares neighbouring pages, has EL2 walk over them, and takes the shares back.
    fn sharing(&mut self) -> Result<()> {
        let pages = Pages::contiguous()?;
        let count = pages.count()?;
        let pas = (0..count)
            .map(|index| pages.pa(index))
            .collect::<Result<Vec<_>>>()?;
        let first = *pas.first().context("no pages")?;
        let count = count as u64;
        let mut caller = Caller::open()?;
        let ping = self.cost(&mut caller, &[&format!("ping {first:#x}")])?;
        self.figure("hypercall through debugfs", "instructions", ping);
        self.mapped("memory in EL2's linear window, after insmod")?;
        let lone = self.pair(&mut caller, first, ping)?;
        let row = "share and unshare, lone page";
        self.figure(row, "instructions", lone);

        // Reading the counters takes hypercalls too, the same number each time.
        let reading = Counts::read()?;
        let before = Counts::read()?;
        let reading = before.calls - reading.calls;
        self.figure("table pages, after insmod", "pages", before.tables);
        for pa in &pas {
            caller.call(&format!("share {pa:#x}"))?.ok()?;
        }
        let shared = Counts::read()?;
        self.figure("table pages, 2 MiB shared", "pages", shared.tables);
        let calls = shared.calls - before.calls - reading;
        self.ratio("hypercalls per share", "calls", calls, count);
        let tlbis = shared.tlbis - before.tlbis;
        self.ratio("TLB invalidations per share", "TLBIs", tlbis, count);
        self.mapped("memory in EL2's linear window, 2 MiB shared")?;
        self.depth(first)?;
        let last = *pas.last().context("no pages")?;
        let beside = self.again(&mut caller, last, ping)?;
        let row = "share and unshare, page beside shared ones";
        self.figure(row, "instructions", beside);
        self.walk(&mut caller, first, count, ping)?;

        let before = Counts::read()?;
        for pa in &pas {
            caller.call(&format!("unshare {pa:#x}"))?.ok()?;
        }
        let tlbis = Counts::read()?.tlbis - before.tlbis;
        self.ratio("TLB invalidations per unshare", "TLBIs", tlbis, count);
        Ok(())
    }

    /// Instructions of some hypercalls in a row, the least of several times. The last one must succeed.
    fn cost(&self, caller: &mut Caller, calls: &[&str]) -> Result<u64> {
        let cost = self.counter.least(CALLS, || {
            calls.iter().try_for_each(|call| Ok(caller.write(call)?))
        })?;
        caller.answer()?.ok()?;
        Ok(cost)
    }

    /// Share and unshare of a page that is not shared, beyond what any two hypercalls cost.
    fn pair(&self, caller: &mut Caller, pa: u64, ping: u64) -> Result<u64> {
        let calls = [format!("share {pa:#x}"), format!("unshare {pa:#x}")];
        let cost = self.cost(caller, &[&calls[0], &calls[1]])?;
        Ok(cost.saturating_sub(2 * ping))
    }

    /// Unshare and share of a page that is shared, likewise.
    fn again(&self, caller: &mut Caller, pa: u64, ping: u64) -> Result<u64> {
        let calls = [format!("unshare {pa:#x}"), format!("share {pa:#x}")];
        let cost = self.cost(caller, &[&calls[0], &calls[1]])?;
        Ok(cost.saturating_sub(2 * ping))
    }

    /// EL2 looks each page up in its tables, as it must before it touches it, and reads a word of it.
    fn walk(&self, caller: &mut Caller, first: u64, pages: u64, ping: u64) -> Result<()> {
        let va = mapping_of(first)?;
        let va = va.start + (first - va.pa);
        let cost = self.cost(caller, &[&format!("walk {va:#x} {pages}")])?;
        let row = "EL2 looks a page up and reads a word of it";
        self.ratio(row, "instructions", cost.saturating_sub(ping), pages);
        Ok(())
    }

    /// Descriptors that the MMU reads to translate an address of a shared page, if its TLB has nothing.
    fn depth(&self, pa: u64) -> Result<()> {
        let levels = i64::try_from(debugfs::pool_value("levels")?)?;
        let start = 4 - levels;
        let read = u64::try_from(mapping_of(pa)?.level - start + 1)?;
        self.figure("descriptors read by a walk of the MMU", "descriptors", read);
        Ok(())
    }

    /// How much memory EL2 maps in its linear window.
    fn mapped(&self, row: &str) -> Result<()> {
        let bytes: u64 = debugfs::mappings()?
            .iter()
            .filter(|one| one.region.starts_with("linear/"))
            .map(|one| one.end - one.start)
            .sum();
        self.figure(row, "KiB", bytes / 1024);
        Ok(())
    }
}

/// Where EL2 maps this page of the host.
fn mapping_of(pa: u64) -> Result<debugfs::Mapping> {
    let found = debugfs::mappings()?
        .into_iter()
        .find(|one| one.region.starts_with("linear/") && one.holds(pa));
    let found = found.with_context(|| format!("tables has no mapping of {pa:#x}"))?;
    ensure!(
        found.table == "runtime",
        "{pa:#x} is mapped in the table {:?}",
        found.table
    );
    Ok(found)
}
