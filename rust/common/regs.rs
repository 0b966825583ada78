// SPDX-License-Identifier: GPL-2.0-only

//! Common: the EL2 register image, and the constants that we write to EL2 registers.
//!
//! The image is what init changes, and what else at EL2 Armv8.0 has or Linux sets up and a hypervisor could change by mistake.
//! Not in it: what only guests are affected by (VSESR_EL2, VDISR_EL2) or the switch to them restores each time (MPAM2_EL2 and
//! MPAMHCR_EL2); some controls of extensions that we never write (PMSCR_EL2, BRBCR_EL2, HAFGRTR_EL2, HDFG*TR2_EL2 and HFG*TR2_EL2,
//! SMPRIMAP_EL2), and those of a GICv5 (ICH_HFG*TR_EL2, ICH_VCTLR_EL2), with which we do not load; what an exception overwrites
//! (ESR, FAR, HPFAR, ELR and SPSR of EL2), and running counters. `asm/idmap.S` reads register `n` by its place in [`IMAGE`], so
//! both lists are in the same order.
//!
//! Source: Arm ARM DDI 0487, D24 (registers), `asm/sysreg.h` of Linux for what the kernel sets.

/// Feature that a CPU needs for a register to exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Needs {
    /// Every Armv8.0 CPU with EL2 has it.
    Nothing,
    /// GIC system registers: ID_AA64PFR0_EL1.GIC.
    Gic,
    /// As [`Needs::Gic`], and ICC_SRE_EL2.SRE is set: else the register is UNDEFINED.
    GicSre,
    /// FEAT_VHE: ID_AA64MMFR1_EL1.VH.
    Vhe,
    /// FEAT_HCX: ID_AA64MMFR1_EL1.HCX.
    Hcx,
    /// FEAT_FGT: ID_AA64MMFR0_EL1.FGT.
    Fgt,
    /// FEAT_SVE: ID_AA64PFR0_EL1.SVE.
    Sve,
    /// FEAT_SME: ID_AA64PFR1_EL1.SME.
    Sme,
}

/// One register of the image.
#[derive(Clone, Copy, Debug)]
pub struct Register {
    /// Name as in the Arm ARM.
    pub name: &'static str,
    /// When it exists.
    pub needs: Needs,
}

const fn reg(name: &'static str, needs: Needs) -> Register {
    Register { name, needs }
}

/// Places in [`IMAGE`] of the registers that code asks for by name.
pub mod index {
    /// SCTLR_EL2.
    pub const SCTLR: u64 = 0;
    /// VBAR_EL2.
    pub const VBAR: u64 = 1;
    /// TTBR0_EL2.
    pub const TTBR0: u64 = 2;
    /// TCR_EL2.
    pub const TCR: u64 = 3;
    /// MAIR_EL2.
    pub const MAIR: u64 = 4;
    /// SP_EL2.
    pub const SP: u64 = 5;
    /// HCR_EL2.
    pub const HCR: u64 = 6;
    /// CPTR_EL2.
    pub const CPTR: u64 = 9;
    /// ICC_SRE_EL2.
    pub const ICC_SRE: u64 = 23;
    /// The one whose copy a test spoils: HACR_EL2, of which nothing depends on the copy.
    pub const SPOILT: u64 = 11;
}

/// The register image, in the order of `eltwo_read_reg` in `asm/idmap.S`.
pub const IMAGE: [Register; 35] = [
    reg("SCTLR_EL2", Needs::Nothing),
    reg("VBAR_EL2", Needs::Nothing),
    reg("TTBR0_EL2", Needs::Nothing),
    reg("TCR_EL2", Needs::Nothing),
    reg("MAIR_EL2", Needs::Nothing),
    reg("SP_EL2", Needs::Nothing),
    reg("HCR_EL2", Needs::Nothing),
    reg("ACTLR_EL2", Needs::Nothing),
    reg("MDCR_EL2", Needs::Nothing),
    reg("CPTR_EL2", Needs::Nothing),
    reg("HSTR_EL2", Needs::Nothing),
    reg("HACR_EL2", Needs::Nothing),
    reg("VTTBR_EL2", Needs::Nothing),
    reg("VTCR_EL2", Needs::Nothing),
    reg("AMAIR_EL2", Needs::Nothing),
    reg("AFSR0_EL2", Needs::Nothing),
    reg("AFSR1_EL2", Needs::Nothing),
    reg("TPIDR_EL2", Needs::Nothing),
    reg("CNTHCTL_EL2", Needs::Nothing),
    reg("CNTVOFF_EL2", Needs::Nothing),
    reg("CNTHP_CVAL_EL2", Needs::Nothing),
    reg("VPIDR_EL2", Needs::Nothing),
    reg("VMPIDR_EL2", Needs::Nothing),
    reg("ICC_SRE_EL2", Needs::Gic),
    reg("ICH_HCR_EL2", Needs::GicSre),
    reg("CONTEXTIDR_EL2", Needs::Vhe),
    reg("TTBR1_EL2", Needs::Vhe),
    reg("HCRX_EL2", Needs::Hcx),
    reg("HFGRTR_EL2", Needs::Fgt),
    reg("HFGWTR_EL2", Needs::Fgt),
    reg("HFGITR_EL2", Needs::Fgt),
    reg("HDFGRTR_EL2", Needs::Fgt),
    reg("HDFGWTR_EL2", Needs::Fgt),
    reg("ZCR_EL2", Needs::Sve),
    reg("SMCR_EL2", Needs::Sme),
];

