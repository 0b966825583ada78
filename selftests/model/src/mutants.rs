// SPDX-License-Identifier: GPL-2.0-only

//! Mutation: each instruction that is there for the machine's sake is taken out, and a scenario must fail.
//!
//! - In the linked image these are all barriers (ESB and its like are among them), TLBI, IC, DC, AT and MSR of the idmap page,
//!   of the vectors, of the switch to guests and of EL2's translation of an address, one at a time replaced by NOP, and then by
//!   what is easily mistaken for it.
//! - In the sequences of the walker, and in the host's own (caches, breakpoints), it is each instruction that they issue, and each one that
//!   `rust/arch` makes of it, left out or weakened while they are in use (`fake::sequences`).
//! - Of what the host does before the first CPU is at EL2 with us, it is each step.
//! - An instruction of `rust/arch` that none of these runs has issued is nobody's, and counts as a survivor.
//!
//! An instruction that nobody misses is a survivor. A survivor is let pass only with an argument: in a comment above the
//! instruction that says "no mutant dies here".

use std::{
    sync::atomic::{
        AtomicUsize,
        Ordering::Relaxed, //
    },
    sync::Mutex,
    thread,
};

use anyhow::{
    Context as _,
    Result, //
};
use eltwo::fake::sequences;

use crate::{
    elf::Image,
    insn::{
        self,
        Insn, //
    },
    listing,
    scenario::{
        self,
        several::{
            others_first,
            three_cpus, //
        },
        translate,
        Scenario, //
    },
    sources,
    sysreg::SysOp,
    world::{
        HOST_STEPS, //
    },
};

/// What became of a mutant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A scenario failed.
    Killed {
        /// Its name.
        by: String,
        /// Why, in a few words.
        reason: String,
    },
    /// None did, for this reason.
    Argued(String),
    /// None did.
    Survived,
}

/// One instruction taken out, or replaced.
#[derive(Clone, Debug)]
pub struct Mutant {
    /// Symbol and distance.
    pub place: String,
    /// File and line, if they can be told.
    pub line: String,
    /// The instruction, and what stands in its place if anything does.
    pub text: String,
    /// What became of it.
    pub verdict: Verdict,
}

impl Mutant {
    /// Whether it was caught.
    pub fn is_killed(&self) -> bool {
        matches!(self.verdict, Verdict::Killed { .. })
    }

    /// Whether it was not, for a reason.
    pub fn is_argued(&self) -> bool {
        matches!(self.verdict, Verdict::Argued(_))
    }
}

/// Offsets of all instructions in the code under test that exist for the machine's sake.
///
/// # Errors
///
/// The image has no code that translates an address.
pub fn targets(image: &Image) -> Result<Vec<u64>> {
    let under_test = |name: &str| name != "eltwo_header" && listing::knows(name);
    let mut offsets: Vec<u64> = image
        .functions()
        .filter(|function| under_test(&function.name))
        .map(|function| function.range.clone())
        .chain([translate::instructions(image)?])
        .flat_map(|range| range.step_by(4))
        .filter(|offset| image.word(*offset).is_some_and(insn::is_maintenance))
        .collect();
    offsets.sort_unstable();
    offsets.dedup();
    Ok(offsets)
}

/// Functions of the image's assembly that no scenario is about, with their number of such instructions. There must be none.
pub fn not_reached(image: &Image) -> Vec<(String, usize)> {
    let assembly = |name: &str| name.starts_with("eltwo_") && !listing::knows(name);
    let functions = image
        .functions()
        .filter(|function| assembly(&function.name));
    let counted = functions.map(|function| {
        let words = function.range.clone().step_by(4);
        let words = words.filter_map(|offset| image.word(offset));
        (
            function.name.clone(),
            words.filter(|word| insn::is_maintenance(*word)).count(),
        )
    });
    counted.filter(|(_, count)| *count != 0).collect()
}

