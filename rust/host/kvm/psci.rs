// SPDX-License-Identifier: GPL-2.0-only

//! Host: PSCI, by which a guest switches its CPUs on and off.
//!
//! Source: Arm DEN 0022 (PSCI 1.3); behaviour as `arch/arm64/kvm/psci.c` of Linux.

use core::sync::atomic::Ordering;

use kernel::prelude::*;

use super::{
    attrs::Flag,
    events,
    exit::{
        self,
        Next, //
    },
    regs,
    vcpu::{
        Active,
        PowerState,
        Request,
        ResetTo,
        Vcpu, //
    },
};
use crate::{
    bindings,
    common::{
        exception::{
            self,
            pstate, //
        },
        idreg,
        smccc::{
            self,
            psci::*, //
        },
    },
    host::probe, //
};

/// ID_AA64PFR0_EL1.CSV2 of all CPUs.
fn csv2() -> u64 {
    idreg::field(probe::sanitised(idreg::AA64PFR0.linux_key()), 56)
}

/// Whether no CPU is affected by Spectre v2, by what the CPUs say themselves.
pub(super) fn spectre_v2_unaffected() -> bool {
    csv2() != 0
}

/// Whether no CPU is affected by Spectre BHB, by what the CPUs say themselves (FEAT_CSV2_3).
pub(super) fn spectre_bhb_unaffected() -> bool {
    csv2() >= 3
}

/// The version that this vCPU is told.
pub(super) fn version(active: &Active<'_>) -> u32 {
    if active.state().features & (1 << bindings::KVM_ARM_VCPU_PSCI_0_2) == 0 {
        return V0_1;
    }
    active.vm.arch().psci_version().unwrap_or(V1_3)
}

/// Takes over what a CPU_ON has left for this vCPU.
pub(crate) fn apply_reset(active: &mut Active<'_>) {
    let to = active.vcpu.power.lock().reset.take();
    // KVM_ARM_VCPU_INIT may have been faster.
    if to.is_some() {
        regs::reset(active, to);
    }
}

/// A PSCI call: the function is in w0, arguments in x1..x3. The PC is past the instruction.
pub(super) fn call(active: &mut Active<'_>) -> Result<Next> {
    let function = regs::x(active.context(), 0) as u32;
    let version = version(active);
    if !is_allowed(active, function) {
        return answer(active, NOT_SUPPORTED);
    }
    if version == V0_1 {
        return call_0_1(active, function);
    }
    // What has a 64-bit twin takes arguments of 64 bits there, of 32 bits else.
    let wide = function & SMC64 != 0;
    let [first, second, third] = [1, 2, 3].map(|number| {
        let value = regs::x(active.context(), number);
        if wide {
            value
        } else {
            value & 0xffff_ffff
        }
    });
    let known = !wide || has_twin(function & !SMC64);
    let function = if known { function & !SMC64 } else { function };
    match function {
        VERSION => answer(active, u64::from(version)),
        CPU_SUSPEND => {
            // All states are as after WFI, so registers are kept.
            exit::wait_for_interrupt(active);
            answer(active, SUCCESS)
        }
        CPU_OFF => {
            events::set_power(active, PowerState::Off);
            answer(active, SUCCESS)
        }
        CPU_ON => {
            let result = switch_on(active, first, second, third);
            answer(active, result)
        }
        AFFINITY_INFO => {
            let result = affinity_info(active, first, second);
            answer(active, result)
        }
        MIGRATE_INFO_TYPE => answer(active, NO_MIGRATION),
        SYSTEM_OFF => system_event(active, bindings::KVM_SYSTEM_EVENT_SHUTDOWN, 0),
        SYSTEM_RESET => system_event(active, bindings::KVM_SYSTEM_EVENT_RESET, 0),
        _ if version >= V1_0 => call_1(active, function, version, [first, second]),
        _ => answer(active, NOT_SUPPORTED),
    }
}

/// What came with PSCI 1.0 and later.
fn call_1(
    active: &mut Active<'_>,
    function: u32,
    version: u32,
    [first, second]: [u64; 2],
) -> Result<Next> {
    match function {
        FEATURES => {
            let result = features(active, first as u32, version);
            answer(active, result)
        }
        // User space finds the arguments in the registers, and answers there.
        SYSTEM_SUSPEND if active.vm.arch().has(Flag::SystemSuspend) => {
            regs::set_x(active.context_mut(), 1, first);
            regs::set_x(active.context_mut(), 2, second);
            tell(active, bindings::KVM_SYSTEM_EVENT_SUSPEND, None);
            Ok(Next::ToUser)
        }
        SYSTEM_RESET2 if version >= V1_1 && is_reset_type(first) => system_event(
            active,
            bindings::KVM_SYSTEM_EVENT_RESET,
            u64::from(bindings::KVM_SYSTEM_EVENT_RESET_FLAG_PSCI_RESET2),
        ),
        SYSTEM_OFF2 if version >= V1_3 && is_off_type(first, second) => system_event(
            active,
            bindings::KVM_SYSTEM_EVENT_SHUTDOWN,
            u64::from(bindings::KVM_SYSTEM_EVENT_SHUTDOWN_FLAG_PSCI_OFF2),
        ),
        SYSTEM_RESET2 if version >= V1_1 => answer(active, INVALID_PARAMETERS),
        SYSTEM_OFF2 if version >= V1_3 => answer(active, INVALID_PARAMETERS),
        _ => answer(active, NOT_SUPPORTED),
    }
}

