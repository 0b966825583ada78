// SPDX-License-Identifier: GPL-2.0-only

//! One CPU, instruction by instruction.

use super::{
    regime::{
        HCR_E2H,
        HCR_VM,
        SCTLR_EIS,
        SCTLR_EOS, //
    },
    types::{
        Clean,
        Domain,
        El,
        Kind,
        Reg,
        Tlbi, //
    },
    violation::{
        Checked,
        Event,
        Rule, //
    },
    System,
};

/// A CPU of a [`System`], to execute instructions on.
pub struct Cpu<'a> {
    pub(super) system: &'a mut System,
    pub(super) number: usize,
}

impl<'a> Cpu<'a> {
    pub(super) fn new(system: &'a mut System, number: usize) -> Self {
        Self { system, number }
    }

    /// Where the CPU is.
    pub fn el(&self) -> El {
        self.system.cpus[self.number].el
    }

    pub(super) fn record(&mut self, event: Event) {
        self.system.trace.push(self.number, event);
    }

    /// MRS. A CPU sees its own last write.
    pub fn mrs(&self, reg: Reg) -> u64 {
        self.system.cpus[self.number].current(reg)
    }

    /// MSR. Old and new value are both in effect until the next context synchronization event.
    pub fn msr(&mut self, reg: Reg, value: u64) -> Checked<()> {
        self.record(Event::Msr(reg, value));
        if self.el() != El::Hyp && !reg.is_of_el1() {
            let detail = format!("msr {reg:?} at {:?}", self.el());
            return self.system.broken(Rule::WrongLevel, self.number, detail);
        }
        if reg == Reg::HcrEl2 && value & HCR_E2H != 0 {
            let detail = "HCR_EL2.E2H = 1".into();
            return self.system.broken(Rule::Unsupported, self.number, detail);
        }
        self.lower_before_msr(reg, value)?;
        self.debug_before_msr(reg, value)?;
        let state = &mut self.system.cpus[self.number];
        let old = state.regs.insert(reg, value).unwrap_or(0);
        if !reg.needs_sync() {
            return Ok(());
        }
        state.old.entry(reg).or_default().push(old);
        self.check_mixture()?;
        self.system.update_roots(self.number)
    }

    /// Sets a register to what it holds for certain, as if that had been long ago. For the set-up of a scene.
    pub fn preset(&mut self, reg: Reg, value: u64) -> Checked<()> {
        self.system.cpus[self.number].regs.insert(reg, value);
        self.system.update_roots(self.number)
    }

    /// ISB.
    pub fn isb(&mut self) -> Checked<()> {
        self.record(Event::Isb);
        self.synchronise()
    }

    /// A context synchronization event.
    fn synchronise(&mut self) -> Checked<()> {
        self.lower_sync();
        self.system.synchronise(self.number)
    }

    /// DSB.
    pub fn dsb(&mut self, domain: Domain, kind: Kind) -> Checked<()> {
        self.record(Event::Dsb(domain, kind));
        self.lower_dsb(domain, kind);
        self.system.complete(self.number, domain, kind)
    }

    /// TLBI.
    pub fn tlbi(&mut self, tlbi: Tlbi) -> Checked<()> {
        self.record(Event::Tlbi(tlbi));
        if tlbi.needs_el2() && self.el() != El::Hyp {
            let detail = format!("{tlbi} is UNDEFINED at {:?}", self.el());
            return self.system.broken(Rule::WrongLevel, self.number, detail);
        }
        self.lower_tlbi(tlbi);
        self.system.issue_tlbi(self.number, tlbi);
        Ok(())
    }

    /// An exception from EL1 to EL2 (HVC). Returns VBAR_EL2.
    pub fn hvc(&mut self) -> Checked<u64> {
        if self.el() == El::Hyp {
            let detail = "hvc at EL2".into();
            return self.system.broken(Rule::WrongLevel, self.number, detail);
        }
        self.exception()
    }

