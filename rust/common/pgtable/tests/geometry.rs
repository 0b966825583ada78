// SPDX-License-Identifier: GPL-2.0-only

//! Tests of the shape: levels, roots, addresses in descriptors and base registers.

use proptest::prelude::*;
use std::vec::Vec;

use super::*;

fn output(granule: Granule, pa_bits: u32, wide: bool) -> Output {
    Output::new(granule, pa_bits, wide).unwrap()
}

fn shift(granule: Granule) -> u32 {
    granule.shift()
}

/// Bits per level, by definition: a table of 8-byte descriptors fills a granule.
fn stride(granule: Granule) -> u32 {
    shift(granule) - 3
}

#[test]
fn stage1_every_granule_and_size_has_as_few_levels_as_possible() {
    for granule in Granule::ALL {
        for va_bits in MIN_INPUT_BITS..=52 {
            let geometry = Geometry::stage1(granule, va_bits, output(granule, 52, true)).unwrap();
            let levels = (va_bits - shift(granule)).div_ceil(stride(granule));
            assert_eq!(geometry.levels(), levels, "{granule:?} {va_bits}");
            assert_eq!(
                i32::from(geometry.start_level().number()),
                4 - levels as i32
            );
            let root_bits = va_bits - shift(granule) - (levels - 1) * stride(granule);
            assert_eq!(geometry.root_entries(), 1 << root_bits);
            assert_eq!(geometry.root_granules(), 1);
            assert_eq!(geometry.t0sz(), u64::from(64 - va_bits));
        }
    }
}

#[test]
fn stage1_known_sizes_start_where_linux_starts() {
    let starts = [
        (Granule::K4, 39, false, Level::L1, 512),
        (Granule::K4, 48, false, Level::L0, 512),
        (Granule::K4, 52, true, Level::Minus1, 16),
        (Granule::K16, 47, false, Level::L1, 2048),
        (Granule::K16, 48, false, Level::L0, 2),
        (Granule::K64, 42, false, Level::L2, 8192),
        (Granule::K64, 48, false, Level::L1, 64),
        (Granule::K64, 52, true, Level::L1, 1024),
    ];
    for (granule, va_bits, wide, start, entries) in starts {
        let geometry = Geometry::stage1(granule, va_bits, output(granule, 52, wide)).unwrap();
        assert_eq!(geometry.start_level(), start);
        assert_eq!(geometry.root_entries(), entries);
    }
}

#[test]
fn stage1_size_beyond_the_architecture_is_refused() {
    for (granule, va_bits, wide) in [
        (Granule::K4, 24, false),
        (Granule::K4, 49, false),
        (Granule::K16, 49, false),
        (Granule::K4, 53, true),
        (Granule::K64, 53, true),
    ] {
        assert_eq!(
            Geometry::stage1(granule, va_bits, output(granule, 52, wide)),
            Err(Error::InputRange),
            "{granule:?} {va_bits}"
        );
    }
}

#[test]
fn stage1_output_of_another_granule_is_refused() {
    for (granule, other) in [
        (Granule::K4, Granule::K64),
        (Granule::K16, Granule::K64),
        (Granule::K64, Granule::K4),
    ] {
        assert_eq!(
            Geometry::stage1(granule, 40, output(other, 52, true)),
            Err(Error::OutputRange)
        );
    }
}

#[test]
fn stage2_every_size_concatenates_at_most_16_roots_and_has_two_levels() {
    for granule in Granule::ALL {
        for ipa_bits in MIN_INPUT_BITS..=52 {
            let geometry = Geometry::stage2(granule, ipa_bits, output(granule, 52, true)).unwrap();
            // As in Linux: the levels that four bits less would need, but two at least.
            let levels = (ipa_bits - 4)
                .saturating_sub(shift(granule))
                .div_ceil(stride(granule))
                .max(2);
            assert_eq!(geometry.levels(), levels, "{granule:?} {ipa_bits}");
            assert!((1..=16).contains(&geometry.root_granules()));
            assert!(geometry.root_granules().is_power_of_two());
            assert!(geometry.vtcr_start_level().is_some());
        }
    }
}

