// SPDX-License-Identifier: GPL-2.0-only

//! Why a layout could not be computed, in words that a user can act on.
//!
//! Domain: common.

use core::fmt;

use super::Region;
use crate::common::addr::PhysAddr;

/// Why no layout exists for the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// `max_va_bits` is no VA size of the architecture.
    VaBits {
        /// What was given.
        max_va_bits: u32,
    },
    /// The idmap page, or the RAM, is not a multiple of the granule.
    Unaligned,
    /// There are no CPUs, no image or no stacks.
    Empty,
    /// The idmap page cannot be mapped at its own address.
    IdmapTooHigh {
        /// The page.
        idmap: PhysAddr,
        /// The VA size of the CPUs.
        max_va_bits: u32,
    },
    /// The linear window does not fit.
    RamTooLarge {
        /// From the lowest to the highest address of RAM.
        span_bytes: u64,
        /// The VA size of the CPUs.
        max_va_bits: u32,
    },
    /// The image or the per-CPU stacks do not fit.
    PrivateTooLarge {
        /// What the larger of the two needs.
        needed_bytes: u64,
        /// The VA size of the CPUs.
        max_va_bits: u32,
    },
    /// Two regions have an address in common.
    Overlap {
        /// One of them.
        first: Region,
        /// The other.
        second: Region,
    },
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::VaBits { max_va_bits } => write!(
                f,
                "{max_va_bits} bits of EL2 virtual address are not 25 to 52, as the architecture has them"
            ),
            Self::Unaligned => f.write_str("the idmap page or the RAM does not start and end at a page"),
            Self::Empty => f.write_str("a layout needs at least one CPU, an image and a stack"),
            Self::IdmapTooHigh { idmap, max_va_bits } => write!(
                f,
                "the idmap page at {idmap:#x} is above the {max_va_bits}-bit EL2 address space; \
                 it must be allocated lower"
            ),
            Self::RamTooLarge {
                span_bytes,
                max_va_bits,
            } => write!(
                f,
                "RAM spans {span_bytes:#x} bytes, more than a quarter of the {max_va_bits}-bit EL2 address space; \
                 limit it with mem= on the kernel command line"
            ),
            Self::PrivateTooLarge {
                needed_bytes,
                max_va_bits,
            } => write!(
                f,
                "the EL2 image or the per-CPU stacks need {needed_bytes:#x} bytes, more than a 16th of the \
                 {max_va_bits}-bit EL2 address space; lower the number of CPUs with nr_cpus="
            ),
            Self::Overlap { first, second } => write!(
                f,
                "the EL2 regions {} and {} overlap; this is a bug, please report it",
                first.name(),
                second.name()
            ),
        }
    }
}
