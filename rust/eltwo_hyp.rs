// SPDX-License-Identifier: GPL-2.0-only

//! The EL2 image (domain: hyp): crate root.
//!
//! A freestanding program of a few pages. It has no undefined symbol and no path that panics: both are errors of its link.

#![no_std]

use core::panic::PanicInfo;

mod arch;
#[expect(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "shared with the host side, which uses other parts of it"
)]
mod common;
mod hyp;

#[panic_handler]
fn panic(_info: &PanicInfo<'_>) -> ! {
    extern "C" {
        /// Defined nowhere: the image links only if the linker finds that nothing calls the panic handler.
        fn eltwo_hyp_has_a_panicking_path() -> !;
    }

    // SAFETY: This call cannot be linked, hence not be made.
    unsafe { eltwo_hyp_has_a_panicking_path() }
}
