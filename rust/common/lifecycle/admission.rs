// SPDX-License-Identifier: GPL-2.0-only

//! Common: whether a CPU can do what was chosen for all.
//!
//! The tables of EL2 and of guests, the VMIDs and the list registers are chosen once, at load, from what all CPUs had then. A
//! CPU that comes later may have less. The kernel compares some of this with its own choices, but not with ours: without KVM
//! it does not look at PARange, nor at granules of stage 2 (`verify_hyp_capabilities` of `arch/arm64/kernel/cpufeature.c`).
//!
//! Source: Arm ARM DDI 0487, D24.2 (ID_AA64MMFR0_EL1 and following); GIC architecture IHI 0069, 12.5 (ICH_VTR_EL2).

use core::fmt;

use crate::common::{
    addr::Granule,
    idreg::field,
    regs::sctlr, //
};

/// What one CPU says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ids {
    /// ID_AA64MMFR0_EL1: PARange, granules.
    pub mmfr0: u64,
    /// ID_AA64MMFR1_EL1: VMIDBits.
    pub mmfr1: u64,
    /// ID_AA64MMFR2_EL1: VARange.
    pub mmfr2: u64,
    /// ICH_VTR_EL2, if the system registers of the GIC are in use.
    pub ich_vtr: Option<u64>,
    /// SCTLR_EL2 under the stub.
    pub sctlr: u64,
}

/// What was chosen for all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chosen {
    /// The page size.
    pub granule: Granule,
    /// Physical address size, as the PS field of TCR_EL2 has it.
    pub pa_size: u8,
    /// TCR_EL2.DS: 52-bit descriptors with 4K or 16K pages, at stage 1.
    pub lpa2: bool,
    /// The same for stage 2.
    pub lpa2_stage2: bool,
    /// Bits of virtual addresses that EL2 may need.
    pub va_bits: u8,
    /// Bits of a VMID.
    pub vmid_bits: u8,
    /// List registers of the GIC's CPU interface, if its system registers are in use.
    pub list_registers: Option<u8>,
}

/// Why a CPU cannot serve.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Refusal {
    /// HCR_EL2.E2H is set.
    E2h,
    /// The MMU of EL2 is on under the stub.
    MmuOn,
    /// Physical addresses, in bits.
    PaRange {
        /// What it has.
        has: u8,
        /// What was chosen.
        chosen: u8,
    },
    /// VMIDs, in bits.
    VmidBits {
        /// What it has.
        has: u8,
        /// What was chosen.
        chosen: u8,
    },
    /// Its EL2 cannot use the page size.
    Granule(Granule),
    /// Its stage 2 cannot use the page size.
    GranuleStage2(Granule),
    /// Its EL2 cannot use 52-bit descriptors.
    Lpa2,
    /// Its stage 2 cannot use 52-bit descriptors.
    Lpa2Stage2,
    /// Virtual addresses, in bits.
    VaBits {
        /// What it has.
        has: u8,
        /// What was chosen.
        chosen: u8,
    },
    /// List registers of the GIC.
    ListRegisters {
        /// What it has.
        has: u8,
        /// What was chosen.
        chosen: u8,
    },
}

/// Bits of a physical address by PARange. Reserved values count as the largest that is known.
pub const fn pa_range_bits(pa_range: u64) -> u8 {
    match pa_range {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        5 => 48,
        _ => 52,
    }
}

/// How well a granule is supported.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Support {
    No,
    Yes,
    Lpa2,
}

impl Ids {
    fn pa_size(&self) -> u64 {
        field(self.mmfr0, 0)
    }

    /// Bits of a VMID.
    pub fn vmid_bits(&self) -> u8 {
        match field(self.mmfr1, 4) {
            2 => 16,
            _ => 8,
        }
    }

    /// List registers.
    pub fn list_registers(&self) -> Option<u8> {
        self.ich_vtr.map(|vtr| (vtr & 0x1f) as u8 + 1)
    }

    /// Whether stage 2 can use 52-bit descriptors with this page size.
    pub fn has_lpa2_stage2(&self, granule: Granule) -> bool {
        self.stage2(granule) == Support::Lpa2
    }

    /// TGran4, TGran16, TGran64. For the first and the last, 0 means support; for 16K it is 1.
    fn stage1(&self, granule: Granule) -> Support {
        match (granule, field(self.mmfr0, granule_shift(granule))) {
            (Granule::K4, 0) | (Granule::K16, 1) | (Granule::K64, 0) => Support::Yes,
            (Granule::K4, 1) | (Granule::K16, 2) => Support::Lpa2,
            _ => Support::No,
        }
    }

