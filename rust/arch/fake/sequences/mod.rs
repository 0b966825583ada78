// SPDX-License-Identifier: GPL-2.0-only

//! Mutation of the maintenance sequences: each instruction that the walker's operations issue is left out, and replaced by
//! each one that is easily mistaken for it. The adversary must catch every such run.
//!
//! What is mutated is what `common::pgtable::tlb` issues through its port, in all sequences that lead there; `rust/arch/el2.rs`
//! makes one instruction of each operation, so the same runs tell whether that one is needed. An instruction that nobody
//! misses is argued for in a comment directly above it which says "no mutant dies here".

mod debug;
pub mod expect;
mod host;
pub mod scene;
pub mod subject;

use std::collections::{
    BTreeMap,
    BTreeSet, //
};

use super::{
    Fault,
    Injector,
    Rule,
    Site, //
};
use crate::common::{
    addr::Granule,
    pgtable::{
        tlb::TlbFeatures,
        Blocks,
        Stage1,
        Stage2, //
    },
};
use scene::{
    Scene,
    HOST_TCR, //
};
use subject::{
    Shape,
    Step,
    Subject,
    Way, //
};

/// The sequences.
const SOURCES: [&str; 3] = [
    include_str!("../../../common/pgtable/tlb.rs"),
    include_str!("../../../common/upkeep.rs"),
    include_str!("../../../common/hwdebug.rs"),
];
const FILES: [&str; 3] = [
    "rust/common/pgtable/tlb.rs",
    "rust/common/upkeep.rs",
    "rust/common/hwdebug.rs",
];
/// Words of a comment that argues for an instruction.
const ARGUMENT: &str = "no mutant dies here";

const SHAPE: Shape = (Granule::K4, 39, 40, false);
const CPUS: usize = 3;
const BLOCK: u64 = 512;

/// An instruction with a fault, in each run that issues it.
#[derive(Clone, Debug)]
pub struct Mutant {
    /// The sequences that issue it.
    pub place: String,
    /// File and line that issue it, or one of [`PORTS`] for an instruction in all places at once.
    pub line: String,
    /// The instruction, and what takes its place if anything does.
    pub text: String,
    /// The rules that some run breaks: none if nobody misses it.
    pub killed_by: BTreeSet<Rule>,
    /// The comment that says why it stays, if nobody misses it.
    pub argument: Option<String>,
}

/// An operation on a table that others have made.
struct Scenario {
    before: Vec<Step>,
    step: Step,
}

const fn map(first: u64, pages: u64, blocks: Blocks) -> Step {
    Step::Map {
        first,
        pages,
        to: 8 * BLOCK + first,
        attr: 0,
        blocks,
    }
}

const fn unmap(first: u64, pages: u64) -> Step {
    Step::Unmap { first, pages }
}

const fn protect(pages: u64, attr: usize) -> Step {
    Step::Protect {
        first: 0,
        pages,
        attr,
    }
}

const FAULT: Step = Step::MapConcurrent {
    first: 3,
    pages: 1,
    to: 7,
    attr: 0,
    blocks: Blocks::PagesOnly,
};

fn scenarios() -> Vec<Scenario> {
    use Blocks::{
        Allowed,
        PagesOnly, //
    };
    let scenario = |before: &[Step], step| Scenario {
        before: before.to_vec(),
        step,
    };
    let block = map(0, BLOCK, Allowed);
    let pages = map(0, BLOCK, PagesOnly);
    let merge = Step::Merge {
        first: 0,
        pages: BLOCK,
    };
    vec![
        scenario(&[], map(0, 1, PagesOnly)),
        scenario(&[], block),
        scenario(&[map(0, 1, PagesOnly)], map(1, 1, PagesOnly)),
        scenario(&[], FAULT),
        scenario(&[map(0, 4, PagesOnly)], unmap(1, 2)),
        scenario(&[map(0, 2, PagesOnly)], unmap(0, 2)),
        scenario(&[block], unmap(0, BLOCK)),
        scenario(&[block], unmap(0, 1)),
        // More pages than are worth an invalidation each.
        scenario(&[map(0, 2 * BLOCK, PagesOnly)], unmap(1, 2 * BLOCK - 2)),
        scenario(&[map(0, 2, PagesOnly)], protect(2, 1)),
        scenario(&[block], protect(BLOCK, 1)),
        scenario(&[map(0, 2, PagesOnly)], protect(2, 3)),
        scenario(&[block], Step::Split { first: 0, pages: 1 }),
        scenario(&[pages], merge),
    ]
}

