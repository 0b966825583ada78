// SPDX-License-Identifier: GPL-2.0-only

//! Tests of what the operations achieve, on every shape of table.

use std::vec::Vec;

use super::*;

/// Runs a test on every shape of both formats.
macro_rules! on_every_shape {
    ($name:ident, $test:ident) => {
        #[test]
        fn $name() {
            for shape in STAGE1_SHAPES {
                $test::<Stage1>(Bench::new(shape));
            }
            for shape in STAGE2_SHAPES {
                $test::<Stage2>(Bench::new(shape));
            }
        }
    };
}

fn range<F: Format>(first: u64, size_bytes: u64) -> AddrRange<F::Input> {
    AddrRange::new(F::Input::new(first).unwrap(), size_bytes).unwrap()
}

/// Sizes of leaves that fit into the table, pages first.
fn leaf_sizes<F: Subject>(bench: &Bench<F>) -> Vec<(Level, u64)> {
    let geometry = bench.table.geometry();
    let smallest = geometry.input_bits().min(geometry.output().bits());
    Level::ALL
        .iter()
        .rev()
        .filter(|level| **level >= geometry.start_level() && geometry.is_leaf_level(**level))
        .filter_map(|level| Some((*level, geometry.entry_size(*level)?.bytes())))
        .filter(|(_, size)| *size <= 1 << (smallest - 1))
        .collect()
}

fn every_leaf_size<F: Subject>(mut bench: Bench<F>) {
    for (level, size) in leaf_sizes(&bench) {
        for attrs in F::attrs() {
            let at = range::<F>(size, size);
            bench.map(at, 0, attrs, Blocks::Allowed).unwrap();
            let leaf = bench.table.lookup(&bench.arena, at.last()).unwrap();
            assert_eq!(
                leaf,
                Some(Mapping {
                    range: at,
                    pa: pa(0),
                    level,
                    attrs
                })
            );
            let below = F::Input::new(size - 1).unwrap();
            assert_eq!(bench.table.lookup(&bench.arena, below), Ok(None));
            bench.assert_sound();
            assert_eq!(bench.unmap(at), Ok(size));
            bench.assert_sound();
        }
    }
    assert_eq!(bench.arena.table_count(), 1, "tables are left");
    bench.destroy();
}

on_every_shape!(map_every_leaf_size_is_one_leaf, every_leaf_size);

fn unaligned_output<F: Subject>(mut bench: Bench<F>) {
    let granule = bench.table.geometry().granule();
    let Some((_, block)) = leaf_sizes(&bench).get(1).copied() else {
        return;
    };
    // Input aligned to the block, output only to the granule: pages must do.
    let at = range::<F>(block, block);
    let attrs = F::attrs()[0];
    bench
        .map(at, granule.size(), attrs, Blocks::Allowed)
        .unwrap();
    let leaf = bench
        .table
        .lookup(&bench.arena, at.first())
        .unwrap()
        .unwrap();
    assert_eq!(leaf.level, Level::L3);
    assert_eq!(bench.runs().len(), 1);
    bench.assert_sound();
    assert_eq!(bench.unmap(bench.all()), Ok(block));
    bench.assert_sound();
    bench.destroy();
}

on_every_shape!(map_output_not_aligned_to_block_uses_pages, unaligned_output);

fn pages_only<F: Subject>(mut bench: Bench<F>) {
    let Some((_, block)) = leaf_sizes(&bench).get(1).copied() else {
        return;
    };
    let at = range::<F>(0, block);
    bench.map(at, 0, F::attrs()[0], Blocks::PagesOnly).unwrap();
    assert_eq!(bench.runs()[0].level, Level::L3);
    bench.assert_sound();
    let entries = block / bench.table.geometry().granule().size();
    assert_eq!(entries, bench.table.geometry().entries());
    assert_eq!(bench.merge(at), Ok(1));
    bench.assert_sound();
    assert_eq!(bench.runs()[0].level, Level::L2);
    bench.split(at, Level::L3).unwrap();
    bench.assert_sound();
    assert_eq!(bench.runs()[0].level, Level::L3);
    bench.destroy();
}

