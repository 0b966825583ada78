// SPDX-License-Identifier: GPL-2.0-only

//! The interpreter: general-purpose registers, flags and PC of one CPU at EL2.
//!
//! All that can go wrong at a distance - memory, translation, system registers, barriers - is the [`Machine`]'s. Two rules
//! are about the instruction stream alone, and are kept here:
//!
//! - Behind an ERET stand DSB and ISB: a CPU may go on speculatively with what follows (straight-line speculation), with
//!   the registers of whoever it returns to.
//! - Directly in front of an MSR that turns the MMU off stands an ISB (erratum E1041 of Falkor and Kryo cores; Linux has
//!   `pre_disable_mmu_workaround`).

use std::fmt;

use eltwo::fake::Hint;

use crate::{
    insn::{
        self,
        Arith,
        Barrier,
        Insn,
        Logic,
        Source,
        Test, //
    },
    sysreg::{
        SysOp,
        SysReg, //
    },
};

/// SCTLR_EL2.M.
const SCTLR_M: u64 = 1;
/// PSTATE.N, Z, C, V as in NZCV and SPSR.
const N: u64 = 1 << 31;
const Z: u64 = 1 << 30;
const C: u64 = 1 << 29;
const V: u64 = 1 << 28;
/// The link register.
const LR: usize = 30;
/// XZR or SP.
const ZR: u8 = 31;

/// Why a run has ended before it should.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What is wrong, in a line.
    pub reason: String,
    /// What led there.
    pub trace: String,
}

impl Failure {
    /// A failure that needs no trace.
    pub fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            trace: String::new(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        if self.trace.is_empty() {
            return Ok(());
        }
        write!(f, "\n{}", self.trace)
    }
}

impl std::error::Error for Failure {}

/// Result of what a machine does.
pub type Outcome<T> = Result<T, Failure>;

/// Everything around the registers of a CPU at EL2.
pub trait Machine {
    /// Fetches the instruction at `pc`.
    fn fetch(&mut self, pc: u64) -> Outcome<u32>;
    /// The word `ahead` bytes behind the one fetched last, for rules about the instruction stream: no access of the program.
    fn peek(&mut self, ahead: u64) -> Outcome<u32>;
    /// Loads 64 bits.
    fn load(&mut self, address: u64) -> Outcome<u64>;
    /// Stores 64 bits.
    fn store(&mut self, address: u64, value: u64) -> Outcome<()>;
    /// Reads a system register.
    fn mrs(&mut self, reg: SysReg) -> Outcome<u64>;
    /// Writes a system register.
    fn msr(&mut self, reg: SysReg, value: u64) -> Outcome<()>;
    /// TLB and cache maintenance, address translation.
    fn sys(&mut self, op: SysOp, operand: u64) -> Outcome<()>;
    /// DMB SY.
    fn dmb(&mut self) -> Outcome<()>;
    /// A hint that does something.
    fn hint(&mut self, hint: Hint) -> Outcome<()>;
    /// SMC with x0 = `function`.
    fn smc(&mut self, function: u64) -> Outcome<()>;
    /// PSTATE.A.
    fn mask_serrors(&mut self, masked: bool);
    /// FP/SIMD registers are about to be used.
    fn use_fp(&mut self) -> Outcome<()>;
    /// A branch to an address in a register is about to be taken.
    fn branch_indirect(&mut self) -> Outcome<()>;
    /// DSB.
    fn dsb(&mut self, barrier: Barrier) -> Outcome<()>;
    /// ISB.
    fn isb(&mut self) -> Outcome<()>;
    /// Exception return to where SPSR_EL2 says.
    fn eret(&mut self, spsr: u64) -> Outcome<()>;
    /// SP_EL0 or SP_EL2. A write of SP takes effect at once.
    fn sp(&mut self, el2: bool) -> Outcome<u64>;
    /// Writes it.
    fn set_sp(&mut self, el2: bool, value: u64) -> Outcome<()>;
    /// Tells the trace which instruction comes next.
    fn note(&mut self, pc: u64, word: u32);
}

