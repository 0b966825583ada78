// SPDX-License-Identifier: GPL-2.0-only

//! Names for the operands of MRS, MSR and SYS.
//!
//! Source: Arm ARM DDI 0487, C5 and D24 (encodings); `arch/arm64/tools/sysreg` of Linux for the names.

use std::fmt;

/// A system register, as the instruction encodes it: op0, op1, CRn, CRm, op2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SysReg(u16);

const fn encoding(op0: u16, op1: u16, crn: u16, crm: u16, op2: u16) -> SysReg {
    SysReg((op0 << 14) | (op1 << 11) | (crn << 7) | (crm << 3) | op2)
}

/// Defines a constant for each register and the table of all names.
macro_rules! registers {
    ($($name:ident = $op0:literal $op1:literal $crn:literal $crm:literal $op2:literal;)*) => {
        #[expect(missing_docs, reason = "the names are the architecture's")]
        impl SysReg {
            $(pub const $name: SysReg = encoding($op0, $op1, $crn, $crm, $op2);)*

            /// Every register with a name.
            pub const ALL: &'static [(SysReg, &'static str)] = &[$((Self::$name, stringify!($name))),*];
        }
    };
}

registers! {
    ID_AA64PFR0_EL1 = 3 0 0 4 0;
    SPSEL = 3 0 4 2 0;
    SP_EL0 = 3 0 4 1 0;
    SPSR_EL1 = 3 0 4 0 0;
    BRBCR_EL1 = 2 1 9 0 0;
    MDSCR_EL1 = 2 0 0 2 2;
    TRFCR_EL1 = 3 0 1 2 1;
    TTBR0_EL1 = 3 0 2 0 0;
    TTBR1_EL1 = 3 0 2 0 1;
    TCR_EL1 = 3 0 2 0 2;
    CPACR_EL1 = 3 0 1 0 2;
    AFSR0_EL1 = 3 0 5 1 0;
    AFSR1_EL1 = 3 0 5 1 1;
    FAR_EL1 = 3 0 6 0 0;
    PMSCR_EL1 = 3 0 9 9 0;
    PMBLIMITR_EL1 = 3 0 9 10 0;
    TRBLIMITR_EL1 = 3 0 9 11 0;
    MAIR_EL1 = 3 0 10 2 0;
    AMAIR_EL1 = 3 0 10 3 0;
    DISR_EL1 = 3 0 12 1 1;
    ISR_EL1 = 3 0 12 1 0;
    CONTEXTIDR_EL1 = 3 0 13 0 1;
    TPIDR_EL1 = 3 0 13 0 4;
    CNTKCTL_EL1 = 3 0 14 1 0;
    FPCR = 3 3 4 4 0;
    FPSR = 3 3 4 4 1;
    PMUSERENR_EL0 = 3 3 9 14 0;
    TPIDR_EL0 = 3 3 13 0 2;
    TPIDRRO_EL0 = 3 3 13 0 3;
    CNTV_CTL_EL0 = 3 3 14 3 1;
    CNTV_CVAL_EL0 = 3 3 14 3 2;
    SP_EL1 = 3 4 4 1 0;
    VSESR_EL2 = 3 4 5 2 3;
    MPAM2_EL2 = 3 4 10 5 0;
    MPAMHCR_EL2 = 3 4 10 4 0;
    VDISR_EL2 = 3 4 12 1 1;
    ELR_EL1 = 3 0 4 0 1;
    ESR_EL1 = 3 0 5 2 0;
    SCTLR_EL1 = 3 0 1 0 0;
    PAR_EL1 = 3 0 7 4 0;
    VBAR_EL1 = 3 0 12 0 0;
    VPIDR_EL2 = 3 4 0 0 0;
    VMPIDR_EL2 = 3 4 0 0 5;
    SCTLR_EL2 = 3 4 1 0 0;
    ACTLR_EL2 = 3 4 1 0 1;
    HCR_EL2 = 3 4 1 1 0;
    MDCR_EL2 = 3 4 1 1 1;
    CPTR_EL2 = 3 4 1 1 2;
    HSTR_EL2 = 3 4 1 1 3;
    HFGRTR_EL2 = 3 4 1 1 4;
    HFGWTR_EL2 = 3 4 1 1 5;
    HFGITR_EL2 = 3 4 1 1 6;
    HACR_EL2 = 3 4 1 1 7;
    ZCR_EL2 = 3 4 1 2 0;
    HCRX_EL2 = 3 4 1 2 2;
    SMCR_EL2 = 3 4 1 2 6;
    HDFGRTR_EL2 = 3 4 3 1 4;
    HDFGWTR_EL2 = 3 4 3 1 5;
    HAFGRTR_EL2 = 3 4 3 1 6;
    TTBR0_EL2 = 3 4 2 0 0;
    TTBR1_EL2 = 3 4 2 0 1;
    TCR_EL2 = 3 4 2 0 2;
    VTTBR_EL2 = 3 4 2 1 0;
    VTCR_EL2 = 3 4 2 1 2;
    SPSR_EL2 = 3 4 4 0 0;
    ELR_EL2 = 3 4 4 0 1;
    AFSR0_EL2 = 3 4 5 1 0;
    AFSR1_EL2 = 3 4 5 1 1;
    ESR_EL2 = 3 4 5 2 0;
    FAR_EL2 = 3 4 6 0 0;
    HPFAR_EL2 = 3 4 6 0 4;
    MAIR_EL2 = 3 4 10 2 0;
    AMAIR_EL2 = 3 4 10 3 0;
    VBAR_EL2 = 3 4 12 0 0;
    ICC_SRE_EL2 = 3 4 12 9 5;
    ICH_HCR_EL2 = 3 4 12 11 0;
    ICH_VTR_EL2 = 3 4 12 11 1;
    CONTEXTIDR_EL2 = 3 4 13 0 1;
    TPIDR_EL2 = 3 4 13 0 2;
    CNTVOFF_EL2 = 3 4 14 0 3;
    CNTHCTL_EL2 = 3 4 14 1 0;
    CNTHP_CVAL_EL2 = 3 4 14 2 2;
}

