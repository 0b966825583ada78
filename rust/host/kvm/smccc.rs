// SPDX-License-Identifier: GPL-2.0-only

//! Host: calls of a guest by HVC and SMC.
//!
//! What user space has decided about a function comes first, then the bitmaps of firmware features. The rest is PSCI.
//!
//! Source: Arm DEN 0028 (SMCCC), DEN 0098 (TRNG); behaviour as `arch/arm64/kvm/{hypercalls,trng}.c` of Linux.

use kernel::prelude::*;

use super::{
    exit::Next,
    psci,
    pvtime,
    regs,
    vcpu::Active, //
};
use crate::{
    bindings,
    common::smccc::{
        self,
        call,
        Action,
        NOT_SUPPORTED,
        UNAFFECTED,
        VERSION_1_1, //
    },
};

/// Places of the bitmaps of firmware features.
const STANDARD: usize = 0;
const STANDARD_HYP: usize = 1;
const VENDOR: usize = 2;
const VENDOR_2: usize = 3;

/// EC 0x16: the PC is past the HVC.
pub(crate) fn hvc(active: &mut Active<'_>) -> Result<Next> {
    serve(active, 0)
}

/// EC 0x17: an SMC that was trapped, so the PC stands on it.
pub(crate) fn smc(active: &mut Active<'_>) -> Result<Next> {
    /// ESR_EL2.ISS: the immediate. SMCCC uses 0 only.
    const IMMEDIATE: u64 = 0xffff;
    active.advance_pc();
    if active.context().exit.esr & IMMEDIATE != 0 {
        regs::set_x(active.context_mut(), 0, NOT_SUPPORTED);
        return Ok(Next::Resume);
    }
    serve(active, u64::from(bindings::KVM_HYPERCALL_EXIT_SMC))
}

/// Puts what a call answers in x0..x3.
pub(super) fn answer(active: &mut Active<'_>, values: [u64; 4]) {
    let x = &mut active.context_mut().regs.x;
    for (register, value) in x.iter_mut().zip(values) {
        *register = value;
    }
}

fn serve(active: &mut Active<'_>, exit_flags: u64) -> Result<Next> {
    let function = regs::x(active.context(), 0) as u32;
    match active.vm.arch().filtered(function) {
        Action::Handle if smccc::is_always_allowed(function) || in_bitmaps(active, function) => {}
        Action::Handle | Action::Deny => {
            answer(active, [NOT_SUPPORTED, 0, 0, 0]);
            return Ok(Next::Resume);
        }
        Action::Forward => return Ok(forward(active, function, exit_flags)),
    }
    let first = regs::x(active.context(), 1);
    let arch = active.vm.arch();
    let values = match function {
        call::VERSION => [VERSION_1_1, 0, 0, 0],
        call::ARCH_FEATURES => [arch_features(active, first as u32), 0, 0, 0],
        call::PV_TIME_FEATURES => [pvtime::features(active, first as u32), 0, 0, 0],
        call::PV_TIME_ST => [pvtime::start(active), 0, 0, 0],
        // The UUID of KVM's services, byte by byte.
        call::VENDOR_UID => [0xb66f_b428, 0xe911_c52e, 0x564b_caa9, 0x743a_004d],
        call::VENDOR_FEATURES => [arch.bitmap(VENDOR), 0, arch.bitmap(VENDOR_2), 0],
        call::VENDOR_PTP => wall_clock(active, first as u32),
        call::TRNG_VERSION => [TRNG_1_0, 0, 0, 0],
        call::TRNG_FEATURES => [trng_features(first as u32), 0, 0, 0],
        // 0d21e000-4384-11eb-8070-5244554e5a4c, byte by byte.
        call::TRNG_GET_UUID => [0x00e0_210d, 0xeb11_8443, 0x4452_7080, 0x4c5a_4e55],
        call::TRNG_RND32 => random(first as u32, 32),
        call::TRNG_RND64 => random(first as u32, 64),
        _ => return psci::call(active),
    };
    answer(active, values);
    Ok(Next::Resume)
}

/// Whether the bitmaps of firmware features have this function.
fn in_bitmaps(active: &Active<'_>, function: u32) -> bool {
    let (place, bit) = match function {
        call::TRNG_VERSION
        | call::TRNG_FEATURES
        | call::TRNG_GET_UUID
        | call::TRNG_RND32
        | call::TRNG_RND64 => (STANDARD, bindings::KVM_REG_ARM_STD_BIT_TRNG_V1_0),
        call::PV_TIME_FEATURES | call::PV_TIME_ST => {
            (STANDARD_HYP, bindings::KVM_REG_ARM_STD_HYP_BIT_PV_TIME)
        }
        call::VENDOR_FEATURES | call::VENDOR_UID => {
            (VENDOR, bindings::KVM_REG_ARM_VENDOR_HYP_BIT_FUNC_FEAT)
        }
        call::VENDOR_PTP => (VENDOR, bindings::KVM_REG_ARM_VENDOR_HYP_BIT_PTP),
        _ => return false,
    };
    active.vm.arch().bitmap(place) & (1 << bit) != 0
}

