// SPDX-License-Identifier: GPL-2.0-only

//! Host: MMIO. (Owner: G3; being written.)

use kernel::prelude::*;

use super::{
    exit::Next,
    vcpu::Active, //
};

/// A data or instruction abort at an IPA without memory.
pub(crate) fn abort(_active: &mut Active<'_>, _ipa: u64) -> Result<Next> {
    Err(EIO)
}

/// KVM_RUN after KVM_EXIT_MMIO.
pub(crate) fn complete(_active: &mut Active<'_>) -> Result {
    Ok(())
}
