// SPDX-License-Identifier: GPL-2.0-only

//! SPECULATIVE_AT: translations of EL1&0 that begin at EL2, at any time, with any values that the registers may have.
//!
//! Source: `ARM64_WORKAROUND_SPECULATIVE_AT` in `arch/arm64/Kconfig` of Linux.

use super::{
    cpu::Cpu,
    lower::{
        MAIR_EL1,
        SCTLR_EL1,
        TTBR0_EL1,
        TTBR1_EL1, //
    },
    regime::HCR_VM,
    types::Reg,
    violation::{
        Checked,
        Rule, //
    },
};

/// SCTLR_EL1.M.
const SCTLR_M: u64 = 1;
/// TCR_EL1.EPD0 and EPD1.
const TCR_EPD: u64 = (1 << 7) | (1 << 23);

/// The registers that make a translation regime of EL1&0 what it is. SPECULATIVE_AT: none of another one may be with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Regime {
    /// SCTLR_EL1.
    pub sctlr: u64,
    /// TCR_EL1.
    pub tcr: u64,
    /// TTBR0_EL1, TTBR1_EL1 and MAIR_EL1.
    pub tables: [u64; 3],
    /// HCR_EL2.VM.
    pub stage2: bool,
    /// VTTBR_EL2 and VTCR_EL2.
    pub vttbr: [u64; 2],
}

impl Regime {
    /// Whether a translation by the registers of `self`, whosever they are, is one of the regime `owner`'s.
    fn is_of(&self, owner: &Self) -> bool {
        let stage2 = self.stage2 == owner.stage2 && self.vttbr == owner.vttbr;
        if self.sctlr & SCTLR_M == 0 {
            // Flat: stage 1 has no say but that it is off.
            return stage2 && owner.sctlr & SCTLR_M == 0;
        }
        self == owner
    }

    /// Whether no translation begins.
    fn is_shut(&self) -> bool {
        self.sctlr & SCTLR_M != 0 && self.tcr & TCR_EPD == TCR_EPD
    }
}

impl Cpu<'_> {
    /// Says which regimes there are: with the erratum of [`walks_speculatively`](super::System::walks_speculatively) any
    /// translation at EL2 must be wholly of one of them.
    pub fn know(&mut self, regimes: &[Regime]) {
        self.lower().regimes = regimes.to_vec();
    }

    /// With the erratum, a translation of EL1 can begin at EL2 at any time, with any values that may be in effect: they are
    /// all of one owner, or it begins nothing.
    pub(super) fn check_mixture(&mut self) -> Checked<()> {
        if !self.system.speculative_at {
            return Ok(());
        }
        let known = self.lower().regimes.clone();
        if known.is_empty() {
            return self.check_vmid();
        }
        let stage2 = |hcr: &u64| hcr & HCR_VM != 0;
        for sctlr in self.possible(SCTLR_EL1) {
            for tcr in self.possible(Reg::TcrEl1) {
                for tables in self.combinations([TTBR0_EL1, TTBR1_EL1, MAIR_EL1]) {
                    for [hcr, vttbr, vtcr] in
                        self.combinations([Reg::HcrEl2, Reg::VttbrEl2, Reg::VtcrEl2])
                    {
                        let mixture = Regime {
                            sctlr,
                            tcr,
                            tables,
                            stage2: stage2(&hcr),
                            vttbr: [vttbr, vtcr],
                        };
                        if !mixture.is_shut() && !known.iter().any(|owner| mixture.is_of(owner)) {
                            let detail = format!("a walk by {mixture:x?}");
                            return self.wrong(Rule::MixedVmid, &detail);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn combinations(&self, regs: [Reg; 3]) -> Vec<[u64; 3]> {
        let [first, second, third] = regs.map(|reg| self.possible(reg));
        let mut all = Vec::new();
        for one in &first {
            for two in &second {
                all.extend(third.iter().map(|three| [*one, *two, *three]));
            }
        }
        all
    }

    /// Where only VMIDs are told apart: the host's is 0; for a guest, whoever enters it has changed the other registers before.
    fn check_vmid(&mut self) -> Checked<()> {
        let vttbrs = self.possible(Reg::VttbrEl2);
        let foreign = vttbrs.iter().any(|vttbr| vttbr >> 48 != 0);
        let tcrs = self.possible(Reg::TcrEl1);
        let walks = tcrs.iter().any(|tcr| tcr & TCR_EPD != TCR_EPD);
        if !foreign || !walks {
            return Ok(());
        }
        let detail = format!("VTTBR_EL2 may be {vttbrs:x?}, TCR_EL1 {tcrs:x?}");
        self.wrong(Rule::MixedVmid, &detail)
    }
}
