// SPDX-License-Identifier: GPL-2.0-only

//! Merging: a table whose leaves translate what one block would becomes that block, by break-before-make.
//!
//! Domain: common.

use super::{
    error::Error,
    format::{
        decode,
        encode_leaf,
        Entry,
        Format, //
    },
    geometry::Level,
    maintenance::{
        Maintenance,
        Stale, //
    },
    memory::{
        Slot,
        TableMemory, //
    },
    walk::{
        Visit,
        Visitor, //
    },
    Env, PageTable,
};
use crate::common::addr::{
    AddrRange,
    Address,
    PhysAddr, //
};

impl<F: Format> PageTable<F> {
    /// Merges leaves in `range` into the largest blocks that translate the same, and returns how many tables that freed.
    ///
    /// What it merges is unmapped for a moment; see the module's documentation. Blocks that would extend beyond the range are
    /// not made.
    ///
    /// # Errors
    ///
    /// [`Error::Unaligned`], [`Error::InputRange`] for the arguments.
    pub fn merge<M: TableMemory, T: Maintenance<F::Input>>(
        &mut self,
        env: &Env<'_, M, T>,
        range: AddrRange<F::Input>,
    ) -> Result<u64, Error> {
        self.check_input(&range)?;
        let mut merge = Merge {
            table: self,
            env,
            merged: 0,
        };
        self.walk(env.memory, range, &mut merge)?;
        Ok(merge.merged)
    }
}

struct Merge<'a, F: Format, M, T> {
    table: &'a PageTable<F>,
    env: &'a Env<'a, M, T>,
    merged: u64,
}

impl<F: Format, M: TableMemory, T: Maintenance<F::Input>> Visitor<F> for Merge<'_, F, M, T> {
    fn leave(&mut self, at: &Visit<F>, child: PhysAddr) -> Result<(), Error> {
        let geometry = &self.table.geometry;
        let full = self.env.memory.count(child)? == geometry.entries();
        if !full || !at.is_whole() || !geometry.is_leaf_level(at.level) {
            return Ok(());
        }
        let Some((pa, attrs)) = self.as_block(at.level, child)? else {
            return Ok(());
        };
        let block = encode_leaf(&self.table.format, geometry, at.level, pa, attrs)?;
        // Break: the leaves, and the walks that lead to them, must be gone everywhere before the block may exist. The entry
        // stays counted, as it is only invalid until the block takes its place.
        self.env.memory.store(at.slot, 0)?;
        self.env.tlb.invalidate(at.covers, Stale::Subtree(at.level));
        // Make.
        self.env.memory.store(at.slot, block)?;
        self.env.tlb.publish();
        self.env.memory.free(child, 1);
        self.merged = self.merged.wrapping_add(1);
        Ok(())
    }
}

impl<F: Format, M: TableMemory, T: Maintenance<F::Input>> Merge<'_, F, M, T> {
    /// Address and attributes of the block of `level` that translates what the table `child` does, if there is one.
    fn as_block(
        &self,
        level: Level,
        child: PhysAddr,
    ) -> Result<Option<(PhysAddr, F::Attrs)>, Error> {
        let geometry = &self.table.geometry;
        let below = level.next().ok_or(Error::Corrupt)?;
        let size = geometry.entry_size(level).ok_or(Error::Corrupt)?;
        let step = geometry.entry_size(below).ok_or(Error::Corrupt)?.bytes();
        let Some((first, attrs)) = self.leaf(below, child, 0)? else {
            return Ok(None);
        };
        if !first.is_aligned(size) {
            return Ok(None);
        }
        for index in 1..geometry.entries() {
            let next = index
                .checked_mul(step)
                .and_then(|offset| first.checked_add(offset));
            if self.leaf(below, child, index)? != next.map(|pa| (pa, attrs)) {
                return Ok(None);
            }
        }
        Ok(Some((first, attrs)))
    }

    fn leaf(
        &self,
        level: Level,
        table: PhysAddr,
        index: u64,
    ) -> Result<Option<(PhysAddr, F::Attrs)>, Error> {
        let descriptor = self.env.memory.load(Slot { table, index })?;
        match decode(&self.table.format, &self.table.geometry, level, descriptor)? {
            Entry::Leaf { pa, attrs } => Ok(Some((pa, attrs))),
            Entry::Invalid | Entry::Table(_) => Ok(None),
        }
    }
}
