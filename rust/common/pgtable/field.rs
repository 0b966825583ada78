// SPDX-License-Identifier: GPL-2.0-only

//! Fields of 64-bit registers and descriptors, defined once by constants.
//!
//! Domain: common. A field is a type, so its position is checked at compile time and costs nothing at run time.

/// The field of `WIDTH` bits from bit `SHIFT` up.
pub struct Field<const SHIFT: u32, const WIDTH: u32>;

impl<const SHIFT: u32, const WIDTH: u32> Field<SHIFT, WIDTH> {
    const FITS: () = assert!(WIDTH >= 1 && WIDTH < 64 && SHIFT < 64 && SHIFT + WIDTH <= 64);

    /// The bits of the field, in place.
    pub const MASK: u64 = {
        let () = Self::FITS;
        ((1u64 << WIDTH) - 1) << SHIFT
    };

    /// `value` in place; bits that do not fit are dropped.
    pub const fn put(value: u64) -> u64 {
        value.wrapping_shl(SHIFT) & Self::MASK
    }

    /// The field's value in `word`.
    pub const fn get(word: u64) -> u64 {
        (word & Self::MASK).wrapping_shr(SHIFT)
    }

    /// Whether any bit of the field is set in `word`.
    pub const fn is_set(word: u64) -> bool {
        word & Self::MASK != 0
    }
}
