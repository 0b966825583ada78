// SPDX-License-Identifier: GPL-2.0-only

//! Common: an exception taken to the guest's EL1, as its hardware would take it.
//!
//! Only EL1 in AArch64 is a target; the exception may come from EL0 in either execution state.
//!
//! Source: Arm ARM DDI 0487, D1.3.1 (vectors), `AArch64.TakeException` and what it does to PSTATE (D1.3.5), D24.2.40 (ESR_ELx).

use super::guest::{
    SysReg,
    VcpuContext, //
};

/// PSTATE, in the form of SPSR_ELx.
pub mod pstate {
    /// M[3:0], M[4] (AArch32) with them.
    pub const MODE: u64 = 0x1f;
    /// M[4]: AArch32.
    pub const AARCH32: u64 = 1 << 4;
    /// M of EL0, AArch64.
    pub const EL0T: u64 = 0;
    /// M of EL1 with SP_EL0.
    pub const EL1T: u64 = 4;
    /// M of EL1 with SP_EL1.
    pub const EL1H: u64 = 5;
    /// F, I, A, D: masks of FIQ, IRQ, SError, debug exceptions.
    pub const DAIF: u64 = 0xf << 6;
    /// A: SError is masked.
    pub const A: u64 = 1 << 8;
    /// E of AArch32: data is big-endian.
    pub const AARCH32_E: u64 = 1 << 9;
    /// SSBS.
    pub const SSBS: u64 = 1 << 12;
    /// PAN.
    pub const PAN: u64 = 1 << 22;
    /// DIT.
    pub const DIT: u64 = 1 << 24;
    /// N, Z, C, V.
    pub const NZCV: u64 = 0xf << 28;
}

/// SCTLR_EL1.
pub mod sctlr {
    /// M: stage 1 is on.
    pub const M: u64 = 1 << 0;
    /// C: data is cacheable.
    pub const C: u64 = 1 << 2;
    /// SPAN: PSTATE.PAN is left alone.
    pub const SPAN: u64 = 1 << 23;
    /// E0E: EL0's data is big-endian.
    pub const E0E: u64 = 1 << 24;
    /// EE: EL1's data is big-endian.
    pub const EE: u64 = 1 << 25;
    /// DSSBS: PSTATE.SSBS after an exception.
    pub const DSSBS: u64 = 1 << 44;
}

/// ESR_ELx.IL: the instruction has 32 bits.
pub const IL: u64 = 1 << 25;
/// ESR_ELx.ISS, the part of 25 bits.
pub const ISS: u64 = IL - 1;

const EC_SHIFT: u32 = 26;
const EC_UNKNOWN: u64 = 0x00;
const EC_INSTRUCTION_ABORT_LOWER: u64 = 0x20;
const EC_INSTRUCTION_ABORT_CURRENT: u64 = 0x21;
/// Distance from an instruction abort to the data abort from the same exception level.
const EC_DATA: u64 = 4;
const EC_SERROR: u64 = 0x2f;

/// xFSC: an external abort on the access itself.
pub const FSC_EXTERNAL: u64 = 0x10;
/// xFSC: an address size fault at level 0.
pub const FSC_ADDRESS_SIZE: u64 = 0x00;

/// ESR_ELx.EC. Above it there may be more of the syndrome (ISS2).
pub const fn class(esr: u64) -> u64 {
    (esr >> EC_SHIFT) & 0x3f
}

/// xFSC of an external abort on the stage-1 walk, at a level from -1 to 3.
pub const fn fsc_external_walk(level: i8) -> u64 {
    (0x14u64).wrapping_add_signed(level as i64)
}

/// Which of the vectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Vector {
    /// Synchronous exceptions.
    Synchronous = 0,
    /// SError.
    SError = 0x180,
}

/// Whether PSTATE `spsr` is of EL0.
pub const fn is_el0(spsr: u64) -> bool {
    spsr & pstate::AARCH32 != 0 || spsr & pstate::MODE == pstate::EL0T
}

/// Whether the guest's data accesses are big-endian where it is now.
pub fn is_big_endian(context: &VcpuContext) -> bool {
    let spsr = context.regs.spsr;
    if spsr & pstate::AARCH32 != 0 {
        return spsr & pstate::AARCH32_E != 0;
    }
    let bit = if is_el0(spsr) { sctlr::E0E } else { sctlr::EE };
    context.sys_reg(SysReg::SctlrEl1) & bit != 0
}

/// Takes the exception: PC and PSTATE are saved, and replaced by those of the handler. ESR_EL1 and FAR_EL1 are the caller's.
pub fn take(context: &mut VcpuContext, vector: Vector) {
    let old = context.regs.spsr;
    let group = match old & pstate::MODE {
        pstate::EL1H => 0x200,
        pstate::EL1T => 0x000,
        mode if mode & pstate::AARCH32 == 0 => 0x400,
        _ => 0x600,
    };
    let sctlr = context.sys_reg(SysReg::SctlrEl1);
    let mut new = old & (pstate::NZCV | pstate::DIT | pstate::PAN) | pstate::DAIF | pstate::EL1H;
    if sctlr & sctlr::SPAN == 0 {
        new |= pstate::PAN;
    }
    if sctlr & sctlr::DSSBS != 0 {
        new |= pstate::SSBS;
    }
    context.set_sys_reg(SysReg::ElrEl1, context.regs.elr);
    context.set_sys_reg(SysReg::SpsrEl1, old);
    context.regs.elr = context
        .sys_reg(SysReg::VbarEl1)
        .wrapping_add(group)
        .wrapping_add(vector as u64);
    context.regs.spsr = new;
}

