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

/// How the host's RAM gets into EL2's linear window. Chosen at load, by `map=`.
///
/// The question is as old as the first patches that unmapped anything from EL2 ("could we just map the linearly mapped region
/// in Hyp mode from the beginning and be done with all this?"). Both answers are here, as each is right for somebody;
/// `make bench` has the figures:
///
/// - On demand, EL2 reaches what it was given and nothing else, speculation included: a stray pointer faults. The price is
///   one TLB invalidation, broadcast to all CPUs, when the last share of a page goes, and up to one more for each table
///   that becomes empty with it; and a table page for every 2 MiB (4K granule) in which something is shared.
/// - Linear, sharing costs no maintenance at all, and EL2's TLB reach is that of 1 GiB and 2 MiB blocks. The price is that
///   every bug of EL2 can write to every page of the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MapMode {
    /// Page by page, when it is shared or mapped.
    OnDemand = 0,
    /// All of it at load, with the largest blocks that fit, and for as long as EL2 is ours: memory that is removed from the running
    /// machine stays mapped.
    Linear = 1,
}

impl MapMode {
    /// Both, in the order of their numbers.
    pub const ALL: [MapMode; 2] = [MapMode::OnDemand, MapMode::Linear];

    /// As the user spells it.
    pub const fn name(self) -> &'static str {
        match self {
            MapMode::OnDemand => "ondemand",
            MapMode::Linear => "linear",
        }
    }
}

/// One piece of RAM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RamRange {
    /// Physical address of the first byte.
    pub first: u64,
    /// Physical address of the last byte.
    pub last: u64,
}

impl RamRange {
    /// As a range; `None` if it is none.
    pub fn range(self) -> Option<AddrRange<PhysAddr>> {
        AddrRange::from_bounds(PhysAddr::new(self.first)?, PhysAddr::new(self.last)?)
    }
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
    /// How RAM gets into the linear window.
    pub map: MapMode,
    /// A CPU may walk tables speculatively through a half-switched regime (Linux: `ARM64_WORKAROUND_SPECULATIVE_AT`).
    pub speculative_at: bool,
    /// EL2 takes exceptions on purpose where it is asked to (parameter `provoke`).
    pub provoke: bool,
    /// The address space.
    pub layout: Layout,
    /// RAM that may be shared, in ascending order.
    pub ram: [RamRange; MAX_RAM_RANGES],
    /// Ranges in `ram`. See [`Self::ram_ranges`].
    pub ram_count: u32,
}

impl Facts {
    /// RAM that may be shared, in ascending order.
    pub fn ram_ranges(&self) -> &[RamRange] {
        self.ram.get(..self.ram_count as usize).unwrap_or(&[])
    }
}

/// See the module.
#[derive(Debug)]
#[repr(C)]
pub struct Shared {
    /// Held while the runtime PGD or the pool changes.
    pub lock: TicketLock,
    /// Physical address of the root table of the runtime PGD. Filled by the host before the first CPU comes in.
    pub runtime_pgd: AtomicU64,
    /// Shares that have not been undone, of all pages together. Counted by EL2.
    pub shares: AtomicU64,
    /// TLB invalidations, repetitions included. Counted by EL2.
    pub tlbis: AtomicU64,
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
            shares: AtomicU64::new(0),
            tlbis: AtomicU64::new(0),
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
    /// `shared` points at the start of a pool, with room behind the [`Shared`] there for as many entries as [`Self::new`]
    /// was told; and all of that lives for `'a`.
    pub unsafe fn meta<'a>(shared: NonNull<Self>) -> &'a [PageMeta] {
        let first = shared.cast::<u8>().as_ptr().wrapping_add(META_OFFSET);
        // SAFETY: By the contract. The pointer is that of the whole pool, not of the `Shared` alone; the entries are
        // atomics, so sharing them is sound.
        unsafe {
            let count = (&raw const (*shared.as_ptr()).meta_count).read();
            slice::from_raw_parts(first.cast::<PageMeta>(), count as usize)
        }
    }

    /// Whether all of `range` is RAM in one piece.
    pub fn is_ram(&self, range: AddrRange<PhysAddr>) -> bool {
        self.facts
            .ram_ranges()
            .iter()
            .any(|piece| piece.first <= range.first().raw() && range.last().raw() <= piece.last)
    }
}
