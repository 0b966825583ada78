// SPDX-License-Identifier: GPL-2.0-only

//! Proofs of the layout: whatever the machine looks like, nothing collides.

use proptest::prelude::*;
use std::{
    format,
    vec::Vec, //
};

use super::*;
use crate::common::pgtable::{
    Geometry,
    Output, //
};

const GIB: u64 = 1 << 30;

fn ram(first: u64, size_bytes: u64) -> AddrRange<PhysAddr> {
    AddrRange::new(PhysAddr::new(first).unwrap(), size_bytes).unwrap()
}

/// A machine like the one of the lab: 1 GiB of RAM at 1 GiB, 4 CPUs.
fn machine(granule: Granule) -> LayoutInput {
    LayoutInput {
        granule,
        max_va_bits: 48,
        idmap: PhysAddr::new(0x4800_0000).unwrap(),
        ram: ram(GIB, GIB),
        image_granules: 8,
        cpus: 4,
        stack_granules: 4,
        seed: 0,
    }
}

/// Checks all that a layout promises.
fn assert_sound(input: &LayoutInput, layout: &Layout) {
    let unit = input.granule.unit();
    let space = 1u64 << layout.va_bits();
    let half = space / 2;
    let regions: Vec<(Region, AddrRange<HypVa>)> = layout.regions().collect();
    assert_eq!(regions.len(), 5 + 2 * input.cpus as usize);
    for (place, (region, range)) in regions.iter().enumerate() {
        assert!(range.is_aligned(unit), "{region:?} is not aligned");
        assert!(range.last().raw() < space, "{region:?} is out of range");
        for (other, with) in regions.iter().skip(place + 1) {
            assert!(!range.overlaps(with), "{region:?} meets {other:?}");
        }
        // All but the idmap page are in the half that it is not in.
        let same_half = (range.first().raw() ^ input.idmap.raw()) & half == 0;
        assert_eq!(same_half, *region == Region::Idmap, "{region:?}");
        assert_eq!((range.first().raw() ^ range.last().raw()) & half, 0);
        assert!(range.first().raw() != 0 || *region == Region::Idmap);
        for at in [range.first(), range.last()] {
            assert_eq!(layout.region_of(at), Some(*region));
        }
    }
    assert_sizes(input, layout);
    assert_guards(input, layout);
    assert_linear(input, layout);
    assert_tables(input, layout);
}

fn assert_sizes(input: &LayoutInput, layout: &Layout) {
    let size = input.granule.size();
    assert_eq!(layout.idmap().first().raw(), input.idmap.raw());
    assert_eq!(layout.idmap().size_bytes(), size);
    assert_eq!(layout.trampoline().size_bytes(), size);
    assert_eq!(
        layout.image().size_bytes(),
        size * u64::from(input.image_granules)
    );
    assert_eq!(
        (layout.cpus(), layout.granule()),
        (input.cpus, input.granule)
    );
    for cpu in 0..input.cpus {
        let stack = layout.stack(cpu).unwrap();
        assert_eq!(stack.size_bytes(), size * u64::from(input.stack_granules));
        assert_eq!(layout.context(cpu).unwrap().size_bytes(), size);
    }
    assert_eq!(layout.stack(input.cpus), None);
    assert_eq!(layout.context(input.cpus), None);
    // Eight bytes for each page of RAM fit in the vmemmap many times over.
    let entries = input.ram.size_bytes() / size;
    assert!(layout.vmemmap().size_bytes() / 8 >= entries);
}

/// Neither side of a stack, a context, the image or the trampoline is used by anything.
fn assert_guards(input: &LayoutInput, layout: &Layout) {
    let size = input.granule.size();
    let guarded = layout.regions().filter(|(region, _)| {
        !matches!(
            region,
            Region::Idmap | Region::Linear | Region::Vmemmap | Region::Slots
        )
    });
    for (region, range) in guarded {
        let below = range.first().checked_sub(size).unwrap();
        assert_eq!(layout.region_of(below), None, "below {region:?}");
        let above = range.end().unwrap();
        assert_eq!(layout.region_of(above), None, "above {region:?}");
    }
}

fn assert_linear(input: &LayoutInput, layout: &Layout) {
    let (first, last) = (input.ram.first(), input.ram.last());
    assert_eq!(layout.linear_va(first), Some(layout.linear().first()));
    assert_eq!(layout.linear_va(last), Some(layout.linear().last()));
    for pa in [first, last] {
        let va = layout.linear_va(pa).unwrap();
        assert_eq!(layout.linear_pa(va), Some(pa));
        // Blocks fit: VA and PA agree below the block size.
        let below = linear_unit(input.granule).unwrap().shift();
        assert_eq!((va.raw() ^ pa.raw()) & ((1 << below) - 1), 0);
    }
    let outside = [first.checked_sub(1), last.checked_add(1)];
    for pa in outside.into_iter().flatten() {
        assert_eq!(layout.linear_va(pa), None);
    }
    let outside = [
        layout.linear().first().checked_sub(1),
        layout.linear().end(),
        Some(layout.trampoline().first()),
    ];
    for va in outside.into_iter().flatten() {
        assert_eq!(layout.linear_pa(va), None);
    }
}