on_every_shape!(map_pages_only_then_merge_and_split_is_the_same, pages_only);

fn around_a_block<F: Subject>(mut bench: Bench<F>) {
    let page = bench.table.geometry().granule().size();
    let Some((level, block)) = leaf_sizes(&bench).get(1).copied() else {
        return;
    };
    // A page before, a block, a page after.
    let at = range::<F>(block - page, block + 2 * page);
    bench
        .map(at, block - page, F::attrs()[0], Blocks::Allowed)
        .unwrap();
    let levels: Vec<Level> = bench.runs().iter().map(|run| run.level).collect();
    assert_eq!(levels, [Level::L3, level, Level::L3]);
    bench.assert_sound();
    // Out of the middle of the block.
    let hole = range::<F>(block + page, page);
    assert_eq!(bench.unmap(hole), Ok(page));
    bench.assert_sound();
    assert_eq!(bench.table.lookup(&bench.arena, hole.first()), Ok(None));
    let after = F::Input::new(block + 2 * page).unwrap();
    let leaf = bench.table.lookup(&bench.arena, after).unwrap().unwrap();
    assert_eq!(leaf.translate(after), Some(pa(block + 2 * page)));
    assert_eq!(leaf.translate(hole.first()), None);
    assert_eq!(bench.unmap(bench.all()), Ok(block + page));
    bench.assert_sound();
    assert_eq!(bench.arena.table_count(), 1);
    bench.destroy();
}

on_every_shape!(unmap_middle_of_block_keeps_the_rest, around_a_block);

fn protect_part<F: Subject>(mut bench: Bench<F>) {
    let page = bench.table.geometry().granule().size();
    let Some((level, block)) = leaf_sizes(&bench).get(1).copied() else {
        return;
    };
    let whole = range::<F>(0, 2 * block);
    let attrs = F::attrs();
    bench.map(whole, 0, attrs[0], Blocks::Allowed).unwrap();
    let part = range::<F>(block - page, 2 * page);
    for new in [attrs[1], attrs[3], attrs[0]] {
        bench.protect(part, new).unwrap();
        bench.assert_sound();
        let leaf = bench.table.lookup(&bench.arena, part.first()).unwrap();
        assert_eq!(leaf.map(|leaf| leaf.attrs), Some(new));
        let zero = F::Input::new(0).unwrap();
        let other = bench.table.lookup(&bench.arena, zero).unwrap();
        assert_eq!(other.map(|leaf| leaf.attrs), Some(attrs[0]));
    }
    // All the same again, so it merges back.
    assert_eq!(bench.merge(whole), Ok(2));
    bench.assert_sound();
    let runs = bench.runs();
    assert_eq!((runs.len(), runs[0].level), (1, level));
    bench.destroy();
}

on_every_shape!(protect_part_of_blocks_changes_only_it, protect_part);

fn all_levels<F: Subject>(mut bench: Bench<F>) {
    let sizes = leaf_sizes(&bench);
    // Splitting the largest leaf all the way down takes too many tables; one path of it is enough.
    let Some((top, size)) = sizes.last().copied().filter(|_| sizes.len() > 1) else {
        return;
    };
    let whole = range::<F>(0, size);
    bench.map(whole, 0, F::attrs()[0], Blocks::Allowed).unwrap();
    let page = bench.table.geometry().granule().size();
    bench
        .split(range::<F>(size - page, page), Level::L3)
        .unwrap();
    bench.assert_sound();
    // One run for each level that the split came through.
    let levels = Level::L3.number() - top.number();
    assert_eq!(bench.runs().len(), levels as usize);
    assert_eq!(
        bench.arena.table_count(),
        1 + sizes.len() - 1 + leading(&bench, top)
    );
    assert_eq!(bench.merge(whole), Ok(sizes.len() as u64 - 1));
    bench.assert_sound();
    assert_eq!(bench.runs().len(), 1);
    bench.destroy();
}

