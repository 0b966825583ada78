// SPDX-License-Identifier: GPL-2.0-only

//! Tests of the arena's monitor: what is right passes, what is wrong is caught.
//!
//! Each instruction of each operation is left out in turn, and each time the monitor must see it.

use std::{
    cell::Cell,
    rc::Rc,
    vec::Vec, //
};

use super::*;

const SHAPE: (Granule, u32, u32, bool) = (Granule::K4, 39, 40, false);
const PAGE_SIZE: u64 = 0x1000;
const BLOCK_SIZE: u64 = 0x20_0000;

/// A bench with `size_bytes` from 0 mapped, and the first descriptor of each of its tables from level 2 down.
fn with_mapping(size_bytes: u64) -> (Bench<Stage1>, Vec<Slot>) {
    let mut bench = Bench::<Stage1>::new(SHAPE);
    let attrs = HypAttrs::normal(HypAccess::ReadWrite);
    bench
        .map(va(0, size_bytes), 0x4000_0000, attrs, Blocks::Allowed)
        .unwrap();
    let slots = bench
        .arena
        .take_trace()
        .iter()
        .filter_map(|event| match event {
            Event::Alloc(table) => Some(Slot {
                table: pa(*table),
                index: 0,
            }),
            _ => None,
        })
        .collect();
    (bench, slots)
}

/// Leaves out the instruction with this number.
#[derive(Clone)]
struct Faulty {
    arena: Arena,
    countdown: Rc<Cell<Option<usize>>>,
}

impl TlbPort for Faulty {
    fn issue(&self, op: Op) {
        match self.countdown.get() {
            Some(0) => self.countdown.set(None),
            Some(left) => {
                self.countdown.set(Some(left - 1));
                self.arena.issue(op);
            }
            None => self.arena.issue(op),
        }
    }
}

/// What is done to a table that has two blocks from 0 on.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Map,
    MapConcurrent,
    UnmapBlocks,
    UnmapPageOfBlock,
    ProtectInPlace,
    ProtectWithBreak,
    Split,
    Merge,
}

impl Operation {
    const ALL: [Self; 8] = [
        Self::Map,
        Self::MapConcurrent,
        Self::UnmapBlocks,
        Self::UnmapPageOfBlock,
        Self::ProtectInPlace,
        Self::ProtectWithBreak,
        Self::Split,
        Self::Merge,
    ];

    /// Does it, with the instruction of this number left out. Returns whether there was such an instruction, what the
    /// monitor found, and all instructions that were issued.
    fn perform<F: Subject>(
        self,
        shape: (Granule, u32, u32, bool),
        leave_out: Option<usize>,
    ) -> (bool, Vec<&'static str>, Vec<Op>) {
        let mut bench = Bench::<F>::new(shape);
        let block = bench.table.geometry().entry_size(Level::L2).unwrap();
        let page = bench.table.geometry().granule().size();
        let range =
            |first: u64, size: u64| AddrRange::new(F::Input::new(first).unwrap(), size).unwrap();
        let attrs = F::attrs();
        let blocks = range(0, 2 * block.bytes());
        let vacant = range(2 * block.bytes(), page);
        bench.map(blocks, 0, attrs[0], Blocks::Allowed).unwrap();
        if matches!(self, Self::Merge) {
            bench.split(range(0, block.bytes()), Level::L3).unwrap();
        }
        assert_eq!(bench.arena.take_violations(), [""; 0]);
        bench.arena.take_trace();
        let port = Faulty {
            arena: bench.arena.clone(),
            countdown: Rc::new(Cell::new(leave_out)),
        };
        let tlb = F::tlb(port.clone(), bench.table.geometry().granule());
        let env = Env::new(&bench.arena, &tlb);
        let table = &mut bench.table;
        match self {
            Self::Map => table.map(&env, vacant, pa(0), attrs[0], Blocks::Allowed),
            Self::MapConcurrent => {
                table.map_concurrent(&env, vacant, pa(0), attrs[0], Blocks::Allowed)
            }
            Self::UnmapBlocks => table.unmap(&env, blocks).map(|_| ()),
            Self::UnmapPageOfBlock => table.unmap(&env, range(0, page)).map(|_| ()),
            Self::ProtectInPlace => table.protect(&env, blocks, |_| Some(attrs[1])),
            Self::ProtectWithBreak => table.protect(&env, blocks, |_| Some(attrs[3])),
            Self::Split => table.split(&env, blocks, Level::L3),
            Self::Merge => table.merge(&env, blocks).map(|_| ()),
        }
        .unwrap();
        let reached = leave_out.is_some() && port.countdown.get().is_none();
        let violations = bench.arena.take_violations();
        (reached, violations, ops(&bench.arena.take_trace()))
    }
}

