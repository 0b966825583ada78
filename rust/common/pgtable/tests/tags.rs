// SPDX-License-Identifier: GPL-2.0-only

//! Tags: bits of a leaf that hardware ignores, so that changing them costs no maintenance.

use super::*;

/// Bits 63:55.
const IGNORED: u64 = 0x1ff << 55;
const PAGE: u64 = 0x12_3456_7000;

fn rw() -> HypAttrs {
    HypAttrs::normal(HypAccess::ReadWrite)
}

/// A table with one page, and the place of that.
fn with_page() -> (Bench<Stage1>, AddrRange<HypVa>) {
    let mut bench = Bench::<Stage1>::new((Granule::K4, 39, 40, false));
    let page = va(PAGE, 0x1000);
    let attrs = rw().with_tag(1).unwrap();
    bench
        .map(page, 0x4000_0000, attrs, Blocks::PagesOnly)
        .unwrap();
    bench.arena.take_trace();
    (bench, page)
}

#[test]
fn tag_change_alone_is_one_store() {
    let (mut bench, page) = with_page();
    for tag in [2, 3, 511, 0, 1] {
        bench.protect(page, rw().with_tag(tag).unwrap()).unwrap();
        let trace = bench.arena.take_trace();
        assert!(matches!(trace[..], [Event::Store(..)]), "{trace:?}");
        assert_eq!(bench.runs()[0].attrs.tag(), tag);
    }
    bench.assert_sound();
}

#[test]
fn tag_change_with_another_permission_is_invalidated() {
    let (mut bench, page) = with_page();
    let attrs = HypAttrs::normal(HypAccess::Read).with_tag(2).unwrap();
    bench.protect(page, attrs).unwrap();
    let trace = bench.arena.take_trace();
    assert!(trace
        .iter()
        .any(|event| matches!(event, Event::Op(Op::Tlbi(_)))));
    bench.assert_sound();
}

#[test]
fn tag_change_between_pages_that_lose_a_permission_leaves_them_two_ranges() {
    let (mut bench, _) = with_page();
    let pages = va(PAGE, 0x3000);
    bench
        .map(
            va(PAGE + 0x1000, 0x1000),
            0x4000_1000,
            HypAttrs::normal(HypAccess::Read),
            Blocks::PagesOnly,
        )
        .unwrap();
    bench
        .map(
            va(PAGE + 0x2000, 0x1000),
            0x4000_2000,
            rw(),
            Blocks::PagesOnly,
        )
        .unwrap();
    bench.arena.take_trace();
    bench
        .protect(
            pages,
            HypAttrs::normal(HypAccess::Read).with_tag(7).unwrap(),
        )
        .unwrap();
    let tlbis = bench
        .arena
        .take_trace()
        .into_iter()
        .filter(|event| matches!(event, Event::Op(Op::Tlbi(_))))
        .count();
    assert_eq!(tlbis, 2);
    bench.assert_sound();
}

#[test]
fn tag_above_the_largest_is_refused() {
    assert_eq!(HypAttrs::MAX_TAG, 511);
    assert!(rw().with_tag(511).is_some());
    assert!(rw().with_tag(512).is_none());
}

#[test]
fn tag_of_every_value_comes_back() {
    for (granule, bits, pa_bits, wide) in STAGE1_SHAPES {
        let format = Output::new(granule, pa_bits, wide).unwrap().format();
        for tag in 0..=HypAttrs::MAX_TAG {
            let attrs = rw().with_tag(tag).unwrap();
            let descriptor = Stage1.encode(attrs, format).unwrap();
            assert_eq!(Stage1.decode(descriptor, format), Some(attrs), "{bits}");
        }
    }
}

/// For every pair: no flush exactly where the descriptors differ in ignored bits only.
fn flush_follows_hardware<F: Subject>(with_tags: &[F::Attrs]) {
    let format = Output::new(Granule::K4, 48, false).unwrap().format();
    for old in with_tags {
        for new in with_tags {
            let [one, other] = [old, new].map(|attrs| F::format().encode(*attrs, format).unwrap());
            let differ = (one ^ other) & !IGNORED != 0;
            assert_eq!(
                F::format().needs_flush(*old, *new),
                differ,
                "{old:?} {new:?}"
            );
        }
    }
}

#[test]
fn needs_flush_follows_the_bits_that_hardware_sees() {
    let mut stage1 = Vec::new();
    let mut stage2 = Vec::new();
    for tag in [0, 1, 15] {
        stage1.extend(
            Stage1::attrs()
                .into_iter()
                .filter_map(|attrs| attrs.with_tag(tag)),
        );
        stage2.extend(Stage2::attrs().into_iter().map(|attrs| GuestAttrs {
            tag: tag as u8,
            ..attrs
        }));
    }
    flush_follows_hardware::<Stage1>(&stage1);
    flush_follows_hardware::<Stage2>(&stage2);
}
