// SPDX-License-Identifier: GPL-2.0-only

//! Hyp: the runtime PGD, changed on behalf of the host.
//!
//! The host may only have RAM of its own mapped, at its place in the linear window: never the pool, never what is not RAM.
//!
//! With [`MapMode::OnDemand`] the tag of a leaf tells what it is: 0 for [`Memory::map`], else the number of times that the page
//! is shared. So a share is counted where it is, and costs no memory; and what was mapped can be unmapped, however many
//! objects the host has in one page. Only the first share of a page and the last unshare change a translation; those between
//! change the count alone, for which no TLB needs to know (see `Format::needs_flush`).
//!
//! With [`MapMode::Linear`] all of this RAM is mapped, read-write, and stays so: the calls are checked as ever, answer with the
//! address and change no table, hence need no TLBI. There is no count for each page, as there is no leaf for each page; what
//! is counted is all shares together, which still catches the host that undoes more than it did.

use core::{
    ptr::NonNull,
    sync::atomic::{
        AtomicU64,
        Ordering, //
    },
};

use crate::{
    arch::el2::Cpu,
    common::{
        abi::{
            Status,
            MAX_MAP_PAGES,
            PROT_READ,
            PROT_READ_WRITE, //
        },
        addr::{
            AddrRange,
            Address,
            HypVa,
            PhysAddr, //
        },
        layout::Layout,
        pgtable::{
            tlb::{
                HypTlb,
                Op,
                TlbPort, //
            },
            Blocks,
            Env,
            Error,
            Geometry,
            HypAccess,
            HypAttrs,
            Mapping,
            Output,
            PageTable,
            Stage1, //
        },
        pool::Use,
        pool_tables::{
            PoolTables,
            Window, //
        },
        shared::{
            Facts,
            MapMode,
            Shared, //
        },
        sync::TicketGuard, //
    },
};

use super::call::{
    one,
    Results, //
};

/// The linear window as the way to table pages.
struct LinearWindow<'a>(&'a Layout);

// SAFETY: The host has mapped every page of the pool that can become a table, read-write, at its place in the linear
// window, and no hypercall unmaps pool memory.
unsafe impl Window for LinearWindow<'_> {
    fn reach(&self, pa: PhysAddr) -> Option<NonNull<u8>> {
        pointer(self.0.linear_va(pa)?)
    }
}

fn pointer(va: HypVa) -> Option<NonNull<u8>> {
    NonNull::new(core::ptr::with_exposed_provenance_mut(va.raw() as usize))
}

/// This CPU, with its TLB invalidations counted.
struct Counted<'a> {
    tlbis: &'a AtomicU64,
}

impl TlbPort for Counted<'_> {
    #[inline]
    fn issue(&self, op: Op) {
        if matches!(op, Op::Tlbi(_)) {
            self.tlbis.fetch_add(1, Ordering::Relaxed);
        }
        Cpu.issue(op);
    }
}

/// Most pages of one [`Memory::walk`]: interrupts are masked that long.
const MAX_WALK_PAGES: u64 = 4096;

/// What EL2 knows of memory.
pub(super) struct Memory {
    shared: &'static Shared,
}

/// The runtime PGD and what goes with it, for as long as the lock is held.
pub(super) struct Locked<'a> {
    table: PageTable<Stage1>,
    memory: PoolTables<'a, LinearWindow<'a>>,
    tlb: HypTlb<Counted<'a>>,
    _guard: TicketGuard<'a>,
}

impl Memory {
    /// # Safety
    ///
    /// `shared_va` is where the host has put [`Shared`] in the runtime address space.
    pub(super) unsafe fn new(shared_va: u64) -> Self {
        let shared = core::ptr::with_exposed_provenance::<Shared>(shared_va as usize);
        // SAFETY: By the contract. It stays there for as long as any CPU is in the runtime address space, and all of it
        // that changes is atomic.
        let shared = unsafe { &*shared };
        Self { shared }
    }

