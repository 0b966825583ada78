// SPDX-License-Identifier: GPL-2.0-only

//! Common: the state of a virtual CPU, as host and EL2 share it.
//!
//! One page per vCPU, kernel memory that the host shares with EL2 ([`super::abi::Call::Share`]). While a vCPU runs it
//! belongs to EL2; else to the host, which fills the configuration and reads the exit. All registers of the guest are in
//! it whenever the host looks, but for FP/SIMD while [`flags::FP`] is clear: then they are in it, and have not been in the
//! CPU's registers at all.

use super::{
    abi::Frame,
    pgtable::{
        Level,
        Stale, //
    },
};

/// Why a guest stopped running. Filled by EL2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum ExitReason {
    /// An interrupt for the host, which takes it as soon as it unmasks.
    Irq = 0,
    /// A synchronous exception from the guest: see `esr`.
    Sync = 1,
    /// An SError that the guest caused, or that came while it ran: see `esr`. It has been consumed.
    SError = 2,
    /// PSTATE of the guest is illegal to return to. Nothing ran.
    Illegal = 3,
    /// Nothing to do: enter again.
    Again = 4,
}

impl ExitReason {
    /// The reason with this number, if there is one.
    pub fn from_number(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::Irq),
            1 => Some(Self::Sync),
            2 => Some(Self::SError),
            3 => Some(Self::Illegal),
            4 => Some(Self::Again),
            _ => None,
        }
    }
}

/// The EL1 and EL0 system registers that a guest owns, by their place in [`VcpuContext::sys`].
///
/// Those before [`SysReg::Switched`] are in the CPU while the guest runs; `asm/guest.S` has them in the same order, in
/// pairs. The others are never there: every access traps, and the host answers from here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
#[allow(missing_docs, reason = "the names are those of the Arm ARM")]
pub enum SysReg {
    SctlrEl1,
    TcrEl1,
    CpacrEl1,
    Ttbr0El1,
    Ttbr1El1,
    EsrEl1,
    Afsr0El1,
    Afsr1El1,
    FarEl1,
    MairEl1,
    VbarEl1,
    ContextidrEl1,
    AmairEl1,
    CntkctlEl1,
    ParEl1,
    TpidrEl0,
    TpidrroEl0,
    TpidrEl1,
    SpEl1,
    ElrEl1,
    SpsrEl1,
    MdscrEl1,
    CntvCvalEl0,
    CntvCtlEl0,
    /// Number of places that are switched.
    Switched,
    ActlrEl1,
    CsselrEl1,
    /// Switched where [`flags::RAS`] is set (VDISR_EL2).
    DisrEl1,
    /// Number of places.
    Count,
}

/// Number of places in [`VcpuContext::sys`].
pub const SYS_REGS: usize = SysReg::Count as usize;

/// Number of system registers that are switched.
pub const SWITCHED_REGS: usize = SysReg::Switched as usize;

/// FP/SIMD registers.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(16))]
pub struct FpRegs {
    /// V0..V31.
    pub v: [u128; 32],
    /// FPSR.
    pub fpsr: u64,
    /// FPCR.
    pub fpcr: u64,
}

/// Bits of [`GuestConfig::flags`]: what the switch has to do besides what every switch does.
pub mod flags {
    /// Load and save FP/SIMD. The host's are saved, and `cptr` does not trap FP/SIMD.
    pub const FP: u32 = 0;
    /// Before the guest runs, drop what this CPU's TLBs and instruction cache hold for the VMID: another vCPU of the VM
    /// ran here last, and vCPUs may use an ASID for different things; or stage 2 allows more than it did. EL2 clears it when
    /// that is done: it is not if the guest is not entered, as an interrupt is pending.
    pub const FLUSH: u32 = 1;
    /// The CPU may walk tables speculatively through a half-switched regime (Linux: `ARM64_WORKAROUND_SPECULATIVE_AT`).
    pub const SPECULATIVE_AT: u32 = 2;
    /// FEAT_RAS: DISR_EL1, VDISR_EL2 and VSESR_EL2 exist.
    pub const RAS: u32 = 3;
    /// AArch32 exists at EL0.
    pub const AARCH32_EL0: u32 = 4;
    /// HPFAR_EL2 is not to be trusted after a translation fault (Linux: `ARM64_WORKAROUND_834220`).
    pub const HPFAR_UNSURE: u32 = 5;
    /// At least one of the registers of [`super::GuestConfig::extra`] exists: see [`super::extra`].
    pub const EXTRA: u32 = 6;
    /// Reads of PAR_EL1 need a DMB around them (Linux: `ARM64_WORKAROUND_1508412`).
    pub const PAR_BARRIER: u32 = 7;
    /// What the guest has taught the branch predictor is made unlearned at each exit: see [`super::GuestConfig::unlearn`].
    pub const UNLEARN: u32 = 8;
    /// With [`FLUSH`], where [`crate::common::shared::Facts::provoke`] is set: take the exception of
    /// [`super::GuestConfig::provoke`] on the way in. It is looked at where the switch leaves its usual way anyway.
    pub const PROVOKE_ENTERING: u32 = 9;
    /// With [`UNLEARN`]: the same on the way out.
    pub const PROVOKE_LEAVING: u32 = 10;
}

