// SPDX-License-Identifier: GPL-2.0-only

//! A64 instructions, as far as the assembly of the image uses them.
//!
//! A disassembler tells what an instruction is; here its fields become numbers. What is not listed is an error that
//! names it: code that the model has never run must not pass in silence.
//!
//! Source: Arm ARM DDI 0487, C6 (base instructions).

use std::fmt;

use disarm64::decoder::{
    self,
    InsnId, //
};
use eltwo::fake::Hint;

use crate::sysreg::{
    SysOp,
    SysReg, //
};

/// The instruction that does nothing.
pub const NOP: u32 = 0xd503_201f;

/// Number of a general-purpose register. 31 is XZR or SP, as the instruction says.
pub type Reg = u8;

/// Addition or subtraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arith {
    /// ADD.
    Add,
    /// SUB.
    Sub,
}

/// A bitwise operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logic {
    /// ORR.
    Or,
    /// AND.
    And,
}

/// The second source of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A constant.
    Imm(u64),
    /// A register, shifted left.
    Shifted(Reg, u32),
}

/// Where a branch that depends on a register looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// The whole register is zero.
    Zero,
    /// This bit is zero.
    Bit(u32),
}

/// One instruction. Offsets are in bytes, from the instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insn {
    /// NOP and other hints that do nothing here.
    Nop,
    /// ADD, SUB, and with flags ADDS, SUBS (CMP). With a constant, register 31 is SP but for a destination with flags.
    Arith {
        /// Operation.
        op: Arith,
        /// Whether NZCV is written.
        flags: bool,
        /// Destination.
        rd: Reg,
        /// First source.
        rn: Reg,
        /// Second source.
        source: Source,
    },
    /// ORR, AND, ANDS (TST).
    Logic {
        /// Operation.
        op: Logic,
        /// Whether NZCV is written.
        flags: bool,
        /// Destination: SP if it is 31, the source is a constant and no flags are written.
        rd: Reg,
        /// First source.
        rn: Reg,
        /// Second source.
        source: Source,
    },
    /// MOVZ and MOVN: the value itself.
    Move {
        /// Destination.
        rd: Reg,
        /// Value.
        value: u64,
    },
    /// MOVK.
    MoveKeep {
        /// Destination.
        rd: Reg,
        /// New 16 bits.
        value: u64,
        /// Where they go.
        shift: u32,
    },
    /// UBFM in its forms LSR and UBFX.
    Extract {
        /// Destination.
        rd: Reg,
        /// Source.
        rn: Reg,
        /// Lowest bit.
        lsb: u32,
        /// Highest bit.
        msb: u32,
    },
    /// BFM: BFI and BFXIL.
    Insert {
        /// Destination, the rest of which stays.
        rd: Reg,
        /// Source.
        rn: Reg,
        /// Lowest bit in the source.
        lsb: u32,
        /// Where it goes.
        to: u32,
        /// Number of bits.
        width: u32,
    },
    /// LSRV.
    ShiftRight {
        /// Destination.
        rd: Reg,
        /// Source.
        rn: Reg,
        /// Number of bits.
        rm: Reg,
    },
    /// CCMP of registers.
    CompareIf {
        /// First source.
        rn: Reg,
        /// Second source.
        rm: Reg,
        /// Condition code.
        cond: u8,
        /// NZCV if it does not hold.
        nzcv: u64,
    },
    /// ADR.
    Adr {
        /// Destination.
        rd: Reg,
        /// Offset.
        offset: i64,
    },
    /// B and BL.
    Branch {
        /// Offset.
        offset: i64,
        /// Whether x30 is written.
        link: bool,
    },
    /// B.cond.
    BranchCond {
        /// Condition code.
        cond: u8,
        /// Offset.
        offset: i64,
    },
    /// CBZ, CBNZ, TBZ, TBNZ.
    BranchTest {
        /// Register.
        rt: Reg,
        /// What is looked at.
        test: Test,
        /// Whether the branch is taken if it is zero, or if it is not.
        if_zero: bool,
        /// Offset.
        offset: i64,
    },
    /// BR and RET.
    BranchReg {
        /// Register with the target.
        rn: Reg,
    },
    /// LDR and STR of 64 bits, with an unsigned offset; STLR.
    Single {
        /// Whether it loads.
        load: bool,
        /// Data.
        rt: Reg,
        /// Base, SP if it is 31.
        rn: Reg,
        /// Offset.
        offset: i64,
    },
    /// LDP and STP of 64 bits, without write-back.
    Pair {
        /// Whether it loads.
        load: bool,
        /// First and second data.
        rt: [Reg; 2],
        /// Base, SP if it is 31.
        rn: Reg,
        /// Offset.
        offset: i64,
    },
    /// LDP and STP of 128-bit FP/SIMD registers, without write-back.
    FpPair {
        /// Whether it loads.
        load: bool,
        /// First and second data.
        rt: [Reg; 2],
        /// Base, SP if it is 31.
        rn: Reg,
        /// Offset.
        offset: i64,
    },
    /// MRS.
    Mrs {
        /// Destination.
        rt: Reg,
        /// Register.
        reg: SysReg,
    },
    /// MSR (register).
    Msr {
        /// Register.
        reg: SysReg,
        /// Source.
        rt: Reg,
    },
    /// MSR SPSel, #imm.
    SelectSp(bool),
    /// MSR DAIFSet and DAIFClr of PSTATE.A.
    MaskSerrors(bool),
    /// A hint that does something.
    Hint(Hint),
    /// DMB SY.
    Dmb,
    /// SMC.
    Smc,
    /// SYS: TLBI, IC, DC.
    Sys {
        /// Operation.
        op: SysOp,
        /// Operand.
        rt: Reg,
    },
    /// DSB.
    Dsb(Barrier),
    /// ISB.
    Isb,
    /// ERET.
    Eret,
}

