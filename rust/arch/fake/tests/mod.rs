// SPDX-License-Identifier: GPL-2.0-only

//! Tests on the adversary: that it finds what is wrong, and that it finds nothing wrong with what we do.
//!
//! [`exhaustive`] runs the walker's public operations.

mod exhaustive;
mod scene;

use super::Machine;

/// Fails with the first violation, if there is one.
fn assert_clean(machine: &Machine) {
    machine.with(|system| {
        if let Some(violation) = system.violations().first() {
            panic!("{violation}");
        }
    });
}