/// What an instruction did besides its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing.
    Next,
    /// ERET: the CPU left EL2, to this address with this PSTATE.
    Left {
        /// ELR_EL2.
        pc: u64,
        /// SPSR_EL2.
        spsr: u64,
    },
}

/// One CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Core {
    /// x0..x30.
    pub x: [u64; 31],
    /// V0..V31.
    pub v: [u128; 32],
    /// Program counter.
    pub pc: u64,
    /// PSTATE.SP: SP is SP_EL2 and not SP_EL0.
    pub el2h: bool,
    /// N, Z, C, V in bits 31:28.
    pub nzcv: u64,
    /// Instructions executed so far.
    pub count: u64,
    /// The last one was an ISB.
    after_isb: bool,
}

impl Core {
    /// Takes an exception to EL2, to `vector`.
    pub fn enter(&mut self, vector: u64) {
        self.pc = vector;
        self.el2h = true;
        self.after_isb = false;
    }

    /// Executes one instruction.
    ///
    /// # Errors
    ///
    /// The machine has found a violation, or the instruction is unknown.
    pub fn step(&mut self, machine: &mut impl Machine) -> Outcome<Event> {
        let word = machine.fetch(self.pc)?;
        machine.note(self.pc, word);
        let insn = insn::decode(word)
            .map_err(|unknown| Failure::new(format!("{unknown} (at {:#x})", self.pc)))?;
        self.count += 1;
        let next = self.pc.wrapping_add(4);
        let event = self.execute(insn, next, machine);
        self.after_isb = insn == Insn::Isb;
        event
    }

    fn execute(&mut self, insn: Insn, next: u64, machine: &mut impl Machine) -> Outcome<Event> {
        let here = self.pc;
        self.pc = next;
        match insn {
            Insn::Nop => {}
            Insn::Arith { .. } | Insn::Logic { .. } => self.compute(insn, machine)?,
            Insn::Move { rd, value } => self.set(rd, value),
            Insn::MoveKeep { rd, value, shift } => {
                let kept = self.get(rd) & !(0xffff << shift);
                self.set(rd, kept | (value << shift));
            }
            Insn::Extract { rd, rn, lsb, msb } => {
                let field = self.get(rn) << (63 - msb) >> (63 - msb) >> lsb;
                self.set(rd, field);
            }
            Insn::Insert {
                rd,
                rn,
                lsb,
                to,
                width,
            } => {
                let mask = u64::MAX >> (64 - width);
                let kept = self.get(rd) & !(mask << to);
                self.set(rd, kept | (((self.get(rn) >> lsb) & mask) << to));
            }
            Insn::ShiftRight { rd, rn, rm } => self.set(rd, self.get(rn) >> (self.get(rm) % 64)),
            Insn::CompareIf { rn, rm, cond, nzcv } => {
                self.nzcv = if self.holds(cond) {
                    sub_flags(self.get(rn), self.get(rm))
                } else {
                    nzcv
                };
            }
            Insn::Adr { rd, offset } => self.set(rd, here.wrapping_add_signed(offset)),
            Insn::Branch { .. }
            | Insn::BranchCond { .. }
            | Insn::BranchTest { .. }
            | Insn::BranchReg { .. } => {
                if matches!(insn, Insn::BranchReg { .. }) {
                    machine.branch_indirect()?;
                }
                self.branch(insn, here);
            }
            Insn::Single { .. } | Insn::Pair { .. } => self.access(insn, machine)?,
            Insn::FpPair { .. } => self.access_fp(insn, machine)?,
            Insn::Mrs { rt, reg } => {
                let value = match reg {
                    SysReg::SPSEL => u64::from(self.el2h),
                    SysReg::SP_EL0 => machine.sp(false)?,
                    reg => machine.mrs(reg)?,
                };
                self.set(rt, value);
            }
            Insn::Msr { reg, rt } => self.write_register(reg, self.get(rt), machine)?,
            Insn::SelectSp(el2h) => self.el2h = el2h,
            Insn::Sys { op, rt } => machine.sys(op, self.get(rt))?,
            Insn::Dmb => machine.dmb()?,
            Insn::Hint(hint) => machine.hint(hint)?,
            Insn::MaskSerrors(masked) => machine.mask_serrors(masked),
            Insn::Smc => {
                machine.smc(self.get(0))?;
                // SMCCC 1.1: no more than these are clobbered.
                (0..4).for_each(|number| self.set(number, 0xf1f1_0000 + u64::from(number)));
            }
            Insn::Dsb(barrier) => machine.dsb(barrier)?,
            Insn::Isb => machine.isb()?,
            Insn::Eret => return self.exception_return(machine),
        }
        Ok(Event::Next)
    }

