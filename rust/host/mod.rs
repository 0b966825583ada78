// SPDX-License-Identifier: GPL-2.0-only

//! Host: what runs at EL1, in the kernel, with exported symbols only.

use core::borrow::Borrow;

use crate::bindings;

pub(crate) mod cpu;
pub(crate) mod debugfs;
pub(crate) mod here;
pub(crate) mod hooks;
pub(crate) mod image;
pub(crate) mod inject;
pub(crate) mod kvm;
pub(crate) mod linear;
pub(crate) mod log;
pub(crate) mod map_param;
pub(crate) mod mitigation;
pub(crate) mod pool;
pub(crate) mod probe;
pub(crate) mod provoke;
pub(crate) mod ram;
pub(crate) mod refused;
pub(crate) mod service;
mod symbols;
pub(crate) mod tables;
pub(crate) mod timing;
pub(crate) mod trouble;

/// This module, as the kernel knows it: the owner of what it registers.
pub(crate) const THIS_MODULE: *mut bindings::module =
    (&raw const bindings::__this_module).cast_mut();

/// The value of a parameter of `module!`. Linux 7.2 lends it, 7.3 gives it away.
pub(crate) fn parameter<T: Copy>(value: impl Borrow<T>) -> T {
    *value.borrow()
}
