// SPDX-License-Identifier: GPL-2.0-only

//! Host: what the kernel is told of a CPU that could not be taken, or not be given back.

use kernel::{
    fmt,
    prelude::*, //
};

use crate::common::lifecycle::{
    admission::Refusal,
    Trouble, //
};

/// What loading, or the hotplug of the CPU, fails with.
pub(crate) fn to_errno(trouble: Trouble) -> Error {
    match trouble {
        Trouble::Refused(Refusal::MmuOn) => EBUSY,
        Trouble::Refused(_) | Trouble::NoEl2 => ENODEV,
        _ => EIO,
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}
