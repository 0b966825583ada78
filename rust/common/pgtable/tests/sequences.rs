// SPDX-License-Identifier: GPL-2.0-only

//! Tests of the order of stores, barriers and invalidations, event by event.

use std::vec::Vec;

use super::{
    super::tlb::{
        invalidate_all_vms,
        Tlbi, //
    },
    *, //
};

const SHAPE: (Granule, u32, u32, bool) = (Granule::K4, 39, 40, false);
/// A page in the middle of nowhere.
const PAGE: u64 = 0x12_3456_7000;
const PAGE_SIZE: u64 = 0x1000;
const BLOCK_SIZE: u64 = 0x20_0000;
const RAM: u64 = 0x4000_0000;
/// TTL of a 4K page and of a 2 MiB block.
const TTL_L3: u64 = 0b0111 << 44;

fn rw() -> HypAttrs {
    HypAttrs::normal(HypAccess::ReadWrite)
}

fn ro() -> HypAttrs {
    HypAttrs::normal(HypAccess::Read)
}

/// DSB ISHST, TLBI, DSB ISH, ISB.
fn invalidation(tlbi: Tlbi) -> [Event; 4] {
    [
        Event::Op(Op::DsbIshst),
        Event::Op(Op::Tlbi(tlbi)),
        Event::Op(Op::DsbIsh),
        Event::Op(Op::Isb),
    ]
}

/// Address of the descriptor for `at` in `table` of `level`.
fn slot(bench: &Bench<Stage1>, table: u64, level: Level, at: u64) -> u64 {
    let index = bench.table.geometry().index(level, at).unwrap();
    table + 8 * index
}

/// A bench with one page mapped, and its three tables from the root down.
fn with_page() -> (Bench<Stage1>, [u64; 3]) {
    let mut bench = Bench::<Stage1>::new(SHAPE);
    bench
        .map(va(PAGE, PAGE_SIZE), RAM, rw(), Blocks::Allowed)
        .unwrap();
    let root = bench.table.root().raw();
    let children: Vec<u64> = bench
        .arena
        .take_trace()
        .iter()
        .filter_map(|event| match event {
            Event::Alloc(at) => Some(*at),
            _ => None,
        })
        .collect();
    (bench, [root, children[0], children[1]])
}

#[test]
fn map_page_links_tables_from_the_top_then_publishes() {
    let mut bench = Bench::<Stage1>::new(SHAPE);
    bench
        .map(va(PAGE, PAGE_SIZE), RAM, rw(), Blocks::Allowed)
        .unwrap();
    let trace = bench.arena.take_trace();
    let (Event::Alloc(level2), Event::Alloc(level3)) = (trace[0], trace[2]) else {
        panic!("{trace:x?}");
    };
    let root = bench.table.root().raw();
    assert_eq!(
        trace,
        [
            Event::Alloc(level2),
            Event::Store(slot(&bench, root, Level::L1, PAGE), level2 | 3),
            Event::Alloc(level3),
            Event::Store(slot(&bench, level2, Level::L2, PAGE), level3 | 3),
            Event::Store(
                slot(&bench, level3, Level::L3, PAGE),
                RAM | 0x0040_0000_0000_0743
            ),
            Event::Op(Op::DsbIshst),
            Event::Op(Op::Isb),
        ]
    );
}

#[test]
fn map_several_pages_publishes_once() {
    let mut bench = Bench::<Stage1>::new(SHAPE);
    bench
        .map(va(PAGE, 100 * PAGE_SIZE), RAM, rw(), Blocks::Allowed)
        .unwrap();
    assert_eq!(ops(&bench.arena.take_trace()), [Op::DsbIshst, Op::Isb]);
}

#[test]
fn unmap_last_page_invalidates_leaf_then_each_table_before_it_is_freed() {
    let (mut bench, [root, level2, level3]) = with_page();
    bench.unmap(va(PAGE, PAGE_SIZE)).unwrap();
    let mut expected = vec![Event::Store(slot(&bench, level3, Level::L3, PAGE), 0)];
    expected.extend(invalidation(Tlbi::Vale2is(PAGE >> 12)));
    expected.push(Event::Store(slot(&bench, level2, Level::L2, PAGE), 0));
    expected.extend(invalidation(Tlbi::Vae2is(PAGE >> 21 << 9)));
    expected.push(Event::Free(level3));
    expected.push(Event::Store(slot(&bench, root, Level::L1, PAGE), 0));
    expected.extend(invalidation(Tlbi::Vae2is(PAGE >> 30 << 18)));
    expected.push(Event::Free(level2));
    assert_eq!(bench.arena.take_trace(), expected);
}