    fn exception_return(&mut self, machine: &mut impl Machine) -> Outcome<Event> {
        let behind = [4, 8].map(|ahead| machine.peek(ahead).map(insn::decode));
        let [first, second] = behind;
        let stopped = matches!(first?, Ok(Insn::Dsb(barrier)) if barrier.is_full())
            && second? == Ok(Insn::Isb);
        if !stopped {
            return Err(Failure::new(
                "speculation past ERET: DSB and ISB are missing behind it",
            ));
        }
        let pc = machine.mrs(SysReg::ELR_EL2)?;
        let spsr = machine.mrs(SysReg::SPSR_EL2)?;
        machine.eret(spsr)?;
        self.pc = pc;
        Ok(Event::Left { pc, spsr })
    }

    fn write_register(
        &mut self,
        reg: SysReg,
        value: u64,
        machine: &mut impl Machine,
    ) -> Outcome<()> {
        match reg {
            SysReg::SPSEL => {
                self.el2h = value & 1 == 1;
                return Ok(());
            }
            SysReg::SP_EL0 => return machine.set_sp(false, value),
            SysReg::SCTLR_EL2 => {
                let on = machine.mrs(reg)? & SCTLR_M != 0;
                if on && value & SCTLR_M == 0 && !self.after_isb {
                    return Err(Failure::new(
                        "MMU turned off without an ISB directly before (E1041)",
                    ));
                }
            }
            _ => {}
        }
        machine.msr(reg, value)
    }

    fn compute(&mut self, insn: Insn, machine: &mut impl Machine) -> Outcome<()> {
        match insn {
            Insn::Arith {
                op,
                flags,
                rd,
                rn,
                source,
            } => {
                let with_sp = matches!(source, Source::Imm(_));
                let first = self.get_or_sp(rn, with_sp, machine)?;
                let second = self.source(source);
                let value = match op {
                    Arith::Add => first.wrapping_add(second),
                    Arith::Sub => first.wrapping_sub(second),
                };
                if flags {
                    self.nzcv = sub_flags(first, second);
                    self.set(rd, value);
                    return Ok(());
                }
                self.set_or_sp(rd, value, with_sp, machine)
            }
            Insn::Logic {
                op,
                flags,
                rd,
                rn,
                source,
            } => {
                let value = match op {
                    Logic::Or => self.get(rn) | self.source(source),
                    Logic::And => self.get(rn) & self.source(source),
                };
                if flags {
                    self.nzcv = if value == 0 { Z } else { (value >> 32) & N };
                }
                let to_sp = matches!(source, Source::Imm(_)) && !flags;
                self.set_or_sp(rd, value, to_sp, machine)
            }
            _ => Ok(()),
        }
    }

    fn branch(&mut self, insn: Insn, here: u64) {
        let (taken, offset) = match insn {
            Insn::Branch { offset, link } => {
                if link {
                    self.x[LR] = self.pc;
                }
                (true, offset)
            }
            Insn::BranchCond { cond, offset } => (self.holds(cond), offset),
            Insn::BranchTest {
                rt,
                test,
                if_zero,
                offset,
            } => {
                let zero = match test {
                    Test::Zero => self.get(rt) == 0,
                    Test::Bit(bit) => (self.get(rt) >> bit) & 1 == 0,
                };
                (zero == if_zero, offset)
            }
            Insn::BranchReg { rn } => {
                self.pc = self.get(rn);
                return;
            }
            _ => return,
        };
        if taken {
            self.pc = here.wrapping_add_signed(offset);
        }
    }

