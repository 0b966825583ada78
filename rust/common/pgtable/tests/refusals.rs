// SPDX-License-Identifier: GPL-2.0-only

//! Tests of what is refused, and that a refusal changes nothing.

use super::*;

const SHAPE: (Granule, u32, u32, bool) = (Granule::K4, 39, 40, false);
const PAGE_SIZE: u64 = 0x1000;
const BLOCK_SIZE: u64 = 0x20_0000;

fn rw() -> HypAttrs {
    HypAttrs::normal(HypAccess::ReadWrite)
}

fn ro() -> HypAttrs {
    HypAttrs::normal(HypAccess::Read)
}

fn bench() -> Bench<Stage1> {
    Bench::new(SHAPE)
}

#[test]
fn map_unaligned_is_refused() {
    let mut bench = bench();
    for (range, to) in [
        (va(0x800, PAGE_SIZE), 0),
        (va(0, 0x800), 0),
        (va(0, PAGE_SIZE), 0x800),
    ] {
        assert_eq!(
            bench.map(range, to, rw(), Blocks::Allowed),
            Err(Error::Unaligned)
        );
    }
    assert_eq!(bench.arena.take_trace(), []);
}

#[test]
fn map_last_page_of_the_input_is_mapped_and_the_next_refused() {
    let mut bench = bench();
    let last = (1 << 39) - PAGE_SIZE;
    bench
        .map(va(last, PAGE_SIZE), 0, rw(), Blocks::Allowed)
        .unwrap();
    assert_eq!(
        bench.map(va(1 << 39, PAGE_SIZE), 0, rw(), Blocks::Allowed),
        Err(Error::InputRange)
    );
    assert_eq!(
        bench.map(
            va(last - PAGE_SIZE, 3 * PAGE_SIZE),
            0,
            rw(),
            Blocks::Allowed
        ),
        Err(Error::InputRange)
    );
    bench.assert_sound();
}

#[test]
fn map_last_page_of_the_address_space_is_mapped() {
    for granule in Granule::ALL {
        let mut bench = Bench::<Stage1>::new((granule, 52, 52, true));
        let last = va((1 << 52) - granule.size(), granule.size());
        let to = (1 << 52) - granule.size();
        bench.map(last, to, rw(), Blocks::Allowed).unwrap();
        let found = bench.table.lookup(&bench.arena, last.last()).unwrap();
        assert_eq!(
            found.and_then(|leaf| leaf.translate(last.last())),
            PhysAddr::new((1 << 52) - 1)
        );
        assert_eq!(bench.unmap(last), Ok(granule.size()));
        bench.assert_sound();
        bench.destroy();
    }
}

#[test]
fn map_last_page_of_the_output_is_mapped_and_the_next_refused() {
    let mut bench = bench();
    let last = (1 << 40) - PAGE_SIZE;
    assert_eq!(
        bench.map(va(0, 2 * PAGE_SIZE), last, rw(), Blocks::Allowed),
        Err(Error::OutputRange)
    );
    assert_eq!(
        bench.map(va(0, PAGE_SIZE), 1 << 40, rw(), Blocks::Allowed),
        Err(Error::OutputRange)
    );
    let wrapping = (1 << 52) - PAGE_SIZE;
    assert_eq!(
        bench.map(va(0, 2 * PAGE_SIZE), wrapping, rw(), Blocks::Allowed),
        Err(Error::OutputRange)
    );
    assert_eq!(bench.arena.take_trace(), []);
    bench
        .map(va(0, PAGE_SIZE), last, rw(), Blocks::Allowed)
        .unwrap();
}

#[test]
fn map_same_again_is_refused_as_mapped() {
    let mut bench = bench();
    let range = va(0, 4 * PAGE_SIZE);
    bench.map(range, 0x8000, rw(), Blocks::Allowed).unwrap();
    bench.arena.take_trace();
    assert_eq!(
        bench.map(range, 0x8000, rw(), Blocks::Allowed),
        Err(Error::AlreadyMapped)
    );
    // A part of a block is the same translation as well.
    let block = va(BLOCK_SIZE, BLOCK_SIZE);
    bench.map(block, 0, rw(), Blocks::Allowed).unwrap();
    assert_eq!(
        bench.map(
            va(BLOCK_SIZE + PAGE_SIZE, PAGE_SIZE),
            PAGE_SIZE,
            rw(),
            Blocks::Allowed
        ),
        Err(Error::AlreadyMapped)
    );
    bench.assert_sound();
}

