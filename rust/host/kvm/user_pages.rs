// SPDX-License-Identifier: GPL-2.0-only

//! Host: memory of the current process, looked up for its guest.
//!
//! Source: behaviour as `hva_to_pfn` of `virt/kvm/kvm_main.c` and `get_user_mapping_size` of `arch/arm64/kvm/mmu.c` of Linux.

use core::{
    ptr::{
        self,
        NonNull, //
    },
    sync::atomic::{
        AtomicU64,
        Ordering, //
    },
};

use kernel::{
    mm::MmWithUser,
    prelude::*, //
};

use super::system::System;
use crate::{
    arch::{
        el1,
        sysreg, //
    },
    bindings,
    common::{
        addr::{
            Granule,
            HypVa,
            PhysAddr,
            Pow2, //
        },
        pgtable::{
            Foreign,
            Geometry,
            Output, //
        },
    },
    host::{
        linear,
        probe::Machine,
        timing::IrqsMasked, //
    },
};

/// Memory behind a user address.
pub(super) struct Found {
    /// The page, with a reference; `None` for what is no page of the kernel's, or one that it does not count references of.
    page: Option<NonNull<bindings::page>>,
    pa: PhysAddr,
    writable: bool,
    device: bool,
}

impl Found {
    fn new(page: NonNull<bindings::page>, writable: bool) -> Result<Self> {
        match linear::page_to_phys(page) {
            Some(pa) => Ok(Self {
                page: Some(page),
                pa,
                writable,
                device: false,
            }),
            None => {
                put(page);
                Err(EFAULT)
            }
        }
    }

    /// First byte of the page.
    pub(super) fn pa(&self) -> PhysAddr {
        self.pa
    }

    /// Whether the process may write it.
    pub(super) fn is_writable(&self) -> bool {
        self.writable
    }

    /// Whether it is no RAM, so that it must not be cached.
    pub(super) fn is_device(&self) -> bool {
        self.device
    }

    /// The guest may write the page from now on. Its writes leave no trace in the process's page table, so the page counts as
    /// dirty from here on: until the kernel cleans it, which it announces.
    ///
    /// Under the lock of stage 2, with nothing announced: the process still maps the page.
    pub(super) fn mark_dirty(&self) {
        if let Some(page) = self.page {
            // SAFETY: The page is referenced. It is mapped writable in the process, and cannot be unmapped or cleaned before the
            // notifier has had the lock that the caller holds, so it is not truncated meanwhile. Does not sleep.
            unsafe { bindings::set_page_dirty(page.as_ptr()) };
        }
    }
}

impl Drop for Found {
    fn drop(&mut self) {
        if let Some(page) = self.page {
            put(page);
        }
    }
}

/// Gives up a reference that the caller has: `put_page`, which is inline, by a function that does nothing else. `release_pages`
/// does not do it, as it keeps the references of the huge zero page.
fn put(page: NonNull<bindings::page>) {
    let mut buffer = bindings::pipe_buffer {
        page: page.as_ptr(),
        offset: 0,
        len: 0,
        ops: ptr::null(),
        flags: 0,
        private: 0,
    };
    // SAFETY: The function looks at nothing but the page, whose reference is the caller's.
    unsafe { bindings::generic_pipe_buf_release(ptr::null_mut(), &mut buffer) };
}

/// Finds the memory at `user`, faulting it in. `write`: for a write. `want_writable`: also if it is for a read, a page
/// that can be written without further ado is found as such.
///
/// # Errors
///
/// `EFAULT` if there is none, or none for this access. `EAGAIN` and `EINTR` if the guest should try again. `EHWPOISON`.
pub(super) fn find(system: &System, user: u64, write: bool, want_writable: bool) -> Result<Found> {
    let mut page = ptr::null_mut();
    if want_writable {
        // SAFETY: There is room for one page.
        let count = unsafe {
            bindings::get_user_pages_fast_only(user as usize, 1, bindings::FOLL_WRITE, &mut page)
        };
        if let Some(page) = NonNull::new(page).filter(|_| count == 1) {
            return Found::new(page, true);
        }
    }
    let flags = bindings::FOLL_HWPOISON
        | bindings::FOLL_HONOR_NUMA_FAULT
        | if write { bindings::FOLL_WRITE } else { 0 };
    // SAFETY: There is room for one page; process context with nothing held that a page fault could need.
    let count = unsafe { bindings::get_user_pages_unlocked(user as usize, 1, &mut page, flags) };
    match NonNull::new(page).filter(|_| count == 1) {
        Some(page) => Found::new(page, write),
        None if count < 0 && count != EFAULT.to_errno() as isize => {
            Err(Error::from_errno(count as i32))
        }
        None => find_pfn(system, user, write),
    }
}

