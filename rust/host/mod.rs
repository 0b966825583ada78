// SPDX-License-Identifier: GPL-2.0-only

//! Host: what runs at EL1, in the kernel, with exported symbols only.

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
pub(crate) mod ram;
pub(crate) mod service;
pub(crate) mod tables;
pub(crate) mod timing;
pub(crate) mod trouble;
