// SPDX-License-Identifier: GPL-2.0-only

//! Common: what the host prepares for EL2 and both look at: the books of the pool, the layout, the map of RAM.
//!
//! It stands at the start of the pool's first chunk. The host fills it before any CPU is at EL2 with us. From then on the
//! pool is changed by EL2 alone, under [`Shared::lock`]; everything else is constant. The page metadata follows at the
//! next multiple of 64 bytes.

use core::{
    ptr::NonNull,
    slice,
    sync::atomic::AtomicU64, //
};

use super::{
    addr::{
        AddrRange,
        PhysAddr, //
    },
    layout::Layout,
    pgtable::tlb::TlbFeatures,
    pool::{
        PageMeta,
        Pool, //
    },
    sync::TicketLock,
};

/// Most pieces of RAM that EL2 can know.
pub const MAX_RAM_RANGES: usize = 64;

/// One piece of RAM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RamRange {
    /// Physical address of the first byte.
    pub first: u64,
    /// Physical address of the last byte.
    pub last: u64,
}

/// What the host tells EL2 once and for all.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Facts {
    /// Tells one build of the EL2 image from another: the start of its build ID.
    pub image_id: u64,
    /// Physical address size in bits that descriptors may use.
    pub pa_bits: u32,
    /// Whether descriptors are those of FEAT_LPA2, or of FEAT_LPA with 64K pages.
    pub wide: bool,
    /// What the CPUs need or offer for TLB maintenance.
    pub tlb: TlbFeatures,
    /// A CPU may walk tables speculatively through a half-switched regime (Linux: `ARM64_WORKAROUND_SPECULATIVE_AT`).
    pub speculative_at: bool,
    /// The address space.
    pub layout: Layout,
    /// RAM that may be shared, in ascending order.
    pub ram: [RamRange; MAX_RAM_RANGES],
    /// Ranges in `ram`.
    pub ram_count: u32,
}

/// See the module.
#[derive(Debug)]
#[repr(C)]
pub struct Shared {
    /// Held while the runtime PGD or the pool changes.
    pub lock: TicketLock,
    /// Physical address of the root table of the runtime PGD. Filled by the host before the first CPU comes in.
    pub runtime_pgd: AtomicU64,
    /// Pages that were unshared for good. Counted by EL2; it tells whether what was checked before still holds.
    pub unshares: AtomicU64,
    /// Entries of the page metadata.
    meta_count: u32,
    /// Constant.
    pub facts: Facts,
    /// The books of the pool.
    pub pool: Pool,
}

/// Offset of the page metadata from the start of [`Shared`], in bytes.
pub const META_OFFSET: usize = size_of::<Shared>().next_multiple_of(64);

/// Bytes that [`Shared`] and metadata for `pages` pages take.
pub const fn bytes_for(pages: usize) -> Option<usize> {
    match pages.checked_mul(size_of::<PageMeta>()) {
        Some(bytes) => bytes.checked_add(META_OFFSET),
        None => None,
    }
}

impl Shared {
    /// For a pool of `meta_count` pages, with books that are not started yet.
    pub fn new(facts: Facts, meta_count: u32) -> Self {
        Self {
            lock: TicketLock::new(),
            runtime_pgd: AtomicU64::new(0),
            unshares: AtomicU64::new(0),
            meta_count,
            facts,
            pool: Pool::default(),
        }
    }

    /// The page metadata of the pool.
    ///
    /// # Safety
    ///
    /// `self` is the [`Shared`] at the start of a pool with room behind it for as many entries as [`Self::new`] was told.
    pub unsafe fn meta(&self) -> &[PageMeta] {
        let start = NonNull::from(self).cast::<u8>().as_ptr();
        let first = start.wrapping_add(META_OFFSET).cast::<PageMeta>();
        // SAFETY: By the contract, `meta_count` entries stand there; they are atomics, so sharing them is sound.
        unsafe { slice::from_raw_parts(first, self.meta_count as usize) }
    }

    /// Whether all of `range` is RAM in one piece.
    pub fn is_ram(&self, range: AddrRange<PhysAddr>) -> bool {
        self.facts
            .ram
            .iter()
            .take(self.facts.ram_count as usize)
            .any(|piece| piece.first <= range.first().raw() && range.last().raw() <= piece.last)
    }
}
