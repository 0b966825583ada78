// SPDX-License-Identifier: GPL-2.0-only

//! Host: what the kernel does to the memory behind a guest, and how stage 2 follows.
//!
//! The kernel calls before and after it changes user memory, from any context that can take a spinlock: under page table
//! locks, in reclaim, in the OOM killer. Before: stage 2 is emptied there, TLBs included, and nothing is mapped any more until
//! the last change under way has ended. So after the first call returns, no CPU has the old memory, and after the second
//! one whatever is looked up is the new.
//!
//! Source: `include/linux/mmu_notifier.h` of Linux; behaviour as `virt/kvm/kvm_main.c`.

use core::mem::offset_of;

use kernel::{
    error::to_result,
    ffi::{
        c_int,
        c_ulong, //
    },
    prelude::*,
    sync::Arc,
    types::Opaque, //
};

use super::stage2::Stage2;
use crate::{
    bindings,
    common::invalidation::{
        for_each_part,
        Locking as _, //
    },
    host::inject, //
};

/// Follows the address space of the process that made the VM, for as long as it lives.
pub(super) struct Notifier(Pin<KBox<Block>>);

/// What the kernel knows, and what it leads to.
#[repr(C)]
struct Block {
    notifier: Opaque<bindings::mmu_notifier>,
    stage2: Arc<Stage2>,
}

// SAFETY: The kernel does its own locking, and stage 2 has its lock.
unsafe impl Send for Notifier {}
// SAFETY: As above.
unsafe impl Sync for Notifier {}

/// In a static, as the kernel wants it.
struct Operations(bindings::mmu_notifier_ops);

// SAFETY: The kernel only reads it.
unsafe impl Sync for Operations {}

static OPERATIONS: Operations = Operations(bindings::mmu_notifier_ops {
    release: None,
    clear_flush_young: Some(clear_young),
    clear_young: Some(clear_young),
    test_young: Some(test_young),
    invalidate_range_start: Some(invalidate_range_start),
    invalidate_range_end: Some(invalidate_range_end),
    arch_invalidate_secondary_tlbs: None,
    alloc_notifier: None,
    free_notifier: None,
});

impl Notifier {
    /// Registers with the address space of the current process.
    ///
    /// There is no `release`: when the address space ends no thread is left that could run a vCPU, as that takes this
    /// very address space, and what stage 2 still maps is unreachable until it is freed.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `EINTR`.
    pub(super) fn new(stage2: Arc<Stage2>) -> Result<Self> {
        let block = Block {
            notifier: Opaque::new(bindings::mmu_notifier {
                ops: &OPERATIONS.0,
                ..Default::default()
            }),
            stage2,
        };
        let block = KBox::pin(block, inject::account("the MMU notifier")?)?;
        inject::step("the registration of the MMU notifier")?;
        // SAFETY: The current process is a user process, as it makes a system call. The block is pinned and lives until
        // `drop` has unregistered it.
        to_result(unsafe {
            bindings::mmu_notifier_register(
                block.notifier.get(),
                (*crate::arch::el1::current_task()).mm,
            )
        })?;
        Ok(Self(block))
    }

    /// The address space that it follows. For comparison.
    pub(super) fn mm(&self) -> *mut bindings::mm_struct {
        // SAFETY: The kernel sets it when it registers the block, and holds a reference until it unregisters it.
        unsafe { (*self.0.notifier.get()).mm }
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        let notifier = self.0.notifier.get();
        // SAFETY: `new` has registered it. Waits for calls that are under way; process context, nothing held.
        unsafe { bindings::mmu_notifier_unregister(notifier, (*notifier).mm) };
    }
}

/// # Safety
///
/// `notifier` is that of a [`Block`] that is registered.
unsafe fn stage2<'a>(notifier: *mut bindings::mmu_notifier) -> &'a Stage2 {
    let block = notifier.wrapping_byte_sub(offset_of!(Block, notifier));
    // SAFETY: By the contract: `Opaque` has the address of what it holds.
    unsafe { &(*block.cast::<Block>()).stage2 }
}

/// The kernel is about to change memory.
///
/// # Safety
///
/// Called by the kernel, for a [`Block`] that is registered.
unsafe extern "C" fn invalidate_range_start(
    notifier: *mut bindings::mmu_notifier,
    range: *const bindings::mmu_notifier_range,
) -> c_int {
    // SAFETY: By the contract.
    let (stage2, start, end) = unsafe { (stage2(notifier), (*range).start, (*range).end) };
    let (start, end) = (start as u64, end as u64);
    stage2.begin(start, end);
    for_each_part(stage2, start, end, |gfns| stage2.unmap(gfns));
    0
}

/// The kernel has changed memory.
///
/// # Safety
///
/// As for [`invalidate_range_start`].
unsafe extern "C" fn invalidate_range_end(
    notifier: *mut bindings::mmu_notifier,
    range: *const bindings::mmu_notifier_range,
) {
    // SAFETY: By the contract.
    let (stage2, start, end) = unsafe { (stage2(notifier), (*range).start, (*range).end) };
    stage2.lock().end_invalidation(start as u64, end as u64);
}

/// Has memory been used since the last time? From now on it has not.
///
/// # Safety
///
/// As for [`invalidate_range_start`].
unsafe extern "C" fn clear_young(
    notifier: *mut bindings::mmu_notifier,
    _mm: *mut bindings::mm_struct,
    start: c_ulong,
    end: c_ulong,
) -> bool {
    // SAFETY: By the contract.
    let stage2 = unsafe { stage2(notifier) };
    let mut young = false;
    let (start, end) = (start as u64, end as u64);
    for_each_part(stage2, start, end, |gfns| young |= stage2.lock().age(gfns));
    young
}

/// Has memory been used since the last time?
///
/// # Safety
///
/// As for [`invalidate_range_start`].
unsafe extern "C" fn test_young(
    notifier: *mut bindings::mmu_notifier,
    _mm: *mut bindings::mm_struct,
    address: c_ulong,
) -> bool {
    // SAFETY: By the contract.
    let stage2 = unsafe { stage2(notifier) };
    let mut young = false;
    let address = address as u64;
    for_each_part(stage2, address, address.saturating_add(1), |gfns| {
        young |= stage2.lock().is_young(gfns);
    });
    young
}
