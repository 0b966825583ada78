// SPDX-License-Identifier: GPL-2.0-only

//! Tests of which memory is cleaned when a guest's is unmapped. That it is so at the right time the adversary checks
//! (`rust/arch/fake/tests/guest_memory.rs`).

use std::vec::Vec;

use super::*;

const SHAPE: (Granule, u32, u32, bool) = (Granule::K4, 40, 44, false);
const PAGE: u64 = 0x1000;
const BLOCK: u64 = 0x20_0000;

/// First byte and bytes of what is cleaned when `range` is reclaimed, after which nothing of that is mapped.
fn cleaned(bench: &mut Bench<Stage2>, range: AddrRange<Ipa>) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    let env = Env::new(&bench.arena, &bench.tlb);
    bench
        .table
        .reclaim(&env, range, |pa, bytes| found.push((pa.raw(), bytes)))
        .unwrap();
    bench.assert_sound();
    bench
        .table
        .visit(&bench.arena, range, |leaf| panic!("{leaf:?} is left"))
        .unwrap();
    found
}

fn map(bench: &mut Bench<Stage2>, at: u64, bytes: u64, pa: u64, attrs: GuestAttrs) {
    bench
        .map(ipa(at, bytes), pa, attrs, Blocks::Allowed)
        .unwrap();
}

#[test]
fn reclaim_cleans_neighbours_together_and_no_device() {
    let mut bench = Bench::<Stage2>::new(SHAPE);
    let read_only = GuestAttrs {
        write: false,
        ..GuestAttrs::RAM
    };
    map(&mut bench, 0, PAGE, 8 * BLOCK, GuestAttrs::RAM);
    // It may have been writable once.
    map(&mut bench, PAGE, PAGE, 8 * BLOCK + PAGE, read_only);
    map(
        &mut bench,
        2 * PAGE,
        PAGE,
        8 * BLOCK + 2 * PAGE,
        GuestAttrs::DEVICE,
    );
    map(&mut bench, 3 * PAGE, PAGE, 9 * BLOCK, GuestAttrs::RAM);
    // A hole, and memory below.
    map(&mut bench, 5 * PAGE, PAGE, 7 * BLOCK, GuestAttrs::RAM);
    map(&mut bench, 6 * PAGE, PAGE, 6 * BLOCK, GuestAttrs::RAM);

    assert_eq!(
        cleaned(&mut bench, ipa(0, 6 * PAGE)),
        [(8 * BLOCK, 2 * PAGE), (9 * BLOCK, PAGE), (7 * BLOCK, PAGE)]
    );
    // What is outside has stayed.
    assert_eq!(bench.runs().len(), 1);
    assert_eq!(cleaned(&mut bench, ipa(0, BLOCK)), [(6 * BLOCK, PAGE)]);
    assert_eq!(cleaned(&mut bench, ipa(0, BLOCK)), []);
    bench.destroy();
}

#[test]
fn reclaim_of_a_page_takes_all_of_its_block() {
    let mut bench = Bench::<Stage2>::new(SHAPE);
    let both = 2 * BLOCK;
    map(&mut bench, BLOCK, both, 8 * BLOCK, GuestAttrs::RAM);
    map(&mut bench, 3 * BLOCK, PAGE, 5 * BLOCK, GuestAttrs::RAM);
    let across = ipa(2 * BLOCK - PAGE, 2 * PAGE);
    assert_eq!(cleaned(&mut bench, across), [(8 * BLOCK, both)]);
    assert_eq!(bench.runs().len(), 1);
    // With no memory for a table.
    map(&mut bench, BLOCK, BLOCK, 8 * BLOCK, GuestAttrs::RAM);
    bench.arena.set_budget(Some(0));
    let page = ipa(BLOCK + PAGE, PAGE);
    assert_eq!(cleaned(&mut bench, page), [(8 * BLOCK, BLOCK)]);
    bench.destroy();
}

#[test]
fn reclaim_of_scattered_pages_cleans_each_once() {
    let mut bench = Bench::<Stage2>::new(SHAPE);
    // More than are remembered at a time, some of them neighbours in the guest, none in memory.
    let pages: Vec<u64> = (0..200).filter(|page| page % 7 != 3).collect();
    for page in &pages {
        let pa = 8 * BLOCK + (400 - 2 * page) * PAGE;
        map(&mut bench, page * PAGE, PAGE, pa, GuestAttrs::RAM);
    }
    let expected: Vec<(u64, u64)> = pages
        .iter()
        .map(|page| (8 * BLOCK + (400 - 2 * page) * PAGE, PAGE))
        .collect();
    assert_eq!(cleaned(&mut bench, ipa(0, BLOCK)), expected);
    assert_eq!(bench.arena.table_count(), 1);
    bench.destroy();
}

#[test]
fn reclaim_with_fwb_cleans_nothing() {
    let bench = Bench::<Stage2>::new(SHAPE);
    let fwb = Stage2 {
        fwb: true,
        xnx: true,
    };
    let mut bench = Bench {
        table: PageTable::adopt(fwb, *bench.table.geometry(), bench.table.root()).unwrap(),
        ..bench
    };
    map(&mut bench, 0, PAGE, 8 * BLOCK, GuestAttrs::RAM);
    map(&mut bench, BLOCK, BLOCK, 8 * BLOCK, GuestAttrs::RAM);
    assert_eq!(cleaned(&mut bench, ipa(0, BLOCK + PAGE)), []);
    assert_eq!(bench.runs(), []);
    bench.destroy();
}

#[test]
fn reclaim_of_part_of_a_page_is_refused() {
    let mut bench = Bench::<Stage2>::new(SHAPE);
    map(&mut bench, 0, PAGE, 8 * BLOCK, GuestAttrs::RAM);
    let env = Env::new(&bench.arena, &bench.tlb);
    let half = ipa(0, PAGE / 2);
    let refused = bench.table.reclaim(&env, half, |_, _| panic!("cleaned"));
    assert_eq!(refused, Err(Error::Unaligned));
    assert_eq!(bench.runs().len(), 1);
    bench.destroy();
}
