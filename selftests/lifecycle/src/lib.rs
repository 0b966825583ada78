// SPDX-License-Identifier: GPL-2.0-only

//! The life cycle of CPUs under a model checker.
//!
//! What is checked is `rust/common/lifecycle`, the code that the module runs. The kernel around it, the hardware below it and
//! the users above it are simulated ([`kernel`], [`cpu`], [`world`]). Every step of that code on something that CPUs share is a step of
//! its own here: between two of them any other CPU, and any other process, may do anything that Linux lets it do.
//!
//! The code is plain Rust, with no places where it could be stopped. So a thread of it is kept as the operation and the answers
//! that it has got so far ([`replay`]): to take its next step it is run again from its beginning, given those answers, and left
//! where it asks for one too many. The life cycle decides by nothing but these answers, so this is the same thread.
//!
//! Memory is sequentially consistent here. In the module what is shared is one word of flags, raised with a full barrier, and a
//! mark that is released after the work that it stands for.
//!
//! An assumption: our EL2 answers the stub's calls, from the moment that it is there on, by the way back. That is code of the EL2
//! image: `selftests/model` plays it, and the VM runs `kdump-…` crash on it. What is asked here of a crash at any moment is
//! whether that way leads home: the memory is still there, what is read with the MMU off is clean, and the registers that it
//! ends with were read on this CPU since its EL2 last became the stub's. All of that is for `rust/common/lifecycle` to see to.
//! An EL2 that has been asked to reset itself, and has not, is left out: nobody gets it back.

pub mod cpu;
pub mod kernel;
pub mod model;
pub mod mutant;
pub mod replay;
pub mod scope;
pub mod world;