/// One geometry serves both PGDs, and has no more levels than are needed.
fn assert_tables(input: &LayoutInput, layout: &Layout) {
    let wide = layout.va_bits() > 48 || input.max_va_bits > 48;
    let output = Output::new(input.granule, 52, wide).unwrap();
    let geometry = Geometry::stage1(input.granule, layout.va_bits(), output).unwrap();
    let all = geometry.input_range().unwrap();
    for (region, range) in layout.regions() {
        assert!(
            AddrRange::contains_range(&all, &range),
            "{region:?} is not in the table"
        );
    }
    // A table with one level less reaches at most as far as its start level does.
    let reach = geometry
        .start_level()
        .next()
        .and_then(|level| level.reach(input.granule));
    if let Some(reach) = reach.filter(|reach| *reach >= MIN_INPUT_BITS) {
        let smaller = LayoutInput {
            max_va_bits: reach,
            ..*input
        };
        assert!(
            Layout::compute(&smaller).is_err(),
            "{} levels would do as well",
            geometry.levels() - 1
        );
    }
    if layout.va_bits() > 48 {
        let smaller = LayoutInput {
            max_va_bits: 48,
            ..*input
        };
        assert!(
            Layout::compute(&smaller).is_err(),
            "48 bits would do as well"
        );
    }
}

#[test]
fn lab_machine_has_the_sizes_of_three_levels_or_less() {
    for (granule, va_bits) in [(Granule::K4, 39), (Granule::K16, 36), (Granule::K64, 42)] {
        let input = machine(granule);
        let layout = Layout::compute(&input).unwrap();
        assert_eq!(layout.va_bits(), va_bits);
        assert_sound(&input, &layout);
    }
}

#[test]
fn idmap_beyond_39_bits_adds_a_level_only_then() {
    for (idmap, va_bits) in [
        ((1 << 39) - 0x1000, 39),
        (1 << 39, 48),
        ((1 << 48) - 0x1000, 48),
        (1 << 48, 52),
        ((1 << 52) - 0x1000, 52),
    ] {
        let input = LayoutInput {
            max_va_bits: 52,
            idmap: PhysAddr::new(idmap).unwrap(),
            ..machine(Granule::K4)
        };
        let layout = Layout::compute(&input).unwrap();
        assert_eq!(layout.va_bits(), va_bits, "{idmap:#x}");
        assert_sound(&input, &layout);
    }
}

#[test]
fn idmap_in_either_half_leaves_the_other_to_the_rest() {
    for (idmap, rest_is_upper) in [(0u64, true), ((1 << 38) - 0x1000, true), (1 << 38, false)] {
        let input = LayoutInput {
            idmap: PhysAddr::new(idmap).unwrap(),
            ..machine(Granule::K4)
        };
        let layout = Layout::compute(&input).unwrap();
        assert_sound(&input, &layout);
        let upper = layout.image().first().raw() >= 1 << 38;
        assert_eq!(upper, rest_is_upper);
    }
}

#[test]
fn idmap_above_the_va_size_is_refused_with_the_reason() {
    let input = LayoutInput {
        idmap: PhysAddr::new(1 << 48).unwrap(),
        ..machine(Granule::K4)
    };
    let error = Layout::compute(&input).unwrap_err();
    assert_eq!(
        error,
        LayoutError::IdmapTooHigh {
            idmap: input.idmap,
            max_va_bits: 48
        }
    );
    assert!(format!("{error}").contains("0x1000000000000"));
}

