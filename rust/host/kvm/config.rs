// SPDX-License-Identifier: GPL-2.0-only

//! Host: what EL2 is programmed with while a guest runs, bit by bit.
//!
//! A guest gets what is listed as given; the rest traps, and is emulated or UNDEFINED. Features that a guest does not have
//! are off here too, not only in its ID registers.
//!
//! Source: Arm ARM DDI 0487, D24.2 and D24.3 (registers by name); behaviour as `arch/arm64/include/asm/kvm_arm.h` of Linux.

use kernel::prelude::*;

use super::vcpu::Active;
use crate::{
    bindings,
    common::{
        guest::{
            extra,
            flags,
            GuestConfig,
            VcpuContext, //
        },
        idreg::field,
    },
    host::{
        cpu::Cpu,
        inject::{
            self,
            Spoil, //
        },
        mitigation,
        probe, //
    },
};

/// HCR_EL2.
pub(crate) mod hcr {
    /// VM: stage 2 is on.
    pub(crate) const VM: u64 = 1 << 0;
    /// SWIO: an invalidation by set and way cleans too.
    pub(crate) const SWIO: u64 = 1 << 1;
    /// PTW: a stage-1 walk in Device memory faults.
    pub(crate) const PTW: u64 = 1 << 2;
    /// FMO, IMO, AMO: FIQ, IRQ and SError come to EL2 while the guest runs, and the guest sees virtual ones.
    pub(crate) const FMO: u64 = 1 << 3;
    /// See [`FMO`].
    pub(crate) const IMO: u64 = 1 << 4;
    /// See [`FMO`].
    pub(crate) const AMO: u64 = 1 << 5;
    /// VF: a virtual FIQ is pending.
    pub(crate) const VF: u64 = 1 << 6;
    /// VI: a virtual IRQ is pending.
    pub(crate) const VI: u64 = 1 << 7;
    /// VSE: a virtual SError is pending. Hardware clears it when the guest takes it.
    pub(crate) const VSE: u64 = 1 << 8;
    /// FB: TLB and instruction cache maintenance of the guest is broadcast, as the vCPU may move.
    pub(crate) const FB: u64 = 1 << 9;
    /// BSU = Inner Shareable: so are its barriers.
    pub(crate) const BSU_IS: u64 = 1 << 10;
    /// TWI: WFI traps.
    pub(crate) const TWI: u64 = 1 << 13;
    /// TWE: WFE traps, if it would wait.
    pub(crate) const TWE: u64 = 1 << 14;
    /// TID1: AIDR_EL1 and REVIDR_EL1 trap.
    pub(crate) const TID1: u64 = 1 << 16;
    /// TID2: CTR_EL0, CCSIDR_EL1, CLIDR_EL1 and CSSELR_EL1 trap.
    pub(crate) const TID2: u64 = 1 << 17;
    /// TID3: the feature ID registers trap.
    pub(crate) const TID3: u64 = 1 << 18;
    /// TSC: SMC traps.
    pub(crate) const TSC: u64 = 1 << 19;
    /// TIDCP: IMPLEMENTATION DEFINED registers and instructions trap.
    pub(crate) const TIDCP: u64 = 1 << 20;
    /// TACR: ACTLR_EL1 traps.
    pub(crate) const TACR: u64 = 1 << 21;
    /// TSW: cache maintenance by set and way traps.
    pub(crate) const TSW: u64 = 1 << 22;
    /// TVM: writes of the registers that control stage 1 trap, until the guest has its caches on.
    pub(crate) const TVM: u64 = 1 << 26;
    /// RW: EL1 is AArch64.
    pub(crate) const RW: u64 = 1 << 31;
    /// TLOR: the LORegion registers trap.
    pub(crate) const TLOR: u64 = 1 << 35;
    /// TERR: the RAS error records trap, also where the kernel does without FEAT_RAS and the CPU has it.
    pub(crate) const TERR: u64 = 1 << 36;
    /// TEA: synchronous external aborts come to EL2.
    pub(crate) const TEA: u64 = 1 << 37;
    /// FWB: stage 2 decides on the memory type of the guest's RAM.
    pub(crate) const FWB: u64 = 1 << 46;
    /// VF and VI: what the lines of a vCPU's interrupts decide.
    pub(crate) const LINES: u64 = VF | VI;
    /// TID5: GMID_EL1 traps. RES0 without FEAT_MTE2.
    pub(crate) const TID5: u64 = 1 << 58;
    /// What every guest runs with. Clear, and so trapped or off: pointer authentication (APK, API), memory tagging (ATA),
    /// activity monitors, SCXTNUM, transactional memory, nesting.
    pub(crate) const GUEST: u64 = VM
        | SWIO
        | PTW
        | FMO
        | IMO
        | AMO
        | FB
        | BSU_IS
        | TWI
        | TWE
        | TID1
        | TID2
        | TID3
        | TSC
        | TIDCP
        | TACR
        | TSW
        | RW
        | TLOR
        | TERR
        | TID5;
}

