// SPDX-License-Identifier: GPL-2.0-only

//! Tests of addresses, alignments and ranges, at both ends of every space.

use proptest::prelude::*;
use std::format;

use super::*;

fn pa(raw: u64) -> PhysAddr {
    PhysAddr::new(raw).unwrap()
}

fn kern(raw: u64) -> KernVa {
    KernVa::new(raw).unwrap()
}

const LAST_PA: u64 = (1 << 52) - 1;

#[test]
fn address_within_the_space_is_accepted() {
    for raw in [0, 1, LAST_PA] {
        assert_eq!(PhysAddr::new(raw).map(PhysAddr::raw), Some(raw));
        assert_eq!(Ipa::new(raw).map(Ipa::raw), Some(raw));
        assert_eq!(HypVa::new(raw).map(HypVa::raw), Some(raw));
    }
    for raw in [0xfff0 << 48, u64::MAX] {
        assert_eq!(KernVa::new(raw).map(KernVa::raw), Some(raw));
    }
}

#[test]
fn address_outside_the_space_is_refused() {
    for raw in [LAST_PA + 1, u64::MAX] {
        assert_eq!(PhysAddr::new(raw), None);
        assert_eq!(Ipa::new(raw), None);
        assert_eq!(HypVa::new(raw), None);
    }
    for raw in [0, LAST_PA, (0xfff0 << 48) - 1] {
        assert_eq!(KernVa::new(raw), None);
    }
}

#[test]
fn address_arithmetic_stops_at_the_ends_of_the_space() {
    assert_eq!(pa(LAST_PA - 1).checked_add(1), Some(pa(LAST_PA)));
    assert_eq!(pa(LAST_PA).checked_add(1), None);
    assert_eq!(pa(1).checked_add(u64::MAX), None);
    assert_eq!(pa(1).checked_sub(1), Some(pa(0)));
    assert_eq!(pa(0).checked_sub(1), None);
    assert_eq!(kern(u64::MAX).checked_add(1), None);
    assert_eq!(kern(0xfff0 << 48).checked_sub(1), None);
    assert_eq!(pa(5).offset_from(pa(3)), Some(2));
    assert_eq!(pa(3).offset_from(pa(5)), None);
}

#[test]
fn address_alignment_stops_at_the_ends_of_the_space() {
    let page = Granule::K4.unit();
    assert!(pa(0x3000).is_aligned(page) && !pa(0x3001).is_aligned(page));
    assert_eq!(pa(0x3fff).align_down(page), Some(pa(0x3000)));
    assert_eq!(
        kern(u64::MAX).align_down(page),
        KernVa::new(u64::MAX - 0xfff)
    );
}

#[test]
fn address_shows_its_space_in_debug_and_its_number_in_hex() {
    assert_eq!(format!("{:?}", pa(0x40)), "PhysAddr(0x40)");
    assert_eq!(format!("{:?}", Ipa::new(0x40).unwrap()), "Ipa(0x40)");
    assert_eq!(format!("{:#x}", HypVa::new(0x40).unwrap()), "0x40");
    assert_eq!(format!("{:x}", kern(u64::MAX)), "ffffffffffffffff");
}

#[test]
fn pow2_takes_powers_of_two_only() {
    for shift in 0..64 {
        let unit = Pow2::from_shift(shift).unwrap();
        assert_eq!(unit.shift(), shift);
        assert_eq!(Pow2::new(unit.bytes()), Some(unit));
        assert_eq!(unit.mask(), unit.bytes() - 1);
    }
    assert_eq!(Pow2::from_shift(64), None);
    for bytes in [0, 3, u64::MAX] {
        assert_eq!(Pow2::new(bytes), None);
    }
}

#[test]
fn granule_sizes_are_those_of_the_architecture() {
    for (granule, shift, size) in [
        (Granule::K4, 12, 4096),
        (Granule::K16, 14, 16384),
        (Granule::K64, 16, 65536),
    ] {
        assert_eq!(Granule::from_shift(shift), Some(granule));
        assert_eq!((granule.shift(), granule.size()), (shift, size));
        assert_eq!(granule as u32, shift);
        assert_eq!(granule.times(3), Some(3 * size));
        assert_eq!(granule.times(u64::MAX), None);
    }
    for shift in [0, 11, 13, 15, 17] {
        assert_eq!(Granule::from_shift(shift), None);
    }
}

#[test]
fn pfn_of_the_last_frame_leads_back() {
    for granule in Granule::ALL {
        let pfn = Pfn::containing(pa(LAST_PA), granule);
        assert_eq!(pfn.base(granule), Some(pa(LAST_PA + 1 - granule.size())));
        assert_eq!(Pfn::new(pfn.raw()), Some(pfn));
    }
    // The next frame of the larger granules has a number, but no address.
    let beyond = Pfn::new(Pfn::containing(pa(LAST_PA), Granule::K64).raw() + 1).unwrap();
    assert_eq!(beyond.base(Granule::K64), None);
    assert_eq!(Pfn::new(Pfn::MAX + 1), None);
}

