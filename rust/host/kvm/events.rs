// SPDX-License-Identifier: GPL-2.0-only

//! Host: exceptions for the guest, and what user space may know and decide about its vCPUs' events and power.
//!
//! An exception is taken at once: registers are in memory, so the vCPU is put where its handler begins. Only an SError that the
//! guest masks waits, in HCR_EL2.VSE, and hardware delivers it.
//!
//! Source: Arm ARM DDI 0487, D1.3; behaviour as `arch/arm64/kvm/{inject_fault,guest}.c` of Linux.

use core::sync::atomic::Ordering;

use kernel::prelude::*;

use super::{
    config::hcr,
    exit::Next,
    regs::user,
    vcpu::{
        Active,
        PowerState,
        Request, //
    },
};
use crate::{
    bindings,
    common::{
        exception::{
            self,
            pstate, //
        },
        guest::SysReg,
        idreg,
        mmio::S1PTW,
        regid::Encoding, //
    },
    host::probe, //
};

/// ESR_ELx.xFSC.
const FSC: u64 = 0x3f;
/// ESR_ELx.EC of an instruction abort from a lower exception level.
const EC_IABT_LOW: u64 = 0x20;
/// ESR_ELx.EC of a data abort from a lower exception level.
const EC_DABT_LOW: u64 = 0x24;

/// The instruction at the PC is UNDEFINED.
pub(crate) fn inject_undefined(active: &mut Active<'_>) {
    exception::undefined(active.context_mut());
}

/// The access of `encoding` at the PC is of an ID register that does not exist: with FEAT_IDST the exception tells so.
pub(crate) fn inject_unknown_id(active: &mut Active<'_>, encoding: Encoding) {
    /// ID_AA64MMFR2_EL1.IDS.
    const IDS_SHIFT: u32 = 36;
    let esr = active.context().exit.esr;
    let mmfr2 = super::regs::id::get(active.vm, idreg::AA64MMFR2);
    if encoding.feature_index().is_some() && idreg::field(mmfr2, IDS_SHIFT) != 0 {
        exception::synchronous(active.context_mut(), esr);
    } else {
        inject_undefined(active);
    }
}

/// Whether the abort with this syndrome is an external one: of memory, or of its protection.
pub(crate) fn is_external_abort(esr: u64) -> bool {
    // Synchronous external abort, parity or ECC error; on the access, or on a walk at level -1 to 3.
    matches!(esr & FSC, 0x10 | 0x13..=0x17 | 0x18 | 0x1b..=0x1f)
}

/// An external abort that the hardware has found: the guest gets an SError, as the host cannot tell whose memory it was.
pub(crate) fn external_abort(active: &mut Active<'_>) -> Result<Next> {
    inject_serror(active, SERROR_IMPDEF);
    Ok(Next::Resume)
}

/// A synchronous external abort for the access that stopped the guest.
///
/// On a walk of stage 1 the guest is told the level. If its tables do not lead there any more, the guest just tries again.
pub(super) fn inject_external_abort(active: &mut Active<'_>, fetch: bool) {
    let exit = active.context().exit;
    // User space may inject one after any exit, with whatever syndrome that had.
    let is_abort = matches!(exception::class(exit.esr), EC_IABT_LOW | EC_DABT_LOW);
    let fsc = if is_abort && exit.esr & S1PTW != 0 {
        match super::walk::level_of_fault(active) {
            Some(level) => exception::fsc_external_walk(level),
            None => return,
        }
    } else {
        exception::FSC_EXTERNAL
    };
    exception::abort(active.context_mut(), fetch, exit.far, fsc);
}

/// An address size fault at level 0: the guest used an address that no CPU of this machine can have.
pub(super) fn inject_size_fault(active: &mut Active<'_>, fetch: bool) {
    let far = active.context().exit.far;
    exception::abort(
        active.context_mut(),
        fetch,
        far,
        exception::FSC_ADDRESS_SIZE,
    );
}

/// Whether the abort that stopped the guest was that of an instruction fetch.
pub(super) fn is_fetch(active: &Active<'_>) -> bool {
    exception::class(active.context().exit.esr) == EC_IABT_LOW
}

/// ESR_ELx.ISS of an SError of which nothing is known: IDS.
const SERROR_IMPDEF: u64 = 1 << 24;

/// An SError with this ISS: now if the guest does not mask it, else as soon as it stops to.
fn inject_serror(active: &mut Active<'_>, iss: u64) {
    let context = active.context_mut();
    if context.regs.spsr & pstate::A == 0 {
        exception::serror(context, iss);
        // The exception has replaced whatever instruction was being emulated.
        active.state_mut().arch.mmio = None;
    } else {
        context.config.vsesr = iss & exception::ISS;
        context.config.hcr |= hcr::VSE;
    }
}

