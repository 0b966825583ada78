// SPDX-License-Identifier: GPL-2.0-only

//! Common: the pool as memory for translation tables.
//!
//! Host (at load) and EL2 (at run time) differ only in how they reach a physical address.

use core::{
    ptr::NonNull,
    sync::atomic::{
        AtomicU64,
        Ordering, //
    },
};

use super::{
    addr::PhysAddr,
    pgtable::{
        Error,
        Slot,
        TableMemory, //
    },
    pool::{
        PageMeta,
        Pool,
        Use, //
    },
};

/// How this side reaches the pool's table pages.
///
/// # Safety
///
/// For every page of the pool that is [`Use::Table`] the result of [`Window::reach`] is valid for reads and writes of the
/// whole page, for as long as the page is in that use.
pub unsafe trait Window {
    /// Where `pa` is mapped on this side.
    fn reach(&self, pa: PhysAddr) -> Option<NonNull<u8>>;
}

/// Table pages out of a [`Pool`].
#[derive(Debug)]
pub struct PoolTables<'a, W> {
    /// The books.
    pub pool: &'a Pool,
    /// The page metadata.
    pub meta: &'a [PageMeta],
    /// The way to the pages.
    pub window: W,
    /// Size of a page, in bytes.
    pub page_bytes: usize,
}

impl<W: Window> PoolTables<'_, W> {
    fn descriptor(&self, slot: Slot) -> Result<&AtomicU64, Error> {
        // Only a page that is a table now may be read or written as one.
        self.pool
            .entries(self.meta, slot.table)
            .map_err(|_| Error::Corrupt)?;
        let place = slot
            .pa()
            .and_then(|pa| self.window.reach(pa))
            .ok_or(Error::Corrupt)?;
        let offset = slot
            .pa()
            .map_or(0, |pa| pa.raw().wrapping_sub(slot.table.raw()));
        if offset >= self.page_bytes as u64 {
            return Err(Error::Corrupt);
        }
        // SAFETY: The page is a table (just looked up), so `Window` promises that it is reachable; the slot is inside of it
        // and a multiple of 8 bytes away from its start. All accesses to tables by software are atomic.
        Ok(unsafe { AtomicU64::from_ptr(place.cast::<u64>().as_ptr()) })
    }

    fn adjust(&self, table: PhysAddr, delta: i32) -> Result<(), Error> {
        self.pool
            .adjust_entries(self.meta, table, delta)
            .map(|_| ())
            .map_err(|_| Error::Corrupt)
    }
}

impl<W: Window> TableMemory for PoolTables<'_, W> {
    fn alloc(&self, granules: u64) -> Result<PhysAddr, Error> {
        // Concatenated roots are for stage 2, whose tables are not in the pool.
        if granules != 1 {
            return Err(Error::NoMemory);
        }
        let page = self
            .pool
            .take(self.meta, Use::Table)
            .map_err(|_| Error::NoMemory)?;
        let Some(start) = self.window.reach(page) else {
            let _ = self.pool.give_back(self.meta, page, Use::Table);
            return Err(Error::NoMemory);
        };
        // SAFETY: The page is a table now, so it is reachable, all of it, and nobody else knows it yet.
        unsafe { start.as_ptr().write_bytes(0, self.page_bytes) };
        Ok(page)
    }

    fn free(&self, table: PhysAddr, _granules: u64) {
        let _ = self.pool.give_back(self.meta, table, Use::Table);
    }

    fn get(&self, table: PhysAddr, entries: u64) -> Result<(), Error> {
        self.adjust(table, i32::try_from(entries).map_err(|_| Error::Corrupt)?)
    }

    fn put(&self, table: PhysAddr, entries: u64) -> Result<(), Error> {
        let entries = i32::try_from(entries).map_err(|_| Error::Corrupt)?;
        self.adjust(table, entries.checked_neg().ok_or(Error::Corrupt)?)
    }

    fn count(&self, table: PhysAddr) -> Result<u64, Error> {
        self.pool
            .entries(self.meta, table)
            .map(u64::from)
            .map_err(|_| Error::Corrupt)
    }

    fn load(&self, slot: Slot) -> Result<u64, Error> {
        Ok(self.descriptor(slot)?.load(Ordering::Acquire))
    }

    fn store(&self, slot: Slot, descriptor: u64) -> Result<(), Error> {
        self.descriptor(slot)?.store(descriptor, Ordering::Release);
        Ok(())
    }

    fn compare_exchange(&self, slot: Slot, old: u64, new: u64) -> Result<bool, Error> {
        Ok(self
            .descriptor(slot)?
            .compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
            .is_ok())
    }
}