impl SysReg {
    /// The operand of the MRS or MSR in `word`.
    pub(crate) fn from_insn(word: u32) -> Option<Self> {
        // op0 is 2 or 3: bit 20 is always set, bit 19 tells which.
        let reg = SysReg(((word >> 5) & 0xffff) as u16);
        reg.name_if_known().map(|_| reg)
    }

    /// The register with this name.
    pub fn by_name(name: &str) -> Option<Self> {
        let known = Self::ALL.iter().find(|(_, known)| *known == name);
        known.map(|(reg, _)| *reg)
    }

    fn name_if_known(self) -> Option<&'static str> {
        let known = Self::ALL.iter().find(|(reg, _)| *reg == self);
        known.map(|(_, name)| *name)
    }

    /// The name as in the Arm ARM.
    pub fn name(self) -> &'static str {
        // All values come from the table.
        self.name_if_known().unwrap_or("?")
    }
}

impl fmt::Display for SysReg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What SYS does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SysOp {
    /// TLBI ALLE2.
    TlbiAlle2,
    /// TLBI ALLE1.
    TlbiAlle1,
    /// TLBI VMALLE1.
    TlbiVmalle1,
    /// TLBI VMALLS12E1.
    TlbiVmalls12e1,
    /// IC IALLU.
    IcIallu,
    /// AT S1E1R.
    AtS1e1r,
    /// AT S1E2R.
    AtS1e2r,
    /// AT S1E2W.
    AtS1e2w,
}

impl SysOp {
    const ALL: [(u32, SysOp, &'static str); 8] = [
        (Self::key(4, 8, 7, 0), SysOp::TlbiAlle2, "tlbi alle2"),
        (Self::key(4, 8, 7, 4), SysOp::TlbiAlle1, "tlbi alle1"),
        (Self::key(0, 8, 7, 0), SysOp::TlbiVmalle1, "tlbi vmalle1"),
        (
            Self::key(4, 8, 7, 6),
            SysOp::TlbiVmalls12e1,
            "tlbi vmalls12e1",
        ),
        (Self::key(0, 7, 8, 0), SysOp::AtS1e1r, "at s1e1r"),
        (Self::key(0, 7, 5, 0), SysOp::IcIallu, "ic iallu"),
        (Self::key(4, 7, 8, 0), SysOp::AtS1e2r, "at s1e2r"),
        (Self::key(4, 7, 8, 1), SysOp::AtS1e2w, "at s1e2w"),
    ];

    const fn key(op1: u32, crn: u32, crm: u32, op2: u32) -> u32 {
        (op1 << 16) | (crn << 12) | (crm << 8) | (op2 << 5)
    }

    /// The operation of the SYS in `word`.
    pub(crate) fn from_insn(word: u32) -> Option<Self> {
        let key = word & Self::key(7, 15, 15, 7);
        let known = Self::ALL.iter().find(|(known, ..)| *known == key);
        known.map(|(_, op, _)| *op)
    }
}

impl fmt::Display for SysOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Self::ALL.iter().find(|(_, op, _)| op == self);
        f.write_str(known.map_or("?", |(.., name)| name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn register_encoding_matches_assembler() {
        assert_eq!(SysReg::from_insn(0xd51c_a201), Some(SysReg::MAIR_EL2));
        assert_eq!(SysReg::from_insn(0xd51c_1005), Some(SysReg::SCTLR_EL2));
        assert_eq!(SysReg::from_insn(0xd538_4201), Some(SysReg::SPSEL));
        assert_eq!(SysReg::by_name("VBAR_EL2"), Some(SysReg::VBAR_EL2));
        // PMCR_EL0 is not in use.
        assert_eq!(SysReg::from_insn(0xd53b_9c05), None);
    }

    #[test]
    fn register_encodings_are_distinct() {
        let mut all: Vec<_> = SysReg::ALL.iter().map(|(reg, _)| *reg).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), SysReg::ALL.len());
    }
}
