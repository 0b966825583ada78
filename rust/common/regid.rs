// SPDX-License-Identifier: GPL-2.0-only

//! Common: the numbers of registers, as the architecture and as the KVM uAPI have them.
//!
//! An [`Encoding`] is the five numbers op0, op1, CRn, CRm, op2 of a system register or instruction. A 64-bit register ID of
//! KVM_GET_ONE_REG has an architecture, a size, a coprocessor and, in its low 16 bits, a number whose meaning depends on that.
//!
//! Source: Arm ARM DDI 0487, C5.1.2 and D24.2.40 (ISS of EC 0x18); `arch/arm64/include/uapi/asm/kvm.h` of Linux.

/// A system register or system instruction by its five numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Encoding(u16);

impl Encoding {
    /// From the five numbers, each cut to its width.
    pub const fn new(op0: u16, op1: u16, crn: u16, crm: u16, op2: u16) -> Self {
        Self(
            ((op0 & 3) << 14)
                | ((op1 & 7) << 11)
                | ((crn & 0xf) << 7)
                | ((crm & 0xf) << 3)
                | op2 & 7,
        )
    }

    /// From ESR_ELx.ISS of a trapped MSR, MRS or system instruction.
    pub const fn from_iss(iss: u64) -> Self {
        Self::new(
            (iss >> 20) as u16,
            (iss >> 14) as u16,
            (iss >> 10) as u16,
            (iss >> 1) as u16,
            (iss >> 17) as u16,
        )
    }

    /// From the low 16 bits of a register ID of the uAPI.
    pub const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }

    /// The low 16 bits of its register ID in the uAPI.
    pub const fn raw(self) -> u16 {
        self.0
    }

    /// op0.
    pub const fn op0(self) -> u16 {
        self.0 >> 14
    }

    /// op1.
    pub const fn op1(self) -> u16 {
        (self.0 >> 11) & 7
    }

    /// CRn.
    pub const fn crn(self) -> u16 {
        (self.0 >> 7) & 0xf
    }

    /// CRm.
    pub const fn crm(self) -> u16 {
        (self.0 >> 3) & 0xf
    }

    /// op2.
    pub const fn op2(self) -> u16 {
        self.0 & 7
    }

    /// As `sys_reg()` of Linux packs it, the key of its tables of CPU features.
    pub const fn linux_key(self) -> u32 {
        ((self.op0() as u32) << 19)
            | ((self.op1() as u32) << 16)
            | ((self.crn() as u32) << 12)
            | ((self.crm() as u32) << 8)
            | ((self.op2() as u32) << 5)
    }

    /// Its register ID in the uAPI, of 64 bits.
    pub const fn id(self) -> u64 {
        ARCH_ARM64 | SIZE_U64 | (coproc::SYSTEM << COPROC_SHIFT) | self.0 as u64
    }

    /// Its place among the feature ID registers (`KVM_ARM_FEATURE_ID_RANGE_IDX`), if it is in their range: op0 = 3, op1 = 0,
    /// 1 or 3, CRn = 0, CRm below 8.
    pub const fn feature_index(self) -> Option<u64> {
        let op1 = self.op1();
        if self.op0() != 3 || self.crn() != 0 || self.crm() > 7 || (op1 > 1 && op1 != 3) {
            return None;
        }
        let block = if op1 == 3 { 2 } else { op1 as u64 };
        Some((block << 6) | ((self.crm() as u64) << 3) | self.op2() as u64)
    }
}

/// KVM_REG_ARM64, and the mask of architectures (what is above the size is not used by this architecture).
pub const ARCH_ARM64: u64 = 0x6000_0000_0000_0000;
const ARCH_MASK: u64 = 0xff00_0000_0000_0000;
const SIZE_MASK: u64 = 0x00f0_0000_0000_0000;
const SIZE_SHIFT: u32 = 52;
/// KVM_REG_SIZE_U32.
pub const SIZE_U32: u64 = 2 << SIZE_SHIFT;
/// KVM_REG_SIZE_U64.
pub const SIZE_U64: u64 = 3 << SIZE_SHIFT;
/// KVM_REG_SIZE_U128.
pub const SIZE_U128: u64 = 4 << SIZE_SHIFT;
const SIZE_U256: u64 = 5 << SIZE_SHIFT;
const SIZE_U2048: u64 = 8 << SIZE_SHIFT;
const COPROC_SHIFT: u32 = 16;
const COPROC_MASK: u64 = 0x0fff_0000;

