// SPDX-License-Identifier: GPL-2.0-only

//! Host: what all VMs have in common: the loaded eltwo, the shape of their stage 2, and the VMIDs.

use core::{
    cell::UnsafeCell,
    ptr,
    sync::atomic::{
        AtomicU64,
        Ordering, //
    },
};

use kernel::{
    alloc::AllocError,
    cpu::nr_cpu_ids,
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
};

use super::{
    config,
    user_pages,
    vm::Vm, //
};
use crate::{
    arch::el1,
    bindings,
    common::{
        abi::Call,
        addr::{
            Granule,
            PhysAddr, //
        },
        idreg::field,
        pgtable::{
            Geometry,
            Level,
            Output,
            Stage2, //
        },
        sync::TicketLock,
        upkeep::Code,
        vmid::{
            Books,
            Generation, //
        },
    },
    host::{
        hooks::{
            self,
            IrqsOff, //
        },
        inject,
        linear,
        probe,
        refused::{
            refuse,
            Reason,
            Refused, //
        },
        service::Service,
        timing::IrqsMasked, //
    },
};

/// VTCR_EL2.
mod vtcr {
    /// IRGN0 and ORGN0: walks are Normal Write-Back Write-Allocate; SH0: Inner Shareable.
    pub(super) const WALKS_WBWA_IS: u64 = (1 << 8) | (1 << 10) | (3 << 12);
    pub(super) const SL0_SHIFT: u32 = 6;
    /// TG0.
    pub(super) const TG0_64K: u64 = 1 << 14;
    pub(super) const TG0_16K: u64 = 2 << 14;
    pub(super) const PS_SHIFT: u32 = 16;
    /// VS: VMIDs have 16 bits.
    pub(super) const VS: u64 = 1 << 19;
    pub(super) const RES1: u64 = 1 << 31;
    /// DS: 52-bit descriptors (FEAT_LPA2).
    pub(super) const DS: u64 = 1 << 32;
    pub(super) const SL2_SHIFT: u32 = 33;
}

/// Smallest IPA size of a VM, in bits, as the uAPI has it.
const IPA_BITS_MIN: u32 = 32;

/// IPA size of a VM whose maker does not say, in bits.
const IPA_BITS_DEFAULT: u32 = 40;

/// What is cleaned before others get the lock of stage 2. A block that is larger goes whole, as in Linux.
const CLEAN_BYTES: u64 = 1 << 20;

/// A VM in the list of all. It takes itself off the list before it goes, so a pointer in the list is good while the list is locked.
struct Listed(*const Vm);

// SAFETY: The pointer is used under the lock of the list only, and a `Vm` may be shared between threads.
unsafe impl Send for Listed {}

/// See the module.
#[pin_data]
pub(crate) struct System {
    pub(crate) service: Arc<Service>,
    /// Stage-2 descriptors.
    pub(super) format: Stage2,
    /// New executable pages need no invalidation of instruction caches (CTR_EL0.DIC).
    pub(super) dic: bool,
    /// Cache maintenance must be done twice (Linux: `ARM64_WORKAROUND_4311569`).
    clean_twice: bool,
    /// The shape of the kernel's tables for user space.
    pub(super) user_geometry: Geometry,
    granule: Granule,
    output: Output,
    /// VTCR_EL2, without the fields that depend on the IPA size.
    vtcr: u64,
    vmids: Vmids,
    /// Granules that stage-2 tables take, of all VMs.
    pub(super) table_pages: AtomicU64,
    #[pin]
    vms: Mutex<KVec<Listed>>,
}

