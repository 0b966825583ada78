// SPDX-License-Identifier: GPL-2.0-only

//! Mapping: entries go from invalid to valid, and never from one translation to another.
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
    maintenance::Maintenance,
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
    Address,
    PhysAddr, //
};

/// Sizes of leaves to map with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocks {
    /// The largest block that fits, at each place.
    Allowed,
    /// Pages.
    PagesOnly,
}

/// What a range is to lead to.
struct Target<F: Format> {
    range: AddrRange<F::Input>,
    pa: PhysAddr,
    attrs: F::Attrs,
    blocks: Blocks,
}

impl<F: Format> Target<F> {
    /// Where `at`, an address of the range, is to lead to.
    fn pa_of(&self, at: F::Input) -> Result<PhysAddr, Error> {
        at.offset_from(self.range.first())
            .and_then(|offset| self.pa.checked_add(offset))
            .ok_or(Error::OutputRange)
    }
}

impl<F: Format> PageTable<F> {
    /// Maps `range` to the memory from `pa` on. All of it, or nothing on an error.
    ///
    /// No entry in the range may be valid. A dry run makes sure of that before anything is written, so a live table
    /// never sees a change that would need break-before-make.
    ///
    /// # Errors
    ///
    /// [`Error::Unaligned`], [`Error::InputRange`], [`Error::OutputRange`], [`Error::Attributes`] for the arguments;
    /// [`Error::AlreadyMapped`] if part of the range has the very same translation, [`Error::BreakBeforeMake`] if
    /// it has another one; [`Error::NoMemory`] for a table.
    pub fn map<M: TableMemory, T: Maintenance<F::Input>>(
        &mut self,
        env: &Env<'_, M, T>,
        range: AddrRange<F::Input>,
        pa: PhysAddr,
        attrs: F::Attrs,
        blocks: Blocks,
    ) -> Result<(), Error> {
        let target = self.target(range, pa, attrs, blocks)?;
        self.walk(env.memory, range, &mut Vacant { target: &target })?;
        let mut install = Install {
            table: self,
            memory: env.memory,
            target: &target,
        };
        match self.walk(env.memory, range, &mut install) {
            Ok(()) => {
                env.tlb.publish();
                Ok(())
            }
            Err(error) => {
                // All that is valid in the range was made so just now. The first error is the one to report.
                let _ = self.remove(env, range);
                Err(error)
            }
        }
    }

    /// Maps `range` as [`Self::map`] does, for faults on several CPUs at once.
    ///
    /// Parts that have the very same translation already are left alone: another CPU was faster. On an error, what was
    /// mapped before stays, as do tables that are empty; the next [`Self::unmap`] of the range frees them.
    ///
    /// # Errors
    ///
    /// As [`Self::map`], but without [`Error::AlreadyMapped`]. After [`Error::BreakBeforeMake`] the caller takes the
    /// lock exclusively, unmaps and tries again.
    pub fn map_concurrent<M: TableMemory, T: Maintenance<F::Input>>(
        &self,
        env: &Env<'_, M, T>,
        range: AddrRange<F::Input>,
        pa: PhysAddr,
        attrs: F::Attrs,
        blocks: Blocks,
    ) -> Result<(), Error> {
        let target = self.target(range, pa, attrs, blocks)?;
        let mut install = Install {
            table: self,
            memory: env.memory,
            target: &target,
        };
        let result = self.walk(env.memory, range, &mut install);
        env.tlb.publish();
        result
    }

    fn target(
        &self,
        range: AddrRange<F::Input>,
        pa: PhysAddr,
        attrs: F::Attrs,
        blocks: Blocks,
    ) -> Result<Target<F>, Error> {
        self.check_input(&range)?;
        self.check_output(pa, range.size_bytes())?;
        self.format.encode(attrs, self.geometry.output().format())?;
        Ok(Target {
            range,
            pa,
            attrs,
            blocks,
        })
    }
}

/// The dry run: refuses a range with a valid leaf.
struct Vacant<'a, F: Format> {
    target: &'a Target<F>,
}

impl<F: Format> Visitor<F> for Vacant<'_, F> {
    fn visit(&mut self, at: &Visit<F>) -> Result<Next, Error> {
        match at.entry {
            Entry::Invalid => Ok(Next::Proceed),
            Entry::Table(child) => Ok(Next::Descend(child)),
            Entry::Leaf { pa, attrs } => Err(clash(self.target, at, pa, attrs)?),
        }
    }
}

/// Why a valid leaf with `pa` and `attrs` is in the way.
fn clash<F: Format>(
    target: &Target<F>,
    at: &Visit<F>,
    pa: PhysAddr,
    attrs: F::Attrs,
) -> Result<Error, Error> {
    let offset = at
        .part
        .first()
        .offset_from(at.covers.first())
        .ok_or(Error::Corrupt)?;
    let same = pa.checked_add(offset) == Some(target.pa_of(at.part.first())?);
    Ok(if same && attrs == target.attrs {
        Error::AlreadyMapped
    } else {
        Error::BreakBeforeMake
    })
}

/// The run that writes.
struct Install<'a, F: Format, M> {
    table: &'a PageTable<F>,
    memory: &'a M,
    target: &'a Target<F>,
}

impl<F: Format, M: TableMemory> Visitor<F> for Install<'_, F, M> {
    fn visit(&mut self, at: &Visit<F>) -> Result<Next, Error> {
        match at.entry {
            Entry::Table(child) => Ok(Next::Descend(child)),
            Entry::Leaf { pa, attrs } => match clash(self.target, at, pa, attrs)? {
                Error::AlreadyMapped => Ok(Next::Proceed),
                error => Err(error),
            },
            Entry::Invalid => {
                let pa = self.target.pa_of(at.part.first())?;
                if self.leaf_fits(at, pa) {
                    self.install_leaf(at, pa)
                } else {
                    self.install_table(at)
                }
            }
        }
    }
}

impl<F: Format, M: TableMemory> Install<'_, F, M> {
    fn leaf_fits(&self, at: &Visit<F>, pa: PhysAddr) -> bool {
        let geometry = &self.table.geometry;
        let wanted = at.level == Level::L3 || self.target.blocks == Blocks::Allowed;
        wanted
            && at.is_whole()
            && geometry.is_leaf_level(at.level)
            && geometry
                .entry_size(at.level)
                .is_some_and(|size| pa.is_aligned(size))
    }

    fn install_leaf(&self, at: &Visit<F>, pa: PhysAddr) -> Result<Next, Error> {
        let leaf = encode_leaf(
            &self.table.format,
            &self.table.geometry,
            at.level,
            pa,
            self.target.attrs,
        )?;
        Ok(if self.table.make(self.memory, at, leaf)? {
            Next::Proceed
        } else {
            Next::Retry
        })
    }

    fn install_table(&self, at: &Visit<F>) -> Result<Next, Error> {
        let child = self.memory.alloc(1)?;
        let made = encode_table(&self.table.geometry, child)
            .and_then(|descriptor| self.table.make(self.memory, at, descriptor));
        match made {
            Ok(true) => Ok(Next::Descend(child)),
            // No walk has seen the new table, so it needs no invalidation.
            Ok(false) => {
                self.memory.free(child, 1);
                Ok(Next::Retry)
            }
            Err(error) => {
                self.memory.free(child, 1);
                Err(error)
            }
        }
    }
}
