// SPDX-License-Identifier: GPL-2.0-only

//! Translation tables: one walker for every format, memory and CPU.
//!
//! Domain: common. [`PageTable`] is generic over the format ([`Stage1`], [`Stage2`]), over the memory that holds the
//! tables ([`TableMemory`]) and over what keeps the TLBs in step ([`Maintenance`]), so that the host at load, EL2 at run
//! time and the tests share each line of it.
//!
//! # Who may call what at the same time
//!
//! A table has one lock, which its owner chooses. It is a lock of readers and writers, and Rust's references say the same:
//!
//! - What takes `&mut self` needs the lock exclusively: [`PageTable::map`], [`PageTable::unmap`],
//!   [`PageTable::reclaim`], [`PageTable::protect`], [`PageTable::split`], [`PageTable::merge`], [`PageTable::destroy`]. No
//!   other call on the table runs at the same time, on any CPU. These are the only ones that break entries and free tables.
//! - What takes `&self` needs it shared: [`PageTable::map_concurrent`] for faults on several CPUs, and the readers
//!   [`PageTable::lookup`], [`PageTable::visit`] and [`PageTable::runs`]. Under the shared lock an entry
//!   only ever goes from invalid to valid, by compare-and-exchange, and no table is freed: a reader
//!   never follows a table that is gone, and of two CPUs that map the same place one wins and the other finds it done.
//! - [`Maintenance`] is called with the lock held. That an invalidation is complete before the lock is released is what
//!   makes it safe to hand out the memory of an emptied table, or of an unmapped page, right after.
//! - The hardware walks the tables at any time, whoever holds the lock. Against it there are the order of stores and
//!   invalidations (see [`maintenance`]) and descriptors that are written whole.
//!
//! What is being split, or is given another memory type, is unmapped for a moment. A live table must not be split where
//! the code that does it, its stack, or the tables themselves are mapped.
//!
//! Source: Arm ARM DDI 0487 D8; behaviour as `arch/arm64/kvm/hyp/pgtable.c`.

mod error;
pub mod field;
mod foreign;
mod format;
mod geometry;
pub mod maintenance;
mod map;
mod memory;
mod merge;
mod protect;
mod query;
mod reclaim;
mod split;
mod stage1;
mod stage2;
#[cfg(test)]
mod tests;
pub mod tlb;
mod unmap;
mod walk;

pub use error::Error;
pub use foreign::Foreign;
pub use format::Format;
pub use geometry::{
    Geometry,
    Level,
    Output,
    PaFormat,
    DESCRIPTOR_BYTES,
    MIN_INPUT_BITS, //
};
pub use maintenance::{
    Maintenance,
    NotLive,
    Stale, //
};
pub use map::Blocks;
pub use memory::{
    Slot,
    TableMemory, //
};
pub use query::Mapping;
pub use stage1::{
    HypAccess,
    HypAttrs,
    Stage1, //
};
pub use stage2::{
    GuestAttrs,
    GuestExecute,
    GuestMemory,
    Stage2, //
};

use super::addr::{
    AddrRange,
    Address,
    PhysAddr, //
};

/// What an operation works with besides the table: its memory and the TLBs.
#[derive(Debug)]
pub struct Env<'a, M, T> {
    /// The memory that holds the tables.
    pub memory: &'a M,
    /// What keeps the TLBs in step.
    pub tlb: &'a T,
}

impl<'a, M, T> Env<'a, M, T> {
    /// Puts the two together.
    pub const fn new(memory: &'a M, tlb: &'a T) -> Self {
        Self { memory, tlb }
    }
}

/// A translation table with all its levels.
///
/// Dropping it frees nothing: whether hardware still walks the table is for its owner to know. See [`Self::destroy`].
#[derive(Debug)]
#[repr(C)]
pub struct PageTable<F> {
    format: F,
    geometry: Geometry,
    // INVARIANT: aligned to the granule and within the output size of `geometry`.
    root: PhysAddr,
}

impl<F: Format> PageTable<F> {
    /// A new table that maps nothing.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`]; [`Error::OutputRange`] if `memory` lies beyond the output size.
    pub fn create<M: TableMemory>(
        format: F,
        geometry: Geometry,
        memory: &M,
    ) -> Result<Self, Error> {
        let granules = geometry.root_granules();
        let root = memory.alloc(granules)?;
        Self::adopt(format, geometry, root).inspect_err(|_| memory.free(root, granules))
    }

    /// The table that somebody else created with the same format and geometry, and who no longer uses it.
    ///
    /// # Errors
    ///
    /// [`Error::OutputRange`] if `root` is not aligned or lies beyond the output size.
    pub fn adopt(format: F, geometry: Geometry, root: PhysAddr) -> Result<Self, Error> {
        geometry.ttbr(root).ok_or(Error::OutputRange)?;
        // INVARIANT: just tested, as a TTBR demands both.
        Ok(Self {
            format,
            geometry,
            root,
        })
    }

    /// The first byte of the root table.
    pub const fn root(&self) -> PhysAddr {
        self.root
    }

    /// The shape of the table.
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The format of the table.
    pub const fn format(&self) -> &F {
        &self.format
    }

    /// Frees all tables, whatever they map.
    ///
    /// No TTBR leads to the table any more, and all TLBs of its regime (of its VMID, at stage 2) have been invalidated
    /// since: the memory may be reused at once.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`]; what lies behind the descriptor in question is then not freed.
    pub fn destroy<M: TableMemory>(self, memory: &M) -> Result<(), Error> {
        struct Free<'a, M>(&'a M);

        impl<F: Format, M: TableMemory> walk::Visitor<F> for Free<'_, M> {
            fn leave(&mut self, _at: &walk::Visit<F>, child: PhysAddr) -> Result<(), Error> {
                self.0.free(child, 1);
                Ok(())
            }
        }

        let all = self.geometry.input_range().ok_or(Error::InputRange)?;
        let result = self.walk(memory, all, &mut Free(memory));
        memory.free(self.root, self.geometry.root_granules());
        result
    }

    /// Whether `range` is one that the table can map.
    fn check_input(&self, range: &AddrRange<F::Input>) -> Result<(), Error> {
        if !range.is_aligned(self.geometry.granule().unit()) {
            return Err(Error::Unaligned);
        }
        match self.geometry.input_range() {
            Some(all) if AddrRange::contains_range(&all, range) => Ok(()),
            _ => Err(Error::InputRange),
        }
    }

    /// Whether `size_bytes` from `pa` on are an output that the table can map.
    fn check_output(&self, pa: PhysAddr, size_bytes: u64) -> Result<(), Error> {
        if !pa.is_aligned(self.geometry.granule().unit()) {
            return Err(Error::Unaligned);
        }
        AddrRange::new(pa, size_bytes)
            .filter(|range| self.geometry.output().contains(range.last()))
            .map(|_| ())
            .ok_or(Error::OutputRange)
    }
}
