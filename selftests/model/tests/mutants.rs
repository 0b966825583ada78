// SPDX-License-Identifier: GPL-2.0-only

//! Nobody can take a maintenance instruction out unnoticed. `make mutants` prints the same as a table.

mod common;

use std::sync::LazyLock;

use common::image;
use eltwo_model::{
    insn::NOP,
    mutants::{
        self,
        Mutant,
        Verdict, //
    },
};

static MUTANTS: LazyLock<Vec<Mutant>> = LazyLock::new(|| mutants::run(&image()).unwrap());

#[test]
fn mutants_are_killed_or_argued() {
    let survivors: Vec<&Mutant> = MUTANTS
        .iter()
        .filter(|mutant| mutant.verdict == Verdict::Survived)
        .collect();
    assert!(survivors.is_empty(), "{survivors:#?}");
}

/// No assembly is without a scenario.
#[test]
fn mutants_reach_all_functions() {
    assert_eq!(mutants::not_reached(&image()), []);
}

/// The linked image, the host, and the sequences of the walker all have their part.
#[test]
fn mutants_come_from_everywhere() {
    for file in [
        "asm/idmap.S",
        "asm/vectors.S",
        "asm/frame.S",
        "asm/guest.S",
        "asm/guest_vectors.S",
        "asm/guest_extra.S",
        "rust/arch/debug.rs",
        "rust/arch/el1.rs",
        "rust/arch/el2.rs",
        "rust/common/hwdebug.rs",
        "rust/common/pgtable/tlb.rs",
        "rust/common/upkeep.rs",
    ] {
        let count = MUTANTS
            .iter()
            .filter(|mutant| mutant.line.starts_with(file));
        assert!(count.count() >= 3, "{file}");
    }
}

/// An image that is broken already is no ground for mutation.
#[test]
fn mutants_of_broken_image_are_refused() {
    let image = image();
    let range = image.function("eltwo_init").unwrap().range.clone();
    let tlbi = 0xd50c_871f;
    let offset = range
        .step_by(4)
        .find(|offset| image.word(*offset) == Some(tlbi))
        .unwrap();
    let error = mutants::run(&image.patched(offset, NOP)).unwrap_err();
    assert!(
        error.to_string().contains("without any mutation"),
        "{error}"
    );
}