/// What the CPUs need or offer, and how invalidations are made.
#[derive(Clone, Copy)]
struct Circumstances {
    features: TlbFeatures,
    speculative_at: bool,
    way: Way,
}

/// A scene in which all of `before` has happened.
fn prepare<F: Subject>(scenario: &Scenario, circumstances: Circumstances) -> Scene<F> {
    let Circumstances {
        features,
        speculative_at,
        way,
    } = circumstances;
    let mut scene = Scene::<F>::new(SHAPE, CPUS, 2 * BLOCK);
    scene.features = features;
    scene.way = way;
    scene.visits = true;
    if features.repeat {
        scene.machine.with(|system| system.needs_repeated_tlbi());
    }
    for step in &scenario.before {
        scene.step(*step).expect("the steps before are in order");
    }
    if speculative_at {
        // How a guest is entered on such a CPU is another story.
        scene.visits = false;
        scene.host_tcr = Some(HOST_TCR);
        scene.machine.with(|system| system.walks_speculatively());
    }
    scene
}

/// Makes `step` with a fault in each of the instructions `targets`, and returns the rule that this breaks first.
fn mutate<F: Subject>(
    scene: &Scene<F>,
    step: Step,
    targets: BTreeSet<usize>,
    fault: Fault,
) -> Option<Rule> {
    let mut scene = scene.fork();
    // An operation may also fail; what counts is what the machine says.
    let _ = scene.step_with(step, &Injector::faulty(targets, fault));
    scene.check();
    scene.machine.with(|system| {
        let first = system.violations().first()?;
        Some(first.rule)
    })
}

/// What is the same in all runs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    /// File and line, or the port.
    line: String,
    name: String,
    round: usize,
    fault: Fault,
}

/// What is known of a mutant: the sequences that issue it, and what caught it.
#[derive(Default)]
struct Known {
    sequences: BTreeSet<String>,
    rules: BTreeSet<Rule>,
}

type Found = BTreeMap<Key, Known>;

/// In place of a line: wherever a sequence issues the instruction.
pub const PORT: &str = "rust/arch/el2.rs";
/// The same, at EL1.
pub const HOST_PORT: &str = "rust/arch/el1.rs";
/// The same, for debug registers.
pub const DEBUG_PORT: &str = "rust/arch/debug.rs";
/// All of them.
pub const PORTS: [&str; 3] = [PORT, HOST_PORT, DEBUG_PORT];

/// What names the mutants of one site: by its place, and by its instruction for all places.
fn keys(site: &Site, port: &str, fault: Fault) -> [Key; 2] {
    let key = |line: &str, name, round| Key {
        line: line.into(),
        name,
        round,
        fault,
    };
    [
        key(&site.line, site.instruction.name(), site.round),
        key(port, site.instruction.stem(), 0),
    ]
}