/// MDCR_EL2. HPMN, which says how many counters EL1 has, is added by EL2: it stays the CPU's own.
mod mdcr {
    /// TPMCR, TPM: the performance monitors trap.
    const TPMCR: u64 = 1 << 5;
    const TPM: u64 = 1 << 6;
    /// TDA, TDOSA, TDRA: the debug registers, the OS lock and the debug ROM address trap.
    const TDA: u64 = 1 << 9;
    const TDOSA: u64 = 1 << 10;
    const TDRA: u64 = 1 << 11;
    /// TPMS: statistical profiling traps. E2PB = 0: its buffer is EL2's, so nothing is written with the guest's tables.
    const TPMS: u64 = 1 << 14;
    /// TTRF: TRFCR_EL1 traps. E2TB = 0: as E2PB for the trace buffer.
    const TTRF: u64 = 1 << 19;
    /// TDCC: the debug communication channel traps (FEAT_FGT).
    const TDCC: u64 = 1 << 27;
    pub(super) const GUEST: u64 = TPMCR | TPM | TDA | TDOSA | TDRA | TPMS | TTRF | TDCC;
}

/// MDCR_EL2.TDE: debug exceptions of the guest come to EL2, as user space debugs it.
pub(super) const MDCR_TDE: u64 = 1 << 8;

/// CPTR_EL2, as it is with HCR_EL2.E2H = 0.
mod cptr {
    /// RES1, and with SVE (TZ, bit 8) and SME (TSM, bit 12) the traps of these: no guest has either.
    const RES1_TZ_TSM: u64 = 0x33ff;
    /// TFP: FP and SIMD trap.
    pub(super) const TFP: u64 = 1 << 10;
    /// TTA: trace registers trap.
    const TTA: u64 = 1 << 20;
    /// TAM: activity monitors trap.
    const TAM: u64 = 1 << 30;
    pub(super) const GUEST: u64 = RES1_TZ_TSM | TTA | TAM;
}

/// HSTR_EL2.T15: AArch32's IMPLEMENTATION DEFINED cp15 registers trap; guests may have AArch32 at EL0.
const HSTR_T15: u64 = 1 << 15;

/// CNTHCTL_EL2 with E2H = 0. EL1PCTEN: the guest may read the physical counter. EL1PCEN (bit 1) is clear: the physical
/// timer, which is the host's own, traps.
const CNTHCTL_EL1PCTEN: u64 = 1 << 0;

/// ICH_HCR_EL2. TC, TALL0, TALL1: the CPU interface traps, as there is no virtual GIC. En is clear: nothing is delivered.
const ICH_HCR_TRAP_ALL: u64 = (1 << 10) | (1 << 11) | (1 << 12);

/// MPAM2_EL2. TRAPMPAM1EL1, TRAPMPAM0EL1: the guest cannot choose a partition. TIDR, RES0 before FEAT_MPAMv1p1: MPAMIDR_EL1
/// traps.
const MPAM2_TRAP: u64 = (1 << 48) | (1 << 49) | (1 << 58);

/// MPAMHCR_EL2.TRAP_MPAMIDR_EL1: MPAMIDR_EL1 traps, where this is the register to say so.
const MPAMHCR_TRAP_MPAMIDR: u64 = 1 << 31;

