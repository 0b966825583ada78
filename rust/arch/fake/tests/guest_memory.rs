// SPDX-License-Identifier: GPL-2.0-only

//! Pairs for the memory of a guest that has its caches off, without FWB: what the host has in its caches, and what it reads.

use super::{
    super::{
        Domain,
        Kind,
        Rule, //
    },
    broken,
    scene::Scene,
    subject::{
        Shape,
        Step, //
    },
};
use crate::common::{
    addr::{
        AddrRange,
        Granule,
        Ipa,
        PhysAddr, //
    },
    pgtable::{
        Blocks,
        PageTable,
        Stage2, //
    },
    upkeep::CacheGeometry,
};

const SHAPE: Shape = (Granule::K4, 39, 40, false);
/// Pages of a block.
const BLOCK: u64 = 512;
const PAGE_BYTES: u64 = 4096;
/// The first page of its memory.
const TO: u64 = 8 * BLOCK;
const RAM: u64 = TO * PAGE_BYTES;
/// CTR_EL0 with lines of 64 bytes.
const CTR: u64 = 4 << 16;
const HOST: usize = 0;
/// Does what the guest does with its caches off: it is at EL2 with the MMU off, which for the memory is the same.
const UNCACHED: usize = 2;

/// A guest without memory. It runs on CPU1.
fn guest() -> Scene<Stage2> {
    let scene = Scene::new(SHAPE, 3, BLOCK);
    scene.machine.with(|system| {
        let mut cpu = system.cpu(UNCACHED);
        cpu.exception().unwrap();
        cpu.dsb(Domain::Nsh, Kind::Full).unwrap();
    });
    scene
}

/// Maps the first pages of the block.
fn map(scene: &mut Scene<Stage2>, pages: u64) {
    let step = Step::Map {
        first: 0,
        pages,
        to: TO,
        attr: 0,
        blocks: Blocks::PagesOnly,
    };
    scene.step(step).unwrap();
}

/// The host cleans memory.
fn clean(scene: &Scene<Stage2>, pa: u64, bytes: u64) {
    let port = scene.machine.port(HOST);
    CacheGeometry::from_ctr(CTR).clean_to_poc(&port, pa, bytes, false);
}

/// Whether the memory of a block need not be cleaned before it is mapped.
type Judge = fn(&Scene<Stage2>, &PageTable<Stage2>, AddrRange<Ipa>, PhysAddr) -> bool;

/// The first `pages` pages of a block are mapped, and the host has written the others. The guest gets all of the block, and
/// reads it.
fn complete(pages: u64, is_clean: Judge) -> Vec<Rule> {
    let mut scene = guest();
    let firsts = || (0..BLOCK).map(|page| RAM + page * PAGE_BYTES);
    scene.machine.with(|system| {
        let mut host = system.cpu(HOST);
        firsts().for_each(|pa| host.store64(pa, pa).unwrap());
    });
    clean(&scene, RAM, pages * PAGE_BYTES);
    map(&mut scene, pages);

    let (block, pa) = (scene.range(0, BLOCK), scene.pa(TO));
    if !is_clean(&scene, &scene.table, block, pa) {
        clean(&scene, RAM, BLOCK * PAGE_BYTES);
    }
    scene.machine.with(|system| {
        let mut guest = system.cpu(UNCACHED);
        // A violation is recorded in the system.
        let _ = firsts().try_for_each(|pa| guest.load64(pa).map(|_| ()));
    });
    broken(&scene.machine)
}

#[test]
fn block_good_clean_if_every_page_is_mapped_passes() {
    let every_page: Judge =
        |scene, table, block, pa| table.leads_to(&scene.memory(HOST), block, pa).unwrap();
    for pages in [1, BLOCK - 1, BLOCK] {
        assert_eq!(complete(pages, every_page), []);
    }
}

#[test]
fn block_bad_clean_if_its_first_page_is_mapped_is_caught() {
    let first_page: Judge = |scene, table, block, pa| {
        let leaf = table.lookup(&scene.memory(HOST), block.first()).unwrap();
        leaf.and_then(|leaf| leaf.translate(block.first())) == Some(pa)
    };
    assert_eq!(complete(1, first_page), [Rule::UncleanedRead]);
    assert_eq!(complete(BLOCK, first_page), []);
}
