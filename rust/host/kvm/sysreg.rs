// SPDX-License-Identifier: GPL-2.0-only

//! Host: trapped accesses of system registers. (Owner: G3; being written.)

use kernel::prelude::*;

use super::{
    exit::Next,
    vcpu::Active, //
};

/// EC 0x18.
pub(crate) fn trapped(_active: &mut Active<'_>) -> Result<Next> {
    Err(EIO)
}
