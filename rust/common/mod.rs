// SPDX-License-Identifier: GPL-2.0-only

//! What host and hyp share: addresses, layout, page tables, the ABI between them.
//!
//! Domain: common. `core` only, no `asm!`, no statics. The same sources are
//! compiled into the kernel module, into the EL2 image and into `cargo test`.
//! The image is linked so that a reachable panic is a link error: no indexing,
//! no `unwrap`, no arithmetic that could overflow, no division by a variable.
//!
//! Types are duplicated per crate, so only `repr(C)` data crosses EL1↔EL2.

pub mod abi;
pub mod addr;
pub mod bhb;
pub mod demand;
pub mod exception;
pub mod guest;
pub mod hwdebug;
pub mod idreg;
pub mod invalidation;
pub mod layout;
pub mod lifecycle;
pub mod mmio;
pub mod nth;
pub mod pgds;
pub mod pgtable;
pub mod pool;
pub mod pool_tables;
pub mod regid;
pub mod regs;
pub mod s1walk;
pub mod shared;
pub mod slots;
pub mod smccc;
pub mod sync;
pub mod sysregs;
pub mod upkeep;
pub mod vmid;
