// SPDX-License-Identifier: GPL-2.0-only

//! Every order of the steps of a fault, of memory that goes and of a slot that goes or comes back.

use std::{
    collections::BTreeMap,
    sync::{
        Condvar,
        Mutex, //
    },
    thread,
};

use super::*;
use crate::common::addr::Granule;

/// The one page that all is about: its number in the guest, and where its maker has it.
const GFN: u64 = 5;
const USER: u64 = 0x40_0000;
const END: u64 = USER + 4096;
/// What is in it: memory that is taken away, and what comes after.
const OLD: u32 = 1;
const NEW: u32 = 2;

const FAULT: usize = 0;
const KERNEL: usize = 1;
const CHANGE: usize = 2;
const ACTORS: usize = 3;

/// What the lock protects, and what the host has.
struct World {
    invalidations: Invalidations,
    slots: BTreeMap<u64, Place>,
    /// What stage 2 has at [`GFN`].
    mapped: Option<u32>,
    /// What the process has at [`USER`].
    memory: u32,
    /// Somebody else has the old memory.
    reused: bool,
    /// The old memory was mapped although somebody else has it.
    violated: bool,
    order: Vec<usize>,
    next: usize,
    done: [bool; ACTORS],
}

/// The actors take steps in one given order; who has none left is passed over.
struct Stage {
    world: Mutex<World>,
    turn: Condvar,
}

fn place() -> Place {
    Place {
        gfns: GfnRange::new(GFN, 1).unwrap(),
        user: USER,
        granule: Granule::K4,
    }
}

impl Stage {
    fn new(order: &[usize], mapped: bool) -> Self {
        Self {
            world: Mutex::new(World {
                invalidations: Invalidations::new(),
                slots: BTreeMap::from([(GFN, place())]),
                mapped: mapped.then_some(OLD),
                memory: OLD,
                reused: false,
                violated: false,
                order: order.to_vec(),
                next: 0,
                done: [false; ACTORS],
            }),
            turn: Condvar::new(),
        }
    }

    /// One step of `actor`, when it is its turn.
    fn step<T>(&self, actor: usize, body: impl FnOnce(&mut World) -> T) -> T {
        let mut world = self.world.lock().unwrap();
        loop {
            while let Some(next) = world.order.get(world.next).copied() {
                if !world.done[next] {
                    break;
                }
                world.next += 1;
            }
            // Steps that nobody has planned come last, in any order: then only one actor is left, or none matters.
            if world
                .order
                .get(world.next)
                .is_none_or(|next| *next == actor)
            {
                break;
            }
            world = self.turn.wait(world).unwrap();
        }
        world.next += 1;
        let result = body(&mut world);
        world.violated |= world.reused && world.mapped == Some(OLD);
        self.turn.notify_all();
        result
    }

    fn finish(&self, actor: usize) {
        self.world.lock().unwrap().done[actor] = true;
        self.turn.notify_all();
    }
}

/// The stage as `actor` sees it.
struct View<'a>(&'a Stage, usize);

impl Locking for View<'_> {
    type Slots = BTreeMap<u64, Place>;

    fn begin(&self, start: u64, end: u64) {
        self.0
            .step(self.1, |world| world.invalidations.begin(start, end));
    }

    fn unmap(&self, gfns: GfnRange) {
        self.0.step(self.1, |world| {
            if gfns.contains(GFN) {
                world.mapped = None;
            }
        });
    }

    fn change_and_end<T>(
        &self,
        start: u64,
        end: u64,
        change: impl FnOnce(&mut Self::Slots) -> T,
    ) -> T {
        self.0.step(self.1, |world| {
            world.invalidations.slots_change();
            let result = change(&mut world.slots);
            let of_slot = world.part(0, start, end).is_some();
            world.invalidations.end(of_slot);
            result
        })
    }

    fn part(&self, from: u64, start: u64, end: u64) -> Option<(GfnRange, u64)> {
        self.0.step(self.1, |world| world.part(from, start, end))
    }
}

impl World {
    fn part(&self, from: u64, start: u64, end: u64) -> Option<(GfnRange, u64)> {
        self.slots
            .range(from..)
            .find_map(|(_, slot)| Some((slot.gfns_of(start, end)?, slot.gfns.end())))
    }
}

/// The fault of a guest, as `host::kvm::fault` has it.
fn fault(stage: &Stage) {
    let found = stage.step(FAULT, |world| {
        world
            .slots
            .contains_key(&GFN)
            .then(|| world.invalidations.sequence())
    });
    if let Some(sequence) = found {
        let memory = stage.step(FAULT, |world| world.memory);
        stage.step(FAULT, |world| {
            if !world.invalidations.is_stale(sequence, USER, END) {
                world.mapped = Some(memory);
            }
        });
    }
    stage.finish(FAULT);
}

