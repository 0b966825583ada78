// SPDX-License-Identifier: GPL-2.0-only

//! Host: between physical addresses, the kernel's linear map, and its array of pages.
//!
//! Source: `arch/arm64/include/asm/memory.h` of Linux (`__phys_to_virt`, `__lm_to_phys`, `vmemmap`).

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

/// The array of all `struct page`s, which has that of the first page of the linear map here (`CONFIG_SPARSEMEM_VMEMMAP`, as on
/// every arm64 kernel).
const VMEMMAP_START: u64 = bindings::ELTWO_VMEMMAP_START as u64;

const PAGE_STRUCT_BYTES: u64 = size_of::<bindings::page>() as u64;

fn memstart() -> u64 {
    // SAFETY: The kernel sets it once, long before a module can be loaded. It is negative on some machines; the
    // arithmetic is modulo 2^64.
    unsafe { bindings::memstart_addr as u64 }
}

/// Number of the page that the linear map begins with. Negative where that is.
fn first_pfn() -> u64 {
    (memstart() as i64 >> bindings::PAGE_SHIFT) as u64
}

/// Kernel address of RAM at `pa`.
pub(crate) fn phys_to_kern(pa: PhysAddr) -> NonNull<u8> {
    let va = pa.raw().wrapping_sub(memstart()) | PAGE_OFFSET;
    let pointer = with_exposed_provenance_mut(va as usize);
    // SAFETY: PAGE_OFFSET is not 0, so neither is what it is a part of.
    unsafe { NonNull::new_unchecked(pointer) }
}

/// `struct page` of RAM at `pa`.
pub(crate) fn phys_to_page(pa: PhysAddr) -> NonNull<bindings::page> {
    let pfn = pa.raw() >> bindings::PAGE_SHIFT;
    let offset = pfn
        .wrapping_sub(first_pfn())
        .wrapping_mul(PAGE_STRUCT_BYTES);
    let pointer = with_exposed_provenance_mut(VMEMMAP_START.wrapping_add(offset) as usize);
    // SAFETY: The kernel's array of pages does not reach the end of the address space.
    unsafe { NonNull::new_unchecked(pointer) }
}

/// Physical address of the page that `page` describes.
pub(crate) fn page_to_phys(page: NonNull<bindings::page>) -> Option<PhysAddr> {
    let offset = (page.as_ptr().expose_provenance() as u64).checked_sub(VMEMMAP_START)?;
    let pfn = (offset / PAGE_STRUCT_BYTES).wrapping_add(first_pfn());
    PhysAddr::new(pfn.checked_mul(bindings::PAGE_SIZE as u64)?)
}

/// The bits of a pointer into kernel memory that hold KASAN's tag, if it has one; they are set if not.
const TAG: u64 = 0xff << 56;

/// Physical address of `pointer`, which must be in the linear map.
pub(crate) fn kern_to_phys(pointer: NonNull<u8>) -> Option<PhysAddr> {
    let va = pointer.as_ptr().expose_provenance() as u64 | TAG;
    PhysAddr::new(va.checked_sub(PAGE_OFFSET)?.wrapping_add(memstart()))
}