    fn access(&mut self, insn: Insn, machine: &mut impl Machine) -> Outcome<()> {
        let (load, registers, rn, offset) = match insn {
            Insn::Single {
                load,
                rt,
                rn,
                offset,
            } => (load, vec![rt], rn, offset),
            Insn::Pair {
                load,
                rt,
                rn,
                offset,
            } => (load, rt.to_vec(), rn, offset),
            _ => return Ok(()),
        };
        let base = self.get_or_sp(rn, true, machine)?;
        if rn == ZR && base % 16 != 0 {
            return Err(Failure::new(format!("SP is not aligned: {base:#x}")));
        }
        for (place, rt) in (0..).zip(registers) {
            let address = base.wrapping_add_signed(offset + place * 8);
            if load {
                let value = machine.load(address)?;
                self.set(rt, value);
            } else {
                machine.store(address, self.get(rt))?;
            }
        }
        Ok(())
    }

    fn access_fp(&mut self, insn: Insn, machine: &mut impl Machine) -> Outcome<()> {
        let Insn::FpPair {
            load,
            rt,
            rn,
            offset,
        } = insn
        else {
            return Ok(());
        };
        machine.use_fp()?;
        let base = self.get_or_sp(rn, true, machine)?;
        for (place, number) in (0..).zip(rt) {
            let address = base.wrapping_add_signed(offset + place * 16);
            let register = &mut self.v[usize::from(number)];
            if load {
                let low = machine.load(address)?;
                let high = machine.load(address.wrapping_add(8))?;
                *register = u128::from(low) | (u128::from(high) << 64);
            } else {
                machine.store(address, *register as u64)?;
                machine.store(address.wrapping_add(8), (*register >> 64) as u64)?;
            }
        }
        Ok(())
    }

    fn source(&self, source: Source) -> u64 {
        match source {
            Source::Imm(value) => value,
            Source::Shifted(rm, shift) => self.get(rm) << shift,
        }
    }

    fn get(&self, number: u8) -> u64 {
        self.x.get(usize::from(number)).copied().unwrap_or(0)
    }

    fn set(&mut self, number: u8, value: u64) {
        if let Some(register) = self.x.get_mut(usize::from(number)) {
            *register = value;
        }
    }

    fn get_or_sp(&self, number: u8, sp: bool, machine: &mut impl Machine) -> Outcome<u64> {
        if sp && number == ZR {
            return machine.sp(self.el2h);
        }
        Ok(self.get(number))
    }

    fn set_or_sp(
        &mut self,
        number: u8,
        value: u64,
        sp: bool,
        machine: &mut impl Machine,
    ) -> Outcome<()> {
        if sp && number == ZR {
            return machine.set_sp(self.el2h, value);
        }
        self.set(number, value);
        Ok(())
    }

    /// Whether condition `code` holds.
    fn holds(&self, code: u8) -> bool {
        let is = |flag: u64| self.nzcv & flag != 0;
        let holds = match code >> 1 {
            0 => is(Z),
            1 => is(C),
            2 => is(N),
            3 => is(V),
            4 => is(C) && !is(Z),
            5 => is(N) == is(V),
            6 => is(N) == is(V) && !is(Z),
            _ => return true,
        };
        holds != (code & 1 == 1)
    }
}

fn sub_flags(first: u64, second: u64) -> u64 {
    let (value, borrow) = first.overflowing_sub(second);
    let (_, overflow) = (first as i64).overflowing_sub(second as i64);
    let flag = |set: bool, flag: u64| if set { flag } else { 0 };
    flag((value as i64) < 0, N) | flag(value == 0, Z) | flag(!borrow, C) | flag(overflow, V)
}

#[cfg(test)]
mod tests;
