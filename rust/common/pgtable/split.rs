// SPDX-License-Identifier: GPL-2.0-only

//! Splitting: a block becomes a table of smaller leaves that translate the same, by break-before-make.
//!
//! Domain: common.

use super::{
    error::Error,
    format::{
        encode_leaf,
        encode_table,
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
        Next,
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

/// Which leaves to split.
#[derive(Clone, Copy)]
enum Which<A> {
    /// Those that extend beyond this range.
    Beyond(AddrRange<A>),
    /// Those of a level above this one.
    Above(Level),
}

impl<F: Format> PageTable<F> {
    /// Splits all blocks in `range` until their leaves are of `level` or below. Also those that extend beyond it.
    ///
    /// What it splits is unmapped for a moment; see the module's documentation.
    ///
    /// # Errors
    ///
    /// [`Error::Unaligned`], [`Error::InputRange`] for the arguments; [`Error::NoMemory`] for a table. The
    /// translation is the same as before in any case.
    pub fn split<M: TableMemory, T: Maintenance<F::Input>>(
        &mut self,
        env: &Env<'_, M, T>,
        range: AddrRange<F::Input>,
        level: Level,
    ) -> Result<(), Error> {
        self.check_input(&range)?;
        self.split_which(env, range, Which::Above(level))
    }

    /// Splits the blocks that extend beyond `range`, so that its leaves are all its own.
    pub(super) fn split_ends<M: TableMemory, T: Maintenance<F::Input>>(
        &self,
        env: &Env<'_, M, T>,
        range: AddrRange<F::Input>,
    ) -> Result<(), Error> {
        // Only what covers the first or the last address of the range can extend beyond it.
        for end in [range.first(), range.last()] {
            self.split_which(env, AddrRange::point(end), Which::Beyond(range))?;
        }
        Ok(())
    }

    fn split_which<M: TableMemory, T: Maintenance<F::Input>>(
        &self,
        env: &Env<'_, M, T>,
        range: AddrRange<F::Input>,
        which: Which<F::Input>,
    ) -> Result<(), Error> {
        let mut split = Split {
            table: self,
            env,
            which,
        };
        self.walk(env.memory, range, &mut split)
    }
}

struct Split<'a, F: Format, M, T> {
    table: &'a PageTable<F>,
    env: &'a Env<'a, M, T>,
    which: Which<F::Input>,
}

impl<F: Format, M: TableMemory, T: Maintenance<F::Input>> Visitor<F> for Split<'_, F, M, T> {
    fn visit(&mut self, at: &Visit<F>) -> Result<Next, Error> {
        match at.entry {
            Entry::Invalid => Ok(Next::Proceed),
            Entry::Table(child) => Ok(Next::Descend(child)),
            Entry::Leaf { pa, attrs } => {
                let chosen = match self.which {
                    Which::Beyond(range) => !range.contains_range(&at.covers),
                    Which::Above(level) => at.level < level,
                };
                if !chosen {
                    return Ok(Next::Proceed);
                }
                self.split_leaf(at, pa, attrs).map(Next::Descend)
            }
        }
    }
}

impl<F: Format, M: TableMemory, T: Maintenance<F::Input>> Split<'_, F, M, T> {
    fn split_leaf(&self, at: &Visit<F>, pa: PhysAddr, attrs: F::Attrs) -> Result<PhysAddr, Error> {
        let memory = self.env.memory;
        let child = memory.alloc(1)?;
        let prepared = self
            .fill(child, at.level, pa, attrs)
            .and_then(|()| encode_table(&self.table.geometry, child));
        let descriptor = match prepared {
            Ok(descriptor) => descriptor,
            Err(error) => {
                memory.free(child, 1);
                return Err(error);
            }
        };
        // Break: the block must be gone everywhere before a leaf of another size may exist for the same address. Its
        // entry stays counted, as it is only invalid until the table takes its place.
        memory.store(at.slot, 0)?;
        self.env.tlb.invalidate(at.covers, Stale::Leaves(at.level));
        // Make.
        memory.store(at.slot, descriptor)?;
        self.env.tlb.publish();
        Ok(child)
    }

    /// Fills `child` with leaves that together translate what a block of `level` to `pa` does.
    fn fill(
        &self,
        child: PhysAddr,
        level: Level,
        pa: PhysAddr,
        attrs: F::Attrs,
    ) -> Result<(), Error> {
        let geometry = &self.table.geometry;
        let below = level.next().ok_or(Error::Corrupt)?;
        let size = geometry.entry_size(below).ok_or(Error::Corrupt)?.bytes();
        for index in 0..geometry.entries() {
            let part = index
                .checked_mul(size)
                .and_then(|offset| pa.checked_add(offset))
                .ok_or(Error::OutputRange)?;
            let leaf = encode_leaf(&self.table.format, geometry, below, part, attrs)?;
            self.env.memory.store(
                Slot {
                    table: child,
                    index,
                },
                leaf,
            )?;
        }
        self.env.memory.get(child, geometry.entries())
    }
}
