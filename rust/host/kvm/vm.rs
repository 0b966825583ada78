// SPDX-License-Identifier: GPL-2.0-only

//! Host: one VM.
//!
//! A [`Vm`] is held by its file and by the files of its vCPUs. When the last of them is closed, in the context of whoever
//! closes it, everything goes: the vCPUs, the notifier (after calls under way), the tables.
//!
//! Locks, outermost first: a vCPU's mutex; the mutex of the slots, or that of the list of vCPUs; the lock of stage 2.
//!
//! Source: `Documentation/virt/kvm/api.rst` of Linux; behaviour as `virt/kvm/kvm_main.c` and `arch/arm64/kvm/arm.c`.

use core::{
    convert::Infallible,
    sync::atomic::{
        AtomicBool,
        AtomicU64,
        Ordering, //
    },
};

use kernel::{
    ffi::{
        c_int,
        c_ulong, //
    },
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex,
        UniqueArc, //
    },
};

use super::{
    attrs::VmArch,
    bus::Bus,
    notifier::Notifier,
    run::LastRan,
    slots::SlotTable,
    stage2::Stage2,
    system::System,
    vcpu::{
        Request,
        Vcpu, //
    },
};
use crate::{
    arch::el1,
    bindings,
    common::{
        addr::Granule,
        slots::GfnRange, //
    },
    host::{
        inject,
        service::Service, //
    },
};

/// Most vCPUs of a VM; their numbers are below this too.
pub(super) const VCPUS_MAX: u32 = 512;

/// KVM_VM_TYPE_ARM_IPA_SIZE_MASK: the part of the machine type that says how many bits an IPA has.
const TYPE_IPA_SIZE: c_ulong = 0xff;

/// What became of a stage-2 fault.
pub(crate) enum Abort {
    /// Mapped: the guest tries again.
    Mapped,
    /// No memory there, or none for this access.
    Mmio {
        /// Address, with the offset in the page.
        ipa: u64,
    },
}

/// See the module. The fields are dropped in order.
#[pin_data(PinnedDrop)]
pub(crate) struct Vm {
    /// By index.
    #[pin]
    vcpus: Mutex<KVec<Arc<Vcpu>>>,
    /// No more changes of stage 2 by the kernel.
    notifier: Notifier,
    stage2: Arc<Stage2>,
    #[pin]
    pub(super) slots: Mutex<SlotTable>,
    /// `KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE` and the like, as KVM_ENABLE_CAP has set them.
    pub(super) manual_protect: AtomicU64,
    dead: AtomicBool,
    #[pin]
    pub(super) bus: Bus,
    last_ran: LastRan,
    #[pin]
    arch: VmArch,
    /// The process that made it.
    pid: i32,
}

#[pinned_drop]
impl PinnedDrop for Vm {
    fn drop(self: Pin<&mut Self>) {
        self.system().unlist(&self);
    }
}

impl Vm {
    /// A VM of the current process. `machine_type` is the argument of KVM_CREATE_VM.
    ///
    /// # Errors
    ///
    /// `EINVAL` for the type, `EIO` after an exception at EL2, `ENOMEM`, `EINTR`.
    pub(super) fn new(system: &Arc<System>, machine_type: c_ulong) -> Result<Arc<Self>> {
        if machine_type & !TYPE_IPA_SIZE != 0 {
            return Err(EINVAL);
        }
        if system.service.has_failed() {
            return Err(EIO);
        }
        // The room first: an initialiser that is dropped does not free the root table that it has.
        let room = UniqueArc::new_uninit(inject::account("the stage 2 of a VM")?)?;
        let stage2 = Stage2::new(system.clone(), machine_type as u32)?;
        let stage2 = Arc::from(room.pin_init_with(stage2)?);
        let notifier = Notifier::new(stage2.clone())?;
        let last_ran = LastRan::new()?;
        let bus = Bus::new()?;
        let vm = pin_init!(Self {
            vcpus <- new_mutex!(KVec::new()),
            notifier,
            stage2,
            slots <- new_mutex!(SlotTable::new()),
            manual_protect: AtomicU64::new(0),
            dead: AtomicBool::new(false),
            bus <- bus,
            last_ran,
            arch <- VmArch::new(),
            pid: kernel::current!().pid(),
        });
        let vm = Arc::pin_init(vm, inject::account("a VM")?)?;
        system.list(&vm)?;
        Ok(vm)
    }

    /// Number of the process that made it.
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// What all VMs have in common.
    pub(super) fn system(&self) -> &Arc<System> {
        self.stage2.system()
    }

    /// The loaded eltwo.
    pub(crate) fn service(&self) -> &Arc<Service> {
        &self.stage2.system().service
    }

    /// Its stage 2.
    pub(super) fn stage2(&self) -> &Arc<Stage2> {
        &self.stage2
    }

    /// # Errors
    ///
    /// `EIO` if the current process is not the one that made the VM, or the VM is dead.
    pub(crate) fn check_mm(&self) -> Result {
        // SAFETY: The current task is alive while it runs this.
        let mm = unsafe { (*el1::current_task()).mm };
        if mm != self.notifier.mm() || self.dead.load(Ordering::Relaxed) {
            return Err(EIO);
        }
        Ok(())
    }

    /// The VM cannot go on: from now on every call answers `EIO`.
    pub(crate) fn kill(&self) {
        self.dead.store(true, Ordering::Relaxed);
        self.for_each_vcpu(&mut |vcpu| {
            vcpu.request(Request::VmDead);
            vcpu.kick();
        });
    }