/// Tables between the root and an entry of `level`.
fn leading<F: Subject>(bench: &Bench<F>, level: Level) -> usize {
    (level.number() - bench.table.geometry().start_level().number()) as usize
}

on_every_shape!(split_to_pages_and_merge_back_passes_every_level, all_levels);

fn tables_reused<F: Subject>(mut bench: Bench<F>) {
    let page = bench.table.geometry().granule().size();
    let all = bench.all();
    let last = range::<F>(all.last().raw() - (page - 1), page);
    for _ in 0..10 {
        for at in [range::<F>(0, page), last] {
            bench.map(at, 0, F::attrs()[0], Blocks::Allowed).unwrap();
        }
        bench.assert_sound();
        assert_eq!(bench.unmap(all), Ok(2 * page));
        bench.assert_sound();
        assert_eq!(bench.arena.table_count(), 1);
    }
    bench.destroy();
}

on_every_shape!(unmap_everything_returns_every_table, tables_reused);

#[test]
fn largest_leaf_limit_is_obeyed() {
    let output = Output::new(Granule::K4, 48, false).unwrap();
    let geometry = Geometry::stage1(Granule::K4, 48, output)
        .unwrap()
        .with_largest_leaf(Level::L2);
    let arena = Arena::new(Granule::K4, 0x8000_0000);
    let mut table = PageTable::create(Stage1, geometry, &arena).unwrap();
    let attrs = HypAttrs::normal(HypAccess::Read);
    let env = Env::new(&arena, &NotLive);
    let gigabyte = va(0, 1 << 30);
    table
        .map(&env, gigabyte, pa(0), attrs, Blocks::Allowed)
        .unwrap();
    let leaf = table.lookup(&arena, gigabyte.first()).unwrap().unwrap();
    assert_eq!(leaf.level, Level::L2);
    assert_eq!(table.merge(&env, gigabyte), Ok(0));
    assert_eq!(table.geometry().largest_leaf(), Level::L2);
    assert_eq!(table.format(), &Stage1);
}

#[test]
fn runs_join_only_what_continues() {
    let mut bench = Bench::<Stage1>::new((Granule::K4, 39, 40, false));
    let rw = HypAttrs::normal(HypAccess::ReadWrite);
    let ro = HypAttrs::normal(HypAccess::Read);
    for (first, pages, to, attrs) in [
        (0x1000, 2, 0x5000, rw),
        (0x3000, 1, 0x7000, rw),
        // Another address, other attributes, a hole.
        (0x4000, 1, 0x9000, rw),
        (0x5000, 1, 0xa000, ro),
        (0x7000, 1, 0xc000, ro),
    ] {
        bench
            .map(va(first, pages * 0x1000), to, attrs, Blocks::Allowed)
            .unwrap();
    }
    let runs: Vec<(u64, u64)> = bench
        .runs()
        .iter()
        .map(|run| (run.range.first().raw(), run.range.size_bytes()))
        .collect();
    assert_eq!(
        runs,
        [
            (0x1000, 0x3000),
            (0x4000, 0x1000),
            (0x5000, 0x1000),
            (0x7000, 0x1000)
        ]
    );
}

#[test]
fn visit_range_shows_leaves_that_touch_it() {
    let mut bench = Bench::<Stage1>::new((Granule::K4, 39, 40, false));
    let rw = HypAttrs::normal(HypAccess::ReadWrite);
    bench.map(va(0, 0x40_1000), 0, rw, Blocks::Allowed).unwrap();
    let mut firsts = Vec::new();
    bench
        .table
        .visit(&bench.arena, va(0x3f_ffff, 2), |leaf| {
            firsts.push(leaf.range.first().raw());
        })
        .unwrap();
    assert_eq!(firsts, [0x20_0000, 0x40_0000]);
}

