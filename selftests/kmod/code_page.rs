// SPDX-License-Identifier: GPL-2.0-only

//! A page with code for EL2, which the kernel's stub jumps to with the MMU off (`HVC_SOFT_RESTART`).

use core::{
    ffi::c_void,
    ptr::NonNull, //
};

use kernel::{
    bindings,
    prelude::*, //
};

use crate::arch::el1::CacheGeometry;

/// Stub call: jump, at EL2 with the MMU off, to the physical address in x1.
pub(crate) const HVC_SOFT_RESTART: u64 = 1;

const PAGE_BYTES: usize = 1 << bindings::PAGE_SHIFT;

/// A page of the linear map that holds a copy of code, clean to the PoC.
pub(crate) struct CodePage(NonNull<c_void>);

// SAFETY: The page is not written after its creation.
unsafe impl Send for CodePage {}
// SAFETY: As above.
unsafe impl Sync for CodePage {}

impl CodePage {
    /// A page with the code from `start` up to `end`.
    ///
    /// # Safety
    ///
    /// Both are labels of one section, in this order, at most a page apart. The code is position independent.
    pub(crate) unsafe fn new(start: *const u8, end: *const u8) -> Result<Self> {
        // SAFETY: No precondition; process context.
        let page = unsafe { bindings::alloc_pages_exact_noprof(PAGE_BYTES, bindings::GFP_KERNEL) };
        let page = Self(NonNull::new(page).ok_or(ENOMEM)?);
        let target = page.0.as_ptr().cast::<u8>();
        // SAFETY: By the contract of this function; the page is fresh.
        unsafe { target.copy_from_nonoverlapping(start, end as usize - start as usize) };
        // SAFETY: The page is in the linear map. 0 gives the smallest line that the architecture allows.
        unsafe { CacheGeometry::from_ctr(0).clean_to_poc(target, PAGE_BYTES) };
        Ok(page)
    }

    /// Physical address, as `__lm_to_phys` of the kernel computes it.
    pub(crate) fn pa(&self) -> u64 {
        let page_offset = (1u64 << bindings::CONFIG_ARM64_VA_BITS).wrapping_neg();
        // SAFETY: The kernel sets it at boot.
        let memstart = unsafe { bindings::memstart_addr as u64 };
        (self.0.as_ptr() as u64)
            .wrapping_sub(page_offset)
            .wrapping_add(memstart)
    }
}

impl Drop for CodePage {
    fn drop(&mut self) {
        // SAFETY: `new` has allocated exactly this, and no CPU is in it: each call has returned.
        unsafe { bindings::free_pages_exact(self.0.as_ptr(), PAGE_BYTES) };
    }
}