/// HFGWTR_EL2.TCR_EL1: writes of TCR_EL1 trap.
const HFGWTR_TCR: u64 = 1 << 32;

/// PMUSERENR_EL0. EN, SW, CR, ER: so accesses from EL0 are not UNDEFINED at EL1 first but come to EL2, by MDCR_EL2.TPM.
const PMUSERENR_ALL: u64 = 0xf;

/// Whether the CPUs have FEAT_S2FWB, which all guests then use.
pub(crate) fn fwb() -> bool {
    field(probe::sanitised(probe::SYS_ID_AA64MMFR2_EL1), 40) != 0
}

/// Programs all but what changes from entry to entry. Before the first run; keeps what user space has set already.
pub(super) fn prepare(active: &mut Active<'_>) -> Result {
    let vtcr = active.vm.vtcr();
    let context = active.context_mut();
    let GuestConfig {
        hcr: old_hcr,
        cntvoff,
        vpidr,
        vmpidr,
        vsesr,
        ..
    } = context.config;
    let ras = probe::has_cap(bindings::ARM64_HAS_RAS_EXTN);
    let mut hcr = hcr::GUEST | old_hcr & hcr::VSE;
    if ras {
        hcr |= hcr::TEA;
    }
    hcr |= if fwb() { hcr::FWB } else { hcr::TVM };
    let mut set = 0;
    let mut want = |bit: u32, condition: bool| set |= u64::from(condition) << bit;
    want(
        flags::SPECULATIVE_AT,
        probe::has_cap(bindings::ARM64_WORKAROUND_SPECULATIVE_AT),
    );
    want(flags::RAS, ras);
    want(flags::AARCH32_EL0, has_aarch32_el0());
    want(
        flags::HPFAR_UNSURE,
        probe::has_cap(bindings::ARM64_WORKAROUND_834220),
    );
    let (extra_present, extra) = extras();
    want(
        flags::PAR_BARRIER,
        probe::has_cap(bindings::ARM64_WORKAROUND_1508412),
    );
    context.config = GuestConfig {
        hcr,
        mdcr: mdcr::GUEST,
        cptr: cptr::GUEST | cptr::TFP,
        hstr: HSTR_T15,
        vttbr: 0,
        vtcr,
        cntvoff,
        cnthctl: CNTHCTL_EL1PCTEN,
        vpidr,
        vmpidr,
        flags: set,
        vsesr,
        extra_present,
        extra,
        // At each entry, see `adapt`: a CPU that comes later may need more.
        unlearn: 0,
        provoke: 0,
    };
    Ok(())
}

/// What the CPU that is entered records by itself, and what the CPUs that have come so far need at each exit.
#[inline]
pub(super) fn adapt(config: &mut GuestConfig, cpu: &Cpu) {
    let unlearn = mitigation::unlearn();
    config.unlearn = unlearn.to_word();
    config.extra_present = (config.extra_present & !extra::RECORDERS) | cpu.recorders();
    let set = (u64::from(unlearn.is_needed()) << flags::UNLEARN)
        | (u64::from(config.extra_present != 0) << flags::EXTRA);
    config.flags = (config.flags & !((1 << flags::UNLEARN) | (1 << flags::EXTRA))) | set;
}

/// Whether TCR_EL1 is watched for HA and HD: the CPU acts on them although it tells guests that it does not have FEAT_HAFDBS
/// (Linux: `ARM64_WORKAROUND_AMPERE_AC03_CPU_38`).
fn masks_access_flag() -> bool {
    probe::has_cap(bindings::ARM64_WORKAROUND_AMPERE_AC03_CPU_38)
}

/// TCR_EL1 as the CPU gets it where the guest writes `value`.
pub(super) fn tcr_el1(value: u64) -> u64 {
    const HA_HD: u64 = (1 << 39) | (1 << 40);
    if masks_access_flag() {
        value & !HA_HD
    } else {
        value
    }
}

