// SPDX-License-Identifier: GPL-2.0-only

//! Common: the pool, the only memory that EL2 owns.
//!
//! The host reserves physically contiguous chunks at load and hands them over; EL2 takes table pages from it while
//! it runs; the host gives every chunk back at unload. A page has one [`Use`] at a time, so the counts always add up.
//!
//! [`Pool`] is plain data in the pool's own first pages, followed there by one [`PageMeta`] per page. All fields are
//! atomics: the host reads them for debugfs while EL2 changes them. Changes are made at EL2 under the lock of
//! [`crate::common::shared::Shared`], or before any CPU is at EL2 with us.

use core::sync::atomic::{
    AtomicU32,
    AtomicU64,
    Ordering::Relaxed, //
};

use super::addr::{
    AddrRange,
    Address,
    Granule,
    PhysAddr, //
};

/// Most chunks that a pool can have.
pub const MAX_CHUNKS: usize = 16;

/// What a page of the pool is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Use {
    /// Nothing; it is on the free list.
    Free = 0,
    /// [`crate::common::shared::Shared`] and the page metadata.
    Meta = 1,
    /// The EL2 image.
    Image = 2,
    /// A per-CPU stack.
    Stack = 3,
    /// A per-CPU [`crate::common::abi::CpuContext`].
    Context = 4,
    /// A translation table.
    Table = 5,
}

impl Use {
    /// Every use, in the order of the numbers.
    pub const ALL: [Use; 6] = [
        Use::Free,
        Use::Meta,
        Use::Image,
        Use::Stack,
        Use::Context,
        Use::Table,
    ];

    /// Whether EL2 may have a page in this use in its linear window, writable.
    ///
    /// Not the image, as text would be writable through a second mapping; not a stack, as the guards of the others would
    /// be no guards; not a context, which has a place of its own. A free page may become a table, and tables are written
    /// there.
    pub const fn in_linear_window(self) -> bool {
        matches!(self, Use::Free | Use::Meta | Use::Table)
    }

    fn from_number(number: u32) -> Option<Use> {
        Self::ALL.into_iter().find(|kind| *kind as u32 == number)
    }
}

/// Why the pool refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PoolError {
    /// No free page is left.
    Exhausted,
    /// The address is no page of this pool, or the page is not in the use that the call is about.
    NotOurs,
    /// There are [`MAX_CHUNKS`] chunks already, or the pages no longer fit in the metadata.
    TooManyChunks,
}

/// A physically contiguous part of the pool. Filled by the host at load.
#[derive(Debug, Default)]
#[repr(C)]
struct Chunk {
    /// First byte.
    base: AtomicU64,
    /// Length.
    pages: AtomicU32,
    /// Number of its first page in the metadata.
    first_page: AtomicU32,
}

/// One page: [`Use`] in the top byte; below it the next free page, or the count of a table's live entries.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct PageMeta(AtomicU32);

const VALUE_BITS: u32 = 24;
const VALUE_MASK: u32 = (1 << VALUE_BITS) - 1;
/// End of the free list, and so also the limit of the number of pages.
const NO_PAGE: u32 = VALUE_MASK;

impl PageMeta {
    fn set(&self, kind: Use, value: u32) {
        let kind = (kind as u32).wrapping_shl(VALUE_BITS);
        self.0.store(kind | (value & VALUE_MASK), Relaxed);
    }

    fn kind(&self) -> Option<Use> {
        Use::from_number(self.0.load(Relaxed).wrapping_shr(VALUE_BITS))
    }

    fn value(&self) -> u32 {
        self.0.load(Relaxed) & VALUE_MASK
    }
}

/// The pool's books. Zero bytes are an empty pool.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Pool {
    /// Page size, as a shift.
    granule_shift: AtomicU32,
    chunk_count: AtomicU32,
    page_count: AtomicU32,
    free_head: AtomicU32,
    counts: [AtomicU32; Use::ALL.len()],
    chunks: [Chunk; MAX_CHUNKS],
}

impl Pool {
    /// Starts the books of a pool with pages of `granule`. It has no pages yet.
    pub fn start(&self, granule: Granule) {
        self.granule_shift.store(granule.shift(), Relaxed);
        self.free_head.store(NO_PAGE, Relaxed);
    }

    /// Adds a chunk of `pages` free pages at `base`. Pages are handed out in ascending order of addresses.
    pub fn add_chunk(
        &self,
        meta: &[PageMeta],
        base: PhysAddr,
        pages: u32,
    ) -> Result<(), PoolError> {
        let slot = self.chunk_count.load(Relaxed);
        let first = self.page_count.load(Relaxed);
        let chunk = self
            .chunks
            .get(slot as usize)
            .ok_or(PoolError::TooManyChunks)?;
        let end = first
            .checked_add(pages)
            .filter(|end| *end < NO_PAGE && *end as usize <= meta.len())
            .ok_or(PoolError::TooManyChunks)?;
        chunk.base.store(base.raw(), Relaxed);
        chunk.pages.store(pages, Relaxed);
        chunk.first_page.store(first, Relaxed);
        self.chunk_count.store(slot.wrapping_add(1), Relaxed);
        self.page_count.store(end, Relaxed);
        for page in (first..end).rev() {
            self.push_free(meta, page);
        }
        Ok(())
    }

