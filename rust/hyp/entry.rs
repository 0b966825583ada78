// SPDX-License-Identifier: GPL-2.0-only

//! Hyp: where assembly and Rust meet.
//!
//! The `.S` files take every offset and number from the types of `common::abi`, so there is one definition of each.

use core::{
    arch::global_asm,
    mem::offset_of, //
};

use crate::common::{
    abi::{
        self,
        BootParams,
        Call,
        CpuContext,
        FaultReport,
        ImageHeader,
        SavedRegs,
        Status, //
    },
    guest::GuestSlot,
    regs, //
};

global_asm!(
    include_str!("../../asm/idmap.S"),
    IMAGE_MAGIC = const abi::IMAGE_MAGIC,
    ABI_VERSION = const abi::ABI_VERSION,
    BOOT_MAIR = const offset_of!(BootParams, mair),
    BOOT_TCR = const offset_of!(BootParams, tcr),
    BOOT_TTBR_BOOT = const offset_of!(BootParams, ttbr_boot),
    BOOT_TTBR_RUNTIME = const offset_of!(BootParams, ttbr_runtime),
    BOOT_SCTLR = const offset_of!(BootParams, sctlr),
    BOOT_VBAR = const offset_of!(BootParams, vbar),
    BOOT_CONTEXT_VA = const offset_of!(BootParams, context_va),
    BOOT_TRAMPOLINE_OFFSET = const offset_of!(BootParams, trampoline_offset),
    HVC_SET_VECTORS = const abi::HVC_SET_VECTORS,
    HVC_SOFT_RESTART = const abi::HVC_SOFT_RESTART,
    IMAGE_LEN = const regs::IMAGE.len(),
);

global_asm!(
    include_str!("../../asm/frame.S"),
    include_str!("../../asm/vectors.S"),
    HOST = const offset_of!(CpuContext, host),
    REPORT = const offset_of!(CpuContext, report),
    REPORT_ESR = const offset_of!(FaultReport, esr),
    FAULTS = const offset_of!(CpuContext, faults),
    STACK_TOP = const offset_of!(CpuContext, stack_top),
    SAVED = const offset_of!(CpuContext, saved),
    BOOT_TTBR_BOOT_CTX = const offset_of!(CpuContext, boot) + offset_of!(BootParams, ttbr_boot),
    BOOT_TRAMPOLINE_OFFSET_CTX =
        const offset_of!(CpuContext, boot) + offset_of!(BootParams, trampoline_offset),
    BOOT_RESET_VA_CTX = const offset_of!(CpuContext, boot) + offset_of!(BootParams, reset_va),
    HVC_RESET_VECTORS = const abi::HVC_RESET_VECTORS,
    HVC_FINALISE_EL2 = const abi::HVC_FINALISE_EL2,
    HVC_GET_ICH_VTR_EL2 = const abi::HVC_GET_ICH_VTR_EL2,
    HVC_STUB_CALLS = const abi::HVC_STUB_CALLS,
    HVC_STUB_ERR = const abi::HVC_STUB_ERR,
    CALL_RESET = const Call::Reset as u64,
    STATUS_FAULT = const Status::Fault as i64,
    ESR_EC_SHIFT = const regs::ESR_EC_SHIFT,
    ESR_EC_HVC64 = const regs::ESR_EC_HVC64,
    HVC_RUN = const abi::HVC_RUN,
    GUEST_LOADED = const offset_of!(CpuContext, guest) + offset_of!(GuestSlot, loaded),
    hypercall = sym super::call::hypercall,
);

// What the assembly takes for granted about the layout of the types, beyond the offsets that it is given.
const _: () = {
    // Pairs are stored with STP from the start of each frame.
    assert!(offset_of!(abi::Frame, x) == 0);
    assert!(offset_of!(abi::Frame, sp_el0) == 248);
    assert!(offset_of!(abi::Frame, elr) == 256);
    assert!(offset_of!(abi::Frame, spsr) == 264);
    assert!(offset_of!(FaultReport, frame) == 0);
    assert!(offset_of!(FaultReport, far) == offset_of!(FaultReport, esr) + 8);
    assert!(offset_of!(FaultReport, hpfar) == offset_of!(FaultReport, esr) + 16);
    assert!(offset_of!(FaultReport, vector) == offset_of!(FaultReport, esr) + 24);
    assert!(offset_of!(FaultReport, guest) == offset_of!(FaultReport, esr) + 32);
    assert!(offset_of!(FaultReport, valid) == offset_of!(FaultReport, esr) + 40);
    // Loaded in pairs by eltwo_leave.
    assert!(offset_of!(SavedRegs, sctlr) == 0);
    assert!(offset_of!(SavedRegs, vbar) == 8);
    assert!(offset_of!(SavedRegs, ttbr0) == 16);
    assert!(offset_of!(SavedRegs, tcr) == 24);
    assert!(offset_of!(SavedRegs, mair) == 32);
    assert!(offset_of!(SavedRegs, sp) == 40);
    // Pairs reach 504 bytes from their base.
    assert!(offset_of!(CpuContext, host) + size_of::<abi::Frame>() <= 504);
    assert!(offset_of!(CpuContext, report) + 8 <= 504);
    assert!(offset_of!(FaultReport, valid) <= 504);
    assert!(offset_of!(ImageHeader, vectors) == 48);
};

extern "C" {
    /// Reads register number `place` of [`regs::IMAGE`]. Defined in `asm/idmap.S`.
    pub(super) fn eltwo_read_reg(place: u64) -> u64;
}
