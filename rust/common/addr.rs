// SPDX-License-Identifier: GPL-2.0-only

//! Typed addresses, alignments and ranges.
//!
//! Domain: common. One type per address space, so that an IPA is never taken
//! for a PA, nor a hyp VA for a kernel VA. Constructors are fallible, the
//! arithmetic is checked, and only the owner of a mapping converts between
//! spaces. Ranges are never empty and never wrap: they hold their *last* byte,
//! so the end of an address space needs no special case.
//!
//! Source: Arm ARM DDI 0487 D8.1 (address sizes), D8.2 (translation granules).

#[cfg(test)]
mod tests;

use core::fmt;

/// A power of two, used as a unit of size and alignment in bytes.
// INVARIANT: exactly one bit of the value is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Pow2(u64);

impl Pow2 {
    /// The unit of `1 << shift` bytes; `None` if that does not fit into 64 bits.
    pub const fn from_shift(shift: u32) -> Option<Self> {
        match 1u64.checked_shl(shift) {
            // INVARIANT: a shifted 1 has one bit set, as `checked_shl` refused shifts that lose it.
            Some(bytes) => Some(Self(bytes)),
            None => None,
        }
    }

    /// The unit of `bytes`; `None` unless it is a power of two.
    pub const fn new(bytes: u64) -> Option<Self> {
        if bytes.is_power_of_two() {
            // INVARIANT: just tested.
            Some(Self(bytes))
        } else {
            None
        }
    }

    /// The unit in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The bits of an address below this unit.
    pub const fn mask(self) -> u64 {
        self.0.wrapping_sub(1)
    }

    /// Base-2 logarithm of the unit.
    pub const fn shift(self) -> u32 {
        self.0.trailing_zeros()
    }

    /// Whether `value` is a multiple of the unit.
    pub const fn divides(self, value: u64) -> bool {
        value & self.mask() == 0
    }

    /// The largest multiple of the unit that is not above `value`.
    pub const fn round_down(self, value: u64) -> u64 {
        value & !self.mask()
    }

    /// The smallest multiple of the unit that is not below `value`.
    pub const fn round_up(self, value: u64) -> Option<u64> {
        match value.checked_add(self.mask()) {
            Some(sum) => Some(self.round_down(sum)),
            None => None,
        }
    }
}

/// A translation granule: the size of a page, and of a translation table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Granule {
    /// 4 KiB.
    K4 = 12,
    /// 16 KiB.
    K16 = 14,
    /// 64 KiB.
    K64 = 16,
}

impl Granule {
    /// All granules of the architecture.
    pub const ALL: [Self; 3] = [Self::K4, Self::K16, Self::K64];

    /// The granule of `1 << shift` bytes, such as the kernel's `PAGE_SHIFT`.
    pub const fn from_shift(shift: u32) -> Option<Self> {
        match shift {
            12 => Some(Self::K4),
            14 => Some(Self::K16),
            16 => Some(Self::K64),
            _ => None,
        }
    }

    /// Base-2 logarithm of the size.
    pub const fn shift(self) -> u32 {
        match self {
            Self::K4 => 12,
            Self::K16 => 14,
            Self::K64 => 16,
        }
    }

    /// Size in bytes.
    pub const fn size(self) -> u64 {
        self.unit().bytes()
    }

    /// Size as a unit of alignment.
    pub const fn unit(self) -> Pow2 {
        // INVARIANT: each value has one bit set.
        match self {
            Self::K4 => Pow2(0x1000),
            Self::K16 => Pow2(0x4000),
            Self::K64 => Pow2(0x1_0000),
        }
    }

    /// Size in bytes of `count` granules.
    pub const fn times(self, count: u64) -> Option<u64> {
        self.size().checked_mul(count)
    }
}

/// An address of one address space.
///
/// The provided arithmetic never leaves `MIN..=MAX` of the space.
pub trait Address: Copy + Ord + fmt::Debug {
    /// The lowest address of the space.
    const MIN: u64;
    /// The highest address of the space.
    const MAX: u64;

    /// The address with this number; `None` outside the space.
    fn new(raw: u64) -> Option<Self>;

    /// The number of the address.
    fn raw(self) -> u64;

    /// `self + bytes`, within the space.
    fn checked_add(self, bytes: u64) -> Option<Self> {
        self.raw().checked_add(bytes).and_then(Self::new)
    }

    /// `self - bytes`, within the space.
    fn checked_sub(self, bytes: u64) -> Option<Self> {
        self.raw().checked_sub(bytes).and_then(Self::new)
    }

    /// How many bytes `self` lies above `base`; `None` if it lies below.
    fn offset_from(self, base: Self) -> Option<u64> {
        self.raw().checked_sub(base.raw())
    }

    /// Whether the address is a multiple of `unit`.
    fn is_aligned(self, unit: Pow2) -> bool {
        unit.divides(self.raw())
    }

    /// The multiple of `unit` at or below the address; `None` below the space.
    fn align_down(self, unit: Pow2) -> Option<Self> {
        Self::new(unit.round_down(self.raw()))
    }
}