    /// Takes a free page for `kind`. Its content is undefined.
    pub fn take(&self, meta: &[PageMeta], kind: Use) -> Result<PhysAddr, PoolError> {
        let page = self.free_head.load(Relaxed);
        let entry = meta.get(page as usize).ok_or(PoolError::Exhausted)?;
        let address = self.address_of(page).ok_or(PoolError::Exhausted)?;
        self.free_head.store(entry.value(), Relaxed);
        entry.set(kind, 0);
        self.count(Use::Free, false);
        self.count(kind, true);
        Ok(address)
    }

    /// Gives back a page that was taken for `kind`.
    pub fn give_back(
        &self,
        meta: &[PageMeta],
        address: PhysAddr,
        kind: Use,
    ) -> Result<(), PoolError> {
        let page = self.page_of(meta, address, kind)?;
        self.count(kind, false);
        self.push_free(meta, page);
        Ok(())
    }

    /// Adds `delta` to the count of live entries of the table at `address` and returns the new count.
    pub fn adjust_entries(
        &self,
        meta: &[PageMeta],
        address: PhysAddr,
        delta: i32,
    ) -> Result<u32, PoolError> {
        let page = self.page_of(meta, address, Use::Table)?;
        let entry = meta.get(page as usize).ok_or(PoolError::NotOurs)?;
        let value = entry
            .value()
            .checked_add_signed(delta)
            .filter(|value| *value < NO_PAGE)
            .ok_or(PoolError::NotOurs)?;
        entry.set(Use::Table, value);
        Ok(value)
    }

    /// Count of live entries of the table at `address`. Reads only, so it needs no lock.
    pub fn entries(&self, meta: &[PageMeta], address: PhysAddr) -> Result<u32, PoolError> {
        let page = self.page_of(meta, address, Use::Table)?;
        meta.get(page as usize)
            .map(PageMeta::value)
            .ok_or(PoolError::NotOurs)
    }

    /// Whether `address` is in a page of the pool.
    pub fn contains(&self, address: PhysAddr) -> bool {
        self.page_number(address).is_some()
    }

    /// Whether any byte of `range` is in the pool.
    pub fn overlaps(&self, range: AddrRange<PhysAddr>) -> bool {
        self.chunk_ranges().any(|chunk| chunk.overlaps(&range))
    }

    /// Page number `number` and what it is used for; `None` behind the last one.
    pub fn page(&self, meta: &[PageMeta], number: u32) -> Option<(Use, PhysAddr)> {
        let kind = meta.get(number as usize)?.kind()?;
        Some((kind, self.address_of(number)?))
    }

