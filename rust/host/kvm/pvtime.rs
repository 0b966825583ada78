// SPDX-License-Identifier: GPL-2.0-only

//! Host: attributes of a vCPU, and stolen time: how long its thread wanted to run and did not.
//!
//! User space chooses where the guest finds the time; the guest asks where that is. It is brought up to date when the thread
//! may have been off its CPU.
//!
//! Source: Arm DEN 0057 (paravirtualised time), `Documentation/virt/kvm/devices/vcpu.rst` of Linux; behaviour as
//! `arch/arm64/kvm/pvtime.c`.

use kernel::prelude::*;

use super::{
    attrs,
    regs::user::{
        self,
        Attr, //
    },
    vcpu::Active, //
};
use crate::{
    arch::el1,
    bindings,
    common::smccc::{
        call,
        NOT_SUPPORTED, //
    },
};

/// The structure of a vCPU: revision and attributes, both 0, and the time in ns; and room for more.
const STRUCTURE_BYTES: usize = 16;
const TIME_OFFSET: u64 = 8;
/// Its alignment.
const ALIGNMENT: u64 = 64;

/// Stolen time of a vCPU.
#[derive(Clone, Copy, Default)]
pub(crate) struct Stolen {
    /// IPA of the structure.
    base: Option<u64>,
    /// What the thread had waited, in ns, when the structure was last brought up to date.
    waited: Option<u64>,
}

/// What the current thread has waited for a CPU in its life, in ns.
fn waited() -> u64 {
    // SAFETY: The current task is alive while it runs this, and the number is changed when it is not running only.
    unsafe { (&raw const (*el1::current_task()).sched_info.run_delay).read_volatile() }
}

/// KVM_SET_DEVICE_ATTR, KVM_GET_DEVICE_ATTR, KVM_HAS_DEVICE_ATTR on a vCPU.
///
/// # Errors
///
/// `ENXIO` for what there is not; for the address of stolen time `EINVAL` if it is unaligned or no memory that can be written, `EEXIST` if it has been
/// set; `EFAULT`.
pub(super) fn attr(active: &mut Active<'_>, cmd: u32, attr: &Attr) -> Result {
    if attr.group != bindings::KVM_ARM_VCPU_PVTIME_CTRL
        || attr.attr != u64::from(bindings::KVM_ARM_VCPU_PVTIME_IPA)
    {
        return Err(ENXIO);
    }
    let stolen = active.state().arch.stolen;
    match cmd {
        attrs::SET_DEVICE_ATTR => {
            let ipa = u64::from_ne_bytes(user::read(attr.address)?);
            if ipa & (ALIGNMENT - 1) != 0 {
                return Err(EINVAL);
            }
            if stolen.base.is_some() {
                return Err(EEXIST);
            }
            if !active.vm.is_writable_ram(ipa) {
                return Err(EINVAL);
            }
            active.state_mut().arch.stolen.base = Some(ipa);
            Ok(())
        }
        attrs::GET_DEVICE_ATTR => {
            // All ones: none, as KVM has it.
            let ipa = stolen.base.unwrap_or(u64::MAX);
            user::write(attr.address, &ipa.to_ne_bytes())
        }
        _ => Ok(()),
    }
}

/// PV_TIME_FEATURES.
pub(super) fn features(active: &Active<'_>, function: u32) -> u64 {
    let known = matches!(function, call::PV_TIME_FEATURES | call::PV_TIME_ST);
    if known && active.state().arch.stolen.base.is_some() {
        0
    } else {
        NOT_SUPPORTED
    }
}

/// PV_TIME_ST: the address of the structure, and its counting starts.
pub(super) fn start(active: &mut Active<'_>) -> u64 {
    let stolen = &mut active.state_mut().arch.stolen;
    let Some(base) = stolen.base else {
        return NOT_SUPPORTED;
    };
    stolen.waited = Some(waited());
    // The guest has been given the address by user space's leave; if there is no memory any more, there is nothing to count in.
    match active.vm.write_guest(base, &[0; STRUCTURE_BYTES]) {
        Ok(()) => base,
        Err(_) => NOT_SUPPORTED,
    }
}

/// Brings the structure up to date.
#[inline]
pub(super) fn update(active: &mut Active<'_>) {
    if active.state().arch.stolen.base.is_some() {
        add_waiting(active);
    }
}

fn add_waiting(active: &mut Active<'_>) {
    let now = waited();
    let stolen = &mut active.state_mut().arch.stolen;
    let before = stolen.waited.replace(now).unwrap_or(now);
    let Some(base) = stolen.base.filter(|_| before != now) else {
        return;
    };
    let place = base.wrapping_add(TIME_OFFSET);
    let mut time = [0; 8];
    // The memory may be gone: then nobody looks at it.
    if active.vm.read_guest(place, &mut time).is_ok() {
        let sum = u64::from_le_bytes(time).wrapping_add(now.wrapping_sub(before));
        let _ = active.vm.write_guest(place, &sum.to_le_bytes());
    }
}
