// SPDX-License-Identifier: GPL-2.0-only

//! Arch, host side: the registers of EL1 and EL0 that a guest has of its own, so that a test can see that the host's are back.

use super::sysreg;

/// A register, and how it is read.
type Register = (&'static str, fn() -> u64);

/// What of the switch (`common::guest::SysReg`) EL1 can read, and what it sees of VPIDR_EL2 and VMPIDR_EL2.
const REGISTERS: [Register; 25] = [
    ("SCTLR_EL1", sysreg::sctlr_el1),
    ("TCR_EL1", sysreg::tcr_el1),
    ("CPACR_EL1", sysreg::cpacr_el1),
    ("TTBR0_EL1", sysreg::ttbr0_el1),
    ("TTBR1_EL1", sysreg::ttbr1_el1),
    ("ESR_EL1", sysreg::esr_el1),
    ("AFSR0_EL1", sysreg::afsr0_el1),
    ("AFSR1_EL1", sysreg::afsr1_el1),
    ("FAR_EL1", sysreg::far_el1),
    ("MAIR_EL1", sysreg::mair_el1),
    ("VBAR_EL1", sysreg::vbar_el1),
    ("CONTEXTIDR_EL1", sysreg::contextidr_el1),
    ("AMAIR_EL1", sysreg::amair_el1),
    ("CNTKCTL_EL1", sysreg::cntkctl_el1),
    ("PAR_EL1", sysreg::par_el1),
    ("TPIDR_EL0", sysreg::tpidr_el0),
    ("TPIDRRO_EL0", sysreg::tpidrro_el0),
    ("TPIDR_EL1", sysreg::tpidr_el1),
    ("SP_EL0", sysreg::sp_el0),
    ("ELR_EL1", sysreg::elr_el1),
    ("SPSR_EL1", sysreg::spsr_el1),
    ("MDSCR_EL1", sysreg::mdscr_el1),
    ("CNTV_CVAL_EL0", sysreg::cntv_cval_el0),
    ("MIDR_EL1", sysreg::midr_el1),
    ("MPIDR_EL1", sysreg::mpidr_el1),
];

/// The host's registers at one moment, on a CPU that takes no interrupt until [`Self::compare`].
pub(crate) struct HostState([u64; REGISTERS.len()]);

impl HostState {
    /// Reads them.
    pub(crate) fn read() -> Self {
        Self(REGISTERS.map(|(_, read)| read()))
    }

    /// Reports each register that has another value `now`: name, value before, value now. Returns how many are equal and how
    /// many are different.
    pub(crate) fn compare(&self, now: &Self, mut report: impl FnMut(&str, u64, u64)) -> (u32, u32) {
        let (mut equal, mut different) = (0, 0);
        for (((name, _), before), now) in REGISTERS.iter().zip(self.0).zip(now.0) {
            if before == now {
                equal += 1;
            } else {
                different += 1;
                report(name, before, now);
            }
        }
        (equal, different)
    }
}
