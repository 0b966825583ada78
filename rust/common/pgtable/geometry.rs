// SPDX-License-Identifier: GPL-2.0-only

//! The shape of a table: levels, sizes, the root, and how addresses stand in descriptors and base registers.
//!
//! Domain: common. Source: Arm ARM DDI 0487 D8.2.3 to D8.2.10 (translation granules, concatenated tables, TTBR
//! formats), D8.3.1 (descriptor formats), TCR_EL2.T0SZ and VTCR_EL2.SL0.

use super::{
    error::Error,
    field::Field, //
};
use crate::common::addr::{
    AddrRange,
    Address,
    Granule,
    PhysAddr,
    Pow2, //
};

/// Smallest input size: T0SZ is at most 39 without FEAT_TTST.
pub const MIN_INPUT_BITS: u32 = 25;

/// Most root tables that stage 2 can concatenate, as a number of address bits.
const CONCATENATED_BITS: u32 = 4;

/// Bytes of a descriptor.
pub const DESCRIPTOR_BYTES: u64 = 8;

/// A lookup level. The walk goes from the start level down to [`Level::L3`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i8)]
pub enum Level {
    /// Level −1, only with the 4K granule and 52-bit addresses.
    Minus1 = -1,
    /// Level 0.
    L0 = 0,
    /// Level 1.
    L1 = 1,
    /// Level 2.
    L2 = 2,
    /// Level 3, whose leaves are pages.
    L3 = 3,
}

impl Level {
    /// All levels, in the order of a walk.
    pub const ALL: [Self; 5] = [Self::Minus1, Self::L0, Self::L1, Self::L2, Self::L3];

    /// The level that a table descriptor of this level leads to.
    pub const fn next(self) -> Option<Self> {
        match self {
            Self::Minus1 => Some(Self::L0),
            Self::L0 => Some(Self::L1),
            Self::L1 => Some(Self::L2),
            Self::L2 => Some(Self::L3),
            Self::L3 => None,
        }
    }

    /// The number of the level, −1 to 3.
    pub const fn number(self) -> i8 {
        match self {
            Self::Minus1 => -1,
            Self::L0 => 0,
            Self::L1 => 1,
            Self::L2 => 2,
            Self::L3 => 3,
        }
    }

    /// How many address bits one table of this level resolves, with those below; `None` if the granule has no such level.
    pub fn reach(self, granule: Granule) -> Option<u32> {
        self.entry_shift(granule)?.checked_add(index_bits(granule))
    }

    /// How many address bits one entry of this level covers; `None` if the granule has no such level.
    pub const fn entry_shift(self, granule: Granule) -> Option<u32> {
        Some(match (granule, self) {
            (Granule::K4, Self::Minus1) => 48,
            (Granule::K4, Self::L0) => 39,
            (Granule::K4, Self::L1) => 30,
            (Granule::K4, Self::L2) => 21,
            (Granule::K4, Self::L3) => 12,
            (Granule::K16, Self::L0) => 47,
            (Granule::K16, Self::L1) => 36,
            (Granule::K16, Self::L2) => 25,
            (Granule::K16, Self::L3) => 14,
            (Granule::K64, Self::L1) => 42,
            (Granule::K64, Self::L2) => 29,
            (Granule::K64, Self::L3) => 16,
            (Granule::K16, Self::Minus1) | (Granule::K64, Self::Minus1 | Self::L0) => return None,
        })
    }
}

/// How descriptors hold the output address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum PaFormat {
    /// PA[47:12] in place; PA[51:48] are 0.
    Pa48 = 0,
    /// FEAT_LPA2, 4K and 16K granules with DS = 1: PA[49:12] in place, PA[51:50] in bits 9:8 (SH then comes from TCR).
    Lpa2 = 1,
    /// FEAT_LPA, 64K granule with a 52-bit PS: PA[47:16] in place, PA[51:48] in bits 15:12.
    Lpa64k = 2,
}

type AddrPa48 = Field<12, 36>;
type AddrLpa2 = Field<12, 38>;
type HighLpa2 = Field<8, 2>;
type AddrLpa64k = Field<16, 32>;
type HighLpa64k = Field<12, 4>;
/// PA[51:50].
type Pa51To50 = Field<50, 2>;
/// PA[51:48].
type Pa51To48 = Field<48, 4>;
/// TTBR BADDR[47:6], the part that stands in place in the 52-bit format.
type TtbrBase = Field<6, 42>;
/// TTBR BADDR[47:1], the base of a root that may be small. Bit 0 is CnP.
type TtbrSmallBase = Field<1, 47>;
/// TTBR bits 5:2, PA[51:48] in the 52-bit format.
type TtbrHigh = Field<2, 4>;
/// VTTBR_EL2.VMID.
type VttbrVmid = Field<48, 16>;