#[test]
fn map_live_entry_requires_break_before_make() {
    let mut bench = bench();
    let range = va(2 * PAGE_SIZE, PAGE_SIZE);
    bench.map(range, 0x8000, rw(), Blocks::Allowed).unwrap();
    bench.arena.take_trace();
    for (range, to, attrs) in [
        (range, 0x9000, rw()),
        (range, 0x8000, ro()),
        (range, 0x8000, HypAttrs::device(true)),
        (va(0, 8 * PAGE_SIZE), 0x8000, rw()),
        (va(0, BLOCK_SIZE), 0, rw()),
    ] {
        assert_eq!(
            bench.map(range, to, attrs, Blocks::Allowed),
            Err(Error::BreakBeforeMake)
        );
    }
    assert_eq!(bench.arena.take_trace(), [], "a refusal wrote something");
}

#[test]
fn map_after_unmap_is_allowed() {
    let mut bench = bench();
    let range = va(0, PAGE_SIZE);
    bench.map(range, 0x8000, rw(), Blocks::Allowed).unwrap();
    bench.unmap(range).unwrap();
    bench.map(range, 0x9000, ro(), Blocks::Allowed).unwrap();
    bench.assert_sound();
}

#[test]
fn map_without_memory_undoes_all_at_every_point_of_failure() {
    // Across a level-1 entry, with an output that no block fits: needs five tables.
    let range = va(
        (1 << 30) - BLOCK_SIZE - PAGE_SIZE,
        2 * BLOCK_SIZE + 2 * PAGE_SIZE,
    );
    let mut needed = 0;
    loop {
        let mut bench = bench();
        bench
            .map(va(0, PAGE_SIZE), 0, rw(), Blocks::Allowed)
            .unwrap();
        bench.assert_sound();
        let before = (bench.runs(), bench.arena.table_count());
        bench.arena.set_budget(Some(needed));
        let result = bench.map(range, 0x8000, rw(), Blocks::Allowed);
        bench.assert_sound();
        if result.is_ok() {
            break;
        }
        assert_eq!(result, Err(Error::NoMemory));
        assert_eq!((bench.runs(), bench.arena.table_count()), before);
        needed += 1;
    }
    assert_eq!(needed, 5);
}

#[test]
fn create_without_memory_is_refused() {
    let arena = Arena::new(Granule::K4, 0);
    arena.set_budget(Some(0));
    let output = Output::new(Granule::K4, 40, false).unwrap();
    let geometry = Geometry::stage1(Granule::K4, 39, output).unwrap();
    assert_eq!(
        PageTable::create(Stage1, geometry, &arena).err(),
        Some(Error::NoMemory)
    );
}

#[test]
fn create_in_memory_beyond_the_output_is_refused_and_given_back() {
    let arena = Arena::new(Granule::K4, 1 << 40);
    let output = Output::new(Granule::K4, 40, false).unwrap();
    let geometry = Geometry::stage1(Granule::K4, 39, output).unwrap();
    assert_eq!(
        PageTable::create(Stage1, geometry, &arena).err(),
        Some(Error::OutputRange)
    );
    assert_eq!(arena.table_count(), 0);
}

