// SPDX-License-Identifier: GPL-2.0-only

//! Arch, in `cargo test`: an adversary.
//!
//! A model of an Arm system that is as hostile as the Arm ARM allows: several CPUs with their system registers, TLBs, walk
//! caches, data and instruction caches, and one physical memory.
//!
//! It does not choose at random. It keeps the *set* of everything that a TLB, a cache or a register may hold, and an
//! operation succeeds only if each member of the set gives the same result. So an instruction that is missing is found
//! in every run, not in some of them:
//!
//! - TLBs hold everything that the tables lead to, for each root that any mixture of old and new registers makes; and
//!   everything that they once led to, until the right TLBI is completed by the right DSB ([`ghost`]).
//! - A register has its old and its new value until a context synchronization event.
//! - A store to a table is seen by the walkers from now on, or from the next DSB on.
//! - A line may be cached, and written back, at any time ([`memory`]).
//!
//! [`System`] is the whole, [`Cpu`] one CPU as instructions see it, [`Machine`] the way from the walker of
//! `common::pgtable` to both. A rule that is broken is a [`Violation`] with the trace that led there.
//!
//! What is left out: accesses of different sizes that overlap, permissions of guests' stage 1, CnP, contiguous and
//! hierarchical attributes (their use is a violation), and the order of data accesses of different CPUs.
//!
//! Source: Arm ARM DDI 0487 B2 (memory, caches), D8 (translation, TLBs, D8.16 and D8.17), K13 (barrier examples).

mod access;
mod checks;
mod cpu;
mod descriptor;
mod ghost;
mod hwdebug;
mod inject;
mod lower;
mod machine;
mod maintenance;
mod memory;
mod mixture;
mod pages;
mod regime;
mod roots;
pub mod sequences;
mod tables;
#[cfg(test)]
mod tests;
mod translate;
mod types;
mod violation;

use std::collections::{
    BTreeMap,
    BTreeSet, //
};

pub use cpu::Cpu;
pub use descriptor::Stage;
pub use hwdebug::{
    ID_AA64DFR0_EL1,
    MDSCR_EL1, //
};
pub use inject::{
    Fault,
    Injector,
    Site, //
};
pub use lower::{
    Quirks,
    DEFERRED,
    MAIR_EL1,
    SCTLR_EL1,
    TTBR0_EL1,
    TTBR1_EL1, //
};
pub use machine::{
    debug_instruction,
    instruction,
    Machine,
    Port,
    Tables, //
};
pub use memory::LINE_BYTES;
pub use mixture::Regime;
pub use types::{
    Access,
    Clean,
    Domain,
    El,
    Fetched,
    Hint,
    Instruction,
    Kind,
    Reg,
    Tlbi,
    Translation, //
};
pub use violation::{
    Checked,
    Rule,
    Violation, //
};

use ghost::Ghosts;
use lower::Lower;
use memory::{
    Memory,
    PendingClean,
    PendingFlush, //
};
use roots::{
    RootId,
    Roots, //
};
use violation::{
    Event,
    Trace, //
};

/// Violations that are kept; what comes later is a consequence.
const MAX_VIOLATIONS: usize = 8;

/// What a read of given-back memory finds: a valid descriptor at any level, to where nothing is.
const POISON: u64 = 0x0000_6bad_bad0_0003;

/// One CPU.
#[derive(Clone)]
struct CpuState {
    el: El,
    regs: BTreeMap<Reg, u64>,
    /// Earlier values that may still be in effect.
    old: BTreeMap<Reg, Vec<u64>>,
    /// Roots that walks may start from.
    roots: Vec<RootId>,
    /// Pages that were written since the last DSB.
    unpublished: BTreeSet<u64>,
    cleans: Vec<PendingClean>,
    flushes: Vec<(PendingFlush, bool)>,
    /// Speculative walks that began at EL1 may still be on their way.
    walks_of_el1: bool,
    /// Complete, but for what this CPU has fetched ahead.
    flushed: Vec<PendingFlush>,
    /// What lower levels have left besides.
    lower: Lower,
    /// Loads may be done before a store that stands in front of them.
    loads_ahead: bool,
}

impl CpuState {
    /// As the kernel's stub leaves a CPU: EL2 with MMU and caches off, junk in what nobody has set.
    fn new() -> Self {
        let regs = [
            (
                Reg::SctlrEl2,
                0x30c5_0830 | regime::SCTLR_EOS | regime::SCTLR_EIS,
            ),
            (Reg::Ttbr0El2, 0x0000_0bad_0000_0000),
            (Reg::TcrEl2, 0x0bad_c000),
            (Reg::MairEl2, 0x0bad_0bad_0bad_0bad),
            (Reg::VbarEl2, 0x0000_0000_4000_0800),
            (Reg::HcrEl2, 1 << 31),
            (Reg::VttbrEl2, 0),
            (Reg::VtcrEl2, 0),
        ];
        Self {
            el: El::Host,
            regs: regs.into_iter().collect(),
            old: BTreeMap::new(),
            roots: Vec::new(),
            unpublished: BTreeSet::new(),
            cleans: Vec::new(),
            flushes: Vec::new(),
            walks_of_el1: false,
            flushed: Vec::new(),
            lower: Lower::default(),
            loads_ahead: false,
        }
    }