/// The domain and the accesses of a DSB, from its option field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Barrier(pub u8);

impl Barrier {
    /// Whether it is for all accesses, and for maintenance.
    pub fn is_full(self) -> bool {
        self.0 & 3 == 3
    }
}

/// An instruction that the interpreter does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown(pub u32);

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match decoder::decode(self.0) {
            Some(opcode) => write!(f, "the model has no `{}`", text_of(&opcode)),
            None => write!(f, "{:#010x} is no instruction", self.0),
        }
    }
}

impl std::error::Error for Unknown {}

fn text_of(opcode: &decoder::Opcode) -> String {
    let text = opcode.to_string();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The instruction in assembly language.
pub fn disassemble(word: u32) -> String {
    match (decode(word), decoder::decode(word)) {
        (Ok(Insn::Sys { op, rt: 31 }), _) => op.to_string(),
        (Ok(Insn::Sys { op, rt }), _) => format!("{op}, x{rt}"),
        (_, Some(opcode)) => text_of(&opcode),
        (_, None) => format!(".inst {word:#010x}"),
    }
}

/// `width` bits of `word` from bit `lsb` up.
fn bits(word: u32, lsb: u32, width: u32) -> u32 {
    (word >> lsb) & ((1 << width) - 1)
}

/// The same as a signed number, times `scale`.
fn signed(word: u32, lsb: u32, width: u32, scale: i64) -> i64 {
    let value = i64::from(bits(word, lsb, width));
    let sign = 1i64 << (width - 1);
    ((value ^ sign) - sign) * scale
}

fn reg(word: u32, lsb: u32) -> Reg {
    bits(word, lsb, 5) as Reg
}

/// Decodes one instruction.
///
/// # Errors
///
/// [`Unknown`] for all that the interpreter cannot execute.
pub fn decode(word: u32) -> Result<Insn, Unknown> {
    let opcode = decoder::decode(word).ok_or(Unknown(word))?;
    // Of what is not named below, data processing has its width in bit 31.
    let wide = bits(word, 31, 1) == 1;
    let insn = match opcode.id() {
        InsnId::HINT_UIMM7 => hint(word),
        InsnId::DMB_BARRIER => (bits(word, 8, 4) == 0xf).then_some(Insn::Dmb),
        InsnId::SMC_EXCEPTION => Some(Insn::Smc),
        InsnId::ISB_BARRIER_ISB => Some(Insn::Isb),
        InsnId::DSB_BARRIER => Some(Insn::Dsb(Barrier(bits(word, 8, 4) as u8))),
        InsnId::ERET => Some(Insn::Eret),
        InsnId::BR_Rn | InsnId::RET_Rn => Some(Insn::BranchReg { rn: reg(word, 5) }),
        InsnId::MRS_Rt_SYSREG => SysReg::from_insn(word).map(|sysreg| Insn::Mrs {
            rt: reg(word, 0),
            reg: sysreg,
        }),
        InsnId::MSR_SYSREG_Rt => SysReg::from_insn(word).map(|sysreg| Insn::Msr {
            reg: sysreg,
            rt: reg(word, 0),
        }),
        InsnId::MSR_PSTATEFIELD_UIMM4 => {
            // By op1, op2 and CRm: SPSel, DAIFSet #4 and DAIFClr #4.
            match (bits(word, 16, 3), bits(word, 5, 3), bits(word, 8, 4)) {
                (0, 5, value) => Some(Insn::SelectSp(value & 1 == 1)),
                (3, 6, 4) => Some(Insn::MaskSerrors(true)),
                (3, 7, 4) => Some(Insn::MaskSerrors(false)),
                _ => None,
            }
        }
        InsnId::SYS_UIMM3_OP1_CRn_CRm_UIMM3_OP2_Rt => SysOp::from_insn(word).map(|op| Insn::Sys {
            op,
            rt: reg(word, 0),
        }),
        InsnId::B_ADDR_PCREL26
        | InsnId::BL_ADDR_PCREL26
        | InsnId::B_C_ADDR_PCREL19
        | InsnId::CBZ_Rt_ADDR_PCREL19
        | InsnId::CBNZ_Rt_ADDR_PCREL19
        | InsnId::TBZ_Rt_BIT_NUM_ADDR_PCREL14
        | InsnId::TBNZ_Rt_BIT_NUM_ADDR_PCREL14 => branch(opcode.id(), word),
        InsnId::LDR_Rt_ADDR_UIMM12
        | InsnId::STR_Rt_ADDR_UIMM12
        | InsnId::LDP_Rt_Rt2_ADDR_SIMM7
        | InsnId::STP_Rt_Rt2_ADDR_SIMM7
        | InsnId::LDP_Ft_Ft2_ADDR_SIMM7
        | InsnId::STLR_Rt_ADDR_SIMPLE
        | InsnId::STP_Ft_Ft2_ADDR_SIMM7 => memory(opcode.id(), word),
        InsnId::ADR_Rd_ADDR_PCREL21 => Some(Insn::Adr {
            rd: reg(word, 0),
            offset: signed(word, 5, 19, 4) + i64::from(bits(word, 29, 2)),
        }),
        id if wide => arithmetic(id, word),
        _ => None,
    };
    insn.ok_or(Unknown(word))
}

/// Whether `word` is there for the machine's sake: a barrier, maintenance, or the write of a system register.
pub fn is_maintenance(word: u32) -> bool {
    // All are in the System encoding space, so that those which the interpreter does not know count as well: bits 31:22,
    // and bit 21 clear (no MRS, no SYSL). NOP and its kin have CRn = 2 with op0 = 0 and op1 = 3: they count if they do something.
    let is_idle = word & 0xffff_f01f == 0xd503_201f && !matches!(decode(word), Ok(Insn::Hint(_)));
    word & 0xffe0_0000 == 0xd500_0000 && !is_idle
}

fn hint(word: u32) -> Option<Insn> {
    Some(match bits(word, 5, 7) {
        0 => Insn::Nop,
        16 => Insn::Hint(Hint::Esb),
        17 => Insn::Hint(Hint::PsbCsync),
        18 => Insn::Hint(Hint::TsbCsync),
        22 => Insn::Hint(Hint::ClrBhb),
        _ => return None,
    })
}

fn branch(id: InsnId, word: u32) -> Option<Insn> {
    let by_test = |test, if_zero, offset| Insn::BranchTest {
        rt: reg(word, 0),
        test,
        if_zero,
        offset,
    };
    let wide = bits(word, 31, 1) == 1;
    let far = signed(word, 5, 19, 4);
    let near = signed(word, 5, 14, 4);
    let bit = Test::Bit((bits(word, 31, 1) << 5) | bits(word, 19, 5));
    Some(match id {
        InsnId::B_ADDR_PCREL26 | InsnId::BL_ADDR_PCREL26 => Insn::Branch {
            offset: signed(word, 0, 26, 4),
            link: id == InsnId::BL_ADDR_PCREL26,
        },
        InsnId::B_C_ADDR_PCREL19 => Insn::BranchCond {
            cond: bits(word, 0, 4) as u8,
            offset: far,
        },
        InsnId::CBZ_Rt_ADDR_PCREL19 if wide => by_test(Test::Zero, true, far),
        InsnId::CBNZ_Rt_ADDR_PCREL19 if wide => by_test(Test::Zero, false, far),
        InsnId::TBZ_Rt_BIT_NUM_ADDR_PCREL14 => by_test(bit, true, near),
        InsnId::TBNZ_Rt_BIT_NUM_ADDR_PCREL14 => by_test(bit, false, near),
        _ => return None,
    })
}

fn memory(id: InsnId, word: u32) -> Option<Insn> {
    let load = matches!(
        id,
        InsnId::LDR_Rt_ADDR_UIMM12 | InsnId::LDP_Rt_Rt2_ADDR_SIMM7 | InsnId::LDP_Ft_Ft2_ADDR_SIMM7
    );
    let rn = reg(word, 5);
    match id {
        // What is stored before it is seen before it: here stores are seen in their order anyway.
        InsnId::STLR_Rt_ADDR_SIMPLE => (bits(word, 30, 2) == 3).then(|| Insn::Single {
            load: false,
            rt: reg(word, 0),
            rn,
            offset: 0,
        }),
        InsnId::LDR_Rt_ADDR_UIMM12 | InsnId::STR_Rt_ADDR_UIMM12 => {
            (bits(word, 30, 2) == 3).then(|| Insn::Single {
                load,
                rt: reg(word, 0),
                rn,
                offset: i64::from(bits(word, 10, 12)) * 8,
            })
        }
        InsnId::LDP_Ft_Ft2_ADDR_SIMM7 | InsnId::STP_Ft_Ft2_ADDR_SIMM7 => {
            (bits(word, 30, 2) == 2 && bits(word, 23, 2) == 2).then(|| Insn::FpPair {
                load,
                rt: [reg(word, 0), reg(word, 10)],
                rn,
                offset: signed(word, 15, 7, 16),
            })
        }
        // Bits 24:23 = 10: signed offset, no write-back.
        _ => (bits(word, 30, 2) == 2 && bits(word, 23, 2) == 2).then(|| Insn::Pair {
            load,
            rt: [reg(word, 0), reg(word, 10)],
            rn,
            offset: signed(word, 15, 7, 8),
        }),
    }
}

/// 64-bit data processing.
fn arithmetic(id: InsnId, word: u32) -> Option<Insn> {
    let (rd, rn) = (reg(word, 0), reg(word, 5));
    let imm12 = Source::Imm(u64::from(bits(word, 10, 12)) << (12 * bits(word, 22, 1)));
    // Only shifts to the left (bits 23:22) of a register that is not inverted.
    let plain_shift = bits(word, 22, 2) == 0 && bits(word, 21, 1) == 0;
    let shifted = plain_shift.then(|| Source::Shifted(reg(word, 16), bits(word, 10, 6)));
    let arith = |op, flags, source| Insn::Arith {
        op,
        flags,
        rd,
        rn,
        source,
    };
    let logic = |op, flags, source| Insn::Logic {
        op,
        flags,
        rd,
        rn,
        source,
    };
    let half = u64::from(bits(word, 5, 16));
    let half_shift = 16 * bits(word, 21, 2);
    Some(match id {
        InsnId::ADD_Rd_SP_Rn_SP_AIMM => arith(Arith::Add, false, imm12),
        InsnId::SUB_Rd_SP_Rn_SP_AIMM => arith(Arith::Sub, false, imm12),
        InsnId::SUBS_Rd_Rn_SP_AIMM => arith(Arith::Sub, true, imm12),
        InsnId::ADD_Rd_Rn_Rm_SFT => arith(Arith::Add, false, shifted?),
        InsnId::SUB_Rd_Rn_Rm_SFT => arith(Arith::Sub, false, shifted?),
        InsnId::SUBS_Rd_Rn_Rm_SFT => arith(Arith::Sub, true, shifted?),
        InsnId::ORR_Rd_Rn_Rm_SFT => logic(Logic::Or, false, shifted?),
        InsnId::AND_Rd_Rn_Rm_SFT => logic(Logic::And, false, shifted?),
        InsnId::ORR_Rd_SP_Rn_LIMM => logic(Logic::Or, false, Source::Imm(bitmask(word)?)),
        InsnId::AND_Rd_SP_Rn_LIMM => logic(Logic::And, false, Source::Imm(bitmask(word)?)),
        InsnId::ANDS_Rd_Rn_LIMM => logic(Logic::And, true, Source::Imm(bitmask(word)?)),
        InsnId::MOVZ_Rd_HALF => Insn::Move {
            rd,
            value: half << half_shift,
        },
        InsnId::MOVN_Rd_HALF => Insn::Move {
            rd,
            value: !(half << half_shift),
        },
        InsnId::MOVK_Rd_HALF => Insn::MoveKeep {
            rd,
            value: half,
            shift: half_shift,
        },
        InsnId::UBFM_Rd_Rn_IMMR_IMMS => {
            let (lsb, msb) = (bits(word, 16, 6), bits(word, 10, 6));
            return (lsb <= msb).then_some(Insn::Extract { rd, rn, lsb, msb });
        }
        InsnId::BFM_Rd_Rn_IMMR_IMMS => {
            let (immr, imms) = (bits(word, 16, 6), bits(word, 10, 6));
            // BFXIL moves bits down, BFI moves them up.
            let (lsb, to, width) = match imms.checked_sub(immr) {
                Some(more) => (immr, 0, more + 1),
                None => (0, 64 - immr, imms + 1),
            };
            Insn::Insert {
                rd,
                rn,
                lsb,
                to,
                width,
            }
        }
        InsnId::LSRV_Rd_Rn_Rm => Insn::ShiftRight {
            rd,
            rn,
            rm: reg(word, 16),
        },
        InsnId::CCMP_Rn_Rm_NZCV_COND => Insn::CompareIf {
            rn,
            rm: reg(word, 16),
            cond: bits(word, 12, 4) as u8,
            nzcv: u64::from(bits(word, 0, 4)) << 28,
        },
        _ => return None,
    })
}

/// The constant of a 64-bit logical instruction (DecodeBitMasks of the Arm ARM).
fn bitmask(word: u32) -> Option<u64> {
    let (n, immr, imms) = (bits(word, 22, 1), bits(word, 16, 6), bits(word, 10, 6));
    let pattern = (n << 6) | (!imms & 0x3f);
    let size = 1u32 << pattern.checked_ilog2()?;
    let ones = (imms & (size - 1)) + 1;
    let rotate = immr & (size - 1);
    if size < 2 || ones == size {
        return None;
    }
    let element = (1u64 << ones) - 1;
    let mask = u64::MAX >> (64 - size);
    let rotated = ((element >> rotate) | element.checked_shl(size - rotate).unwrap_or(0)) & mask;
    Some(
        (0..64 / size)
            .map(|copy| rotated << (copy * size))
            .fold(0, |all, part| all | part),
    )
}

#[cfg(test)]
mod tests;
