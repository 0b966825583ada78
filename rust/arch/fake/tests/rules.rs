// SPDX-License-Identifier: GPL-2.0-only

//! Pairs for the EL2 regime: each rule of break-before-make, invalidation and barriers, kept and broken.

use std::cell::RefCell;

use super::{
    super::{
        Domain,
        El,
        Injector,
        Instruction,
        Kind,
        Reg,
        Rule,
        Tlbi, //
    },
    broken,
    scene::Scene,
    subject::{
        Shape,
        Step,
        Subject, //
    },
};
use crate::common::{
    addr::{
        AddrRange,
        Granule,
        HypVa, //
    },
    pgtable::{
        tlb::TlbFeatures,
        Blocks,
        Maintenance,
        Slot,
        Stage1,
        Stale,
        TableMemory, //
    },
};

const SHAPE: Shape = (Granule::K4, 39, 40, false);
const BLOCK: u64 = 512;
const DSB_ISHST: Instruction = Instruction::Dsb(Domain::Ish, Kind::Stores);
const DSB_ISH: Instruction = Instruction::Dsb(Domain::Ish, Kind::Full);

/// Maps the first `pages` pages, beside one that keeps the table alive.
const fn map(pages: u64, blocks: Blocks) -> Step {
    Step::Map {
        first: 0,
        pages,
        to: 8 * BLOCK,
        attr: 0,
        blocks,
    }
}

const PAGES: Step = map(4, Blocks::PagesOnly);
const UNMAP_ONE: Step = Step::Unmap { first: 1, pages: 1 };
const UNMAP_ALL: Step = Step::Unmap { first: 0, pages: 4 };

/// Makes `step` after `before`, with each instruction of it replaced by what `edit` says, and returns the rules that this
/// breaks.
pub(super) fn outcome<F: Subject>(
    before: &[Step],
    step: Step,
    edit: impl Fn(Instruction) -> Vec<Instruction> + Send + Sync + 'static,
) -> Vec<Rule> {
    let mut scene = Scene::<F>::new(SHAPE, 3, 2 * BLOCK);
    scene.visits = true;
    for step in before {
        scene.step(*step).unwrap();
    }
    let injector = Injector::editing(move |_, instruction| edit(instruction));
    let _ = scene.step_with(step, &injector);
    scene.check();
    broken(&scene.machine)
}

/// Nothing is replaced.
pub(super) fn as_it_is(instruction: Instruction) -> Vec<Instruction> {
    vec![instruction]
}

/// Leaves `missing` out.
pub(super) fn without(missing: Instruction) -> impl Fn(Instruction) -> Vec<Instruction> {
    replace(move |instruction| instruction == missing, None)
}

/// Replaces what is `chosen`.
pub(super) fn replace(
    chosen: impl Fn(Instruction) -> bool,
    other: Option<Instruction>,
) -> impl Fn(Instruction) -> Vec<Instruction> {
    move |instruction| match chosen(instruction) {
        true => other.into_iter().collect(),
        false => vec![instruction],
    }
}

pub(super) fn is_tlbi(instruction: Instruction) -> bool {
    matches!(instruction, Instruction::Tlbi(_))
}

fn edited_tlbi(edit: impl Fn(Tlbi) -> Tlbi) -> impl Fn(Instruction) -> Vec<Instruction> {
    move |instruction| match instruction {
        Instruction::Tlbi(tlbi) => vec![Instruction::Tlbi(edit(tlbi))],
        other => vec![other],
    }
}

/// `map` of a page, which makes an invalid entry valid.
fn publish(edit: impl Fn(Instruction) -> Vec<Instruction> + Send + Sync + 'static) -> Vec<Rule> {
    outcome::<Stage1>(
        &[PAGES],
        Step::Map {
            first: 9,
            pages: 1,
            to: 77,
            attr: 0,
            blocks: Blocks::PagesOnly,
        },
        edit,
    )
}

#[test]
fn publish_good_dsb_ishst_and_isb_passes() {
    assert_eq!(publish(as_it_is), []);
}

#[test]
fn publish_bad_without_dsb_is_caught() {
    assert_eq!(publish(without(DSB_ISHST)), [Rule::StaleTranslation]);
}

#[test]
fn publish_bad_dsb_nshst_is_caught() {
    let nsh = Instruction::Dsb(Domain::Nsh, Kind::Stores);
    let edit = replace(|instruction| instruction == DSB_ISHST, Some(nsh));
    assert_eq!(publish(edit), [Rule::StaleTranslation]);
}

#[test]
fn publish_bad_without_isb_is_caught() {
    assert_eq!(publish(without(Instruction::Isb)), [Rule::StaleTranslation]);
}

