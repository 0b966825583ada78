// SPDX-License-Identifier: GPL-2.0-only

//! Host: between physical addresses and the kernel's linear map.
//!
//! Source: `arch/arm64/include/asm/memory.h` of Linux (`__phys_to_virt`, `__lm_to_phys`).

use core::ptr::{
    with_exposed_provenance_mut,
    NonNull, //
};

use crate::{
    bindings,
    common::addr::PhysAddr, //
};

/// First address of the linear map.
const PAGE_OFFSET: u64 = bindings::ELTWO_PAGE_OFFSET as u64;

fn memstart() -> u64 {
    // SAFETY: The kernel sets it once, long before a module can be loaded. It is negative on some machines; the
    // arithmetic is modulo 2^64.
    unsafe { bindings::memstart_addr as u64 }
}

/// Kernel address of RAM at `pa`.
pub(crate) fn phys_to_kern(pa: PhysAddr) -> NonNull<u8> {
    let va = pa.raw().wrapping_sub(memstart()) | PAGE_OFFSET;
    let pointer = with_exposed_provenance_mut(va as usize);
    // SAFETY: PAGE_OFFSET is not 0, so neither is what it is a part of.
    unsafe { NonNull::new_unchecked(pointer) }
}

/// The bits of a pointer into kernel memory that hold KASAN's tag, if it has one; they are set if not.
const TAG: u64 = 0xff << 56;

/// Physical address of `pointer`, which must be in the linear map.
pub(crate) fn kern_to_phys(pointer: NonNull<u8>) -> Option<PhysAddr> {
    let va = pointer.as_ptr().expose_provenance() as u64 | TAG;
    PhysAddr::new(va.checked_sub(PAGE_OFFSET)?.wrapping_add(memstart()))
}