/// `hypercall` of `struct kvm_run`.
#[repr(C)]
struct HypercallExit {
    nr: u64,
    args: [u64; 6],
    ret: u64,
    flags: u64,
}

/// User space serves the call: it finds the arguments in the registers, and answers there.
fn forward(active: &mut Active<'_>, function: u32, flags: u64) -> Next {
    /// ESR_EL2.IL: the instruction has 32 bits.
    const IL: u64 = 1 << 25;
    let short = active.context().exit.esr & IL == 0;
    let exit = HypercallExit {
        nr: u64::from(function),
        args: [0; 6],
        ret: 0,
        flags: flags
            | if short {
                u64::from(bindings::KVM_HYPERCALL_EXIT_16BIT)
            } else {
                0
            },
    };
    let run = active.run();
    // SAFETY: The union has room for it, in a page that is alive.
    unsafe { run.exit_data::<HypercallExit>().write_volatile(exit) };
    run.set_exit(bindings::KVM_EXIT_HYPERCALL);
    Next::ToUser
}

/// SMCCC_ARCH_FEATURES. A mitigation that EL3 would have to serve is not there; see `regs::firmware`.
fn arch_features(active: &Active<'_>, function: u32) -> u64 {
    match function {
        call::ARCH_WORKAROUND_1 if psci::spectre_v2_unaffected() => UNAFFECTED,
        call::ARCH_WORKAROUND_3 if psci::spectre_bhb_unaffected() => UNAFFECTED,
        call::PV_TIME_FEATURES if in_bitmaps(active, function) => 0,
        _ => NOT_SUPPORTED,
    }
}

/// TRNG 1.0.
const TRNG_1_0: u64 = 0x1_0000;

fn trng_features(function: u32) -> u64 {
    match function {
        call::TRNG_VERSION
        | call::TRNG_FEATURES
        | call::TRNG_GET_UUID
        | call::TRNG_RND32
        | call::TRNG_RND64 => 0,
        _ => NOT_SUPPORTED,
    }
}

/// TRNG_RND: `bits` random bits, in three registers of `width` bits, the last of them first.
fn random(bits: u32, width: u32) -> [u64; 4] {
    const INVALID_PARAMETER: u64 = -2i64 as u64;
    if bits > 3 * width {
        return [INVALID_PARAMETER, 0, 0, 0];
    }
    let mut words = [0u64; 3];
    // SAFETY: The buffer has that many bytes, and any bytes make numbers.
    unsafe { bindings::get_random_bytes(words.as_mut_ptr().cast(), size_of_val(&words)) };
    for (place, word) in words.iter_mut().enumerate() {
        let wanted = bits.saturating_sub(place as u32 * width).min(width);
        *word &= u64::MAX.checked_shr(64 - wanted).unwrap_or(0);
    }
    let [low, middle, high] = words;
    [0, high, middle, low]
}

/// The wall clock, in ns since 1970, and what the guest's counter was at that time.
fn wall_clock(active: &Active<'_>, counter: u32) -> [u64; 4] {
    let arch = active.vm.arch();
    let offset = match counter {
        bindings::KVM_PTP_VIRT_COUNTER => arch.virtual_offset(),
        bindings::KVM_PTP_PHYS_COUNTER => arch.physical_offset(),
        _ => return [NOT_SUPPORTED, 0, 0, 0],
    };
    // SAFETY: Made of numbers.
    let mut now: bindings::system_time_snapshot = unsafe { core::mem::zeroed() };
    // SAFETY: The place is valid for writes.
    unsafe { bindings::ktime_get_snapshot_id(bindings::CLOCK_REALTIME as i32, &mut now) };
    if now.cs_id != bindings::clocksource_ids_CSID_ARM_ARCH_COUNTER {
        // The host's clock does not run on the counter that the guest sees.
        return [NOT_SUPPORTED, 0, 0, 0];
    }
    let time = now.systime as u64;
    let cycles = now.cycles.wrapping_sub(offset);
    [
        time >> 32,
        time & 0xffff_ffff,
        cycles >> 32,
        cycles & 0xffff_ffff,
    ]
}
