// SPDX-License-Identifier: GPL-2.0-only

//! From the values of the control registers to a root: where walks start and how they read.
//!
//! Written from the Arm ARM and not from `common::pgtable`, so that a mistake there is not repeated here.
//!
//! Source: Arm ARM DDI 0487 D24 (TCR_EL2 with E2H = 0, TTBR0_EL2, VTCR_EL2, VTTBR_EL2), D8.2.

use super::descriptor::{
    Address,
    Format,
    Stage, //
};

/// SCTLR_EL2.M.
pub(super) const SCTLR_M: u64 = 1 << 0;
/// SCTLR_EL2.C.
pub(super) const SCTLR_C: u64 = 1 << 2;
/// SCTLR_EL2.EOS.
pub(super) const SCTLR_EOS: u64 = 1 << 11;
/// SCTLR_EL2.I.
pub(super) const SCTLR_I: u64 = 1 << 12;
/// SCTLR_EL2.WXN.
pub(super) const SCTLR_WXN: u64 = 1 << 19;
/// SCTLR_EL2.EIS.
pub(super) const SCTLR_EIS: u64 = 1 << 22;
/// HCR_EL2.VM.
pub(super) const HCR_VM: u64 = 1 << 0;
/// HCR_EL2.FWB.
pub(super) const HCR_FWB: u64 = 1 << 46;
/// HCR_EL2.E2H.
pub(super) const HCR_E2H: u64 = 1 << 34;

/// A root: all that decides what a walk finds, besides memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Root {
    pub(super) format: Format,
    /// The root table.
    pub(super) base: u64,
    pub(super) start_level: i8,
    pub(super) input_bits: u32,
    /// SCTLR_EL2.WXN, which TLBs may cache.
    pub(super) wxn: bool,
    /// Walks go through the caches.
    pub(super) cacheable_walks: bool,
    /// Why no walk can be made of these values. TLBs may hold anything then.
    pub(super) broken: Option<&'static str>,
}

const fn bits(word: u64, shift: u32, width: u32) -> u64 {
    (word >> shift) & ((1 << width) - 1)
}

/// What TCR_EL2 and VTCR_EL2 have in common.
struct Control {
    granule_shift: u32,
    input_bits: u32,
    pa_bits: u32,
    wide: bool,
    cacheable_walks: bool,
}

impl Control {
    fn decode(value: u64) -> Result<Self, &'static str> {
        let granule_shift = match bits(value, 14, 2) {
            0 => 12,
            1 => 16,
            2 => 14,
            _ => return Err("reserved TG0"),
        };
        let size = [32, 36, 40, 42, 44, 48, 52, 56][bits(value, 16, 3) as usize];
        if size > 52 {
            return Err("reserved PS");
        }
        let wide = if granule_shift == 16 {
            size == 52
        } else {
            bits(value, 32, 1) == 1
        };
        let input_bits = 64 - bits(value, 0, 6) as u32;
        // FEAT_LVA: 52 bits of input with 64K, whatever the output is.
        let most = if wide || granule_shift == 16 { 52 } else { 48 };
        if !(25..=most).contains(&input_bits) {
            return Err("T0SZ out of range");
        }
        Ok(Self {
            granule_shift,
            input_bits,
            pa_bits: if wide { size } else { size.min(48) },
            wide,
            // IRGN0 and ORGN0: Write-Back; SH0: Inner Shareable.
            cacheable_walks: bits(value, 8, 2) & 1 == 1
                && bits(value, 10, 2) & 1 == 1
                && bits(value, 12, 2) == 3,
        })
    }

    fn address(&self) -> Address {
        match (self.wide, self.granule_shift) {
            (false, _) => Address::Bits48,
            (true, 16) => Address::Lpa64k,
            (true, _) => Address::Lpa2,
        }
    }

    fn root(&self, stage: Stage, base: u64, start_level: i8, types: u64) -> Root {
        Root {
            format: Format {
                stage,
                granule_shift: self.granule_shift,
                address: self.address(),
                pa_bits: self.pa_bits,
                types,
            },
            base,
            start_level,
            input_bits: self.input_bits,
            wxn: false,
            cacheable_walks: self.cacheable_walks,
            broken: (base >> self.pa_bits != 0).then_some("root beyond the physical address size"),
        }
    }

    /// The root address in a TTBR.
    fn base(&self, ttbr: u64) -> u64 {
        // With a 52-bit PS and wide descriptors bits 5 to 2 are bits 51 to 48 of the address.
        if self.wide && self.pa_bits == 52 {
            (bits(ttbr, 6, 42) << 6) | (bits(ttbr, 2, 4) << 48)
        } else {
            bits(ttbr, 1, 47) << 1
        }
    }
}

