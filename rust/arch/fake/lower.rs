// SPDX-License-Identifier: GPL-2.0-only

//! What the levels below EL2 leave in a CPU besides registers and translations, and what a switch between the host and a guest
//! must therefore do in order: rules of the architecture, and of the errata that a CPU can be given.
//!
//! Source: Arm ARM DDI 0487 D1.3 (SErrors, ESB), D8.2 (out-of-context regimes), D16 (statistical profiling), D6 (trace buffer);
//! `arch/arm64/Kconfig` and `Documentation/arch/arm64/silicon-errata.rst` of Linux for the errata.

use super::{
    cpu::Cpu,
    mixture::Regime,
    regime,
    types::{
        Domain,
        El,
        Hint,
        Kind,
        Reg,
        Tlbi, //
    },
    violation::{
        Checked,
        Event,
        Rule, //
    },
};

/// SCTLR_EL1.
pub const SCTLR_EL1: Reg = Reg::Other("SCTLR_EL1");
/// TTBR0_EL1.
pub const TTBR0_EL1: Reg = Reg::Other("TTBR0_EL1");
/// TTBR1_EL1.
pub const TTBR1_EL1: Reg = Reg::Other("TTBR1_EL1");
/// MAIR_EL1.
pub const MAIR_EL1: Reg = Reg::Other("MAIR_EL1");
/// VMPIDR_EL2, which tells the vCPUs of a VM apart.
const VMPIDR_EL2: Reg = Reg::Other("VMPIDR_EL2");
/// CPTR_EL2.
const CPTR_EL2: Reg = Reg::Other("CPTR_EL2");
/// PAR_EL1.
const PAR_EL1: Reg = Reg::Other("PAR_EL1");
/// DISR_EL1.
const DISR_EL1: Reg = Reg::Other("DISR_EL1");
/// Registers of EL1 that walks of its stage 1 read.
const STAGE1: [Reg; 5] = [SCTLR_EL1, TTBR0_EL1, TTBR1_EL1, MAIR_EL1, Reg::TcrEl1];

/// CPTR_EL2.TFP.
const CPTR_TFP: u64 = 1 << 10;
/// PMBLIMITR_EL1.E and TRBLIMITR_EL1.E.
const LIMITR_E: u64 = 1;
/// DISR_EL1.A, and a syndrome that nobody would guess.
pub const DEFERRED: u64 = (1 << 31) | 0xba5e;

/// What a CPU has or needs that not every CPU does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quirks {
    /// A write of HCR_EL2 is lost if memory accesses overlap with it (Linux: `AMPERE_ERRATUM_AC04_CPU_23`).
    pub hcr_alone: bool,
    /// A read of PAR_EL1 near a Device or Non-cacheable load can hang the CPU (Linux: `ARM64_WORKAROUND_1508412`).
    pub par_barrier: bool,
    /// A guest trains the branch predictor for EL2 and for the host.
    pub unlearn: bool,
    /// FEAT_RAS: ESB defers an SError.
    pub ras: bool,
}

/// An SError that an access of a lower level has caused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Serror {
    #[default]
    None,
    /// The access is not complete.
    OnItsWay,
    /// A DSB has waited for the access.
    Arrived,
    /// ISR_EL1 tells of it.
    Visible,
}

/// A buffer that the CPU fills by itself, with the tables of EL1: profiling or trace.
#[derive(Clone, Copy, Debug)]
struct Buffer {
    /// The register that lets data be made.
    source: Reg,
    /// The register that lets them be written.
    limit: Reg,
    /// The barrier for what was made.
    sync: Hint,
    /// What was made may not be in memory yet.
    filled: bool,
    /// The barrier was executed, and no DSB yet.
    draining: bool,
    /// Context synchronization events since the buffer was opened.
    opened: Option<u32>,
    /// It was closed, and not drained since: a write of its registers may be lost (Linux: `ARM64_WORKAROUND_2064142`).
    closed: bool,
}

impl Buffer {
    const fn new(source: Reg, limit: Reg, sync: Hint) -> Self {
        Self {
            source,
            limit,
            sync,
            filled: false,
            draining: false,
            opened: None,
            closed: false,
        }
    }

    /// Whether it is the trace's, which has errata.
    fn is_trace(&self) -> bool {
        self.sync == Hint::TsbCsync
    }
}

