// SPDX-License-Identifier: GPL-2.0-only

//! Common: which descriptor a walk of the guest's stage 1 was about to read.
//!
//! Hardware does not tell the level at which a walk of stage 1 faulted at stage 2, only the address of the descriptor. A guest
//! that is told of the failure must be told the level, so its walk is repeated. Its tables may have changed since: then there is
//! no answer. What the guest calls a physical address here is an IPA.
//!
//! Source: Arm ARM DDI 0487, D8.2 (translation process), D24.2.185 (TCR_EL1).

use core::cell::Cell;

use super::{
    addr::{
        Granule,
        HypVa,
        PhysAddr, //
    },
    pgtable::{
        Foreign,
        Geometry,
        Output, //
    },
};

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

impl Controls {
    /// The shape of the tables for `va`, and the register that leads to them. `None` if there can be none.
    fn half(&self, va: u64) -> Option<(Geometry, u64)> {
        const EPD0: u64 = 1 << 7;
        const EPD1: u64 = 1 << 23;
        let (size, granule, disabled, ttbr) = if va & (1 << 55) == 0 {
            let granule = match self.tcr.wrapping_shr(14) & 3 {
                0 => Granule::K4,
                1 => Granule::K64,
                2 => Granule::K16,
                _ => return None,
            };
            (self.tcr, granule, EPD0, self.ttbr0)
        } else {
            let granule = match self.tcr.wrapping_shr(30) & 3 {
                1 => Granule::K16,
                2 => Granule::K4,
                3 => Granule::K64,
                _ => return None,
            };
            (self.tcr.wrapping_shr(16), granule, EPD1, self.ttbr1)
        };
        if self.tcr & disabled != 0 {
            return None;
        }
        let input_bits = 64u32.checked_sub((size & 0x3f) as u32)?;
        Some((
            Geometry::stage1(granule, input_bits, self.output(granule)?).ok()?,
            ttbr,
        ))
    }

    /// TCR_EL1.IPS, and whether descriptors have 52 bits.
    fn output(&self, granule: Granule) -> Option<Output> {
        const BITS: [u32; 7] = [32, 36, 40, 42, 44, 48, 52];
        let bits = *BITS.get((self.tcr.wrapping_shr(32) & 7) as usize)?;
        Output::new(granule, bits, granule == Granule::K64 || self.tcr & DS != 0)
    }

    /// The level, from -1 to 3, at which a walk for `va` reads a descriptor in the page of 4 KiB at `page`. `read` reads a
    /// descriptor of the guest.
    pub fn level_at(&self, va: u64, page: u64, read: impl Fn(u64) -> Option<u64>) -> Option<i8> {
        let (geometry, ttbr) = self.half(va)?;
        let root = geometry.root_of(ttbr)?;
        let above = 64u32.checked_sub(geometry.input_bits())?;
        let at = HypVa::new(va & u64::MAX.wrapping_shr(above))?;
        // Each step of a walk reads one descriptor, a level further down.
        let (steps, found) = (Cell::new(0i8), Cell::new(None));
        let tables = Foreign::new(geometry, root, |place: PhysAddr| {
            if place.raw() & !0xfff == page & !0xfff {
                found.set(Some(steps.get()));
                return None;
            }
            steps.set(steps.get().wrapping_add(1));
            read(place.raw())
        });
        // However it ends: what counts is whether it came to that page.
        let _ = tables.ok()?.lookup(at);
        geometry.start_level().number().checked_add(found.get()?)
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
    fn chain(entries: &'static [(u64, u64)]) -> impl Fn(u64) -> Option<u64> {
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
        const IPS_52: u64 = 6 << 32;
        // 64K granule: bits 15:12 of a descriptor are address bits 51:48; 52 bits of input start at level 1.
        let wide_64k = controls(12 | (1 << 14) | IPS_52);
        let root = |address| (address == 0x4000_0000).then_some(0x1234_5678_a003);
        assert_eq!(wide_64k.level_at(0, 0xa_1234_5678_0000, root), Some(2));
        // 4K with DS: bits 9:8 are address bits 51:50, and 49:48 stand in place.
        let wide_4k = controls(TCR_4K | DS | IPS_52);
        let root = |address| (address == 0x4000_0000).then_some(0x0003_0000_0000_1303);
        assert_eq!(wide_4k.level_at(0, 0xf_0000_0000_1000, root), Some(1));
    }

    #[test]
    fn root_may_be_smaller_than_a_granule() {
        // T0SZ = 35: 29 bits, of which level 2 resolves 8: a root of 256 entries, aligned to 2 KiB.
        let small = Controls {
            ttbr0: 0x4000_0801,
            ..controls(35)
        };
        let root = |address| (address == 0x4000_0808).then_some(0x4001_0003);
        let va = 1 << 21;
        assert_eq!(small.level_at(va, 0x4000_0000, root), Some(2));
        assert_eq!(small.level_at(va, 0x4001_0000, root), Some(3));
    }

    #[test]
    fn five_levels_start_at_minus_one() {
        let tcr = 12 | DS | (6 << 32);
        assert_eq!(controls(tcr).level_at(0, 0x4000_0000, |_| None), Some(-1));
    }
}