    fn current(&self, reg: Reg) -> u64 {
        self.regs.get(&reg).copied().unwrap_or(0)
    }

    /// All values that may be in effect.
    fn possible(&self, reg: Reg) -> Vec<u64> {
        let mut values = self.old.get(&reg).cloned().unwrap_or_default();
        values.push(self.current(reg));
        values.sort_unstable();
        values.dedup();
        values
    }

    /// The VMID in effect; `None` if it is not certain.
    fn vmid(&self) -> Option<u16> {
        let vttbrs = self.possible(Reg::VttbrEl2);
        let vtcrs = self.possible(Reg::VtcrEl2);
        let vmids: BTreeSet<u16> = vttbrs
            .iter()
            .flat_map(|vttbr| vtcrs.iter().map(|vtcr| regime::vmid(*vttbr, *vtcr)))
            .collect();
        vmids.first().copied().filter(|_| vmids.len() == 1)
    }

    fn forget_old_values(&mut self) {
        self.old.clear();
    }
}

/// The system. See the module.
#[derive(Clone)]
pub struct System {
    cpus: Vec<CpuState>,
    memory: Memory,
    roots: Roots,
    ghosts: Ghosts,
    trace: Trace,
    violations: Vec<Violation>,
    /// An erratum: a broadcast invalidation is sure only when it was completed twice.
    repeat_tlbi: bool,
    /// An erratum: stage-1 walks of EL1 can begin at EL2 as well.
    speculative_at: bool,
    /// CTR_EL0.IDC: what is stored is at the PoU as soon as it is seen.
    idc: bool,
    /// CTR_EL0.L1Ip is PIPT: instruction caches have no aliases.
    physical_icaches: bool,
}

impl System {
    /// A system of `cpus` CPUs, at EL1 of the host, with EL2 as the kernel's stub leaves it and nothing in the TLBs.
    pub fn new(cpus: usize) -> Self {
        assert!((1..=64).contains(&cpus));
        Self {
            cpus: (0..cpus).map(|_| CpuState::new()).collect(),
            memory: Memory::default(),
            roots: Roots::default(),
            ghosts: Ghosts::default(),
            trace: Trace::default(),
            violations: Vec::new(),
            repeat_tlbi: false,
            speculative_at: false,
            idc: false,
            physical_icaches: false,
        }
    }

    /// Gives all CPUs the erratum that a clean to the PoC must be completed twice
    /// (Linux: `ARM64_WORKAROUND_4311569`).
    pub fn needs_repeated_clean(&mut self) {
        self.memory.repeat_clean = true;
    }

    /// Gives all CPUs CTR_EL0.IDC.
    pub fn has_idc(&mut self) {
        self.idc = true;
    }

    /// Gives all CPUs instruction caches that are indexed and tagged by the PA (PIPT), and so have no aliases.
    pub fn has_physical_icaches(&mut self) {
        self.physical_icaches = true;
    }

    /// Whether all CPUs see what `cpu` has stored to the page at `pa`.
    pub fn is_seen(&self, cpu: usize, pa: u64) -> bool {
        !self.cpus[cpu]
            .unpublished
            .contains(&(pa / memory::PAGE_BYTES))
    }

    /// Whether a load of `cpu` may be done before a store that stands in front of it.
    pub fn loads_ahead(&self, cpu: usize) -> bool {
        self.cpus[cpu].loads_ahead
    }

    /// Gives all CPUs the erratum that broadcast invalidations must be completed twice
    /// (Linux: `ARM64_WORKAROUND_REPEAT_TLBI`).
    pub fn needs_repeated_tlbi(&mut self) {
        self.repeat_tlbi = true;
    }

    /// Gives all CPUs the erratum that an AT of EL1 can be executed speculatively at EL2, and walks
    /// (Linux: `ARM64_WORKAROUND_SPECULATIVE_AT`).
    pub fn walks_speculatively(&mut self) {
        self.speculative_at = true;
    }

    /// CPU number `number`, to execute instructions on.
    pub fn cpu(&mut self, number: usize) -> Cpu<'_> {
        assert!(number < self.cpus.len());
        Cpu::new(self, number)
    }

    /// Number of CPUs.
    pub fn cpus(&self) -> usize {
        self.cpus.len()
    }

    /// All violations so far, the first of them first.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// The same, and forgets them.
    pub fn take_violations(&mut self) -> Vec<Violation> {
        core::mem::take(&mut self.violations)
    }

    /// What happened so far, newest last.
    pub fn trace(&self) -> String {
        self.trace.to_string()
    }

    /// Adds a line of the user's own to the trace.
    pub fn note(&mut self, cpu: usize, text: &str) {
        self.trace.push(cpu, Event::Note(text.to_string()));
    }

    /// The newest value of the word at `pa`, whatever the caches hold; `None` if nobody wrote it.
    pub fn read(&self, pa: u64) -> Option<u64> {
        self.memory.read(pa & !7)
    }

    /// Records a violation and returns it.
    fn broken<T>(&mut self, rule: Rule, cpu: usize, detail: String) -> Checked<T> {
        let violation = Violation {
            rule,
            cpu,
            detail,
            trace: self.trace.to_string(),
        };
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(violation.clone());
        }
        Err(violation.into())
    }

    fn is_hyp(&self, root: RootId) -> bool {
        self.roots.get(root).format.stage == Stage::Hyp
    }
}
