// SPDX-License-Identifier: GPL-2.0-only

//! The walker's public operations on the adversary: every sequence of them in a small space.
//!
//! The space is two blocks and a half: enough for ranges within a page, a block and a table, and across each of their
//! borders.

use std::collections::HashSet;

use super::{
    scene::Scene,
    subject::{
        Shape,
        Step,
        Subject, //
    },
};
use crate::common::{
    addr::Granule,
    pgtable::{
        Blocks,
        Stage1,
        Stage2, //
    },
};

/// Entries of a table, which are also the pages of a block.
const fn block(granule: Granule) -> u64 {
    granule.size() / 8
}

/// Ranges that touch each kind of border: first page, pages.
fn ranges(block: u64) -> [(u64, u64); 4] {
    [
        (0, block),
        (block - 1, 2),
        (0, 2 * block),
        (block / 2, block),
    ]
}

/// All steps in the small space.
fn steps(block: u64) -> Vec<Step> {
    let mut steps = Vec::new();
    for (first, pages) in ranges(block) {
        for blocks in [Blocks::Allowed, Blocks::PagesOnly] {
            let to = block * 8 + first;
            steps.push(Step::Map {
                first,
                pages,
                to,
                attr: 0,
                blocks,
            });
        }
        steps.push(Step::Unmap { first, pages });
        steps.push(Step::Protect {
            first,
            pages,
            attr: 1,
        });
        steps.push(Step::Protect {
            first,
            pages,
            attr: 3,
        });
        steps.push(Step::Split { first, pages });
        steps.push(Step::Merge { first, pages });
    }
    steps
}

/// Makes all sequences of up to `depth` steps, and from each state that they lead to the way to a table that is freed, with
/// nothing stale left. A state that was seen before is not taken further.
fn all<F: Subject>(shape: Shape, depth: usize) -> usize {
    let block = block(shape.0);
    let steps = steps(block);
    let mut seen = HashSet::new();
    let mut front = vec![Scene::<F>::new(shape, 2, 2 * block + block / 2)];
    let mut made = 0;
    for _ in 0..depth {
        let mut next = Vec::new();
        for scene in &front {
            for step in &steps {
                let mut scene = scene.fork();
                let wanted = scene.allows(*step);
                let result = scene.step(*step);
                made += 1;
                assert_eq!(result.is_ok(), wanted, "{step:?}: {result:?}");
                if seen.insert(scene.contents()) {
                    next.push(scene);
                }
            }
        }
        let before = std::mem::replace(&mut front, next);
        before.into_iter().for_each(Scene::finish);
    }
    front.into_iter().for_each(Scene::finish);
    made
}

#[test]
fn stage1_every_sequence_of_four_passes() {
    let made = all::<Stage1>((Granule::K4, 39, 40, false), 4);
    println!("{made} steps");
}

#[test]
fn stage2_every_sequence_of_four_passes() {
    let made = all::<Stage2>((Granule::K4, 39, 40, false), 4);
    println!("{made} steps");
}

#[test]
fn stage1_every_sequence_of_two_with_large_granules_passes() {
    all::<Stage1>((Granule::K16, 48, 48, false), 2);
    all::<Stage1>((Granule::K64, 48, 52, true), 2);
}

#[test]
fn stage2_every_sequence_of_two_with_large_granules_passes() {
    all::<Stage2>((Granule::K16, 40, 44, false), 2);
    all::<Stage2>((Granule::K64, 48, 52, true), 2);
}
