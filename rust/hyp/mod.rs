// SPDX-License-Identifier: GPL-2.0-only

//! Hyp: what runs at EL2.

mod assertion;
mod call;
mod entry;
mod guest;
mod memory;
mod provoke;
