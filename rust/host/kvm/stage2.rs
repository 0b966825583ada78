// SPDX-License-Identifier: GPL-2.0-only

//! Host: the stage 2 of a VM.
//!
//! The host edits the tables, which are kernel memory, at EL1; EL2 only invalidates TLBs, by calls. Everything is under one
//! spinlock: the tables, the slots by address, and the number that tells a fault whether what it has found out without
//! the lock still holds. Notifiers take it too, from contexts that must not sleep, so nothing sleeps under it; table pages
//! come from a reserve that is filled before. Long ranges are done piece by piece, with the lock released in between.
//!
//! Source: behaviour as `arch/arm64/kvm/mmu.c` of Linux.

use core::sync::atomic::{
    AtomicU64,
    Ordering, //
};

use kernel::{
    new_spinlock,
    prelude::*,
    sync::{
        Arc,
        SpinLock, //
    },
};

use super::{
    slots::SlotMap,
    stage2_locked::{
        Locked,
        Mmu, //
    },
    stage2_memory::KernelTables,
    stage2_ranges::pieces_of,
    stats::{
        VmCounters,
        VmStat, //
    },
    system::System,
};
use crate::{
    arch::el1,
    common::{
        abi::Call,
        addr::{
            AddrRange,
            Ipa, //
        },
        guest::stale_to_x4,
        invalidation::Locking,
        pgtable::{
            self,
            Geometry,
            PageTable,
            Stale, //
        },
        slots::GfnRange,
    },
};

/// Pages that are unmapped, or changed, before the lock is released for a moment.
pub(super) const PIECE_PAGES: u64 = 8192;
/// Pages that are looked at together, as there may be nothing at all.
const LOOK_PAGES: u64 = 1 << 18;

/// See the module.
#[pin_data(PinnedDrop)]
pub(crate) struct Stage2 {
    system: Arc<System>,
    geometry: Geometry,
    vtcr: u64,
    /// VTTBR_EL2 with VMID 0.
    vttbr: u64,
    /// What [`System::enter_vmid`] keeps.
    id: AtomicU64,
    /// Granules that the tables take, the reserve not included.
    table_pages: AtomicU64,
    counters: VmCounters,
    #[pin]
    mmu: SpinLock<Mmu>,
}

impl Stage2 {
    /// An empty one, with IPAs of `ipa_bits` bits (0: the default).
    ///
    /// # Errors
    ///
    /// `EINVAL` for the size, `ENOMEM`.
    pub(super) fn new(system: Arc<System>, ipa_bits: u32) -> Result<impl PinInit<Self, Error>> {
        let geometry = system.geometry(ipa_bits)?;
        let vtcr = system.vtcr(&geometry)?;
        let table_pages = AtomicU64::new(0);
        let memory = KernelTables::sleeping([&table_pages, &system.table_pages]);
        let table = PageTable::create(system.format, geometry, &memory).map_err(to_errno)?;
        let vttbr = geometry.vttbr(table.root(), 0).ok_or(EFAULT)?;
        Ok(try_pin_init!(Self {
            system,
            geometry,
            vtcr,
            vttbr,
            id: AtomicU64::new(0),
            table_pages,
            counters: VmCounters::default(),
            mmu <- new_spinlock!(Mmu::new(table)),
        }? Error))
    }

    /// What all VMs have in common.
    pub(super) fn system(&self) -> &Arc<System> {
        &self.system
    }

    /// The shape of the tables.
    pub(super) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// VTCR_EL2.
    pub(super) fn vtcr(&self) -> u64 {
        self.vtcr
    }

    /// VTTBR_EL2 for an entry on `cpu`, where this runs with interrupts masked. `None` as [`System::enter_vmid`].
    #[inline]
    pub(super) fn enter(&self, cpu: u32) -> Option<u64> {
        let vmid = self.system.enter_vmid(&self.id, cpu)?;
        Some(self.vttbr | u64::from(vmid) << 48)
    }

    /// Granules that the tables take.
    pub(super) fn table_pages(&self) -> u64 {
        self.table_pages.load(Ordering::Relaxed)
    }

    /// Where table pages are counted.
    pub(super) fn used(&self) -> [&AtomicU64; 2] {
        [&self.table_pages, &self.system.table_pages]
    }

    /// Its VMID, or the one it had last.
    pub(super) fn vmid(&self) -> Option<u16> {
        self.system.vmid(&self.id)
    }

