// SPDX-License-Identifier: GPL-2.0-only

//! Host: attributes of a vCPU, and stolen time: how long a vCPU wanted to run and did not.
//!
//! Source: Arm DEN 0057 (paravirtualised time), `Documentation/virt/kvm/devices/vcpu.rst` of Linux; behaviour as
//! `arch/arm64/kvm/pvtime.c`.

use kernel::prelude::*;

use super::{
    regs::user::Attr,
    vcpu::Active, //
};
use crate::common::smccc::NOT_SUPPORTED;

/// Stolen time of a vCPU.
#[derive(Clone, Copy, Default)]
pub(crate) struct Stolen;

/// KVM_SET_DEVICE_ATTR, KVM_GET_DEVICE_ATTR, KVM_HAS_DEVICE_ATTR on a vCPU.
///
/// # Errors
///
/// `ENXIO` for what there is not.
pub(super) fn attr(_active: &mut Active<'_>, _cmd: u32, _attr: &Attr) -> Result {
    Err(ENXIO)
}

/// PV_TIME_FEATURES.
pub(super) fn features(_active: &Active<'_>, _function: u32) -> u64 {
    NOT_SUPPORTED
}

/// PV_TIME_ST: the address of the structure, and its counting starts.
pub(super) fn start(_active: &mut Active<'_>) -> u64 {
    NOT_SUPPORTED
}