/// The coprocessors of the uAPI.
mod coproc {
    pub(super) const CORE: u64 = 0x10;
    pub(super) const DEMUX: u64 = 0x11;
    pub(super) const SYSTEM: u64 = 0x13;
    pub(super) const FIRMWARE: u64 = 0x14;
    pub(super) const SVE: u64 = 0x15;
    pub(super) const FIRMWARE_BITMAP: u64 = 0x16;
}

/// What kind of register an ID names. The numbers have not been looked up yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// General-purpose, FP/SIMD and a few others; see [`core_register`].
    Core,
    /// Cache geometry; see [`demux_level`].
    Demux,
    /// A system register; see [`system_register`].
    System,
    /// A pseudo-register of what plays firmware.
    Firmware,
    /// SVE. No vCPU has it; the flag tells whether there is such a register at all.
    Sve(bool),
}

/// The kind of register that `id` names; `None` if it is not one of this architecture.
pub fn kind(id: u64) -> Option<Kind> {
    if (id & !SIZE_MASK) >> 32 != ARCH_ARM64 >> 32 {
        return None;
    }
    Some(match (id & COPROC_MASK) >> COPROC_SHIFT {
        coproc::CORE => Kind::Core,
        coproc::DEMUX => Kind::Demux,
        coproc::FIRMWARE | coproc::FIRMWARE_BITMAP => Kind::Firmware,
        coproc::SVE => Kind::Sve(sve_exists(id)),
        _ => Kind::System,
    })
}

/// Size of the register's value in bytes, a power of two.
pub const fn size_bytes(id: u64) -> usize {
    1 << ((id & SIZE_MASK) >> SIZE_SHIFT)
}

/// Whether `id` is one of the SVE registers: Z, P and FFR of any slice, and the pseudo-register of vector lengths.
fn sve_exists(id: u64) -> bool {
    const SVE: u64 = ARCH_ARM64 | (coproc::SVE << COPROC_SHIFT);
    const LENGTHS: u64 = SVE | (6 << SIZE_SHIFT) | 0xffff;
    const Z_FIRST: u64 = SVE | SIZE_U2048;
    const P_FIRST: u64 = SVE | SIZE_U256 | 0x400;
    id == LENGTHS
        || (Z_FIRST..=Z_FIRST | 0x3ff).contains(&id)
        || (P_FIRST..=P_FIRST | 0x21f).contains(&id)
}

/// A core register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CoreReg {
    /// x0..x30.
    X(u8),
    /// SP_EL0.
    Sp,
    /// The program counter.
    Pc,
    /// PSTATE.
    Pstate,
    /// SP_EL1.
    SpEl1,
    /// ELR_EL1.
    ElrEl1,
    /// SPSR_EL1 (0), and AArch32's SPSR_abt, SPSR_und, SPSR_irq, SPSR_fiq (1..4).
    Spsr(u8),
    /// V0..V31.
    V(u8),
    /// FPSR.
    Fpsr,
    /// FPCR.
    Fpcr,
}

/// Why there is no such core register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoCoreReg {
    /// The number is beyond `struct kvm_regs`.
    Beyond,
    /// Nothing begins there, or it has another size.
    Malformed,
}

/// Words of 32 bits in `struct kvm_regs`.
const KVM_REGS_WORDS: u64 = 216;

/// First words, in `struct kvm_regs`, of its parts.
mod word {
    pub(super) const SP: u64 = 62;
    pub(super) const PC: u64 = 64;
    pub(super) const PSTATE: u64 = 66;
    pub(super) const SP_EL1: u64 = 68;
    pub(super) const ELR_EL1: u64 = 70;
    pub(super) const SPSR: u64 = 72;
    pub(super) const SPSR_END: u64 = 82;
    pub(super) const V: u64 = 84;
    pub(super) const FPSR: u64 = 212;
    pub(super) const FPCR: u64 = 213;
}

/// The core register that begins at `word` of `struct kvm_regs`, and its size in the form that register IDs have.
fn core_at(word: u64) -> Option<(CoreReg, u64)> {
    Some(match word {
        word::V..word::FPSR => {
            if word & 3 != 0 {
                return None;
            }
            (CoreReg::V(((word - word::V) >> 2) as u8), SIZE_U128)
        }
        word::FPSR => (CoreReg::Fpsr, SIZE_U32),
        word::FPCR => (CoreReg::Fpcr, SIZE_U32),
        _ if word & 1 != 0 => return None,
        0..word::SP => (CoreReg::X((word >> 1) as u8), SIZE_U64),
        word::SP => (CoreReg::Sp, SIZE_U64),
        word::PC => (CoreReg::Pc, SIZE_U64),
        word::PSTATE => (CoreReg::Pstate, SIZE_U64),
        word::SP_EL1 => (CoreReg::SpEl1, SIZE_U64),
        word::ELR_EL1 => (CoreReg::ElrEl1, SIZE_U64),
        word::SPSR..word::SPSR_END => (CoreReg::Spsr(((word - word::SPSR) >> 1) as u8), SIZE_U64),
        _ => return None,
    })
}