impl System {
    /// Finds out.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `ENODEV` where the CPUs have too few VMIDs.
    pub(crate) fn new(service: Arc<Service>) -> Result<Arc<Self>, Refused> {
        let machine = &service.machine;
        let mmfr1 = probe::sanitised(probe::SYS_ID_AA64MMFR1_EL1);
        let wide_vmids = field(mmfr1, 4) == 2;
        let wide =
            machine.wide && (machine.granule == Granule::K64 || stage2_has_lpa2(machine.granule));
        let pa_size = if wide {
            machine.pa_size
        } else {
            machine.pa_size.min(5)
        };
        let output = Output::new(machine.granule, machine.pa_bits.into(), wide)
            .ok_or_else(|| EINVAL.tell("the shape of stage 2"))?;
        let tg0 = match machine.granule {
            Granule::K4 => 0,
            Granule::K16 => vtcr::TG0_16K,
            Granule::K64 => vtcr::TG0_64K,
        };
        let ds = if wide && machine.granule != Granule::K64 {
            vtcr::DS
        } else {
            0
        };
        let vs = if wide_vmids { vtcr::VS } else { 0 };
        let user_geometry = user_pages::geometry(machine)
            .map_err(|error| error.tell("the shape of the kernel's tables"))?;
        let vmids = Vmids::new(wide_vmids)?;
        let granule = machine.granule;
        let system = pin_init!(Self {
            format: Stage2 {
                fwb: config::fwb(),
                xnx: field(mmfr1, 28) != 0,
            },
            dic: probe::has_cap(bindings::ARM64_HAS_CACHE_DIC),
            clean_twice: probe::has_cap(bindings::ARM64_WORKAROUND_4311569),
            user_geometry,
            granule,
            output,
            vtcr: vtcr::RES1
                | vtcr::WALKS_WBWA_IS
                | tg0
                | (pa_size << vtcr::PS_SHIFT)
                | vs
                | ds,
            vmids,
            table_pages: AtomicU64::new(0),
            vms <- new_mutex!(KVec::new()),
            service,
        });
        inject::loading("what VMs have in common", |flags| {
            Arc::pin_init(system, flags)
        })
    }

