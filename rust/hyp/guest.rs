// SPDX-License-Identifier: GPL-2.0-only

//! Hyp: guests: which vCPU may run, what the switch of `asm/guest.S` needs, and the TLBs of guests.
//!
//! The host owns the machine and its guests: what it says in a vCPU's context is taken as it is. PSTATE alone is looked at, as
//! that is what user space can set, and an exception return by it must not lead to EL2.

use core::{
    arch::global_asm,
    mem::offset_of, //
};

use crate::{
    arch::{
        el2::Cpu,
        sysreg, //
    },
    common::{
        abi::{
            self,
            Call,
            CpuContext,
            Frame,
            Status, //
        },
        addr::{
            AddrRange,
            Ipa, //
        },
        guest::{
            extra,
            flags,
            stale_from_x4,
            ExitReason,
            FpRegs,
            GuestConfig,
            GuestExit,
            GuestSlot,
            HostEl2,
            SysReg,
            VcpuContext,
            SWITCHED_REGS, //
        },
        pgtable::{
            tlb::{
                invalidate_all_vms,
                GuestTlb,
                Stage2Regs, //
            },
            Maintenance as _, //
        },
        regs,
        shared::{
            Facts,
            Shared, //
        },
    },
};

use super::{
    assertion::hyp_assert,
    call::Results,
    memory::Memory, //
};

/// HCR_EL2.VSE.
const HCR_VSE_SHIFT: u32 = 8;

global_asm!(
    include_str!("../../asm/frame.S"),
    include_str!("../../asm/guest.S"),
    include_str!("../../asm/guest_vectors.S"),
    include_str!("../../asm/guest_extra.S"),
    HOST = const offset_of!(CpuContext, host),
    REPORT = const offset_of!(CpuContext, report),
    SHARED_VA = const offset_of!(CpuContext, shared_va),
    SHARED_UNSHARES = const offset_of!(Shared, unshares),
    FACTS_PROVOKE = const offset_of!(Shared, facts) + offset_of!(Facts, provoke),
    STACK_TOP = const offset_of!(CpuContext, stack_top),
    SLOT = const offset_of!(CpuContext, guest),
    SLOT_LOADED = const offset_of!(GuestSlot, loaded),
    SLOT_EXTRA_PRESENT = const offset_of!(GuestSlot, extra_present),
    SLOT_ADMITTED = const offset_of!(GuestSlot, admitted),
    SLOT_SYS = const offset_of!(GuestSlot, sys),
    SLOT_EL2 = const offset_of!(GuestSlot, el2),
    SLOT_EL2_MDCR = const offset_of!(GuestSlot, el2) + offset_of!(HostEl2, mdcr),
    SLOT_EL2_EXTRA = const offset_of!(GuestSlot, el2) + offset_of!(HostEl2, extra),
    VCPU_REGS = const offset_of!(VcpuContext, regs),
    VCPU_SYS = const offset_of!(VcpuContext, sys),
    VCPU_CONFIG = const offset_of!(VcpuContext, config),
    VCPU_FLAGS = const offset_of!(VcpuContext, config) + offset_of!(GuestConfig, flags),
    VCPU_DISR = const offset_of!(VcpuContext, sys) + 8 * SysReg::DisrEl1 as usize,
    VCPU_UNLEARN = const offset_of!(VcpuContext, config) + offset_of!(GuestConfig, unlearn),
    VCPU_PROVOKE = const offset_of!(VcpuContext, config) + offset_of!(GuestConfig, provoke),
    VCPU_VSESR = const offset_of!(VcpuContext, config) + offset_of!(GuestConfig, vsesr),
    VCPU_EXTRA_PRESENT =
        const offset_of!(VcpuContext, config) + offset_of!(GuestConfig, extra_present),
    VCPU_EXTRA = const offset_of!(VcpuContext, config) + offset_of!(GuestConfig, extra),
    VCPU_EXIT = const offset_of!(VcpuContext, exit),
    VCPU_FP = const offset_of!(VcpuContext, fp),
    FLAG_FP = const flags::FP,
    FLAG_FLUSH = const flags::FLUSH,
    FLAG_SPECULATIVE_AT = const flags::SPECULATIVE_AT,
    FLAG_RAS = const flags::RAS,
    FLAG_AARCH32_EL0 = const flags::AARCH32_EL0,
    FLAG_HPFAR_UNSURE = const flags::HPFAR_UNSURE,
    FLAG_EXTRA = const flags::EXTRA,
    FLAG_PAR_BARRIER = const flags::PAR_BARRIER,
    FLAG_UNLEARN = const flags::UNLEARN,
    FLAG_PROVOKE_ENTERING = const flags::PROVOKE_ENTERING,
    FLAG_PROVOKE_LEAVING = const flags::PROVOKE_LEAVING,
    BRK_PROVOKED = const abi::BRK_PROVOKED,
    EXTRA_HCRX = const extra::HCRX,
    EXTRA_HFGRTR = const extra::HFGRTR,
    EXTRA_MPAM2 = const extra::MPAM2,
    EXTRA_MPAMHCR = const extra::MPAMHCR,
    EXTRA_ICH_HCR = const extra::ICH_HCR,
    EXTRA_ICC_SRE = const extra::ICC_SRE,
    EXTRA_PMUSERENR = const extra::PMUSERENR,
    EXTRA_PMSCR = const extra::PMSCR,
    EXTRA_PMBLIMITR = const extra::PMBLIMITR,
    EXTRA_TRFCR = const extra::TRFCR,
    EXTRA_TRBLIMITR = const extra::TRBLIMITR,
    EXTRA_BRBCR = const extra::BRBCR,
    EXIT_IRQ = const ExitReason::Irq as u64,
    EXIT_SYNC = const ExitReason::Sync as u64,
    EXIT_SERROR = const ExitReason::SError as u64,
    EXIT_ILLEGAL = const ExitReason::Illegal as u64,
    EXIT_AGAIN = const ExitReason::Again as u64,
    STATUS_NOT_FOUND = const Status::NotFound as i64,
    HCR_VSE_SHIFT = const HCR_VSE_SHIFT,
    ESR_EC_SHIFT = const regs::ESR_EC_SHIFT,
    ESR_EC_HVC64 = const regs::ESR_EC_HVC64,
    provoke_in_switch = sym super::provoke::provoke_in_switch,
);

