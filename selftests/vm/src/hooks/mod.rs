// SPDX-License-Identifier: GPL-2.0-only

//! The hooks by which the kernel takes a CPU from EL2 and gives it back, and what each must do to every CPU.
//!
//! [`table`] has the hooks: how each is made to happen, and what it does to a [`model::Model`]. A [`world::World`] is the
//! machine beside its model: after each step both must agree.

pub mod before;
pub mod helper;
pub mod model;
pub mod table;
pub mod vms;
pub mod world;