    /// Makes room in the list for one more VM.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn list(&self, vm: &Vm) -> Result {
        self.vms
            .lock()
            .push(
                Listed(ptr::from_ref(vm)),
                inject::kernel("the list of VMs")?,
            )
            .map_err(Error::from)
    }

    /// Takes a VM off the list, if it is there.
    pub(super) fn unlist(&self, vm: &Vm) {
        self.vms.lock().retain(|listed| !ptr::eq(listed.0, vm));
    }

    /// Number of VMs.
    pub(super) fn vm_count(&self) -> usize {
        self.vms.lock().len()
    }

    /// Calls `function` for each VM. None goes away, and none comes, meanwhile.
    pub(super) fn for_each_vm<E>(
        &self,
        mut function: impl FnMut(&Vm) -> Result<(), E>,
    ) -> Result<(), E> {
        for listed in &*self.vms.lock() {
            // SAFETY: The list is locked, so the VM has not taken itself off it.
            function(unsafe { &*listed.0 })?;
        }
        Ok(())
    }

    /// Whether memory that is no RAM of the kernel's may be cached: no guest needs it cleaned.
    pub(super) fn has_cacheable_pfns(&self) -> bool {
        self.format.fwb && self.dic
    }

    /// Cleans memory of a guest and invalidates it, to the PoC: one that has its caches off finds what the host has written, and
    /// the host what that one has.
    ///
    /// # Safety
    ///
    /// It is RAM in the kernel's linear map, and stays there meanwhile.
    pub(super) unsafe fn clean(&self, pa: PhysAddr, bytes: u64) {
        let start = linear::phys_to_kern(pa).as_ptr();
        let cache = self.service.machine.cache;
        // SAFETY: By the contract; the linear map is Normal memory.
        unsafe { cache.clean_for_guest(start, bytes as usize, self.clean_twice) };
    }

    /// Makes memory of a guest fit to be executed by it, at whatever VA. `clean`: what was written is at the PoU already.
    ///
    /// # Safety
    ///
    /// As for [`Self::clean`].
    pub(super) unsafe fn publish_code(&self, pa: PhysAddr, bytes: u64, clean: bool) {
        let code = Code {
            start: linear::phys_to_kern(pa).as_ptr() as u64,
            bytes,
            clean,
            twice: self.clean_twice,
        };
        // Asked each time: the first CPU whose instruction cache has aliases may come after the module was loaded.
        let cache = probe::cache_geometry();
        // SAFETY: By the contract; the linear map is Normal memory.
        unsafe { cache.publish_code(code) };
    }

    /// Pages that are cleaned before others get the lock of stage 2.
    pub(super) fn pages_to_clean(&self) -> u64 {
        (CLEAN_BYTES >> self.granule.shift()).max(1)
    }

    /// Most bits that an IPA can have.
    pub(super) fn ipa_limit(&self) -> u32 {
        self.output.bits()
    }

    /// The granule of stage 2, and size of a page of the host.
    pub(super) fn granule(&self) -> Granule {
        self.granule
    }

    /// The shape of a stage 2 with IPAs of `bits` bits; 0 is the default.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a size that this machine, or the uAPI, has not.
    pub(super) fn geometry(&self, bits: u32) -> Result<Geometry> {
        let bits = match bits {
            0 => IPA_BITS_DEFAULT,
            bits => bits,
        };
        if !(IPA_BITS_MIN..=self.ipa_limit()).contains(&bits) {
            return Err(EINVAL);
        }
        let largest = match self.granule {
            Granule::K4 => Level::L1,
            Granule::K16 | Granule::K64 => Level::L2,
        };
        Geometry::stage2(self.granule, bits, self.output)
            .map(|geometry| geometry.with_largest_leaf(largest))
            .map_err(|_| EINVAL)
    }

    /// The sizes of blocks that a stage 2 can have, one bit each, as KVM_CAP_ARM_SUPPORTED_BLOCK_SIZES has them.
    pub(super) fn block_sizes(&self) -> u64 {
        self.geometry(0)
            .or_else(|_| self.geometry(IPA_BITS_MIN))
            .map_or(0, |geometry| {
                Level::ALL
                    .into_iter()
                    .filter(|level| geometry.is_leaf_level(*level))
                    .filter_map(|level| geometry.entry_size(level))
                    .fold(0, |sizes, size| sizes | size.bytes())
            })
    }

    /// VTCR_EL2 for a stage 2 of this shape.
    pub(super) fn vtcr(&self, geometry: &Geometry) -> Result<u64> {
        let (sl0, sl2) = geometry.vtcr_start_level().ok_or(EINVAL)?;
        Ok(self.vtcr | (sl0 << vtcr::SL0_SHIFT) | (sl2 << vtcr::SL2_SHIFT) | geometry.t0sz())
    }

    /// A call that invalidates TLBs, on all CPUs. Interrupts are on; nothing sleeps.
    ///
    /// A CPU whose EL2 is not ours any more, after an exception there, cannot make the call. Until the others are taken down
    /// too they may run guests, so then all of them are asked. Where none is ours no guest runs, and the next time
    /// EL2 is set up all TLBs are emptied.
    pub(super) fn invalidate(&self, call: Call, args: [u64; 4]) {
        let here = self.invalidate_here(call, args, IrqsMasked::new().proof());
        if here.is_err() {
            hooks::on_each_cpu(|irqs| {
                let _ = self.invalidate_here(call, args, irqs);
            });
        }
    }

    /// The same, made on this CPU.
    fn invalidate_here(&self, call: Call, args: [u64; 4], irqs: &IrqsOff) -> Result {
        let cpu = self.service.this_cpu(irqs).ok_or(EIO)?;
        cpu.call(&self.service, call as u64, args, irqs).map(drop)
    }

    /// The VMID of the VM whose id is in `id`, on `cpu`, where this runs with interrupts masked, right before an entry.
    ///
    /// `None` if TLBs have to be emptied first and this CPU's EL2 is not there to do it.
    #[inline]
    pub(super) fn enter_vmid(&self, id: &AtomicU64, cpu: u32) -> Option<u16> {
        let vmids = &self.vmids;
        vmids
            .active
            .get(cpu as usize)
            .and_then(|active| vmids.generation.enter(id.load(Ordering::Relaxed), active))
            .or_else(|| self.renew_vmid(id, cpu))
    }

    /// The VM has no live VMID, or a new generation begins.
    #[cold]
    fn renew_vmid(&self, id: &AtomicU64, cpu: u32) -> Option<u16> {
        let vmids = &self.vmids;
        let renewed = vmids.with_books(|books| {
            // Under the lock: nobody enters with a VMID of the new generation before it is done.
            let flush = || {
                let masked = IrqsMasked::new();
                self.invalidate_here(Call::TlbAllVmids, [0; 4], masked.proof())
                    .is_ok()
            };
            let renewed = books.renew(
                &vmids.generation,
                id.load(Ordering::Relaxed),
                &vmids.active,
                flush,
            )?;
            id.store(renewed, Ordering::Relaxed);
            if let Some(active) = vmids.active.get(cpu as usize) {
                active.store(renewed, Ordering::Relaxed);
            }
            Some(renewed)
        });
        // Pairs with the barrier of who changes the tables and then looks for the id to invalidate under: either it sees
        // the id, or the walks from here on see its change.
        el1::dsb_ish();
        renewed.flatten().map(|id| vmids.generation.vmid(id))
    }

    /// The VMID that `id` has, or had last; `None` if it never had one.
    pub(super) fn vmid(&self, id: &AtomicU64) -> Option<u16> {
        match id.load(Ordering::Relaxed) {
            0 => None,
            id => Some(self.vmids.generation.vmid(id)),
        }
    }

    /// The VM is gone, and so is all that TLBs had of it.
    pub(super) fn release_vmid(&self, id: &AtomicU64) {
        let id = id.swap(0, Ordering::Relaxed);
        self.vmids
            .with_books(|books| books.release(&self.vmids.generation, id));
    }

    /// Number of VMIDs, and of generations of them that have begun since the first.
    pub(super) fn vmid_space(&self) -> (u64, u64) {
        let generation = &self.vmids.generation;
        (generation.vmids(), generation.begun())
    }

    /// Number of VMIDs that are taken.
    pub(super) fn vmids_taken(&self) -> u64 {
        self.vmids.with_books(|books| books.taken()).unwrap_or(0)
    }
}

