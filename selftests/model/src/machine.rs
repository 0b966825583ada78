// SPDX-License-Identifier: GPL-2.0-only

//! The interpreter's view of one CPU of the adversary.

use eltwo::fake::{
    Access,
    Domain,
    El,
    Hint,
    Kind,
    Reg,
    System,
    Tlbi,
    Translation,
    Violation, //
};

use crate::{
    core::{
        Failure,
        Machine,
        Outcome, //
    },
    insn::{
        self,
        Barrier, //
    },
    sysreg::{
        SysOp,
        SysReg, //
    },
};

/// PAR_EL1.F: the translation fails.
pub(crate) const PAR_F: u64 = 1;
/// PAR_EL1, the bit that is always set.
pub(crate) const PAR_RES1: u64 = 1 << 11;
/// The result of an AT that is not synchronised yet; 0 if there is none.
const AT_RESULT: Reg = Reg::Model("result of AT");
/// ISR_EL1.A.
const ISR_A: u64 = 1 << 8;
/// HCR_EL2.VM.
const HCR_VM: u64 = 1;
/// SMCCC_ARCH_WORKAROUND_1: the one function that the firmware has.
pub const UNLEARN: u64 = 0x8000_8000;
/// What AT S1E1R finds, by address: set up by a scenario.
pub const GUEST_WALK: Reg = Reg::Model("result of a guest's walk");
/// In its place: the walk ends in an external abort.
pub const ABORTED: u64 = u64::MAX;
/// PSTATE.M of EL2, in SPSR_EL2.
const SPSR_EL2H: u64 = 0b1001;

impl From<Box<Violation>> for Failure {
    fn from(violation: Box<Violation>) -> Self {
        Self {
            reason: format!("{:?}: {}", violation.rule, violation.detail),
            trace: violation.trace.clone(),
        }
    }
}

/// The register of the model that `reg` is.
pub(crate) fn model_reg(reg: SysReg) -> Reg {
    match reg {
        SysReg::SCTLR_EL2 => Reg::SctlrEl2,
        SysReg::TTBR0_EL2 => Reg::Ttbr0El2,
        SysReg::TCR_EL2 => Reg::TcrEl2,
        SysReg::MAIR_EL2 => Reg::MairEl2,
        SysReg::VBAR_EL2 => Reg::VbarEl2,
        SysReg::HCR_EL2 => Reg::HcrEl2,
        SysReg::VTTBR_EL2 => Reg::VttbrEl2,
        SysReg::VTCR_EL2 => Reg::VtcrEl2,
        SysReg::ELR_EL2 => Reg::ElrEl2,
        SysReg::SPSR_EL2 => Reg::SpsrEl2,
        SysReg::ESR_EL2 => Reg::EsrEl2,
        SysReg::FAR_EL2 => Reg::FarEl2,
        SysReg::HPFAR_EL2 => Reg::HpfarEl2,
        SysReg::TPIDR_EL2 => Reg::TpidrEl2,
        SysReg::SP_EL0 => Reg::SpEl0,
        SysReg::TCR_EL1 => Reg::TcrEl1,
        other => Reg::Other(other.name()),
    }
}

/// One CPU at EL2.
pub struct Pe<'a> {
    system: &'a mut System,
    cpu: usize,
    /// Where the last instruction was fetched from.
    pub fetched_pa: u64,
    /// It has taken an external abort.
    pub aborted: bool,
}

impl<'a> Pe<'a> {
    /// CPU `cpu` of `system`.
    pub fn new(system: &'a mut System, cpu: usize) -> Self {
        Self {
            system,
            cpu,
            fetched_pa: 0,
            aborted: false,
        }
    }
}

impl Pe<'_> {
    /// AT: the result gets to PAR_EL1 with the next context synchronization event (Arm ARM D8.17.2).
    fn translate(&mut self, va: u64, access: Access) -> Outcome<()> {
        let mut cpu = self.system.cpu(self.cpu);
        let result = match cpu.probe(va, access)? {
            Translation::Mapped { pa, .. } => pa & !0xfff,
            Translation::Fault | Translation::Denied => PAR_F,
        };
        Ok(cpu.msr(AT_RESULT, PAR_RES1 | result)?)
    }

    /// AT S1E1R: what a scenario says. An external abort leaves PAR_EL1 UNKNOWN.
    fn translate_el1(&mut self, va: u64) -> Outcome<()> {
        let mut cpu = self.system.cpu(self.cpu);
        cpu.at_el1()?;
        let (walk, expected) = (cpu.mrs(GUEST_WALK), cpu.mrs(Reg::FarEl2));
        if va != expected {
            return Err(Failure::new(format!("AT of {va:#x}, not {expected:#x}")));
        }
        if walk == ABORTED {
            cpu.preset(model_reg(SysReg::PAR_EL1), 0xbad_bad)?;
            self.aborted = true;
            return Ok(());
        }
        Ok(cpu.msr(AT_RESULT, PAR_RES1 | walk)?)
    }

    /// PAR_EL1 is neither the old nor the new value while an AT is not synchronised.
    fn check_par(&mut self, reg: SysReg) -> Outcome<()> {
        if reg == SysReg::PAR_EL1 && self.system.cpu(self.cpu).mrs(AT_RESULT) != 0 {
            return Err(Failure::new(
                "Unsynchronised: PAR_EL1 behind an AT without an ISB",
            ));
        }
        Ok(())
    }
}