fn call_0_1(active: &mut Active<'_>, function: u32) -> Result<Next> {
    let [target, entry, argument] = [1, 2, 3].map(|number| regs::x(active.context(), number));
    let result = match function {
        V0_1_CPU_OFF => {
            events::set_power(active, PowerState::Off);
            SUCCESS
        }
        // PSCI 0.1 has no other words for a CPU that is on.
        V0_1_CPU_ON => match switch_on(active, target, entry, argument) {
            ALREADY_ON => INVALID_PARAMETERS,
            result => result,
        },
        _ => NOT_SUPPORTED,
    };
    answer(active, result)
}

/// AArch32 cannot make 64-bit calls.
fn is_allowed(active: &Active<'_>, function: u32) -> bool {
    function & SMC64 == 0 || active.context().regs.spsr & pstate::AARCH32 == 0
}

/// Whether there is a 64-bit twin of `function`.
fn has_twin(function: u32) -> bool {
    matches!(
        function,
        CPU_SUSPEND | CPU_ON | AFFINITY_INFO | SYSTEM_SUSPEND | SYSTEM_RESET2 | SYSTEM_OFF2
    )
}

/// PSCI_FEATURES.
fn features(active: &Active<'_>, function: u32, version: u32) -> u64 {
    if function == smccc::call::VERSION {
        return SUCCESS;
    }
    let plain = function & !SMC64;
    if !is_allowed(active, function) || (function != plain && !has_twin(plain)) {
        return NOT_SUPPORTED;
    }
    match plain {
        VERSION | CPU_SUSPEND | CPU_OFF | CPU_ON | AFFINITY_INFO | MIGRATE_INFO_TYPE
        | SYSTEM_OFF | SYSTEM_RESET | FEATURES => SUCCESS,
        SYSTEM_SUSPEND if active.vm.arch().has(Flag::SystemSuspend) => SUCCESS,
        SYSTEM_RESET2 if version >= V1_1 => SUCCESS,
        SYSTEM_OFF2 if version >= V1_3 => HIBERNATE_OFF,
        _ => NOT_SUPPORTED,
    }
}

/// CPU_ON.
fn switch_on(active: &Active<'_>, target: u64, pc: u64, x0: u64) -> u64 {
    if target & !AFFINITY != 0 {
        return INVALID_PARAMETERS;
    }
    let to = ResetTo {
        pc,
        x0,
        big_endian: exception::is_big_endian(active.context()),
    };
    let mut result = None;
    active.vm.for_each_vcpu(&mut |vcpu| {
        if result.is_none() && affinity(vcpu) == target {
            result = Some(start(vcpu, to));
        }
    });
    result.unwrap_or(INVALID_PARAMETERS)
}

fn start(vcpu: &Vcpu, to: ResetTo) -> u64 {
    {
        let mut power = vcpu.power.lock();
        if power.state != PowerState::Off {
            return ALREADY_ON;
        }
        power.reset = Some(to);
        // Before the state changes: whoever sees the vCPU on sees that it must be reset first.
        vcpu.request(Request::Reset);
        power.state = PowerState::On;
    }
    vcpu.wake();
    SUCCESS
}

fn affinity(vcpu: &Vcpu) -> u64 {
    vcpu.mpidr.load(Ordering::Relaxed) & AFFINITY
}

/// AFFINITY_INFO.
fn affinity_info(active: &Active<'_>, target: u64, lowest_level: u64) -> u64 {
    let Some((mask, target)) = affinity_of(target, lowest_level) else {
        return INVALID_PARAMETERS;
    };
    let mut result = INVALID_PARAMETERS;
    active.vm.for_each_vcpu(&mut |vcpu| {
        if affinity(vcpu) & mask != target {
            return;
        }
        if vcpu.power.lock().state != PowerState::Off {
            result = AFFINITY_ON;
        } else if result != AFFINITY_ON {
            result = AFFINITY_OFF;
        }
    });
    result
}

/// The machine goes down: no vCPU runs until user space has started it again, and user space is told.
///
/// The guest finds INTERNAL_FAILURE if it runs on nevertheless.
fn system_event(active: &mut Active<'_>, kind: u32, flags: u64) -> Result<Next> {
    active.vm.for_each_vcpu(&mut |vcpu| {
        vcpu.power.lock().state = PowerState::Off;
        vcpu.request(Request::Sleep);
        vcpu.kick();
    });
    super::smccc::answer(active, [INTERNAL_FAILURE, 0, 0, 0]);
    tell(active, kind, Some(flags));
    Ok(Next::ToUser)
}

/// `system_event` of `struct kvm_run`.
#[repr(C)]
struct SystemEvent {
    kind: u32,
    count: u32,
    data: [u64; 16],
}

fn tell(active: &Active<'_>, kind: u32, flags: Option<u64>) {
    let mut data = [0; 16];
    data[0] = flags.unwrap_or(0);
    let run = active.run();
    let event = SystemEvent {
        kind,
        count: u32::from(flags.is_some()),
        data,
    };
    // SAFETY: The union has room for it, in a page that is alive.
    unsafe { run.exit_data::<SystemEvent>().write_volatile(event) };
    run.set_exit(bindings::KVM_EXIT_SYSTEM_EVENT);
}

/// The answer of a call, and on with the guest.
fn answer(active: &mut Active<'_>, x0: u64) -> Result<Next> {
    super::smccc::answer(active, [x0, 0, 0, 0]);
    Ok(Next::Resume)
}