/// Memory that is mapped by number and not by page: devices, mostly.
fn find_pfn(system: &System, user: u64, write: bool) -> Result<Found> {
    // SAFETY: A process that runs its vCPU has an address space, and keeps it while it does.
    let mm = unsafe { MmWithUser::from_raw((*el1::current_task()).mm) };
    let guard = mm.mmap_read_lock();
    let vma = guard.vma_lookup(user as usize).ok_or(EFAULT)?;
    if vma.flags() & (bindings::VM_IO | bindings::VM_PFNMAP) == 0 {
        return Err(EFAULT);
    }
    let mut args = bindings::follow_pfnmap_args {
        vma: vma.as_ptr(),
        address: user as usize,
        ..Default::default()
    };
    // SAFETY: The address is in the area, which is locked for reading.
    if unsafe { bindings::follow_pfnmap_start(&mut args) } != 0 {
        let flags = if write {
            bindings::fault_flag_FAULT_FLAG_WRITE
        } else {
            0
        };
        let mut unlocked = false;
        // SAFETY: The lock is held, and held again afterwards; `unlocked` tells whether it was released.
        let result =
            unsafe { bindings::fixup_user_fault(mm.as_raw(), user as usize, flags, &mut unlocked) };
        if unlocked {
            return Err(EAGAIN);
        }
        kernel::error::to_result(result)?;
        // SAFETY: As above.
        kernel::error::to_result(unsafe { bindings::follow_pfnmap_start(&mut args) })?;
    }
    let (pfn, writable) = (args.pfn, args.writable);
    // SAFETY: The start was successful.
    unsafe { bindings::follow_pfnmap_end(&mut args) };
    if write && !writable {
        return Err(EFAULT);
    }
    // SAFETY: Any number may be asked for.
    let is_ram = unsafe { bindings::pfn_is_map_memory(pfn) } != 0;
    // SAFETY: The address space has been locked for reading all the time, so the area is as it was.
    let cached = is_cached(unsafe { (*vma.as_ptr()).vm_page_prot });
    if !is_ram && cached && !system.has_cacheable_pfns() {
        return Err(EFAULT);
    }
    let pa = (pfn as u64).checked_mul(bindings::PAGE_SIZE as u64);
    Ok(Found {
        page: None,
        pa: pa.and_then(PhysAddr::new).ok_or(EFAULT)?,
        writable,
        device: !is_ram && !cached,
    })
}

/// Whether user space has memory of this protection cached. Source: `arch/arm64/include/asm/memory.h` (`MT_*`).
pub(super) fn is_cached(protection: bindings::pgprot_t) -> bool {
    /// AttrIndx of a descriptor; the indices in MAIR_EL1 that the kernel has for uncached memory and devices.
    const INDEX_SHIFT: u32 = 2;
    const UNCACHED: core::ops::RangeInclusive<u64> = 2..=4;
    !UNCACHED.contains(&((protection.pgprot >> INDEX_SHIFT) & 7))
}

/// Tells the current process that its memory at `user` is damaged.
pub(super) fn signal_poison(user: u64, granule: Granule) {
    // SAFETY: A signal for the current task.
    unsafe {
        bindings::send_sig_mceerr(
            bindings::BUS_MCEERR_AR as i32,
            ptr::with_exposed_provenance_mut(user as usize),
            granule.shift() as i16,
            el1::current_task(),
        )
    };
}

/// The size that the current process maps the memory at `user` with; `None` if it is not mapped to `pa` there at present.
pub(super) fn mapping_size(system: &System, user: u64, pa: PhysAddr) -> Option<Pow2> {
    let at = HypVa::new(user)?;
    // SAFETY: A process that runs its vCPU has an address space, and keeps it while it does.
    let pgd = unsafe { (*(*el1::current_task()).mm).__bindgen_anon_1.pgd };
    let root = linear::kern_to_phys(NonNull::new(pgd)?.cast())?;
    let table = Foreign::new(system.user_geometry, root, |place| {
        // SAFETY: A descriptor of a table that is not freed while interrupts are off. Other CPUs change it at any time.
        let descriptor =
            unsafe { AtomicU64::from_ptr(linear::phys_to_kern(place).cast().as_ptr()) };
        Some(descriptor.load(Ordering::Acquire))
    });
    // Tables that are taken out of the address space are freed only after all CPUs have had interrupts on.
    let masked = IrqsMasked::new();
    let leaf = table.ok()?.lookup(at).ok()??;
    drop(masked);
    (leaf.translate(at)? == pa).then(|| Pow2::new(leaf.range.size_bytes()))?
}

/// The shape of the kernel's tables for user space.
///
/// # Errors
///
/// `EINVAL` for one that the walker does not know.
pub(super) fn geometry(machine: &Machine) -> Result<Geometry> {
    /// TCR_EL1.T0SZ. Process context: the kernel changes it only around its own identity map.
    const T0SZ: u64 = 0x3f;
    let output =
        Output::new(machine.granule, machine.pa_bits.into(), machine.wide).ok_or(EINVAL)?;
    let va_bits = 64 - (sysreg::tcr_el1() & T0SZ) as u32;
    Geometry::stage1(machine.granule, va_bits, output).map_err(|_| EINVAL)
}
