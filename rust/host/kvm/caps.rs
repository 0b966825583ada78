// SPDX-License-Identifier: GPL-2.0-only

//! Host: what KVM_CHECK_EXTENSION says that there is, and what KVM_ENABLE_CAP switches on.
//!
//! Only what works to the errno is here; what is not has the answer 0, as the API says.

use core::sync::atomic::Ordering;

use kernel::{
    ffi::c_long,
    prelude::*,
    transmute::FromBytes, //
};

use super::{
    attrs,
    slots::SLOTS_MAX,
    system::System,
    vm::{
        Vm,
        VCPUS_MAX, //
    },
};
use crate::bindings::{
    self, KVM_CAP_ARM_CACHEABLE_PFNMAP_SUPPORTED, KVM_CAP_ARM_SUPPORTED_BLOCK_SIZES,
    KVM_CAP_ARM_VM_IPA_SIZE, KVM_CAP_BINARY_STATS_FD, KVM_CAP_CHECK_EXTENSION_VM,
    KVM_CAP_COALESCED_MMIO, KVM_CAP_COALESCED_PIO, KVM_CAP_DESTROY_MEMORY_REGION_WORKS,
    KVM_CAP_ENABLE_CAP_VM, KVM_CAP_IMMEDIATE_EXIT, KVM_CAP_IOEVENTFD, KVM_CAP_IOEVENTFD_ANY_LENGTH,
    KVM_CAP_JOIN_MEMORY_REGIONS_WORKS, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_CAP_MAX_VCPUS,
    KVM_CAP_MAX_VCPU_ID, KVM_CAP_NR_MEMSLOTS, KVM_CAP_NR_VCPUS, KVM_CAP_READONLY_MEM,
    KVM_CAP_SYNC_MMU, KVM_CAP_USER_MEMORY, KVM_CAP_USER_MEMORY2,
};

/// KVM_DIRTY_LOG_MANUAL_CAPS.
const MANUAL_CAPS: u32 =
    bindings::KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | bindings::KVM_DIRTY_LOG_INITIALLY_SET;

/// `struct kvm_enable_cap`.
#[repr(C)]
pub(super) struct EnableCap(bindings::kvm_enable_cap);

// SAFETY: Integers only.
unsafe impl FromBytes for EnableCap {}

/// KVM_CHECK_EXTENSION of the system, or of a VM.
///
/// # Errors
///
/// `EINVAL` for what only a VM can be asked.
pub(super) fn check(system: &System, vm: Option<&Vm>, extension: usize) -> Result<c_long> {
    let Ok(extension) = u32::try_from(extension) else {
        return Ok(0);
    };
    Ok(match extension {
        KVM_CAP_USER_MEMORY
        | KVM_CAP_USER_MEMORY2
        | KVM_CAP_SYNC_MMU
        | KVM_CAP_DESTROY_MEMORY_REGION_WORKS
        | KVM_CAP_JOIN_MEMORY_REGIONS_WORKS
        | KVM_CAP_READONLY_MEM
        | KVM_CAP_IMMEDIATE_EXIT
        | KVM_CAP_IOEVENTFD
        | KVM_CAP_IOEVENTFD_ANY_LENGTH
        | KVM_CAP_COALESCED_PIO
        | KVM_CAP_BINARY_STATS_FD
        | KVM_CAP_CHECK_EXTENSION_VM
        | KVM_CAP_ENABLE_CAP_VM => 1,
        // The page of the file of a vCPU that the ring is at.
        KVM_CAP_COALESCED_MMIO => 1,
        KVM_CAP_NR_MEMSLOTS => SLOTS_MAX as c_long,
        KVM_CAP_NR_VCPUS => online_cpus().min(VCPUS_MAX) as c_long,
        KVM_CAP_MAX_VCPUS | KVM_CAP_MAX_VCPU_ID => VCPUS_MAX as c_long,
        KVM_CAP_ARM_VM_IPA_SIZE => system.ipa_limit() as c_long,
        KVM_CAP_ARM_SUPPORTED_BLOCK_SIZES => system.block_sizes() as c_long,
        KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 => MANUAL_CAPS as c_long,
        // It is a question about a VM.
        KVM_CAP_ARM_CACHEABLE_PFNMAP_SUPPORTED => match vm {
            Some(_) => c_long::from(system.has_cacheable_pfns()),
            None => return Err(EINVAL),
        },
        _ => attrs::check_extension(extension).unwrap_or(0),
    })
}

/// KVM_ENABLE_CAP of a VM.
///
/// # Errors
///
/// `EINVAL` for what cannot be switched on, or not like this.
pub(super) fn enable(vm: &Vm, cap: &EnableCap) -> Result<c_long> {
    let cap = &cap.0;
    if cap.cap == KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 {
        let [wanted, ..] = cap.args;
        let enables = wanted & u64::from(bindings::KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE) != 0;
        let allowed = if enables {
            MANUAL_CAPS
        } else {
            bindings::KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE
        };
        if cap.flags != 0 || wanted & !u64::from(allowed) != 0 {
            return Err(EINVAL);
        }
        vm.manual_protect.store(wanted, Ordering::Relaxed);
        return Ok(0);
    }
    attrs::enable_cap(vm, cap)
}

/// Number of CPUs that are online.
fn online_cpus() -> u32 {
    // SAFETY: The kernel's own count.
    unsafe { bindings::__num_online_cpus.counter as u32 }
}