/// The core register with this ID, which is of [`Kind::Core`].
///
/// # Errors
///
/// See [`NoCoreReg`].
pub fn core_register(id: u64) -> Result<CoreReg, NoCoreReg> {
    let word = id & !(ARCH_MASK | SIZE_MASK | (coproc::CORE << COPROC_SHIFT));
    let words = (size_bytes(id) / 4) as u64;
    if word >= KVM_REGS_WORDS || word.saturating_add(words) >= KVM_REGS_WORDS {
        return Err(NoCoreReg::Beyond);
    }
    match core_at(word) {
        Some((register, size)) if size == id & SIZE_MASK => Ok(register),
        _ => Err(NoCoreReg::Malformed),
    }
}

/// The IDs of all core registers, in ascending order of their place.
pub fn core_ids() -> impl Iterator<Item = u64> {
    (0..KVM_REGS_WORDS).filter_map(|word| {
        let (_, size) = core_at(word)?;
        Some(ARCH_ARM64 | size | (coproc::CORE << COPROC_SHIFT) | word)
    })
}

/// Values of CSSELR_EL1 (level and kind) that have a register of cache geometry.
pub const CSSELR_VALUES: u64 = 14;

/// The value of CSSELR_EL1 whose CCSIDR_EL1 the ID names, which is of [`Kind::Demux`]; `None` if there is no such register.
pub fn demux_level(id: u64) -> Option<usize> {
    let unknown = id & !(ARCH_MASK | SIZE_MASK | COPROC_MASK | 0xffff);
    let level = id & 0xff;
    // Bits 15:8 say what is demultiplexed: 0 is CCSIDR, and there is nothing else.
    if unknown != 0 || id & 0xff00 != 0 || id & SIZE_MASK != SIZE_U32 || level >= CSSELR_VALUES {
        return None;
    }
    Some(level as usize)
}

/// The ID of the geometry that CSSELR_EL1 = `level` selects.
pub const fn demux_id(level: u64) -> u64 {
    ARCH_ARM64 | SIZE_U32 | (coproc::DEMUX << COPROC_SHIFT) | level
}

/// CNTV_CVAL_EL0 and CNTVCT_EL0: the uAPI has the numbers of these two the wrong way round, for ever.
const CNTV_CVAL: Encoding = Encoding::new(3, 3, 14, 3, 2);
const CNTVCT: Encoding = Encoding::new(3, 3, 14, 0, 2);

const fn swap_timer(encoding: Encoding) -> Encoding {
    match encoding.raw() {
        raw if raw == CNTV_CVAL.raw() => CNTVCT,
        raw if raw == CNTVCT.raw() => CNTV_CVAL,
        _ => encoding,
    }
}

/// The system register with this ID, which is of [`Kind::System`]; `None` if the ID is malformed.
pub fn system_register(id: u64) -> Option<Encoding> {
    let malformed = id & SIZE_MASK != SIZE_U64
        || (id & COPROC_MASK) >> COPROC_SHIFT != coproc::SYSTEM
        || id & !(ARCH_MASK | SIZE_MASK | COPROC_MASK | 0xffff) != 0;
    (!malformed).then(|| swap_timer(Encoding::from_raw(id as u16)))
}

/// The ID by which the uAPI lists `encoding`.
pub const fn system_id(encoding: Encoding) -> u64 {
    swap_timer(encoding).id()
}

/// The ID of firmware register number `number`.
pub const fn firmware_id(number: u64) -> u64 {
    ARCH_ARM64 | SIZE_U64 | (coproc::FIRMWARE << COPROC_SHIFT) | number
}