impl PaFormat {
    /// The descriptor bits for `pa`, which the caller has checked to be representable.
    const fn encode(self, pa: u64) -> u64 {
        match self {
            Self::Pa48 => pa & AddrPa48::MASK,
            Self::Lpa2 => (pa & AddrLpa2::MASK) | HighLpa2::put(Pa51To50::get(pa)),
            Self::Lpa64k => (pa & AddrLpa64k::MASK) | HighLpa64k::put(Pa51To48::get(pa)),
        }
    }

    /// The address in a descriptor.
    const fn decode(self, descriptor: u64) -> u64 {
        match self {
            Self::Pa48 => descriptor & AddrPa48::MASK,
            Self::Lpa2 => (descriptor & AddrLpa2::MASK) | Pa51To50::put(HighLpa2::get(descriptor)),
            Self::Lpa64k => {
                (descriptor & AddrLpa64k::MASK) | Pa51To48::put(HighLpa64k::get(descriptor))
            }
        }
    }

    /// The descriptor bits that hold the address.
    pub const fn mask(self) -> u64 {
        match self {
            Self::Pa48 => AddrPa48::MASK,
            Self::Lpa2 => AddrLpa2::MASK | HighLpa2::MASK,
            Self::Lpa64k => AddrLpa64k::MASK | HighLpa64k::MASK,
        }
    }

    /// Whether descriptors and TTBRs can hold PA[51:48].
    const fn is_wide(self) -> bool {
        !matches!(self, Self::Pa48)
    }
}

/// The physical addresses that a table can lead to: PARange, clamped to what the descriptors can express.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Output {
    // INVARIANT: 32 to 52, and at most 48 for `Pa48`.
    bits: u32,
    format: PaFormat,
}

impl Output {
    /// The output of tables with this `granule` on CPUs with `pa_bits` of physical address (the lowest of all CPUs).
    ///
    /// `wide` says that 52-bit descriptors are in use: TCR.DS = 1 for 4K and 16K, FEAT_LPA for 64K. With 64K they are
    /// in use only if `pa_bits` is 52 as well, as PS selects them there.
    pub const fn new(granule: Granule, pa_bits: u32, wide: bool) -> Option<Self> {
        if pa_bits < 32 {
            return None;
        }
        let format = match (wide, granule) {
            (false, _) => PaFormat::Pa48,
            (true, Granule::K64) if pa_bits < 52 => PaFormat::Pa48,
            (true, Granule::K64) => PaFormat::Lpa64k,
            (true, Granule::K4 | Granule::K16) => PaFormat::Lpa2,
        };
        let most = if format.is_wide() { 52 } else { 48 };
        // INVARIANT: tested above, and clamped here.
        Some(Self {
            bits: if pa_bits < most { pa_bits } else { most },
            format,
        })
    }

    /// Physical address bits.
    pub const fn bits(self) -> u32 {
        self.bits
    }

    /// How descriptors hold the address.
    pub const fn format(self) -> PaFormat {
        self.format
    }

    /// Whether `pa` is within the output size.
    pub const fn contains(self, pa: PhysAddr) -> bool {
        // The invariant keeps `bits` below 64.
        pa.raw().wrapping_shr(self.bits) == 0
    }
}

/// The shape of one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Geometry {
    granule: Granule,
    // INVARIANT: `MIN_INPUT_BITS` to 52.
    input_bits: u32,
    output: Output,
    // INVARIANT: a level that the granule has, and so are all below it.
    start: Level,
    // INVARIANT: a level whose entries may be blocks in this granule and format, or L3.
    largest_leaf: Level,
}

impl Geometry {
    /// A stage-1 table that translates `va_bits` of input.
    pub fn stage1(granule: Granule, va_bits: u32, output: Output) -> Result<Self, Error> {
        Self::new(granule, va_bits, output, 0, Level::L3)
    }

    /// A stage-2 table that translates `ipa_bits` of input, which may not exceed the output size.
    ///
    /// The root has up to 16 concatenated tables, so that the walk has as few levels as possible, but two at least:
    /// a start at level 3 would need FEAT_TTST with 4K, and no granule could use a block.
    pub fn stage2(granule: Granule, ipa_bits: u32, output: Output) -> Result<Self, Error> {
        if ipa_bits > output.bits() {
            return Err(Error::InputRange);
        }
        Self::new(granule, ipa_bits, output, CONCATENATED_BITS, Level::L2)
    }

