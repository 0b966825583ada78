// SPDX-License-Identifier: GPL-2.0-only

//! Host: debugging in a guest, by itself or by user space.
//!
//! The guest's accesses of debug registers trap always, so memory has them; the CPU gets its breakpoints and watchpoints only
//! while MDSCR_EL1 lets them do something. While user space debugs (KVM_SET_GUEST_DEBUG) or the guest has closed the OS lock, the
//! guest's own debug exceptions are off. What user space asked for comes to EL2 (MDCR_EL2.TDE) and ends in KVM_EXIT_DEBUG.
//!
//! Source: Arm ARM DDI 0487, D2 (self-hosted debug); behaviour as `arch/arm64/kvm/{debug,guest,handle_exit}.c` of Linux.

use kernel::prelude::*;

use super::{
    config::MDCR_TDE,
    exit::Next,
    regs::user,
    vcpu::Active, //
};
use crate::{
    arch::debug::HostDebug,
    bindings,
    common::{
        exception,
        guest::SysReg,
        hwdebug::{
            DebugRegs,
            MDSCR_KDE,
            MDSCR_MDE,
            MDSCR_SS, //
        },
        sysregs::Memory, //
    },
    host::probe,
};

/// What user space wants of a vCPU.
#[derive(Default)]
pub(crate) struct GuestDebug {
    /// `KVM_GUESTDBG_*`; 0 if nothing.
    control: u32,
    /// User space's breakpoints and watchpoints.
    registers: DebugRegs,
    /// PSTATE.SS of the guest, while KVM_RUN has it replaced.
    guest_ss: bool,
    /// User space's step has been made already: it has only to be told.
    step_made: bool,
}

/// Everything that KVM_SET_GUEST_DEBUG knows.
pub(super) const VALID: u32 = bindings::KVM_GUESTDBG_ENABLE
    | bindings::KVM_GUESTDBG_SINGLESTEP
    | bindings::KVM_GUESTDBG_USE_SW_BP
    | bindings::KVM_GUESTDBG_USE_HW;
/// What a guest may have of MDSCR_EL1: debug exceptions, and TDCC, a trap of EL0. No external debug, no trace.
const GUEST_MDSCR: u64 = MDSCR_SS | MDSCR_KDE | MDSCR_MDE | (1 << 12);
/// PSTATE.SS: the next instruction is executed before the step's exception.
const PSTATE_SS: u64 = 1 << 21;
/// OSLSR_EL1.OSLK.
const OSLK: u64 = 1 << 1;

/// KVM_SET_GUEST_DEBUG.
///
/// # Errors
///
/// `EINVAL` for what is not known, `EFAULT`.
pub(super) fn set(active: &mut Active<'_>, arg: usize) -> Result {
    // control and padding, then controls and values of breakpoints, controls and values of watchpoints.
    let words = user::read_longs::<65>(arg)?;
    let control = words[0] as u32;
    if control & !VALID != 0 {
        return Err(EINVAL);
    }
    let debug = &mut active.state_mut().arch.guest_debug;
    if control & bindings::KVM_GUESTDBG_ENABLE == 0 {
        debug.control = 0;
        debug.step_made = false;
    } else {
        debug.control = control;
        if control & bindings::KVM_GUESTDBG_USE_HW != 0 {
            // By `sysregs::Debug`: value, control; value, control.
            for (bank, from) in [(1, 1), (0, 17), (3, 33), (2, 49)] {
                debug.registers[bank].copy_from_slice(&words[from..from + 16]);
            }
        }
    }
    apply(active);
    Ok(())
}

/// Works out what the CPU gets for MDSCR_EL1 and where debug exceptions go. After any change of what that depends on.
pub(super) fn apply(active: &mut Active<'_>) {
    let state = &active.state().arch;
    let control = state.guest_debug.control;
    let mut mdscr = state.memory(Memory::MdscrEl1) & GUEST_MDSCR;
    if control != 0 || state.memory(Memory::OslsrEl1) & OSLK != 0 {
        mdscr &= !(MDSCR_SS | MDSCR_KDE | MDSCR_MDE);
    }
    if control & bindings::KVM_GUESTDBG_SINGLESTEP != 0 {
        mdscr |= MDSCR_SS;
    }
    if control & bindings::KVM_GUESTDBG_USE_HW != 0 {
        mdscr |= MDSCR_KDE | MDSCR_MDE;
    }
    let context = active.context_mut();
    context.set_sys_reg(SysReg::MdscrEl1, mdscr);
    if control != 0 {
        context.config.mdcr |= MDCR_TDE;
    } else {
        context.config.mdcr &= !MDCR_TDE;
    }
}

