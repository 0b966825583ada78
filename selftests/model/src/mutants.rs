// SPDX-License-Identifier: GPL-2.0-only

//! Mutation: each instruction that is there for the machine's sake is taken out, and a scenario must fail.
//!
//! In the linked pages these are all DSB, ISB, TLBI, IC, DC and MSR, one at a time replaced by NOP, and then by what is
//! easily mistaken for it. Of what the host does in Rust, it is the steps of its set-up. One that nobody misses is a
//! survivor, and a survivor must be on a list, with the reason that stands at the instruction in the source.

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

use crate::{
    elf::Image,
    insn::{
        self,
        Insn, //
    },
    listing,
    scenario::{
        self,
        several::others_first,
        Scenario, //
    },
    sysreg::SysOp,
    world::HOST_STEPS, //
};

/// Survivors that are right: function, text of the instruction, how many of that text come before it in the function, and
/// why. The argument stands at the instruction, too.
const ARGUED: &[(&str, &str, usize, &str)] = &[];

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
    Argued(&'static str),
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

/// Offsets of all instructions in the pages under test that exist for the machine's sake.
pub fn targets(image: &Image) -> Vec<u64> {
    let assembly = |name: &str| name.starts_with("eltwo_") && name != "eltwo_header";
    let mut offsets: Vec<u64> = image
        .functions()
        .filter(|function| assembly(&function.name))
        .flat_map(|function| function.range.clone().step_by(4))
        .filter(|offset| image.word(*offset).is_some_and(is_target))
        .collect();
    offsets.sort_unstable();
    offsets.dedup();
    offsets
}

fn is_target(word: u32) -> bool {
    matches!(
        insn::decode(word),
        Ok(Insn::Dsb(_) | Insn::Isb | Insn::Sys { .. } | Insn::Msr { .. } | Insn::SelectSp(_))
    )
}

/// What may stand in the place of `word`: nothing, a DSB for stores or for loads only, or the TLBI of the other regime.
fn replacements(word: u32) -> Vec<u32> {
    const DSB_ACCESSES: u32 = 3 << 8;
    const DSB_STORES: u32 = 2 << 8;
    const DSB_LOADS: u32 = 1 << 8;
    // Bit 7 is all that ALLE2 and ALLE1 differ in.
    const OTHER_REGIME: u32 = 1 << 7;
    let others = match insn::decode(word) {
        Ok(Insn::Dsb(_)) => vec![
            word & !DSB_ACCESSES | DSB_STORES,
            word & !DSB_ACCESSES | DSB_LOADS,
        ],
        Ok(Insn::Sys {
            op: SysOp::TlbiAlle1 | SysOp::TlbiAlle2,
            ..
        }) => vec![word ^ OTHER_REGIME],
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
    for scenario in scenario::ALL {
        let result = scenario.run(image);
        result.with_context(|| format!("{} fails without any mutation", scenario.name))?;
    }
    let targets: Vec<(u64, u32)> = targets(image)
        .into_iter()
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
    let linked = mutants.into_iter().map(|(_, mutant)| mutant);
    Ok(linked.chain(host_steps(image)).collect())
}

/// Leaves out what the host does for the machine's sake, step by step.
fn host_steps(image: &Image) -> impl Iterator<Item = Mutant> + '_ {
    HOST_STEPS.iter().map(|step| {
        let killer = [false, true].into_iter().find_map(|icache_on| {
            let run = others_first(image, icache_on, &[step.change]);
            Some(killed("others_first", &run.err()?))
        });
        let survivor = step.argument.map_or(Verdict::Survived, Verdict::Argued);
        Mutant {
            place: step.place.into(),
            line: "rust/host".into(),
            text: step.text.into(),
            verdict: killer.unwrap_or(survivor),
        }
    })
}

fn judge(image: &Image, offset: u64, other: u32) -> Mutant {
    let mutated = image.patched(offset, other);
    let killer = scenario::ALL
        .iter()
        .find_map(|scenario| kills(scenario, &mutated));
    let verdict = killer.unwrap_or_else(|| match argument(image, offset) {
        Some(reason) if other == insn::NOP => Verdict::Argued(reason),
        _ => Verdict::Survived,
    });
    let text = image
        .word(offset)
        .map_or_else(String::new, insn::disassemble);
    Mutant {
        place: image.place(offset),
        line: listing::line_of(image, offset).unwrap_or_else(|| "?".into()),
        text: match other {
            insn::NOP => text,
            other => format!("{text} -> {}", insn::disassemble(other)),
        },
        verdict,
    }
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

fn argument(image: &Image, offset: u64) -> Option<&'static str> {
    let (function, _) = image.locate(offset)?;
    let text = |offset: u64| image.word(offset).map(insn::disassemble);
    let this = text(offset)?;
    let before = (function.range.start..offset).step_by(4);
    let nth = before
        .filter(|other| text(*other).as_ref() == Some(&this))
        .count();
    ARGUED
        .iter()
        .find(|(name, instruction, number, _)| {
            *name == function.name && *instruction == this && *number == nth
        })
        .map(|(.., reason)| *reason)
}
