// SPDX-License-Identifier: GPL-2.0-only

//! Common: the state of a virtual CPU, as host and EL2 share it.
//!
//! One page per vCPU, kernel memory that the host shares with EL2 ([`super::abi::Call::Share`]). While a vCPU runs it
//! belongs to EL2; else to the host, which fills the configuration and reads the exit. All registers of the guest are in
//! it whenever the host looks.

use super::abi::Frame;

/// Why a guest stopped running. Filled by EL2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum ExitReason {
    /// An interrupt for the host, which takes it as soon as it unmasks.
    Irq = 0,
    /// A synchronous exception from the guest: see `esr`.
    Sync = 1,
    /// An SError for the host, which takes it as soon as it unmasks.
    SError = 2,
    /// PSTATE of the guest is illegal to return to.
    Illegal = 3,
}

/// The EL1 and EL0 system registers that a guest owns, by their place in [`VcpuContext::sys`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
#[allow(missing_docs, reason = "the names are those of the Arm ARM")]
pub enum SysReg {
    SctlrEl1,
    ActlrEl1,
    CpacrEl1,
    Ttbr0El1,
    Ttbr1El1,
    TcrEl1,
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
    CsselrEl1,
    MdscrEl1,
    /// Number of places.
    Count,
}

/// Number of system registers of a guest.
pub const SYS_REGS: usize = SysReg::Count as usize;

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

/// What EL2 programs for this vCPU. Filled by the host, never changed by EL2.
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
}

/// What stopped the guest. Filled by EL2.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct GuestExit {
    /// An [`ExitReason`].
    pub reason: u64,
    /// ESR_EL2.
    pub esr: u64,
    /// FAR_EL2.
    pub far: u64,
    /// HPFAR_EL2, found by translation where hardware left it invalid.
    pub hpfar: u64,
}

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
