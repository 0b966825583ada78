// SPDX-License-Identifier: GPL-2.0-only

//! Why a table operation was refused.
//!
//! Domain: common.

use core::fmt;

/// Why an operation on a page table failed. The operation then changed no translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The range, or the physical address, is not a multiple of the granule.
    Unaligned,
    /// The input range lies outside what the table's input size translates.
    InputRange,
    /// The output range lies outside the physical address size, or has no representation in the descriptors.
    OutputRange,
    /// There is no memory for a table.
    NoMemory,
    /// The very translation that was asked for exists already.
    AlreadyMapped,
    /// A valid entry is in the way: it must be unmapped, and its TLBI completed, before another may take its place.
    BreakBeforeMake,
    /// Part of the range is not mapped.
    NotMapped,
    /// The attributes cannot be expressed in this format.
    Attributes,
    /// An entry kept changing under a walk: somebody does not keep to the lock rules.
    Contended,
    /// A descriptor, or the memory's books about a table, is not what the walker wrote there.
    Corrupt,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unaligned => "address or size is not a multiple of the page size",
            Self::InputRange => "address is outside the input range of the table",
            Self::OutputRange => "physical address is outside what the table can express",
            Self::NoMemory => "no memory is left for a table",
            Self::AlreadyMapped => "the same mapping exists already",
            Self::BreakBeforeMake => "another mapping is in the way and must be removed first",
            Self::NotMapped => "part of the range is not mapped",
            Self::Attributes => "the attributes cannot be expressed in this table format",
            Self::Contended => "the entry was changed by another CPU",
            Self::Corrupt => "the table holds a descriptor that was not written by us",
        })
    }
}