#[test]
fn map_with_tables_beyond_the_output_is_refused_and_undone() {
    // The root is the last table below the limit.
    let arena = Arena::new(Granule::K4, (1 << 40) - PAGE_SIZE);
    let output = Output::new(Granule::K4, 40, false).unwrap();
    let geometry = Geometry::stage1(Granule::K4, 39, output).unwrap();
    let mut table = PageTable::create(Stage1, geometry, &arena).unwrap();
    let env = Env::new(&arena, &NotLive);
    assert_eq!(
        table.map(&env, va(0, PAGE_SIZE), pa(0), rw(), Blocks::Allowed),
        Err(Error::OutputRange)
    );
    assert_eq!(arena.table_count(), 1);
    // A 1 GiB block needs no table; splitting it does.
    let block = va(0, 1 << 30);
    table
        .map(&env, block, pa(0), rw(), Blocks::Allowed)
        .unwrap();
    assert_eq!(table.split(&env, block, Level::L2), Err(Error::OutputRange));
    assert_eq!(arena.table_count(), 1);
}

#[test]
fn adopt_unaligned_root_is_refused() {
    let output = Output::new(Granule::K4, 40, false).unwrap();
    let geometry = Geometry::stage1(Granule::K4, 39, output).unwrap();
    assert!(PageTable::adopt(Stage1, geometry, pa(0x3000)).is_ok());
    for root in [0x3800, 1 << 40] {
        assert_eq!(
            PageTable::adopt(Stage1, geometry, pa(root)).err(),
            Some(Error::OutputRange)
        );
    }
}

#[test]
fn map_inexpressible_attributes_is_refused() {
    let mut bench = Bench::<Stage2>::new((Granule::K4, 40, 40, false));
    let attrs = GuestAttrs {
        tag: 16,
        ..GuestAttrs::RAM
    };
    assert_eq!(
        bench.map(ipa(0, PAGE_SIZE), 0, attrs, Blocks::Allowed),
        Err(Error::Attributes)
    );
    assert_eq!(bench.arena.take_trace(), []);
}

#[test]
fn unmap_unaligned_or_outside_is_refused() {
    let mut bench = bench();
    assert_eq!(bench.unmap(va(0x800, PAGE_SIZE)), Err(Error::Unaligned));
    assert_eq!(bench.unmap(va(1 << 39, PAGE_SIZE)), Err(Error::InputRange));
    assert_eq!(bench.unmap(bench.all()), Ok(0));
}

#[test]
fn unmap_part_of_a_block_without_memory_changes_nothing() {
    let mut bench = bench();
    let gigabyte = va(0, 1 << 30);
    bench.map(gigabyte, 0, rw(), Blocks::Allowed).unwrap();
    bench.assert_sound();
    // 1 GiB to 2 MiB to 4 KiB, at either end: four tables.
    let inner = va(PAGE_SIZE, (1 << 30) - 2 * PAGE_SIZE);
    for budget in 0..3 {
        bench.arena.set_budget(Some(budget));
        assert_eq!(bench.unmap(inner), Err(Error::NoMemory), "{budget}");
        bench.assert_sound();
        let leaf = bench.table.lookup(&bench.arena, inner.first()).unwrap();
        assert_eq!(
            leaf.and_then(|leaf| leaf.translate(inner.first())),
            Some(pa(PAGE_SIZE))
        );
        let mut mapped = 0;
        bench
            .table
            .visit(&bench.arena, gigabyte, |leaf| {
                assert_eq!(leaf.pa.raw(), leaf.range.first().raw());
                mapped += leaf.range.size_bytes();
            })
            .unwrap();
        assert_eq!(mapped, 1 << 30);
        bench.merge(gigabyte).unwrap();
        assert_eq!(bench.runs().len(), 1);
    }
    bench.arena.set_budget(Some(3));
    assert_eq!(bench.unmap(inner), Ok((1 << 30) - 2 * PAGE_SIZE));
    bench.assert_sound();
}

#[test]
fn protect_hole_is_refused_and_changes_nothing() {
    let mut bench = bench();
    for page in [0, 2] {
        bench
            .map(va(page * PAGE_SIZE, PAGE_SIZE), 0, rw(), Blocks::Allowed)
            .unwrap();
    }
    bench.arena.take_trace();
    assert_eq!(
        bench.protect(va(0, 3 * PAGE_SIZE), ro()),
        Err(Error::NotMapped)
    );
    assert_eq!(bench.arena.take_trace(), []);
}

