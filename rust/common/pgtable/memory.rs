// SPDX-License-Identifier: GPL-2.0-only

//! What the walker needs from the memory that holds the tables.
//!
//! Domain: common. Implementors: the host's linear map at load, the EL2 pool at run time, the arena of the tests.

use super::{
    error::Error,
    geometry::DESCRIPTOR_BYTES, //
};
use crate::common::addr::{
    Address,
    PhysAddr, //
};

/// The place of one descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    /// First byte of the table; of the first one, if the root has several.
    pub table: PhysAddr,
    /// Number of the entry in the table. In a concatenated root it runs on into the following granules.
    pub index: u64,
}

impl Slot {
    /// The address of the descriptor.
    pub fn pa(self) -> Option<PhysAddr> {
        self.table
            .checked_add(self.index.checked_mul(DESCRIPTOR_BYTES)?)
    }
}

/// Memory that holds translation tables, and its books.
///
/// Every table but the root has a count of its valid entries. The walker raises it before it makes an entry valid and
/// lowers it after it has made one invalid, so a count of 0 means that nothing depends on the table.
///
/// All methods take `&self`: `PageTable::map_concurrent` calls them on several CPUs at once. An implementation whose
/// users never call that may leave all locking to the lock that guards the table.
pub trait TableMemory {
    /// Takes `granules` physically contiguous granules, zeroed and aligned to a granule (one granule) or to their whole
    /// size (several), with a count of 0. The zeroes are written before a store of [`Self::store`] that follows.
    ///
    /// # Errors
    ///
    /// [`Error::NoMemory`].
    fn alloc(&self, granules: u64) -> Result<PhysAddr, Error>;

    /// Gives back what [`Self::alloc`] took. No walk can reach it any more.
    fn free(&self, table: PhysAddr, granules: u64);

    /// Adds `entries` to the count of `table`.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if `table` is no table of this memory.
    fn get(&self, table: PhysAddr, entries: u64) -> Result<(), Error>;

    /// Takes `entries` off the count of `table`.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if `table` is no table of this memory, or its count is lower than that.
    fn put(&self, table: PhysAddr, entries: u64) -> Result<(), Error>;

    /// The count of `table`.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if `table` is no table of this memory.
    fn count(&self, table: PhysAddr) -> Result<u64, Error>;

    /// Reads a descriptor, once and whole, with acquire ordering: the table that it leads to is seen as its writer left it.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if the table is not of this memory.
    fn load(&self, slot: Slot) -> Result<u64, Error>;

    /// Writes a descriptor, once and whole, with release ordering: a walk that sees it sees the table that it leads to.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if the table is not of this memory.
    fn store(&self, slot: Slot, descriptor: u64) -> Result<(), Error>;

    /// Writes `new` where `old` still stands, atomically, ordered as [`Self::load`] and [`Self::store`] are.
    /// Returns whether it did.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if the table is not of this memory.
    fn compare_exchange(&self, slot: Slot, old: u64, new: u64) -> Result<bool, Error>;
}