/// The guest has stopped for an SError. It gets one too, unless RAS says that it was corrected or can be lived with.
///
/// What RAS calls uncontainable is nobody's alone: the machine stops, as it does when the kernel itself is hit.
pub(crate) fn serror(active: &mut Active<'_>) {
    /// ESR_ELx of an SError: IDS, and DFSC of one that RAS describes.
    const IDS: u64 = 1 << 24;
    const DFSC_RAS: u64 = 0x11;
    /// AET: uncontainable, restartable, corrected.
    const UNCONTAINABLE: u64 = 0;
    const RESTARTABLE: u64 = 2;
    const CORRECTED: u64 = 6;
    let esr = active.context().exit.esr;
    if has_ras() && esr & IDS == 0 && esr & FSC == DFSC_RAS {
        match (esr >> 10) & 7 {
            RESTARTABLE | CORRECTED => return,
            UNCONTAINABLE => {
                // SAFETY: The format has no arguments. This does not return.
                unsafe {
                    bindings::panic(c"eltwo: uncontainable error of the memory".as_char_ptr())
                }
            }
            _ => {}
        }
    }
    inject_serror(active, SERROR_IMPDEF);
}

/// Whether something waits for the guest that ends a WFI.
pub(crate) fn interrupt_pending(active: &Active<'_>) -> bool {
    active.vcpu.irq_lines.load(Ordering::Relaxed) != 0
        || active.context().config.hcr & hcr::VSE != 0
}

fn has_ras() -> bool {
    probe::has_cap(bindings::ARM64_HAS_RAS_EXTN)
}

/// `struct kvm_vcpu_events` as bytes: pending, has ESR, external abort, padding, ESR, reserved.
const EVENTS_BYTES: usize = size_of::<bindings::kvm_vcpu_events>();

/// KVM_GET_VCPU_EVENTS.
///
/// # Errors
///
/// `EFAULT`.
pub(super) fn get(active: &Active<'_>, arg: usize) -> Result {
    let config = &active.context().config;
    let pending = config.hcr & hcr::VSE != 0;
    let mut bytes = [0; EVENTS_BYTES];
    bytes[0] = u8::from(pending);
    bytes[1] = u8::from(has_ras());
    if pending && has_ras() {
        bytes[8..16].copy_from_slice(&config.vsesr.to_ne_bytes());
    }
    user::write(arg as u64, &bytes)
}

/// KVM_SET_VCPU_EVENTS.
///
/// # Errors
///
/// `EINVAL` for what is reserved, for an ESR without RAS and for more than an ISS; `EFAULT`.
pub(super) fn set(active: &mut Active<'_>, arg: usize) -> Result {
    let bytes = user::read::<EVENTS_BYTES>(arg as u64)?;
    let [pending, has_esr, abort, padding @ .., _, _, _, _, _, _, _, _] = &bytes[..16] else {
        return Err(EINVAL);
    };
    let is_set = |byte: &u8| *byte != 0;
    if padding.iter().any(is_set) || bytes.iter().skip(16).any(is_set) {
        return Err(EINVAL);
    }
    let mut esr = [0; 8];
    esr.copy_from_slice(&bytes[8..16]);
    let esr = u64::from_ne_bytes(esr);
    if *abort != 0 {
        inject_external_abort(active, false);
        // The access that user space was asked to emulate has failed.
        active.state_mut().arch.mmio = None;
    }
    if *pending == 0 {
        return Ok(());
    }
    if *has_esr == 0 {
        inject_serror(active, SERROR_IMPDEF);
        return Ok(());
    }
    if !has_ras() || esr & !exception::ISS != 0 {
        return Err(EINVAL);
    }
    inject_serror(active, esr);
    Ok(())
}

/// KVM_GET_MP_STATE.
///
/// # Errors
///
/// `EFAULT`.
pub(super) fn get_mp_state(active: &Active<'_>, arg: usize) -> Result {
    let state = match active.vcpu.power.lock().state {
        PowerState::On => bindings::KVM_MP_STATE_RUNNABLE,
        PowerState::Off => bindings::KVM_MP_STATE_STOPPED,
        PowerState::Suspended => bindings::KVM_MP_STATE_SUSPENDED,
    };
    user::write(arg as u64, &state.to_ne_bytes())
}

/// KVM_SET_MP_STATE.
///
/// # Errors
///
/// `EINVAL` for a state that this architecture has not, `EFAULT`.
pub(super) fn set_mp_state(active: &mut Active<'_>, arg: usize) -> Result {
    let [state] = user::read_words::<1>(arg)?;
    let state = match state {
        bindings::KVM_MP_STATE_RUNNABLE => PowerState::On,
        bindings::KVM_MP_STATE_STOPPED => PowerState::Off,
        bindings::KVM_MP_STATE_SUSPENDED => PowerState::Suspended,
        _ => return Err(EINVAL),
    };
    set_power(active, state);
    Ok(())
}

/// Switches this vCPU on or off.
pub(super) fn set_power(active: &Active<'_>, state: PowerState) {
    let vcpu = active.vcpu;
    vcpu.power.lock().state = state;
    match state {
        PowerState::On => return,
        PowerState::Off => vcpu.request(Request::Sleep),
        PowerState::Suspended => vcpu.request(Request::Suspend),
    }
    vcpu.kick();
}

/// Whether the guest has stage 1 and the data cache on.
pub(super) fn has_caches(active: &Active<'_>) -> bool {
    const ON: u64 = exception::sctlr::M | exception::sctlr::C;
    active.context().sys_reg(SysReg::SctlrEl1) & ON == ON
}