#[test]
fn stage2_known_sizes_have_the_roots_and_start_levels_of_the_architecture() {
    let roots = [
        (Granule::K4, 40, Level::L1, 2, (1, 0)),
        (Granule::K4, 32, Level::L2, 4, (0, 0)),
        (Granule::K4, 48, Level::L0, 1, (2, 0)),
        (Granule::K4, 52, Level::L0, 16, (2, 0)),
        (Granule::K16, 40, Level::L2, 16, (1, 0)),
        (Granule::K16, 48, Level::L1, 2, (2, 0)),
        (Granule::K64, 40, Level::L2, 1, (1, 0)),
        (Granule::K64, 48, Level::L1, 1, (2, 0)),
    ];
    for (granule, ipa_bits, start, granules, register) in roots {
        let geometry = Geometry::stage2(granule, ipa_bits, output(granule, 52, true)).unwrap();
        assert_eq!(geometry.start_level(), start, "{granule:?} {ipa_bits}");
        assert_eq!(geometry.root_granules(), granules, "{granule:?} {ipa_bits}");
        assert_eq!(geometry.vtcr_start_level(), Some(register));
    }
}

#[test]
fn stage2_input_larger_than_output_is_refused() {
    assert_eq!(
        Geometry::stage2(Granule::K4, 41, output(Granule::K4, 40, false)),
        Err(Error::InputRange)
    );
    assert!(Geometry::stage2(Granule::K4, 40, output(Granule::K4, 40, false)).is_ok());
}

#[test]
fn vtcr_start_level_that_stage2_cannot_have_is_none() {
    let level3 = Geometry::stage1(Granule::K64, 29, output(Granule::K64, 48, false)).unwrap();
    assert_eq!(level3.start_level(), Level::L3);
    assert_eq!(level3.vtcr_start_level(), None);
    let five = Geometry::stage1(Granule::K4, 52, output(Granule::K4, 52, true)).unwrap();
    assert_eq!(five.vtcr_start_level(), Some((0, 1)));
    let k16 = Geometry::stage1(Granule::K16, 48, output(Granule::K16, 48, false)).unwrap();
    assert_eq!(k16.vtcr_start_level(), Some((3, 0)));
}

#[test]
fn output_size_is_clamped_to_what_descriptors_hold() {
    for granule in Granule::ALL {
        for (parange, wide, bits) in [
            (40, false, 40),
            (48, true, 48),
            (52, false, 48),
            (52, true, 52),
            (56, true, 52),
        ] {
            assert_eq!(output(granule, parange, wide).bits(), bits);
        }
        assert_eq!(Output::new(granule, 31, false), None);
    }
}

#[test]
fn output_format_of_64k_is_wide_only_with_52_bits() {
    assert_eq!(output(Granule::K64, 48, true).format(), PaFormat::Pa48);
    assert_eq!(output(Granule::K64, 52, true).format(), PaFormat::Lpa64k);
    assert_eq!(output(Granule::K4, 40, true).format(), PaFormat::Lpa2);
}

#[test]
fn output_contains_ends_at_the_size() {
    let output = output(Granule::K4, 40, false);
    assert!(output.contains(pa((1 << 40) - 1)));
    assert!(!output.contains(pa(1 << 40)));
}

#[test]
fn largest_leaf_follows_the_descriptor_format() {
    for (granule, wide, level) in [
        (Granule::K4, false, Level::L1),
        (Granule::K4, true, Level::L0),
        (Granule::K16, false, Level::L2),
        (Granule::K16, true, Level::L1),
        (Granule::K64, false, Level::L2),
        (Granule::K64, true, Level::L1),
    ] {
        let geometry = Geometry::stage1(granule, 48, output(granule, 52, wide)).unwrap();
        assert_eq!(geometry.largest_leaf(), level);
        for other in Level::ALL {
            assert_eq!(geometry.is_leaf_level(other), other >= level);
        }
    }
}

#[test]
fn largest_leaf_can_be_lowered_but_not_raised() {
    let geometry = Geometry::stage1(Granule::K4, 48, output(Granule::K4, 48, false)).unwrap();
    assert_eq!(
        geometry.with_largest_leaf(Level::L2).largest_leaf(),
        Level::L2
    );
    assert_eq!(
        geometry.with_largest_leaf(Level::Minus1).largest_leaf(),
        Level::L1
    );
}

#[test]
fn entry_sizes_are_a_stride_apart() {
    for granule in Granule::ALL {
        let geometry = Geometry::stage1(granule, 48, output(granule, 48, false)).unwrap();
        let sizes: Vec<u32> = Level::ALL
            .iter()
            .rev()
            .filter_map(|level| geometry.entry_size(*level))
            .map(|size| size.shift())
            .collect();
        for (step, size) in (0u32..).zip(&sizes) {
            assert_eq!(*size, shift(granule) + step * stride(granule));
        }
        assert_eq!(geometry.entries(), 1 << stride(granule));
        assert!(sizes.last().unwrap() + stride(granule) >= 52);
    }
}