/// What may stand in the place of `word`: nothing, a DSB for stores or for loads only, or the TLBI of the other regime or
/// of one stage.
fn replacements(word: u32) -> Vec<u32> {
    const DSB_ACCESSES: u32 = 3 << 8;
    const DSB_STORES: u32 = 2 << 8;
    const DSB_LOADS: u32 = 1 << 8;
    // Bit 7 is all that ALLE2 and ALLE1 differ in.
    const OTHER_REGIME: u32 = 1 << 7;
    // TLBI VMALLE1.
    const STAGE1_ONLY: u32 = 0xd508_871f;
    let others = match insn::decode(word) {
        Ok(Insn::Dsb(_)) => vec![
            word & !DSB_ACCESSES | DSB_STORES,
            word & !DSB_ACCESSES | DSB_LOADS,
        ],
        Ok(Insn::Sys {
            op: SysOp::TlbiAlle1 | SysOp::TlbiAlle2,
            ..
        }) => vec![word ^ OTHER_REGIME],
        Ok(Insn::Sys {
            op: SysOp::TlbiVmalls12e1,
            ..
        }) => vec![STAGE1_ONLY],
        _ => Vec::new(),
    };
    [insn::NOP].into_iter().chain(others).collect()
}

/// Takes every target out in turn.
///
/// # Errors
///
/// The image itself does not pass.
pub fn run(image: &Image) -> Result<Vec<Mutant>> {
    let linked = of_image(image, "")?;
    let issued = sequences::mutants();
    let strangers = strangers(&issued);
    Ok(linked
        .into_iter()
        .chain(host_steps(image))
        .chain(issued.into_iter().map(of_sequence))
        .chain(strangers)
        .collect())
}

/// Takes every target in the image out in turn whose place has `only` in its name.
///
/// # Errors
///
/// The image itself does not pass.
pub fn of_image(image: &Image, only: &str) -> Result<Vec<Mutant>> {
    for scenario in scenario::ALL {
        let result = scenario.run(image);
        result.with_context(|| format!("{} fails without any mutation", scenario.name))?;
    }
    let targets: Vec<(u64, u32)> = targets(image)?
        .into_iter()
        .filter(|offset| place_of(image, *offset).contains(only))
        .flat_map(|offset| {
            let word = image.word(offset).unwrap_or(insn::NOP);
            replacements(word)
                .into_iter()
                .map(move |other| (offset, other))
        })
        .collect();
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| loop {
                let number = next.fetch_add(1, Relaxed);
                let Some((offset, other)) = targets.get(number) else {
                    break;
                };
                let mutant = judge(image, *offset, *other);
                if let Ok(mut done) = done.lock() {
                    done.push((number, mutant));
                }
            });
        }
    });
    let mut mutants = done.into_inner().unwrap_or_default();
    mutants.sort_by_key(|(number, _)| *number);
    Ok(mutants.into_iter().map(|(_, mutant)| mutant).collect())
}

/// Leaves out what the host does for the machine's sake, step by step.
fn host_steps(image: &Image) -> impl Iterator<Item = Mutant> + '_ {
    HOST_STEPS.iter().map(|step| {
        let killer = [false, true].into_iter().find_map(|icache_on| {
            let run = others_first(image, &three_cpus(icache_on), &[step.change]);
            Some(killed("others_first", &run.err()?))
        });
        let place = sources::find(sequences::HOST_PORT, "issue", step.text);
        let argument = place.as_ref().and_then(|place| place.argument.clone());
        let survivor = argument.map_or(Verdict::Survived, Verdict::Argued);
        Mutant {
            place: format!("{} ({})", step.function, step.of),
            line: place.map_or_else(|| "rust/host/service.rs".into(), |place| place.line()),
            text: step.text.into(),
            verdict: killer.unwrap_or(survivor),
        }
    })
}

