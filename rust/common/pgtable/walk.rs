// SPDX-License-Identifier: GPL-2.0-only

//! The walker: the only code that goes from table to table.
//!
//! Domain: common. An operation is a [`Visitor`]: it is shown every entry that a range touches, in ascending order, and
//! says whether to go on below it. Recursion is bounded by the number of levels, at most five.

use super::{
    error::Error,
    format::{
        decode,
        Entry,
        Format, //
    },
    geometry::Level,
    memory::{
        Slot,
        TableMemory, //
    },
    PageTable,
};
use crate::common::addr::{
    AddrRange,
    Address,
    PhysAddr, //
};

/// How often an entry is read before a walk gives up on it. Under the shared lock it changes once at most, from invalid to
/// valid.
const MAX_READS: u32 = 4;

/// One entry, as a visitor sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Visit<F: Format> {
    /// Where the descriptor is.
    pub(super) slot: Slot,
    /// Level of the entry.
    pub(super) level: Level,
    /// All that the entry translates.
    pub(super) covers: AddrRange<F::Input>,
    /// What of that the walk is about.
    pub(super) part: AddrRange<F::Input>,
    /// The descriptor, as it was read.
    pub(super) descriptor: u64,
    /// The same, taken apart.
    pub(super) entry: Entry<F::Attrs>,
}

impl<F: Format> Visit<F> {
    /// Whether the walk is about all that the entry translates.
    pub(super) fn is_whole(&self) -> bool {
        self.part == self.covers
    }
}

/// How a walk goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// With the next entry.
    Proceed,
    /// Below the entry, in this table, and then [`Visitor::leave`].
    Descend(PhysAddr),
    /// With the same entry, which has changed since it was read.
    Retry,
}

/// An operation on the entries of a range.
pub(super) trait Visitor<F: Format> {
    /// Called for each entry before what is below it. The default goes down into every table.
    fn visit(&mut self, at: &Visit<F>) -> Result<Next, Error> {
        Ok(match at.entry {
            Entry::Table(child) => Next::Descend(child),
            Entry::Invalid | Entry::Leaf { .. } => Next::Proceed,
        })
    }

    /// Called for each entry that led to `child`, after all that the range touches in `child`.
    fn leave(&mut self, at: &Visit<F>, child: PhysAddr) -> Result<(), Error> {
        let _ = (at, child);
        Ok(())
    }
}

impl<F: Format> PageTable<F> {
    /// Shows `visitor` the entries of `range`, which lies in the input range of the table.
    pub(super) fn walk<M: TableMemory, V: Visitor<F>>(
        &self,
        memory: &M,
        range: AddrRange<F::Input>,
        visitor: &mut V,
    ) -> Result<(), Error> {
        self.walk_table(
            memory,
            self.root,
            self.geometry.start_level(),
            range,
            visitor,
        )
    }

    fn walk_table<M: TableMemory, V: Visitor<F>>(
        &self,
        memory: &M,
        table: PhysAddr,
        level: Level,
        range: AddrRange<F::Input>,
        visitor: &mut V,
    ) -> Result<(), Error> {
        let unit = self.geometry.entry_size(level).ok_or(Error::Corrupt)?;
        let mut rest = Some(range);
        while let Some(left) = rest {
            let covers = AddrRange::point(left.first())
                .align_outward(unit)
                .ok_or(Error::InputRange)?;
            let part = covers.intersection(&left).ok_or(Error::InputRange)?;
            let index = self
                .geometry
                .index(level, part.first().raw())
                .ok_or(Error::Corrupt)?;
            let slot = Slot { table, index };
            self.walk_entry(memory, slot, level, covers, part, visitor)?;
            rest = covers.end().and_then(|next| left.from(next));
        }
        Ok(())
    }

    fn walk_entry<M: TableMemory, V: Visitor<F>>(
        &self,
        memory: &M,
        slot: Slot,
        level: Level,
        covers: AddrRange<F::Input>,
        part: AddrRange<F::Input>,
        visitor: &mut V,
    ) -> Result<(), Error> {
        for _ in 0..MAX_READS {
            let descriptor = memory.load(slot)?;
            let at = Visit {
                slot,
                level,
                covers,
                part,
                descriptor,
                entry: decode(&self.format, &self.geometry, level, descriptor)?,
            };
            match visitor.visit(&at)? {
                Next::Proceed => return Ok(()),
                Next::Descend(child) => {
                    let below = level.next().ok_or(Error::Corrupt)?;
                    self.walk_table(memory, child, below, part, visitor)?;
                    return visitor.leave(&at, child);
                }
                Next::Retry => {}
            }
        }
        Err(Error::Contended)
    }

    /// Makes the entry at `at` valid: counts it, then writes `descriptor` if the entry is still as it was read.
    /// Returns whether it was.
    pub(super) fn make<M: TableMemory>(
        &self,
        memory: &M,
        at: &Visit<F>,
        descriptor: u64,
    ) -> Result<bool, Error> {
        self.count_entry(memory, at)?;
        let done = memory.compare_exchange(at.slot, at.descriptor, descriptor)?;
        if !done {
            self.discount_entry(memory, at)?;
        }
        Ok(done)
    }

    /// Adds one to the count of the table of `at`. The root has none: it is not freed when it is empty.
    fn count_entry<M: TableMemory>(&self, memory: &M, at: &Visit<F>) -> Result<(), Error> {
        if at.level == self.geometry.start_level() {
            return Ok(());
        }
        memory.get(at.slot.table, 1)
    }

    /// Takes one off the count of the table of `at`, whose entry is invalid now.
    pub(super) fn discount_entry<M: TableMemory>(
        &self,
        memory: &M,
        at: &Visit<F>,
    ) -> Result<(), Error> {
        if at.level == self.geometry.start_level() {
            return Ok(());
        }
        memory.put(at.slot.table, 1)
    }
}