/// Right before the guest is entered, with interrupts masked. What is returned is restored right after.
#[inline]
pub(super) fn load(active: &Active<'_>) -> Option<HostDebug> {
    let mdscr = active.context().sys_reg(SysReg::MdscrEl1);
    if mdscr & (MDSCR_KDE | MDSCR_MDE) == 0 {
        return None;
    }
    let state = &active.state().arch;
    let by_user = state.guest_debug.control & bindings::KVM_GUESTDBG_USE_HW != 0;
    let registers = if by_user {
        &state.guest_debug.registers
    } else {
        &state.debug
    };
    // SAFETY: Interrupts are masked, and the caller restores before it unmasks them.
    Some(unsafe { HostDebug::replace(registers) })
}

/// PSTATE after a synchronous exception, where the guest was entered with `before`.
///
/// On some cores (Linux: `ARM64_WORKAROUND_2077057`) SPSR_EL2 is wrong after a trap of pointer authentication that comes where the
/// step was still to be made. Nothing has been executed then, so PSTATE is what it was.
pub(super) fn settle_pstate(active: &mut Active<'_>, before: u64) {
    const EC_POINTER_AUTHENTICATION: u64 = 0x09;
    if (active.context().exit.esr >> 26) & 0x3f == EC_POINTER_AUTHENTICATION
        && before & PSTATE_SS != 0
        && is_stepping(active)
        && probe::has_cap(bindings::ARM64_WORKAROUND_2077057)
    {
        active.context_mut().regs.spsr = before;
    }
}

fn is_stepping(active: &Active<'_>) -> bool {
    active.state().arch.guest_debug.control & bindings::KVM_GUESTDBG_SINGLESTEP != 0
}

/// KVM_RUN begins: user space's step takes the place of one that the guest may be making.
pub(super) fn begin(active: &mut Active<'_>) {
    if !is_stepping(active) {
        return;
    }
    let spsr = active.context().regs.spsr;
    let debug = &mut active.state_mut().arch.guest_debug;
    debug.guest_ss = spsr & PSTATE_SS != 0;
    let made = debug.step_made;
    let regs = &mut active.context_mut().regs;
    if made {
        regs.spsr &= !PSTATE_SS;
    } else {
        regs.spsr |= PSTATE_SS;
    }
}

/// KVM_RUN ends.
pub(super) fn end(active: &mut Active<'_>) {
    if !is_stepping(active) {
        return;
    }
    let spsr = active.context().regs.spsr;
    let debug = &mut active.state_mut().arch.guest_debug;
    debug.step_made = spsr & PSTATE_SS == 0;
    let guest = debug.guest_ss;
    let regs = &mut active.context_mut().regs;
    if guest {
        regs.spsr |= PSTATE_SS;
    } else {
        regs.spsr &= !PSTATE_SS;
    }
}

/// `debug` of `struct kvm_run`.
#[repr(C)]
struct DebugExit {
    hsr: u32,
    hsr_high: u32,
    far: u64,
}

/// A debug exception that user space has asked for.
pub(super) fn exit(active: &mut Active<'_>) -> Next {
    /// ESR_EL2.EC: a step has been made; a watchpoint has been hit.
    const EC_STEP: u64 = 0x32;
    const EC_WATCHPOINT: u64 = 0x34;
    let esr = active.context().exit.esr;
    if exception::class(esr) == EC_STEP {
        active.context_mut().regs.spsr |= PSTATE_SS;
    }
    let far = active.context().exit.far;
    let run = active.run();
    let exit = run.exit_data::<DebugExit>();
    // SAFETY: The union has room for it, in a page that is alive.
    unsafe {
        (&raw mut (*exit).hsr).write_volatile(esr as u32);
        (&raw mut (*exit).hsr_high).write_volatile((esr >> 32) as u32);
        if exception::class(esr) == EC_WATCHPOINT {
            (&raw mut (*exit).far).write_volatile(far);
        }
    }
    run.set_exit(bindings::KVM_EXIT_DEBUG);
    run.set_flags(bindings::KVM_DEBUG_ARCH_HSR_HIGH_VALID as u16);
    Next::ToUser
}
