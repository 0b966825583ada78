// SPDX-License-Identifier: GPL-2.0-only

//! Common: the ID registers of a guest.
//!
//! Each has a limit: what all CPUs of the machine have in common, less what this hypervisor does not give a guest. User
//! space may lower it, field by field, where lower is safe for the guest: hardware does more than the guest is told.
//! What a value means for safety depends on the field; [`table`] has that.
//!
//! Source: Arm ARM DDI 0487, D24.2 (ID registers by name); behaviour as `arch/arm64/kvm/sys_regs.c` of Linux.

use super::regid::Encoding;

mod table;

pub use table::find;

/// Which of two values of a field promises less.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// The lower one.
    Lower,
    /// The higher one.
    Higher,
    /// The higher one, but zero ("not told") is below all.
    HigherOrZero,
    /// Neither: only this one does.
    Exact(u8),
}

/// A field of an ID register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field {
    /// Its lowest bit.
    pub shift: u8,
    /// Its number of bits, at most 8.
    pub width: u8,
    /// It is a signed number: all ones is less than zero.
    pub signed: bool,
    /// See [`Rule`].
    pub rule: Rule,
}

impl Field {
    const fn mask(self) -> u64 {
        0xffu64.wrapping_shr(8u32.wrapping_sub(self.width as u32)) << (self.shift & 63)
    }

    /// The field of `value`, as a number.
    fn of(self, value: u64) -> i64 {
        let top = 64u32
            .wrapping_sub(u32::from(self.shift))
            .wrapping_sub(u32::from(self.width));
        let low = 64u32.wrapping_sub(u32::from(self.width));
        let high = value.wrapping_shl(top);
        if self.signed {
            (high as i64).wrapping_shr(low)
        } else {
            high.wrapping_shr(low) as i64
        }
    }

    /// Whether a guest may be told `value` where `limit` is the truth.
    fn is_safe(self, value: u64, limit: u64) -> bool {
        let (value, limit) = (self.of(value), self.of(limit));
        value == limit
            || match self.rule {
                Rule::Lower => value < limit,
                Rule::Higher => value > limit,
                Rule::HigherOrZero => value == 0 || (limit != 0 && value > limit),
                Rule::Exact(safe) => value == i64::from(safe),
            }
    }
}

/// When an ID register reads as zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Zero {
    /// Never.
    Never,
    /// Always: it describes what no guest has.
    Always,
    /// Where AArch32 does not exist at EL0. What user space writes is then ignored.
    WithoutAarch32,
}

/// An ID register.
#[derive(Debug)]
pub struct IdReg {
    /// Its numbers.
    pub encoding: Encoding,
    /// The bits that user space may lower.
    pub writable: u64,
    /// See [`Zero`].
    pub zero: Zero,
    /// All fields; what is in none of them is as the limit has it.
    pub fields: &'static [Field],
}

impl IdReg {
    /// Whether a guest may be told `value`, `limit` being the limit.
    pub fn accepts(&self, value: u64, limit: u64) -> bool {
        let mut checked = 0;
        for field in self.fields {
            let mask = field.mask();
            if self.writable & mask == mask {
                checked |= mask;
                if !field.is_safe(value, limit) {
                    return false;
                }
            }
        }
        (value ^ limit) & !checked == 0
    }
}

/// First and number of the ID registers of which each VM has its own values: op0 = 3, op1 = 0, CRn = 0, CRm 1..7.
pub const FIRST: Encoding = Encoding::new(3, 0, 0, 1, 0);
/// See [`FIRST`].
pub const COUNT: usize = 56;

/// The place of `encoding` among these.
pub fn index(encoding: Encoding) -> Option<usize> {
    let index = encoding.raw().checked_sub(FIRST.raw())? as usize;
    (index < COUNT).then_some(index)
}

/// The register at this place.
pub fn at(index: usize) -> Option<Encoding> {
    let offset = u16::try_from(index).ok().filter(|_| index < COUNT)?;
    Some(Encoding::from_raw(FIRST.raw().checked_add(offset)?))
}

