// SPDX-License-Identifier: GPL-2.0-only

//! Common: the fields of the ID registers.
//!
//! Source: Arm ARM DDI 0487, D24.2; which value is safe, as `arch/arm64/kernel/cpufeature.c` of Linux has it.

use super::{
    Encoding,
    Field,
    IdReg,
    Rule,
    Zero,
    CTR, //
};

const fn field(shift: u8, width: u8, signed: bool, rule: Rule) -> Field {
    Field {
        shift,
        width,
        signed,
        rule,
    }
}

/// Four unsigned bits at each of these places, lower is safe.
const fn lower<const N: usize>(shifts: [u8; N]) -> [Field; N] {
    let mut fields = [field(0, 4, false, Rule::Lower); N];
    let mut place = 0;
    while place < N {
        fields[place].shift = shifts[place];
        place += 1;
    }
    fields
}

/// The same, and some others.
const fn with<const N: usize, const M: usize, const SUM: usize>(
    shifts: [u8; N],
    others: [Field; M],
) -> [Field; SUM] {
    assert!(N + M == SUM);
    let mut fields = [field(0, 4, false, Rule::Lower); SUM];
    let mut place = 0;
    while place < SUM {
        if place < N {
            fields[place].shift = shifts[place];
        } else {
            fields[place] = others[place - N];
        }
        place += 1;
    }
    fields
}

const fn signed(shift: u8) -> Field {
    field(shift, 4, true, Rule::Lower)
}

const fn higher(shift: u8) -> Field {
    field(shift, 4, false, Rule::Higher)
}

const fn exact(shift: u8, safe: u8) -> Field {
    field(shift, 4, false, Rule::Exact(safe))
}

const fn register(op2_of_crm: [u16; 2], writable: u64, fields: &'static [Field]) -> IdReg {
    let [crm, op2] = op2_of_crm;
    IdReg {
        encoding: Encoding::new(3, 0, 0, crm, op2),
        writable,
        zero: Zero::Never,
        fields,
    }
}

/// Of AArch32: 32 bits, all of them writable.
const fn aarch32(place: [u16; 2], fields: &'static [Field]) -> IdReg {
    let mut register = register(place, 0xffff_ffff, fields);
    register.zero = Zero::WithoutAarch32;
    register
}

/// Of what no guest has.
const fn always_zero(place: [u16; 2], writable: u64, fields: &'static [Field]) -> IdReg {
    let mut register = register(place, writable, fields);
    register.zero = Zero::Always;
    register
}

static ALL_LOWER: [Field; 8] = lower([28, 24, 20, 16, 12, 8, 4, 0]);
static PFR0: [Field; 6] = lower([24, 16, 12, 8, 4, 0]);
// PerfMon is exact for the kernel, whose PMUs may differ; the guest's, if there were one, would be one and the same.
static DFR0: [Field; 7] = lower([24, 20, 16, 12, 8, 4, 0]);
static MMFR0: [Field; 8] = with([24, 20, 16, 12, 4, 0], [signed(28), signed(8)]);
static ISAR0: [Field; 7] = lower([24, 20, 16, 12, 8, 4, 0]);
static ISAR5: [Field; 6] = lower([24, 16, 12, 8, 4, 0]);
static MMFR4: [Field; 8] = with([28, 24, 20, 16, 12, 8, 4], [higher(0)]);
static ISAR6: [Field; 7] = lower([24, 20, 16, 12, 8, 4, 0]);
static LOW_TWO: [Field; 2] = lower([4, 0]);
static LOWEST: [Field; 1] = lower([0]);

static AA64PFR0: [Field; 15] = with(
    [60, 56, 48, 44, 40, 36, 32, 28, 24, 12, 8, 4, 0],
    [signed(20), signed(16)],
);
static AA64PFR1: [Field; 9] = with([56, 44, 24, 16, 12, 8, 4, 0], [signed(40)]);
static AA64PFR2: [Field; 4] = lower([32, 12, 8, 4]);
static AA64ZFR0: [Field; 12] = lower([56, 52, 48, 44, 40, 32, 24, 20, 16, 12, 4, 0]);
static AA64FPFR0: [Field; 9] = {
    const fn bit(shift: u8) -> Field {
        field(shift, 1, false, Rule::Exact(0))
    }
    [
        bit(31),
        bit(30),
        bit(29),
        bit(28),
        bit(27),
        bit(26),
        bit(15),
        bit(1),
        bit(0),
    ]
};
// PMUVer and DebugVer are exact for the kernel; for a guest, which has one PMU at most, lower is safe.
static AA64DFR0: [Field; 7] = with([32, 28, 20, 12, 8, 0], [signed(36)]);
static AA64ISAR0: [Field; 14] = lower([60, 56, 52, 48, 44, 40, 36, 32, 28, 20, 16, 12, 8, 4]);
static AA64ISAR1: [Field; 16] = with(
    [60, 56, 52, 48, 44, 40, 36, 32, 28, 24, 20, 16, 12, 0],
    [exact(8, 0), exact(4, 0)],
);
static AA64ISAR2: [Field; 11] = with([60, 56, 52, 48, 28, 20, 16, 8, 4, 0], [exact(12, 0)]);
static AA64ISAR3: [Field; 4] = lower([28, 24, 16, 4]);
static AA64MMFR0: [Field; 14] = with(
    [60, 56, 44, 20, 16, 12, 8, 4, 0],
    [
        exact(40, 1),
        exact(36, 1),
        exact(32, 1),
        signed(28),
        signed(24),
    ],
);
static AA64MMFR1: [Field; 14] = with(
    [60, 52, 44, 40, 36, 32, 28, 20, 16, 12, 8, 4, 0],
    [higher(24)],
);
static AA64MMFR2: [Field; 15] = lower([60, 56, 52, 48, 40, 36, 32, 28, 24, 20, 16, 12, 8, 4, 0]);
static AA64MMFR3: [Field; 4] = lower([16, 8, 4, 0]);
static AA64MMFR4: [Field; 2] = with([20], [signed(24)]);
static CTR_EL0: [Field; 8] = [
    field(31, 1, false, Rule::Exact(1)),
    field(29, 1, false, Rule::Lower),
    field(28, 1, false, Rule::Lower),
    field(24, 4, false, Rule::HigherOrZero),
    field(20, 4, false, Rule::HigherOrZero),
    field(16, 4, false, Rule::Lower),
    field(14, 2, false, Rule::Exact(2)),
    field(0, 4, false, Rule::Lower),
];

