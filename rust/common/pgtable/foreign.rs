// SPDX-License-Identifier: GPL-2.0-only

//! Tables that somebody else keeps, to be read only: the kernel's own for user space, a guest's stage 1.
//!
//! Domain: common. Their attributes are nobody's business here, so [`Addresses`] has none; and the root of a small input
//! range may lie anywhere in a granule, as hardware permits, while the walker's own roots begin one.

use super::{
    error::Error,
    format::Format,
    geometry::{
        Geometry,
        PaFormat,
        DESCRIPTOR_BYTES, //
    },
    memory::{
        Slot,
        TableMemory, //
    },
    query::Mapping,
    PageTable,
};
use crate::common::addr::{
    Address,
    HypVa,
    PhysAddr, //
};

/// A stage-1 format of which only the addresses matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses;

impl Format for Addresses {
    type Input = HypVa;
    type Attrs = ();

    fn encode(&self, _attrs: (), _pa_format: PaFormat) -> Result<u64, Error> {
        Err(Error::Attributes)
    }

    fn decode(&self, _descriptor: u64, _pa_format: PaFormat) -> Option<()> {
        Some(())
    }

    fn needs_break(&self, _old: (), _new: ()) -> bool {
        true
    }

    fn needs_flush(&self, _old: (), _new: ()) -> bool {
        true
    }
}

/// A table of somebody else's.
#[derive(Debug)]
pub struct Foreign<R> {
    table: PageTable<Addresses>,
    root: PhysAddr,
    read: R,
}

impl<R: Fn(PhysAddr) -> Option<u64>> Foreign<R> {
    /// The table whose root is at `root`. `read` reads the descriptor at an address, once and with acquire ordering; `None` ends
    /// the walk.
    ///
    /// # Errors
    ///
    /// [`Error::OutputRange`] if `root` lies beyond the output size.
    pub fn new(geometry: Geometry, root: PhysAddr, read: R) -> Result<Self, Error> {
        let granule = root
            .align_down(geometry.granule().unit())
            .ok_or(Error::OutputRange)?;
        Ok(Self {
            table: PageTable::adopt(Addresses, geometry, granule)?,
            root,
            read,
        })
    }

    /// The leaf that translates `at`.
    ///
    /// # Errors
    ///
    /// [`Error::InputRange`] if the table cannot translate it, [`Error::Corrupt`] if `read` ends the walk, or a descriptor is
    /// reserved.
    pub fn lookup(&self, at: HypVa) -> Result<Option<Mapping<Addresses>>, Error> {
        self.table.lookup(self, at)
    }
}

impl<R: Fn(PhysAddr) -> Option<u64>> TableMemory for Foreign<R> {
    fn alloc(&self, _granules: u64) -> Result<PhysAddr, Error> {
        Err(Error::NoMemory)
    }

    fn free(&self, _table: PhysAddr, _granules: u64) {}

    fn get(&self, _table: PhysAddr, _entries: u64) -> Result<(), Error> {
        Err(Error::Corrupt)
    }

    fn put(&self, _table: PhysAddr, _entries: u64) -> Result<(), Error> {
        Err(Error::Corrupt)
    }

    fn count(&self, _table: PhysAddr) -> Result<u64, Error> {
        Err(Error::Corrupt)
    }

    fn load(&self, slot: Slot) -> Result<u64, Error> {
        /// Valid, and table or page.
        const TYPE: u64 = 3;
        let place = if slot.table == self.table.root() {
            let offset = slot.index.checked_mul(DESCRIPTOR_BYTES);
            offset.and_then(|offset| self.root.checked_add(offset))
        } else {
            slot.pa()
        };
        let descriptor = place.and_then(&self.read).ok_or(Error::Corrupt)?;
        // Attributes of pages and restrictions of tables are not ours to judge.
        Ok(descriptor & (self.table.geometry().output().format().mask() | TYPE))
    }

    fn store(&self, _slot: Slot, _descriptor: u64) -> Result<(), Error> {
        Err(Error::Corrupt)
    }

    fn compare_exchange(&self, _slot: Slot, _old: u64, _new: u64) -> Result<bool, Error> {
        Err(Error::Corrupt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::{
        addr::Granule,
        pgtable::{
            Level,
            Output, //
        },
    };

    /// 4K granule, 39 bits of input: tables of levels 1 to 3. The root maps 1 GiB at 2 GiB, and leads to a table.
    fn read(place: PhysAddr) -> Option<u64> {
        /// UXN, AF, SH, AttrIndx: what a leaf of another format may have.
        const ATTRIBUTES: u64 = (1 << 54) | (1 << 10) | (3 << 8) | (4 << 2);
        /// APTable, PXNTable.
        const RESTRICTIONS: u64 = (3 << 61) | (1 << 59);
        match place.raw() {
            0x4000_0000 => Some(0x8000_0001 | ATTRIBUTES),
            0x4000_0008 => Some(0x4000_1003 | RESTRICTIONS),
            0x4000_1000 => Some(0),
            _ => None,
        }
    }

    fn table() -> Foreign<fn(PhysAddr) -> Option<u64>> {
        let output = Output::new(Granule::K4, 40, false).unwrap();
        let geometry = Geometry::stage1(Granule::K4, 39, output).unwrap();
        Foreign::new(
            geometry,
            PhysAddr::new(0x4000_0000).unwrap(),
            read as fn(_) -> _,
        )
        .unwrap()
    }

    fn lookup(at: u64) -> Result<Option<Mapping<Addresses>>, Error> {
        table().lookup(HypVa::new(at).unwrap())
    }

    #[test]
    fn foreign_block_is_found_whatever_its_attributes() {
        let leaf = lookup(0x1234_5678).unwrap().unwrap();
        assert_eq!((leaf.pa.raw(), leaf.level), (0x8000_0000, Level::L1));
    }

    #[test]
    fn foreign_table_is_entered_whatever_it_restricts() {
        assert_eq!(lookup(1 << 30), Ok(None));
    }

    #[test]
    fn foreign_walk_ends_where_nothing_can_be_read() {
        assert_eq!(lookup((1 << 30) | (1 << 21)), Err(Error::Corrupt));
        assert_eq!(lookup(1 << 39), Err(Error::InputRange));
    }

    #[test]
    fn foreign_table_cannot_be_changed() {
        let table = table();
        let root = table.root;
        let slot = Slot {
            table: root,
            index: 0,
        };
        assert_eq!(table.alloc(1), Err(Error::NoMemory));
        table.free(root, 1);
        assert_eq!(table.get(root, 1), Err(Error::Corrupt));
        assert_eq!(table.put(root, 1), Err(Error::Corrupt));
        assert_eq!(table.count(root), Err(Error::Corrupt));
        assert_eq!(table.store(slot, 0), Err(Error::Corrupt));
        assert_eq!(table.compare_exchange(slot, 0, 1), Err(Error::Corrupt));
        assert_eq!(Addresses.encode((), PaFormat::Pa48), Err(Error::Attributes));
        assert!(Addresses.needs_break((), ()) && Addresses.needs_flush((), ()));
        assert!(lookup(0).unwrap().is_some());
    }
}