#[test]
fn protect_that_refuses_one_leaf_changes_none() {
    let mut bench = bench();
    let range = va(0, 2 * PAGE_SIZE);
    bench
        .map(va(0, PAGE_SIZE), 0, rw(), Blocks::Allowed)
        .unwrap();
    let device = HypAttrs::device(true);
    bench
        .map(va(PAGE_SIZE, PAGE_SIZE), 0, device, Blocks::Allowed)
        .unwrap();
    bench.arena.take_trace();
    let env = Env::new(&bench.arena, &bench.tlb);
    let execute = |attrs: HypAttrs| attrs.with_access(HypAccess::ReadExecute);
    assert_eq!(
        bench.table.protect(&env, range, execute),
        Err(Error::Attributes)
    );
    assert_eq!(bench.arena.take_trace(), []);
}

#[test]
fn protect_unaligned_or_outside_is_refused() {
    let mut bench = bench();
    assert_eq!(
        bench.protect(va(0x800, PAGE_SIZE), ro()),
        Err(Error::Unaligned)
    );
    assert_eq!(
        bench.protect(va(1 << 39, PAGE_SIZE), ro()),
        Err(Error::InputRange)
    );
}

#[test]
fn split_without_memory_changes_nothing() {
    let mut bench = bench();
    let block = va(0, BLOCK_SIZE);
    bench.map(block, 0, rw(), Blocks::Allowed).unwrap();
    bench.arena.take_trace();
    bench.arena.set_budget(Some(0));
    assert_eq!(bench.split(block, Level::L3), Err(Error::NoMemory));
    assert_eq!(bench.arena.take_trace(), []);
    bench.arena.set_budget(None);
    bench.split(block, Level::L3).unwrap();
    bench.assert_sound();
}

#[test]
fn split_and_merge_outside_are_refused() {
    let mut bench = bench();
    let outside = va(1 << 39, PAGE_SIZE);
    assert_eq!(bench.split(outside, Level::L3), Err(Error::InputRange));
    assert_eq!(bench.merge(outside), Err(Error::InputRange));
    assert_eq!(bench.merge(va(1, PAGE_SIZE)), Err(Error::Unaligned));
}

#[test]
fn lookup_outside_is_refused() {
    let bench = bench();
    let outside = HypVa::new(1 << 39).unwrap();
    assert_eq!(
        bench.table.lookup(&bench.arena, outside),
        Err(Error::InputRange)
    );
}

/// A bench with one page at 0, its tables from the root down.
fn with_page() -> (Bench<Stage1>, [PhysAddr; 3]) {
    let mut bench = bench();
    bench
        .map(va(0, PAGE_SIZE), 0, rw(), Blocks::Allowed)
        .unwrap();
    let trace = bench.arena.take_trace();
    let tables: std::vec::Vec<PhysAddr> = trace
        .iter()
        .filter_map(|event| match event {
            Event::Alloc(at) => PhysAddr::new(*at),
            _ => None,
        })
        .collect();
    let root = bench.table.root();
    (bench, [root, tables[0], tables[1]])
}

#[test]
fn walk_corrupt_descriptor_is_reported_by_every_operation() {
    let (mut bench, [_, _, level3]) = with_page();
    let page = va(0, PAGE_SIZE);
    let slot = Slot {
        table: level3,
        index: 0,
    };
    assert!(bench.table.lookup(&bench.arena, page.first()).is_ok());
    bench.arena.corrupt(slot, 1);
    assert_eq!(
        bench.table.lookup(&bench.arena, page.first()),
        Err(Error::Corrupt)
    );
    assert_eq!(bench.unmap(page), Err(Error::Corrupt));
    assert_eq!(bench.protect(page, ro()), Err(Error::Corrupt));
    assert_eq!(bench.split(page, Level::L3), Err(Error::Corrupt));
    assert_eq!(bench.merge(page), Err(Error::Corrupt));
    assert_eq!(
        bench.map(page, 0, rw(), Blocks::Allowed),
        Err(Error::Corrupt)
    );
    assert_eq!(
        bench.table.table_granules(&bench.arena),
        Err(Error::Corrupt)
    );
    assert_eq!(bench.table.runs(&bench.arena, |_| ()), Err(Error::Corrupt));
}