    /// The parts of `range` that may be in the linear window, in ascending order: all but the pages of this pool whose use
    /// forbids it.
    ///
    /// `range` is whole pages. No page is taken or given back for such a use while the iterator lives.
    pub fn window_parts<'a>(
        &'a self,
        meta: &'a [PageMeta],
        range: AddrRange<PhysAddr>,
    ) -> impl Iterator<Item = AddrRange<PhysAddr>> + 'a {
        let mut rest = Some(range);
        core::iter::from_fn(move || loop {
            let left = rest?;
            let Some(gap) = self.first_gap(meta, left) else {
                rest = None;
                return Some(left);
            };
            rest = gap.end().and_then(|next| left.from(next));
            let last = gap.first().checked_sub(1);
            if let Some(part) = last.and_then(|last| AddrRange::from_bounds(left.first(), last)) {
                return Some(part);
            }
        })
    }

    /// The first page of `range`, with those next to it in its chunk, that must not be in the linear window.
    fn first_gap(
        &self,
        meta: &[PageMeta],
        range: AddrRange<PhysAddr>,
    ) -> Option<AddrRange<PhysAddr>> {
        let page_bytes = 1u64.wrapping_shl(self.granule_shift.load(Relaxed));
        let private = |number: u32| {
            self.page(meta, number)
                .filter(|(kind, _)| !kind.in_linear_window())
                .and_then(|(_, address)| AddrRange::new(address, page_bytes))
        };
        let (number, mut gap) = (0..self.pages())
            .filter_map(|number| Some((number, private(number)?)))
            .filter(|(_, page)| page.overlaps(&range))
            .min_by_key(|(_, page)| page.first())?;
        for next in (number..self.pages()).skip(1) {
            match private(next).filter(|page| gap.end() == Some(page.first())) {
                Some(page) => gap = AddrRange::from_bounds(gap.first(), page.last())?,
                None => break,
            }
        }
        Some(gap)
    }

    /// The pages in `kind` of use.
    pub fn pages_of<'a>(
        &'a self,
        meta: &'a [PageMeta],
        kind: Use,
    ) -> impl Iterator<Item = PhysAddr> + 'a {
        (0..self.pages())
            .filter_map(|number| self.page(meta, number))
            .filter(move |(found, _)| *found == kind)
            .map(|(_, address)| address)
    }

    /// Number of pages in `kind` of use.
    pub fn pages_in(&self, kind: Use) -> u32 {
        self.counts
            .get(kind as usize)
            .map_or(0, |count| count.load(Relaxed))
    }

    /// All pages.
    pub fn pages(&self) -> u32 {
        self.page_count.load(Relaxed)
    }

    /// The chunks.
    pub fn chunk_ranges(&self) -> impl Iterator<Item = AddrRange<PhysAddr>> + '_ {
        let shift = self.granule_shift.load(Relaxed);
        let count = self.chunk_count.load(Relaxed) as usize;
        self.chunks.iter().take(count).filter_map(move |chunk| {
            let bytes = u64::from(chunk.pages.load(Relaxed)).wrapping_shl(shift);
            AddrRange::new(PhysAddr::new(chunk.base.load(Relaxed))?, bytes)
        })
    }

    fn push_free(&self, meta: &[PageMeta], page: u32) {
        if let Some(entry) = meta.get(page as usize) {
            entry.set(Use::Free, self.free_head.load(Relaxed));
            self.free_head.store(page, Relaxed);
            self.count(Use::Free, true);
        }
    }

    fn count(&self, kind: Use, up: bool) {
        if let Some(count) = self.counts.get(kind as usize) {
            let value = count.load(Relaxed);
            let value = if up {
                value.wrapping_add(1)
            } else {
                value.wrapping_sub(1)
            };
            count.store(value, Relaxed);
        }
    }

    fn page_of(&self, meta: &[PageMeta], address: PhysAddr, kind: Use) -> Result<u32, PoolError> {
        let page = self.page_number(address).ok_or(PoolError::NotOurs)?;
        match meta.get(page as usize).and_then(PageMeta::kind) {
            Some(found) if found == kind => Ok(page),
            _ => Err(PoolError::NotOurs),
        }
    }

    fn page_number(&self, address: PhysAddr) -> Option<u32> {
        let shift = self.granule_shift.load(Relaxed);
        let count = self.chunk_count.load(Relaxed) as usize;
        self.chunks.iter().take(count).find_map(|chunk| {
            let offset = address.raw().checked_sub(chunk.base.load(Relaxed))?;
            let page = u32::try_from(offset.wrapping_shr(shift)).ok()?;
            (page < chunk.pages.load(Relaxed))
                .then(|| chunk.first_page.load(Relaxed).wrapping_add(page))
        })
    }

    fn address_of(&self, page: u32) -> Option<PhysAddr> {
        let shift = self.granule_shift.load(Relaxed);
        let count = self.chunk_count.load(Relaxed) as usize;
        self.chunks.iter().take(count).find_map(|chunk| {
            let offset = page.checked_sub(chunk.first_page.load(Relaxed))?;
            if offset >= chunk.pages.load(Relaxed) {
                return None;
            }
            let bytes = u64::from(offset).wrapping_shl(shift);
            PhysAddr::new(chunk.base.load(Relaxed).checked_add(bytes)?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const BASE: u64 = 0x4000_0000;
    const SECOND: u64 = 0x8000_0000;

    fn pa(raw: u64) -> PhysAddr {
        PhysAddr::new(raw).unwrap()
    }

    fn pool(first: u32, second: u32) -> (Pool, Vec<PageMeta>) {
        let meta: Vec<PageMeta> = (0..first + second).map(|_| PageMeta::default()).collect();
        let pool = Pool::default();
        pool.start(Granule::K4);
        pool.add_chunk(&meta, pa(BASE), first).unwrap();
        pool.add_chunk(&meta, pa(SECOND), second).unwrap();
        (pool, meta)
    }

    #[test]
    fn pool_take_all_then_refuses_and_gives_back_all() {
        let (pool, meta) = pool(3, 2);
        let pages: Vec<PhysAddr> = (0..5)
            .map(|_| pool.take(&meta, Use::Table).unwrap())
            .collect();
        let mut sorted: Vec<u64> = pages.iter().map(|page| page.raw()).collect();
        sorted.sort_unstable();
        assert_eq!(
            sorted,
            [BASE, BASE + 0x1000, BASE + 0x2000, SECOND, SECOND + 0x1000]
        );
        assert_eq!(pool.take(&meta, Use::Table), Err(PoolError::Exhausted));
        assert_eq!(pool.pages_in(Use::Table), 5);
        for page in pages {
            pool.give_back(&meta, page, Use::Table).unwrap();
        }
        assert_eq!(
            (pool.pages_in(Use::Free), pool.pages_in(Use::Table)),
            (5, 0)
        );
    }

    #[test]
    fn pool_pages_of_one_chunk_come_in_ascending_order() {
        let (pool, meta) = pool(4, 0);
        for expected in 0..4 {
            let page = pool.take(&meta, Use::Image).unwrap();
            assert_eq!(page.raw(), BASE + expected * 0x1000);
        }
    }

    #[test]
    fn pool_give_back_twice_is_refused() {
        let (pool, meta) = pool(2, 0);
        let page = pool.take(&meta, Use::Stack).unwrap();
        assert_eq!(
            pool.give_back(&meta, page, Use::Table),
            Err(PoolError::NotOurs)
        );
        assert_eq!(pool.give_back(&meta, page, Use::Stack), Ok(()));
        assert_eq!(
            pool.give_back(&meta, page, Use::Stack),
            Err(PoolError::NotOurs)
        );
    }

    #[test]
    fn pool_foreign_address_is_refused() {
        let (pool, meta) = pool(2, 1);
        for foreign in [0, BASE - 1, BASE + 0x2000, SECOND + 0x1000, u64::MAX >> 12] {
            assert!(!pool.contains(pa(foreign)));
            assert_eq!(
                pool.give_back(&meta, pa(foreign), Use::Table),
                Err(PoolError::NotOurs)
            );
        }
        assert!(pool.contains(pa(BASE + 0x1fff)));
    }

    #[test]
    fn pool_entry_count_follows_and_never_goes_below_zero() {
        let (pool, meta) = pool(1, 0);
        let table = pool.take(&meta, Use::Table).unwrap();
        assert_eq!(pool.adjust_entries(&meta, table, 2), Ok(2));
        assert_eq!(pool.adjust_entries(&meta, table, -1), Ok(1));
        assert_eq!(
            pool.adjust_entries(&meta, table, -2),
            Err(PoolError::NotOurs)
        );
        assert_eq!(pool.entries(&meta, table), Ok(1));
    }

    /// Bounds of the parts of a range, in pages from `BASE`.
    fn parts(pool: &Pool, meta: &[PageMeta], first: u64, pages: u64) -> Vec<(u64, u64)> {
        let range = AddrRange::new(pa(BASE + first * 0x1000), pages * 0x1000).unwrap();
        pool.window_parts(meta, range)
            .map(|part| {
                let first = part.first().raw() - BASE;
                (first / 0x1000, part.size_bytes() / 0x1000)
            })
            .collect()
    }

    #[test]
    fn pool_window_parts_leave_out_what_must_have_no_second_mapping() {
        let (pool, meta) = pool(8, 0);
        assert_eq!(parts(&pool, &meta, 0, 16), [(0, 16)]);
        for kind in [Use::Meta, Use::Image, Use::Image, Use::Table, Use::Stack] {
            pool.take(&meta, kind).unwrap();
        }
        assert_eq!(parts(&pool, &meta, 0, 16), [(0, 1), (3, 1), (5, 11)]);
        // A gap at the start, at the end, and all over the range.
        assert_eq!(parts(&pool, &meta, 1, 3), [(3, 1)]);
        assert_eq!(parts(&pool, &meta, 2, 3), [(3, 1)]);
        assert_eq!(parts(&pool, &meta, 1, 2), []);
        assert_eq!(parts(&pool, &meta, 8, 4), [(8, 4)]);
    }

    #[test]
    fn pool_window_parts_of_chunks_in_descending_order() {
        let meta: Vec<PageMeta> = (0..4).map(|_| PageMeta::default()).collect();
        let pool = Pool::default();
        pool.start(Granule::K4);
        pool.add_chunk(&meta, pa(BASE + 0x8000), 2).unwrap();
        pool.take(&meta, Use::Context).unwrap();
        pool.add_chunk(&meta, pa(BASE + 0x2000), 2).unwrap();
        pool.take(&meta, Use::Image).unwrap();
        pool.take(&meta, Use::Image).unwrap();
        assert_eq!(parts(&pool, &meta, 0, 12), [(0, 2), (4, 4), (9, 3)]);
    }

    #[test]
    fn pool_chunk_beyond_the_metadata_is_refused() {
        let meta: Vec<PageMeta> = (0..2).map(|_| PageMeta::default()).collect();
        let pool = Pool::default();
        pool.start(Granule::K4);
        assert_eq!(
            pool.add_chunk(&meta, pa(BASE), 3),
            Err(PoolError::TooManyChunks)
        );
        assert_eq!(pool.pages(), 0);
    }
}