    fn new(
        granule: Granule,
        input_bits: u32,
        output: Output,
        concatenated_bits: u32,
        lowest_start: Level,
    ) -> Result<Self, Error> {
        let most = match (granule, output.format()) {
            (Granule::K4 | Granule::K16, PaFormat::Pa48) => 48,
            (Granule::K4 | Granule::K16, PaFormat::Lpa2) => 52,
            // FEAT_LVA is independent of FEAT_LPA.
            (Granule::K64, PaFormat::Pa48 | PaFormat::Lpa64k) => 52,
            (Granule::K4 | Granule::K16, PaFormat::Lpa64k) | (Granule::K64, PaFormat::Lpa2) => {
                return Err(Error::OutputRange);
            }
        };
        if !(MIN_INPUT_BITS..=most).contains(&input_bits) {
            return Err(Error::InputRange);
        }
        // The start level is the lowest whose one root, or whose concatenated roots, resolve all of the input.
        let resolves = |level: &Level| {
            level
                .reach(granule)
                .and_then(|bits| bits.checked_add(concatenated_bits))
                .is_some_and(|bits| bits >= input_bits)
        };
        let start = Level::ALL
            .into_iter()
            .rev()
            .filter(|level| *level <= lowest_start)
            .find(resolves)
            .ok_or(Error::InputRange)?;
        // INVARIANT: the input size was tested, the start level is one of the granule, and so is the largest block.
        Ok(Self {
            granule,
            input_bits,
            output,
            start,
            largest_leaf: largest_block(granule, output.format()),
        })
    }

    /// The same shape, with blocks of at most the size of one entry of `level`.
    pub fn with_largest_leaf(self, level: Level) -> Self {
        // INVARIANT: the levels below a block level are block levels.
        Self {
            largest_leaf: self.largest_leaf.max(level),
            ..self
        }
    }

    /// The granule.
    pub const fn granule(&self) -> Granule {
        self.granule
    }

    /// Bits of input address.
    pub const fn input_bits(&self) -> u32 {
        self.input_bits
    }

    /// TCR_EL2.T0SZ or VTCR_EL2.T0SZ.
    pub const fn t0sz(&self) -> u64 {
        64u64.wrapping_sub(self.input_bits as u64)
    }

    /// Physical addresses that descriptors can hold.
    pub const fn output(&self) -> Output {
        self.output
    }

    /// The level of the root.
    pub const fn start_level(&self) -> Level {
        self.start
    }

    /// The highest level whose entries may be leaves.
    pub const fn largest_leaf(&self) -> Level {
        self.largest_leaf
    }

    /// Number of levels of a full walk.
    pub const fn levels(&self) -> u32 {
        match self.start {
            Level::Minus1 => 5,
            Level::L0 => 4,
            Level::L1 => 3,
            Level::L2 => 2,
            Level::L3 => 1,
        }
    }

    /// Everything that the table translates.
    pub fn input_range<A: Address>(&self) -> Option<AddrRange<A>> {
        AddrRange::new(A::new(0)?, Pow2::from_shift(self.input_bits)?.bytes())
    }

    /// What one entry of `level` covers; `None` if the granule has no such level.
    pub fn entry_size(&self, level: Level) -> Option<Pow2> {
        Pow2::from_shift(level.entry_shift(self.granule)?)
    }

    /// Number of entries of a table that is not the root.
    pub const fn entries(&self) -> u64 {
        match self.granule {
            Granule::K4 => 512,
            Granule::K16 => 2048,
            Granule::K64 => 8192,
        }
    }

    /// Number of entries of the root, concatenated tables included.
    pub fn root_entries(&self) -> u64 {
        self.entry_size(self.start)
            .and_then(|size| self.input_bits.checked_sub(size.shift()))
            .and_then(Pow2::from_shift)
            .map_or(1, Pow2::bytes)
    }

    /// Number of granules that the root takes: 1, or up to 16 concatenated ones.
    pub fn root_granules(&self) -> u64 {
        match self.granule {
            Granule::K4 => self.root_entries().div_ceil(512),
            Granule::K16 => self.root_entries().div_ceil(2048),
            Granule::K64 => self.root_entries().div_ceil(8192),
        }
    }

