// SPDX-License-Identifier: GPL-2.0-only

//! Host: why a guest stopped, and who deals with it.
//!
//! Source: Arm ARM DDI 0487, D24.2.40 (ESR_EL2); behaviour as `arch/arm64/kvm/handle_exit.c` of Linux.

use kernel::prelude::*;

use super::{
    aarch32,
    config,
    debug,
    events,
    mmio,
    pvtime,
    smccc,
    stats::VcpuStat,
    sysreg,
    vcpu::{
        Active,
        PowerState,
        Request, //
    },
    vm::Abort, //
};
use crate::{
    bindings,
    common::{
        exception,
        guest::{
            ExitReason,
            GuestExit, //
        },
    },
    host::timing, //
};

/// What comes after an exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// The guest runs on.
    Resume,
    /// KVM_RUN returns 0; `struct kvm_run` says why.
    ToUser,
}

/// ESR_EL2.EC, the exception classes that a guest can cause.
mod ec {
    pub(super) const WFX: u64 = 0x01;
    pub(super) const CP15_32: u64 = 0x03;
    pub(super) const CP15_64: u64 = 0x04;
    pub(super) const CP14_MR: u64 = 0x05;
    pub(super) const FP_ASIMD: u64 = 0x07;
    pub(super) const CP14_64: u64 = 0x0c;
    pub(super) const HVC64: u64 = 0x16;
    pub(super) const SMC64: u64 = 0x17;
    pub(super) const SYS64: u64 = 0x18;
    pub(super) const IABT_LOW: u64 = 0x20;
    pub(super) const DABT_LOW: u64 = 0x24;
    pub(super) const BREAKPOINT_LOW: u64 = 0x30;
    pub(super) const STEP_LOW: u64 = 0x32;
    pub(super) const WATCHPOINT_LOW: u64 = 0x34;
    pub(super) const BKPT32: u64 = 0x38;
    pub(super) const BRK64: u64 = 0x3c;
}

/// ISS of WFI and WFE: the instruction is WFE (or WFET).
const WFX_ISS_WFE: u64 = 1;
/// As above: the instruction is WFIT or WFET (FEAT_WFxT, which no guest is told to have).
const WFX_ISS_TIMED: u64 = 2;

/// Deals with the exit that is recorded in the context. Interrupts are on; it may sleep.
pub(super) fn handle(active: &mut Active<'_>, reason: ExitReason) -> Result<Next> {
    active.vcpu.counters.add(VcpuStat::Exits);
    match reason {
        ExitReason::Irq => {
            // The interrupt may have given the CPU to others for a while.
            pvtime::update(active);
            Ok(Next::Resume)
        }
        ExitReason::Again => Ok(Next::Resume),
        ExitReason::Sync => synchronous(active),
        ExitReason::SError => {
            events::serror(active);
            Ok(Next::Resume)
        }
        ExitReason::Illegal => {
            active.run().set_exit(bindings::KVM_EXIT_FAIL_ENTRY);
            Err(EINVAL)
        }
    }
}

fn synchronous(active: &mut Active<'_>) -> Result<Next> {
    let esr = active.context().exit.esr;
    let class = (esr >> 26) & 0x3f;
    if class == ec::HVC64 {
        active.vcpu.counters.add(VcpuStat::Hvc);
        return smccc::hvc(active);
    }
    if matches!(class, ec::DABT_LOW | ec::IABT_LOW) {
        return abort(active);
    }
    if !condition_holds(active) {
        active.advance_pc();
        return Ok(Next::Resume);
    }
    match class {
        ec::SYS64 => sysreg::trapped(active),
        ec::WFX => {
            active.advance_pc();
            if esr & WFX_ISS_WFE != 0 {
                active.vcpu.counters.add(VcpuStat::Wfe);
                // Somebody else may be what the guest waits for.
                timing::yield_cpu();
            } else if esr & WFX_ISS_TIMED == 0 {
                active.vcpu.counters.add(VcpuStat::Wfi);
                wait_for_interrupt(active);
            }
            // To end at once is allowed for all of them, and right for one with a time that nobody here measures.
            Ok(Next::Resume)
        }
        ec::SMC64 => smccc::smc(active),
        ec::BREAKPOINT_LOW | ec::STEP_LOW | ec::WATCHPOINT_LOW | ec::BKPT32 | ec::BRK64 => {
            Ok(debug::exit(active))
        }
        ec::FP_ASIMD if config::has_fp_trap(active.context()) => {
            config::give_fp(active.context_mut());
            Ok(Next::Resume)
        }
        ec::CP14_MR => aarch32::trapped(active, true),
        ec::CP15_32 => aarch32::trapped(active, false),
        ec::CP14_64 => aarch32::trapped_wide(active, true),
        ec::CP15_64 => aarch32::trapped_wide(active, false),
        // What is not there for the guest: SVE and SME, pointer authentication, the memory of AArch32's debug channel.
        _ => {
            events::inject_undefined(active);
            Ok(Next::Resume)
        }
    }
}