    /// Tells one build of this image from another.
    pub(super) fn image_id(&self) -> u64 {
        self.shared.facts.image_id
    }

    /// See [`crate::common::abi::Call::PoolInfo`].
    pub(super) fn pool_info(&self) -> Results {
        let pool = &self.shared.pool;
        let count = |kind| u64::from(pool.pages_in(kind));
        [
            u64::from(pool.pages()),
            count(Use::Free),
            count(Use::Table),
            self.shared.tlbis.load(Ordering::Relaxed),
        ]
    }

    /// See [`crate::common::abi::Call::Map`].
    pub(super) fn map(&self, pa: u64, bytes: u64, prot: u64) -> Result<Results, Status> {
        let access = match prot {
            PROT_READ => HypAccess::Read,
            PROT_READ_WRITE => HypAccess::ReadWrite,
            _ => return Err(Status::Invalid),
        };
        let (pages, place) = self.host_pages(pa, bytes)?;
        if self.is_linear() {
            // Mapped it is, but writable: that is another mapping than the one that was asked for.
            return match access {
                HypAccess::ReadWrite => Ok(one(place.first().raw())),
                HypAccess::Read | HypAccess::ReadExecute => Err(Status::Busy),
            };
        }
        let mut locked = self.lock()?;
        let env = Env::new(&locked.memory, &locked.tlb);
        locked
            .table
            .map(
                &env,
                place,
                pages.first(),
                HypAttrs::normal(access),
                Blocks::PagesOnly,
            )
            .map_err(to_status)?;
        Ok(one(place.first().raw()))
    }

    /// See [`crate::common::abi::Call::Unmap`]. All of the range must have been mapped by [`Self::map`].
    pub(super) fn unmap(&self, va: u64, bytes: u64) -> Result<Results, Status> {
        let place = HypVa::new(va)
            .and_then(|first| AddrRange::new(first, bytes))
            .filter(|place| place.is_aligned(self.layout().granule().unit()))
            .ok_or(Status::Invalid)?;
        let pa = self
            .layout()
            .linear_pa(place.first())
            .ok_or(Status::NotFound)?;
        self.host_pages(pa.raw(), bytes)?;
        if self.is_linear() {
            return Ok([0; 4]);
        }
        let mut locked = self.lock()?;
        let mut mapped_bytes = 0u64;
        let mut shared = false;
        locked
            .table
            .visit(&locked.memory, place, |leaf| {
                mapped_bytes = mapped_bytes.saturating_add(leaf.range.size_bytes());
                shared |= leaf.attrs.tag() != 0;
            })
            .map_err(to_status)?;
        if shared {
            return Err(Status::Busy);
        }
        if mapped_bytes != bytes {
            return Err(Status::NotFound);
        }
        let env = Env::new(&locked.memory, &locked.tlb);
        locked.table.unmap(&env, place).map_err(to_status)?;
        Ok([0; 4])
    }

    /// See [`crate::common::abi::Call::Share`].
    pub(super) fn share(&self, pa: u64) -> Result<Results, Status> {
        let (page, place) = self.host_page(pa)?;
        let mut locked = self.lock()?;
        if self.is_linear() {
            return Ok([place.first().raw(), self.count_share(true), 0, 0]);
        }
        let count = match locked.leaf(place.first())? {
            None => 0,
            Some(leaf) if leaf.attrs.tag() == 0 => return Err(Status::Busy),
            Some(leaf) => leaf.attrs.tag(),
        };
        let count = count.checked_add(1).ok_or(Status::Busy)?;
        let attrs = HypAttrs::normal(HypAccess::ReadWrite)
            .with_tag(count)
            .ok_or(Status::Busy)?;
        let env = Env::new(&locked.memory, &locked.tlb);
        if count == 1 {
            locked
                .table
                .map(&env, place, page.first(), attrs, Blocks::PagesOnly)
        } else {
            locked.table.protect(&env, place, |_| Some(attrs))
        }
        .map_err(to_status)?;
        self.count_share(true);
        Ok([place.first().raw(), u64::from(count), 0, 0])
    }