/// EL2 registers that not every CPU has: each is switched if its bit in [`GuestConfig::extra_present`] is set. The numbers are
/// both bits and places in [`GuestConfig::extra`] and [`HostEl2::extra`].
pub mod extra {
    /// HCRX_EL2 (FEAT_HCX).
    pub const HCRX: u32 = 0;
    /// HFGRTR_EL2 (FEAT_FGT); this bit stands for the five that follow it.
    pub const HFGRTR: u32 = 1;
    /// HFGWTR_EL2.
    pub const HFGWTR: u32 = 2;
    /// HFGITR_EL2.
    pub const HFGITR: u32 = 3;
    /// HDFGRTR_EL2.
    pub const HDFGRTR: u32 = 4;
    /// HDFGWTR_EL2.
    pub const HDFGWTR: u32 = 5;
    /// MPAM2_EL2 (FEAT_MPAM, FEAT_MPAMv0p1).
    pub const MPAM2: u32 = 6;
    /// MPAMHCR_EL2 (MPAMIDR_EL1.HAS_HCR).
    pub const MPAMHCR: u32 = 7;
    /// ICH_HCR_EL2 and, behind it, ICC_SRE_EL2 (GICv3 system registers in use).
    pub const ICH_HCR: u32 = 8;
    /// ICC_SRE_EL2.
    pub const ICC_SRE: u32 = 9;
    /// PMUSERENR_EL0 (FEAT_PMUv3).
    pub const PMUSERENR: u32 = 10;
    /// PMSCR_EL1 (FEAT_SPE, and the profiling buffer is the kernel's): sampling is stopped and the buffer drained.
    pub const PMSCR: u32 = 11;
    /// PMBLIMITR_EL1, with [`PMSCR`].
    pub const PMBLIMITR: u32 = 12;
    /// TRFCR_EL1 (FEAT_TRF): tracing is stopped.
    pub const TRFCR: u32 = 13;
    /// TRBLIMITR_EL1 (FEAT_TRBE, and the trace buffer is the kernel's; FEAT_TRF is there too): the buffer is drained.
    pub const TRBLIMITR: u32 = 14;
    /// BRBCR_EL1 (FEAT_BRBE): no branches are recorded.
    pub const BRBCR: u32 = 15;
    /// Number of places.
    pub const COUNT: usize = 16;

    /// Those that a CPU has for itself, whatever the others have: see [`recorders`].
    pub const RECORDERS: u64 =
        (1 << PMUSERENR) | (1 << PMSCR) | (1 << TRFCR) | (1 << TRBLIMITR) | (1 << BRBCR);

    /// Bits of what a CPU records by itself: the kernel may use that on the CPUs that have it, so it goes by the CPU's own
    /// ID_AA64DFR0_EL1 `dfr0`. The kernel's common one says nothing about trace and branches, and about counters and profiling
    /// only what all CPUs so far can do: one that comes late may do without.
    ///
    /// `pmbidr` and `trbidr` read PMBIDR_EL1 and TRBIDR_EL1, and are called only where these exist: with P set the buffer
    /// belongs to a higher exception level.
    pub fn recorders(dfr0: u64, pmbidr: impl FnOnce() -> u64, trbidr: impl FnOnce() -> u64) -> u64 {
        const P: u64 = 1 << 4;
        let has = |shift: u32| dfr0.wrapping_shr(shift) & 0xf != 0;
        let (pmu_ver, pms_ver, trace_filt, trace_buffer, brbe) = (8, 32, 40, 44, 52);
        // All ones: a PMU, but not the architecture's.
        let pmu = has(pmu_ver) && dfr0.wrapping_shr(pmu_ver) & 0xf != 0xf;
        let spe = has(pms_ver) && pmbidr() & P == 0;
        let trbe = has(trace_filt) && has(trace_buffer) && trbidr() & P == 0;
        let found = [
            (PMUSERENR, pmu),
            (PMSCR, spe),
            (TRFCR, has(trace_filt)),
            (TRBLIMITR, trbe),
            (BRBCR, has(brbe)),
        ];
        let mut bits = 0;
        for (place, exists) in found {
            bits |= u64::from(exists) << place;
        }
        bits
    }
}