/// A mutant of the walker's sequences, as one of ours.
fn of_sequence(mutant: sequences::Mutant) -> Mutant {
    let rules: Vec<String> = mutant
        .killed_by
        .iter()
        .map(|rule| format!("{rule:?}"))
        .collect();
    let verdict = match (rules.is_empty(), mutant.argument) {
        (false, _) => Verdict::Killed {
            by: "the sequences in use".into(),
            reason: rules.join(", "),
        },
        (true, Some(argument)) => Verdict::Argued(argument),
        (true, None) => Verdict::Survived,
    };
    let is_port = sequences::PORTS.contains(&&*mutant.line);
    let (place, line) = if is_port {
        let name = mutant.text.split(" ->").next().unwrap_or_default();
        let place = sources::find(&mutant.line, "issue", name);
        let line = place.map_or(mutant.line, |place| place.line());
        ("Cpu::issue".into(), line)
    } else {
        (mutant.place, mutant.line)
    };
    Mutant {
        place,
        line,
        text: mutant.text,
        verdict,
    }
}

/// Instructions of `rust/arch` that no run has issued.
fn strangers(issued: &[sequences::Mutant]) -> Vec<Mutant> {
    let by_sequence = |place: &sources::Place| {
        let is_it =
            |mutant: &sequences::Mutant| mutant.line == place.file && mutant.text == place.text;
        place.function == "issue" && issued.iter().any(is_it)
    };
    // What `scenario::translate` runs is a target in the image.
    let by_image = |place: &sources::Place| place.function == "translate";
    sources::all()
        .into_iter()
        .filter(|place| !by_sequence(place) && !by_image(place))
        .map(|place| Mutant {
            line: place.line(),
            place: place.function,
            text: place.text,
            verdict: place.argument.map_or(Verdict::Survived, Verdict::Argued),
        })
        .collect()
}

fn judge(image: &Image, offset: u64, other: u32) -> Mutant {
    let mutated = image.patched(offset, other);
    let killer = scenario::ALL
        .iter()
        .find_map(|scenario| kills(scenario, &mutated));
    let verdict = killer.unwrap_or_else(|| match listing::argument(image, offset) {
        Some(reason) if other == insn::NOP => Verdict::Argued(reason),
        _ => Verdict::Survived,
    });
    let text = image
        .word(offset)
        .map_or_else(String::new, insn::disassemble);
    Mutant {
        place: place_of(image, offset),
        line: line_of(image, offset).unwrap_or_else(|| "?".into()),
        text: match other {
            insn::NOP => text,
            other => format!("{text} -> {}", insn::disassemble(other)),
        },
        verdict,
    }
}

/// Symbol and distance. The names of Rust's functions are long, and inlining makes them say little.
fn place_of(image: &Image, offset: u64) -> String {
    match translate::instructions(image) {
        Ok(range) if range.contains(&offset) => format!("translate+{:#x}", offset - range.start),
        _ => image.place(offset),
    }
}

/// Where the instruction at `offset` stands in the sources, in assembly or in Rust.
fn line_of(image: &Image, offset: u64) -> Option<String> {
    listing::line_of(image, offset).or_else(|| {
        let text = image.word(offset).map(insn::disassemble)?;
        let text = text.split(',').next()?;
        Some(sources::find(sequences::PORT, "translate", text)?.line())
    })
}

fn kills(scenario: &Scenario, image: &Image) -> Option<Verdict> {
    let error = scenario.run(image).err()?;
    Some(killed(scenario.name, &error))
}

fn killed(by: &str, error: &anyhow::Error) -> Verdict {
    let text = error.to_string();
    // The first line is the rule and where; behind that are details and the trace.
    let line = text.lines().next().unwrap_or("");
    let reason = line.split(['[', '{', '(']).next().unwrap_or(line);
    Verdict::Killed {
        by: by.into(),
        reason: reason.trim_end().trim_end_matches(':').into(),
    }
}
