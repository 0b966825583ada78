// SPDX-License-Identifier: GPL-2.0-only

//! Numbers of ioctls, for calls that `kvm-ioctls` does not make, or not with such arguments.
//!
//! Source: `include/uapi/linux/kvm.h` of Linux.

/// Direction of the argument: none.
const NONE: u32 = 0;
/// The kernel reads it.
const WRITE: u32 = 1;
/// The kernel writes it.
const READ: u32 = 2;

/// `_IOC(direction, KVMIO, number, bytes)`.
const fn kvm(direction: u32, number: u32, bytes: u32) -> u32 {
    const KVMIO: u32 = 0xae;
    (direction << 30) | (bytes << 16) | (KVMIO << 8) | number
}

/// A call of the KVM type that no KVM has.
pub const UNKNOWN: u32 = kvm(NONE, 0xff, 0);

/// KVM_GET_API_VERSION.
pub const GET_API_VERSION: u32 = kvm(NONE, 0x00, 0);
/// KVM_CREATE_VM.
pub const CREATE_VM: u32 = kvm(NONE, 0x01, 0);
/// KVM_GET_VCPU_MMAP_SIZE.
pub const GET_VCPU_MMAP_SIZE: u32 = kvm(NONE, 0x04, 0);
/// KVM_CREATE_VCPU.
pub const CREATE_VCPU: u32 = kvm(NONE, 0x41, 0);
/// KVM_GET_DIRTY_LOG.
pub const GET_DIRTY_LOG: u32 = kvm(WRITE, 0x42, 16);
/// KVM_SET_USER_MEMORY_REGION.
pub const SET_USER_MEMORY_REGION: u32 = kvm(WRITE, 0x46, 32);
/// KVM_SET_USER_MEMORY_REGION2.
pub const SET_USER_MEMORY_REGION2: u32 = kvm(WRITE, 0x49, 160);
/// KVM_IRQ_LINE.
pub const IRQ_LINE: u32 = kvm(WRITE, 0x61, 8);
/// KVM_REGISTER_COALESCED_MMIO.
pub const REGISTER_COALESCED_MMIO: u32 = kvm(WRITE, 0x67, 16);
/// KVM_UNREGISTER_COALESCED_MMIO.
pub const UNREGISTER_COALESCED_MMIO: u32 = kvm(WRITE, 0x68, 16);
/// KVM_IOEVENTFD.
pub const IOEVENTFD: u32 = kvm(WRITE, 0x79, 64);
/// KVM_RUN.
pub const RUN: u32 = kvm(NONE, 0x80, 0);
/// KVM_SET_SIGNAL_MASK.
pub const SET_SIGNAL_MASK: u32 = kvm(WRITE, 0x8b, 4);
/// KVM_GET_MP_STATE.
pub const GET_MP_STATE: u32 = kvm(READ, 0x98, 4);
/// KVM_SET_MP_STATE.
pub const SET_MP_STATE: u32 = kvm(WRITE, 0x99, 4);
/// KVM_GET_VCPU_EVENTS.
pub const GET_VCPU_EVENTS: u32 = kvm(READ, 0x9f, 64);
/// KVM_SET_VCPU_EVENTS.
pub const SET_VCPU_EVENTS: u32 = kvm(WRITE, 0xa0, 64);
/// KVM_ENABLE_CAP.
pub const ENABLE_CAP: u32 = kvm(WRITE, 0xa3, 104);
/// KVM_GET_ONE_REG.
pub const GET_ONE_REG: u32 = kvm(WRITE, 0xab, 16);
/// KVM_ARM_SET_DEVICE_ADDR, which has the number of KVM_GET_ONE_REG, for a VM.
pub const SET_DEVICE_ADDR: u32 = kvm(WRITE, 0xab, 16);
/// KVM_SET_ONE_REG.
pub const SET_ONE_REG: u32 = kvm(WRITE, 0xac, 16);
/// KVM_ARM_VCPU_INIT.
pub const ARM_VCPU_INIT: u32 = kvm(WRITE, 0xae, 32);
/// KVM_ARM_PREFERRED_TARGET.
pub const ARM_PREFERRED_TARGET: u32 = kvm(READ, 0xaf, 32);
/// KVM_GET_REG_LIST.
pub const GET_REG_LIST: u32 = kvm(READ | WRITE, 0xb0, 8);
/// KVM_ARM_SET_COUNTER_OFFSET.
pub const SET_COUNTER_OFFSET: u32 = kvm(WRITE, 0xb5, 16);
/// KVM_ARM_GET_REG_WRITABLE_MASKS.
pub const GET_REG_WRITABLE_MASKS: u32 = kvm(READ, 0xb6, 64);
/// KVM_CLEAR_DIRTY_LOG.
pub const CLEAR_DIRTY_LOG: u32 = kvm(READ | WRITE, 0xc0, 24);
/// KVM_GET_STATS_FD.
pub const GET_STATS_FD: u32 = kvm(NONE, 0xce, 0);
/// KVM_CREATE_DEVICE.
pub const CREATE_DEVICE: u32 = kvm(READ | WRITE, 0xe0, 12);
/// KVM_SET_DEVICE_ATTR.
pub const SET_DEVICE_ATTR: u32 = kvm(WRITE, 0xe1, 24);
/// KVM_GET_DEVICE_ATTR.
pub const GET_DEVICE_ATTR: u32 = kvm(WRITE, 0xe2, 24);
/// KVM_HAS_DEVICE_ATTR.
pub const HAS_DEVICE_ATTR: u32 = kvm(WRITE, 0xe3, 24);