/// ID_AA64PFR0_EL1.
pub const AA64PFR0: Encoding = Encoding::new(3, 0, 0, 4, 0);
/// ID_AA64PFR0_EL1.GIC.
pub const AA64PFR0_GIC: u64 = 0xf << 24;
/// ID_AA64PFR0_EL1.GIC = 1: the system registers of a GICv3.
pub const AA64PFR0_GIC_1: u64 = 1 << 24;
/// ID_AA64PFR0_EL1.RAS.
pub const AA64PFR0_RAS: u64 = 0xf << 28;
/// ID_AA64PFR1_EL1.
pub const AA64PFR1: Encoding = Encoding::new(3, 0, 0, 4, 1);
const AA64PFR2: Encoding = Encoding::new(3, 0, 0, 4, 2);
const AA64ZFR0: Encoding = Encoding::new(3, 0, 0, 4, 4);
const AA64FPFR0: Encoding = Encoding::new(3, 0, 0, 4, 7);
/// ID_AA64DFR0_EL1.
pub const AA64DFR0: Encoding = Encoding::new(3, 0, 0, 5, 0);
const AA64ISAR1: Encoding = Encoding::new(3, 0, 0, 6, 1);
const AA64ISAR2: Encoding = Encoding::new(3, 0, 0, 6, 2);
const AA64MMFR1: Encoding = Encoding::new(3, 0, 0, 7, 1);
/// ID_AA64MMFR2_EL1.
pub const AA64MMFR2: Encoding = Encoding::new(3, 0, 0, 7, 2);
const AA64MMFR3: Encoding = Encoding::new(3, 0, 0, 7, 3);
/// ID_DFR0_EL1.
pub const DFR0: Encoding = Encoding::new(3, 0, 0, 1, 2);
const PFR1: Encoding = Encoding::new(3, 0, 0, 1, 1);
const MMFR4: Encoding = Encoding::new(3, 0, 0, 2, 6);
/// CTR_EL0.
pub const CTR: Encoding = Encoding::new(3, 3, 0, 0, 1);
/// MIDR_EL1.
pub const MIDR: Encoding = Encoding::new(3, 0, 0, 0, 0);
/// MPIDR_EL1.
pub const MPIDR: Encoding = Encoding::new(3, 0, 0, 0, 5);
/// REVIDR_EL1.
pub const REVIDR: Encoding = Encoding::new(3, 0, 0, 0, 6);
/// AIDR_EL1.
pub const AIDR: Encoding = Encoding::new(3, 1, 0, 0, 7);
/// CLIDR_EL1.
pub const CLIDR: Encoding = Encoding::new(3, 1, 0, 0, 1);

/// The four bits of `value` at `shift`.
pub const fn field(value: u64, shift: u32) -> u64 {
    value.wrapping_shr(shift) & 0xf
}

const fn nibbles(shifts: &[u32]) -> u64 {
    let mut mask = 0;
    let mut rest = shifts;
    while let [first, tail @ ..] = rest {
        mask |= 0xfu64.wrapping_shl(*first);
        rest = tail;
    }
    mask
}

/// `value` with the four bits at `shift` at most `most`.
const fn at_most(value: u64, shift: u32, most: u64) -> u64 {
    if field(value, shift) <= most {
        return value;
    }
    value & !nibbles(&[shift]) | most.wrapping_shl(shift)
}

/// The most that a guest is told in the ID register `encoding`, where `host` is what all CPUs have in common.
///
/// What is taken away: what traps, or is off, while a guest runs.
pub fn limit(encoding: Encoding, host: u64) -> u64 {
    match encoding {
        // SVE, GIC, MPAM, AMU. CSV2 and CSV3: that a CPU is not affected is told in the simplest way, so that guests can move.
        AA64PFR0 => {
            let value = host & !nibbles(&[32, 24, 40, 44]);
            at_most(at_most(value, 56, 1), 60, 1)
        }
        // MTE, RAS_frac, MPAM_frac, SME, RNDR_trap, NMI, MTE_frac, GCS, THE, MTEX, DF2 (needs SCTLR2), PFAR.
        // CSV2_frac: no SCXTNUM registers.
        AA64PFR1 => at_most(
            host & !nibbles(&[8, 12, 16, 24, 28, 36, 40, 44, 48, 52, 56, 60]),
            32,
            1,
        ),
        // FPMR, MTE, GICv5; 8-bit floating point needs FPMR; SVE; TCR2, SCTLR2, permission indirection and overlays.
        AA64PFR2 | AA64FPFR0 | AA64ZFR0 | AA64MMFR3 => 0,
        // PMU, statistical profiling, trace unit and buffers, branch records, the filter of self-hosted trace.
        AA64DFR0 => at_most(host & !nibbles(&[4, 8, 32, 40, 44, 48, 52]), 0, DEBUG_V8P8),
        // Pointer authentication; LS64.
        AA64ISAR1 => host & !nibbles(&[4, 8, 24, 28, 60]),
        // Pointer authentication; MOPS; WFxT: its time-out would have to be kept.
        AA64ISAR2 => host & !nibbles(&[0, 8, 12, 16]),
        // The access flag in table descriptors needs TCR2.
        AA64MMFR1 => at_most(host, 0, 2),
        // Nesting; CCSIDR2.
        AA64MMFR2 => host & !nibbles(&[20, 24]),
        // PMU.
        DFR0 => at_most(host & !nibbles(&[24]), 0, DEBUG_V8P8),
        // GIC.
        PFR1 => host & !nibbles(&[28]),
        // CCSIDR2.
        MMFR4 => host & !nibbles(&[24]),
        _ => host,
    }
}

/// DebugVer and CopDbg: Armv8.8 debug.
const DEBUG_V8P8: u64 = 0xa;