/// Whether leaving out instruction `number` of `complete` may go unseen.
fn may_go_unseen(complete: &[Op], number: usize) -> bool {
    let is_tlbi = |op: &Op| matches!(op, Op::Tlbi(_));
    // The monitor knows VMIDs, not how many bits of them count. The adversary does (`rust/arch/fake/sequences`).
    if matches!(complete.get(number), Some(Op::WriteVtcr(_))) {
        return true;
    }
    let (before, rest) = complete.split_at(number);
    let Some((missing, after)) = rest.split_first() else {
        return false;
    };
    // Of several TLBIs between the same barriers the monitor cannot tell which one was for which entry.
    let several = before.last().is_some_and(is_tlbi) || after.first().is_some_and(is_tlbi);
    if is_tlbi(missing) {
        return several;
    }
    // In the middle of an operation new entries may as well be published by the next DSB.
    let publishes = *missing == Op::DsbIshst && !after.first().is_some_and(is_tlbi);
    publishes && after.contains(&Op::DsbIsh)
}

/// Leaves out each instruction of each operation and expects the monitor to complain.
fn leave_out_each<F: Subject>(shape: (Granule, u32, u32, bool)) {
    for operation in Operation::ALL {
        let (_, violations, complete) = operation.perform::<F>(shape, None);
        assert_eq!(violations, [""; 0], "{operation:?}");
        for (number, missing) in complete.iter().enumerate() {
            let (reached, violations, _) = operation.perform::<F>(shape, Some(number));
            assert!(reached);
            assert!(
                !violations.is_empty() || may_go_unseen(&complete, number),
                "{operation:?} without instruction {number}, {missing:?}"
            );
        }
    }
}

#[test]
fn hyp_operation_without_any_one_instruction_is_caught() {
    leave_out_each::<Stage1>(SHAPE);
    leave_out_each::<Stage1>((Granule::K16, 47, 48, false));
}

#[test]
fn guest_operation_without_any_one_instruction_is_caught() {
    leave_out_each::<Stage2>((Granule::K4, 40, 44, false));
    leave_out_each::<Stage2>((Granule::K64, 48, 48, false));
}

#[test]
fn monitor_good_break_before_make_passes() {
    let (bench, slots) = with_mapping(BLOCK_SIZE);
    let slot = slots[0];
    bench.arena.store(slot, 0).unwrap();
    bench
        .tlb
        .invalidate(va(0, BLOCK_SIZE), Stale::Leaves(Level::L2));
    bench.arena.store(slot, 0x8000_0741).unwrap();
    bench.tlb.publish();
    assert_eq!(bench.arena.take_violations(), [""; 0]);
}

#[test]
fn monitor_make_without_break_is_caught() {
    let (bench, slots) = with_mapping(BLOCK_SIZE);
    let slot = slots[0];
    bench.arena.store(slot, 0x8000_0741).unwrap();
    bench
        .tlb
        .invalidate(va(0, BLOCK_SIZE), Stale::Leaves(Level::L2));
    assert_eq!(
        bench.arena.take_violations(),
        ["a valid entry was given another translation"]
    );
}

#[test]
fn monitor_make_before_the_break_is_complete_is_caught() {
    let (bench, slots) = with_mapping(BLOCK_SIZE);
    let slot = slots[0];
    bench.arena.store(slot, 0).unwrap();
    bench.arena.store(slot, 0x8000_0741).unwrap();
    bench
        .tlb
        .invalidate(va(0, BLOCK_SIZE), Stale::Leaves(Level::L2));
    assert_eq!(
        bench.arena.take_violations(),
        ["made before the break was complete"]
    );
}

#[test]
fn monitor_free_before_the_invalidation_is_caught() {
    let (bench, slots) = with_mapping(PAGE_SIZE);
    bench.arena.store(slots[0], 0).unwrap();
    bench.arena.free(slots[1].table, 1);
    bench
        .tlb
        .invalidate(va(0, BLOCK_SIZE), Stale::Table(Level::L2));
    assert_eq!(
        bench.arena.take_violations(),
        ["freed before the invalidation was complete"]
    );
}
