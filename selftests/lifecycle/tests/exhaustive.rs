// SPDX-License-Identifier: GPL-2.0-only

//! Everything that can happen on two and on three CPUs: every property holds, and this is how many states that takes.

use std::process::ExitCode;

use eltwo_lifecycle::{
    model::{
        explore,
        Life,
        CRASH,
        DEADLOCK, //
    },
    mutant::Mutant,
    scope::Scope,
    world::Rule,
};

/// The searches. One on three CPUs costs as much as a few on two.
const SCOPES: [Scope; 3] = [
    Scope {
        cpus: 2,
        processes: 3,
        naps: 0,
        faults: 1,
    },
    Scope {
        cpus: 2,
        processes: 2,
        naps: 2,
        faults: 1,
    },
    Scope {
        cpus: 3,
        processes: 2,
        naps: 0,
        faults: 1,
    },
];

fn main() -> ExitCode {
    let mut all_hold = true;
    let mut counts = Vec::new();
    for scope in SCOPES {
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
        let words = format!("{cpus} CPUs, {processes} processes, {naps} naps, {faults} faults");
        counts.push(format!("{} states ({words})", findings.states));
        let rules = Rule::ALL
            .into_iter()
            .map(|rule| (rule.name(), findings.rule != Some(rule)));
        let others = [DEADLOCK, CRASH].map(|name| {
            let holds = !findings
                .broken
                .iter()
                .any(|broken| broken.starts_with(name));
            (name, holds)
        });
        for (name, holds) in rules.chain(others) {
            let name = name.replace(' ', "_");
            let result = if holds { "ok" } else { "FAILED" };
            println!(
                "test {name}_holds::cpus_{cpus}_processes_{processes}_naps_{naps} ... {result}"
            );
            all_hold &= holds;
        }
        for broken in &findings.broken {
            println!("{broken}");
            all_hold = false;
        }
    }
    let properties: Vec<&str> = Rule::ALL.iter().map(|rule| rule.name()).collect();
    println!(
        "figure: {}; properties: {}, {DEADLOCK}, {CRASH}",
        counts.join(", "),
        properties.join(", ").replace('_', " ")
    );
    if all_hold {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
