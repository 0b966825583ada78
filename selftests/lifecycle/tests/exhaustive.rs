// SPDX-License-Identifier: GPL-2.0-only

//! Everything that can happen on two and on three CPUs: every property holds, and this is how many states that takes.

use std::process::ExitCode;

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

/// A search: CPUs, processes, naps, and things that go wrong.
const fn scope(cpus: usize, processes: u8, naps: u8, faults: u8) -> Scope {
    Scope {
        cpus,
        processes,
        naps,
        faults,
    }
}

/// The searches.
const SCOPES: [Scope; 6] = [
    scope(2, 3, 0, 1),
    scope(2, 2, 1, 1),
    scope(2, 2, 0, 2),
    scope(2, 1, 2, 2),
    scope(3, 2, 0, 1),
    scope(3, 1, 1, 2),
];

/// The searches that are called for: four numbers each, as in `2,3,0,1`; all if none is.
fn scopes() -> Vec<Scope> {
    let read = |word: String| {
        let numbers: Result<Vec<u8>, _> = word.split(',').map(str::parse).collect();
        match numbers.ok()?[..] {
            [cpus, processes, naps, faults] => Some(scope(cpus.into(), processes, naps, faults)),
            _ => None,
        }
    };
    let named: Vec<Scope> = std::env::args().skip(1).filter_map(read).collect();
    match named.is_empty() {
        true => SCOPES.to_vec(),
        false => named,
    }
}

/// Whether each property holds: the rules, and what is asked of every state.
fn properties(findings: &Findings) -> Vec<(String, bool)> {
    let rules = Rule::ALL
        .into_iter()
        .map(|rule| (rule.name().to_owned(), findings.rule != Some(rule)));
    let others = [DEADLOCK, CRASH].into_iter().map(|name| {
        let mut broken = findings.broken.iter();
        let holds = !broken.any(|broken| broken.starts_with(name));
        (name.replace(' ', "_"), holds)
    });
    rules.chain(others).collect()
}

fn main() -> ExitCode {
    let mut all_hold = true;
    let mut names = Vec::new();
    for scope in scopes() {
        let findings = explore(&Life {
            begin: scope.begin(),
            script: None,
            mutant: Mutant::None,
        });
        let Scope {
            cpus,
            processes,
            naps,
            faults,
        } = scope;
        let within = format!("cpus_{cpus}_processes_{processes}_naps_{naps}_mishaps_{faults}");
        names.clear();
        for (name, holds) in properties(&findings) {
            let result = if holds { "ok" } else { "FAILED" };
            println!("test {name}_holds::{within} ... {result}");
            all_hold &= holds;
            names.push(name.replace('_', " "));
        }
        for broken in &findings.broken {
            println!("{broken}");
            all_hold = false;
        }
        println!(
            "figure: {:>8} states with {cpus} CPUs, {processes} processes, {naps} naps, {faults} mishaps",
            findings.states
        );
    }
    println!("figure: in each of them: {}", names.join("; "));
    match all_hold {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