/// All that are in the kernel's own table, and so may be asked for with `read_sanitised_ftr_reg`, but for ID_AA64SMFR0_EL1.
static REGISTERS: [IdReg; 40] = [
    // ID_PFR0_EL1, ID_PFR1_EL1, ID_DFR0_EL1, ID_MMFR0_EL1..ID_MMFR3_EL1.
    aarch32([1, 0], &PFR0),
    aarch32([1, 1], &ALL_LOWER),
    aarch32([1, 2], &DFR0),
    aarch32([1, 4], &MMFR0),
    aarch32([1, 5], &ALL_LOWER),
    aarch32([1, 6], &ALL_LOWER),
    aarch32([1, 7], &ALL_LOWER),
    // ID_ISAR0_EL1..ID_ISAR5_EL1, ID_MMFR4_EL1, ID_ISAR6_EL1.
    aarch32([2, 0], &ISAR0),
    aarch32([2, 1], &ALL_LOWER),
    aarch32([2, 2], &ALL_LOWER),
    aarch32([2, 3], &ALL_LOWER),
    aarch32([2, 4], &ALL_LOWER),
    aarch32([2, 5], &ISAR5),
    aarch32([2, 6], &MMFR4),
    aarch32([2, 7], &ISAR6),
    // MVFR0_EL1..MVFR2_EL1, ID_PFR2_EL1, ID_DFR1_EL1, ID_MMFR5_EL1.
    aarch32([3, 0], &ALL_LOWER),
    aarch32([3, 1], &ALL_LOWER),
    aarch32([3, 2], &LOW_TWO),
    aarch32([3, 4], &LOW_TWO),
    always_zero([3, 5], 0, &LOWEST),
    aarch32([3, 6], &LOWEST),
    // ID_AA64PFR0_EL1..ID_AA64PFR2_EL1, ID_AA64ZFR0_EL1, ID_AA64FPFR0_EL1.
    register([4, 0], 0xffff_00f0_ff00_ffff, &AA64PFR0),
    register([4, 1], 0x0f00_000f_0000_f0ff, &AA64PFR1),
    register([4, 2], 0x0000_000f_0000_fff0, &AA64PFR2),
    always_zero([4, 4], 0x0fff_ff0f_0fff_f0ff, &AA64ZFR0),
    register([4, 7], 0x0000_0000_fc00_80ff, &AA64FPFR0),
    // ID_AA64DFR0_EL1, ID_AA64DFR1_EL1.
    register([5, 0], 0x0000_00f0_00f0_0f0f, &AA64DFR0),
    register([5, 1], 0, &[]),
    // ID_AA64ISAR0_EL1..ID_AA64ISAR3_EL1.
    register([6, 0], 0xffff_ffff_f0ff_fff0, &AA64ISAR0),
    register([6, 1], 0xffff_ffff_00ff_f00f, &AA64ISAR1),
    register([6, 2], 0xffff_ffff_ffff_00ff, &AA64ISAR2),
    register([6, 3], 0x0000_0000_ff0f_00f0, &AA64ISAR3),
    // ID_AA64MMFR0_EL1..ID_AA64MMFR4_EL1.
    register([7, 0], 0xff00_ffff_ffff_ff0f, &AA64MMFR0),
    register([7, 1], 0xffff_ffff_0fff_f00f, &AA64MMFR1),
    register([7, 2], 0xf0ff_000f_f00f_ffff, &AA64MMFR2),
    register([7, 3], 0x0000_0000_000f_0fff, &AA64MMFR3),
    register([7, 4], 0x0000_0000_00f0_0000, &AA64MMFR4),
    // ID_AFR0_EL1, ID_AA64AFR0_EL1: IMPLEMENTATION DEFINED, never asked for.
    always_zero([1, 3], 0, &[]),
    always_zero([5, 4], 0, &[]),
    IdReg {
        encoding: CTR,
        writable: 0x300f_c00f,
        zero: Zero::Never,
        fields: &CTR_EL0,
    },
];

/// The description of an ID register; those that are not there read as zero and stay so.
pub fn find(encoding: Encoding) -> Option<&'static IdReg> {
    REGISTERS
        .iter()
        .find(|register| register.encoding == encoding)
}

#[cfg(test)]
pub(super) fn all() -> &'static [IdReg] {
    &REGISTERS
}
