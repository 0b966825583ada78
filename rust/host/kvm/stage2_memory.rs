// SPDX-License-Identifier: GPL-2.0-only

//! Host: the memory of stage-2 tables: pages of the kernel, charged to the process that the VM belongs to.

use core::{
    cell::RefCell,
    ptr::NonNull,
    sync::atomic::{
        AtomicU64,
        AtomicUsize,
        Ordering, //
    },
};

use kernel::prelude::*;

use crate::{
    bindings,
    common::{
        addr::PhysAddr,
        pgtable::{
            Error as TableError,
            Slot,
            TableMemory, //
        },
    },
    host::{
        inject,
        linear, //
    },
};

/// Most tables that one fault can need: one of each level but the root.
const RESERVE_PAGES: usize = 4;

/// One or more zeroed pages that belong to nobody else, freed when dropped.
struct Pages {
    first: NonNull<bindings::page>,
    order: u32,
}

// SAFETY: Plain memory.
unsafe impl Send for Pages {}

impl Pages {
    fn new(order: u32) -> Result<Self> {
        inject::step("a table of stage 2")?;
        // SAFETY: May sleep: the callers are in process context with no lock held.
        let page = unsafe {
            bindings::alloc_pages(bindings::GFP_KERNEL_ACCOUNT | bindings::__GFP_ZERO, order)
        };
        Ok(Self {
            first: NonNull::new(page).ok_or(ENOMEM)?,
            order,
        })
    }

    fn pa(&self) -> Option<PhysAddr> {
        linear::page_to_phys(self.first)
    }

    /// The pages that [`Self::leak`] gave away.
    ///
    /// # Safety
    ///
    /// `pa` comes from `leak` of pages of the same order, and nobody uses them any more.
    unsafe fn from_leaked(pa: PhysAddr, order: u32) -> Self {
        Self {
            first: linear::phys_to_page(pa),
            order,
        }
    }

    fn leak(self) -> Option<PhysAddr> {
        let pa = self.pa()?;
        core::mem::forget(self);
        Some(pa)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: They were allocated with this order, and are given up here.
        unsafe { bindings::__free_pages(self.first.as_ptr(), self.order) };
    }
}

/// Pages for tables that cannot be allocated when they are needed, under a spinlock.
pub(super) struct Reserve {
    pages: [Option<Pages>; RESERVE_PAGES],
}

impl Reserve {
    /// Without pages.
    pub(super) const fn new() -> Self {
        Self {
            pages: [const { None }; RESERVE_PAGES],
        }
    }

    /// With all that one fault can need. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn full() -> Result<Self> {
        let mut reserve = Self::new();
        for place in &mut reserve.pages {
            *place = Some(Pages::new(0)?);
        }
        Ok(reserve)
    }

    /// Takes over what there is room for; the rest is freed.
    pub(super) fn add(&mut self, mut more: Self) {
        for place in self.pages.iter_mut().filter(|place| place.is_none()) {
            *place = more.take();
        }
    }

    fn take(&mut self) -> Option<Pages> {
        self.pages.iter_mut().find_map(Option::take)
    }
}

/// [`TableMemory`] of a VM. The number of valid entries of a table is in the `private` field of its `struct page`.
pub(super) struct KernelTables<'a> {
    /// Where new tables come from; without it they are allocated, which may sleep.
    reserve: Option<RefCell<&'a mut Reserve>>,
    /// Granules that are in use: of this VM, and of all.
    used: [&'a AtomicU64; 2],
}

impl<'a> KernelTables<'a> {
    /// Takes tables from `reserve`.
    pub(super) fn reserved(reserve: &'a mut Reserve, used: [&'a AtomicU64; 2]) -> Self {
        Self {
            reserve: Some(RefCell::new(reserve)),
            used,
        }
    }

    /// Allocates tables.
    pub(super) fn sleeping(used: [&'a AtomicU64; 2]) -> Self {
        Self {
            reserve: None,
            used,
        }
    }
}

/// The count of valid entries.
fn entries<'a>(table: PhysAddr) -> &'a AtomicUsize {
    let page = linear::phys_to_page(table).as_ptr();
    // SAFETY: All tables that the walker knows are from `alloc`. The field is ours while the page is allocated, and there is
    // no other access to it.
    unsafe { AtomicUsize::from_ptr(&raw mut (*page).__bindgen_anon_1.__bindgen_anon_1.private) }
}

/// The descriptor in `slot`.
fn descriptor<'a>(slot: Slot) -> Result<&'a AtomicU64, TableError> {
    let pa = slot.pa().ok_or(TableError::Corrupt)?;
    let place = linear::phys_to_kern(pa).cast::<u64>();
    // SAFETY: All tables that the walker knows are from `alloc`, and it keeps to their size. Tables are in the linear map;
    // they are changed by atomic stores only, and read by hardware.
    Ok(unsafe { AtomicU64::from_ptr(place.as_ptr()) })
}

impl TableMemory for KernelTables<'_> {
    fn alloc(&self, granules: u64) -> Result<PhysAddr, TableError> {
        let pages = match &self.reserve {
            Some(reserve) if granules == 1 => reserve.borrow_mut().take(),
            Some(_) => None,
            None => Pages::new(order(granules)).ok(),
        };
        let pa = pages.and_then(Pages::leak).ok_or(TableError::NoMemory)?;
        entries(pa).store(0, Ordering::Relaxed);
        for used in self.used {
            used.fetch_add(granules, Ordering::Relaxed);
        }
        Ok(pa)
    }

    fn free(&self, table: PhysAddr, granules: u64) {
        entries(table).store(0, Ordering::Relaxed);
        // SAFETY: The walker gives back what `alloc` gave it, with the same number of granules, once.
        drop(unsafe { Pages::from_leaked(table, order(granules)) });
        for used in self.used {
            used.fetch_sub(granules, Ordering::Relaxed);
        }
    }

    fn get(&self, table: PhysAddr, entries_more: u64) -> Result<(), TableError> {
        entries(table).fetch_add(entries_more as usize, Ordering::Relaxed);
        Ok(())
    }

    fn put(&self, table: PhysAddr, entries_less: u64) -> Result<(), TableError> {
        let less = entries_less as usize;
        if entries(table).fetch_sub(less, Ordering::Relaxed) < less {
            return Err(TableError::Corrupt);
        }
        Ok(())
    }

    fn count(&self, table: PhysAddr) -> Result<u64, TableError> {
        Ok(entries(table).load(Ordering::Relaxed) as u64)
    }

    fn load(&self, slot: Slot) -> Result<u64, TableError> {
        Ok(descriptor(slot)?.load(Ordering::Acquire))
    }

    fn store(&self, slot: Slot, value: u64) -> Result<(), TableError> {
        descriptor(slot)?.store(value, Ordering::Release);
        Ok(())
    }

    fn compare_exchange(&self, slot: Slot, old: u64, new: u64) -> Result<bool, TableError> {
        Ok(descriptor(slot)?
            .compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
            .is_ok())
    }
}

/// The order of an allocation of `granules`, a power of two.
fn order(granules: u64) -> u32 {
    granules.next_power_of_two().trailing_zeros()
}
