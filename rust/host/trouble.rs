// SPDX-License-Identifier: GPL-2.0-only

//! Host: what the kernel is told of a CPU that could not be taken, or not be given back.

use kernel::{
    fmt,
    prelude::*, //
};

use crate::common::lifecycle::Trouble;

/// What loading, or the hotplug of the CPU, fails with. Never `EBUSY`: the kernel would think that hotplug is off for a moment, and
/// try six times (`cpu_subsys_online`, `drivers/base/cpu.c` of Linux).
pub(crate) fn to_errno(trouble: Trouble) -> Error {
    match trouble {
        Trouble::Refused(_) | Trouble::NoEl2 => ENODEV,
        _ => EIO,
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}