    /// TGran4_2, TGran16_2, TGran64_2. Here 0 means the same as at stage 1.
    fn stage2(&self, granule: Granule) -> Support {
        let shift = match granule {
            Granule::K16 => 32,
            Granule::K64 => 36,
            Granule::K4 => 40,
        };
        match field(self.mmfr0, shift) {
            0 => self.stage1(granule),
            2 => Support::Yes,
            3 => Support::Lpa2,
            _ => Support::No,
        }
    }

    /// Bits of a virtual address that EL2 can translate.
    fn va_bits(&self, granule: Granule) -> u8 {
        let large = match granule {
            Granule::K64 => field(self.mmfr2, 16) != 0,
            _ => self.stage1(granule) == Support::Lpa2,
        };
        if large {
            52
        } else {
            48
        }
    }
}

/// Shift of the field of ID_AA64MMFR0_EL1 that tells about a granule at stage 1.
const fn granule_shift(granule: Granule) -> u32 {
    match granule {
        Granule::K16 => 20,
        Granule::K64 => 24,
        Granule::K4 => 28,
    }
}

/// Compares a CPU, whose HCR_EL2.E2H is 0, with what was chosen. What it has beyond that does no harm.
///
/// # Errors
///
/// The first reason, in the order of [`Refusal`].
pub fn compare(chosen: &Chosen, ids: &Ids) -> Result<(), Refusal> {
    let granule = chosen.granule;
    let (has_vmid, has_va) = (ids.vmid_bits(), ids.va_bits(granule));
    let (stage1, stage2) = (ids.stage1(granule), ids.stage2(granule));
    let list_registers = (ids.list_registers().unwrap_or(0), chosen.list_registers);
    let refusals = [
        (ids.sctlr & sctlr::M != 0, Refusal::MmuOn),
        (
            ids.pa_size() < u64::from(chosen.pa_size),
            Refusal::PaRange {
                has: pa_range_bits(ids.pa_size()),
                chosen: pa_range_bits(chosen.pa_size.into()),
            },
        ),
        (
            has_vmid < chosen.vmid_bits,
            Refusal::VmidBits {
                has: has_vmid,
                chosen: chosen.vmid_bits,
            },
        ),
        (stage1 == Support::No, Refusal::Granule(granule)),
        (stage2 == Support::No, Refusal::GranuleStage2(granule)),
        (chosen.lpa2 && stage1 != Support::Lpa2, Refusal::Lpa2),
        (
            chosen.lpa2_stage2 && stage2 != Support::Lpa2,
            Refusal::Lpa2Stage2,
        ),
        (
            has_va < chosen.va_bits,
            Refusal::VaBits {
                has: has_va,
                chosen: chosen.va_bits,
            },
        ),
        (
            list_registers
                .1
                .is_some_and(|wanted| list_registers.0 < wanted),
            Refusal::ListRegisters {
                has: list_registers.0,
                chosen: list_registers.1.unwrap_or(0),
            },
        ),
    ];
    match refusals.into_iter().find(|(differs, _)| *differs) {
        Some((_, refusal)) => Err(refusal),
        None => Ok(()),
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const REMEDY: &str = "keep it offline";
        match *self {
            Self::E2h => f.write_str(
                "its EL2 runs with HCR_EL2.E2H=1, which is not supported; on a CPU that has VHE only \
                 no boot argument changes that, elsewhere remove what set it",
            ),
            Self::MmuOn => f.write_str(
                "the MMU of its EL2 is on under the stub, so EL2 is in use; remove what uses it",
            ),
            Self::PaRange { has, chosen } => write!(
                f,
                "it reaches {has} bits of physical address, the others {chosen}; {REMEDY}"
            ),
            Self::VmidBits { has, chosen } => write!(
                f,
                "its VMIDs have {has} bits, those of the others {chosen}; {REMEDY}"
            ),
            Self::Granule(granule) => write!(
                f,
                "its EL2 has no pages of {} KiB; keep it offline, or use a kernel with other pages",
                granule.size() / 1024
            ),
            Self::GranuleStage2(granule) => write!(
                f,
                "its stage 2 has no pages of {} KiB; keep it offline, or use a kernel with other pages",
                granule.size() / 1024
            ),
            Self::Lpa2 => write!(f, "its EL2 has no 52-bit descriptors (LPA2); {REMEDY}"),
            Self::Lpa2Stage2 => {
                write!(f, "its stage 2 has no 52-bit descriptors (LPA2); {REMEDY}")
            }
            Self::VaBits { has, chosen } => write!(
                f,
                "it translates {has} bits of virtual address, the others {chosen}; {REMEDY}"
            ),
            Self::ListRegisters { has, chosen } => write!(
                f,
                "its GIC has {has} list registers, those of the others {chosen}; {REMEDY}"
            ),
        }
    }
}
