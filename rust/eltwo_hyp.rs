// SPDX-License-Identifier: GPL-2.0-only

//! The EL2 image (domain: hyp): crate root.

#![no_std]

use core::{
    arch::global_asm,
    panic::PanicInfo,
    sync::atomic::{
        AtomicU64,
        Ordering, //
    }, //
};

// The header at offset 0. `__hyp_image_start` is a label of this section, so each difference is a PC-relative
// relocation that the linker resolves.
global_asm!(
    r#"
	.section .hyp.header, "ax", %progbits
	.globl	__hyp_image_start
__hyp_image_start:
	.ascii	"ELTWOHYP"
	.quad	__hyp_text_start - __hyp_image_start
	.quad	__hyp_rodata_start - __hyp_image_start
	.quad	__hyp_data_start - __hyp_image_start
	.quad	__hyp_image_end - __hyp_image_start
	.quad	{ping} - __hyp_image_start

	.section .hyp.idmap, "ax", %progbits
	.globl	hyp_idmap_entry
hyp_idmap_entry:
	ret
"#,
    ping = sym ping,
);

static PINGS: AtomicU64 = AtomicU64::new(1);

/// Echoes its argument.
extern "C" fn ping(arg: u64) -> u64 {
    PINGS.fetch_add(1, Ordering::Relaxed).wrapping_add(arg)
}

#[panic_handler]
fn panic(_info: &PanicInfo<'_>) -> ! {
    extern "C" {
        /// Defined nowhere: the image links only if the linker finds that nothing calls the panic handler.
        fn eltwo_hyp_has_a_panicking_path() -> !;
    }

    // SAFETY: This call cannot be linked, hence not be made.
    unsafe { eltwo_hyp_has_a_panicking_path() }
}