/// What user space writes to an ID register, with what it got from older kernels set right.
///
/// `None` if the value makes no sense in any guest.
pub fn adjusted(encoding: Encoding, value: u64, host: u64) -> Option<u64> {
    match encoding {
        AA64DFR0 => {
            // Armv8 debug is the least that there is.
            (field(value, 0) >= 6).then_some(without_impdef_pmu(value, 8))
        }
        DFR0 => {
            let value = without_impdef_pmu(value, 24);
            let pmu_ok = field(value, 24) == 0 || field(value, 24) >= 3;
            (pmu_ok && field(value, 0) >= 6).then_some(value)
        }
        // Once guests were told of MPAM, though it was UNDEFINED.
        AA64PFR0 => {
            let value = ignore_if_host(value, host, 40);
            (field(value, 0) != 0 && field(value, 4) != 0).then_some(value)
        }
        AA64PFR1 => Some(ignore_if_host(value, host, 16)),
        // The same for nesting.
        AA64MMFR2 => Some(ignore_if_host(value, host, 24)),
        // L1Ip: virtually indexed or physically indexed, both physically tagged; the others are reserved.
        CTR => ((value >> 14) & 3 >= 2).then_some(value),
        _ => Some(value),
    }
}

fn without_impdef_pmu(value: u64, shift: u32) -> u64 {
    if field(value, shift) == 0xf {
        value & !nibbles(&[shift])
    } else {
        value
    }
}

fn ignore_if_host(value: u64, host: u64, shift: u32) -> u64 {
    if field(value, shift) == field(host, shift) {
        value & !nibbles(&[shift])
    } else {
        value
    }
}

/// CLIDR_EL1 of a guest: the fewest caches that go with CTR_EL0 of all CPUs (their own CLIDR_EL1 may differ).
pub const fn clidr(ctr: u64) -> u64 {
    const IDC: u64 = 1 << 28;
    const DIC: u64 = 1 << 29;
    const INSTRUCTION: u64 = 1;
    const DATA: u64 = 2;
    const UNIFIED: u64 = 4;
    const LOUIS_LOUU_1: u64 = (1 << 21) | (1 << 27);
    let instruction = if ctr & DIC == 0 { INSTRUCTION } else { 0 };
    let (caches, coherency) = match (ctr & IDC != 0, instruction != 0) {
        // The data side needs no maintenance for the instruction side: one unified cache, behind that of instructions.
        (true, true) => (UNIFIED << 3, 2),
        (true, false) => (UNIFIED, 1),
        // It does: a data cache before the point of unification.
        (false, _) => (DATA | LOUIS_LOUU_1, 1),
    };
    caches | instruction | (coherency << 24)
}

/// The bits of CLIDR_EL1 that user space may set.
pub const CLIDR_WRITABLE: u64 = 0x0000_7fff_ffff_ffff;

/// Whether user space may set CLIDR_EL1 to `value`.
pub const fn clidr_accepts(value: u64, ctr: u64) -> bool {
    let (louis, loc, louu) = ((value >> 21) & 7, (value >> 24) & 7, (value >> 27) & 7);
    // No cleaning to the point of unification, though the CPUs need it?
    let promises_idc = loc == 0 || (louis == 0 && louu == 0);
    value & !CLIDR_WRITABLE == 0 && (ctr & (1 << 28) != 0 || !promises_idc)
}

/// log2 of the smallest line, in bytes, of data caches or instruction caches by CTR_EL0.
const fn line_shift(ctr: u64, instruction: bool) -> u64 {
    let words = if instruction { ctr } else { ctr >> 16 };
    (words & 0xf).wrapping_add(2)
}

/// CCSIDR_EL1 where CSSELR_EL1 is `csselr`: one set, one way, so that a guest that goes by set and way traps least.
pub const fn ccsidr(ctr: u64, csselr: usize) -> u32 {
    line_shift(ctr, csselr & 1 != 0).saturating_sub(4) as u32
}

/// Whether user space may set the CCSIDR_EL1 that `csselr` selects to `value`.
pub const fn ccsidr_accepts(value: u32, ctr: u64, csselr: usize) -> bool {
    ((value & 7) as u64).wrapping_add(4) >= line_shift(ctr, csselr & 1 != 0)
}

/// Of MIDR_EL1 and its like, the bits that user space may set where it has been allowed to.
pub const fn implementation_mask(encoding: Encoding) -> Option<u64> {
    match encoding {
        MIDR => Some(0xffff_ffff),
        REVIDR | AIDR => Some(u64::MAX),
        _ => None,
    }
}

/// Whether `encoding` is an ID register of AArch32 (CRm 1..3).
pub const fn is_aarch32(encoding: Encoding) -> bool {
    encoding.op0() == 3
        && encoding.op1() == 0
        && encoding.crn() == 0
        && encoding.crm() >= 1
        && encoding.crm() <= 3
}

#[cfg(test)]
mod tests;