fn unmap_leaf(edit: impl Fn(Instruction) -> Vec<Instruction> + Send + Sync + 'static) -> Vec<Rule> {
    outcome::<Stage1>(&[PAGES], UNMAP_ONE, edit)
}

#[test]
fn unmap_good_sequence_passes() {
    assert_eq!(unmap_leaf(as_it_is), []);
}

#[test]
fn unmap_bad_without_dsb_before_the_tlbi_is_caught() {
    assert_eq!(unmap_leaf(without(DSB_ISHST)), [Rule::StaleTranslation]);
}

#[test]
fn unmap_bad_without_tlbi_is_caught() {
    assert_eq!(unmap_leaf(replace(is_tlbi, None)), [Rule::StaleTranslation]);
}

#[test]
fn unmap_bad_without_dsb_after_the_tlbi_is_caught() {
    assert_eq!(unmap_leaf(without(DSB_ISH)), [Rule::StaleTranslation]);
}

#[test]
fn unmap_bad_dsb_ishst_after_the_tlbi_is_caught() {
    let edit = replace(|instruction| instruction == DSB_ISH, Some(DSB_ISHST));
    assert_eq!(unmap_leaf(edit), [Rule::StaleTranslation]);
}

#[test]
fn unmap_bad_dsb_nsh_after_a_broadcast_tlbi_is_caught() {
    let nsh = Instruction::Dsb(Domain::Nsh, Kind::Full);
    let edit = replace(|instruction| instruction == DSB_ISH, Some(nsh));
    assert_eq!(unmap_leaf(edit), [Rule::StaleTranslation]);
}

#[test]
fn unmap_bad_without_isb_is_caught() {
    assert_eq!(
        unmap_leaf(without(Instruction::Isb)),
        [Rule::StaleTranslation]
    );
}

#[test]
fn unmap_bad_local_tlbi_is_caught_on_cpus_that_never_used_the_page() {
    assert_eq!(
        unmap_leaf(edited_tlbi(Tlbi::local)),
        [Rule::StaleTranslation]
    );
}

#[test]
fn unmap_good_local_tlbi_on_the_only_cpu_passes() {
    let mut scene = Scene::<Stage1>::new(SHAPE, 1, BLOCK);
    scene.step(PAGES).unwrap();
    let injector = Injector::editing(|_, instruction| match instruction {
        Instruction::Tlbi(tlbi) => vec![Instruction::Tlbi(tlbi.local())],
        Instruction::Dsb(_, kind) => vec![Instruction::Dsb(Domain::Nsh, kind)],
        other => vec![other],
    });
    scene.step_with(UNMAP_ONE, &injector).unwrap();
    scene.check();
    assert_eq!(broken(&scene.machine), []);
}

#[test]
fn unmap_bad_tlbi_of_another_page_is_caught() {
    let edit = edited_tlbi(|tlbi| match tlbi {
        Tlbi::Vale2 { operand, is } => Tlbi::Vale2 {
            operand: operand + 1,
            is,
        },
        other => other,
    });
    assert_eq!(unmap_leaf(edit), [Rule::StaleTranslation]);
}

/// TTL of `level` with the 4K granule.
fn hinted(level: u64) -> impl Fn(Instruction) -> Vec<Instruction> {
    edited_tlbi(move |tlbi| match tlbi {
        Tlbi::Vale2 { operand, is } => Tlbi::Vale2 {
            operand: operand | (((1 << 2) | level) << 44),
            is,
        },
        other => other,
    })
}

#[test]
fn unmap_good_level_hint_passes() {
    assert_eq!(unmap_leaf(hinted(3)), []);
}

#[test]
fn unmap_bad_level_hint_is_caught() {
    assert_eq!(unmap_leaf(hinted(2)), [Rule::StaleTranslation]);
}

#[test]
fn unmap_bad_tlbi_of_the_other_regime_is_caught() {
    let edit = edited_tlbi(|_| Tlbi::Alle1 { is: true });
    assert_eq!(unmap_leaf(edit), [Rule::StaleTranslation]);
}

#[test]
fn unlink_good_vae2_passes() {
    assert_eq!(outcome::<Stage1>(&[PAGES], UNMAP_ALL, as_it_is), []);
}

#[test]
fn unlink_bad_vale2_for_a_table_is_caught() {
    let edit = edited_tlbi(|tlbi| match tlbi {
        Tlbi::Vae2 { operand, is } => Tlbi::Vale2 { operand, is },
        other => other,
    });
    let rules = outcome::<Stage1>(&[PAGES], UNMAP_ALL, edit);
    assert_eq!(rules[0], Rule::FreedTable);
}

