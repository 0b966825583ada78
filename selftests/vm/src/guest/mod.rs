// SPDX-License-Identifier: GPL-2.0-only

//! The machine under test, as seen from its user space: the module, its files, CPUs, memory and the kernel log.

pub mod account;
pub mod cgroup;
pub mod child;
pub mod cpu;
pub mod debugfs;
pub mod disk;
pub mod fault;
pub mod kmsg;
pub mod module;
pub mod page;
pub mod poll;
pub mod printk;
pub mod stat;
pub mod steps;
pub mod sve;
pub mod vmcore;
