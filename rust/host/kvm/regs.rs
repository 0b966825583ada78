// SPDX-License-Identifier: GPL-2.0-only

//! Host: registers of a vCPU. (Owner: G3; being written.)

use kernel::{
    ffi::c_long,
    prelude::*, //
};

use super::vcpu::Active;

/// What the vCPU's mutex protects for `regs`, `sysreg`, `mmio` and `events`.
#[derive(Default)]
pub(crate) struct ArchState {}

/// Before the first KVM_RUN of an initialised vCPU.
pub(crate) fn first_run(_active: &mut Active<'_>) -> Result {
    Ok(())
}

/// Every vCPU ioctl but KVM_RUN and KVM_SET_SIGNAL_MASK.
pub(crate) fn vcpu_ioctl(_active: &mut Active<'_>, _cmd: u32, _arg: usize) -> Result<c_long> {
    Err(EINVAL)
}
