// SPDX-License-Identifier: GPL-2.0-only

//! Host: reserving the pool, and giving it back.

use core::ptr::NonNull;

use kernel::prelude::*;

use super::{
    inject::{
        self,
        Step, //
    },
    linear,
};
use crate::{
    bindings,
    common::{
        addr::{
            Address,
            Granule,
            PhysAddr, //
        },
        pool::{
            PageMeta,
            PoolError,
            Use,
            MAX_CHUNKS, //
        },
        shared::{
            self,
            Facts,
            Shared, //
        },
    },
};

/// A physically contiguous, zeroed piece of the kernel's memory.
struct Chunk {
    start: NonNull<u8>,
    bytes: usize,
}

impl Chunk {
    fn reserve(bytes: usize) -> Result<Self> {
        let flags = bindings::GFP_KERNEL | bindings::__GFP_ZERO | bindings::__GFP_NOWARN;
        // SAFETY: No precondition; process context.
        let start = unsafe { bindings::alloc_pages_exact_noprof(bytes, flags) };
        let start = NonNull::new(start.cast()).ok_or(ENOMEM)?;
        Ok(Self { start, bytes })
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: `reserve` got exactly this from the kernel, and EL2 has left it: the pool is dropped after every CPU
        // has been taken down.
        unsafe { bindings::free_pages_exact(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// How many pages a pool needs at least, and what for.
#[derive(Clone, Copy)]
pub(crate) struct Demand {
    /// The EL2 image.
    pub(crate) image_pages: u64,
    /// CPUs, each with a context and a stack.
    pub(crate) cpus: u64,
    /// Pages of a stack.
    pub(crate) stack_pages: u64,
}

/// Table pages that the two PGDs need at load: five levels for each of a handful of regions.
const LOAD_TABLE_PAGES: u64 = 24;
/// The kernel hands out no larger piece.
const LARGEST_CHUNK_PAGES: u64 = 1 << bindings::MAX_PAGE_ORDER;
/// Pages that the default size adds for tables of what is shared later.
const SPARE_PAGES: u64 = 64;

impl Demand {
    /// Pages without which loading cannot succeed.
    fn least_pages(self) -> u64 {
        self.image_pages + self.cpus * (self.stack_pages + 1) + LOAD_TABLE_PAGES
    }
}

/// Memory for a pool, in no use yet. It goes back to the kernel when this is dropped.
pub(crate) struct Reserved {
    chunks: KVec<Chunk>,
    granule: Granule,
    pages: u32,
    meta_pages: u64,
    image_pages: u64,
    image: PhysAddr,
}

impl Reserved {
    /// Reserves `size_kib` KiB, or what `demand` and some spare pages come to if that is 0.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: the size asked for is too small, or the kernel has not got that much.
    pub(crate) fn new(size_kib: u64, demand: Demand, granule: Granule) -> Result<Self> {
        let pages = match size_kib {
            0 => {
                let pages = demand.least_pages() + SPARE_PAGES;
                pages + meta_pages(pages, granule)?
            }
            kib => kib.saturating_mul(1024) >> granule.shift(),
        };
        let most = MAX_CHUNKS as u64 * LARGEST_CHUNK_PAGES;
        if pages > most {
            let most_kib = (most << granule.shift()) / 1024;
            pr_err!("refused: a pool of {size_kib} KiB is more than the {most_kib} KiB that a pool can have; load with a smaller pool_kib, or without\n");
            return Err(ENOMEM);
        }
        let meta_pages = meta_pages(pages, granule)?;
        let least = demand.least_pages() + meta_pages;
        if pages < least {
            let least_kib = (least << granule.shift()) / 1024;
            pr_err!("refused: a pool of {size_kib} KiB is too small, this machine needs {least_kib} KiB; load with pool_kib={least_kib}, or without pool_kib\n");
            return Err(ENOMEM);
        }
        // The metadata and the image must each be in one piece: both are in the first chunk.
        let chunks = reserve_chunks(pages, meta_pages + demand.image_pages, granule)?;
        let start = chunks.first().ok_or(ENOMEM)?.start;
        let image = linear::kern_to_phys(start)
            .and_then(|base| base.checked_add(meta_pages << granule.shift()))
            .ok_or(EFAULT)?;
        Ok(Self {
            chunks,
            granule,
            pages: u32::try_from(pages).map_err(|_| ENOMEM)?,
            meta_pages,
            image_pages: demand.image_pages,
            image,
        })
    }

    /// Where the image goes: behind the metadata in the first chunk.
    pub(crate) fn image(&self) -> PhysAddr {
        self.image
    }

    /// Starts the books, with everything that EL2 is told once and for all.
    pub(crate) fn own(self, facts: Facts) -> Result<HostPool> {
        let shared = self.chunks.first().ok_or(ENOMEM)?.start.cast::<Shared>();
        // SAFETY: The first chunk begins with room for a `Shared` and `pages` entries of metadata, all zeroed, which is
        // what unused metadata is. Nobody else knows the memory yet.
        unsafe { shared.write(Shared::new(facts, self.pages)) };
        let pool = HostPool {
            shared,
            chunks: self.chunks,
        };
        pool.shared().pool.start(self.granule);
        for (number, chunk) in pool.chunks.iter().enumerate() {
            let base = linear::kern_to_phys(chunk.start).ok_or(EFAULT)?;
            let pages = (chunk.bytes as u64 >> self.granule.shift()) as u32;
            pool.shared()
                .pool
                .add_chunk(pool.meta(), base, pages)
                .map_err(to_errno)?;
            if number == 0 {
                // While there is one chunk, pages come in ascending order.
                for _ in 0..self.meta_pages {
                    pool.take(Use::Meta)?;
                }
                for page in 0..self.image_pages {
                    let expected = self.image.checked_add(page << self.granule.shift());
                    if Some(pool.take(Use::Image)?) != expected {
                        return Err(EFAULT);
                    }
                }
            }
        }
        Ok(pool)
    }
}

/// Pages of [`Shared`] and the metadata of a pool of `pages` pages.
fn meta_pages(pages: u64, granule: Granule) -> Result<u64> {
    let bytes = usize::try_from(pages)
        .ok()
        .and_then(shared::bytes_for)
        .ok_or(ENOMEM)?;
    Ok(granule.unit().round_up(bytes as u64).ok_or(ENOMEM)? >> granule.shift())
}

/// A pool in use, as its owner sees it. All memory goes back to the kernel when this is dropped.
pub(crate) struct HostPool {
    /// The start of the first chunk.
    shared: NonNull<Shared>,
    chunks: KVec<Chunk>,
}

impl HostPool {
    /// The structure at the start of the pool.
    pub(crate) fn shared(&self) -> &Shared {
        // SAFETY: It lives as long as the first chunk. While it is shared, only atomics in it change.
        unsafe { self.shared.as_ref() }
    }

    /// Where [`Self::shared`] is.
    pub(crate) fn shared_pa(&self) -> Result<PhysAddr> {
        linear::kern_to_phys(self.shared.cast()).ok_or(EFAULT)
    }

    /// The page metadata.
    pub(crate) fn meta(&self) -> &[PageMeta] {
        // SAFETY: `start_books` has set `meta_count` to what `reserve` has made room for.
        unsafe { self.shared().meta() }
    }

    /// Takes one zeroed page.
    pub(crate) fn take(&self, kind: Use) -> Result<PhysAddr> {
        self.shared().pool.take(self.meta(), kind).map_err(to_errno)
    }

    /// Number of chunks.
    pub(crate) fn chunk_count(&self) -> usize {
        self.chunks.len()
    }
}

/// Reserves `pages` pages in as few chunks as the kernel can give; the first has at least `first_least` pages.
fn reserve_chunks(pages: u64, first_least: u64, granule: Granule) -> Result<KVec<Chunk>> {
    let mut chunks = KVec::with_capacity(MAX_CHUNKS, GFP_KERNEL)?;
    let mut left = pages;
    let mut try_pages = left.min(LARGEST_CHUNK_PAGES);
    while left != 0 {
        let first = chunks.is_empty();
        inject::check(if first {
            Step::PoolFirstChunk
        } else {
            Step::PoolNextChunk
        })?;
        match Chunk::reserve((try_pages << granule.shift()) as usize) {
            Ok(chunk) => {
                chunks.push_within_capacity(chunk).map_err(|_| {
                    pr_err!("refused: memory is so fragmented that the pool would be in more than {MAX_CHUNKS} pieces; free some memory, or load with a smaller pool_kib\n");
                    ENOMEM
                })?;
                left -= try_pages;
                try_pages = try_pages.min(left);
            }
            // Memory may be fragmented: smaller pieces will do, but for the first.
            Err(_) if try_pages > 1 && (!first || try_pages / 2 >= first_least) => try_pages /= 2,
            Err(error) => {
                pr_err!(
                    "refused: the kernel has no {} KiB of contiguous memory for the pool; free some memory, or load with a smaller pool_kib\n",
                    (try_pages << granule.shift()) / 1024
                );
                return Err(error);
            }
        }
    }
    Ok(chunks)
}

fn to_errno(error: PoolError) -> Error {
    match error {
        PoolError::Exhausted | PoolError::TooManyChunks => ENOMEM,
        PoolError::NotOurs => EFAULT,
    }
}

// SAFETY: The chunks are plain memory; what is shared in them with EL2 is atomic.
unsafe impl Send for HostPool {}
// SAFETY: As above.
unsafe impl Sync for HostPool {}