#[test]
fn walk_table_outside_of_the_memory_is_corrupt() {
    let (mut bench, [root, _, _]) = with_page();
    let slot = Slot {
        table: root,
        index: 0,
    };
    bench.arena.corrupt(slot, 0x1003);
    assert_eq!(bench.unmap(va(0, PAGE_SIZE)), Err(Error::Corrupt));
    assert_eq!(
        bench.map(va(PAGE_SIZE, PAGE_SIZE), 0, rw(), Blocks::Allowed),
        Err(Error::Corrupt)
    );
}

#[test]
fn unmap_with_wrong_count_frees_no_table_in_use() {
    let (mut bench, [_, _, level3]) = with_page();
    bench
        .map(va(PAGE_SIZE, PAGE_SIZE), 0, rw(), Blocks::Allowed)
        .unwrap();
    // A count that is too low by one: the last of both is refused instead of making it negative.
    bench.arena.corrupt_count(level3, 0);
    bench.arena.take_trace();
    assert_eq!(bench.unmap(va(0, PAGE_SIZE)), Err(Error::Corrupt));
    let trace = bench.arena.take_trace();
    assert!(!trace.iter().any(|event| matches!(event, Event::Free(_))));
}

#[test]
fn merge_of_pages_that_are_no_block_changes_nothing() {
    // Each breaks one condition: a hole, an unaligned output, another attribute, another address.
    let break_one: [fn(&mut Bench<Stage1>); 4] = [
        |bench| {
            let rest = va(PAGE_SIZE, BLOCK_SIZE - PAGE_SIZE);
            bench.map(rest, PAGE_SIZE, rw(), Blocks::PagesOnly).unwrap();
        },
        |bench| {
            let block = va(0, BLOCK_SIZE);
            bench
                .map(block, PAGE_SIZE, rw(), Blocks::PagesOnly)
                .unwrap();
        },
        |bench| {
            let block = va(0, BLOCK_SIZE);
            bench.map(block, 0, rw(), Blocks::PagesOnly).unwrap();
            bench.protect(va(7 * PAGE_SIZE, PAGE_SIZE), ro()).unwrap();
        },
        |bench| {
            let last = BLOCK_SIZE - PAGE_SIZE;
            bench.map(va(0, last), 0, rw(), Blocks::PagesOnly).unwrap();
            bench
                .map(va(last, PAGE_SIZE), 0, rw(), Blocks::PagesOnly)
                .unwrap();
        },
    ];
    for break_one in break_one {
        let mut bench = bench();
        break_one(&mut bench);
        bench.arena.take_trace();
        assert_eq!(bench.merge(bench.all()), Ok(0));
        assert_eq!(bench.arena.take_trace(), []);
    }
    let mut bench = bench();
    let block = va(0, BLOCK_SIZE);
    bench.map(block, 0, rw(), Blocks::PagesOnly).unwrap();
    assert_eq!(
        bench.merge(va(0, BLOCK_SIZE / 2)),
        Ok(0),
        "beyond the range"
    );
    assert_eq!(bench.merge(block), Ok(1));
}

#[test]
fn merge_of_blocks_above_a_table_changes_nothing() {
    let mut bench = bench();
    // 512 blocks of 2 MiB under one level-1 entry, of which the first is a table of pages that differ.
    let gigabyte = va(0, 1 << 30);
    bench.map(gigabyte, 0, rw(), Blocks::Allowed).unwrap();
    bench.split(gigabyte, Level::L2).unwrap();
    bench.protect(va(0, PAGE_SIZE), ro()).unwrap();
    bench.arena.take_trace();
    assert_eq!(bench.merge(gigabyte), Ok(0));
    assert_eq!(bench.arena.take_trace(), []);
    bench.protect(va(0, PAGE_SIZE), rw()).unwrap();
    assert_eq!(bench.merge(gigabyte), Ok(2));
    bench.assert_sound();
}
