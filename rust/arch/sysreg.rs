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
    /// CNTV_CTL_EL0: control of the virtual timer.
    cntv_ctl = "CNTV_CTL_EL0";
    /// TCR_EL1: what the kernel chose for its own tables.
    tcr_el1 = "TCR_EL1";
    /// MAIR_EL1: memory types by index.
    mair_el1 = "MAIR_EL1";
}

#[cfg(eltwo_el2)]
readers! {
    /// VBAR_EL2.
    vbar_el2 = "VBAR_EL2";
    /// TTBR0_EL2.
    ttbr0_el2 = "TTBR0_EL2";
}