/// ICC_SRE_EL2.SRE: the GIC's system registers are in use.
pub const ICC_SRE_EL2_SRE: u64 = 1;

/// HCR_EL2.
pub mod hcr {
    /// E2H: EL2 has EL1's register layouts (VHE, or hVHE).
    pub const E2H: u64 = 1 << 34;
}

/// CPTR_EL2 with HCR_EL2.E2H = 0.
pub mod cptr {
    /// TZ: SVE, and so ZCR_EL2, traps to EL2.
    pub const TZ: u64 = 1 << 8;
    /// TSM: SME, and so SMCR_EL2, traps to EL2.
    pub const TSM: u64 = 1 << 12;
}

/// SCTLR_EL2 with HCR_EL2.E2H = 0.
pub mod sctlr {
    /// M: MMU on.
    pub const M: u64 = 1 << 0;
    /// C: data accesses cacheable.
    pub const C: u64 = 1 << 2;
    /// SA: SP alignment check.
    pub const SA: u64 = 1 << 3;
    /// I: instruction fetches cacheable.
    pub const I: u64 = 1 << 12;
    /// WXN: what is writable is never executable.
    pub const WXN: u64 = 1 << 19;
    /// EOS: exception exit is context synchronising (RES1 without FEAT_ExS).
    pub const EOS: u64 = 1 << 11;
    /// IESB: an implicit error synchronization at exception entry and return (RES0 without FEAT_IESB).
    pub const IESB: u64 = 1 << 21;
    /// EIS: exception entry is context synchronising (RES1 without FEAT_ExS).
    pub const EIS: u64 = 1 << 22;
    /// Bits that are RES1 in Armv8.0: 29, 28, 23, 18, 16, 5, 4.
    pub const RES1: u64 =
        (1 << 29) | (1 << 28) | (1 << 23) | (1 << 18) | (1 << 16) | (1 << 5) | (1 << 4);
    /// What we run with.
    pub const MMU_ON: u64 = M | C | SA | I | WXN | EOS | EIS | IESB | RES1;
}

/// TCR_EL2 with HCR_EL2.E2H = 0.
pub mod tcr {
    /// RES1 bits 31 and 23.
    pub const RES1: u64 = (1 << 31) | (1 << 23);
    /// DS: 52-bit descriptors for 4K and 16K granules (FEAT_LPA2).
    pub const DS: u64 = 1 << 32;
    /// Shift of PS, the physical address size.
    pub const PS_SHIFT: u32 = 16;
    /// IRGN0, ORGN0 and SH0: walks are Inner and Outer Write-Back Write-Allocate, Inner Shareable.
    pub const WALKS_WBWA_IS: u64 = (1 << 8) | (1 << 10) | (3 << 12);
    /// TG0 for the granules of 4K, 16K and 64K.
    pub const TG0_4K: u64 = 0 << 14;
    /// See [`TG0_4K`].
    pub const TG0_16K: u64 = 2 << 14;
    /// See [`TG0_4K`].
    pub const TG0_64K: u64 = 1 << 14;
}

/// TCR_EL1, which the kernel wrote and we follow.
pub mod tcr_el1 {
    /// DS: 52-bit descriptors in use at EL1.
    pub const DS: u64 = 1 << 59;
    /// Shift and mask of IPS, the physical address size.
    pub const IPS_SHIFT: u32 = 32;
    /// See [`IPS_SHIFT`].
    pub const IPS_MASK: u64 = 7;
}

/// ESR_EL2.EC: HVC from AArch64.
pub const ESR_EC_HVC64: u64 = 0x16;
/// Shift of ESR_EL2.EC.
pub const ESR_EC_SHIFT: u32 = 26;