/// Does everything, but at the end of the operation.
struct Late<T> {
    tlb: T,
    waiting: RefCell<Vec<(AddrRange<HypVa>, Stale)>>,
}

impl<T: Maintenance<HypVa>> Maintenance<HypVa> for Late<T> {
    fn publish(&self) {
        self.tlb.publish();
    }

    fn invalidate(&self, range: AddrRange<HypVa>, stale: Stale) {
        self.waiting.borrow_mut().push((range, stale));
    }
}

#[test]
fn unlink_bad_table_freed_before_its_tlbi_is_caught() {
    let mut scene = Scene::<Stage1>::new(SHAPE, 2, BLOCK);
    scene.step(PAGES).unwrap();
    let late = Late {
        tlb: scene.tlb(0, &Injector::default()),
        waiting: RefCell::default(),
    };
    scene.step_by(UNMAP_ALL, &late).unwrap();
    for (range, stale) in late.waiting.take() {
        late.tlb.invalidate(range, stale);
    }
    scene.check();
    let rules = broken(&scene.machine);
    assert!(!rules.is_empty());
    assert!(
        rules.iter().all(|rule| *rule == Rule::FreedTable),
        "{rules:?}"
    );
}

const A_BLOCK: Step = map(BLOCK, Blocks::Allowed);
const ITS_PAGES: Step = map(BLOCK, Blocks::PagesOnly);
const SPLIT: Step = Step::Split { first: 0, pages: 1 };
const MERGE: Step = Step::Merge {
    first: 0,
    pages: BLOCK,
};
const TO_DEVICE: Step = Step::Protect {
    first: 0,
    pages: 1,
    attr: 3,
};

#[test]
fn break_before_make_good_split_passes() {
    assert_eq!(outcome::<Stage1>(&[A_BLOCK], SPLIT, as_it_is), []);
}

#[test]
fn break_before_make_bad_split_without_tlbi_is_caught() {
    let rules = outcome::<Stage1>(&[A_BLOCK], SPLIT, replace(is_tlbi, None));
    assert_eq!(rules[0], Rule::BreakBeforeMake);
}

#[test]
fn break_before_make_bad_split_before_the_tlbi_is_complete_is_caught() {
    let rules = outcome::<Stage1>(&[A_BLOCK], SPLIT, without(DSB_ISH));
    assert_eq!(rules[0], Rule::BreakBeforeMake);
}

#[test]
fn break_before_make_good_merge_passes() {
    assert_eq!(outcome::<Stage1>(&[ITS_PAGES], MERGE, as_it_is), []);
}

#[test]
fn break_before_make_bad_merge_that_invalidates_the_walk_alone_is_caught() {
    // The leaves of the other addresses stay.
    let edit = edited_tlbi(|tlbi| match tlbi {
        Tlbi::Alle2 { is } => Tlbi::Vae2 {
            operand: 0x4000_0000 >> 12,
            is,
        },
        other => other,
    });
    let rules = outcome::<Stage1>(&[ITS_PAGES], MERGE, edit);
    assert_eq!(rules[0], Rule::BreakBeforeMake);
}

#[test]
fn break_before_make_good_memory_type_passes() {
    assert_eq!(outcome::<Stage1>(&[PAGES], TO_DEVICE, as_it_is), []);
}

#[test]
fn break_before_make_bad_memory_type_without_tlbi_is_caught() {
    let rules = outcome::<Stage1>(&[PAGES], TO_DEVICE, replace(is_tlbi, None));
    assert_eq!(rules[0], Rule::BreakBeforeMake);
}

/// Writes the descriptor of the first page as it is, with `flip` flipped, over a live entry.
fn overwrite(flip: u64) -> Vec<Rule> {
    let mut scene = Scene::<Stage1>::new(SHAPE, 2, BLOCK);
    scene.step(PAGES).unwrap();
    let memory = scene.memory(0);
    // The root, the table of level 2, the table of level 3; the window starts at half of the space.
    let slot = |table, index| Slot {
        table: crate::common::addr::PhysAddr::new(table).unwrap(),
        index,
    };
    let address = |descriptor: u64| descriptor & 0xffff_ffff_f000;
    let level2 = memory.load(slot(scene.table.root().raw(), 256)).unwrap();
    let level3 = memory.load(slot(address(level2), 0)).unwrap();
    let leaf = slot(address(level3), 0);
    let old = memory.load(leaf).unwrap();
    memory.store(leaf, old ^ flip).unwrap();
    broken(&scene.machine)
}

#[test]
fn break_before_make_good_permissions_may_change_live_passes() {
    // AP[2], and a bit for software.
    assert_eq!(overwrite(1 << 7), []);
    assert_eq!(overwrite(1 << 55), []);
}