/// The kernel takes the memory away, as `host::kvm::notifier` hears of it.
fn kernel(stage: &Stage) {
    let view = View(stage, KERNEL);
    view.begin(USER, END);
    for_each_part(&view, USER, END, |gfns| view.unmap(gfns));
    stage.step(KERNEL, |world| {
        world.memory = NEW;
        world.reused = true;
    });
    stage.step(KERNEL, |world| {
        let of_slot = world.part(0, USER, END).is_some();
        world.invalidations.end(of_slot);
    });
    stage.finish(KERNEL);
}

type Change = fn(&View<'_>);

/// The slot goes.
fn delete(view: &View<'_>) {
    change_slot(view, &place(), |slots| slots.remove(&GFN));
}

/// The slot goes and comes back.
fn replace(view: &View<'_>) {
    delete(view);
    view.0.step(view.1, |world| {
        world.invalidations.slots_change();
        world.slots.insert(GFN, place());
    });
}

/// The slot leaves the map before it is unmapped: who takes memory away meanwhile does not find it.
fn delete_too_early(view: &View<'_>) {
    view.0.step(view.1, |world| {
        world.invalidations.slots_change();
        world.slots.remove(&GFN)
    });
    view.unmap(place().gfns);
}

/// Faults may map again what has just been unmapped.
fn delete_without_invalidation(view: &View<'_>) {
    view.unmap(place().gfns);
    view.0.step(view.1, |world| {
        world.invalidations.slots_change();
        world.slots.remove(&GFN)
    });
}

/// Runs the actors in one order. Returns whether memory was mapped that was somebody else's, and what is mapped in the end
/// although there is no slot.
fn run(order: &[usize], mapped: bool, change: Change) -> (bool, bool) {
    let stage = Stage::new(order, mapped);
    thread::scope(|scope| {
        scope.spawn(|| fault(&stage));
        scope.spawn(|| kernel(&stage));
        scope.spawn(|| {
            change(&View(&stage, CHANGE));
            stage.finish(CHANGE);
        });
    });
    let world = stage.world.into_inner().unwrap();
    let left = world.mapped.is_some() && world.slots.is_empty();
    (world.violated, left)
}

/// Calls `check` for every order of `steps` steps of each actor.
fn for_each_order(steps: [usize; ACTORS], check: &mut impl FnMut(&[usize])) {
    fn extend(
        order: &mut Vec<usize>,
        rest: &mut [usize; ACTORS],
        check: &mut impl FnMut(&[usize]),
    ) {
        if rest.iter().all(|steps| *steps == 0) {
            check(order);
            return;
        }
        for actor in 0..ACTORS {
            if rest[actor] != 0 {
                rest[actor] -= 1;
                order.push(actor);
                extend(order, rest, check);
                order.pop();
                rest[actor] += 1;
            }
        }
    }
    extend(&mut Vec::new(), &mut { steps }, check);
}

/// How many orders there are, and how many of them go wrong.
fn wrong_orders(steps: [usize; ACTORS], change: Change) -> (usize, usize) {
    let (mut orders, mut wrong) = (0, 0);
    for_each_order(steps, &mut |order| {
        for mapped in [false, true] {
            orders += 1;
            let (violated, left) = run(order, mapped, change);
            wrong += usize::from(violated || left);
        }
    });
    (orders, wrong)
}

/// Fault: find, look, map. Kernel: begin, part, unmap, part, reuse, end. Change: begin, unmap, change.
const STEPS: [usize; ACTORS] = [3, 6, 3];

#[test]
fn slot_goes_while_memory_goes_passes() {
    let (orders, wrong) = wrong_orders(STEPS, delete);
    assert_eq!(wrong, 0, "of {orders} orders");
    assert_eq!(orders, 2 * 18_480);
}

#[test]
fn slot_comes_back_while_memory_goes_passes() {
    // The fault's steps are at the end or the beginning of those of the others, or between any two.
    let (orders, wrong) = wrong_orders([2, 5, 4], replace);
    assert_eq!(wrong, 0, "of {orders} orders");
}

#[test]
fn slot_that_goes_before_it_is_unmapped_is_caught() {
    let (_, wrong) = wrong_orders([3, 6, 2], delete_too_early);
    assert_ne!(wrong, 0);
}

#[test]
fn slot_that_goes_without_an_invalidation_is_caught() {
    let (_, wrong) = wrong_orders([3, 6, 2], delete_without_invalidation);
    assert_ne!(wrong, 0);
}