    /// See [`crate::common::abi::Call::Unshare`].
    pub(super) fn unshare(&self, pa: u64) -> Result<Results, Status> {
        let (_, place) = self.host_page(pa)?;
        let mut locked = self.lock()?;
        if self.is_linear() {
            return match self.shared.shares.load(Ordering::Relaxed) {
                0 => Err(Status::NotFound),
                _ => Ok([0, self.count_share(false), 0, 0]),
            };
        }
        let leaf = locked.leaf(place.first())?.ok_or(Status::NotFound)?;
        let count = leaf.attrs.tag().checked_sub(1).ok_or(Status::NotFound)?;
        let env = Env::new(&locked.memory, &locked.tlb);
        if count == 0 {
            // Before the page is gone, so that nobody takes an old check for a new one.
            self.shared.unshares.fetch_add(1, Ordering::Release);
            locked.table.unmap(&env, place).map(|_| ())
        } else {
            locked
                .table
                .protect(&env, place, |attrs| attrs.with_tag(count))
        }
        .map_err(to_status)?;
        self.count_share(false);
        Ok([0, u64::from(count), 0, 0])
    }

    /// See [`crate::common::abi::Call::Read`].
    pub(super) fn read(&self, va: u64) -> Result<Results, Status> {
        let at = HypVa::new(va)
            .filter(|at| at.raw() & 7 == 0)
            .ok_or(Status::Invalid)?;
        self.read_word(&self.lock()?, at).map(one)
    }

    /// See [`crate::common::abi::Call::Walk`].
    pub(super) fn walk(&self, va: u64, pages: u64) -> Result<Results, Status> {
        let granule = self.layout().granule();
        let first = HypVa::new(va)
            .filter(|at| at.is_aligned(granule.unit()))
            .ok_or(Status::Invalid)?;
        if !(1..=MAX_WALK_PAGES).contains(&pages) {
            return Err(Status::Invalid);
        }
        let locked = self.lock()?;
        let mut sum = 0u64;
        for number in 0..pages {
            let at = granule
                .times(number)
                .and_then(|offset| first.checked_add(offset))
                .ok_or(Status::Invalid)?;
            sum = sum.wrapping_add(self.read_word(&locked, at)?);
        }
        Ok(one(sum))
    }

    /// Reads one word of the host's. The lock is held, so the page cannot be unmapped while it is read.
    fn read_word(&self, locked: &Locked<'_>, at: HypVa) -> Result<u64, Status> {
        let pa = self.layout().linear_pa(at).ok_or(Status::Denied)?;
        if self.shared.pool.contains(pa) {
            return Err(Status::Denied);
        }
        locked.leaf(at)?.ok_or(Status::Denied)?;
        let word = pointer(at).ok_or(Status::Invalid)?.cast::<u64>();
        // SAFETY: The runtime PGD maps the page, readable, and the address is aligned. Its content is the host's: it is
        // read once.
        Ok(unsafe { word.as_ptr().read_volatile() })
    }

    fn is_linear(&self) -> bool {
        self.shared.facts.map == MapMode::Linear
    }

    /// Counts a share, or that one was undone, and returns how many there are now. The lock is held.
    fn count_share(&self, up: bool) -> u64 {
        let shares = self.shared.shares.load(Ordering::Relaxed);
        let shares = if up {
            shares.saturating_add(1)
        } else {
            shares.saturating_sub(1)
        };
        self.shared.shares.store(shares, Ordering::Relaxed);
        shares
    }

