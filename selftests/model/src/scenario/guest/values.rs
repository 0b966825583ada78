// SPDX-License-Identifier: GPL-2.0-only

//! Whose value a register has: each one of the host and of every vCPU has values of its own, which nobody would guess.

use eltwo::{
    common::guest::{
        extra,
        SWITCHED_REGS, //
    },
    fake::Reg, //
};

use crate::{
    machine::model_reg,
    sysreg::SysReg, //
};

/// The registers that are switched, in the order of [`eltwo::common::guest::SysReg`].
pub(super) const SYS: [SysReg; SWITCHED_REGS] = [
    SysReg::SCTLR_EL1,
    SysReg::TCR_EL1,
    SysReg::CPACR_EL1,
    SysReg::TTBR0_EL1,
    SysReg::TTBR1_EL1,
    SysReg::ESR_EL1,
    SysReg::AFSR0_EL1,
    SysReg::AFSR1_EL1,
    SysReg::FAR_EL1,
    SysReg::MAIR_EL1,
    SysReg::VBAR_EL1,
    SysReg::CONTEXTIDR_EL1,
    SysReg::AMAIR_EL1,
    SysReg::CNTKCTL_EL1,
    SysReg::PAR_EL1,
    SysReg::TPIDR_EL0,
    SysReg::TPIDRRO_EL0,
    SysReg::TPIDR_EL1,
    SysReg::SP_EL1,
    SysReg::ELR_EL1,
    SysReg::SPSR_EL1,
    SysReg::MDSCR_EL1,
    SysReg::CNTV_CVAL_EL0,
    SysReg::CNTV_CTL_EL0,
];

/// The registers of EL2 that are switched, in the order of [`eltwo::common::guest::GuestConfig`].
pub(super) const EL2: [SysReg; 10] = [
    SysReg::HCR_EL2,
    SysReg::MDCR_EL2,
    SysReg::CPTR_EL2,
    SysReg::HSTR_EL2,
    SysReg::VTTBR_EL2,
    SysReg::VTCR_EL2,
    SysReg::CNTVOFF_EL2,
    SysReg::CNTHCTL_EL2,
    SysReg::VPIDR_EL2,
    SysReg::VMPIDR_EL2,
];

/// The registers that not every CPU has, by [`extra`].
pub(super) const EXTRA: [SysReg; extra::COUNT] = [
    SysReg::HCRX_EL2,
    SysReg::HFGRTR_EL2,
    SysReg::HFGWTR_EL2,
    SysReg::HFGITR_EL2,
    SysReg::HDFGRTR_EL2,
    SysReg::HDFGWTR_EL2,
    SysReg::MPAM2_EL2,
    SysReg::MPAMHCR_EL2,
    SysReg::ICH_HCR_EL2,
    SysReg::ICC_SRE_EL2,
    SysReg::PMUSERENR_EL0,
    SysReg::PMSCR_EL1,
    SysReg::PMBLIMITR_EL1,
    SysReg::TRFCR_EL1,
    SysReg::TRBLIMITR_EL1,
    SysReg::BRBCR_EL1,
];

/// Bits of [`extra`] that say that a register exists: some stand for those that follow.
pub(super) const PRESENT: [u32; 10] = [
    extra::HCRX,
    extra::HFGRTR,
    extra::MPAM2,
    extra::MPAMHCR,
    extra::ICH_HCR,
    extra::PMUSERENR,
    extra::PMSCR,
    extra::TRFCR,
    extra::TRBLIMITR,
    extra::BRBCR,
];

/// TCR_EL1.EPD0 and EPD1.
const TCR_EPD: u64 = (1 << 7) | (1 << 23);
/// CPTR_EL2.TFP.
const CPTR_TFP: u64 = 1 << 10;
/// HCR_EL2.VM, VSE, E2H.
const HCR_VM: u64 = 1;
pub(super) const HCR_VSE: u64 = 1 << 8;
const HCR_E2H: u64 = 1 << 34;

/// Somebody with values of its own. The host is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    /// Number.
    pub(super) seed: u64,
    /// SCTLR_EL1.M.
    pub(super) mmu: bool,
    /// Profiling and trace buffers are in use.
    pub(super) buffers: bool,
}

/// The host, with its buffers in use.
pub(super) const HOST: Owner = Owner {
    seed: 0,
    mmu: true,
    buffers: true,
};

/// A number that depends on all bits of `seed` and `place` (splitmix64).
const fn hash(seed: u64, place: u64) -> u64 {
    let mut mix = seed
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(place.wrapping_mul(0xd1b5_4a32_d192_ed03));
    mix = (mix ^ (mix >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mix = (mix ^ (mix >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mix ^ (mix >> 31)
}

impl Owner {
    /// The value of register number `place` of `group`.
    fn any(&self, group: u64, place: usize) -> u64 {
        hash(self.seed + 1, (group << 32) + place as u64)
    }

    /// x0..x30.
    pub(super) fn x(&self) -> [u64; 31] {
        std::array::from_fn(|number| self.any(1, number))
    }

    /// V0..V31.
    pub(super) fn v(&self) -> [u128; 32] {
        std::array::from_fn(|number| {
            (u128::from(self.any(2, number)) << 64) | u128::from(self.any(3, number))
        })
    }

    /// SP_EL0, PC, FPSR, FPCR, VDISR_EL2, VSESR_EL2 and whatever else.
    pub(super) fn other(&self, place: usize) -> u64 {
        // An address that is one of an instruction.
        self.any(4, place) & !3
    }

    /// One of [`SYS`].
    pub(super) fn sys(&self, place: usize) -> u64 {
        let value = self.any(5, place);
        match SYS[place] {
            SysReg::SCTLR_EL1 => value & !1 | u64::from(self.mmu),
            // One of them is set, which forbids no more than half of all walks.
            SysReg::TCR_EL1 => value & !TCR_EPD | (1 << 7),
            _ => value,
        }
    }

    /// One of [`EL2`], of a guest; VTTBR_EL2 and VTCR_EL2 are up to its VM.
    pub(super) fn el2(&self, place: usize) -> u64 {
        let value = self.any(6, place);
        match EL2[place] {
            SysReg::HCR_EL2 => (value | HCR_VM) & !HCR_E2H & !HCR_VSE,
            SysReg::CPTR_EL2 => value & !CPTR_TFP,
            _ => value,
        }
    }

    /// One of [`EXTRA`].
    pub(super) fn extra(&self, place: usize) -> u64 {
        let value = self.any(7, place);
        match EXTRA[place] {
            SysReg::PMBLIMITR_EL1 | SysReg::TRBLIMITR_EL1 => value & !1 | u64::from(self.buffers),
            _ => value | 0x18,
        }
    }
}

/// Both as the model calls them.
pub(super) fn regs<const N: usize>(list: &[SysReg; N]) -> impl Iterator<Item = (usize, Reg)> {
    let regs: Vec<Reg> = list.iter().map(|reg| model_reg(*reg)).collect();
    regs.into_iter().enumerate()
}
