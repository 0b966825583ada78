// SPDX-License-Identifier: GPL-2.0-only

//! The lock rules on the adversary: operations on several CPUs, in every order of their accesses and instructions.
//!
//! Loom runs each model with one order after the other. Each access to a table and each instruction is one step; the
//! search is exhaustive up to a number of preemptions.

use std::sync::atomic::{
    AtomicUsize,
    Ordering, //
};

use loom::{
    model::Builder,
    sync::{
        Arc,
        Mutex,
        RwLock, //
    },
    thread,
};

use super::{
    super::Injector,
    broken,
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
        Error,
        Stage1, //
    },
};

/// Two levels, to keep the number of steps low.
const SHAPE: Shape = (Granule::K4, 30, 40, false);
const PREEMPTIONS: usize = 4;

const fn fault(first: u64, pages: u64) -> Step {
    Step::MapConcurrent {
        first,
        pages,
        to: 0x100 + first,
        attr: 0,
        blocks: Blocks::PagesOnly,
    }
}

/// A scene in which another CPU may go first before each step.
fn scene() -> Scene<Stage1> {
    let mut scene = Scene::<Stage1>::new(SHAPE, 2, 8);
    let turn = Arc::new(Mutex::new(()));
    scene.machine = scene.machine.clone().with_interrupt(move || {
        drop(turn.lock().unwrap());
    });
    scene
}

fn explore(model: impl Fn() + Send + Sync + 'static) -> usize {
    let runs = std::sync::Arc::new(AtomicUsize::new(0));
    let count = runs.clone();
    let mut builder = Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.max_branches = 10_000;
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        model();
    });
    runs.load(Ordering::Relaxed)
}

/// `cpu` faults, maps, and goes on: whatever the other CPU does.
fn fault_in(scene: &Scene<Stage1>, cpu: usize, step: Step) {
    assert_eq!(scene.map_concurrent(cpu, step), Ok(()));
    assert!(scene.can_use(cpu, step));
}

/// Two CPUs fault in these pages at the same time.
fn faults(one: (u64, u64), other: (u64, u64)) {
    let runs = explore(move || {
        let mut scene = scene();
        let shared = Arc::new(scene.fork());
        let second = {
            let shared = shared.clone();
            thread::spawn(move || fault_in(&shared, 1, fault(other.0, other.1)))
        };
        fault_in(&shared, 0, fault(one.0, one.1));
        second.join().unwrap();
        shared.assert_clean();
        // Both are done: what the pages must be.
        scene.take_over(&shared, &[fault(one.0, one.1), fault(other.0, other.1)]);
        scene.check();
        scene.assert_clean();
    });
    println!("{runs} orders");
}

#[test]
fn faults_on_the_same_page_pass() {
    faults((0, 1), (0, 1));
}

#[test]
fn faults_on_neighbours_pass() {
    faults((0, 1), (1, 1));
}

#[test]
fn faults_on_ranges_that_overlap_pass() {
    faults((0, 2), (1, 2));
}

/// One CPU unmaps with the lock held exclusively, the other one faults with the lock shared.
#[test]
fn unmap_good_under_the_exclusive_lock_passes() {
    explore(|| {
        let mut start = scene();
        start.step(fault(0, 1)).unwrap();
        let lock = Arc::new(RwLock::new(start));
        let other = {
            let lock = lock.clone();
            thread::spawn(move || lock.read().unwrap().map_concurrent(1, fault(1, 1)))
        };
        {
            let mut scene = lock.write().unwrap();
            let unmap = Step::Unmap { first: 0, pages: 1 };
            scene.step_with(unmap, &Injector::default()).unwrap();
            scene.check();
        }
        assert_eq!(other.join().unwrap(), Ok(()));
        lock.read().unwrap().assert_clean();
    });
}

/// The same without the lock: some order breaks a rule, or what the walker finds makes no sense to it.
#[test]
fn unmap_bad_without_the_lock_is_caught() {
    let caught = std::sync::Arc::new(AtomicUsize::new(0));
    let seen = caught.clone();
    explore(move || {
        let mut start = scene();
        start.step(fault(0, 1)).unwrap();
        let mut unlocked = start.alias();
        let shared = Arc::new(start);
        let other = {
            let shared = shared.clone();
            thread::spawn(move || shared.map_concurrent(1, fault(1, 1)))
        };
        let unmap = Step::Unmap { first: 0, pages: 1 };
        let one = unlocked.step_with(unmap, &Injector::default());
        let other = other.join().unwrap();
        let corrupt = [one, other].contains(&Err(Error::Corrupt));
        if corrupt || !broken(&shared.machine).is_empty() {
            seen.fetch_add(1, Ordering::Relaxed);
        }
    });
    assert!(caught.load(Ordering::Relaxed) > 0);
}