/// What EL2 programs for this vCPU. Filled by the host, never changed by EL2 but for HCR_EL2.VSE, which hardware clears, and
/// [`flags::FLUSH`].
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct GuestConfig {
    /// HCR_EL2 while the guest runs.
    pub hcr: u64,
    /// MDCR_EL2 while the guest runs.
    pub mdcr: u64,
    /// CPTR_EL2 while the guest runs.
    pub cptr: u64,
    /// HSTR_EL2 while the guest runs.
    pub hstr: u64,
    /// VTTBR_EL2: stage-2 root and VMID.
    pub vttbr: u64,
    /// VTCR_EL2.
    pub vtcr: u64,
    /// CNTVOFF_EL2.
    pub cntvoff: u64,
    /// CNTHCTL_EL2 while the guest runs.
    pub cnthctl: u64,
    /// VPIDR_EL2.
    pub vpidr: u64,
    /// VMPIDR_EL2.
    pub vmpidr: u64,
    /// See [`flags`].
    pub flags: u64,
    /// VSESR_EL2, where [`flags::RAS`] is set.
    pub vsesr: u64,
    /// See [`extra`].
    pub extra_present: u64,
    /// See [`extra`].
    pub extra: [u64; extra::COUNT],
    /// Where [`flags::UNLEARN`] is set: what does it, see [`super::bhb::Unlearn::to_word`].
    pub unlearn: u64,
    /// With [`flags::PROVOKE_ENTERING`] or [`flags::PROVOKE_LEAVING`]: a [`super::abi::Provoke`].
    pub provoke: u64,
}

/// What stopped the guest. Filled by EL2.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct GuestExit {
    /// ESR_EL2, or DISR_EL1 in the form of ESR_EL2 for an SError that an ESB deferred.
    pub esr: u64,
    /// FAR_EL2.
    pub far: u64,
    /// HPFAR_EL2, found by translation where hardware left it invalid; [`HPFAR_INVALID`] where it is not known.
    pub hpfar: u64,
}

/// What the switch needs to know of the host, and where it keeps the host's registers. Part of
/// [`super::abi::CpuContext`]; changed by EL2 alone.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct GuestSlot {
    /// Hyp VA of the [`VcpuContext`] whose registers are in the CPU, in part at least; 0 if the host's are, all of them.
    pub loaded: u64,
    /// Copy of the vCPU's [`GuestConfig::extra_present`], for the way back.
    pub extra_present: u64,
    /// Hyp VA of the [`VcpuContext`] that was admitted last, see [`super::abi::Call::AdmitVcpu`]; 0 if none.
    pub admitted: u64,
    /// [`super::shared::Shared::unshares`] at that time. A different number means that the page may be gone.
    pub unshares: u64,
    /// The host's registers, in the order of [`SysReg`].
    pub sys: [u64; SWITCHED_REGS],
    /// The host's EL2 registers, in the order of [`GuestConfig`]. They are constant, so they are read when a vCPU is admitted.
    pub el2: HostEl2,
}

/// See [`GuestSlot::el2`]. Those that belong to EL1 and change are saved at each entry.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are those of GuestConfig")]
pub struct HostEl2 {
    pub hcr: u64,
    pub mdcr: u64,
    pub cptr: u64,
    pub hstr: u64,
    pub vttbr: u64,
    pub vtcr: u64,
    pub cntvoff: u64,
    pub cnthctl: u64,
    pub vpidr: u64,
    pub vmpidr: u64,
    pub extra: [u64; extra::COUNT],
}

/// [`GuestExit::hpfar`] if the IPA is not known: the fault is an external abort.
pub const HPFAR_INVALID: u64 = u64::MAX;

/// One vCPU.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct VcpuContext {
    /// x0..x30, SP_EL0, PC (`elr`), PSTATE (`spsr`).
    pub regs: Frame,
    /// See [`SysReg`].
    pub sys: [u64; SYS_REGS],
    /// See [`GuestConfig`].
    pub config: GuestConfig,
    /// See [`GuestExit`].
    pub exit: GuestExit,
    /// See [`FpRegs`].
    pub fp: FpRegs,
}

impl VcpuContext {
    /// The value of `register`.
    pub fn sys_reg(&self, register: SysReg) -> u64 {
        self.sys.get(register as usize).copied().unwrap_or(0)
    }

    /// Sets `register`.
    pub fn set_sys_reg(&mut self, register: SysReg, value: u64) {
        if let Some(place) = self.sys.get_mut(register as usize) {
            *place = value;
        }
    }
}

/// x4 of [`super::abi::Call::TlbIpa`]: what it invalidates, below the VTCR_EL2 of the guest (all fields of which are in the
/// lower 48 bits).
pub fn stale_to_x4(stale: Stale, vtcr: u64) -> u64 {
    let (kind, level) = match stale {
        Stale::Leaves(level) => (0, level),
        Stale::Table(level) => (1, level),
        Stale::Subtree(level) => (2, level),
    };
    let level = match level {
        Level::Minus1 => 0,
        Level::L0 => 1,
        Level::L1 => 2,
        Level::L2 => 3,
        Level::L3 => 4,
    };
    (vtcr << 16) | (kind << 8) | level
}

/// Undoes [`stale_to_x4`].
pub fn stale_from_x4(x4: u64) -> Option<(Stale, u64)> {
    let level = match x4 & 0xff {
        0 => Level::Minus1,
        1 => Level::L0,
        2 => Level::L1,
        3 => Level::L2,
        4 => Level::L3,
        _ => return None,
    };
    let stale = match (x4 >> 8) & 0xff {
        0 => Stale::Leaves(level),
        1 => Stale::Table(level),
        2 => Stale::Subtree(level),
        _ => return None,
    };
    Some((stale, x4 >> 16))
}

#[cfg(test)]
mod tests;
