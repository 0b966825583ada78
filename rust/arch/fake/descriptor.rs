// SPDX-License-Identifier: GPL-2.0-only

//! Descriptors, read as hardware reads them.
//!
//! Written from the Arm ARM and not from `common::pgtable`, so that a mistake there is not repeated here.
//!
//! Source: Arm ARM DDI 0487 D8.3 (descriptor formats), D8.4 (permissions), D8.6 (memory types).

/// Translation stage and regime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// EL2 stage 1.
    Hyp,
    /// EL1&0 stage 2.
    Guest {
        /// Tag of the entries.
        vmid: u16,
    },
}

/// How descriptors hold the output address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Address {
    /// Bits 47 to 12 in place.
    Bits48,
    /// 4K and 16K with DS = 1: bits 49 to 12 in place, 51 and 50 in descriptor bits 9 and 8.
    Lpa2,
    /// 64K with a 52-bit PS: bits 47 to 16 in place, 51 to 48 in descriptor bits 15 to 12.
    Lpa64k,
}

/// What a leaf permits and how it is accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attr {
    /// The MAIR byte (EL2), or MemAttr (stage 2).
    pub(super) memory: u8,
    pub(super) share: u8,
    pub(super) read: bool,
    pub(super) write: bool,
    /// XN bits as they stand; 0 is executable.
    pub(super) no_exec: u8,
    pub(super) accessed: bool,
}

/// A descriptor, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Invalid,
    Table(u64),
    Leaf {
        pa: u64,
        attr: Attr,
    },
    /// Valid for hardware, but nobody can have meant it: reserved encodings, or memory that nobody wrote.
    Junk(&'static str),
}

impl Entry {
    /// Whether a TLB may cache it.
    pub(super) fn is_valid(self) -> bool {
        self != Self::Invalid
    }
}

/// What decides how a descriptor is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Format {
    pub(super) stage: Stage,
    pub(super) granule_shift: u32,
    pub(super) address: Address,
    pub(super) pa_bits: u32,
    /// MAIR_EL2; at stage 2, HCR_EL2 with FWB alone.
    pub(super) types: u64,
}

const fn bits(word: u64, shift: u32, width: u32) -> u64 {
    (word >> shift) & ((1 << width) - 1)
}

impl Format {
    /// Address bits that an entry of `level` covers.
    pub(super) const fn shift(&self, level: i8) -> u32 {
        self.granule_shift + (3 - level) as u32 * (self.granule_shift - 3)
    }

    /// The largest block.
    const fn block_level(&self) -> i8 {
        match (self.granule_shift, self.address) {
            (12, Address::Lpa2) => 0,
            (12, _) | (14, Address::Lpa2) | (16, Address::Lpa64k) => 1,
            _ => 2,
        }
    }

    fn output(&self, descriptor: u64, low: u32) -> u64 {
        let (top, high) = match self.address {
            Address::Bits48 => (48, 0),
            Address::Lpa2 => (50, bits(descriptor, 8, 2) << 50),
            Address::Lpa64k => (48, bits(descriptor, 12, 4) << 48),
        };
        (bits(descriptor, low, top - low) << low) | high
    }

    /// Takes the descriptor at `level` apart.
    pub(super) fn decode(&self, level: i8, descriptor: Option<u64>) -> Entry {
        let Some(descriptor) = descriptor else {
            return Entry::Junk("memory that nobody wrote");
        };
        if descriptor & 1 == 0 {
            return Entry::Invalid;
        }
        let page_or_table = descriptor & 2 != 0;
        if level < 3 && page_or_table {
            return self.table(descriptor);
        }
        if level == 3 && !page_or_table || level < 3 && level < self.block_level() {
            return Entry::Junk("a reserved encoding");
        }
        let pa = self.output(descriptor, self.shift(level));
        if pa >> self.pa_bits != 0 {
            return Entry::Junk("an output beyond the physical address size");
        }
        // What lies below the address of a block is RES0.
        let below = self.output(descriptor, self.granule_shift) ^ pa;
        if below != 0 {
            return Entry::Junk("a block that is not aligned");
        }
        match self.stage {
            Stage::Hyp => self.hyp_leaf(pa, descriptor),
            Stage::Guest { .. } => self.guest_leaf(pa, descriptor),
        }
    }

    fn table(&self, descriptor: u64) -> Entry {
        let pa = self.output(descriptor, self.granule_shift);
        if pa >> self.pa_bits != 0 {
            return Entry::Junk("a table beyond the physical address size");
        }
        if bits(descriptor, 59, 5) != 0 {
            return Entry::Junk("hierarchical attributes");
        }
        Entry::Table(pa)
    }

    fn hyp_leaf(&self, pa: u64, descriptor: u64) -> Entry {
        if bits(descriptor, 6, 1) != 1 || bits(descriptor, 53, 1) != 0 {
            return Entry::Junk("AP[1] is RES1 and PXN is RES0 at EL2");
        }
        if bits(descriptor, 52, 1) != 0 || bits(descriptor, 11, 1) != 0 {
            return Entry::Junk("the Contiguous bit, or nG");
        }
        Entry::Leaf {
            pa,
            attr: Attr {
                memory: bits(self.types, bits(descriptor, 2, 3) as u32 * 8, 8) as u8,
                share: self.share(descriptor),
                read: true,
                write: bits(descriptor, 7, 1) == 0,
                no_exec: bits(descriptor, 54, 1) as u8,
                accessed: bits(descriptor, 10, 1) != 0,
            },
        }
    }

    fn guest_leaf(&self, pa: u64, descriptor: u64) -> Entry {
        if bits(descriptor, 51, 2) != 0 {
            return Entry::Junk("DBM, or the Contiguous bit");
        }
        Entry::Leaf {
            pa,
            attr: Attr {
                // The same bits mean something else with FWB.
                memory: bits(descriptor, 2, 4) as u8 | if self.types == 0 { 0 } else { 0x80 },
                share: self.share(descriptor),
                read: bits(descriptor, 6, 1) != 0,
                write: bits(descriptor, 7, 1) != 0,
                no_exec: bits(descriptor, 53, 2) as u8,
                accessed: bits(descriptor, 10, 1) != 0,
            },
        }
    }

    /// SH; it comes from TCR where the descriptor has no room for it.
    fn share(&self, descriptor: u64) -> u8 {
        match self.address {
            Address::Lpa2 => 3,
            Address::Bits48 | Address::Lpa64k => bits(descriptor, 8, 2) as u8,
        }
    }
}

impl Attr {
    /// Whether accesses go through the data cache (EL2).
    pub(super) fn is_cacheable(self) -> bool {
        // Outer and Inner Write-Back, Non-transient.
        self.memory >> 6 == 0b11 && (self.memory >> 2) & 0b11 == 0b11
    }

    /// Whether it is Device memory (EL2).
    pub(super) fn is_device(self) -> bool {
        self.memory >> 4 == 0
    }
}

/// Whether both of these may be live for the same place one after the other without a break. The places are the same.
pub(super) fn may_change_live(old: Entry, new: Entry) -> bool {
    match (old, new) {
        (
            Entry::Leaf {
                pa: old_pa,
                attr: old,
            },
            Entry::Leaf {
                pa: new_pa,
                attr: new,
            },
        ) => old_pa == new_pa && old.memory == new.memory && old.share == new.share,
        _ => old == new,
    }
}
