// SPDX-License-Identifier: GPL-2.0-only

//! Common: which descriptor a walk of the guest's stage 1 was about to read.
//!
//! Hardware does not tell the level at which a walk of stage 1 faulted at stage 2, only the address of the descriptor. A guest
//! that is told of the failure must be told the level, so its walk is repeated. Its tables may have changed since: then there is
//! no answer.
//!
//! Source: Arm ARM DDI 0487, D8.2 (translation process), D8.3 (descriptors), D24.2.185 (TCR_EL1).

/// What controls a walk.
#[derive(Clone, Copy, Debug)]
pub struct Controls {
    /// TCR_EL1.
    pub tcr: u64,
    /// TTBR0_EL1.
    pub ttbr0: u64,
    /// TTBR1_EL1.
    pub ttbr1: u64,
}

/// TCR_EL1.DS: 52-bit descriptors with small granules.
const DS: u64 = 1 << 59;
/// log2 of the granule that `wide` descriptors have another layout for.
const SHIFT_64K: u32 = 16;

/// One of the two halves of the VA space.
struct Half {
    /// log2 of the granule in bytes.
    granule_shift: u32,
    /// Bits of an input address.
    input_bits: u32,
    ttbr: u64,
}

impl Controls {
    fn half(&self, va: u64) -> Option<Half> {
        const EPD0: u64 = 1 << 7;
        const EPD1: u64 = 1 << 23;
        let upper = va & (1 << 55) != 0;
        let (size, granule, disabled, ttbr) = if upper {
            (self.tcr >> 16, [0, 14, 12, 16], EPD1, self.ttbr1)
        } else {
            (self.tcr, [12, 16, 14, 0], EPD0, self.ttbr0)
        };
        let field = if upper {
            self.tcr >> 30
        } else {
            self.tcr >> 14
        };
        let granule_shift = *granule.get((field & 3) as usize)?;
        let input_bits = 64u32.checked_sub((size & 0x3f) as u32)?;
        let possible = granule_shift != 0 && (16..=52).contains(&input_bits);
        (possible && self.tcr & disabled == 0).then_some(Half {
            granule_shift,
            input_bits,
            ttbr,
        })
    }

    /// The address of a table in a descriptor, or in TTBRn_EL1 where `root`.
    fn table(&self, value: u64, granule_shift: u32, root: bool) -> u64 {
        const BITS_47_0: u64 = 0x0000_ffff_ffff_ffff;
        let granule = 1u64.wrapping_shl(granule_shift).wrapping_sub(1);
        let wide = self.tcr & DS != 0;
        if root {
            // A small table need not have the alignment of a granule. Bits 5:2 are address bits 51:48 where these exist.
            let high = if granule_shift == SHIFT_64K || wide {
                (value & 0x3c).wrapping_shl(46)
            } else {
                0
            };
            let low = if high != 0 { !0x3f } else { !1 };
            return value & BITS_47_0 & low | high;
        }
        let low = value & BITS_47_0 & !granule;
        let high = if granule_shift == SHIFT_64K {
            (value & 0xf000).wrapping_shl(36)
        } else if wide {
            value & (3 << 48) | (value & 0x300).wrapping_shl(42)
        } else {
            0
        };
        low | high
    }

