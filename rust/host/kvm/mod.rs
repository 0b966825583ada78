// SPDX-License-Identifier: GPL-2.0-only

//! Host: KVM: virtual machines by the KVM uAPI.

mod aarch32;
pub(crate) mod attrs;
pub(crate) mod bus;
pub(crate) mod caps;
pub(crate) mod config;
pub(crate) mod contexts;
pub(crate) mod debug;
pub(crate) mod device;
pub(crate) mod dirty;
pub(crate) mod events;
pub(crate) mod exit;
pub(crate) mod fault;
pub(crate) mod memory;
pub(crate) mod mmio;
mod mutex;
pub(crate) mod notifier;
pub(crate) mod psci;
pub(crate) mod pvtime;
pub(crate) mod regs;
pub(crate) mod run;
pub(crate) mod show;
pub(crate) mod slots;
pub(crate) mod smccc;
pub(crate) mod stage2;
mod stage2_locked;
pub(crate) mod stage2_memory;
mod stage2_ranges;
pub(crate) mod stats;
pub(crate) mod sysreg;
pub(crate) mod system;
pub(crate) mod user_pages;
pub(crate) mod vcpu;
pub(crate) mod vcpu_file;
pub(crate) mod vm;
pub(crate) mod vm_file;
pub(crate) mod walk;