fn abort(active: &mut Active<'_>) -> Result<Next> {
    /// FSC: an exclusive or atomic access that the memory type of stage 2 does not support.
    const UNSUPPORTED_ATOMIC: u64 = 0x35;
    let GuestExit { esr, far, .. } = active.context().exit;
    if esr & 0x3f == UNSUPPORTED_ATOMIC {
        // The guest's own business: it chose the instruction.
        exception::abort(active.context_mut(), false, far, UNSUPPORTED_ATOMIC);
        return Ok(Next::Resume);
    }
    if events::is_external_abort(esr) {
        return events::external_abort(active);
    }
    match active.vm.handle_abort(active)? {
        Abort::Mapped => Ok(Next::Resume),
        Abort::Mmio { ipa } => mmio::abort(active, ipa),
    }
}

/// WFI: sleeps until there is an interrupt for the guest, somebody asks for something, or a signal comes.
pub(super) fn wait_for_interrupt(active: &mut Active<'_>) {
    let vcpu = active.vcpu;
    vcpu.sleep_until(|| events::interrupt_pending(active) || vcpu.has_requests());
    vcpu.take_request(Request::Unblock);
}

/// Sleeps while the vCPU is switched off. If a signal or another request comes first, the request to sleep stands.
pub(super) fn sleep_while_off(active: &Active<'_>) {
    let vcpu = active.vcpu;
    let off = || vcpu.power.lock().state == PowerState::Off;
    vcpu.sleep_until(|| !off() || vcpu.has_requests());
    if off() {
        vcpu.request(Request::Sleep);
    }
}

/// Whether the condition of a trapped AArch32 instruction holds (it need not: Arm ARM G1.21.2). AArch64 has no conditions.
fn condition_holds(active: &Active<'_>) -> bool {
    /// ISS.CV: the ISS has the condition.
    const CV: u64 = 1 << 24;
    let context = active.context();
    let (esr, spsr) = (context.exit.esr, context.regs.spsr);
    // Classes with the top two bits of EC set are unconditional.
    if esr >> 30 != 0 && (esr >> 30) & 3 == 3 {
        return true;
    }
    let condition = if esr & CV != 0 {
        (esr >> 20) & 0xf
    } else if spsr & (1 << 4) == 0 {
        return true;
    } else {
        // A Thumb instruction in an IT block has its condition there.
        let it = ((spsr >> 8) & 0xfc) | ((spsr >> 25) & 3);
        if it == 0 {
            return true;
        }
        it >> 4
    };
    holds(condition, spsr)
}

/// Arm ARM, `ConditionHolds`.
fn holds(condition: u64, spsr: u64) -> bool {
    let [n, z, c, v] = [31, 30, 29, 28].map(|bit| (spsr >> bit) & 1 != 0);
    let result = match condition >> 1 {
        0 => z,
        1 => c,
        2 => n,
        3 => v,
        4 => c && !z,
        5 => n == v,
        6 => n == v && !z,
        _ => return true,
    };
    result != (condition & 1 != 0)
}
