// SPDX-License-Identifier: GPL-2.0-only

//! The walker's public operations on the adversary: random sequences, for all granules and formats, with guests that
//! come and go, errata, level hints, and memory that runs out.

use proptest::prelude::*;

use super::{
    super::Injector,
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
        tlb::TlbFeatures,
        Blocks,
        Error,
        Stage1,
        Stage2, //
    },
};

const STAGE1: [Shape; 9] = [
    (Granule::K4, 39, 40, false),
    (Granule::K4, 48, 48, false),
    (Granule::K4, 25, 32, false),
    (Granule::K4, 52, 52, true),
    (Granule::K16, 47, 48, false),
    (Granule::K16, 36, 36, false),
    (Granule::K16, 52, 52, true),
    (Granule::K64, 42, 48, false),
    (Granule::K64, 52, 52, true),
];

const STAGE2: [Shape; 6] = [
    (Granule::K4, 40, 44, false),
    (Granule::K4, 52, 52, true),
    (Granule::K16, 40, 40, false),
    (Granule::K16, 52, 52, true),
    (Granule::K64, 36, 36, false),
    (Granule::K64, 52, 52, true),
];

/// Operation, first, pages, output, attributes, blocks, tables that can be taken.
type Choice = (u8, u64, u64, u64, usize, bool, Option<u64>);

/// A run, before it is fitted to a granule.
#[derive(Clone, Debug)]
struct Case {
    shape: usize,
    features: (bool, bool),
    steps: Vec<Choice>,
}

fn cases() -> impl Strategy<Value = Case> {
    let step = (
        0..7u8,
        0..1u64 << 14,
        0..1u64 << 14,
        0..4u64,
        0..4usize,
        any::<bool>(),
        prop::option::weighted(0.1, 0..3u64),
    );
    (
        0..64usize,
        any::<(bool, bool)>(),
        prop::collection::vec(step, 1..10),
    )
        .prop_map(|(shape, features, steps)| Case {
            shape,
            features,
            steps,
        })
}

/// First page and pages within `window` pages that hold blocks of `block`: often whole blocks, often single pages.
fn place(first: u64, pages: u64, block: u64, window: u64) -> (u64, u64) {
    let first = match first % 4 {
        0 => first / 4 % window,
        1 => block - 1 - first / 4 % 4,
        _ => first / 4 % (window / block) * block,
    };
    let most = window - first;
    let pages = match pages % 4 {
        0 => pages / 4 % most + 1,
        1 => pages / 4 % most.min(4) + 1,
        2 => most,
        _ => block.min(most),
    };
    (first, pages)
}

fn fit(case: &Choice, block: u64, window: u64) -> Step {
    let (operation, first, pages, to, attr, large, _) = *case;
    let (first, pages) = place(first, pages, block, window);
    // Two outputs with blocks in step with the input, two without.
    let to = 8 * block + [0, 2 * block, 1, block / 2][to as usize] + first;
    let blocks = if large {
        Blocks::Allowed
    } else {
        Blocks::PagesOnly
    };
    match operation {
        0 | 1 => Step::Map {
            first,
            pages,
            to,
            attr,
            blocks,
        },
        2 => Step::MapConcurrent {
            first,
            pages,
            to,
            attr,
            blocks,
        },
        3 => Step::Unmap { first, pages },
        4 => Step::Protect { first, pages, attr },
        5 => Step::Split { first, pages },
        _ => Step::Merge { first, pages },
    }
}

fn run<F: Subject>(shapes: &[Shape], case: &Case) {
    let shape = shapes[case.shape % shapes.len()];
    let block = shape.0.size() / 8;
    // The last pages stand in a table of their own.
    let window = if block == 512 { 3 * block } else { block + 16 };
    let mut scene = Scene::<F>::new(shape, 2, window);
    let (ttl, repeat) = case.features;
    scene.features = TlbFeatures { ttl, repeat };
    scene.visits = case.steps.len() % 2 == 0;
    if repeat {
        scene.machine.with(|system| system.needs_repeated_tlbi());
    }
    for step in &case.steps {
        scene.machine.limit(step.6);
        let step = fit(step, block, window);
        let wanted = scene.allows(step);
        let before = scene.contents();
        let result = scene.step_with(step, &Injector::default());
        let partial = result.is_err() && matches!(step, Step::MapConcurrent { .. });
        if partial {
            scene.settle();
        } else {
            scene.check();
        }
        scene.assert_clean();
        match result {
            // Splits of ends may be done already. map_concurrent leaves what it did.
            Err(Error::NoMemory) if matches!(step, Step::MapConcurrent { .. }) => return,
            Err(Error::NoMemory) => {}
            Err(_) if matches!(step, Step::MapConcurrent { .. }) => {
                assert!(!wanted, "{step:?}: {result:?}");
                return;
            }
            result => {
                assert_eq!(result.is_ok(), wanted, "{step:?}: {result:?}");
                if result.is_err() {
                    assert_eq!(scene.contents(), before);
                }
            }
        }
    }
    scene.machine.limit(None);
    scene.finish();
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 160,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn stage1_random_sequences_pass(case in cases()) {
        run::<Stage1>(&STAGE1, &case);
    }

    #[test]
    fn stage2_random_sequences_pass(case in cases()) {
        run::<Stage2>(&STAGE2, &case);
    }
}