/// A synchronous exception with this syndrome.
pub fn synchronous(context: &mut VcpuContext, esr: u64) {
    take(context, Vector::Synchronous);
    context.set_sys_reg(SysReg::EsrEl1, esr);
}

/// The instruction at the PC is UNDEFINED.
pub fn undefined(context: &mut VcpuContext) {
    synchronous(context, (EC_UNKNOWN << EC_SHIFT) | IL);
}

/// An abort of the instruction at the PC, of its fetch or of its access, with fault status `fsc`.
pub fn abort(context: &mut VcpuContext, fetch: bool, far: u64, fsc: u64) {
    let class = if is_el0(context.regs.spsr) {
        EC_INSTRUCTION_ABORT_LOWER
    } else {
        EC_INSTRUCTION_ABORT_CURRENT
    };
    let class = if fetch { class } else { class | EC_DATA };
    context.set_sys_reg(SysReg::FarEl1, far);
    synchronous(context, (class << EC_SHIFT) | IL | fsc & 0x3f);
}

/// An SError with this ISS that the guest does not mask.
pub fn serror(context: &mut VcpuContext, iss: u64) {
    take(context, Vector::SError);
    context.set_sys_reg(SysReg::EsrEl1, (EC_SERROR << EC_SHIFT) | IL | iss & ISS);
}

#[cfg(test)]
mod tests {
    use super::*;

    const VBAR: u64 = 0xffff_0000_8000_0800;
    const PC: u64 = 0xffff_0000_8001_0004;

    fn context(spsr: u64) -> Box<VcpuContext> {
        // SAFETY: The type is made of numbers.
        let mut context: Box<VcpuContext> = Box::new(unsafe { core::mem::zeroed() });
        context.set_sys_reg(SysReg::VbarEl1, VBAR);
        context.set_sys_reg(SysReg::SctlrEl1, sctlr::SPAN);
        context.regs.elr = PC;
        context.regs.spsr = spsr;
        context
    }

    #[test]
    fn undefined_from_each_level_takes_its_vector() {
        for (spsr, group) in [
            (pstate::EL1T, 0),
            (pstate::EL1H, 0x200),
            (pstate::EL0T, 0x400),
            (pstate::AARCH32, 0x600),
        ] {
            let mut context = context(spsr);
            undefined(&mut context);
            assert_eq!(context.regs.elr, VBAR + group);
            assert_eq!(context.sys_reg(SysReg::ElrEl1), PC);
            assert_eq!(context.sys_reg(SysReg::SpsrEl1), spsr);
            assert_eq!(context.sys_reg(SysReg::EsrEl1), 0x0200_0000);
            assert_eq!(context.regs.spsr, pstate::DAIF | pstate::EL1H);
        }
    }

    #[test]
    fn pstate_keeps_flags_and_drops_the_rest() {
        const IL_SS_UAO_BTYPE: u64 = (1 << 20) | (1 << 21) | (1 << 23) | (3 << 10);
        let kept = pstate::NZCV | pstate::DIT | pstate::PAN;
        let mut context = context(kept | IL_SS_UAO_BTYPE | pstate::SSBS | pstate::EL1H);
        undefined(&mut context);
        assert_eq!(context.regs.spsr, kept | pstate::DAIF | pstate::EL1H);
    }

    #[test]
    fn pan_and_ssbs_follow_sctlr() {
        let mut context = context(pstate::EL0T);
        context.set_sys_reg(SysReg::SctlrEl1, sctlr::DSSBS);
        undefined(&mut context);
        assert_eq!(
            context.regs.spsr,
            pstate::PAN | pstate::SSBS | pstate::DAIF | pstate::EL1H
        );
    }

    #[test]
    fn abort_class_tells_level_and_kind() {
        for (spsr, fetch, class) in [
            (pstate::EL0T, true, 0x20),
            (pstate::EL1H, true, 0x21),
            (pstate::EL0T, false, 0x24),
            (pstate::EL1H, false, 0x25),
        ] {
            let mut context = context(spsr);
            abort(&mut context, fetch, 0x1234, FSC_EXTERNAL);
            let esr = context.sys_reg(SysReg::EsrEl1);
            assert_eq!(esr >> 26, class);
            assert_eq!(esr & ISS, FSC_EXTERNAL);
            assert_eq!(context.sys_reg(SysReg::FarEl1), 0x1234);
        }
    }

    #[test]
    fn serror_has_its_vector_and_iss() {
        let mut context = context(pstate::EL1H);
        serror(&mut context, 0x11d1ed | IL);
        assert_eq!(context.regs.elr, VBAR + 0x380);
        assert_eq!(context.sys_reg(SysReg::EsrEl1), 0xbe11_d1ed);
    }

    #[test]
    fn endianness_depends_on_the_level() {
        let mut context = context(pstate::EL1H);
        context.set_sys_reg(SysReg::SctlrEl1, sctlr::EE);
        assert!(is_big_endian(&context));
        context.regs.spsr = pstate::EL0T;
        assert!(!is_big_endian(&context));
        context.regs.spsr = pstate::AARCH32 | pstate::AARCH32_E;
        assert!(is_big_endian(&context));
    }

    #[test]
    fn class_is_told_from_what_stands_above_it() {
        assert_eq!(class((0x24 << 26) | (1 << 40) | 0x7f), 0x24);
    }

    #[test]
    fn walk_fault_status_has_the_level() {
        assert_eq!(fsc_external_walk(-1), 0x13);
        assert_eq!(fsc_external_walk(0), 0x14);
        assert_eq!(fsc_external_walk(3), 0x17);
    }
}