#[test]
fn break_before_make_bad_live_output_address_is_caught() {
    assert_eq!(overwrite(1 << 12), [Rule::BreakBeforeMake]);
}

#[test]
fn break_before_make_bad_live_memory_type_is_caught() {
    // AttrIndx 0 becomes 4.
    assert_eq!(overwrite(1 << 4), [Rule::BreakBeforeMake]);
}

#[test]
fn break_before_make_bad_live_shareability_is_caught() {
    assert_eq!(overwrite(1 << 8), [Rule::BreakBeforeMake]);
}

fn tlbi_at(el: El, tlbi: Tlbi) -> Vec<Rule> {
    let scene = Scene::<Stage1>::new(SHAPE, 1, BLOCK);
    scene.machine.with(|system| {
        let mut cpu = system.cpu(0);
        if el == El::Host {
            cpu.eret(El::Host).unwrap();
        }
        let _ = cpu.tlbi(tlbi);
    });
    broken(&scene.machine)
}

#[test]
fn privilege_good_tlbi_at_el2_passes() {
    assert_eq!(tlbi_at(El::Hyp, Tlbi::Alle2 { is: true }), []);
    assert_eq!(tlbi_at(El::Host, Tlbi::Vmalle1 { is: true }), []);
}

#[test]
fn privilege_bad_el2_tlbi_at_el1_is_caught() {
    for tlbi in [
        Tlbi::Alle2 { is: true },
        Tlbi::Vae2 {
            operand: 0,
            is: true,
        },
        Tlbi::Alle1 { is: false },
        Tlbi::Vmalls12e1 { is: true },
    ] {
        assert_eq!(tlbi_at(El::Host, tlbi), [Rule::WrongLevel]);
    }
}

/// The errata of some CPUs ask for two broadcast invalidations.
fn erratum(repeat: bool) -> Vec<Rule> {
    let mut scene = Scene::<Stage1>::new(SHAPE, 2, BLOCK);
    scene.machine.with(|system| system.needs_repeated_tlbi());
    scene.features = TlbFeatures {
        repeat,
        ..TlbFeatures::default()
    };
    scene.step_with(PAGES, &Injector::default()).unwrap();
    scene.step_with(UNMAP_ONE, &Injector::default()).unwrap();
    scene.check();
    broken(&scene.machine)
}

#[test]
fn erratum_good_repeated_tlbi_passes() {
    assert_eq!(erratum(true), []);
}

#[test]
fn erratum_bad_single_tlbi_is_caught() {
    assert_eq!(erratum(false), [Rule::StaleTranslation]);
}

/// Links a table whose entries were just written.
fn link(release: bool, dsb: bool) -> Vec<Rule> {
    let scene = Scene::<Stage1>::new(SHAPE, 1, BLOCK);
    let memory = scene.memory(0);
    let child = memory.alloc(1).unwrap().raw();
    let entry = scene.table.root().raw() + 256 * 8;
    scene.machine.with(|system| {
        let mut cpu = system.cpu(0);
        // The tables are mapped at their own addresses for nobody: stores by way of the host.
        cpu.eret(El::Host).unwrap();
        cpu.store64(child + 8, 0x4020_0000 | 0x701).unwrap();
        if dsb {
            cpu.dsb(Domain::Ish, Kind::Stores).unwrap();
        }
        let _ = if release {
            cpu.store_release64(entry, child | 3)
        } else {
            cpu.store64(entry, child | 3)
        };
    });
    broken(&scene.machine)
}

#[test]
fn link_good_release_store_passes() {
    assert_eq!(link(true, false), []);
}

#[test]
fn link_good_store_after_dsb_passes() {
    assert_eq!(link(false, true), []);
}

#[test]
fn link_bad_plain_store_is_caught() {
    assert_eq!(link(false, false), [Rule::UnpublishedTable]);
}

/// Builds a table that nobody uses, and makes a CPU use it.
fn make_live(dsb: bool) -> Vec<Rule> {
    let scene = Scene::<Stage1>::new(SHAPE, 2, BLOCK);
    let memory = scene.memory(0);
    let root = memory.alloc(1).unwrap().raw();
    scene.machine.with(|system| {
        if dsb {
            system.cpu(0).dsb(Domain::Ish, Kind::Stores).unwrap();
        }
        let _ = system.cpu(1).msr(Reg::Ttbr0El2, root);
    });
    broken(&scene.machine)
}

#[test]
fn root_good_used_after_dsb_passes() {
    assert_eq!(make_live(true), []);
}

#[test]
fn root_bad_used_before_dsb_is_caught() {
    assert_eq!(make_live(false), [Rule::UnpublishedTable]);
}
