// SPDX-License-Identifier: GPL-2.0-only

//! Host: may we have EL2, and what is this machine?
//!
//! Everything here is free of side effects, so a refusal leaves nothing behind. Each refusal names cause and remedy, once.

use kernel::prelude::*;

use super::refused::{
    refuse,
    Reason,
    Refused, //
};
use crate::{
    arch::{
        el1,
        sysreg, //
    },
    bindings,
    common::{
        abi::{
            Call,
            Status,
            ABI_VERSION,
            HVC_GET_ICH_VTR_EL2,
            HVC_STUB_ERR, //
        },
        addr::Granule,
        guest::extra,
        idreg::field,
        lifecycle::admission::{
            pa_range_bits,
            Chosen,
            Ids, //
        },
        pgtable::tlb::TlbFeatures,
        regs::{
            tcr_el1,
            Needs, //
        },
    },
};

/// What the whole machine has in common, as far as EL2 needs to know.
#[derive(Clone, Copy)]
pub(crate) struct Machine {
    /// The kernel's page size, which is our granule.
    pub(crate) granule: Granule,
    /// TCR_EL2.DS: the kernel uses the 52-bit descriptors of FEAT_LPA2, and so do we.
    pub(crate) lpa2: bool,
    /// Whether descriptors can express 52-bit addresses, by FEAT_LPA2 or, with 64K pages, FEAT_LPA.
    pub(crate) wide: bool,
    /// Bits of a physical address that every CPU and our descriptors can express.
    pub(crate) pa_bits: u8,
    /// The same as the PS field of TCR_EL2 has it.
    pub(crate) pa_size: u64,
    /// Bits of an EL2 virtual address that every CPU can translate.
    pub(crate) va_bits_max: u8,
    /// MAIR_EL2: the kernel's MAIR_EL1, so memory types have the same indices.
    pub(crate) mair: u64,
    /// What the CPUs need or offer for TLB maintenance.
    pub(crate) tlb: TlbFeatures,
    /// Some CPU may walk tables speculatively through a half-switched regime.
    pub(crate) speculative_at: bool,
    /// Smallest data cache line of the system.
    pub(crate) cache: el1::CacheGeometry,
    /// What every CPU must be able to do.
    pub(crate) chosen: Chosen,
}

/// `sys_reg(op0, op1, crn, crm, op2)` of Linux, the key of `read_sanitised_ftr_reg`.
pub(crate) const fn sys_reg(op0: u32, op1: u32, crn: u32, crm: u32, op2: u32) -> u32 {
    (op0 << 19) | (op1 << 16) | (crn << 12) | (crm << 8) | (op2 << 5)
}

pub(crate) const SYS_ID_AA64PFR0_EL1: u32 = sys_reg(3, 0, 0, 4, 0);
pub(crate) const SYS_ID_AA64PFR1_EL1: u32 = sys_reg(3, 0, 0, 4, 1);
pub(crate) const SYS_ID_AA64DFR0_EL1: u32 = sys_reg(3, 0, 0, 5, 0);
pub(crate) const SYS_ID_AA64MMFR0_EL1: u32 = sys_reg(3, 0, 0, 7, 0);
pub(crate) const SYS_ID_AA64MMFR1_EL1: u32 = sys_reg(3, 0, 0, 7, 1);
pub(crate) const SYS_ID_AA64MMFR2_EL1: u32 = sys_reg(3, 0, 0, 7, 2);
const SYS_CTR_EL0: u32 = sys_reg(3, 3, 0, 0, 1);

/// CNTV_CTL_EL0.ENABLE.
const CNTV_CTL_ENABLE: u64 = 1;
/// CNTV_CTL_EL0.ENABLE and IMASK.
const CNTV_CTL_STATE: u64 = 0b11;

/// The value of an ID register that holds for all CPUs.
pub(crate) fn sanitised(register: u32) -> u64 {
    // SAFETY: The registers above are in the kernel's table of features.
    unsafe { bindings::read_sanitised_ftr_reg(register) }
}

/// Whether the kernel has found the capability or the erratum with this number.
pub(crate) fn has_cap(number: u32) -> bool {
    let (word, bit) = (number / u64::BITS, number % u64::BITS);
    // SAFETY: The kernel no longer changes the bitmap once modules can be loaded.
    let words = unsafe { (&raw const bindings::system_cpucaps).read() };
    words
        .get(word as usize)
        .is_some_and(|word| (*word as u64 >> bit) & 1 != 0)
}

/// Who answers an HVC.
enum Owner {
    /// The kernel's stub: EL2 is free.
    Stub,
    /// Another eltwo.
    Eltwo,
    /// Something that answers in x0 with this.
    Other(u64),
}

fn ask_owner() -> Owner {
    // SAFETY: `admit` has made sure that EL2 exists. The number is none that the stub or a live KVM acts upon.
    let [x0, x1, ..] = unsafe { el1::hvc([Call::Version as u64, 0, 0, 0, 0]) };
    match x0 {
        HVC_STUB_ERR => Owner::Stub,
        _ if Status::from_x0(x0) == Some(Status::Ok) && x1 == ABI_VERSION => Owner::Eltwo,
        _ => Owner::Other(x0),
    }
}