macro_rules! address {
    ($(#[$doc:meta])* $name:ident, $min:expr, $max:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The address with this number; `None` outside the address space.
            pub const fn new(raw: u64) -> Option<Self> {
                // One comparison does for both bounds.
                if raw.wrapping_sub($min) <= $max - $min {
                    // INVARIANT: just tested.
                    Some(Self(raw))
                } else {
                    None
                }
            }

            /// The number of the address, for registers, descriptors and messages.
            pub const fn raw(self) -> u64 {
                self.0
            }
        }

        impl Address for $name {
            const MIN: u64 = $min;
            const MAX: u64 = $max;

            fn new(raw: u64) -> Option<Self> {
                Self::new(raw)
            }

            fn raw(self) -> u64 {
                self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address!(
    /// A physical address, at most 52 bits wide.
    // INVARIANT: `MIN <= value <= MAX`.
    PhysAddr,
    0,
    0xf_ffff_ffff_ffff
);

address!(
    /// An intermediate physical address of a guest, at most 52 bits wide.
    // INVARIANT: `MIN <= value <= MAX`.
    Ipa,
    0,
    0xf_ffff_ffff_ffff
);

address!(
    /// A virtual address of the EL2 translation regime, whose one range starts at 0.
    // INVARIANT: `MIN <= value <= MAX`.
    HypVa,
    0,
    0xf_ffff_ffff_ffff
);

address!(
    /// A virtual address of the host kernel, in the range of TTBR1_EL1.
    // INVARIANT: `MIN <= value <= MAX`.
    KernVa,
    0xfff0_0000_0000_0000,
    u64::MAX
);

/// The number of a page frame: a physical address in units of the granule.
// INVARIANT: at most 40 bits, the number of the last 4 KiB frame of a 52-bit space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Pfn(u64);

impl Pfn {
    /// The highest frame number: the last 4 KiB of the physical address space.
    pub const MAX: u64 = 0xff_ffff_ffff;

    /// The frame with this number; `None` above [`Self::MAX`].
    pub const fn new(raw: u64) -> Option<Self> {
        if raw <= Self::MAX {
            // INVARIANT: just tested.
            Some(Self(raw))
        } else {
            None
        }
    }

    /// The frame that holds `pa`.
    pub const fn containing(pa: PhysAddr, granule: Granule) -> Self {
        // INVARIANT: 52 bits shifted right by at least 12 leave at most 40.
        Self(match granule {
            Granule::K4 => pa.raw() >> 12,
            Granule::K16 => pa.raw() >> 14,
            Granule::K64 => pa.raw() >> 16,
        })
    }

    /// The number of the frame.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The first byte of the frame; `None` if the frame lies above the physical address space.
    pub const fn base(self, granule: Granule) -> Option<PhysAddr> {
        match self.0.checked_mul(granule.size()) {
            Some(raw) => PhysAddr::new(raw),
            None => None,
        }
    }
}

/// A range of addresses that is not empty and does not wrap around.
///
/// It holds its last byte instead of its end, so a range may touch the end of
/// the address space. A range that would be 2^64 bytes long does not exist.
// INVARIANT: `first <= last`, and `last - first < u64::MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct AddrRange<A> {
    first: A,
    last: A,
}

impl<A: Address> AddrRange<A> {
    /// `size_bytes` bytes from `first` on; `None` if that is empty, wraps or leaves the space.
    pub fn new(first: A, size_bytes: u64) -> Option<Self> {
        let last = first.checked_add(size_bytes.checked_sub(1)?)?;
        // INVARIANT: `last` is `first` plus `size_bytes - 1 < u64::MAX`, without overflow.
        Some(Self { first, last })
    }

    /// The bytes from `first` to `last`, both included; `None` if `last` lies below `first`.
    pub fn from_bounds(first: A, last: A) -> Option<Self> {
        match last.offset_from(first) {
            None | Some(u64::MAX) => None,
            // INVARIANT: the two cases that break it were just refused.
            Some(_) => Some(Self { first, last }),
        }
    }

    /// The one-byte range at `at`.
    pub fn point(at: A) -> Self {
        // INVARIANT: `first == last`.
        Self {
            first: at,
            last: at,
        }
    }

    /// The first byte.
    pub fn first(&self) -> A {
        self.first
    }

    /// The last byte.
    pub fn last(&self) -> A {
        self.last
    }

    /// The byte after the last; `None` at the end of the address space.
    pub fn end(&self) -> Option<A> {
        self.last.checked_add(1)
    }

    /// Size in bytes.
    pub fn size_bytes(&self) -> u64 {
        // The invariant keeps both operations from wrapping.
        self.last
            .raw()
            .wrapping_sub(self.first.raw())
            .wrapping_add(1)
    }

    /// Whether `at` lies in the range.
    pub fn contains(&self, at: A) -> bool {
        self.first <= at && at <= self.last
    }

    /// Whether all of `other` lies in the range.
    pub fn contains_range(&self, other: &Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    /// Whether the ranges have a byte in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// The bytes that both ranges have; `None` if there are none.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        Self::from_bounds(self.first.max(other.first), self.last.min(other.last))
    }

    /// Whether both ends of the range are multiples of `unit`.
    pub fn is_aligned(&self, unit: Pow2) -> bool {
        self.first.is_aligned(unit) && unit.divides(self.size_bytes())
    }

    /// The smallest range of whole `unit`s that holds this one; `None` if it leaves the space.
    pub fn align_outward(&self, unit: Pow2) -> Option<Self> {
        let first = self.first.align_down(unit)?;
        // The last byte of the unit; setting low bits never wraps.
        let last = A::new(self.last.raw() | unit.mask())?;
        Self::from_bounds(first, last)
    }

    /// The part of the range from `at` on; `None` if `at` lies above it.
    pub fn from(&self, at: A) -> Option<Self> {
        Self::from_bounds(self.first.max(at), self.last)
    }
}