#[test]
fn visit_ends_at_the_leaf_that_says_so() {
    let mut bench = Bench::<Stage1>::new((Granule::K4, 39, 40, false));
    let rw = HypAttrs::normal(HypAccess::ReadWrite);
    // Pages in two tables, and a block behind them.
    bench
        .map(va(0x1f_e000, 0x4000), 0, rw, Blocks::PagesOnly)
        .unwrap();
    bench
        .map(va(0x40_0000, 0x20_0000), 0x40_0000, rw, Blocks::Allowed)
        .unwrap();
    for most in 1..=5 {
        let mut firsts = Vec::new();
        bench
            .table
            .visit_while(&bench.arena, va(0, 0x4000_0000), |leaf| {
                firsts.push(leaf.range.first().raw());
                firsts.len() < most
            })
            .unwrap();
        let all = [0x1f_e000, 0x1f_f000, 0x20_0000, 0x20_1000, 0x40_0000];
        assert_eq!(firsts, all[..most]);
    }
}

fn leads_to<F: Subject>(mut bench: Bench<F>) {
    let page = bench.table.geometry().granule().size();
    let Some((_, block)) = leaf_sizes(&bench).get(1).copied() else {
        return;
    };
    let attrs = F::attrs();
    let all = range::<F>(block, block);
    let found = |bench: &Bench<F>, at, to| bench.table.leads_to(&bench.arena, at, pa(to)).unwrap();
    assert!(!found(&bench, all, 0));
    // The first page says nothing about the others, and neither do all but one.
    let mut mapped = 0;
    for part in [page, block - 2 * page] {
        let at = range::<F>(block + mapped, part);
        bench.map(at, mapped, attrs[0], Blocks::PagesOnly).unwrap();
        mapped += part;
        assert!(found(&bench, range::<F>(block, mapped), 0));
        assert!(!found(&bench, all, 0));
    }
    // The last page, to other memory, and to the right one with other attributes.
    let last = range::<F>(block + mapped, page);
    bench.map(last, 0, attrs[0], Blocks::PagesOnly).unwrap();
    assert!(!found(&bench, all, 0));
    bench.unmap(last).unwrap();
    bench
        .map(last, mapped, attrs[1], Blocks::PagesOnly)
        .unwrap();
    assert!(found(&bench, all, 0));
    assert!(!found(&bench, all, page));
    // One leaf for all of it, and for more.
    bench.unmap(all).unwrap();
    bench.map(all, block, attrs[0], Blocks::Allowed).unwrap();
    assert!(found(&bench, all, block));
    assert!(found(&bench, last, block + mapped));
    assert!(!found(&bench, last, block));
    bench.destroy();
}

on_every_shape!(leads_to_is_about_every_page, leads_to);

#[test]
fn adopt_sees_what_the_creator_mapped() {
    let mut bench = Bench::<Stage1>::new((Granule::K16, 47, 48, false));
    let rw = HypAttrs::normal(HypAccess::ReadWrite);
    bench
        .map(va(0x4000, 0x4000), 0, rw, Blocks::Allowed)
        .unwrap();
    let mut table = PageTable::adopt(Stage1, *bench.table.geometry(), bench.table.root()).unwrap();
    let env = Env::new(&bench.arena, &bench.tlb);
    assert_eq!(table.unmap(&env, va(0x4000, 0x4000)), Ok(0x4000));
    assert_eq!(bench.runs(), []);
}

#[test]
fn destroy_with_mappings_frees_every_table() {
    let mut bench = Bench::<Stage2>::new((Granule::K4, 40, 44, false));
    for gigabyte in [0u64, 3, 700] {
        bench
            .map(
                ipa(gigabyte << 30, 0x1000),
                0,
                GuestAttrs::RAM,
                Blocks::Allowed,
            )
            .unwrap();
    }
    assert_eq!(bench.table.table_granules(&bench.arena), Ok(2 + 6));
    bench.destroy();
}