// What the assembly takes for granted about the layout of the types, beyond the offsets that it is given.
const _: () = {
    // The host's frame is reached from SP.
    assert!(offset_of!(CpuContext, host) + size_of::<Frame>() <= 504);
    // Loaded as a pair.
    assert!(offset_of!(GuestSlot, unshares) == offset_of!(GuestSlot, admitted) + 8);
    // Reached with pairs from the slot and from the context.
    assert!(offset_of!(GuestSlot, sys) + 8 * SWITCHED_REGS <= 504);
    assert!(offset_of!(VcpuContext, regs) == 0);
    assert!(offset_of!(VcpuContext, sys) + 8 * SWITCHED_REGS <= 504);
    // Twelve pairs, and the order of those that the assembly names.
    assert!(SWITCHED_REGS == 24);
    assert!(SysReg::SctlrEl1 as usize == 0);
    assert!(SysReg::TcrEl1 as usize == 1);
    assert!(SysReg::CpacrEl1 as usize == 2);
    assert!(SysReg::FarEl1 as usize == 8);
    assert!(SysReg::ParEl1 as usize == 14);
    assert!(SysReg::SpEl1 as usize == 18);
    assert!(SysReg::CntvCtlEl0 as usize == 23);
    // Pairs of both structures, in one order.
    assert!(offset_of!(GuestConfig, hcr) == 0);
    assert!(offset_of!(GuestConfig, cptr) == 16);
    assert!(offset_of!(GuestConfig, vttbr) == 32);
    assert!(offset_of!(GuestConfig, cntvoff) == 48);
    assert!(offset_of!(GuestConfig, vpidr) == 64);
    assert!(offset_of!(HostEl2, hcr) == 0);
    assert!(offset_of!(HostEl2, cptr) == 16);
    assert!(offset_of!(HostEl2, vttbr) == 32);
    assert!(offset_of!(HostEl2, cntvoff) == 48);
    assert!(offset_of!(HostEl2, vpidr) == 64);
    assert!(offset_of!(GuestExit, esr) == 0);
    assert!(offset_of!(GuestExit, hpfar) == 16);
    assert!(offset_of!(FpRegs, fpsr) == 512);
    assert!(size_of::<VcpuContext>() == 4096);
    assert!(size_of::<CpuContext>() <= 4096);
    // The number is a call's neighbour, and no call itself.
    assert!(Call::TlbAllVmids as u64 <= crate::common::abi::RUN_VCPU);
};