    /// An exception to EL2 from anywhere. Returns VBAR_EL2.
    pub fn exception(&mut self) -> Checked<u64> {
        self.record(Event::Exception);
        let vectors = self.certain(Reg::VbarEl2)?;
        let from = self.el();
        self.lower_exception(from);
        if from != El::Hyp {
            self.system.cpus[self.number].walks_of_el1 = true;
        }
        self.system.cpus[self.number].el = El::Hyp;
        if self.always(SCTLR_EIS) {
            self.synchronise()?;
        }
        Ok(vectors)
    }

    /// ERET to `el`.
    pub fn eret(&mut self, el: El) -> Checked<()> {
        self.record(Event::Eret(el));
        if self.el() != El::Hyp {
            let detail = format!("eret at {:?}", self.el());
            return self.system.broken(Rule::WrongLevel, self.number, detail);
        }
        if self.always(SCTLR_EOS) {
            self.synchronise()?;
        }
        self.lower_eret(el)?;
        self.system.cpus[self.number].el = el;
        if el == El::Host {
            self.check_host()?;
        }
        self.system.update_roots(self.number)
    }

    /// The host is VMID 0, with stage 2 off as with stage 2 on.
    fn check_host(&mut self) -> Checked<()> {
        let vttbr = self.certain(Reg::VttbrEl2)?;
        let hcr = self.certain(Reg::HcrEl2)?;
        if vttbr >> 48 != 0 || hcr & HCR_VM != 0 {
            let detail = format!("VTTBR_EL2 = {vttbr:#x}, HCR_EL2 = {hcr:#x}");
            return self.system.broken(Rule::WrongVmid, self.number, detail);
        }
        Ok(())
    }

    /// Whether SCTLR_EL2 has `bits` set, whatever value is in effect.
    fn always(&self, bits: u64) -> bool {
        let values = self.system.cpus[self.number].possible(Reg::SctlrEl2);
        values.iter().all(|sctlr| sctlr & bits != 0)
    }

    /// The one value of `reg` that may be in effect.
    pub fn certain(&mut self, reg: Reg) -> Checked<u64> {
        match self.system.cpus[self.number].possible(reg)[..] {
            [value] => Ok(value),
            ref values => {
                let detail = format!("{reg:?} may be any of {values:x?}");
                self.system
                    .broken(Rule::Unsynchronised, self.number, detail)
            }
        }
    }

    /// DC CVAU, CVAC or CIVAC by address: a PA at EL1, else a VA of the regime in effect.
    pub fn dc(&mut self, clean: Clean, address: u64) -> Checked<()> {
        let pa = self.locate(address)?;
        self.record(Event::Dc(clean, pa));
        let pending = self.system.memory.issue_clean(pa, clean);
        self.system.cpus[self.number].cleans.push(pending);
        Ok(())
    }

    /// DC CIVAC.
    pub fn dc_civac(&mut self, address: u64) -> Checked<()> {
        self.dc(Clean::AndInvalidate, address)
    }

    /// DC CVAU.
    pub fn dc_cvau(&mut self, address: u64) -> Checked<()> {
        self.dc(Clean::ToPou, address)
    }

    /// IC IALLU.
    pub fn ic_iallu(&mut self) -> Checked<()> {
        self.flush(false)
    }

    /// IC IALLUIS.
    pub fn ic_ialluis(&mut self) -> Checked<()> {
        self.flush(true)
    }

    /// IC IVAU of the line at an address, as for [`Self::dc`].
    ///
    /// Where instruction caches have aliases it is taken to reach none of those that anybody executes: this CPU has the memory at
    /// an address at which nobody does.
    pub fn ic_ivau(&mut self, address: u64) -> Checked<()> {
        let pa = self.locate(address)?;
        self.record(Event::IcIvau(pa));
        if self.system.physical_icaches {
            let flush = self.system.memory.issue_flush_of(pa);
            self.system.cpus[self.number].flushes.push((flush, true));
        }
        Ok(())
    }

    fn flush(&mut self, is: bool) -> Checked<()> {
        self.record(Event::Ic { is });
        self.lower_flush();
        let flush = self.system.memory.issue_flush();
        self.system.cpus[self.number].flushes.push((flush, is));
        Ok(())
    }
}
