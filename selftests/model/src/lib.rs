// SPDX-License-Identifier: GPL-2.0-only

//! The EL2 image on a model of the machine that forgives nothing.
//!
//! Domain: userspace. The instructions of the idmap page and of the vectors, as they were linked, are executed by an
//! interpreter. What surrounds them is the adversary of `rust/arch/fake`: it keeps each TLB entry, cache line, fetched
//! instruction and register value for as long as the architecture lets a CPU keep it, and reports when any of them could
//! make a difference. So a missing instruction shows at once and always; [`mutants`] proves it for each of them.

pub mod core;
pub mod elf;
pub mod insn;
pub mod listing;
pub mod machine;
pub mod mutants;
pub mod registers;
pub mod scenario;
pub mod sources;
pub mod sysreg;
pub mod world;
