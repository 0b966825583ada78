// SPDX-License-Identifier: GPL-2.0-only

//! Host: stage-2 faults: what a guest misses is found in its maker's memory and mapped.
//!
//! Nothing is pinned: a reference to the page is held only until it is mapped, and what the kernel does to the page later
//! (swap, copy on write, migration, KSM, munmap) it announces through the notifier, which unmaps it here first. A page that
//! was looked up before such an announcement is not mapped after it: see [`super::stage2_locked::Locked::is_stale`].
//!
//! Source: Arm ARM DDI 0487 D8.4 (stage 2), D24.2.40 (ESR_EL2), D24.2.64 (HPFAR_EL2); behaviour as
//! `arch/arm64/kvm/mmu.c` and `virt/kvm/kvm_main.c` of Linux.

use kernel::{
    pr_warn_once,
    prelude::*,
    sync::Arc, //
};

use super::{
    slots::Slot,
    stage2_locked::Target,
    stage2_memory::Reserve,
    stats::VmStat,
    system::System,
    user_pages::{
        self,
        Found, //
    },
    vcpu::Active,
    vm::{
        Abort,
        Vm, //
    },
};
use crate::{
    bindings,
    common::{
        addr::{
            Address,
            PhysAddr, //
        },
        exception,
        guest::{
            GuestExit,
            HPFAR_INVALID, //
        },
        pgtable::{
            GuestAttrs,
            GuestExecute,
            Level, //
        },
        slots::GfnRange,
    },
};

/// ESR_EL2.EC of an instruction abort from a lower exception level; of a data abort it is 0x24.
const EC_IABT_LOW: u64 = 0x20;

/// ESR_ELx.ISS.DFSC: unsupported exclusive or atomic access.
const FSC_EXCLUSIVE: u64 = 0x35;

/// What kind of fault it is, by ESR_EL2.ISS.xFSC.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing is mapped there.
    Translation,
    /// The access flag is clear.
    AccessFlag,
    /// It is mapped, but not for this.
    Permission,
    /// It is mapped, but not as memory that can be accessed exclusively or atomically like this.
    Exclusive,
}

/// A stage-2 fault, from what EL2 has recorded.
#[derive(Clone, Copy)]
struct Fault {
    ipa: u64,
    kind: Kind,
    write: bool,
    execute: bool,
}

impl Fault {
    /// `None` if the address is not known, as the guest's tables have changed meanwhile: it tries again.
    ///
    /// # Errors
    ///
    /// `EFAULT` for a fault that stage 2 cannot resolve.
    fn new(exit: &GuestExit) -> Result<Option<Self>> {
        const FIPA: u64 = 0x0fff_ffff_fff0;
        const ISS_WNR: u64 = 1 << 6;
        const ISS_S1PTW: u64 = 1 << 7;
        if exit.hpfar == HPFAR_INVALID {
            return Ok(None);
        }
        let kind = match exit.esr & 0x3f {
            0x04..=0x07 | 0x2b => Kind::Translation,
            0x08..=0x0b => Kind::AccessFlag,
            0x0c..=0x0f => Kind::Permission,
            FSC_EXCLUSIVE => Kind::Exclusive,
            code => {
                pr_warn_once!("a guest's abort has the unexpected status {code:#x}\n");
                return Err(EFAULT);
            }
        };
        let instruction = (exit.esr >> 26) & 0x3f == EC_IABT_LOW;
        let walk = exit.esr & ISS_S1PTW != 0;
        Ok(Some(Self {
            // The offset in the page is that of the virtual address, for 4 KiB in any case.
            ipa: ((exit.hpfar & FIPA) << 8) | (exit.far & 0xfff),
            kind,
            // A walk reads, unless it has to set a flag in a table that it may read: that is all that permissions can forbid.
            write: if walk {
                kind == Kind::Permission
            } else {
                !instruction && exit.esr & ISS_WNR != 0
            },
            execute: instruction && !walk,
        }))
    }
}

/// What a fault is worked on with.
struct Work<'a> {
    vm: &'a Vm,
    fault: Fault,
    gfn: u64,
    slot: Arc<Slot>,
    /// For [`super::stage2_locked::Locked::is_stale`].
    sequence: u64,
    /// In the address space of the VM's maker.
    user: u64,
}

impl Vm {
    /// A stage-2 abort: see `active.context().exit`. Interrupts are on; it may sleep.
    ///
    /// # Errors
    ///
    /// `EFAULT` if there is a slot but no memory behind it, and for aborts that nothing can be done about.
    pub(crate) fn handle_abort(&self, active: &mut Active<'_>) -> Result<Abort> {
        let Some(fault) = Fault::new(&active.context().exit)? else {
            return Ok(Abort::Mapped);
        };
        let granule = self.stage2().geometry().granule();
        let gfn = fault.ipa >> granule.shift();
        let found = self.stage2().lock().find(gfn);
        let Some((slot, sequence)) =
            found.filter(|(slot, _)| !(fault.write && slot.is_read_only()))
        else {
            return Ok(Abort::Mmio { ipa: fault.ipa });
        };
        if fault.kind == Kind::Exclusive {
            // What the guest is told is what it would be told without stage 2.
            let far = active.context().exit.far;
            exception::abort(active.context_mut(), false, far, FSC_EXCLUSIVE);
            return Ok(Abort::Mapped);
        }
        if fault.kind == Kind::AccessFlag {
            self.stage2().lock().mark_young(gfn);
            return Ok(Abort::Mapped);
        }
        let user = slot.place.user_of(gfn).ok_or(EFAULT)?;
        self.stage2().counters().add(VmStat::Faults);
        // This CPU may have cached what forbade the access, also if the tables allow it already.
        active.state_mut().relaxed |= fault.kind == Kind::Permission;
        Work {
            vm: self,
            fault,
            gfn,
            slot,
            sequence,
            user,
        }
        .resolve()
    }
}