#[test]
fn unmap_page_of_a_table_in_use_frees_nothing() {
    let (mut bench, _) = with_page();
    let next = PAGE + PAGE_SIZE;
    bench
        .map(va(next, PAGE_SIZE), RAM, rw(), Blocks::Allowed)
        .unwrap();
    bench.arena.take_trace();
    bench.unmap(va(next, PAGE_SIZE)).unwrap();
    let trace = bench.arena.take_trace();
    assert_eq!(trace[1..], invalidation(Tlbi::Vale2is(next >> 12)));
}

#[test]
fn unmap_neighbours_share_the_barriers() {
    let mut bench = Bench::<Stage1>::new(SHAPE);
    bench
        .map(va(PAGE, 4 * PAGE_SIZE), RAM, rw(), Blocks::Allowed)
        .unwrap();
    bench.arena.take_trace();
    bench.unmap(va(PAGE, 3 * PAGE_SIZE)).unwrap();
    assert_eq!(
        ops(&bench.arena.take_trace()),
        [
            Op::DsbIshst,
            Op::Tlbi(Tlbi::Vale2is(PAGE >> 12)),
            Op::Tlbi(Tlbi::Vale2is((PAGE >> 12) + 1)),
            Op::Tlbi(Tlbi::Vale2is((PAGE >> 12) + 2)),
            Op::DsbIsh,
            Op::Isb,
        ]
    );
}

#[test]
fn unmap_pages_with_a_hole_invalidates_only_what_was_mapped() {
    let mut bench = Bench::<Stage1>::new(SHAPE);
    for page in [0, 2, 3] {
        let at = va(PAGE + page * PAGE_SIZE, PAGE_SIZE);
        bench.map(at, RAM, rw(), Blocks::Allowed).unwrap();
    }
    bench.arena.take_trace();
    bench.unmap(va(PAGE, 3 * PAGE_SIZE)).unwrap();
    let tlbis: Vec<Op> = ops(&bench.arena.take_trace())
        .into_iter()
        .filter(|op| matches!(op, Op::Tlbi(_)))
        .collect();
    assert_eq!(
        tlbis,
        [
            Op::Tlbi(Tlbi::Vale2is(PAGE >> 12)),
            Op::Tlbi(Tlbi::Vale2is((PAGE >> 12) + 2))
        ]
    );
}

#[test]
fn unmap_neighbours_of_two_sizes_invalidates_each_at_its_own() {
    let mut bench = Bench::<Stage1>::new(SHAPE);
    // Two pages, a block, two pages; the outer pages stay, and so do their tables.
    let all = va(BLOCK_SIZE - 2 * PAGE_SIZE, BLOCK_SIZE + 4 * PAGE_SIZE);
    bench
        .map(all, RAM - 2 * PAGE_SIZE, rw(), Blocks::Allowed)
        .unwrap();
    bench.arena.take_trace();
    let inner = va(BLOCK_SIZE - PAGE_SIZE, BLOCK_SIZE + 2 * PAGE_SIZE);
    bench.unmap(inner).unwrap();
    let mut expected = Vec::new();
    for first in [BLOCK_SIZE - PAGE_SIZE, BLOCK_SIZE, 2 * BLOCK_SIZE] {
        expected.extend(ops(&invalidation(Tlbi::Vale2is(first >> 12))));
    }
    assert_eq!(ops(&bench.arena.take_trace()), expected);
}

#[test]
fn unmap_of_nothing_touches_nothing() {
    let mut bench = Bench::<Stage1>::new(SHAPE);
    assert_eq!(bench.unmap(va(PAGE, PAGE_SIZE)), Ok(0));
    assert_eq!(bench.arena.take_trace(), []);
}