/// What a vCPU has left under a VMID.
#[derive(Clone, Copy, Debug)]
struct Left {
    vmid: u16,
    vcpu: u64,
    /// Stage 1 in the TLB.
    tlb: bool,
    /// Instructions in the cache.
    icache: bool,
    /// An invalidation of each was issued.
    pending: (bool, bool),
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Lower {
    quirks: Quirks,
    pub(super) regimes: Vec<Regime>,
    left: Vec<Left>,
    serror: Serror,
    /// PSTATE.A is clear at EL2.
    serror_unmasked: bool,
    buffers: [Buffer; 2],
    /// Loads or stores since the last DSB.
    accessed: bool,
    /// HCR_EL2 was written, and no ISB yet.
    hcr_written: bool,
    /// A load of Device or Non-cacheable memory may be on its way.
    device_load: bool,
    /// PAR_EL1 was read, and no barrier yet.
    par_read: bool,
    /// What a guest has taught the branch predictor is in effect.
    trained: bool,
    /// An interrupt is pending, and is not masked.
    interrupt: bool,
    interrupts_unmasked: bool,
}

impl Default for Lower {
    fn default() -> Self {
        let profile = Buffer::new(
            Reg::Other("PMSCR_EL1"),
            Reg::Other("PMBLIMITR_EL1"),
            Hint::PsbCsync,
        );
        let trace = Buffer::new(
            Reg::Other("TRFCR_EL1"),
            Reg::Other("TRBLIMITR_EL1"),
            Hint::TsbCsync,
        );
        Self {
            quirks: Quirks::default(),
            regimes: Vec::new(),
            left: Vec::new(),
            serror: Serror::None,
            serror_unmasked: false,
            buffers: [profile, trace],
            accessed: false,
            hcr_written: false,
            device_load: false,
            par_read: false,
            trained: false,
            interrupt: false,
            interrupts_unmasked: false,
        }
    }
}

/// Set-up, and what a lower level does.
impl Cpu<'_> {
    /// Gives this CPU `quirks`.
    pub fn give(&mut self, quirks: Quirks) {
        self.lower().quirks = quirks;
    }

    /// An access of the level below EL2 ends in an SError, later.
    pub fn cause_serror(&mut self) {
        self.lower().serror = Serror::OnItsWay;
    }

    /// An interrupt for the host becomes pending.
    pub fn pend_interrupt(&mut self) {
        self.lower().interrupt = true;
    }

    /// PSTATE.I and F at EL1.
    pub fn mask_interrupts(&mut self, masked: bool) {
        self.lower().interrupts_unmasked = !masked;
    }

    /// What was pending was taken.
    pub fn check_interrupt(&mut self) -> Checked<()> {
        if self.lower().interrupt {
            return self.wrong(Rule::Interrupt, "it was not taken where it was unmasked");
        }
        Ok(())
    }

    /// The SError is no longer signalled.
    pub fn withdraw_serror(&mut self) {
        self.lower().serror = Serror::None;
    }

    pub(super) fn lower(&mut self) -> &mut Lower {
        &mut self.system.cpus[self.number].lower
    }

    pub(super) fn wrong<T>(&mut self, rule: Rule, detail: &str) -> Checked<T> {
        self.system.broken(rule, self.number, detail.into())
    }

    pub(super) fn possible(&self, reg: Reg) -> Vec<u64> {
        self.system.cpus[self.number].possible(reg)
    }
}

/// Instructions that matter here alone.
impl Cpu<'_> {
    /// DMB SY.
    pub fn dmb(&mut self) {
        self.record(Event::Note("dmb sy".into()));
        let lower = self.lower();
        lower.device_load = false;
        lower.par_read = false;
    }

    /// A hint that does something.
    pub fn hint(&mut self, hint: Hint) -> Checked<()> {
        self.record(Event::Note(format!("{hint:?}")));
        match hint {
            Hint::Esb if self.lower().quirks.ras && self.lower().serror != Serror::None => {
                self.lower().serror = Serror::None;
                self.preset(DISR_EL1, DEFERRED)?;
            }
            // It counts from the next context synchronization event on.
            Hint::Esb => {}
            Hint::ClrBhb => self.lower().trained = false,
            Hint::PsbCsync | Hint::TsbCsync => self.drain(hint),
        }
        Ok(())
    }

    /// PSB CSYNC and TSB CSYNC: what was made so far goes to memory, if no more is made.
    fn drain(&mut self, hint: Hint) {
        for place in 0..2 {
            let buffer = self.lower().buffers[place];
            let stopped = self.possible(buffer.source) == [0];
            if buffer.sync == hint && stopped {
                self.lower().buffers[place].draining = true;
            }
        }
    }

    /// SMC: the firmware makes the branch predictor unlearn.
    pub fn firmware(&mut self) {
        self.record(Event::Note("smc".into()));
        self.lower().trained = false;
    }

    /// A branch to an address in a register.
    pub fn branch_indirect(&mut self) -> Checked<()> {
        if self.lower().trained {
            return self.wrong(Rule::Predictor, "an indirect branch");
        }
        Ok(())
    }

    /// Masks SErrors at EL2, or does not.
    pub fn mask_serrors(&mut self, masked: bool) {
        self.lower().serror_unmasked = !masked;
    }

    /// Whether an SError can be taken now; it is, if the caller says so.
    pub fn take_serror(&mut self) -> bool {
        let lower = self.lower();
        let taken = lower.serror_unmasked && lower.serror == Serror::Visible;
        if taken {
            lower.serror = Serror::None;
        }
        taken
    }

    /// ISR_EL1.A.
    pub fn serror_pending(&mut self) -> bool {
        self.lower().serror == Serror::Visible
    }

    /// A use of FP/SIMD registers at EL2.
    pub fn use_fp(&mut self) -> Checked<()> {
        if self
            .possible(CPTR_EL2)
            .iter()
            .any(|cptr| cptr & CPTR_TFP != 0)
        {
            return self.wrong(Rule::Unsynchronised, "FP/SIMD may trap: CPTR_EL2.TFP");
        }
        Ok(())
    }

    /// MRS of a register whose reads have rules.
    pub fn reads(&mut self, reg: Reg) -> Checked<()> {
        if reg != PAR_EL1 || !self.lower().quirks.par_barrier {
            return Ok(());
        }
        self.lower().par_read = true;
        if self.lower().device_load {
            return self.wrong(Rule::Erratum, "PAR_EL1 is read with a load on its way");
        }
        Ok(())
    }

    /// AT for EL1, which walks with the registers in effect.
    pub fn at_el1(&mut self) -> Checked<()> {
        for reg in STAGE1
            .into_iter()
            .chain([Reg::VttbrEl2, Reg::VtcrEl2, Reg::HcrEl2])
        {
            self.certain(reg)?;
        }
        if self.lower().par_read {
            return self.wrong(Rule::Erratum, "PAR_EL1 was read before a walk");
        }
        // The tables of a guest may be Non-cacheable.
        self.lower().device_load = true;
        Ok(())
    }
}