/// Whether stage 2 has 52-bit descriptors for 4K or 16K pages (ID_AA64MMFR0_EL1.TGran4_2 and TGran16_2, which may refer
/// to the fields of stage 1).
fn stage2_has_lpa2(granule: Granule) -> bool {
    let mmfr0 = probe::sanitised(probe::SYS_ID_AA64MMFR0_EL1);
    match granule {
        Granule::K4 => match field(mmfr0, 40) {
            0 => field(mmfr0, 28) == 1,
            stage2 => stage2 == 3,
        },
        Granule::K16 => match field(mmfr0, 32) {
            0 => field(mmfr0, 20) == 2,
            stage2 => stage2 == 3,
        },
        Granule::K64 => false,
    }
}

/// The VMIDs of the machine.
struct Vmids {
    generation: Generation,
    /// For each CPU, the id that was entered last. Written by that CPU, and taken away by a rollover.
    active: KVec<AtomicU64>,
    /// Taken with interrupts masked, as entries need it.
    lock: TicketLock,
    books: UnsafeCell<Books<KVVec<u64>>>,
}

// SAFETY: The books are only used under the lock.
unsafe impl Send for Vmids {}
// SAFETY: As above.
unsafe impl Sync for Vmids {}

impl Vmids {
    fn new(wide: bool) -> Result<Self, Refused> {
        let generation = Generation::new(wide);
        let cpus = nr_cpu_ids() as usize;
        if generation.vmids() <= cpus as u64 + 1 {
            return Err(refuse!(
                ENODEV,
                "{} VMIDs are too few for {cpus} CPUs; boot with a smaller nr_cpus=",
                generation.vmids()
            ));
        }
        let active = inject::loading("the VMIDs that CPUs use", |flags| {
            let mut active = KVec::with_capacity(cpus, flags)?;
            for _ in 0..cpus {
                active.push(AtomicU64::new(0), flags)?;
            }
            Ok::<_, AllocError>(active)
        })?;
        let words = (generation.vmids() / 64) as usize;
        Ok(Self {
            books: UnsafeCell::new(Books::new(
                inject::loading("the bitmap of VMIDs", |flags| {
                    KVVec::from_elem(0, words, flags)
                })?,
                inject::loading("the VMIDs that stay reserved", |flags| {
                    KVVec::from_elem(0, cpus, flags)
                })?,
            )),
            generation,
            active,
            lock: TicketLock::new(),
        })
    }

    /// Runs `function` on the books, under the lock. `None` never happens: nobody breaks this lock.
    fn with_books<T>(&self, function: impl FnOnce(&mut Books<KVVec<u64>>) -> T) -> Option<T> {
        let _masked = IrqsMasked::new();
        let _guard = self.lock.lock()?;
        // SAFETY: The lock is held, so this is the only reference.
        Some(function(unsafe { &mut *self.books.get() }))
    }
}