impl Root {
    /// A root that values make which nobody can have meant.
    pub(super) fn broken(stage: Stage, why: &'static str) -> Self {
        Self {
            format: Format {
                stage,
                granule_shift: 12,
                address: Address::Bits48,
                pa_bits: 48,
                types: 0,
            },
            base: 0,
            start_level: 0,
            input_bits: 48,
            wxn: false,
            cacheable_walks: true,
            broken: Some(why),
        }
    }

    /// The root of EL2 stage 1.
    pub(super) fn hyp(sctlr: u64, ttbr: u64, tcr: u64, mair: u64) -> Self {
        let stage = Stage::Hyp;
        if ttbr & 1 != 0 {
            return Self::broken(stage, "CnP is set");
        }
        let control = match Control::decode(tcr) {
            Ok(control) => control,
            Err(why) => return Self::broken(stage, why),
        };
        let stride = control.granule_shift - 3;
        let levels = (control.input_bits - control.granule_shift).div_ceil(stride);
        let start_level = 4 - levels as i8;
        let root = control.root(stage, control.base(ttbr), start_level, mair);
        Self {
            wxn: sctlr & SCTLR_WXN != 0,
            ..root
        }
    }

    /// The root of a guest's stage 2.
    pub(super) fn guest(hcr: u64, vttbr: u64, vtcr: u64) -> Self {
        let stage = Stage::Guest {
            vmid: vmid(vttbr, vtcr),
        };
        let control = match Control::decode(vtcr) {
            Ok(control) => control,
            Err(why) => return Self::broken(stage, why),
        };
        let sl0 = bits(vtcr, 6, 2) as i8;
        let start_level = match (control.granule_shift, bits(vtcr, 33, 1), sl0) {
            (12, 1, 0) => -1,
            (12, 0, 3) | (14 | 16, 0, 0) => 3,
            (12, 0, sl0) => 2 - sl0,
            (14, 0, sl0) => 3 - sl0,
            (16, 0, sl0 @ 1..=2) => 3 - sl0,
            _ => return Self::broken(stage, "reserved SL0 or SL2"),
        };
        let ttbr = vttbr & ((1 << 48) - 1);
        let types = hcr & HCR_FWB;
        let root = control.root(stage, control.base(ttbr), start_level, types);
        let reach = root.format.shift(start_level) + root.format.granule_shift - 3;
        let fits = root.input_bits <= reach + 4 && root.input_bits > root.format.shift(start_level);
        if fits {
            root
        } else {
            Self::broken(stage, "SL0 and T0SZ do not go together")
        }
    }

    /// Number of entries of the root table, concatenated ones included.
    pub(super) fn root_entries(&self) -> u64 {
        1 << (self
            .input_bits
            .saturating_sub(self.format.shift(self.start_level)))
    }

    /// Number of entries of any other table.
    pub(super) fn table_entries(&self) -> u64 {
        1 << (self.format.granule_shift - 3)
    }

    /// Whether both tag their entries in the same way, so that they meet in a TLB.
    pub(super) fn meets(&self, other: &Self) -> bool {
        self.format.stage == other.format.stage
    }
}

/// VTTBR_EL2.VMID, of which VTCR_EL2.VS says how many bits count.
pub(super) fn vmid(vttbr: u64, vtcr: u64) -> u16 {
    let width = if bits(vtcr, 19, 1) == 1 { 16 } else { 8 };
    bits(vttbr, 48, width) as u16
}
