// SPDX-License-Identifier: GPL-2.0-only

//! Host: pages for the contexts of vCPUs.
//!
//! EL2 maps each of them by itself, with tables from its pool, which is small. So the pages lie together, in chunks that a
//! single table maps: scattered all over RAM, a few dozen vCPUs would use the pool up.

use core::ptr::NonNull;

use kernel::prelude::*;

use crate::{
    bindings,
    host::inject, //
};

/// Pages of a chunk, if the kernel has that many in a row: 2^this. There is one bit for each in a word.
const CHUNK_ORDER: u32 = 6;

const _: () = assert!(1 << CHUNK_ORDER <= u64::BITS);

/// Pages in a row.
struct Chunk {
    start: NonNull<u8>,
    order: u32,
    /// One bit for each page that somebody has.
    used: u64,
}

impl Chunk {
    /// As large as the kernel has without trying hard; one page if it must be.
    fn new() -> Result<Self> {
        inject::step("pages for contexts")?;
        let gfp = bindings::GFP_KERNEL_ACCOUNT | bindings::__GFP_NOWARN;
        let reluctant = 1 << bindings::___GFP_NORETRY_BIT;
        for order in (0..=CHUNK_ORDER).rev() {
            let gfp = if order == 0 { gfp } else { gfp | reluctant };
            // SAFETY: No precondition; process context.
            let start = unsafe { bindings::get_free_pages_noprof(gfp, order) };
            if let Some(start) = NonNull::new(start as *mut u8) {
                return Ok(Self {
                    start,
                    order,
                    used: 0,
                });
            }
        }
        Err(ENOMEM)
    }

    /// Takes a page, if one is free.
    fn take(&mut self) -> Option<NonNull<u8>> {
        let place = self.used.trailing_ones();
        if place >= 1 << self.order {
            return None;
        }
        self.used |= 1 << place;
        // SAFETY: The chunk has that many pages.
        Some(unsafe { self.start.add(place as usize * bindings::PAGE_SIZE) })
    }

    /// Gives `page` back, if it is of this chunk.
    fn give(&mut self, page: NonNull<u8>) -> bool {
        let offset = (page.as_ptr() as usize).wrapping_sub(self.start.as_ptr() as usize);
        let place = offset / bindings::PAGE_SIZE;
        if place >= 1 << self.order {
            return false;
        }
        self.used &= !(1 << place);
        true
    }
}

/// All chunks that have a page in use. A page that is never given back keeps its chunk for ever.
#[derive(Default)]
pub(crate) struct Chunks(KVec<Chunk>);

// SAFETY: The chunks are plain memory of the kernel's, and whoever has `self` is alone with the books.
unsafe impl Send for Chunks {}

impl Chunks {
    /// A page of zeroes.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn alloc(&mut self) -> Result<NonNull<u8>> {
        let page = match self.0.iter_mut().find_map(Chunk::take) {
            Some(page) => page,
            None => {
                self.0
                    .reserve(1, inject::kernel("the list of pages for contexts")?)?;
                let mut chunk = Chunk::new()?;
                let page = chunk.take().ok_or(ENOMEM)?;
                self.0.push_within_capacity(chunk).map_err(|_| ENOMEM)?;
                page
            }
        };
        // SAFETY: The page is in the linear map, and nobody else has it.
        unsafe { page.as_ptr().write_bytes(0, bindings::PAGE_SIZE) };
        Ok(page)
    }

    /// Takes back a page that [`Self::alloc`] has given and nobody uses any more.
    pub(super) fn free(&mut self, page: NonNull<u8>) {
        let Some(place) = self.0.iter_mut().position(|chunk| chunk.give(page)) else {
            return;
        };
        if self.0.get(place).is_some_and(|chunk| chunk.used == 0) {
            if let Ok(chunk) = self.0.remove(place) {
                // SAFETY: `Chunk::new` got it from the kernel, with this order, and nobody has a page of it.
                unsafe { bindings::free_pages(chunk.start.as_ptr() as usize, chunk.order) };
            }
        }
    }
}