/// Whether writes of the registers that control stage 1 trap for good: on such a core they can make the accesses of its other
/// threads abort (Linux: `ARM64_WORKAROUND_CAVIUM_TX2_219_TVM`).
pub(super) fn watches_stage_1() -> bool {
    probe::has_cap(bindings::ARM64_WORKAROUND_CAVIUM_TX2_219_TVM)
}

/// Whether EL0 may be AArch32, on every CPU.
pub(crate) fn has_aarch32_el0() -> bool {
    field(probe::sanitised(probe::SYS_ID_AA64PFR0_EL1), 0) == 2
}

/// The registers of [`extra`] that every CPU has, and their values for a guest. What a CPU has for itself comes at each entry,
/// see [`adapt`].
fn extras() -> (u64, [u64; extra::COUNT]) {
    let pfr0 = probe::sanitised(probe::SYS_ID_AA64PFR0_EL1);
    // FEAT_MPAMv0p1 tells of itself in MPAM_frac alone. The kernel lets EL1 have the registers of either.
    let mpam = field(pfr0, 40) != 0 || field(probe::sanitised(probe::SYS_ID_AA64PFR1_EL1), 16) != 0;
    let present = [
        (
            extra::HCRX,
            field(probe::sanitised(probe::SYS_ID_AA64MMFR1_EL1), 40) != 0,
            0,
        ),
        // But for an erratum all of zero: registers of features that a guest does not have trap by their negative bits.
        (
            extra::HFGRTR,
            field(probe::sanitised(probe::SYS_ID_AA64MMFR0_EL1), 56) != 0,
            0,
        ),
        (extra::MPAM2, mpam, MPAM2_TRAP),
        (
            extra::MPAMHCR,
            mpam && probe::has_cap(bindings::ARM64_MPAM_HCR),
            MPAMHCR_TRAP_MPAMIDR,
        ),
        (
            extra::ICH_HCR,
            probe::has_cap(bindings::ARM64_HAS_GICV3_CPUIF),
            ICH_HCR_TRAP_ALL,
        ),
    ];
    let mut bits = 0;
    let mut values = [0; extra::COUNT];
    values[extra::PMUSERENR as usize] = PMUSERENR_ALL;
    if masks_access_flag() {
        values[extra::HFGWTR as usize] = HFGWTR_TCR;
    }
    for (place, exists, value) in present {
        if exists {
            bits |= 1 << place;
            values[place as usize] = value;
        }
    }
    (bits, values)
}

/// CNTHCTL_EL2 for a guest whose physical counter is that much behind. A read traps if the hardware has no such offset to add.
#[inline]
pub(super) fn cnthctl(physical_offset: u64) -> u64 {
    if physical_offset == 0 {
        CNTHCTL_EL1PCTEN
    } else {
        0
    }
}

/// Whether WFE traps: only where another task could use the time. WFI always does.
pub(super) fn trap_wfe(context: &mut VcpuContext, traps: bool) {
    if traps {
        context.config.hcr |= hcr::TWE;
    } else {
        context.config.hcr &= !hcr::TWE;
    }
}

/// Whether FP and SIMD trap.
pub(super) fn has_fp_trap(context: &VcpuContext) -> bool {
    context.config.cptr & cptr::TFP != 0
}

/// The guest uses FP or SIMD: from the next entry on it has the registers.
pub(super) fn give_fp(context: &mut VcpuContext) {
    context.config.flags |= 1 << flags::FP;
    // The trap is EL2's own too: while it stays, the switch of the registers is an exception.
    if !inject::spoils(Spoil::GuestSwitch) {
        context.config.cptr &= !cptr::TFP;
    }
}

/// Undoes [`give_fp`].
pub(super) fn take_fp(context: &mut VcpuContext) {
    context.config.cptr |= cptr::TFP;
    context.config.flags &= !(1 << flags::FP);
}

/// Whether accesses of CNTPCT_EL0 trap: the guest's is not the CPU's.
pub(super) fn trap_physical_counter(context: &mut VcpuContext, trap: bool) {
    context.config.cnthctl = if trap { 0 } else { CNTHCTL_EL1PCTEN };
}