    /// What is counted.
    pub(super) fn counters(&self) -> &VmCounters {
        &self.counters
    }

    /// Takes the lock.
    pub(super) fn lock(&self) -> Locked<'_> {
        Locked::new(self, self.mmu.lock())
    }

    /// Unmaps `gfns`, piece by piece.
    pub(super) fn unmap(&self, gfns: GfnRange) {
        let pages = if self.system.format.fwb {
            PIECE_PAGES
        } else {
            self.system.pages_to_clean()
        };
        for piece in self.mapped_pieces(gfns, pages) {
            self.lock().unmap(piece);
        }
    }

    /// `gfns` in pieces of `pages` pages, without long stretches that have nothing mapped: a slot may have terabytes.
    pub(super) fn mapped_pieces(
        &self,
        gfns: GfnRange,
        pages: u64,
    ) -> impl Iterator<Item = GfnRange> + '_ {
        pieces_of(gfns, LOOK_PAGES)
            .filter(|part| self.lock().has_any(*part))
            .flat_map(move |part| pieces_of(part, pages))
    }

    /// Makes what is mapped of `gfns` read-only, piece by piece.
    pub(super) fn write_protect(&self, gfns: GfnRange) {
        for piece in self.mapped_pieces(gfns, PIECE_PAGES) {
            self.lock().write_protect(piece);
        }
    }

    /// Makes every CPU forget what it has cached of `range`, of which `stale` was changed by the stores before.
    pub(super) fn forget(&self, range: AddrRange<Ipa>, stale: Stale) {
        // The stores to the tables come before the load of the id. Pairs with the barrier of `System::renew_vmid`: a VM that has
        // no VMID yet walks the tables after them.
        el1::dsb_ish();
        if let Some(vmid) = self.vmid() {
            self.counters.add(VmStat::TlbFlushes);
            let vttbr = self.vttbr | u64::from(vmid) << 48;
            self.system.invalidate(
                Call::TlbIpa,
                [
                    vttbr,
                    range.first().raw(),
                    range.size_bytes(),
                    stale_to_x4(stale, self.vtcr),
                ],
            );
        }
    }

    /// The bytes of `gfns`.
    pub(super) fn range(&self, gfns: GfnRange) -> Option<AddrRange<Ipa>> {
        let granule = self.geometry.granule();
        AddrRange::new(
            Ipa::new(granule.times(gfns.first())?)?,
            granule.times(gfns.count())?,
        )
    }
}

impl Locking for Stage2 {
    type Slots = SlotMap;

    fn begin(&self, start: u64, end: u64) {
        self.lock().begin_invalidation(start, end);
    }

    fn unmap(&self, gfns: GfnRange) {
        Stage2::unmap(self, gfns);
    }

    fn change_and_end<T>(&self, start: u64, end: u64, change: impl FnOnce(&mut SlotMap) -> T) -> T {
        let mut stage2 = self.lock();
        let result = stage2.change_slots(change);
        stage2.end_invalidation(start, end);
        result
    }

    fn part(&self, from: u64, start: u64, end: u64) -> Option<(GfnRange, u64)> {
        self.lock().slots().in_user_range(from, start, end)
    }
}

#[pinned_drop]
impl PinnedDrop for Stage2 {
    fn drop(self: Pin<&mut Self>) {
        // No vCPU is left, so no CPU has the VTTBR; what TLBs have cached goes before the tables do.
        if let Some(vmid) = self.system.vmid(&self.id) {
            let vttbr = self.vttbr | u64::from(vmid) << 48;
            self.system
                .invalidate(Call::TlbVmid, [vttbr, self.vtcr, 0, 0]);
            self.system.release_vmid(&self.id);
        }
        // Not under the lock: it may take long, and there is nobody left to keep away.
        let table = self.lock().take_table();
        let memory = KernelTables::sleeping(self.used());
        let destroyed = table.map(|table| table.destroy(&memory));
        if let Some(Err(error)) = destroyed {
            pr_err!(
                "stage 2: {}; some of its tables are not freed\n",
                format_args!("{error}")
            );
        }
    }
}

/// What user space gets for `error`.
pub(super) fn to_errno(error: pgtable::Error) -> Error {
    match error {
        pgtable::Error::NoMemory => ENOMEM,
        _ => EFAULT,
    }
}