#[test]
fn protect_writes_in_place_and_invalidates_after() {
    let (mut bench, [_, _, level3]) = with_page();
    bench.protect(va(PAGE, PAGE_SIZE), ro()).unwrap();
    let at = slot(&bench, level3, Level::L3, PAGE);
    let mut expected = vec![Event::Store(at, RAM | 0x0040_0000_0000_07c3)];
    expected.extend(invalidation(Tlbi::Vale2is(PAGE >> 12)));
    assert_eq!(bench.arena.take_trace(), expected);
}

#[test]
fn protect_of_the_same_touches_nothing() {
    let (mut bench, _) = with_page();
    bench.protect(va(PAGE, PAGE_SIZE), rw()).unwrap();
    assert_eq!(bench.arena.take_trace(), []);
}

#[test]
fn protect_to_another_memory_type_breaks_before_it_makes() {
    let (mut bench, [_, _, level3]) = with_page();
    bench
        .protect(va(PAGE, PAGE_SIZE), HypAttrs::device(true))
        .unwrap();
    let at = slot(&bench, level3, Level::L3, PAGE);
    let mut expected = vec![Event::Store(at, 0)];
    expected.extend(invalidation(Tlbi::Vale2is(PAGE >> 12)));
    expected.extend([
        Event::Store(at, RAM | 0x0040_0000_0000_0753),
        Event::Op(Op::DsbIshst),
        Event::Op(Op::Isb),
    ]);
    assert_eq!(bench.arena.take_trace(), expected);
    bench.assert_sound();
}

/// A bench with one 2 MiB block at 0, and its level-2 table.
fn with_block() -> (Bench<Stage1>, u64) {
    let mut bench = Bench::<Stage1>::new(SHAPE);
    bench
        .map(va(0, BLOCK_SIZE), RAM, rw(), Blocks::Allowed)
        .unwrap();
    let Event::Alloc(level2) = bench.arena.take_trace()[0] else {
        panic!("no table");
    };
    (bench, level2)
}

#[test]
fn split_fills_the_table_first_then_breaks_then_makes() {
    let (mut bench, level2) = with_block();
    bench.split(va(0, BLOCK_SIZE), Level::L3).unwrap();
    let trace = bench.arena.take_trace();
    let Event::Alloc(level3) = trace[0] else {
        panic!("no table");
    };
    let leaves = (0..512).map(|page| {
        let descriptor = (RAM + page * PAGE_SIZE) | 0x0040_0000_0000_0743;
        Event::Store(level3 + 8 * page, descriptor)
    });
    let mut expected = vec![Event::Alloc(level3)];
    expected.extend(leaves);
    expected.push(Event::Store(level2, 0));
    expected.extend(invalidation(Tlbi::Vale2is(0)));
    expected.extend([
        Event::Store(level2, level3 | 3),
        Event::Op(Op::DsbIshst),
        Event::Op(Op::Isb),
    ]);
    assert_eq!(trace, expected);
    bench.assert_sound();
}

#[test]
fn merge_breaks_the_whole_table_then_makes_then_frees() {
    let (mut bench, level2) = with_block();
    bench.split(va(0, BLOCK_SIZE), Level::L3).unwrap();
    let Event::Alloc(level3) = bench.arena.take_trace()[0] else {
        panic!("no table");
    };
    assert_eq!(bench.merge(va(0, BLOCK_SIZE)), Ok(1));
    let mut expected = vec![Event::Store(level2, 0)];
    expected.extend(invalidation(Tlbi::Alle2is));
    expected.extend([
        Event::Store(level2, RAM | 0x0040_0000_0000_0741),
        Event::Op(Op::DsbIshst),
        Event::Op(Op::Isb),
        Event::Free(level3),
    ]);
    assert_eq!(bench.arena.take_trace(), expected);
    bench.assert_sound();
}

fn hyp_ops(features: TlbFeatures, range: AddrRange<HypVa>, stale: Stale) -> Vec<Op> {
    let arena = Arena::new(Granule::K4, 0);
    let tlb = HypTlb {
        port: arena.clone(),
        granule: Granule::K4,
        features,
    };
    tlb.invalidate(range, stale);
    ops(&arena.take_trace())
}

