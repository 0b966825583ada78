// SPDX-License-Identifier: GPL-2.0-only

//! Names of registers for KVM_GET_ONE_REG and KVM_SET_ONE_REG.
//!
//! Source: `Documentation/virt/kvm/api.rst`, 4.68, and the header `asm/kvm.h` of arm64.

use std::mem::offset_of;

use kvm_bindings::{
    kvm_regs,
    user_fpsimd_state,
    user_pt_regs,
    KVM_REG_ARM64,
    KVM_REG_ARM64_SYSREG,
    KVM_REG_ARM_CORE,
    KVM_REG_ARM_FW,
    KVM_REG_SIZE_U128,
    KVM_REG_SIZE_U64, //
};

/// A core register of 8 bytes, by its offset in `struct kvm_regs`.
const fn core(offset: usize) -> u64 {
    KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE as u64 | (offset / 4) as u64
}

/// General register `Xn`.
pub const fn x(n: usize) -> u64 {
    core(offset_of!(kvm_regs, regs) + offset_of!(user_pt_regs, regs) + 8 * n)
}

/// Program counter.
pub const PC: u64 = core(offset_of!(kvm_regs, regs) + offset_of!(user_pt_regs, pc));
/// PSTATE, in the format of SPSR_EL1.
pub const PSTATE: u64 = core(offset_of!(kvm_regs, regs) + offset_of!(user_pt_regs, pstate));

/// ELR_EL1, which is among the core registers.
pub const ELR_EL1: u64 = core(offset_of!(kvm_regs, elr_el1));

/// A system register by its encoding.
pub const fn system(op0: u64, op1: u64, crn: u64, crm: u64, op2: u64) -> u64 {
    KVM_REG_ARM64
        | KVM_REG_SIZE_U64
        | KVM_REG_ARM64_SYSREG as u64
        | (op0 << 14)
        | (op1 << 11)
        | (crn << 7)
        | (crm << 3)
        | op2
}

/// The version of PSCI that the guest is told, a pseudo register of the firmware.
pub const PSCI_VERSION: u64 = KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_FW as u64;

/// Vector register `Vn`, 16 bytes.
pub const fn v(n: usize) -> u64 {
    KVM_REG_ARM64
        | KVM_REG_SIZE_U128
        | KVM_REG_ARM_CORE as u64
        | ((offset_of!(kvm_regs, fp_regs) + offset_of!(user_fpsimd_state, vregs) + 16 * n) / 4)
            as u64
}
