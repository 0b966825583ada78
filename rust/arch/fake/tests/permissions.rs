// SPDX-License-Identifier: GPL-2.0-only

//! Pairs for what a page is for: what it allows passes, anything else is caught.

use super::{
    super::{
        Access,
        Domain,
        Kind,
        Rule,
        Translation, //
    },
    scene::Scene,
    subject::{
        Shape,
        Step, //
    },
};
use crate::common::{
    addr::Granule,
    pgtable::{
        Blocks,
        Slot,
        Stage1,
        TableMemory as _, //
    },
};

const SHAPE: Shape = (Granule::K4, 39, 40, false);
const BLOCK: u64 = 512;

/// What accesses to a page with attributes number `attr` do.
fn accesses(attr: usize) -> [Translation; 3] {
    let mut scene = Scene::<Stage1>::new(SHAPE, 1, BLOCK);
    scene
        .step(Step::Map {
            first: 0,
            pages: 1,
            to: 3,
            attr,
            blocks: Blocks::PagesOnly,
        })
        .unwrap();
    let va = scene.range(0, 1).first().raw();
    scene.machine.with(|system| {
        let mut cpu = system.cpu(0);
        [Access::Read, Access::Write, Access::Execute].map(|access| cpu.probe(va, access).unwrap())
    })
}

#[test]
fn permissions_good_each_page_does_what_it_is_for() {
    let fine = |access: Translation| matches!(access, Translation::Mapped { pa: 0x3000, .. });
    for (attr, wanted) in [
        (0, [true, true, false]),
        (1, [true, false, false]),
        (2, [true, false, true]),
        (3, [true, true, false]),
    ] {
        assert_eq!(accesses(attr).map(fine), wanted, "attributes {attr}");
    }
}

/// A store to text, a fetch from data, and a fetch from what is not mapped.
#[test]
fn permissions_bad_accesses_are_caught() {
    let mut scene = Scene::<Stage1>::new(SHAPE, 1, BLOCK);
    let page = |first, attr| Step::Map {
        first,
        pages: 1,
        to: first,
        attr,
        blocks: Blocks::PagesOnly,
    };
    scene.step(page(0, 2)).unwrap();
    scene.step(page(1, 0)).unwrap();
    let [text, data, hole] = [0, 1, 2].map(|number| scene.range(number, 1).first().raw());
    let rules = scene.machine.with(|system| {
        let mut cpu = system.cpu(0);
        [
            cpu.store64(text, 0).unwrap_err().rule,
            cpu.fetch(data).unwrap_err().rule,
            cpu.fetch(hole).unwrap_err().rule,
        ]
    });
    assert_eq!(
        rules,
        [Rule::WriteProtected, Rule::NotExecutable, Rule::NotMapped]
    );
}

#[test]
fn permissions_bad_writable_text_does_not_execute_under_wxn() {
    let scene = Scene::<Stage1>::new(SHAPE, 1, BLOCK);
    let memory = scene.memory(0);
    let va = scene.range(0, 1).first().raw();
    let root = scene.table.root();
    // A block that is writable and executable, written by hand; level 1 resolves 30 bits.
    let slot = Slot {
        table: root,
        index: va >> 30,
    };
    memory.store(slot, 0x4000_0000 | 0x741).unwrap();
    scene.machine.with(|system| {
        let mut cpu = system.cpu(0);
        cpu.dsb(Domain::Ish, Kind::Stores).unwrap();
        cpu.isb().unwrap();
        assert_eq!(cpu.probe(va, Access::Execute).unwrap(), Translation::Denied);
    });
}