#[test]
fn hyp_invalidation_names_the_level_only_with_ttl() {
    let ttl = TlbFeatures {
        ttl: true,
        repeat: false,
    };
    let levels = [
        (Level::L3, PAGE_SIZE, TTL_L3),
        (Level::L2, BLOCK_SIZE, 0b0110 << 44),
        (Level::L1, 1 << 30, 0b0101 << 44),
        (Level::L0, 1 << 39, 0b0100 << 44),
    ];
    for (level, size, hint) in levels {
        let leaf = va(size, size);
        let with = hyp_ops(ttl, leaf, Stale::Leaves(level));
        assert_eq!(with[1], Op::Tlbi(Tlbi::Vale2is((size >> 12) | hint)));
        let without = hyp_ops(TlbFeatures::default(), leaf, Stale::Leaves(level));
        assert_eq!(without[1], Op::Tlbi(Tlbi::Vale2is(size >> 12)));
    }
    // A table has no leaf whose level could be named, and no leaf is at level -1.
    let table = hyp_ops(ttl, va(0, BLOCK_SIZE), Stale::Table(Level::L2));
    assert_eq!(table[1], Op::Tlbi(Tlbi::Vae2is(0)));
    let top = hyp_ops(ttl, va(0, 1 << 48), Stale::Leaves(Level::Minus1));
    assert_eq!(top[1], Op::Tlbi(Tlbi::Vale2is(0)));
}

#[test]
fn hyp_invalidation_hint_names_the_granule() {
    for (granule, hint) in [(Granule::K16, 0b1011u64), (Granule::K64, 0b1111)] {
        let arena = Arena::new(granule, 0);
        let tlb = HypTlb {
            port: arena.clone(),
            granule,
            features: TlbFeatures {
                ttl: true,
                repeat: false,
            },
        };
        tlb.invalidate(va(0, granule.size()), Stale::Leaves(Level::L3));
        let trace = ops(&arena.take_trace());
        assert_eq!(trace[1], Op::Tlbi(Tlbi::Vale2is(hint << 44)));
    }
}

#[test]
fn hyp_invalidation_of_many_leaves_invalidates_all() {
    let most = va(0, 512 * PAGE_SIZE);
    let ops = hyp_ops(TlbFeatures::default(), most, Stale::Leaves(Level::L3));
    assert_eq!(ops.len(), 512 + 3);
    let more = va(0, 513 * PAGE_SIZE);
    let ops = hyp_ops(TlbFeatures::default(), more, Stale::Leaves(Level::L3));
    assert_eq!(
        ops,
        [Op::DsbIshst, Op::Tlbi(Tlbi::Alle2is), Op::DsbIsh, Op::Isb]
    );
}

#[test]
fn hyp_invalidation_under_the_erratum_is_issued_twice() {
    let repeat = TlbFeatures {
        ttl: false,
        repeat: true,
    };
    let tlbi = Op::Tlbi(Tlbi::Vale2is(PAGE >> 12));
    assert_eq!(
        hyp_ops(repeat, va(PAGE, PAGE_SIZE), Stale::Leaves(Level::L3)),
        [Op::DsbIshst, tlbi, Op::DsbIsh, tlbi, Op::DsbIsh, Op::Isb]
    );
}

fn guest_tlb(repeat: bool) -> (Arena, GuestTlb<Arena>) {
    let arena = Arena::new(Granule::K4, 0);
    let tlb = GuestTlb {
        port: arena.clone(),
        granule: Granule::K4,
        features: TlbFeatures { ttl: true, repeat },
        guest: Stage2Regs {
            vttbr: GUEST_VTTBR,
            vtcr: GUEST_VTCR,
        },
        host: Stage2Regs {
            vttbr: 0x55,
            vtcr: 0x66,
        },
        host_tcr: None,
    };
    (arena, tlb)
}

#[test]
fn guest_invalidation_keeps_walks_off_where_needed() {
    let (arena, tlb) = guest_tlb(false);
    let tlb = GuestTlb {
        host_tcr: Some(0x10),
        ..tlb
    };
    tlb.invalidate_vm();
    assert_eq!(
        ops(&arena.take_trace()),
        [
            Op::DsbIsh,
            Op::WriteTcrEl1(0x80_0090),
            Op::Isb,
            Op::WriteVttbr(GUEST_VTTBR),
            Op::WriteVtcr(GUEST_VTCR),
            Op::Isb,
            Op::Tlbi(Tlbi::Vmalls12e1is),
            Op::DsbIsh,
            Op::Isb,
            Op::WriteVttbr(0x55),
            Op::WriteVtcr(0x66),
            Op::Isb,
            Op::WriteTcrEl1(0x10),
        ]
    );
}

