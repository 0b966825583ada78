// SPDX-License-Identifier: GPL-2.0-only

//! The pool with its books, and its pages as memory for tables.
//!
//! The books are the module's own. Tables are written as the host writes them at load: cacheable stores of CPU 0 at EL1.

use std::cell::RefCell;

use anyhow::{
    anyhow,
    Context as _,
    Result, //
};
use eltwo::{
    common::{
        addr::{
            Address as _,
            Granule,
            PhysAddr, //
        },
        pgtable::{
            Error,
            Slot,
            TableMemory, //
        },
        pool::{
            PageMeta,
            Pool,
            PoolError,
            Use, //
        },
    },
    fake::System, //
};

/// The CPU that loads the module.
pub(super) const LOADER: usize = 0;

/// A pool in one piece: metadata, image, and everything else.
pub(super) struct Books {
    pub(super) pool: Pool,
    pub(super) meta: Vec<PageMeta>,
}

fn explain(error: PoolError) -> anyhow::Error {
    anyhow!("the pool: {error:?}")
}

impl Books {
    /// A pool that starts at `first`, with the first `meta` of its `pages` pages for metadata and the next `image` for the
    /// image.
    pub(super) fn new(
        granule: Granule,
        first: PhysAddr,
        pages: u32,
        meta: u64,
        image: u64,
    ) -> Result<Self> {
        let books = Self {
            pool: Pool::default(),
            meta: (0..pages).map(|_| PageMeta::default()).collect(),
        };
        books.pool.start(granule);
        books
            .pool
            .add_chunk(&books.meta, first, pages)
            .map_err(explain)?;
        let uses = [(Use::Meta, meta), (Use::Image, image)];
        let mut expected = Some(first);
        for (kind, count) in uses {
            for _ in 0..count {
                let page = books.pool.take(&books.meta, kind).map_err(explain)?;
                anyhow::ensure!(Some(page) == expected, "the pool gives pages out of order");
                expected = page.checked_add(granule.size());
            }
        }
        Ok(books)
    }
}

/// The pages of the pool, through the cache of the loader.
pub(super) struct HostTables<'a> {
    pub(super) system: RefCell<&'a mut System>,
    pub(super) books: &'a Books,
    pub(super) granule: Granule,
}

impl HostTables<'_> {
    /// Writes zeroes all over the pages in `kind` of use, as the kernel did when it gave them to us.
    pub(super) fn zero(&self, kind: Use) -> Result<()> {
        for page in self.books.pool.pages_of(&self.books.meta, kind) {
            self.zero_page(page).ok().context("a page of the pool")?;
        }
        Ok(())
    }

    fn zero_page(&self, page: PhysAddr) -> Result<(), Error> {
        let zeroes = vec![0; self.granule.size() as usize];
        let mut system = self.system.borrow_mut();
        let written = system.write_host(LOADER, page.raw(), &zeroes);
        written.map_err(|_| Error::Corrupt)
    }

    fn adjust(&self, table: PhysAddr, delta: i32) -> Result<(), Error> {
        let adjusted = self
            .books
            .pool
            .adjust_entries(&self.books.meta, table, delta);
        adjusted.map(|_| ()).map_err(|_| Error::Corrupt)
    }
}

impl TableMemory for HostTables<'_> {
    fn alloc(&self, granules: u64) -> Result<PhysAddr, Error> {
        if granules != 1 {
            return Err(Error::NoMemory);
        }
        let page = self.books.pool.take(&self.books.meta, Use::Table);
        let page = page.map_err(|_| Error::NoMemory)?;
        self.zero_page(page)?;
        Ok(page)
    }

    fn free(&self, table: PhysAddr, _granules: u64) {
        // What was a table can be given back.
        let _ = self
            .books
            .pool
            .give_back(&self.books.meta, table, Use::Table);
    }

    fn get(&self, table: PhysAddr, entries: u64) -> Result<(), Error> {
        self.adjust(table, entries as i32)
    }

    fn put(&self, table: PhysAddr, entries: u64) -> Result<(), Error> {
        self.adjust(table, -(entries as i32))
    }

    fn count(&self, table: PhysAddr) -> Result<u64, Error> {
        let entries = self.books.pool.entries(&self.books.meta, table);
        entries.map(u64::from).map_err(|_| Error::Corrupt)
    }

    fn load(&self, slot: Slot) -> Result<u64, Error> {
        let pa = slot.pa().ok_or(Error::Corrupt)?;
        self.system.borrow().read(pa.raw()).ok_or(Error::Corrupt)
    }

    fn store(&self, slot: Slot, descriptor: u64) -> Result<(), Error> {
        let pa = slot.pa().ok_or(Error::Corrupt)?;
        let mut system = self.system.borrow_mut();
        let stored = system.cpu(LOADER).store_release64(pa.raw(), descriptor);
        stored.map_err(|_| Error::Corrupt)
    }

    fn compare_exchange(&self, slot: Slot, old: u64, new: u64) -> Result<bool, Error> {
        let equal = self.load(slot)? == old;
        if equal {
            self.store(slot, new)?;
        }
        Ok(equal)
    }
}