/// What the instructions that all know do here.
impl Cpu<'_> {
    /// A load or store at EL2.
    pub(super) fn lower_access(&mut self) -> Checked<()> {
        self.lower().accessed = true;
        if self.lower().hcr_written && self.lower().quirks.hcr_alone {
            return self.wrong(Rule::Erratum, "an access before the ISB behind HCR_EL2");
        }
        Ok(())
    }

    pub(super) fn lower_dsb(&mut self, domain: Domain, kind: Kind) {
        if kind != Kind::Full {
            return;
        }
        let lower = self.lower();
        lower.accessed = false;
        lower.device_load = false;
        lower.par_read = false;
        if lower.serror == Serror::OnItsWay && domain == Domain::Sy {
            lower.serror = Serror::Arrived;
        }
        for buffer in &mut lower.buffers {
            if core::mem::take(&mut buffer.draining) {
                buffer.filled = false;
                buffer.closed = false;
            }
        }
        for left in &mut lower.left {
            let (tlb, icache) = core::mem::take(&mut left.pending);
            left.tlb &= !tlb;
            left.icache &= !icache;
        }
        lower.left.retain(|left| left.tlb || left.icache);
    }

    /// A context synchronization event.
    pub(super) fn lower_sync(&mut self) {
        let lower = self.lower();
        lower.hcr_written = false;
        lower.interrupt &= !lower.interrupts_unmasked;
        if lower.serror == Serror::Arrived {
            lower.serror = Serror::Visible;
        }
        for buffer in &mut lower.buffers {
            buffer.opened = buffer.opened.map(|events| events + 1);
        }
    }

    pub(super) fn lower_tlbi(&mut self, tlbi: Tlbi) {
        let current = self.system.cpus[self.number].vmid();
        let vmid = match (tlbi, current) {
            (Tlbi::Alle1 { .. }, _) => None,
            (Tlbi::Vmalle1 { .. } | Tlbi::Vmalls12e1 { .. }, Some(vmid)) => Some(vmid),
            _ => return,
        };
        for left in &mut self.lower().left {
            left.pending.0 |= vmid.is_none_or(|vmid| vmid == left.vmid);
        }
    }

    pub(super) fn lower_flush(&mut self) {
        for left in &mut self.lower().left {
            left.pending.1 = true;
        }
    }

    /// `reg` is about to be written at EL2.
    pub(super) fn lower_before_msr(&mut self, reg: Reg, value: u64) -> Checked<()> {
        let of_regime =
            STAGE1.contains(&reg) || matches!(reg, Reg::VttbrEl2 | Reg::VtcrEl2 | Reg::HcrEl2);
        if of_regime && self.system.cpus[self.number].walks_of_el1 {
            let detail = format!("msr {reg:?} without a DSB since the exception");
            return self.wrong(Rule::WalkInProgress, &detail);
        }
        if reg == Reg::HcrEl2 {
            if self.lower().accessed && self.lower().quirks.hcr_alone {
                return self.wrong(
                    Rule::Erratum,
                    "HCR_EL2 is written with accesses on their way",
                );
            }
            self.lower().hcr_written = true;
        }
        for place in 0..2 {
            self.check_buffer(place, reg, value, of_regime)?;
        }
        Ok(())
    }

    /// Buffer number `place`, when `reg` is about to be written.
    fn check_buffer(&mut self, place: usize, reg: Reg, value: u64, of_regime: bool) -> Checked<()> {
        let buffer = self.lower().buffers[place];
        let open = self
            .possible(buffer.limit)
            .iter()
            .any(|limit| limit & LIMITR_E != 0);
        if of_regime && open {
            let detail = format!("msr {reg:?} while {:?} may be open", buffer.limit);
            return self.wrong(Rule::Buffer, &detail);
        }
        if reg == buffer.limit {
            let opens = value & LIMITR_E != 0;
            if open && !opens && buffer.filled {
                return self.wrong(Rule::Buffer, "closed before it was drained");
            }
            if buffer.closed && buffer.is_trace() {
                return self.wrong(
                    Rule::Erratum,
                    "a trace buffer that was closed and not drained",
                );
            }
            if opens {
                for reg in STAGE1.into_iter().chain([Reg::VttbrEl2, Reg::HcrEl2]) {
                    self.certain(reg)?;
                }
            }
            let buffer = &mut self.lower().buffers[place];
            buffer.closed = open && !opens;
            buffer.opened = opens.then_some(0);
        }
        if reg == buffer.source && value != 0 {
            let limit = self.certain(buffer.limit)?;
            // Linux: ARM64_WORKAROUND_2038923.
            if buffer.is_trace() && limit & LIMITR_E != 0 && buffer.opened == Some(1) {
                return self.wrong(Rule::Erratum, "one ISB alone behind the trace buffer");
            }
        }
        Ok(())
    }

    /// An exception to EL2 from `from`.
    pub(super) fn lower_exception(&mut self, from: El) {
        let sources: Vec<bool> = (0..2)
            .map(|place| {
                let buffer = self.lower().buffers[place];
                self.possible(buffer.source).iter().any(|value| *value != 0)
                    && self
                        .possible(buffer.limit)
                        .iter()
                        .any(|limit| limit & LIMITR_E != 0)
            })
            .collect();
        let lower = self.lower();
        lower.serror_unmasked = false;
        lower.accessed = true;
        if from == El::Hyp {
            // It is the end of this CPU at EL2; what a guest cannot bring about it cannot use.
            lower.trained = false;
            return;
        }
        lower.device_load = true;
        for (buffer, on) in lower.buffers.iter_mut().zip(sources) {
            buffer.filled |= on;
        }
        if from == El::Guest {
            lower.trained = lower.quirks.unlearn;
        }
    }

    /// ERET to `el`, behind the synchronization that it is.
    pub(super) fn lower_eret(&mut self, el: El) -> Checked<()> {
        if self.lower().par_read {
            return self.wrong(Rule::Erratum, "PAR_EL1 was read, and loads can follow");
        }
        if self.lower().serror_unmasked {
            return self.wrong(Rule::Serror, "SErrors stayed unmasked at EL2");
        }
        match el {
            El::Hyp => Ok(()),
            El::Guest => self.enter_guest(),
            El::Host => self.enter_host(),
        }
    }

    fn enter_host(&mut self) -> Checked<()> {
        if self.lower().serror != Serror::None {
            return self.wrong(Rule::Serror, "it comes to the host");
        }
        if self.lower().trained {
            return self.wrong(
                Rule::Predictor,
                "the host runs with what a guest has taught",
            );
        }
        Ok(())
    }

    /// A vCPU finds nothing of another one of its VM.
    fn enter_guest(&mut self) -> Checked<()> {
        let vmid = regime::vmid(self.mrs(Reg::VttbrEl2), self.mrs(Reg::VtcrEl2));
        let vcpu = self.mrs(VMPIDR_EL2);
        let left = self.lower().left.clone();
        let of_other = |left: &&Left| left.vmid == vmid && left.vcpu != vcpu;
        match left.iter().find(of_other) {
            Some(left) if left.tlb => {
                let detail = format!("stage 1 of vCPU {:#x} for {vcpu:#x}", left.vcpu);
                return self.wrong(Rule::StaleTranslation, &detail);
            }
            Some(left) => {
                let detail = format!("instructions of vCPU {:#x} for {vcpu:#x}", left.vcpu);
                return self.wrong(Rule::StaleInstruction, &detail);
            }
            None => {}
        }
        let lower = self.lower();
        lower.left.retain(|left| left.vmid != vmid);
        lower.left.push(Left {
            vmid,
            vcpu,
            tlb: true,
            icache: true,
            pending: (false, false),
        });
        Ok(())
    }
}