/// Decides whether EL2 can be ours.
///
/// # Errors
///
/// `ENODEV` where this machine, booted like this, cannot give us EL2; `EBUSY` where somebody else has it.
pub(crate) fn admit() -> Result<Machine, Refused> {
    if !el1::at_el1() {
        return Err(refuse!(
            ENODEV,
            "the kernel itself runs at EL2 (VHE); boot with id_aa64mmfr1.vh=0"
        ));
    }
    if !has_el2() {
        return Err(refuse!(
            ENODEV,
            "this CPU has no EL2, or a hypervisor hides it; run on bare metal, or enable nested virtualisation (QEMU: -M virt,virtualization=on)"
        ));
    }
    // SAFETY: A read of a value that the kernel sets at boot.
    let conduit = unsafe { bindings::arm_smccc_1_1_get_conduit() };
    let by_hvc = conduit == bindings::arm_smccc_conduit_SMCCC_CONDUIT_HVC;
    if by_hvc || kernel_was_entered_at_el1() {
        return Err(refuse!(
            ENODEV,
            "the kernel was entered at EL1, so EL2 is not to be had; have the firmware enter the kernel at EL2"
        ));
    }
    if has_cap(bindings::ARM64_HAS_GIC_PRIO_MASKING) {
        // Interrupts would be masked in PSTATE around a guest, which such a kernel does not know as masked: it could
        // move the task to another CPU in between.
        return Err(refuse!(
            ENODEV,
            "the kernel masks interrupts by their priority; boot without irqchip.gicv3_pseudo_nmi=1"
        ));
    }
    if has_cap(bindings::ARM64_HAS_GICV5_CPUIF) {
        // Its CPU interface has registers of EL2 that are neither switched for a guest nor compared.
        return Err(refuse!(
            ENODEV,
            "the interrupt controller is a GICv5, which eltwo does not know; use a machine with a GICv2 or a GICv3"
        ));
    }
    match ask_owner() {
        Owner::Stub => {}
        Owner::Eltwo => {
            return Err(refuse!(EBUSY, "another eltwo owns EL2; remove it first"));
        }
        Owner::Other(answer) => {
            return Err(refuse!(
                EBUSY,
                "EL2 is owned by the kernel's KVM or another hypervisor (it answers {answer:#x}); boot with kvm-arm.mode=none"
            ));
        }
    }
    machine()
}

fn machine() -> Result<Machine, Refused> {
    let granule = Granule::from_shift(bindings::PAGE_SHIFT)
        .ok_or_else(|| EINVAL.tell("the size of pages"))?;
    let tcr_el1 = sysreg::tcr_el1();
    let lpa2 = tcr_el1 & tcr_el1::DS != 0;
    let large_va =
        lpa2 || (granule == Granule::K64 && field(sanitised(SYS_ID_AA64MMFR2_EL1), 16) != 0);
    // 52-bit physical addresses need LPA2 descriptors or 64K pages. IPS is what the kernel settled on.
    let wide = lpa2 || granule == Granule::K64;
    let largest_size = if wide { 6 } else { 5 };
    let pa_size = field(sanitised(SYS_ID_AA64MMFR0_EL1), 0)
        .min((tcr_el1 >> tcr_el1::IPS_SHIFT) & tcr_el1::IPS_MASK)
        .min(largest_size);
    let va_bits_max = if large_va { 52 } else { 48 };
    let mut all = Ids {
        mmfr0: sanitised(SYS_ID_AA64MMFR0_EL1),
        mmfr1: sanitised(SYS_ID_AA64MMFR1_EL1),
        mmfr2: sanitised(SYS_ID_AA64MMFR2_EL1),
        ..Ids::default()
    };
    if has_cap(bindings::ARM64_HAS_GICV3_CPUIF) {
        // This CPU stands for all: each of them is compared with it.
        // SAFETY: The stub owns EL2, as its answer has shown, and the kernel uses the system registers of the GIC.
        all.ich_vtr = unsafe { ich_vtr() };
    }
    Ok(Machine {
        granule,
        lpa2,
        wide,
        pa_bits: pa_range_bits(pa_size),
        pa_size,
        va_bits_max,
        mair: sysreg::mair_el1(),
        tlb: TlbFeatures {
            ttl: field(sanitised(SYS_ID_AA64MMFR2_EL1), 48) != 0,
            repeat: has_cap(bindings::ELTWO_REPEAT_TLBI),
        },
        speculative_at: has_cap(bindings::ARM64_WORKAROUND_SPECULATIVE_AT),
        cache: cache_geometry(),
        chosen: Chosen {
            granule,
            pa_size: pa_size as u8,
            lpa2,
            lpa2_stage2: lpa2 && all.has_lpa2_stage2(granule),
            va_bits: va_bits_max,
            vmid_bits: all.vmid_bits(),
            list_registers: all.list_registers(),
        },
    })
}

