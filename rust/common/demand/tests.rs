// SPDX-License-Identifier: GPL-2.0-only

//! The arithmetic; that the bound holds for tables that are really built is tested in `pgds`.

use std::vec::Vec;

use super::*;

fn demand(map: MapMode, ram: &[RamRange]) -> Demand<'_> {
    Demand {
        granule: Granule::K4,
        max_va_bits: 48,
        map,
        ram,
        image_pages: 8,
        cpus: 4,
        stack_pages: 2,
    }
}

fn range(first: u64, size_bytes: u64) -> RamRange {
    RamRange {
        first,
        last: first + size_bytes - 1,
    }
}

/// Tables that `extents`, each a first page and a number of pages, touch.
fn touched(pages_per_table: u64, extents: &[(u64, u64)]) -> u64 {
    let mut tables: Vec<u64> = extents
        .iter()
        .flat_map(|(first, pages)| *first..first + pages)
        .map(|page| page / pages_per_table)
        .collect();
    tables.sort_unstable();
    tables.dedup();
    tables.len() as u64
}

#[test]
fn most_is_met_and_never_exceeded() {
    let of = Tables::new(14, Granule::K4).unwrap();
    for pages in 1..30 {
        let worst = (0..4).map(|first| touched(4, &[(first, pages)])).max();
        assert_eq!(of.most(pages, 1), worst);
        for split in 1..pages {
            // Far apart, so that they share no table.
            let worst = (0..4)
                .flat_map(|one| (0..4).map(move |two| (one, two)))
                .map(|(one, two)| touched(4, &[(one, split), (1000 + two, pages - split)]))
                .max()
                .unwrap();
            assert!(of.most(pages, 2).unwrap() >= worst);
        }
    }
    assert_eq!(of.most(0, 0), Some(0));
}

#[test]
fn torn_by_counts_tables_that_are_not_filled() {
    let of = Tables::new(21, Granule::K4).unwrap();
    for (first, bytes, torn) in [
        (0, 0x20_0000, 0),
        (0, 0x40_0000, 0),
        (0x1000, 0x1000, 1),
        (0, 0x1000, 1),
        (0x1f_f000, 0x1000, 1),
        (0x1f_f000, 0x2000, 2),
        (0x1f_f000, 0x40_1000, 1),
        (0x1000, 0x4000_0000, 2),
    ] {
        let range = range(first, bytes).range().unwrap();
        assert_eq!(of.torn_by(range), torn, "{first:#x} {bytes:#x}");
    }
}

#[test]
fn demand_linear_does_not_grow_with_ram_that_blocks_cover() {
    let small = [range(1 << 30, 1 << 30)];
    let large = [range(1 << 30, 256 << 30)];
    let pages = |ram| demand(MapMode::Linear, ram).pages(1, 0).unwrap();
    assert_eq!(pages(&small), pages(&large));
    // A terabyte more is a table of level 1 or two more.
    let huge = [range(1 << 30, 1 << 40)];
    assert!(pages(&huge) - pages(&small) <= 3);
}

#[test]
fn demand_ondemand_depends_on_the_pool_and_its_chunks_alone() {
    let small = [range(1 << 30, 1 << 30)];
    let large = [range(1 << 30, 1 << 40), range(1 << 42, 1 << 40)];
    let pages = |ram, chunks| demand(MapMode::OnDemand, ram).pages(chunks, 64).unwrap();
    assert_eq!(pages(&small, 1), pages(&large, 1));
    assert!(pages(&small, 2) > pages(&small, 1));
}

#[test]
fn demand_pages_is_the_smallest_that_is_enough() {
    let ram = [range(1 << 30, 1 << 30)];
    for map in MapMode::ALL {
        let demand = demand(map, &ram);
        for spare in [0, 64, 100_000] {
            let pages = demand.pages(1, spare).unwrap();
            assert!(demand.needed_of(pages, 1).unwrap() + spare <= pages);
            assert!(demand.needed_of(pages - 1, 1).unwrap() + spare > pages - 1);
        }
    }
}

#[test]
fn demand_that_overflows_is_none() {
    let ram = [range(1 << 30, 1 << 30)];
    let mut demand = demand(MapMode::OnDemand, &ram);
    demand.cpus = u64::MAX;
    assert_eq!(demand.pages(1, 0), None);
}
