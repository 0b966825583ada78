// SPDX-License-Identifier: GPL-2.0-only

//! Tests on the adversary: that it finds what is wrong, and that it finds nothing wrong with what we do.
//!
//! [`rules`], [`permissions`], [`stage2_rules`], [`caches`], [`guest_memory`] and [`switch`] come in pairs: the sequence as it is
//! passes, and each way to break it is caught.
//! [`exhaustive`] and [`random`] run the walker's public operations, [`concurrent`] does so on several CPUs in all
//! orders, and [`mutants`] leaves out, or weakens, every instruction that the walker issues. [`arch`] compares what the
//! model makes of an operation with `rust/arch/el2.rs`.

mod arch;
mod caches;
mod concurrent;
mod exhaustive;
mod guest_memory;
mod hwdebug;
mod mutants;
mod permissions;
mod random;
mod rules;
mod stage2_rules;
mod switch;

use super::{
    sequences::{
        scene,
        subject, //
    },
    Machine,
    Rule, //
};

/// The rules that were broken so far, in order.
fn broken(machine: &Machine) -> Vec<Rule> {
    machine.with(|system| {
        let violations = system.take_violations();
        violations.iter().map(|violation| violation.rule).collect()
    })
}