impl Work<'_> {
    fn system(&self) -> &System {
        self.vm.stage2().system()
    }

    fn resolve(&self) -> Result<Abort> {
        let writable = !self.slot.is_read_only();
        let found = match user_pages::find(self.system(), self.user, self.fault.write, writable) {
            Ok(found) => found,
            // The memory has changed under the lookup, or a signal is to be handled first.
            Err(error) if error == EAGAIN || error == EINTR => return Ok(Abort::Mapped),
            Err(error) if error.to_errno() == -(bindings::EHWPOISON as i32) => {
                user_pages::signal_poison(self.user, self.system().granule());
                return Ok(Abort::Mapped);
            }
            Err(_) => return Err(EFAULT),
        };
        if self.fault.execute && found.is_device() {
            return Ok(Abort::Mmio {
                ipa: self.fault.ipa,
            });
        }
        let target = self.target(&found)?;
        self.map(&target, &found)?;
        Ok(Abort::Mapped)
    }

    /// What to map.
    fn target(&self, found: &Found) -> Result<Target> {
        let logging = self.slot.dirty.is_some();
        // What the process may do is not what the slot allows. With logging, a page is made writable by a write alone.
        let write =
            found.is_writable() && !self.slot.is_read_only() && (!logging || self.fault.write);
        let page = GfnRange::new(self.gfn, 1).ok_or(EFAULT)?;
        let attrs = if found.is_device() {
            GuestAttrs {
                write,
                ..GuestAttrs::DEVICE
            }
        } else {
            GuestAttrs {
                write,
                execute: if self.fault.execute || self.system().dic {
                    GuestExecute::All
                } else {
                    GuestExecute::Nobody
                },
                ..GuestAttrs::RAM
            }
        };
        let (gfns, pa) = if logging || found.is_device() {
            (page, found.pa())
        } else {
            self.block(found).unwrap_or((page, found.pa()))
        };
        Ok(Target { gfns, pa, attrs })
    }

    /// The largest block around the page that the maker's memory is mapped with, and that fits into the slot.
    ///
    /// That mapping is looked up without the page table lock. It cannot change without an announcement, and then what is found here is
    /// not used.
    fn block(&self, found: &Found) -> Option<(GfnRange, PhysAddr)> {
        let mapping = user_pages::mapping_size(self.system(), self.user, found.pa())?;
        let geometry = self.vm.stage2().geometry();
        let granule = geometry.granule();
        let block = Level::ALL
            .into_iter()
            .filter(|level| geometry.is_leaf_level(*level))
            .filter_map(|level| geometry.entry_size(level))
            .filter(|size| size.bytes() <= mapping.bytes())
            .find_map(|size| {
                let gfns = self
                    .slot
                    .place
                    .block_of(self.gfn, size.bytes() >> granule.shift())?;
                Some((gfns, size))
            });
        let (gfns, size) = block?;
        Some((gfns, found.pa().align_down(size)?))
    }

    /// Before the guest sees the memory: what the host has written reaches the point where a guest that has its caches off
    /// reads, and no line can be written back over what that one writes.
    fn clean(&self, target: &Target, _reference: &Found) {
        // SAFETY: It is RAM, and there is a reference to it; what a block adds to that belongs to the same folio, or to a mapping
        // that is in place as long as no invalidation is announced.
        unsafe { self.system().clean(target.pa, self.bytes(target)) };
    }

    /// Before the guest executes the memory: no instruction cache holds what was there before, for any address that the guest may
    /// have it at. `clean`: it was cleaned, or need not be, as with FWB, with which CPUs have CTR_EL0.IDC too.
    fn publish_code(&self, target: &Target, clean: bool, _reference: &Found) {
        // SAFETY: As for `clean`.
        unsafe {
            self.system()
                .publish_code(target.pa, self.bytes(target), clean)
        };
    }

    fn bytes(&self, target: &Target) -> u64 {
        target.gfns.count() << self.system().granule().shift()
    }

    fn map(&self, target: &Target, found: &Found) -> Result {
        let system = self.system();
        let place = &self.slot.place;
        let first = place.user_of(target.gfns.first()).ok_or(EFAULT)?;
        let end = first + self.bytes(target);
        let mut clean = found.is_device() || system.format.fwb;
        // All of it may be mapped, and so clean, after a fault for want of a permission only: that is seen below.
        if !clean && self.fault.kind != Kind::Permission {
            self.clean(target, found);
            clean = true;
        }
        if self.fault.execute && !found.is_device() && !system.dic {
            self.publish_code(target, clean, found);
        }
        loop {
            let mut stage2 = self.vm.stage2().lock();
            if stage2.is_stale(self.sequence, first, end) {
                // The guest faults again.
                return Ok(());
            }
            // What is mapped was cleaned when it was. A block may have pages that were not; a page may have been unmapped since
            // the fault, and written by the VM's maker.
            if !clean && !stage2.maps(target) {
                // Long, and with the lock released.
                drop(stage2);
                self.clean(target, found);
                clean = true;
                continue;
            }
            match stage2.map(target) {
                Err(error) if error == ENOMEM => {
                    drop(stage2);
                    let reserve = Reserve::full()?;
                    self.vm.stage2().lock().refill(reserve);
                }
                Err(error) => return Err(error),
                Ok(()) if !target.attrs.write => return Ok(()),
                Ok(()) => {
                    found.mark_dirty();
                    if let Some(log) = &self.slot.dirty {
                        log.mark(self.gfn - self.slot.gfns().first());
                    }
                    return Ok(());
                }
            }
        }
    }
}
