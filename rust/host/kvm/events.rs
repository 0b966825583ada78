// SPDX-License-Identifier: GPL-2.0-only

//! Host: exceptions for the guest. (Owner: G3; being written.)

use kernel::prelude::*;

use super::{
    exit::Next,
    vcpu::Active, //
};

/// Injects UNDEF.
pub(crate) fn inject_undefined(_active: &mut Active<'_>) {}

/// An SError exit.
pub(crate) fn serror(_active: &mut Active<'_>) {}

/// Whether the abort with this syndrome is an external one.
pub(crate) fn is_external_abort(_esr: u64) -> bool {
    false
}

/// An external abort.
pub(crate) fn external_abort(_active: &mut Active<'_>) -> Result<Next> {
    Err(EIO)
}

/// Whether something waits for the guest that ends a WFI.
pub(crate) fn interrupt_pending(_active: &Active<'_>) -> bool {
    false
}