    /// The level, from -1 to 3, at which a walk for `va` reads a descriptor in the page of 4 KiB at `page`. `read` reads a
    /// descriptor of the guest.
    pub fn level_at(
        &self,
        va: u64,
        page: u64,
        mut read: impl FnMut(u64) -> Option<u64>,
    ) -> Option<i8> {
        let half = self.half(va)?;
        // A table resolves as many bits as there are descriptors in a granule.
        let stride = half.granule_shift.wrapping_sub(3);
        let mut shift = half.granule_shift;
        let mut level = 3i8;
        while shift.wrapping_add(stride) < half.input_bits {
            shift = shift.wrapping_add(stride);
            level = level.wrapping_sub(1);
        }
        let input = va & u64::MAX.wrapping_shr(64u32.wrapping_sub(half.input_bits));
        let mut table = self.table(half.ttbr, half.granule_shift, true);
        let in_table = 1u64.wrapping_shl(half.granule_shift).wrapping_sub(1);
        loop {
            let offset = input.wrapping_shr(shift).wrapping_shl(3) & in_table;
            let address = table.wrapping_add(offset);
            if address & !0xfff == page & !0xfff {
                return Some(level);
            }
            // Only a table (0b11, but at the last level) leads on.
            let descriptor = read(address)?;
            if level >= 3 || descriptor & 3 != 3 {
                return None;
            }
            table = self.table(descriptor, half.granule_shift, false);
            shift = shift.wrapping_sub(stride);
            level = level.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T0SZ = T1SZ = 16, 4 KiB in both halves.
    const TCR_4K: u64 = 16 | (16 << 16) | (2 << 30);

    fn controls(tcr: u64) -> Controls {
        Controls {
            tcr,
            ttbr0: 0x4000_0000,
            ttbr1: 0x5000_0000,
        }
    }

    /// Tables one after the other: each descriptor at `at` points to `to`.
    fn chain(entries: &'static [(u64, u64)]) -> impl FnMut(u64) -> Option<u64> {
        move |address| {
            let entry = entries.iter().find(|(at, _)| *at == address);
            entry.map(|(_, to)| to | 3)
        }
    }

    #[test]
    fn each_level_of_four_is_told() {
        let va = (1 << 39) | (2 << 30) | (3 << 21) | (4 << 12);
        let entries = &[
            (0x4000_0008, 0x4001_0000),
            (0x4001_0010, 0x4002_0000),
            (0x4002_0018, 0x4003_0000),
        ];
        for (page, level) in [
            (0x4000_0000, 0),
            (0x4001_0000, 1),
            (0x4002_0000, 2),
            (0x4003_0000, 3),
        ] {
            let found = controls(TCR_4K).level_at(va, page, chain(entries));
            assert_eq!(found, Some(level));
        }
        let nowhere = controls(TCR_4K).level_at(va, 0x7000_0000, chain(entries));
        assert_eq!(nowhere, None);
    }

    #[test]
    fn upper_half_has_its_own_root() {
        let va = !0u64;
        let found = controls(TCR_4K).level_at(va, 0x5000_0000, |_| None);
        assert_eq!(found, Some(0));
    }

    #[test]
    fn smaller_input_starts_at_a_later_level() {
        // T0SZ = 25: 39 bits, three levels; T0SZ = 34: 30 bits, two.
        assert_eq!(
            controls(25).level_at(0x1000, 0x4000_0000, |_| None),
            Some(1)
        );
        assert_eq!(
            controls(34).level_at(0x1000, 0x4000_0000, |_| None),
            Some(2)
        );
    }

    #[test]
    fn block_ends_the_walk() {
        let block = |_| Some(0x4001_0000 | 1);
        assert_eq!(controls(TCR_4K).level_at(0, 0x4001_0000, block), None);
    }

    #[test]
    fn disabled_half_has_no_walk() {
        assert_eq!(
            controls(TCR_4K | (1 << 7)).level_at(0, 0x4000_0000, |_| None),
            None
        );
    }

    #[test]
    fn high_address_bits_are_found_by_granule() {
        let wide_64k = controls(12 | (1 << 14));
        assert_eq!(
            wide_64k.table(0x1234_5678_a003, SHIFT_64K, false),
            0xa_1234_5678_0000
        );
        let wide_4k = controls(TCR_4K | DS);
        assert_eq!(
            wide_4k.table(0x0003_0000_0000_1303, 12, false),
            0x000f_0000_0000_1000
        );
        assert_eq!(wide_4k.table(0x4000_0024, 12, true), 0x9_0000_4000_0000);
        // Without them bits 5:2 are address bits of a small table.
        assert_eq!(controls(TCR_4K).table(0x4000_0024, 12, true), 0x4000_0024);
    }

    #[test]
    fn five_levels_start_at_minus_one() {
        let tcr = 12 | DS;
        assert_eq!(controls(tcr).level_at(0, 0x4000_0000, |_| None), Some(-1));
    }
}
