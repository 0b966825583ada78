// SPDX-License-Identifier: GPL-2.0-only

//! Host: SMCCC calls of the guest. (Owner: G3; being written.)

use kernel::prelude::*;

use super::{
    exit::Next,
    vcpu::Active, //
};

/// EC 0x16.
pub(crate) fn hvc(_active: &mut Active<'_>) -> Result<Next> {
    Err(EIO)
}

/// EC 0x17; the PC stands on the SMC.
pub(crate) fn smc(_active: &mut Active<'_>) -> Result<Next> {
    Err(EIO)
}
