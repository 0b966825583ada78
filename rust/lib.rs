// SPDX-License-Identifier: GPL-2.0-only

//! Test root: `cargo test` of what host and hyp have in common.
//!
//! Domain: common. The module root `eltwo_main.rs` and the image root
//! `eltwo_hyp.rs` declare the same `mod common;`, so that every item has the
//! same `crate::common::…` path in all three crates. Nothing here is linked
//! into the kernel.

#![cfg_attr(not(any(test, feature = "model")), no_std)]

pub mod common;

/// The adversary that takes the place of `arch` here.
#[cfg(any(test, feature = "model"))]
#[path = "arch/fake/mod.rs"]
pub mod fake;