/// The ID of the bitmap of firmware features number `number`.
pub const fn firmware_bitmap_id(number: u64) -> u64 {
    ARCH_ARM64 | SIZE_U64 | (coproc::FIRMWARE_BITMAP << COPROC_SHIFT) | number
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCTLR: Encoding = Encoding::new(3, 0, 1, 0, 0);

    #[test]
    fn encoding_of_iss_has_the_five_numbers() {
        // MRS x2, CNTVCT_EL0: op0 3, op1 3, CRn 14, CRm 0, op2 2.
        let iss = (3 << 20) | (2 << 17) | (3 << 14) | (14 << 10) | (2 << 5) | 1;
        let encoding = Encoding::from_iss(iss);
        assert_eq!(encoding, CNTVCT);
        assert_eq!(
            [
                encoding.op0(),
                encoding.op1(),
                encoding.crn(),
                encoding.crm(),
                encoding.op2()
            ],
            [3, 3, 14, 0, 2]
        );
        assert_eq!(
            encoding.linux_key(),
            (3 << 19) | (3 << 16) | (14 << 12) | (2 << 5)
        );
    }

    #[test]
    fn sctlr_id_is_that_of_the_uapi() {
        assert_eq!(SCTLR.id(), 0x6030_0000_0013_c080);
        assert_eq!(system_register(SCTLR.id()), Some(SCTLR));
        assert_eq!(kind(SCTLR.id()), Some(Kind::System));
    }

    #[test]
    fn timer_ids_are_swapped_both_ways() {
        // KVM_REG_ARM_TIMER_CVAL and KVM_REG_ARM_TIMER_CNT.
        assert_eq!(system_id(CNTV_CVAL), 0x6030_0000_0013_df02);
        assert_eq!(system_id(CNTVCT), 0x6030_0000_0013_df1a);
        for register in [CNTV_CVAL, CNTVCT, SCTLR] {
            assert_eq!(system_register(system_id(register)), Some(register));
        }
    }

    #[test]
    fn core_ids_name_each_register_once() {
        let registers: Vec<_> = core_ids().map(|id| core_register(id).unwrap()).collect();
        // x0..x30, SP, PC, PSTATE, SP_EL1, ELR_EL1, five SPSRs, 32 V registers, FPSR, FPCR.
        assert_eq!(registers.len(), 31 + 5 + 5 + 32 + 2);
        for (place, register) in registers.iter().enumerate() {
            assert!(!registers
                .iter()
                .skip(place + 1)
                .any(|other| other == register));
        }
        assert_eq!(core_register(0x6030_0000_0010_0040), Ok(CoreReg::Pc));
        assert_eq!(core_register(0x6040_0000_0010_0054), Ok(CoreReg::V(0)));
        assert_eq!(core_register(0x6020_0000_0010_00d5), Ok(CoreReg::Fpcr));
    }

    #[test]
    fn core_ids_that_name_nothing_are_refused() {
        // The upper half of x0, PC of 32 bits, a hole, V0 of 64 bits.
        for id in [
            0x6030_0000_0010_0001,
            0x6020_0000_0010_0040,
            0x6030_0000_0010_0052,
            0x6030_0000_0010_0054,
        ] {
            assert_eq!(core_register(id), Err(NoCoreReg::Malformed), "{id:#x}");
        }
        for id in [
            0x6030_0000_0010_00d8,
            0x6030_0000_0010_00d6,
            0x6030_0000_1010_0000,
        ] {
            assert_eq!(core_register(id), Err(NoCoreReg::Beyond), "{id:#x}");
        }
    }

    #[test]
    fn demux_has_fourteen_registers() {
        assert_eq!(demux_level(demux_id(0)), Some(0));
        assert_eq!(demux_level(demux_id(13)), Some(13));
        assert_eq!(demux_level(demux_id(14)), None);
        assert_eq!(demux_level(demux_id(0) | 0x100), None);
        assert_eq!(demux_level(demux_id(0) ^ SIZE_U32 ^ SIZE_U64), None);
        assert_eq!(kind(demux_id(3)), Some(Kind::Demux));
    }

    #[test]
    fn other_architectures_are_refused() {
        assert_eq!(kind(0x4030_0000_0013_c080), None);
        assert_eq!(kind(0x6030_0001_0013_c080), None);
    }

    #[test]
    fn sve_registers_are_told_from_nonsense() {
        assert_eq!(kind(0x6080_0000_0015_0000), Some(Kind::Sve(true)));
        assert_eq!(kind(0x6050_0000_0015_0600), Some(Kind::Sve(true)));
        assert_eq!(kind(0x6060_0000_0015_ffff), Some(Kind::Sve(true)));
        assert_eq!(kind(0x6030_0000_0015_0000), Some(Kind::Sve(false)));
    }

    #[test]
    fn feature_range_has_three_blocks() {
        assert_eq!(Encoding::new(3, 0, 0, 4, 0).feature_index(), Some(32));
        assert_eq!(Encoding::new(3, 1, 0, 0, 1).feature_index(), Some(65));
        assert_eq!(Encoding::new(3, 3, 0, 0, 1).feature_index(), Some(129));
        assert_eq!(SCTLR.feature_index(), None);
    }
}
