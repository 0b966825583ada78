// SPDX-License-Identifier: GPL-2.0-only

//! Protecting: leaves keep their address and get other attributes.
//!
//! Domain: common. Permissions and the access flag may change in a live leaf: until the invalidation completes a CPU
//! uses the old or the new ones, never a mix. A tag changes without an invalidation, as hardware does not see it. Another
//! memory type needs break-before-make.

use super::{
    error::Error,
    format::{
        encode_leaf,
        Entry,
        Format, //
    },
    maintenance::{
        Maintenance,
        Stale, //
    },
    memory::TableMemory,
    unmap::Pending,
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

impl<F: Format> PageTable<F> {
    /// Gives each leaf in `range` the attributes that `change` makes of its old ones; `None` refuses.
    ///
    /// All of the range must be mapped. Blocks that extend beyond it are split first. When it returns, no CPU uses the
    /// old attributes any more. `change` is called twice for a leaf and must give the same answer.
    ///
    /// # Errors
    ///
    /// [`Error::Unaligned`], [`Error::InputRange`] for the arguments; [`Error::NotMapped`]; [`Error::Attributes`] if
    /// `change` refuses, or the format cannot express the answer; [`Error::NoMemory`] for a split. No attribute
    /// has changed then.
    pub fn protect<M, T, C>(
        &mut self,
        env: &Env<'_, M, T>,
        range: AddrRange<F::Input>,
        change: C,
    ) -> Result<(), Error>
    where
        M: TableMemory,
        T: Maintenance<F::Input>,
        C: Fn(F::Attrs) -> Option<F::Attrs>,
    {
        self.check_input(&range)?;
        let mut dry_run = Changeable {
            table: self,
            change: &change,
        };
        self.walk(env.memory, range, &mut dry_run)?;
        self.split_ends(env, range)?;
        let mut protect = Protect {
            table: self,
            env,
            change: &change,
            pending: Pending::new(),
        };
        let result = self.walk(env.memory, range, &mut protect);
        protect.pending.flush(env.tlb);
        result
    }
}

/// What `change` makes of a leaf, as a descriptor.
fn changed<F: Format, C: Fn(F::Attrs) -> Option<F::Attrs>>(
    table: &PageTable<F>,
    change: &C,
    at: &Visit<F>,
    pa: PhysAddr,
    old: F::Attrs,
) -> Result<(F::Attrs, u64), Error> {
    let new = change(old).ok_or(Error::Attributes)?;
    let descriptor = encode_leaf(&table.format, &table.geometry, at.level, pa, new)?;
    Ok((new, descriptor))
}

/// The dry run: refuses a hole, and attributes that cannot be.
struct Changeable<'a, F, C> {
    table: &'a PageTable<F>,
    change: &'a C,
}

impl<F: Format, C: Fn(F::Attrs) -> Option<F::Attrs>> Visitor<F> for Changeable<'_, F, C> {
    fn visit(&mut self, at: &Visit<F>) -> Result<Next, Error> {
        match at.entry {
            Entry::Invalid => Err(Error::NotMapped),
            Entry::Table(child) => Ok(Next::Descend(child)),
            Entry::Leaf { pa, attrs } => {
                changed(self.table, self.change, at, pa, attrs).map(|_| Next::Proceed)
            }
        }
    }
}

/// The run that writes.
struct Protect<'a, F: Format, M, T, C> {
    table: &'a PageTable<F>,
    env: &'a Env<'a, M, T>,
    change: &'a C,
    pending: Pending<F::Input>,
}

impl<F, M, T, C> Visitor<F> for Protect<'_, F, M, T, C>
where
    F: Format,
    M: TableMemory,
    T: Maintenance<F::Input>,
    C: Fn(F::Attrs) -> Option<F::Attrs>,
{
    fn visit(&mut self, at: &Visit<F>) -> Result<Next, Error> {
        let (pa, old) = match at.entry {
            Entry::Invalid => return Err(Error::NotMapped),
            Entry::Table(child) => return Ok(Next::Descend(child)),
            Entry::Leaf { pa, attrs } => (pa, attrs),
        };
        let (new, descriptor) = changed(self.table, self.change, at, pa, old)?;
        if new == old {
            return Ok(Next::Proceed);
        }
        if self.table.format.needs_break(old, new) {
            self.env.memory.store(at.slot, 0)?;
            self.env.tlb.invalidate(at.covers, Stale::Leaves(at.level));
            self.env.memory.store(at.slot, descriptor)?;
            self.env.tlb.publish();
        } else {
            self.env.memory.store(at.slot, descriptor)?;
            if self.table.format.needs_flush(old, new) {
                self.pending.add(self.env.tlb, at.covers, at.level);
            }
        }
        Ok(Next::Proceed)
    }
}