#[test]
fn index_takes_the_bits_of_the_level() {
    let geometry = Geometry::stage1(Granule::K4, 48, output(Granule::K4, 48, false)).unwrap();
    let raw = (5 << 39) | (6 << 30) | (7 << 21) | (8 << 12) | 9;
    for (level, index) in [
        (Level::L0, 5),
        (Level::L1, 6),
        (Level::L2, 7),
        (Level::L3, 8),
    ] {
        assert_eq!(geometry.index(level, raw), Some(index));
    }
    let k64 = Geometry::stage1(Granule::K64, 48, output(Granule::K64, 48, false)).unwrap();
    assert_eq!(k64.index(Level::L0, 0), None);
    // In a concatenated root the index runs on.
    let root = Geometry::stage2(Granule::K4, 40, output(Granule::K4, 40, false)).unwrap();
    assert_eq!(root.index(Level::L1, (1 << 40) - 1), Some(1023));
}

#[test]
fn lpa2_address_stands_where_the_manual_says() {
    let geometry = Geometry::stage1(Granule::K4, 52, output(Granule::K4, 52, true)).unwrap();
    let high = pa(0xc_0000_0000_0000);
    assert_eq!(geometry.encode_pa(high), Some(0x300));
    assert_eq!(
        geometry.encode_pa(pa(0x3_ffff_ffff_f000)),
        Some(0x3_ffff_ffff_f000)
    );
}

#[test]
fn lpa_64k_address_stands_where_the_manual_says() {
    let geometry = Geometry::stage1(Granule::K64, 52, output(Granule::K64, 52, true)).unwrap();
    assert_eq!(geometry.encode_pa(pa(0xa_0000_0000_0000)), Some(0xa000));
    assert_eq!(
        geometry.encode_pa(pa(0xffff_ffff_0000)),
        Some(0xffff_ffff_0000)
    );
}

#[test]
fn ttbr_of_a_52_bit_root_holds_the_high_bits_in_5_to_2() {
    let geometry = Geometry::stage1(Granule::K4, 52, output(Granule::K4, 52, true)).unwrap();
    assert_eq!(
        geometry.ttbr(pa(0xb_1234_5678_9000)),
        Some(0x1234_5678_9000 | (0xb << 2))
    );
    assert_eq!(
        geometry.vttbr(pa(0xb_1234_5678_9000), 0xbeef),
        Some(0xbeef_1234_5678_9000 | (0xb << 2))
    );
}

#[test]
fn ttbr_of_an_impossible_root_is_none() {
    let geometry = Geometry::stage1(Granule::K16, 48, output(Granule::K16, 48, false)).unwrap();
    assert_eq!(geometry.ttbr(pa(0x1_0000_0000_0000)), None);
    assert_eq!(geometry.ttbr(pa(0x1000)), None);
    assert_eq!(geometry.vttbr(pa(0x1000), 1), None);
    assert_eq!(geometry.ttbr(pa(0x4000)), Some(0x4000));
}

#[test]
fn address_of_foreign_descriptor_is_refused() {
    let narrow = Geometry::stage1(Granule::K64, 48, output(Granule::K64, 44, false)).unwrap();
    let unit = Granule::K64.unit();
    // Bits 15:12 are RES0 without FEAT_LPA, and PA[47:44] are beyond PARange.
    assert_eq!(narrow.decode_pa(0x1000, unit), None);
    assert_eq!(narrow.decode_pa(1 << 44, unit), None);
    assert_eq!(narrow.decode_pa(1 << 43, unit), Some(pa(1 << 43)));
    // A block's address must be a multiple of the block.
    let block = narrow.entry_size(Level::L2).unwrap();
    assert_eq!(narrow.decode_pa(0x1_0000, block), None);
}

proptest! {
    #[test]
    fn descriptor_address_round_trips(raw in 0u64..1 << 52, shape in 0usize..12) {
        let (granule, va_bits, pa_bits, wide) = STAGE1_SHAPES[shape];
        let geometry = Geometry::stage1(granule, va_bits, output(granule, pa_bits, wide)).unwrap();
        let address = pa(raw & !(granule.size() - 1));
        match geometry.encode_pa(address) {
            Some(bits) => {
                prop_assert_eq!(bits & !geometry.output().format().mask(), 0);
                prop_assert_eq!(geometry.decode_pa(bits, granule.unit()), Some(address));
                // Attributes in the other bits do not change the address.
                let noise = !geometry.output().format().mask();
                prop_assert_eq!(geometry.decode_pa(bits | noise, granule.unit()), Some(address));
            }
            None => prop_assert!(address.raw() >> pa_bits != 0),
        }
        prop_assert_eq!(geometry.encode_pa(pa(raw | 1)), None);
    }
}
