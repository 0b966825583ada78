// SPDX-License-Identifier: GPL-2.0-only

//! Unmapping: entries go from valid to invalid, and emptied tables back to their memory.
//!
//! Domain: common. The order is: clear leaves, invalidate them everywhere; then, if their table is empty, clear the entry
//! that leads to it, invalidate the walks through it everywhere; only then free it. Leaves next to each other are invalidated
//! together, so that a range costs one sequence of barriers per emptied table.

use super::{
    error::Error,
    format::{
        Entry,
        Format, //
    },
    geometry::Level,
    maintenance::{
        Maintenance,
        Stale, //
    },
    memory::TableMemory,
    walk::{
        Next,
        Visit,
        Visitor, //
    },
    Env, PageTable,
};
use crate::common::addr::{
    AddrRange,
    PhysAddr, //
};

/// Leaves of one level, without a gap, that are changed in the table but may still be in a TLB.
pub(super) struct Pending<A> {
    leaves: Option<(AddrRange<A>, Level)>,
}

impl<A: crate::common::addr::Address> Pending<A> {
    pub(super) const fn new() -> Self {
        Self { leaves: None }
    }

    /// Adds a leaf of `level`, above all that were added before.
    pub(super) fn add<T: Maintenance<A>>(&mut self, tlb: &T, covers: AddrRange<A>, level: Level) {
        let joined = self.leaves.and_then(|(range, of)| {
            let adjacent = of == level && range.end() == Some(covers.first());
            AddrRange::from_bounds(range.first(), covers.last()).filter(|_| adjacent)
        });
        if joined.is_none() {
            self.flush(tlb);
        }
        self.leaves = Some((joined.unwrap_or(covers), level));
    }

    /// Invalidates what was added.
    pub(super) fn flush<T: Maintenance<A>>(&mut self, tlb: &T) {
        if let Some((range, level)) = self.leaves.take() {
            tlb.invalidate(range, Stale::Leaves(level));
        }
    }
}

impl<F: Format> PageTable<F> {
    /// Unmaps all that is mapped in `range` and returns how many bytes that was. What is not mapped is no error.
    ///
    /// When it returns, no CPU has a translation for the range any more, and tables that became empty are free.
    /// Blocks that extend beyond the range are split first.
    ///
    /// # Errors
    ///
    /// [`Error::Unaligned`], [`Error::InputRange`] for the arguments; [`Error::NoMemory`] for a split. Nothing is
    /// unmapped then.
    pub fn unmap<M: TableMemory, T: Maintenance<F::Input>>(
        &mut self,
        env: &Env<'_, M, T>,
        range: AddrRange<F::Input>,
    ) -> Result<u64, Error> {
        self.check_input(&range)?;
        self.split_ends(env, range)?;
        self.remove(env, range)
    }

    /// Unmaps `range`. No block extends beyond it.
    pub(super) fn remove<M: TableMemory, T: Maintenance<F::Input>>(
        &self,
        env: &Env<'_, M, T>,
        range: AddrRange<F::Input>,
    ) -> Result<u64, Error> {
        let mut remove = Remove {
            table: self,
            env,
            pending: Pending::new(),
            removed_bytes: 0,
        };
        let result = self.walk(env.memory, range, &mut remove);
        remove.pending.flush(env.tlb);
        result.map(|()| remove.removed_bytes)
    }
}

struct Remove<'a, F: Format, M, T> {
    table: &'a PageTable<F>,
    env: &'a Env<'a, M, T>,
    pending: Pending<F::Input>,
    removed_bytes: u64,
}

impl<F: Format, M: TableMemory, T: Maintenance<F::Input>> Remove<'_, F, M, T> {
    fn clear(&self, at: &Visit<F>) -> Result<(), Error> {
        self.env.memory.store(at.slot, 0)?;
        self.table.discount_entry(self.env.memory, at)
    }
}

impl<F: Format, M: TableMemory, T: Maintenance<F::Input>> Visitor<F> for Remove<'_, F, M, T> {
    fn visit(&mut self, at: &Visit<F>) -> Result<Next, Error> {
        match at.entry {
            Entry::Invalid => Ok(Next::Proceed),
            Entry::Table(child) => Ok(Next::Descend(child)),
            Entry::Leaf { .. } if !at.is_whole() => Err(Error::Corrupt),
            Entry::Leaf { .. } => {
                self.clear(at)?;
                self.pending.add(self.env.tlb, at.covers, at.level);
                // The leaves of a range are disjoint, so their sizes add up to at most that of the range.
                self.removed_bytes = self.removed_bytes.wrapping_add(at.covers.size_bytes());
                Ok(Next::Proceed)
            }
        }
    }

    fn leave(&mut self, at: &Visit<F>, child: PhysAddr) -> Result<(), Error> {
        if self.env.memory.count(child)? != 0 {
            return Ok(());
        }
        self.pending.flush(self.env.tlb);
        self.clear(at)?;
        self.env.tlb.invalidate(at.covers, Stale::Table(at.level));
        self.env.memory.free(child, 1);
        Ok(())
    }
}
