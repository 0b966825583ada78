// SPDX-License-Identifier: GPL-2.0-only

//! Host: reserving the pool, and giving it back.

use core::ptr::NonNull;

use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};

use super::{
    inject::{
        self,
        Step, //
    },
    linear,
    refused::{
        refuse,
        Reason,
        Refused, //
    },
};
use crate::{
    bindings,
    common::{
        addr::{
            Address,
            Granule,
            PhysAddr, //
        },
        demand::Demand,
        pool::{
            PageMeta,
            PoolError,
            Use,
            MAX_CHUNKS, //
        },
        shared::{
            Facts,
            MapMode,
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
    /// The largest that the kernel has, of `pages` pages, or half of that, and so on to no less than `least`. `pages` is then
    /// what was tried last.
    fn largest(pages: &mut u64, least: u64, granule: Granule) -> Option<Self> {
        loop {
            let chunk = Chunk::reserve((*pages << granule.shift()) as usize);
            // Memory may be fragmented: smaller pieces will do.
            if chunk.is_some() || *pages / 2 < least {
                return chunk;
            }
            *pages /= 2;
        }
    }

    /// Without trying too hard: there is a smaller size to fall back to, and the OOM killer must not make room.
    fn reserve(bytes: usize) -> Option<Self> {
        let flags = bindings::GFP_KERNEL
            | bindings::__GFP_ZERO
            | bindings::__GFP_NOWARN
            | (1 << bindings::___GFP_NORETRY_BIT);
        // SAFETY: No precondition; process context.
        let start = unsafe { bindings::alloc_pages_exact_noprof(bytes, flags) };
        let start = NonNull::new(start.cast())?;
        Some(Self { start, bytes })
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: `reserve` got exactly this from the kernel, and EL2 has left it: the pool is dropped after every CPU
        // has been taken down.
        unsafe { bindings::free_pages_exact(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// The kernel hands out no larger piece.
const LARGEST_CHUNK_PAGES: u64 = 1 << bindings::MAX_PAGE_ORDER;
/// Pages that the default size adds for tables of what is shared on demand.
const SPARE_PAGES: u64 = 64;

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
    pub(crate) fn new(size_kib: u64, demand: &Demand<'_>) -> Result<Self, Refused> {
        let granule = demand.granule;
        // Each chunk may need tables of its own. The kernel's memory is rarely so fragmented that one is not enough; then it
        // is tried again with the number that it took, which is more each time.
        let mut expected_chunks = 1;
        loop {
            let pages = pages(size_kib, demand, expected_chunks)?;
            let wrong = || EFAULT.tell("the shape of the pool");
            let meta_pages = demand.meta_pages(pages).ok_or_else(wrong)?;
            // The metadata and the image must each be in one piece: both are in the first chunk.
            let chunks = reserve_chunks(pages, meta_pages + demand.image_pages, granule)?;
            if chunks.len() as u64 > expected_chunks {
                expected_chunks = chunks.len() as u64;
                continue;
            }
            let start = chunks.first().ok_or_else(wrong)?.start;
            let image = linear::kern_to_phys(start)
                .and_then(|base| base.checked_add(meta_pages << granule.shift()))
                .ok_or_else(wrong)?;
            return Ok(Self {
                chunks,
                granule,
                pages: u32::try_from(pages).map_err(|_| wrong())?,
                meta_pages,
                image_pages: demand.image_pages,
                image,
            });
        }
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
            abandoned: Atomic::new(false),
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

/// Pages of a pool of `size_kib` KiB, or of the default size, that comes in `chunks` chunks.
///
/// # Errors
///
/// `ENOMEM`: it is too small, or larger than a pool can be.
fn pages(size_kib: u64, demand: &Demand<'_>, chunks: u64) -> Result<u64, Refused> {
    let shift = demand.granule.shift();
    let kib = |pages: u64| (pages << shift) / 1024;
    let needed = |spare| {
        let pages = demand.pages(chunks, spare);
        pages.ok_or_else(|| ENOMEM.tell("a pool for all RAM and all CPUs"))
    };
    let least = needed(0)?;
    let pages = match (size_kib, demand.map) {
        (0, MapMode::OnDemand) => needed(SPARE_PAGES)?,
        // All that is ever mapped is mapped at load.
        (0, MapMode::Linear) => least,
        (kib, _) => kib.saturating_mul(1024) >> shift,
    };
    let most = MAX_CHUNKS as u64 * LARGEST_CHUNK_PAGES;
    if pages > most {
        let (asked, most) = (size_kib.max(kib(pages)), kib(most));
        return Err(refuse!(ENOMEM, "a pool of {asked} KiB is more than the {most} KiB that a pool can have; load with a smaller pool_kib, or without"));
    }
    if demand
        .needed_of(pages, chunks)
        .is_none_or(|needed| pages < needed)
    {
        let least = kib(least);
        return Err(refuse!(ENOMEM, "a pool of {size_kib} KiB is too small, this machine needs {least} KiB; load with pool_kib={least}, or without pool_kib"));
    }
    Ok(pages)
}

/// A pool in use, as its owner sees it. All memory goes back to the kernel when this is dropped.
pub(crate) struct HostPool {
    /// The start of the first chunk.
    shared: NonNull<Shared>,
    chunks: KVec<Chunk>,
    abandoned: Atomic<bool>,
}

impl Drop for HostPool {
    fn drop(&mut self) {
        if self.abandoned.load(Relaxed) {
            pr_err!("the pool is not given back: the EL2 of a CPU may still be using it; please report this\n");
            core::mem::forget(core::mem::take(&mut self.chunks));
        }
    }
}

impl HostPool {
    /// EL2 of some CPU could not be taken back: its memory must stay what it is, whatever that costs.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Relaxed);
    }

    /// See [`Self::abandon`].
    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Relaxed)
    }

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
        // SAFETY: `Reserved::own` has told it how many entries there is room for, and the chunk outlives the result.
        unsafe { Shared::meta(self.shared) }
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
fn reserve_chunks(pages: u64, first_least: u64, granule: Granule) -> Result<KVec<Chunk>, Refused> {
    let kib = |pages: u64| (pages << granule.shift()) / 1024;
    let mut chunks = inject::loading("the list of the pool's chunks", |flags| {
        KVec::with_capacity(MAX_CHUNKS, flags)
    })?;
    let mut left = pages;
    let mut try_pages = left.min(LARGEST_CHUNK_PAGES);
    while left != 0 {
        let (step, least) = match chunks.is_empty() {
            true => (Step::PoolFirstChunk, first_least),
            false => (Step::PoolNextChunk, 1),
        };
        let chunk = inject::check(step)
            .ok()
            .and_then(|()| Chunk::largest(&mut try_pages, least, granule));
        let chunk = chunk.ok_or_else(|| {
            refuse!(
                ENOMEM,
                "the kernel has no {} KiB of contiguous memory for {}; free some memory, or load with a smaller pool_kib",
                kib(try_pages),
                step.what()
            )
        })?;
        chunks.push_within_capacity(chunk).map_err(|_| {
            refuse!(ENOMEM, "memory is so fragmented that the pool would be in more than {MAX_CHUNKS} pieces; free some memory, or load with a smaller pool_kib")
        })?;
        left -= try_pages;
        try_pages = try_pages.min(left);
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
