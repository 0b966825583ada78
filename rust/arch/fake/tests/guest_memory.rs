// SPDX-License-Identifier: GPL-2.0-only

//! Pairs for the memory of a guest that has its caches off, without FWB: what the host has in its caches, and what it reads.

use super::{
    super::{
        Access,
        Domain,
        El,
        Injector,
        Kind,
        Machine,
        Port,
        Rule,
        Translation, //
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
        tlb::GuestTlb,
        Blocks,
        Env,
        Maintenance,
        PageTable,
        Stage2,
        Stale, //
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
/// In the guest.
const RUNNING: usize = 1;
/// Does what the guest does with its caches off: it is at EL2 with the MMU off, which for the memory is the same.
const UNCACHED: usize = 2;

/// A guest without memory. It runs on one CPU.
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
    scene.step_with(step, &Injector::default()).unwrap();
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

/// Keeps the TLBs in step by hypercalls, as the host does.
struct Calls {
    machine: Machine,
    tlb: GuestTlb<Port>,
}

impl Calls {
    fn new(scene: &Scene<Stage2>) -> Self {
        Self {
            machine: scene.machine.clone(),
            tlb: scene.tlb(HOST, &Injector::default()),
        }
    }
}

impl Maintenance<Ipa> for Calls {
    fn publish(&self) {
        self.tlb.publish();
    }

    fn invalidate(&self, range: AddrRange<Ipa>, stale: Stale) {
        self.machine.with(|system| system.cpu(HOST).hvc().unwrap());
        self.tlb.invalidate(range, stale);
        self.machine
            .with(|system| system.cpu(HOST).eret(El::Host).unwrap());
    }
}

/// The guest writes a page past the caches for as long as it can; the host takes the page away, as `take` does, and reads it.
fn taken(take: impl FnOnce(&mut Scene<Stage2>)) -> Vec<Rule> {
    let mut scene = guest();
    let store = |machine: &Machine, cpu, value| {
        machine.with(|system| system.cpu(cpu).store64(RAM, value).unwrap());
    };
    store(&scene.machine, HOST, 1);
    clean(&scene, RAM, PAGE_BYTES);
    map(&mut scene, 1);

    let ipa = scene.range(0, 1).first().raw();
    let machine = scene.machine.clone();
    let guest_writes = move || {
        // The question must leave no trace.
        let asked = machine.fork();
        let found = asked.with(|system| system.cpu(RUNNING).probe_guest(ipa, Access::Write));
        if !matches!(found, Ok(Translation::Fault)) {
            store(&machine, UNCACHED, 2);
        }
    };
    guest_writes();
    scene.machine = scene.machine.clone().with_interrupt(guest_writes);
    take(&mut scene);
    scene.machine.with(|system| {
        // A violation is recorded in the system.
        let _ = system.cpu(HOST).load64(RAM);
    });
    broken(&scene.machine)
}

fn unmap(scene: &mut Scene<Stage2>) {
    let (memory, tlb) = (scene.memory(HOST), Calls::new(scene));
    let page = scene.range(0, 1);
    scene.table.unmap(&Env::new(&memory, &tlb), page).unwrap();
}

#[test]
fn memory_good_reclaimed_passes() {
    let reclaim = |scene: &mut Scene<Stage2>| {
        let (memory, tlb) = (scene.memory(HOST), Calls::new(scene));
        let (page, port) = (scene.range(0, 1), scene.machine.port(HOST));
        let cache = CacheGeometry::from_ctr(CTR);
        let clean = |pa: PhysAddr, bytes| cache.clean_to_poc(&port, pa.raw(), bytes, false);
        let env = Env::new(&memory, &tlb);
        scene.table.reclaim(&env, page, clean).unwrap();
    };
    assert_eq!(taken(reclaim), []);
}

#[test]
fn memory_bad_unmapped_without_a_clean_is_caught() {
    assert_eq!(taken(unmap), [Rule::HiddenStore]);
}

#[test]
fn memory_bad_cleaned_while_it_is_mapped_is_caught() {
    let too_early = |scene: &mut Scene<Stage2>| {
        clean(scene, RAM, PAGE_BYTES);
        unmap(scene);
    };
    assert_eq!(taken(too_early), [Rule::HiddenStore]);
}
