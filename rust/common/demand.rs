// SPDX-License-Identifier: GPL-2.0-only

//! Common: how many pages the pool needs, computed before there is one.
//!
//! What takes pages is known but for the translation tables: how many of them there will be depends on where things are in
//! the address space; that depends on where the image is, and that is in the pool. So the tables are counted for the worst
//! place of each extent that they map: one table more per level than its size alone would need, as it may lie across a
//! border. The bound is met, so it is no guess, and no load can fail halfway for want of a table.

use super::{
    addr::{
        AddrRange,
        Granule,
        PhysAddr,
        Pow2, //
    },
    layout,
    pgtable::Level,
    shared::{
        self,
        MapMode,
        RamRange, //
    },
};

/// What the pool has to hold.
#[derive(Clone, Copy, Debug)]
pub struct Demand<'a> {
    /// The size of a page.
    pub granule: Granule,
    /// The largest VA size that the layout may choose.
    pub max_va_bits: u32,
    /// How RAM gets into the linear window.
    pub map: MapMode,
    /// RAM.
    pub ram: &'a [RamRange],
    /// Pages of the EL2 image.
    pub image_pages: u64,
    /// CPUs, each with a context page and a stack.
    pub cpus: u64,
    /// Pages of a stack.
    pub stack_pages: u64,
}

impl Demand<'_> {
    /// The smallest pool that is enough, with `spare` free pages, if it comes in `chunks` pieces. In pages.
    ///
    /// `None` if there is no such number.
    pub fn pages(&self, chunks: u64, spare: u64) -> Option<u64> {
        let mut pages = 0;
        loop {
            // A larger pool needs more metadata and more tables, but far fewer than one page for each page, so this ends.
            let needed = self.needed_of(pages, chunks)?.checked_add(spare)?;
            if needed <= pages {
                return Some(pages);
            }
            pages = needed;
        }
    }

    /// Pages that are taken at load out of a pool of `pages` pages in `chunks` pieces.
    pub fn needed_of(&self, pages: u64, chunks: u64) -> Option<u64> {
        let per_cpu = self.stack_pages.checked_add(1)?;
        self.image_pages
            .checked_add(self.cpus.checked_mul(per_cpu)?)?
            .checked_add(self.meta_pages(pages)?)?
            .checked_add(self.table_pages(pages, chunks)?)
    }

    /// Pages of [`shared::Shared`] and the metadata of a pool of `pages` pages.
    pub fn meta_pages(&self, pages: u64) -> Option<u64> {
        let bytes = shared::bytes_for(usize::try_from(pages).ok()?)?;
        let bytes = u64::try_from(bytes).ok()?;
        Some(
            self.granule
                .unit()
                .round_up(bytes)?
                .wrapping_shr(self.granule.shift()),
        )
    }

    /// Tables of both PGDs, if the pool has `pages` pages in `chunks` pieces.
    fn table_pages(&self, pages: u64, chunks: u64) -> Option<u64> {
        let slots = self
            .stack_pages
            .checked_add(layout::SLOT_EXTRA_GRANULES)?
            .checked_mul(self.cpus)?;
        // The roots.
        let mut tables = 2u64;
        for reach in self.levels_below_the_root() {
            let of = Tables::new(reach, self.granule)?;
            // The idmap page and the trampoline in the boot PGD, the trampoline in the runtime PGD.
            let mut level = of.most(3, 3)?;
            for extent in [self.image_pages, slots] {
                level = level.checked_add(of.most(extent, 1)?)?;
            }
            level = level.checked_add(match self.map {
                MapMode::OnDemand => of.most(pages, chunks)?,
                MapMode::Linear => self.linear_tables(&of, chunks)?,
            })?;
            tables = tables.checked_add(level)?;
        }
        Some(tables)
    }

    /// How many address bits a table resolves, for each level that may be below a root.
    fn levels_below_the_root(&self) -> impl Iterator<Item = u32> + '_ {
        Level::ALL
            .into_iter()
            .filter_map(|level| level.reach(self.granule))
            .filter(|reach| *reach < self.max_va_bits)
    }

    /// Tables of one level for all of RAM, but for one gap in each chunk, with the largest blocks.
    fn linear_tables(&self, of: &Tables, chunks: u64) -> Option<u64> {
        let mut ranges = 0u64;
        let mut pages = 0u64;
        let mut torn = chunks.checked_mul(2)?;
        for piece in self.ram.iter().filter_map(|piece| piece.range()) {
            ranges = ranges.checked_add(1)?;
            pages = pages.checked_add(piece.size_bytes().wrapping_shr(self.granule.shift()))?;
            torn = torn.checked_add(of.torn_by(piece))?;
        }
        let all = of.most(pages, ranges)?;
        // The window is congruent with RAM up to this unit, so there a table is needed only where RAM, or a gap, starts or
        // ends inside of what the table covers.
        Some(if of.covers <= layout::linear_unit(self.granule)? {
            torn.min(all)
        } else {
            all
        })
    }
}

/// The tables of one level.
struct Tables {
    /// What one of them translates.
    covers: Pow2,
    /// The same in pages, as a shift.
    pages_shift: u32,
}

impl Tables {
    fn new(reach: u32, granule: Granule) -> Option<Self> {
        Some(Self {
            covers: Pow2::from_shift(reach)?,
            pages_shift: reach.checked_sub(granule.shift())?,
        })
    }

    /// Most tables that `extents` extents of `pages` pages in all can touch, wherever they are.
    fn most(&self, pages: u64, extents: u64) -> Option<u64> {
        // One extent of n pages, m to a table: its first page is at worst the last one of a table, so that the other
        // n - 1 start a new one: 1 + ceil((n - 1) / m).
        let rest = pages.saturating_sub(extents);
        let rounding = 1u64.checked_shl(self.pages_shift)?.checked_sub(1)?;
        let full = rest
            .checked_add(rounding.checked_mul(extents)?)?
            .wrapping_shr(self.pages_shift);
        extents.min(pages).checked_add(full)
    }

    /// Number of tables that `range` touches and does not fill.
    fn torn_by(&self, range: AddrRange<PhysAddr>) -> u64 {
        let mask = self.covers.mask();
        let (first, last) = (range.first().raw(), range.last().raw());
        let (starts_inside, ends_inside) = (first & mask != 0, last & mask != mask);
        if self.covers.round_down(first) == self.covers.round_down(last) {
            u64::from(starts_inside || ends_inside)
        } else {
            u64::from(starts_inside).wrapping_add(u64::from(ends_inside))
        }
    }
}

#[cfg(test)]
mod tests;