impl Machine for Pe<'_> {
    fn fetch(&mut self, pc: u64) -> Outcome<u32> {
        let fetched = self.system.cpu(self.cpu).fetch(pc)?;
        self.fetched_pa = fetched.pa;
        Ok(fetched.word)
    }

    fn peek(&mut self, ahead: u64) -> Outcome<u32> {
        let pa = self.fetched_pa + ahead;
        let pair = self.system.read(pa & !7);
        let pair = pair.ok_or_else(|| Failure::new(format!("nothing at {pa:#x}")))?;
        Ok((pair >> ((pa & 4) * 8)) as u32)
    }

    fn load(&mut self, address: u64) -> Outcome<u64> {
        Ok(self.system.cpu(self.cpu).load64(address)?)
    }

    fn store(&mut self, address: u64, value: u64) -> Outcome<()> {
        Ok(self.system.cpu(self.cpu).store64(address, value)?)
    }

    fn mrs(&mut self, reg: SysReg) -> Outcome<u64> {
        self.check_par(reg)?;
        let mut cpu = self.system.cpu(self.cpu);
        cpu.reads(model_reg(reg))?;
        let value = cpu.mrs(model_reg(reg));
        Ok(match reg {
            SysReg::ISR_EL1 if cpu.serror_pending() => value | ISR_A,
            _ => value,
        })
    }

    fn msr(&mut self, reg: SysReg, value: u64) -> Outcome<()> {
        self.check_par(reg)?;
        Ok(self.system.cpu(self.cpu).msr(model_reg(reg), value)?)
    }

    fn sys(&mut self, op: SysOp, operand: u64) -> Outcome<()> {
        let mut cpu = self.system.cpu(self.cpu);
        match op {
            SysOp::TlbiAlle2 => cpu.tlbi(Tlbi::Alle2 { is: false })?,
            SysOp::TlbiAlle1 => cpu.tlbi(Tlbi::Alle1 { is: false })?,
            SysOp::TlbiVmalle1 => cpu.tlbi(Tlbi::Vmalle1 { is: false })?,
            SysOp::TlbiVmalls12e1 => cpu.tlbi(Tlbi::Vmalls12e1 { is: false })?,
            SysOp::IcIallu => cpu.ic_iallu()?,
            SysOp::AtS1e1r => self.translate_el1(operand)?,
            SysOp::AtS1e2r => self.translate(operand, Access::Read)?,
            SysOp::AtS1e2w => self.translate(operand, Access::Write)?,
        }
        Ok(())
    }

    fn dmb(&mut self) -> Outcome<()> {
        self.system.cpu(self.cpu).dmb();
        Ok(())
    }

    fn hint(&mut self, hint: Hint) -> Outcome<()> {
        Ok(self.system.cpu(self.cpu).hint(hint)?)
    }

    fn smc(&mut self, function: u64) -> Outcome<()> {
        if function != UNLEARN {
            return Err(Failure::new(format!("the firmware has no {function:#x}")));
        }
        self.system.cpu(self.cpu).firmware();
        Ok(())
    }

    fn mask_serrors(&mut self, masked: bool) {
        self.system.cpu(self.cpu).mask_serrors(masked);
    }

    fn use_fp(&mut self) -> Outcome<()> {
        Ok(self.system.cpu(self.cpu).use_fp()?)
    }

    fn branch_indirect(&mut self) -> Outcome<()> {
        Ok(self.system.cpu(self.cpu).branch_indirect()?)
    }

    fn dsb(&mut self, Barrier(option): Barrier) -> Outcome<()> {
        let domain = match option >> 2 {
            0 => Domain::Osh,
            1 => Domain::Nsh,
            2 => Domain::Ish,
            _ => Domain::Sy,
        };
        let kind = match option & 3 {
            1 => Kind::Loads,
            2 => Kind::Stores,
            3 => Kind::Full,
            _ => return Err(Failure::new("DSB with a reserved option")),
        };
        Ok(self.system.cpu(self.cpu).dsb(domain, kind)?)
    }

    fn isb(&mut self) -> Outcome<()> {
        let mut cpu = self.system.cpu(self.cpu);
        cpu.isb()?;
        let result = cpu.mrs(AT_RESULT);
        if result != 0 {
            cpu.msr(model_reg(SysReg::PAR_EL1), result)?;
            cpu.msr(AT_RESULT, 0)?;
        }
        Ok(())
    }

    fn eret(&mut self, spsr: u64) -> Outcome<()> {
        let mut cpu = self.system.cpu(self.cpu);
        let to = match spsr & 0b1101 {
            SPSR_EL2H | 0b1000 => El::Hyp,
            _ if cpu.mrs(Reg::HcrEl2) & HCR_VM != 0 => El::Guest,
            _ => El::Host,
        };
        Ok(cpu.eret(to)?)
    }

    fn sp(&mut self, el2: bool) -> Outcome<u64> {
        let reg = if el2 { Reg::SpEl2 } else { Reg::SpEl0 };
        Ok(self.system.cpu(self.cpu).mrs(reg))
    }

    fn set_sp(&mut self, el2: bool, value: u64) -> Outcome<()> {
        let reg = if el2 { Reg::SpEl2 } else { Reg::SpEl0 };
        Ok(self.system.cpu(self.cpu).msr(reg, value)?)
    }

    fn note(&mut self, pc: u64, word: u32) {
        let text = insn::disassemble(word);
        self.system.note(self.cpu, &format!("{pc:#x}: {text}"));
    }
}