/// Every granule, every VA size, the idmap page at both sides of every bit, RAM at both sides too.
#[test]
fn every_va_size_and_idmap_position_collides_with_nothing() {
    let mut computed = 0;
    for granule in Granule::ALL {
        for max_va_bits in MIN_INPUT_BITS..=MAX_VA_BITS {
            let edges = (granule.shift()..52).flat_map(|bit| {
                let at = 1u64 << bit;
                [at - granule.size(), at, at + granule.size()]
            });
            for idmap in edges {
                for (start, size) in [(0, GIB), (GIB, GIB), (idmap & !(GIB - 1), GIB)] {
                    let input = LayoutInput {
                        max_va_bits,
                        idmap: PhysAddr::new(idmap).unwrap(),
                        ram: ram(start, size),
                        cpus: 2,
                        seed: idmap ^ u64::from(max_va_bits),
                        ..machine(granule)
                    };
                    match Layout::compute(&input) {
                        Ok(layout) => {
                            assert!(layout.va_bits() <= max_va_bits);
                            assert_sound(&input, &layout);
                            computed += 1;
                        }
                        // The only reasons with so little to place.
                        Err(LayoutError::IdmapTooHigh { .. }) => {
                            assert!(idmap + granule.size() > 1 << max_va_bits);
                        }
                        Err(LayoutError::RamTooLarge { .. }) => assert!(max_va_bits < 33),
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        }
    }
    assert!(computed > 10_000, "{computed}");
}

/// RAM of every size up to what fits, and one step beyond.
#[test]
fn ram_of_every_size_fits_until_it_is_refused() {
    for granule in Granule::ALL {
        let unit = linear_unit(granule).unwrap().bytes();
        for shift in linear_unit(granule).unwrap().shift()..48 {
            let input = LayoutInput {
                ram: ram(0, 1 << shift),
                ..machine(granule)
            };
            match Layout::compute(&input) {
                Ok(layout) => assert_sound(&input, &layout),
                Err(error) => {
                    assert!(shift >= 46, "{granule:?} {shift}: {error}");
                    assert!(matches!(error, LayoutError::RamTooLarge { .. }));
                    assert!(format!("{error}").contains("mem="));
                }
            }
        }
        // A quarter of the space, but for the unit that keeps VA 0 free, is the most.
        let most = (1 << 46) - unit;
        for (size, fits) in [(most, true), (most + granule.size(), false)] {
            let input = LayoutInput {
                ram: ram(0, size),
                ..machine(granule)
            };
            let result = Layout::compute(&input);
            assert_eq!(result.is_ok(), fits);
            if let Ok(layout) = result {
                assert_sound(&input, &layout);
            }
        }
    }
}

#[test]
fn stacks_larger_than_their_window_are_refused_with_the_reason() {
    let input = LayoutInput {
        cpus: 1 << 20,
        stack_granules: 1 << 20,
        ..machine(Granule::K4)
    };
    let error = Layout::compute(&input).unwrap_err();
    assert!(matches!(
        error,
        LayoutError::PrivateTooLarge {
            max_va_bits: 48,
            ..
        }
    ));
    assert!(format!("{error}").contains("nr_cpus="));
}

#[test]
fn stacks_that_need_a_level_more_get_it() {
    // 2^15 slots of 2^9 granules: 2^36 bytes, so a window of 39 bits (2^35 bytes) is too small.
    let input = LayoutInput {
        cpus: 1 << 15,
        stack_granules: (1 << 9) - 3,
        ..machine(Granule::K4)
    };
    let layout = Layout::compute(&input).unwrap();
    assert_eq!(layout.va_bits(), 48);
    let stack = layout.stack(input.cpus - 1).unwrap();
    assert_eq!(stack.size_bytes(), 0x1000 * ((1 << 9) - 3));
}

#[test]
fn slots_beyond_all_arithmetic_are_refused() {
    let input = LayoutInput {
        cpus: u32::MAX,
        stack_granules: u32::MAX,
        ..machine(Granule::K64)
    };
    assert_eq!(
        Layout::compute(&input),
        Err(LayoutError::PrivateTooLarge {
            needed_bytes: u64::MAX,
            max_va_bits: 48
        })
    );
}

#[test]
fn input_without_sense_is_refused() {
    let good = machine(Granule::K4);
    let empty = [
        LayoutInput { cpus: 0, ..good },
        LayoutInput {
            stack_granules: 0,
            ..good
        },
        LayoutInput {
            image_granules: 0,
            ..good
        },
    ];
    for input in empty {
        assert_eq!(Layout::compute(&input), Err(LayoutError::Empty));
    }
    let unaligned = [
        LayoutInput {
            idmap: PhysAddr::new(0x4000_0800).unwrap(),
            ..good
        },
        LayoutInput {
            ram: ram(0x800, 0x1000),
            ..good
        },
        LayoutInput {
            ram: ram(0, 0x1800),
            ..good
        },
    ];
    for input in unaligned {
        assert_eq!(Layout::compute(&input), Err(LayoutError::Unaligned));
    }
    for max_va_bits in [0, 24, 53, 64] {
        let input = LayoutInput {
            max_va_bits,
            ..good
        };
        let expected = LayoutError::VaBits { max_va_bits };
        assert_eq!(Layout::compute(&input), Err(expected));
    }
}

#[test]
fn every_refusal_tells_what_to_do_or_what_is_wrong() {
    let page = PhysAddr::new(0x1000).unwrap();
    for (error, words) in [
        (LayoutError::VaBits { max_va_bits: 60 }, "60 bits"),
        (LayoutError::Unaligned, "page"),
        (LayoutError::Empty, "at least one CPU"),
        (
            LayoutError::IdmapTooHigh {
                idmap: page,
                max_va_bits: 48,
            },
            "lower",
        ),
        (
            LayoutError::Overlap {
                first: Region::Image,
                second: Region::Slots,
            },
            "image and slots",
        ),
    ] {
        assert!(format!("{error}").contains(words), "{error}");
    }
}

#[test]
fn overlap_of_a_broken_layout_is_found() {
    let good = Layout::compute(&machine(Granule::K4)).unwrap();
    assert_eq!(good.check(), Ok(()));
    let broken = Layout {
        trampoline: good.idmap,
        ..good
    };
    assert_eq!(
        broken.check(),
        Err(LayoutError::Overlap {
            first: Region::Idmap,
            second: Region::Trampoline
        })
    );
    let broken = Layout {
        vmemmap: good.slots,
        ..good
    };
    assert_eq!(
        broken.check(),
        Err(LayoutError::Overlap {
            first: Region::Slots,
            second: Region::Vmemmap
        })
    );
}

#[test]
fn region_names_are_those_of_the_dump() {
    let layout = Layout::compute(&machine(Granule::K4)).unwrap();
    let names: Vec<&str> = layout.regions().map(|(region, _)| region.name()).collect();
    assert_eq!(
        names[..7],
        [
            "idmap",
            "trampoline",
            "image",
            "linear",
            "vmemmap",
            "stack",
            "context"
        ]
    );
    assert_eq!(
        layout.region_of(layout.stack(2).unwrap().last()),
        Some(Region::Stack(2))
    );
    assert_eq!(Region::Slots.name(), "slots");
}

#[test]
fn seed_moves_every_region_but_the_idmap() {
    let layouts: Vec<Layout> = (0..32)
        .map(|seed| {
            let input = LayoutInput {
                seed,
                ..machine(Granule::K4)
            };
            let layout = Layout::compute(&input).unwrap();
            assert_sound(&input, &layout);
            layout
        })
        .collect();
    let distinct = |of: fn(&Layout) -> AddrRange<HypVa>| {
        let mut firsts: Vec<u64> = layouts.iter().map(|l| of(l).first().raw()).collect();
        firsts.sort_unstable();
        firsts.dedup();
        firsts.len()
    };
    assert_eq!(distinct(Layout::idmap), 1);
    assert_eq!(distinct(Layout::trampoline), 32);
    assert_eq!(distinct(Layout::image), 32);
    assert!(distinct(Layout::linear) > 16);
    assert_eq!(distinct(Layout::vmemmap), 4);
    assert_eq!(distinct(|layout| layout.stack(0).unwrap()), 32);
}

#[test]
fn same_input_gives_the_same_layout() {
    let input = LayoutInput {
        seed: 0x1234,
        ..machine(Granule::K16)
    };
    assert_eq!(Layout::compute(&input), Layout::compute(&input));
}

#[test]
fn vmemmap_alignment_suits_its_blocks() {
    for granule in Granule::ALL {
        let layout = Layout::compute(&machine(granule)).unwrap();
        let window = Pow2::new(layout.vmemmap().size_bytes()).unwrap();
        assert!(layout.vmemmap().is_aligned(window));
    }
}

proptest! {
    #[test]
    fn any_machine_is_laid_out_or_refused_for_a_reason(
        granule in prop::sample::select(&Granule::ALL),
        max_va_bits in prop::sample::select(vec![39u32, 42, 47, 48, 52]),
        idmap in 0u64..1 << 52,
        start in 0u64..1 << 52,
        size_shift in 12u32..50,
        size_low in any::<u64>(),
        image_granules in 1u32..64,
        cpus in 1u32..40,
        stack_granules in 1u32..8,
        seed in any::<u64>(),
        high in 12u32..52,
    ) {
        let down = |raw: u64| raw & !(granule.size() - 1);
        // Spread the addresses over all magnitudes.
        let idmap = down(idmap & ((1 << high) - 1));
        let start = down(start & ((1 << high) - 1));
        let size = down((1 << size_shift) | (size_low & ((1 << size_shift) - 1)))
            .max(granule.size())
            .min((1 << 52) - start);
        let input = LayoutInput {
            granule,
            max_va_bits,
            idmap: PhysAddr::new(idmap).unwrap(),
            ram: ram(start, size),
            image_granules,
            cpus,
            stack_granules,
            seed,
        };
        match Layout::compute(&input) {
            Ok(layout) => assert_sound(&input, &layout),
            Err(LayoutError::IdmapTooHigh { .. }) => prop_assert!(idmap >> max_va_bits != 0),
            Err(LayoutError::RamTooLarge { .. }) => {
                let unit = linear_unit(granule).unwrap().bytes();
                prop_assert!(size + 3 * unit > 1 << (max_va_bits - 2));
            }
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}
