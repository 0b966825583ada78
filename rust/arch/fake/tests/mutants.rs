// SPDX-License-Identifier: GPL-2.0-only

//! Each instruction of the maintenance sequences is needed.

use super::super::sequences;

#[test]
fn mutants_of_the_sequences_are_caught_or_argued() {
    let mutants = sequences::mutants();
    let survivors: Vec<_> = mutants
        .iter()
        .filter(|mutant| mutant.killed_by.is_empty() && mutant.argument.is_none())
        .collect();
    assert!(survivors.is_empty(), "{survivors:#?}");
    // Both formats, with and without the erratum.
    assert!(mutants.len() > 80, "{} mutants", mutants.len());
}

#[test]
fn mutants_that_are_argued_are_not_caught() {
    let needless: Vec<_> = sequences::mutants()
        .into_iter()
        .filter(|mutant| mutant.argument.is_some() && !mutant.killed_by.is_empty())
        .collect();
    assert!(needless.is_empty(), "{needless:#?}");
}