#[test]
fn range_empty_or_wrapping_is_refused() {
    assert_eq!(AddrRange::new(pa(0), 0), None);
    assert_eq!(AddrRange::new(pa(LAST_PA), 2), None);
    assert_eq!(AddrRange::new(pa(1), u64::MAX), None);
    assert_eq!(AddrRange::new(kern(u64::MAX), 2), None);
    assert_eq!(AddrRange::from_bounds(pa(2), pa(1)), None);
}

#[test]
fn range_touching_the_end_of_the_space_is_a_range() {
    let last_page = AddrRange::new(kern(u64::MAX - 0xfff), 0x1000).unwrap();
    assert_eq!(last_page.last(), kern(u64::MAX));
    assert_eq!(last_page.end(), None);
    assert_eq!(last_page.size_bytes(), 0x1000);
    assert!(last_page.is_aligned(Granule::K4.unit()));
    assert!(!last_page.is_aligned(Granule::K16.unit()));
    let all = AddrRange::new(pa(0), LAST_PA + 1).unwrap();
    assert_eq!((all.size_bytes(), all.end()), (LAST_PA + 1, None));
    assert!(all.contains_range(&AddrRange::point(pa(LAST_PA))));
}

/// A space of all 64 bits, which none of ours is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Any64(u64);

impl Address for Any64 {
    const MIN: u64 = 0;
    const MAX: u64 = u64::MAX;

    fn new(raw: u64) -> Option<Self> {
        Some(Self(raw))
    }

    fn raw(self) -> u64 {
        self.0
    }
}

#[test]
fn range_of_two_to_the_64_is_refused() {
    assert_eq!(AddrRange::from_bounds(Any64(0), Any64(u64::MAX)), None);
    let most = AddrRange::from_bounds(Any64(1), Any64(u64::MAX)).unwrap();
    assert_eq!(most.size_bytes(), u64::MAX);
    assert_eq!(AddrRange::new(Any64(1), u64::MAX), Some(most));
}

#[test]
fn range_edges_belong_to_it_and_neighbours_do_not() {
    let range = AddrRange::new(pa(0x1000), 0x1000).unwrap();
    assert!(range.contains(pa(0x1000)) && range.contains(pa(0x1fff)));
    assert!(!range.contains(pa(0xfff)) && !range.contains(pa(0x2000)));
    let next = AddrRange::new(pa(0x2000), 0x1000).unwrap();
    assert!(!range.overlaps(&next) && !next.overlaps(&range));
    assert_eq!(range.intersection(&next), None);
    let across = AddrRange::new(pa(0x1fff), 2).unwrap();
    assert!(range.overlaps(&across) && across.overlaps(&next));
    assert!(!range.contains_range(&across));
    assert_eq!(
        range.intersection(&across),
        Some(AddrRange::point(pa(0x1fff)))
    );
}

#[test]
fn range_align_outward_covers_whole_units() {
    let page = Granule::K4.unit();
    let across = AddrRange::new(pa(0x1fff), 2).unwrap();
    let outward = across.align_outward(page).unwrap();
    assert_eq!((outward.first(), outward.last()), (pa(0x1000), pa(0x2fff)));
    assert_eq!(outward.align_outward(page), Some(outward));
    let last = AddrRange::point(pa(LAST_PA)).align_outward(page).unwrap();
    assert_eq!(last.last(), pa(LAST_PA));
    // A unit that the space is not a multiple of.
    let huge = Pow2::from_shift(60).unwrap();
    assert_eq!(across.align_outward(huge), None);
}

#[test]
fn range_from_keeps_what_is_above() {
    let range = AddrRange::new(pa(0x1000), 0x2000).unwrap();
    assert_eq!(range.from(pa(0)), Some(range));
    assert_eq!(range.from(pa(0x2000)), AddrRange::new(pa(0x2000), 0x1000));
    assert_eq!(range.from(pa(0x3000)), None);
}

proptest! {
    #[test]
    fn pow2_rounding_is_the_nearest_multiple(shift in 0u32..63, value in any::<u64>()) {
        let unit = Pow2::from_shift(shift).unwrap();
        let down = unit.round_down(value);
        prop_assert!(unit.divides(down) && down <= value && value - down < unit.bytes());
        match unit.round_up(value) {
            Some(up) => prop_assert!(unit.divides(up) && up >= value && up - value < unit.bytes()),
            None => prop_assert!(value > u64::MAX - unit.mask()),
        }
    }

    #[test]
    fn range_relations_agree_with_their_definition(
        a in 0u64..64, a_size in 1u64..64, b in 0u64..64, b_size in 1u64..64,
    ) {
        let first = AddrRange::new(pa(a), a_size).unwrap();
        let second = AddrRange::new(pa(b), b_size).unwrap();
        let common: std::vec::Vec<u64> = (0..128)
            .filter(|at| first.contains(pa(*at)) && second.contains(pa(*at)))
            .collect();
        prop_assert_eq!(first.overlaps(&second), !common.is_empty());
        let bounds = common.first().zip(common.last());
        let expected = bounds.and_then(|(f, l)| AddrRange::from_bounds(pa(*f), pa(*l)));
        prop_assert_eq!(first.intersection(&second), expected);
        prop_assert_eq!(first.contains_range(&second), common.len() as u64 == b_size);
    }
}