fn run<F: Subject>(circumstances: Circumstances, found: &mut Found) {
    for scenario in scenarios() {
        let scene = prepare::<F>(&scenario, circumstances);
        let injector = Injector::recording();
        let mut good = scene.fork();
        good.step_with(scenario.step, &injector)
            .expect("the operation is in order");
        good.check();
        good.assert_clean();
        let sites = injector.sites();
        let mut places: BTreeMap<Key, BTreeSet<usize>> = BTreeMap::new();
        for (number, site) in sites.iter().enumerate() {
            let possible = |fault: &Fault| fault.apply(site.instruction).is_some();
            for fault in Fault::ALL.into_iter().filter(possible) {
                for key in keys(site, PORT, fault) {
                    let known = found.entry(key.clone()).or_default();
                    known.sequences.insert(site.sequence.clone());
                    places.entry(key).or_default().insert(number);
                }
            }
        }
        for (key, numbers) in places {
            let fault = key.fault;
            let known = found.entry(key).or_default();
            // What another scenario has caught need not be caught again.
            if known.rules.is_empty() {
                let rule = mutate::<F>(&scene, scenario.step, numbers, fault);
                known.rules.extend(rule);
            }
        }
    }
}

/// The same for the host's own sequences.
fn run_host(found: &mut Found) {
    for act in host::ACTS.into_iter().chain(debug::ACTS) {
        let injector = Injector::recording();
        let broken = act.play(&injector);
        assert_eq!(broken, None, "{} breaks a rule by itself", act.name);
        let mut places: BTreeMap<Key, BTreeSet<usize>> = BTreeMap::new();
        for (number, site) in injector.sites().iter().enumerate() {
            let possible = |fault: &Fault| fault.apply(site.instruction).is_some();
            for fault in Fault::ALL.into_iter().filter(possible) {
                for key in keys(site, act.port, fault) {
                    places.entry(key).or_default().insert(number);
                }
            }
        }
        for (key, numbers) in places {
            let rule = act.play(&Injector::faulty(numbers, key.fault));
            let known = found.entry(key).or_default();
            known.sequences.insert(act.name.into());
            known.rules.extend(rule);
        }
    }
}

/// The comment directly above line `line` of the sequences, if it argues for what stands there.
fn argument(line: &str) -> Option<String> {
    let (file, number) = line.rsplit_once(':')?;
    let number: usize = number.parse().ok()?;
    let place = FILES.iter().position(|known| *known == file)?;
    let before: Vec<&str> = SOURCES[place]
        .lines()
        .take(number.checked_sub(1)?)
        .collect();
    let comment = before
        .iter()
        .rev()
        .map_while(|line| line.trim().strip_prefix("//"));
    let mut words: Vec<&str> = comment.map(str::trim).collect();
    words.reverse();
    let text = words.join(" ");
    text.contains(ARGUMENT).then_some(text)
}

/// Runs all mutants of the sequences.
///
/// # Panics
///
/// A sequence breaks a rule without any fault.
pub fn mutants() -> Vec<Mutant> {
    let mut found = Found::new();
    for (ttl, repeat) in [(false, false), (true, false), (false, true)] {
        let by_range = Circumstances {
            features: TlbFeatures { ttl, repeat },
            speculative_at: false,
            way: Way::ByRange,
        };
        run::<Stage1>(by_range, &mut found);
        for way in [Way::ByRange, Way::Vm, Way::AllVms] {
            run::<Stage2>(Circumstances { way, ..by_range }, &mut found);
        }
        let walking = Circumstances {
            speculative_at: true,
            ..by_range
        };
        run::<Stage2>(walking, &mut found);
    }
    run_host(&mut found);
    found
        .into_iter()
        .map(|(key, known)| Mutant {
            place: known.sequences.into_iter().collect::<Vec<_>>().join(" "),
            argument: argument(&key.line).filter(|_| key.fault == Fault::Missing),
            text: text(&key),
            line: key.line,
            killed_by: known.rules,
        })
        .collect()
}

/// The instruction, with what is wrong.
fn text(key: &Key) -> String {
    let again = if key.round == 0 { "" } else { " (again)" };
    match key.fault {
        Fault::Missing => format!("{}{again}", key.name),
        fault => format!("{}{again} -> {fault:?}", key.name),
    }
}
