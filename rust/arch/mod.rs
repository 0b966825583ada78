// SPDX-License-Identifier: GPL-2.0-only

//! Arch: the only home of `asm!`.
//!
//! `el1` is for the host, `el2` for the EL2 image (`cfg(eltwo_el2)`, set by Kbuild). A barrier is never on its own here:
//! what needs one is a function together with it, and says there what it orders.

pub(crate) mod sysreg;

#[cfg(not(eltwo_el2))]
pub(crate) mod debug;
#[cfg(not(eltwo_el2))]
pub(crate) mod el1;
#[cfg(not(eltwo_el2))]
pub(crate) mod witness;

#[cfg(eltwo_el2)]
pub(crate) mod el2;
