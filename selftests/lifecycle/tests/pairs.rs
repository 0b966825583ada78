// SPDX-License-Identifier: GPL-2.0-only

//! Every ordered pair of two hooks, on two CPUs: the second begins at any moment after the first has begun, and both end, in
//! one of the states of this table, and in every one of them.

use std::collections::BTreeSet;

use eltwo::common::lifecycle::State;
use eltwo_lifecycle::{
    model::{
        for_each_end,
        Life, //
    },
    mutant::Mutant,
    world::{
        El2,
        Memory,
        Op,
        World, //
    },
};

/// The hooks, with what they are called in the table. All begin with the module loaded on both CPUs; `Online` and `Load` with
/// CPU 1 offline, and with the module not loaded, so their rows are tables of their own.
const HOOKS: [(&str, Op); 11] = [
    ("unload", Op::Unload),
    ("offline", Op::Offline(1)),
    ("nap", Op::Nap(1)),
    ("stubcall", Op::StubCall(1)),
    ("suspend", Op::Suspend),
    ("reboot", Op::Reboot),
    ("kexec", Op::Kexec),
    ("guest", Op::Vm(1)),
    ("fault0", Op::Fault(0)),
    ("fault1", Op::Fault(1)),
    ("look", Op::Look),
];

/// Where two CPUs are: a letter for each (h for Hyp, s for the stub, f for a fault, g for Hyp with nobody knowing that a stub
/// call has given it back, - for offline), and + if the module is
/// there. A CPU that is offline, or that nobody counts any more, must be at the stub in any case.
fn end(world: &World) -> String {
    if world.ended {
        // The next kernel has the machine.
        let back = world.cpus.iter().all(|cpu| cpu.el2 == El2::Stub);
        assert!(back, "{world:?}");
        return "kexec".to_owned();
    }
    let mut text = String::new();
    for cpu in &world.cpus {
        let ours = cpu.el2 == El2::Ours;
        let letter = match (cpu.online, cpu.state) {
            (false, _) => '-',
            _ if world.memory == Memory::Free => 's',
            (_, State::Hyp) if !ours => 'g',
            (_, State::Hyp) => 'h',
            (_, State::Stub) => 's',
            (_, State::Faulted) => 'f',
            (_, State::Refused) => 'r',
            (_, State::Asleep) => 'a',
            (_, State::Boot) => 'b',
        };
        assert_eq!(ours, letter == 'h', "{world:?}");
        text.push(letter);
    }
    if world.memory != Memory::Free {
        text.push('+');
    }
    text
}

/// All ends of a script that begins with `world`.
fn ends(world: &World, script: &[Op], mutant: Mutant) -> Option<String> {
    let mut begin = world.clone();
    (begin.starts, begin.faults) = (script.len() as u8, 0);
    let life = Life {
        begin: vec![begin],
        script: Some(script.to_vec()),
        mutant,
    };
    let mut found = BTreeSet::new();
    let all_is_well = for_each_end(&life, |world| {
        found.insert(end(world));
    })
    .is_continue();
    let found: Vec<String> = found.into_iter().collect();
    all_is_well.then(|| found.join("|"))
}

/// The table as it is found, one line for each first hook.
fn table(
    world: &World,
    first: &[(&str, Op)],
    second: &[(&str, Op)],
    mutant: Mutant,
) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, a) in first {
        let row: Vec<String> = second
            .iter()
            .map(|(_, b)| ends(world, &[*a, *b], mutant).unwrap_or("broken".to_owned()))
            .collect();
        lines.push(format!("{name}: {}", row.join(" ")));
    }
    lines
}

include!("pairs_table.in");

/// `found` is `wanted`, line by line, whatever the blanks.
fn compare(found: &[String], wanted: &[&str]) {
    assert_eq!(found, squeezed(wanted), "found:\n{found:#?}");
}

fn squeezed(table: &[&str]) -> Vec<String> {
    let squeeze = |line: &&str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    table.iter().map(squeeze).collect()
}

#[test]
fn pairs_of_hooks_of_a_loaded_module_end_as_the_table_says_holds() {
    compare(
        &table(&World::new(2, true), &HOOKS, &HOOKS, Mutant::None),
        &LOADED,
    );
}

#[test]
fn pairs_with_a_cpu_that_comes_end_as_the_table_says_holds() {
    let world = World::new(2, true).without(1);
    let online = [("online", Op::Online(1))];
    // CPU 1 can do nothing before it comes, but go again when it has.
    let hooks: Vec<(&str, Op)> = HOOKS
        .into_iter()
        .filter(|(_, op)| {
            !matches!(
                op,
                Op::Offline(1) | Op::Nap(1) | Op::StubCall(1) | Op::Vm(1) | Op::Fault(1)
            )
        })
        .collect();
    let mut found = table(&world, &online, &HOOKS, Mutant::None);
    found.extend(table(&world, &hooks, &online, Mutant::None));
    compare(&found, &COMING);
}

#[test]
fn pairs_with_insmod_end_as_the_table_says_holds() {
    let world = World::new(2, false);
    let load = [("load", Op::Load)];
    let mut found = table(&world, &load, &HOOKS, Mutant::None);
    // What can begin before insmod.
    let hooks: Vec<(&str, Op)> = HOOKS
        .into_iter()
        .filter(|(_, op)| matches!(op, Op::Offline(_) | Op::Suspend | Op::Reboot | Op::Kexec))
        .collect();
    found.extend(table(&world, &hooks, &load, Mutant::None));
    let away = world.clone().without(1);
    let online = [("online", Op::Online(1))];
    found.extend(table(&away, &load, &online, Mutant::None));
    found.extend(table(&away, &online, &load, Mutant::None));
    let unload = [("unload", Op::Unload)];
    found.extend(table(&World::new(2, true), &unload, &load, Mutant::None));
    compare(&found, &LOADING);
}

#[test]
fn insmod_after_a_fault_and_rmmod_takes_all_cpus_holds() {
    for cpu in [0, 1] {
        let script = [Op::Fault(cpu), Op::Unload, Op::Load];
        let found = ends(&World::new(2, true), &script, Mutant::None);
        // With fault and rmmod done, insmod begins.
        assert_eq!(found.as_deref(), Some("hh+"), "CPU {cpu}");
    }
}

#[test]
fn pairs_of_hooks_broken_is_caught() {
    for mutant in [Mutant::ForgetNap, Mutant::SkipLast, Mutant::NoSettling] {
        let found = table(&World::new(2, true), &HOOKS, &HOOKS, mutant);
        assert_ne!(found, squeezed(&LOADED), "{mutant:?}");
    }
}
