// SPDX-License-Identifier: GPL-2.0-only

//! Every seeded bug is caught, by the property that it is about. `exhaustive` has the other half of each pair.

use eltwo_lifecycle::{
    model::{
        explore,
        Findings,
        Life,
        CRASH,
        DEADLOCK, //
    },
    mutant::Mutant,
    scope::Scope,
    world::Rule,
};

/// What is found with `mutant` where so many processes start, CPUs nap and things go wrong, and that nothing is found without it.
fn find(mutant: Mutant, [processes, naps, faults]: [u8; 3]) -> Findings {
    let scope = Scope {
        cpus: 2,
        processes,
        naps,
        faults,
    };
    let explore = |mutant| {
        explore(&Life {
            begin: scope.begin(),
            script: None,
            mutant,
        })
    };
    let sound = explore(Mutant::None);
    assert!(sound.broken.is_empty(), "{:#?}", sound.broken);
    explore(mutant)
}

fn breaks(rule: Rule, mutant: Mutant, scope: [u8; 3]) {
    let findings = find(mutant, scope);
    assert_eq!(findings.rule, Some(rule), "{:#?}", findings.broken);
}

fn breaks_property(name: &str, mutant: Mutant, scope: [u8; 3]) {
    let findings = find(mutant, scope);
    let found = findings.broken.iter().any(|found| found.starts_with(name));
    assert!(found, "{:#?}", findings.broken);
    // It does not need a rule to fail.
    assert_eq!(findings.rule, None, "{:#?}", findings.broken);
}

#[test]
fn memory_outlives_hyp_broken_is_caught() {
    breaks(Rule::MemoryOutlivesHyp, Mutant::FreeWhileUp, [1, 0, 1]);
}

#[test]
fn memory_outlives_hyp_broken_by_a_failed_load_is_caught() {
    breaks(Rule::MemoryOutlivesHyp, Mutant::NoRollback, [1, 0, 1]);
}

#[test]
fn memory_outlives_hyp_broken_by_a_cpu_that_cannot_be_reset_is_caught() {
    breaks(Rule::MemoryOutlivesHyp, Mutant::NoAbandoning, [1, 0, 1]);
}

#[test]
fn none_loses_power_in_hyp_broken_is_caught() {
    breaks(Rule::NoneLostInHyp, Mutant::NoNap, [0, 1, 1]);
}

#[test]
fn none_in_hyp_after_shutdown_or_kexec_broken_by_a_missing_ipi_is_caught() {
    breaks(Rule::NoneInHypAfterShutdown, Mutant::SkipLast, [1, 0, 0]);
}

#[test]
fn none_in_hyp_after_shutdown_or_kexec_broken_by_an_open_gate_is_caught() {
    breaks(Rule::NoneInHypAfterShutdown, Mutant::NoClosing, [2, 0, 0]);
}

#[test]
fn guests_run_in_hyp_only_broken_is_caught() {
    breaks(Rule::GuestsInHypOnly, Mutant::RunAnyway, [2, 0, 0]);
}

#[test]
fn load_is_all_or_nothing_broken_is_caught() {
    breaks(Rule::LoadIsAllOrNothing, Mutant::NoLastLook, [1, 1, 1]);
}

#[test]
fn nobody_comes_up_after_a_fault_broken_is_caught() {
    breaks(Rule::ClosedMeansClosed, Mutant::BlindToGate, [1, 1, 1]);
}

#[test]
fn nobody_comes_up_after_a_fault_broken_by_an_open_gate_is_caught() {
    breaks(Rule::ClosedMeansClosed, Mutant::NoRaising, [1, 1, 1]);
}

#[test]
fn nobody_stays_up_after_a_fault_broken_is_caught() {
    breaks(Rule::ClosedMeansClosed, Mutant::NoSettling, [1, 0, 1]);
}

#[test]
fn naps_end_in_hyp_broken_is_caught() {
    breaks(Rule::NapsEndInHyp, Mutant::ForgetNap, [0, 1, 1]);
}

#[test]
fn image_is_clean_when_entered_broken_is_caught() {
    breaks(Rule::ImageIsClean, Mutant::NoCleaning, [1, 0, 1]);
}

#[test]
fn states_follow_the_table_broken_is_caught() {
    breaks(Rule::WaysOfTheTable, Mutant::TakenTwice, [0, 1, 1]);
}

#[test]
fn inits_and_resets_balance_broken_is_caught() {
    breaks(Rule::BooksBalance, Mutant::NoCounting, [0, 1, 1]);
}

#[test]
fn stub_calls_are_respected_broken_is_caught() {
    breaks(Rule::GoneUntilOnline, Mutant::BlindToStub, [0, 1, 1]);
}

#[test]
fn no_guest_runs_after_a_fault_broken_is_caught() {
    breaks(Rule::NoGuestAfterFault, Mutant::RunAfterFault, [1, 1, 1]);
}

#[test]
fn nothing_stays_registered_broken_is_caught() {
    breaks(
        Rule::NothingStaysRegistered,
        Mutant::NoUnregistering,
        [1, 0, 1],
    );
}

#[test]
fn image_is_compared_when_given_back_broken_is_caught() {
    breaks(Rule::ImageIsCompared, Mutant::NoComparing, [0, 1, 0]);
}

#[test]
fn image_is_compared_when_given_back_broken_by_a_believed_answer_is_caught() {
    breaks(Rule::ImageIsCompared, Mutant::BelieveAnswers, [1, 0, 1]);
}

#[test]
fn every_operation_ends_broken_is_caught() {
    breaks_property(DEADLOCK, Mutant::LockInCallback, [1, 0, 1]);
}

#[test]
fn a_crash_at_any_moment_finds_the_stub_broken_is_caught() {
    breaks_property(CRASH, Mutant::NoKeeping, [0, 1, 1]);
}