    /// The same for each VM there is.
    pub(crate) fn kill_all(&self) {
        let each = |vm: &Vm| -> Result<(), Infallible> {
            vm.kill();
            Ok(())
        };
        // It cannot fail.
        let _ = self.stage2.system().for_each_vm(each);
    }

    /// Adds a vCPU with number `id`: `make` makes it, of its number and index, and `then` its file. If that fails the vCPU is
    /// as if it had never been.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `id` is too large or there are too many, `EEXIST`, `EIO` after an exception at EL2, `ENOMEM`, and what the
    /// functions return.
    pub(crate) fn add_vcpu(
        &self,
        id: c_ulong,
        make: impl FnOnce(u32, u32) -> Result<Arc<Vcpu>>,
        then: impl FnOnce(&Arc<Vcpu>) -> Result<c_int>,
    ) -> Result<c_int> {
        let id = u32::try_from(id).map_err(|_| EINVAL)?;
        if id >= VCPUS_MAX {
            return Err(EINVAL);
        }
        let mut vcpus = self.vcpus.lock();
        if vcpus.len() as u32 >= VCPUS_MAX {
            return Err(EINVAL);
        }
        if vcpus.iter().any(|vcpu| vcpu.id() == id) {
            return Err(EEXIST);
        }
        if self.service().has_failed() {
            return Err(EIO);
        }
        let flags = inject::account("the list of a VM's vCPUs")?;
        vcpus.reserve(1, flags)?;
        let vcpu = make(id, vcpus.len() as u32)?;
        vcpus
            .push_within_capacity(vcpu.clone())
            .map_err(|_| ENOMEM)?;
        // With the mutex held: whoever gets the file waits until the vCPU is complete, as seen by the others.
        then(&vcpu).inspect_err(|_| {
            vcpus.pop();
        })
    }

    /// How many vCPUs there are.
    pub(crate) fn vcpu_count(&self) -> u32 {
        self.vcpus.lock().len() as u32
    }

    /// Calls `function` for each vCPU. The list is locked: `function` creates none.
    pub(crate) fn for_each_vcpu(&self, function: &mut dyn FnMut(&Vcpu)) {
        for vcpu in self.vcpus.lock().iter() {
            function(vcpu);
        }
    }

    /// Calls `function` while no vCPU is in use: none is made, and an ioctl of one waits until `function` is through.
    ///
    /// # Errors
    ///
    /// `EBUSY` if one is in use, `ENOMEM`.
    pub(crate) fn while_idle(&self, function: impl FnOnce()) -> Result {
        let vcpus = self.vcpus.lock();
        let flags = inject::account("the list of the vCPUs that an ioctl stops")?;
        let mut held = KVec::with_capacity(vcpus.len(), flags)?;
        for vcpu in vcpus.iter() {
            held.push_within_capacity(vcpu.try_hold(&vcpus).ok_or(EBUSY)?)
                .map_err(|_| ENOMEM)?;
        }
        function();
        Ok(())
    }

    /// The ring of coalesced MMIO.
    pub(crate) fn coalesced_page(&self) -> *mut bindings::page {
        self.bus.ring_page()
    }

    /// A guest's write to `ipa`, where there is no memory. True if that is all there is to do about it.
    #[inline]
    pub(crate) fn io_write(&self, ipa: u64, data: &[u8]) -> bool {
        self.bus.write(ipa, data)
    }

    /// Bits of an IPA.
    pub(crate) fn ipa_bits(&self) -> u32 {
        self.stage2.geometry().input_bits()
    }

    /// VTCR_EL2.
    pub(crate) fn vtcr(&self) -> u64 {
        self.stage2.vtcr()
    }

    /// What its vCPUs have in common besides memory.
    #[inline]
    pub(crate) fn arch(&self) -> &VmArch {
        &self.arch
    }

    /// Which vCPU ran last on each CPU.
    pub(crate) fn last_ran(&self) -> &LastRan {
        &self.last_ran
    }

    /// VTTBR_EL2 with a VMID that is live; interrupts are masked. `None` if EL2 of this CPU is not there to empty its TLB.
    #[inline]
    pub(crate) fn enter_vttbr(&self, cpu: u32) -> Option<u64> {
        self.stage2.enter(cpu)
    }

    /// Unmaps all of the guest's memory: it faults in again.
    pub(crate) fn unmap_guest(&self) {
        self.for_each_slot(|gfns| self.stage2.unmap(gfns));
    }

    /// Cleans all memory that the guest has mapped to the PoC.
    pub(crate) fn flush_guest(&self) {
        let system = self.system();
        self.for_each_slot(|gfns| {
            for piece in self.stage2.mapped_pieces(gfns, system.pages_to_clean()) {
                self.stage2.lock().mapped(piece, |pa, bytes| {
                    // SAFETY: RAM that is mapped, and cannot go as long as the lock is held.
                    unsafe { system.clean(pa, bytes) };
                });
            }
        });
    }

    /// Calls `function` for the pages of each slot. Slots may come and go meanwhile.
    fn for_each_slot(&self, mut function: impl FnMut(GfnRange)) {
        let mut from = 0;
        loop {
            let stage2 = self.stage2.lock();
            let next = stage2.slots().from(from).next().map(|slot| slot.gfns());
            drop(stage2);
            let Some(gfns) = next else {
                return;
            };
            from = gfns.end();
            function(gfns);
        }
    }

    /// Size of a page.
    pub(super) fn granule(&self) -> Granule {
        self.stage2.geometry().granule()
    }
}