    /// The number of the entry for the address `raw` in a table of `level`.
    pub fn index(&self, level: Level, raw: u64) -> Option<u64> {
        let number = raw.wrapping_shr(level.entry_shift(self.granule)?);
        Some(if level == self.start {
            number
        } else {
            // Tables have a power of two of entries.
            number & self.entries().wrapping_sub(1)
        })
    }

    /// Whether an entry of `level` may be a leaf.
    pub fn is_leaf_level(&self, level: Level) -> bool {
        level >= self.largest_leaf
    }

    /// Descriptor bits for `pa`, which must be aligned to the granule; `None` if they cannot express it.
    pub fn encode_pa(&self, pa: PhysAddr) -> Option<u64> {
        (pa.is_aligned(self.granule.unit()) && self.output.contains(pa))
            .then(|| self.output.format().encode(pa.raw()))
    }

    /// The address in a descriptor.
    ///
    /// `None` if it is beyond the output size or not aligned to `unit`, hence not ours.
    pub fn decode_pa(&self, descriptor: u64, unit: Pow2) -> Option<PhysAddr> {
        PhysAddr::new(self.output.format().decode(descriptor))
            .filter(|pa| pa.is_aligned(unit) && self.output.contains(*pa))
    }

    /// TTBR0_EL2 for a root at `pa`: the base address, with CnP = 0. `None` if the register cannot hold it.
    pub fn ttbr(&self, pa: PhysAddr) -> Option<u64> {
        if !pa.is_aligned(self.granule.unit()) || !self.output.contains(pa) {
            return None;
        }
        // Without a wide format PA[51:48] are 0, and both formats of the register agree.
        Some((pa.raw() & TtbrBase::MASK) | TtbrHigh::put(Pa51To48::get(pa.raw())))
    }

    /// The first byte of the root that `ttbr` leads to. It is aligned to its size, which may be less than a granule.
    pub fn root_of(&self, ttbr: u64) -> Option<PhysAddr> {
        /// In the 52-bit format the register has no room for more of the address.
        const LEAST_WIDE: u64 = 64;
        let bytes = self.root_entries().checked_mul(DESCRIPTOR_BYTES)?;
        let (base, bytes) = if self.output.format().is_wide() {
            let high = Pa51To48::put(TtbrHigh::get(ttbr));
            (ttbr & TtbrBase::MASK | high, bytes.max(LEAST_WIDE))
        } else {
            (ttbr & TtbrSmallBase::MASK, bytes)
        };
        PhysAddr::new(base)?.align_down(Pow2::new(bytes)?)
    }

    /// VTTBR_EL2 for a root at `pa` under `vmid`.
    pub fn vttbr(&self, pa: PhysAddr, vmid: u16) -> Option<u64> {
        Some(self.ttbr(pa)? | VttbrVmid::put(vmid.into()))
    }

    /// VTCR_EL2.SL0 and VTCR_EL2.SL2 for the start level; `None` if stage 2 cannot start there.
    pub const fn vtcr_start_level(&self) -> Option<(u64, u64)> {
        Some(match (self.granule, self.start) {
            (Granule::K4, Level::Minus1) => (0, 1),
            (Granule::K4, Level::L2) => (0, 0),
            (Granule::K4, Level::L1) => (1, 0),
            (Granule::K4, Level::L0) => (2, 0),
            (Granule::K16 | Granule::K64, Level::L2) => (1, 0),
            (Granule::K16 | Granule::K64, Level::L1) => (2, 0),
            (Granule::K16, Level::L0) => (3, 0),
            (_, Level::L3)
            | (Granule::K16 | Granule::K64, Level::Minus1)
            | (Granule::K64, Level::L0) => {
                return None;
            }
        })
    }
}

/// Index bits of a table that is not the root: `log2(granule / 8)`.
const fn index_bits(granule: Granule) -> u32 {
    match granule {
        Granule::K4 => 9,
        Granule::K16 => 11,
        Granule::K64 => 13,
    }
}

/// The highest level at which the architecture permits blocks.
const fn largest_block(granule: Granule, format: PaFormat) -> Level {
    match (granule, format) {
        // 512 GiB; FEAT_LPA2.
        (Granule::K4, PaFormat::Lpa2) => Level::L0,
        // 1 GiB; with 16K 64 GiB (FEAT_LPA2), with 64K 4 TiB (FEAT_LPA).
        (Granule::K4, _) | (Granule::K16, PaFormat::Lpa2) | (Granule::K64, PaFormat::Lpa64k) => {
            Level::L1
        }
        // 32 MiB and 512 MiB.
        (Granule::K16 | Granule::K64, _) => Level::L2,
    }
}