    /// Checks that `va` is a page that is shared, and returns [`Shared::unshares`] as of then.
    pub(super) fn check_shared(&self, va: u64) -> Result<u64, Status> {
        let at = HypVa::new(va)
            .filter(|at| at.is_aligned(self.layout().granule().unit()))
            .ok_or(Status::Invalid)?;
        // Only pages of the host's are shared, and only in the linear window.
        let pa = self.layout().linear_pa(at).ok_or(Status::Denied)?;
        self.host_page(pa.raw())?;
        if self.is_linear() {
            // It is mapped for as long as the table exists.
            return Ok(self.shared.unshares.load(Ordering::Acquire));
        }
        let locked = self.lock()?;
        let leaf = locked.leaf(at)?.ok_or(Status::NotFound)?;
        if leaf.attrs.tag() == 0 {
            return Err(Status::Denied);
        }
        Ok(self.shared.unshares.load(Ordering::Acquire))
    }

    /// What the host has told about the machine.
    pub(super) fn facts(&self) -> &'static Facts {
        &self.shared.facts
    }

    fn layout(&self) -> &'static Layout {
        &self.shared.facts.layout
    }

    /// One page, see [`Self::host_pages`].
    fn host_page(&self, pa: u64) -> Result<(AddrRange<PhysAddr>, AddrRange<HypVa>), Status> {
        self.host_pages(pa, self.layout().granule().size())
    }

    /// Checks that `bytes` bytes at `pa` are whole pages of RAM which is the host's, and finds their place.
    fn host_pages(
        &self,
        pa: u64,
        bytes: u64,
    ) -> Result<(AddrRange<PhysAddr>, AddrRange<HypVa>), Status> {
        let layout = self.layout();
        let granule = layout.granule();
        let most = granule.times(MAX_MAP_PAGES).ok_or(Status::Invalid)?;
        let pages = PhysAddr::new(pa)
            .and_then(|first| AddrRange::new(first, bytes))
            .filter(|pages| pages.is_aligned(granule.unit()) && bytes <= most)
            .ok_or(Status::Invalid)?;
        if !self.shared.is_ram(pages) || self.shared.pool.overlaps(pages) {
            return Err(Status::Denied);
        }
        let first = layout.linear_va(pages.first()).ok_or(Status::Denied)?;
        let place = AddrRange::new(first, bytes).ok_or(Status::Invalid)?;
        Ok((pages, place))
    }

    /// The runtime PGD, for as long as the result lives.
    pub(super) fn lock(&self) -> Result<Locked<'_>, Status> {
        // Broken: some CPU took an exception while it held the lock, and the books are not to be trusted.
        let guard = self.shared.lock.lock().ok_or(Status::Denied)?;
        let facts = &self.shared.facts;
        let granule = facts.layout.granule();
        let output = Output::new(granule, facts.pa_bits, facts.wide).ok_or(Status::Invalid)?;
        let geometry =
            Geometry::stage1(granule, facts.layout.va_bits(), output).map_err(to_status)?;
        let root = PhysAddr::new(self.shared.runtime_pgd.load(Ordering::Relaxed))
            .ok_or(Status::Invalid)?;
        Ok(Locked {
            table: PageTable::adopt(Stage1, geometry, root).map_err(to_status)?,
            memory: PoolTables {
                pool: &self.shared.pool,
                // SAFETY: This is the `Shared` of the host, with its metadata behind it.
                meta: unsafe { Shared::meta(NonNull::from(self.shared)) },
                window: LinearWindow(&facts.layout),
                page_bytes: granule.size() as usize,
            },
            tlb: HypTlb {
                port: Counted {
                    tlbis: &self.shared.tlbis,
                },
                granule,
                features: facts.tlb,
            },
            _guard: guard,
        })
    }
}

impl Locked<'_> {
    fn leaf(&self, at: HypVa) -> Result<Option<Mapping<Stage1>>, Status> {
        self.table.lookup(&self.memory, at).map_err(to_status)
    }
}

fn to_status(error: Error) -> Status {
    match error {
        Error::NoMemory => Status::NoMemory,
        Error::AlreadyMapped | Error::BreakBeforeMake | Error::Contended => Status::Busy,
        Error::NotMapped => Status::NotFound,
        Error::Unaligned
        | Error::InputRange
        | Error::OutputRange
        | Error::Attributes
        | Error::Corrupt => Status::Invalid,
    }
}