#[test]
fn guest_invalidation_of_all_vmids_needs_none_in_place() {
    for (repeat, times) in [(false, 1), (true, 2)] {
        let arena = Arena::new(Granule::K4, 0);
        invalidate_all_vms(&arena, TlbFeatures { ttl: false, repeat });
        let mut expected = vec![Op::DsbIshst];
        for _ in 0..times {
            expected.extend([Op::Tlbi(Tlbi::Alle1is), Op::DsbIsh]);
        }
        assert_eq!(ops(&arena.take_trace()), expected);
    }
}

/// What stands around every invalidation at stage 2.
fn under_vmid(sequence: &[Op]) -> Vec<Op> {
    let mut expected = vec![
        Op::DsbIsh,
        Op::WriteVttbr(GUEST_VTTBR),
        Op::WriteVtcr(GUEST_VTCR),
        Op::Isb,
    ];
    expected.extend(sequence);
    expected.extend([Op::Isb, Op::WriteVttbr(0x55), Op::WriteVtcr(0x66), Op::Isb]);
    expected
}

#[test]
fn guest_invalidation_completes_stage2_before_stage1() {
    let (arena, tlb) = guest_tlb(false);
    tlb.invalidate(ipa(PAGE, PAGE_SIZE), Stale::Leaves(Level::L3));
    let leaf = Op::Tlbi(Tlbi::Ipas2le1is((PAGE >> 12) | TTL_L3));
    let stage1 = Op::Tlbi(Tlbi::Vmalle1is);
    assert_eq!(
        ops(&arena.take_trace()),
        under_vmid(&[leaf, Op::DsbIsh, stage1, Op::DsbIsh])
    );
    tlb.invalidate(ipa(0, BLOCK_SIZE), Stale::Table(Level::L2));
    let table = Op::Tlbi(Tlbi::Ipas2e1is(0));
    assert_eq!(
        ops(&arena.take_trace()),
        under_vmid(&[table, Op::DsbIsh, stage1, Op::DsbIsh])
    );
}

#[test]
fn guest_invalidation_under_the_erratum_is_issued_twice() {
    let (arena, tlb) = guest_tlb(true);
    tlb.invalidate(ipa(PAGE, PAGE_SIZE), Stale::Leaves(Level::L3));
    let leaf = Op::Tlbi(Tlbi::Ipas2le1is((PAGE >> 12) | TTL_L3));
    let stage1 = Op::Tlbi(Tlbi::Vmalle1is);
    let dsb = Op::DsbIsh;
    assert_eq!(
        ops(&arena.take_trace()),
        under_vmid(&[leaf, dsb, leaf, dsb, stage1, dsb, stage1, dsb])
    );
}

#[test]
fn guest_invalidation_of_much_invalidates_the_vmid() {
    let (arena, tlb) = guest_tlb(false);
    let all = under_vmid(&[Op::Tlbi(Tlbi::Vmalls12e1is), Op::DsbIsh]);
    tlb.invalidate(ipa(0, 513 * PAGE_SIZE), Stale::Leaves(Level::L3));
    assert_eq!(ops(&arena.take_trace()), all);
    tlb.invalidate(ipa(0, BLOCK_SIZE), Stale::Subtree(Level::L2));
    assert_eq!(ops(&arena.take_trace()), all);
    tlb.invalidate_vm();
    assert_eq!(ops(&arena.take_trace()), all);
}

#[test]
fn guest_publish_needs_no_isb() {
    let (arena, tlb) = guest_tlb(false);
    tlb.publish();
    assert_eq!(ops(&arena.take_trace()), [Op::DsbIshst]);
}

#[test]
fn not_live_table_needs_no_maintenance() {
    let bench = Bench::<Stage1>::new(SHAPE);
    let mut table = bench.table;
    let env = Env::new(&bench.arena, &NotLive);
    let range = va(0, 2 * BLOCK_SIZE);
    table
        .map(&env, range, pa(RAM), rw(), Blocks::Allowed)
        .unwrap();
    table.unmap(&env, va(0, PAGE_SIZE)).unwrap();
    assert_eq!(ops(&bench.arena.take_trace()), []);
}
