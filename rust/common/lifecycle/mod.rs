// SPDX-License-Identifier: GPL-2.0-only

//! Common: the life of a CPU with us, and of the service as a whole.
//!
//! Everything that moves a CPU goes through [`run`], and everything that a whole machine does to it through the functions of
//! [`service`]. They decide; what they decide about is behind two small traits, [`Here`] for one CPU and [`Machine`] for all.
//! The module implements these with hypercalls, IPIs and atomics, `selftests/lifecycle` with a simulated kernel whose every
//! interleaving a model checker walks through: both run this very code.
//!
//! ```text
//!          Begin              Taken              Nap
//!   Stub ---------> Boot ---------------> Hyp -------> Asleep      Begin leads from Refused and Asleep to Boot, too;
//!    ^               | Refuse, Fault       |             |         Fault leads from Hyp to Faulted.
//!    |               v                     |             |
//!    |        Refused, Faulted             |             |
//!    '------------------------------ Reset, Lost <-- Forget
//! ```
//!
//! What CPUs share is read and written only by methods of the traits, each of which is one step: between two of them any
//! other CPU may do anything. What belongs to one CPU is touched by that CPU alone, with interrupts off.

pub mod admission;
mod cpu;
pub mod service;
mod state;
mod trouble;

#[cfg(test)]
mod tests;

pub use cpu::{
    fault,
    lost,
    may_call,
    may_run,
    run,
    Comparison,
    Done,
    Here,
    Hook, //
};
pub use service::{
    Gate,
    Loader,
    Machine,
    Stage, //
};
pub use state::{
    Event,
    State, //
};
pub use trouble::Trouble;
