// SPDX-License-Identifier: GPL-2.0-only

//! Arch: reads of system registers that have no side effect.
//!
//! Source: Arm ARM DDI 0487, D24.

/// Defines a function that reads one system register.
macro_rules! readers {
    ($($(#[$doc:meta])* $name:ident = $register:literal;)*) => {
        $(
            $(#[$doc])*
            #[inline]
            pub(crate) fn $name() -> u64 {
                let value: u64;
                // SAFETY: The register exists at every exception level that this is compiled for, and reading it
                // changes nothing. No `nomem`: the read stays in its place among barriers and other accesses.
                unsafe {
                    core::arch::asm!(
                        concat!("mrs {}, ", $register),
                        out(reg) value,
                        options(nostack, preserves_flags)
                    )
                };
                value
            }
        )*
    };
}

#[cfg(not(eltwo_el2))]
readers! {
    /// CurrentEL: the exception level, in bits 3:2.
    current_el = "CurrentEL";
    /// ID_AA64PFR0_EL1: exception levels, GIC, SVE.
    id_aa64pfr0 = "ID_AA64PFR0_EL1";
    /// ID_AA64PFR1_EL1: SME.
    id_aa64pfr1 = "ID_AA64PFR1_EL1";
    /// ID_AA64MMFR0_EL1: PA range, granules, FGT.
    id_aa64mmfr0 = "ID_AA64MMFR0_EL1";
    /// ID_AA64MMFR1_EL1: VHE, HCX, VMID width.
    id_aa64mmfr1 = "ID_AA64MMFR1_EL1";
    /// ID_AA64MMFR2_EL1: VA range.
    id_aa64mmfr2 = "ID_AA64MMFR2_EL1";
    /// ID_AA64ISAR2_EL1: CLRBHB.
    id_aa64isar2 = "S3_0_C0_C6_2";
    /// ID_AA64DFR0_EL1: breakpoints and watchpoints.
    id_aa64dfr0 = "ID_AA64DFR0_EL1";
    /// MDSCR_EL1: control of debug exceptions.
    mdscr_el1 = "MDSCR_EL1";
    /// MIDR_EL1, REVIDR_EL1, AIDR_EL1: which CPU this is.
    midr_el1 = "MIDR_EL1";
    /// See [`midr_el1`].
    revidr_el1 = "REVIDR_EL1";
    /// See [`midr_el1`].
    aidr_el1 = "AIDR_EL1";
    /// ACTLR_EL1: IMPLEMENTATION DEFINED controls.
    actlr_el1 = "ACTLR_EL1";
    /// AMAIR_EL1: IMPLEMENTATION DEFINED memory attributes.
    amair_el1 = "AMAIR_EL1";
    /// DBGAUTHSTATUS_EL1: what an external debugger may do.
    dbgauthstatus_el1 = "DBGAUTHSTATUS_EL1";
    /// CNTPCT_EL0: the physical counter, in ticks.
    cntpct = "CNTPCT_EL0";
    /// CNTV_CTL_EL0: control of the virtual timer.
    cntv_ctl = "CNTV_CTL_EL0";
    /// TCR_EL1: what the kernel chose for its own tables.
    tcr_el1 = "TCR_EL1";
    /// MAIR_EL1: memory types by index.
    mair_el1 = "MAIR_EL1";
}

#[cfg(not(eltwo_el2))]
readers! {
    /// PMBIDR_EL1: whose the profiling buffer is. Only with FEAT_SPE.
    pmbidr_el1 = "S3_0_C9_C10_7";
    /// TRBIDR_EL1: whose the trace buffer is. Only with FEAT_TRBE.
    trbidr_el1 = "S3_0_C9_C11_7";
}

// What a guest has of its own, for `witness`.
#[cfg(not(eltwo_el2))]
readers! {
    /// SCTLR_EL1.
    sctlr_el1 = "SCTLR_EL1";
    /// CPACR_EL1.
    cpacr_el1 = "CPACR_EL1";
    /// TTBR0_EL1.
    ttbr0_el1 = "TTBR0_EL1";
    /// TTBR1_EL1.
    ttbr1_el1 = "TTBR1_EL1";
    /// ESR_EL1.
    esr_el1 = "ESR_EL1";
    /// AFSR0_EL1.
    afsr0_el1 = "AFSR0_EL1";
    /// AFSR1_EL1.
    afsr1_el1 = "AFSR1_EL1";
    /// FAR_EL1.
    far_el1 = "FAR_EL1";
    /// VBAR_EL1.
    vbar_el1 = "VBAR_EL1";
    /// CONTEXTIDR_EL1.
    contextidr_el1 = "CONTEXTIDR_EL1";
    /// CNTKCTL_EL1.
    cntkctl_el1 = "CNTKCTL_EL1";
    /// PAR_EL1.
    par_el1 = "PAR_EL1";
    /// TPIDR_EL0.
    tpidr_el0 = "TPIDR_EL0";
    /// TPIDRRO_EL0.
    tpidrro_el0 = "TPIDRRO_EL0";
    /// TPIDR_EL1.
    tpidr_el1 = "TPIDR_EL1";
    /// SP_EL0.
    sp_el0 = "SP_EL0";
    /// ELR_EL1.
    elr_el1 = "ELR_EL1";
    /// SPSR_EL1.
    spsr_el1 = "SPSR_EL1";
    /// CNTV_CVAL_EL0.
    cntv_cval_el0 = "CNTV_CVAL_EL0";
    /// MPIDR_EL1.
    mpidr_el1 = "MPIDR_EL1";
}

#[cfg(eltwo_el2)]
readers! {
    /// TCR_EL1: the walks of whoever runs at EL1.
    tcr_el1 = "TCR_EL1";
    /// VBAR_EL2.
    vbar_el2 = "VBAR_EL2";
    /// TTBR0_EL2.
    ttbr0_el2 = "TTBR0_EL2";
    /// HCR_EL2.
    hcr_el2 = "HCR_EL2";
    /// MDCR_EL2.
    mdcr_el2 = "MDCR_EL2";
    /// CPTR_EL2.
    cptr_el2 = "CPTR_EL2";
    /// HSTR_EL2.
    hstr_el2 = "HSTR_EL2";
    /// VTTBR_EL2.
    vttbr_el2 = "VTTBR_EL2";
    /// VTCR_EL2.
    vtcr_el2 = "VTCR_EL2";
    /// CNTVOFF_EL2.
    cntvoff_el2 = "CNTVOFF_EL2";
    /// CNTHCTL_EL2.
    cnthctl_el2 = "CNTHCTL_EL2";
    /// VPIDR_EL2.
    vpidr_el2 = "VPIDR_EL2";
    /// VMPIDR_EL2.
    vmpidr_el2 = "VMPIDR_EL2";
    /// HCRX_EL2. Only with FEAT_HCX.
    hcrx_el2 = "S3_4_C1_C2_2";
    /// HFGRTR_EL2. Only with FEAT_FGT, as the next four.
    hfgrtr_el2 = "S3_4_C1_C1_4";
    /// HFGWTR_EL2.
    hfgwtr_el2 = "S3_4_C1_C1_5";
    /// HFGITR_EL2.
    hfgitr_el2 = "S3_4_C1_C1_6";
    /// HDFGRTR_EL2.
    hdfgrtr_el2 = "S3_4_C3_C1_4";
    /// HDFGWTR_EL2.
    hdfgwtr_el2 = "S3_4_C3_C1_5";
    /// MPAM2_EL2. Only with FEAT_MPAM.
    mpam2_el2 = "S3_4_C10_C5_0";
    /// MPAMHCR_EL2. Only where MPAMIDR_EL1.HAS_HCR is set.
    mpamhcr_el2 = "S3_4_C10_C4_0";
    /// ICH_HCR_EL2. Only with the GIC's system registers in use.
    ich_hcr_el2 = "S3_4_C12_C11_0";
    /// ICC_SRE_EL2. Only with a GICv3.
    icc_sre_el2 = "S3_4_C12_C9_5";
}