/// See [`Call::AdmitVcpu`].
///
/// # Safety
///
/// `context` is this CPU's own, and nobody else uses it during the call.
pub(super) unsafe fn admit(
    memory: &Memory,
    context: *mut CpuContext,
    va: u64,
) -> Result<Results, Status> {
    let unshares = memory.check_shared(va)?;
    let vcpu = core::ptr::with_exposed_provenance::<VcpuContext>(va as usize);
    // SAFETY: The page is shared: mapped, readable, and a `VcpuContext` has no invalid values. It is the host's: read once.
    let present = unsafe { (&raw const (*vcpu).config.extra_present).read_volatile() };
    // SAFETY: By the contract. The host's registers are in the CPU, as the host has made this call.
    let slot = unsafe { &mut (*context).guest };
    // Else the host's EL2 registers would be taken from a guest.
    hyp_assert!(
        slot.loaded == 0,
        "the host's registers are in the CPU when a vCPU is admitted"
    );
    slot.extra_present = present;
    slot.el2 = host_el2(present);
    slot.admitted = va;
    slot.unshares = unshares;
    Ok([0; 4])
}

/// The host's EL2 registers. Nobody but the switch changes them between init and reset.
fn host_el2(present: u64) -> HostEl2 {
    let has = |place: u32| present.wrapping_shr(place) & 1 != 0;
    let read = |exists: bool, register: fn() -> u64| if exists { register() } else { 0 };
    let fgt = has(extra::HFGRTR);
    let gic = has(extra::ICH_HCR);
    HostEl2 {
        hcr: sysreg::hcr_el2(),
        mdcr: sysreg::mdcr_el2(),
        cptr: sysreg::cptr_el2(),
        hstr: sysreg::hstr_el2(),
        vttbr: sysreg::vttbr_el2(),
        vtcr: sysreg::vtcr_el2(),
        cntvoff: sysreg::cntvoff_el2(),
        cnthctl: sysreg::cnthctl_el2(),
        vpidr: sysreg::vpidr_el2(),
        vmpidr: sysreg::vmpidr_el2(),
        extra: [
            read(has(extra::HCRX), sysreg::hcrx_el2),
            read(fgt, sysreg::hfgrtr_el2),
            read(fgt, sysreg::hfgwtr_el2),
            read(fgt, sysreg::hfgitr_el2),
            read(fgt, sysreg::hdfgrtr_el2),
            read(fgt, sysreg::hdfgwtr_el2),
            read(has(extra::MPAM2), sysreg::mpam2_el2),
            read(has(extra::MPAMHCR), sysreg::mpamhcr_el2),
            read(gic, sysreg::ich_hcr_el2),
            read(gic, sysreg::icc_sre_el2),
            // The rest belongs to EL1 and is saved at each entry.
            0,
            0,
            0,
            0,
            0,
            0,
        ],
    }
}

/// The TLBs of the guest with these registers.
fn tlb(memory: &Memory, vttbr: u64, vtcr: u64) -> GuestTlb<Cpu> {
    let facts = memory.facts();
    GuestTlb {
        port: Cpu,
        granule: facts.layout.granule(),
        features: facts.tlb,
        guest: Stage2Regs { vttbr, vtcr },
        host: Stage2Regs {
            vttbr: sysreg::vttbr_el2(),
            vtcr: sysreg::vtcr_el2(),
        },
        host_tcr: facts.speculative_at.then(sysreg::tcr_el1),
    }
}

/// See [`Call::TlbIpa`].
pub(super) fn tlb_ipa(
    memory: &Memory,
    vttbr: u64,
    ipa: u64,
    bytes: u64,
    x4: u64,
) -> Result<Results, Status> {
    let (stale, vtcr) = stale_from_x4(x4).ok_or(Status::Invalid)?;
    let range = Ipa::new(ipa)
        .and_then(|first| AddrRange::new(first, bytes))
        .ok_or(Status::Invalid)?;
    tlb(memory, vttbr, vtcr).invalidate(range, stale);
    Ok([0; 4])
}

/// See [`Call::TlbVmid`].
pub(super) fn tlb_vmid(memory: &Memory, vttbr: u64, vtcr: u64) -> Result<Results, Status> {
    tlb(memory, vttbr, vtcr).invalidate_vm();
    Ok([0; 4])
}

/// See [`Call::TlbAllVmids`].
pub(super) fn tlb_all_vmids(memory: &Memory) -> Result<Results, Status> {
    invalidate_all_vms(&Cpu, memory.facts().tlb);
    Ok([0; 4])
}