/// What the caches of the CPUs that have come so far have in common. A CPU that comes later may change how instruction caches are
/// indexed, but not the lines of data caches: the kernel refuses it.
pub(crate) fn cache_geometry() -> el1::CacheGeometry {
    el1::CacheGeometry::from_ctr(sanitised(SYS_CTR_EL0))
}

/// Whether this CPU has an EL2 below the kernel. Firmware enters the kernel at the same exception level on all CPUs (Linux,
/// `Documentation/arch/arm64/booting.rst`), so what [`admit`] has found holds here too. Nothing on this CPU tells: the timers, for
/// one, come back from power-down with UNKNOWN controls.
pub(crate) fn this_cpu_has_el2() -> bool {
    el1::at_el1() && has_el2()
}

/// What this CPU says about itself at EL1.
pub(crate) fn this_cpu_ids() -> Ids {
    Ids {
        mmfr0: sysreg::id_aa64mmfr0(),
        mmfr1: sysreg::id_aa64mmfr1(),
        mmfr2: sysreg::id_aa64mmfr2(),
        ..Ids::default()
    }
}

/// What this CPU records by itself: bits of [`extra`].
pub(crate) fn this_cpu_records() -> u64 {
    extra::recorders(
        sysreg::id_aa64dfr0(),
        sysreg::pmbidr_el1,
        sysreg::trbidr_el1,
    )
}

/// ICH_VTR_EL2 of this CPU, which the stub reads for us; `None` if the stub is too old to do so.
///
/// # Safety
///
/// The stub owns EL2, and ICC_SRE_EL2.SRE is set: else the stub would take an UNDEFINED exception without end.
pub(crate) unsafe fn ich_vtr() -> Option<u64> {
    // SAFETY: By the contract; the call changes nothing.
    let [x0, x1, ..] = unsafe { el1::hvc([HVC_GET_ICH_VTR_EL2, 0, 0, 0, 0]) };
    (x0 == 0).then_some(x1)
}

/// Whether the CPU implements EL2.
fn has_el2() -> bool {
    field(sysreg::id_aa64pfr0(), 8) != 0
}

/// A counter that the kernel can take the time from.
enum Counter {
    Physical,
    Virtual,
}

/// The counter that the kernel takes the time from; `None` if it does not say.
///
/// It chooses once, on the CPU that it boots on (`arch_counter_register`). Running at EL1 it takes the physical counter where it
/// was entered at EL2, and the virtual one else. The choice is a pointer to a function, which only the symbol table knows.
fn counter_of_kernel() -> Option<Counter> {
    // SAFETY: The kernel sets the pointer at boot, and it is constant once modules can be loaded.
    let function = unsafe { (&raw const bindings::arch_timer_read_counter).read() }?;
    let mut name = [0u8; bindings::ELTWO_KSYM_SYMBOL_LEN as usize];
    // SAFETY: The buffer has the size that the function asks for; any address can be looked up.
    unsafe { bindings::sprint_symbol_no_offset(name.as_mut_ptr(), function as usize) };
    if name.starts_with(b"arch_counter_get_cntpct") {
        Some(Counter::Physical)
    } else if name.starts_with(b"arch_counter_get_cntvct") {
        Some(Counter::Virtual)
    } else {
        None
    }
}

/// Whether firmware entered the kernel at EL1, so that an HVC would go to somebody else, or be UNDEFINED.
///
/// A kernel without symbols is asked by its tick, on this CPU, which runs a process and hence has one: entered at EL1 it is the
/// virtual timer (`arch_timer_select_ppi`), enabled, and masked only from its interrupt to the next event. Controls that reset or
/// firmware has left behind can look the same; then nothing but a refusal comes of it.
fn kernel_was_entered_at_el1() -> bool {
    match counter_of_kernel() {
        Some(Counter::Physical) => false,
        Some(Counter::Virtual) => true,
        None => sysreg::cntv_ctl() & CNTV_CTL_STATE == CNTV_CTL_ENABLE,
    }
}

/// Whether the kernel's stub answers on this CPU, whatever state we believe it to be in.
pub(crate) fn stub_owns_el2() -> bool {
    matches!(ask_owner(), Owner::Stub)
}

/// Whether this CPU has the registers that `needs` names.
pub(crate) fn this_cpu_has(needs: Needs) -> bool {
    match needs {
        Needs::Nothing => true,
        Needs::Gic | Needs::GicSre => field(sysreg::id_aa64pfr0(), 24) != 0,
        Needs::Vhe => field(sysreg::id_aa64mmfr1(), 8) != 0,
        Needs::Hcx => field(sysreg::id_aa64mmfr1(), 40) != 0,
        Needs::Fgt => field(sysreg::id_aa64mmfr0(), 56) != 0,
        Needs::Sve => field(sysreg::id_aa64pfr0(), 32) != 0,
        Needs::Sme => field(sysreg::id_aa64pfr1(), 24) != 0,
    }
}
