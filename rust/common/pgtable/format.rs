// SPDX-License-Identifier: GPL-2.0-only

//! What differs between the table formats that the walker serves.
//!
//! Domain: common. Source: Arm ARM DDI 0487 D8.3 (descriptor formats).

use core::fmt::Debug;

use super::{
    error::Error,
    field::Field,
    geometry::{
        Geometry,
        Level,
        PaFormat, //
    },
};
use crate::common::addr::{
    Address,
    PhysAddr, //
};

/// Bit 0: the descriptor is valid.
type Valid = Field<0, 1>;
/// Bit 1: a table, or at level 3 a page; else a block.
type TableOrPage = Field<1, 1>;

/// A table format: what stands in a leaf besides the address.
pub trait Format: Copy + Eq + Debug {
    /// Input addresses.
    type Input: Address;
    /// Attributes of a leaf.
    type Attrs: Copy + Eq + Debug;

    /// The attribute bits of a leaf.
    ///
    /// # Errors
    ///
    /// [`Error::Attributes`] if this table cannot express them.
    fn encode(&self, attrs: Self::Attrs, pa_format: PaFormat) -> Result<u64, Error>;

    /// The attributes in a leaf; `None` if they are not of our making.
    fn decode(&self, descriptor: u64, pa_format: PaFormat) -> Option<Self::Attrs>;

    /// Whether a live leaf with `old` must be broken before it may have `new`.
    fn needs_break(&self, old: Self::Attrs, new: Self::Attrs) -> bool;

    /// Whether a TLB may not keep a leaf with `old` once the table says `new`.
    ///
    /// False only if the descriptors differ in nothing but bits that hardware ignores. What a TLB has made of the old
    /// one is then what it would make of the new one: nothing is stale, so there is nothing to invalidate, and no walk needs
    /// to see the store before it sees others, so there is no barrier either. Software that reads these bits has the table's
    /// lock.
    fn needs_flush(&self, old: Self::Attrs, new: Self::Attrs) -> bool;
}

/// A descriptor, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry<T> {
    /// Not valid: it leads nowhere and is never cached.
    Invalid,
    /// A page or a block.
    Leaf {
        /// Output address of the first byte.
        pa: PhysAddr,
        /// Attributes.
        attrs: T,
    },
    /// The table of the next level.
    Table(PhysAddr),
}

/// The descriptor of the table at `pa`. The hierarchical attributes are 0: they restrict nothing.
pub(super) fn encode_table(geometry: &Geometry, pa: PhysAddr) -> Result<u64, Error> {
    geometry
        .encode_pa(pa)
        .map(|address| address | Valid::MASK | TableOrPage::MASK)
        .ok_or(Error::OutputRange)
}

/// The descriptor of a leaf at `level`.
pub(super) fn encode_leaf<F: Format>(
    format: &F,
    geometry: &Geometry,
    level: Level,
    pa: PhysAddr,
    attrs: F::Attrs,
) -> Result<u64, Error> {
    let address = geometry.encode_pa(pa).ok_or(Error::OutputRange)?;
    let attrs = format.encode(attrs, geometry.output().format())?;
    Ok(address | attrs | Valid::MASK | TableOrPage::put((level == Level::L3).into()))
}

/// Takes the descriptor of an entry of `level` apart.
pub(super) fn decode<F: Format>(
    format: &F,
    geometry: &Geometry,
    level: Level,
    descriptor: u64,
) -> Result<Entry<F::Attrs>, Error> {
    if !Valid::is_set(descriptor) {
        return Ok(Entry::Invalid);
    }
    let unit = geometry.entry_size(level).ok_or(Error::Corrupt)?;
    if TableOrPage::is_set(descriptor) && level != Level::L3 {
        let pa = geometry
            .decode_pa(descriptor, geometry.granule().unit())
            .ok_or(Error::Corrupt)?;
        let rest =
            descriptor & !(geometry.output().format().mask() | Valid::MASK | TableOrPage::MASK);
        return if rest == 0 {
            Ok(Entry::Table(pa))
        } else {
            Err(Error::Corrupt)
        };
    }
    // At level 3 a valid descriptor with bit 1 clear is reserved, as is a block above the largest one.
    if TableOrPage::is_set(descriptor) != (level == Level::L3) || !geometry.is_leaf_level(level) {
        return Err(Error::Corrupt);
    }
    let pa = geometry.decode_pa(descriptor, unit).ok_or(Error::Corrupt)?;
    let rest = descriptor & !(geometry.output().format().mask() | Valid::MASK | TableOrPage::MASK);
    let attrs = format
        .decode(rest, geometry.output().format())
        .ok_or(Error::Corrupt)?;
    Ok(Entry::Leaf { pa, attrs })
}
