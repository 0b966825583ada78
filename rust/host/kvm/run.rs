// SPDX-License-Identifier: GPL-2.0-only

//! Host: KVM_RUN.
//!
//! The order around the entry is that of `kvm_arch_vcpu_ioctl_run` (`arch/arm64/kvm/arm.c` of Linux): interrupts off, the mode
//! that makes others send IPIs, then a look at the task's work and the requests, which closes the race with those who ask;
//! accounting; the guest; after an interrupt a window in which it is taken while its time still counts as the guest's. Task
//! work and requests are dealt with in the loop around that, with interrupts on, and found by that one look.
//!
//! Preemption is off where interrupts are; only the window needs it off by itself.

use core::{
    ptr,
    sync::atomic::{
        AtomicU32,
        Ordering, //
    },
};

use kernel::{
    cpu::nr_cpu_ids,
    prelude::*, //
};

use super::{
    config, debug,
    exit::{
        self,
        Next, //
    },
    mmio, psci, pvtime, regs,
    stats::VcpuStat,
    vcpu::{
        Active,
        PowerState,
        Request, //
    },
};
use crate::{
    arch::el1,
    bindings,
    common::guest::{
        flags,
        ExitReason, //
    },
    host::{
        inject,
        provoke::Injected,
        timing::{
            self,
            IrqsMasked,
            PreemptOff, //
        },
    },
};

/// Which vCPU of a VM ran last, by CPU. Written by that CPU alone, with interrupts masked.
pub(crate) struct LastRan(KVec<AtomicU32>);

impl LastRan {
    /// None ran yet.
    pub(crate) fn new() -> Result<Self> {
        let flags = inject::account("what ran last on each CPU")?;
        let mut last = KVec::with_capacity(nr_cpu_ids() as usize, flags)?;
        for _ in 0..nr_cpu_ids() {
            last.push(AtomicU32::new(u32::MAX), flags)?;
        }
        Ok(Self(last))
    }

    /// Notes that `vcpu` runs on `cpu` now, and tells whether another one did before.
    fn changes(&self, cpu: u32, vcpu: u32) -> bool {
        self.0.get(cpu as usize).is_none_or(|last| {
            let changes = last.load(Ordering::Relaxed) != vcpu;
            if changes {
                last.store(vcpu, Ordering::Relaxed);
            }
            changes
        })
    }

    /// What `changes` has told about `cpu` was not acted upon: the next vCPU there counts as another one.
    #[cold]
    fn forget(&self, cpu: u32) {
        if let Some(last) = self.0.get(cpu as usize) {
            last.store(u32::MAX, Ordering::Relaxed);
        }
    }
}

/// The signal mask of KVM_RUN is in place for as long as this lives.
struct SignalMask(bool);

impl SignalMask {
    fn new(active: &Active<'_>) -> Self {
        let Some(mut mask) = active.state().sigmask else {
            return Self(false);
        };
        // SAFETY: The mask that `drop` restores is kept in a field of the current task that only itself changes.
        unsafe {
            let real_blocked = &raw mut (*el1::current_task()).real_blocked;
            bindings::sigprocmask(bindings::SIG_SETMASK as i32, &mut mask, real_blocked);
        }
        Self(true)
    }
}

impl Drop for SignalMask {
    fn drop(&mut self) {
        if !self.0 {
            return;
        }
        // SAFETY: As in `new`. Nothing else of KVM_RUN uses the field.
        unsafe {
            let real_blocked = &raw mut (*el1::current_task()).real_blocked;
            bindings::sigprocmask(bindings::SIG_SETMASK as i32, real_blocked, ptr::null_mut());
            (*real_blocked).sig = [0];
        }
    }
}

/// KVM_RUN.
///
/// # Errors
///
/// As the API says: `ENOEXEC` before KVM_ARM_VCPU_INIT, `EINTR` for a signal or `immediate_exit`, `EIO` if the VM or EL2 is
/// dead.
pub(super) fn run(active: &mut Active<'_>) -> Result {
    if !active.state().initialized {
        return Err(ENOEXEC);
    }
    if !active.state().ever_ran {
        config::prepare(active)?;
        regs::first_run(active)?;
        active.state_mut().ever_ran = true;
    }
    let run = active.run();
    let wanted = !run.immediate_exit();
    if run.exit_reason() == bindings::KVM_EXIT_MMIO {
        mmio::complete(active)?;
    }
    if !wanted {
        return Err(EINTR);
    }
    let _mask = SignalMask::new(active);
    let _running = active.start_running();
    run.set_exit(bindings::KVM_EXIT_UNKNOWN);
    run.set_flags(0);
    // Guests that do not use FP/SIMD need not pay for it: the first use in each KVM_RUN traps.
    config::take_fp(active.context_mut());
    config::trap_wfe(active.context_mut(), !timing::is_alone());
    pvtime::update(active);
    regs::begin_run(active);
    let outcome = run_to_exit(active);
    regs::end_run(active);
    timing::note_return_to_user();
    outcome
}

/// Runs the guest until there is something for user space.
fn run_to_exit(active: &mut Active<'_>) -> Result {
    loop {
        let next = match enter(active) {
            Ok(Entry::Exited(reason)) => exit::handle(active, reason)?,
            Ok(Entry::WorkFirst) => {
                handle_task_work(active)?;
                config::trap_wfe(active.context_mut(), !timing::is_alone());
                pvtime::update(active);
                handle_requests(active)?
            }
            Ok(Entry::NoEl2(cpu)) if !active.vm.service().has_failed() => {
                no_el2(active, cpu);
                Next::ToUser
            }
            // There was an exception at EL2, here or elsewhere.
            Ok(Entry::NoEl2(_)) | Err(_) => {
                active.vm.service().settle();
                // No guest goes on, and none that sleeps must wait for ever.
                active.vm.kill_all();
                return Err(EIO);
            }
        };
        if next == Next::ToUser {
            return Ok(());
        }
    }
}

/// Signals, rescheduling and the like.
fn handle_task_work(active: &Active<'_>) -> Result {
    if !timing::task_work_pending() {
        return Ok(());
    }
    // SAFETY: Process context, interrupts on, nothing held but the vCPU's mutex, which a killed process waits for.
    let result = kernel::error::to_result(unsafe { bindings::xfer_to_guest_mode_handle_work() });
    if result.is_err() {
        active.run().set_exit(bindings::KVM_EXIT_INTR);
        active.vcpu.counters.add(VcpuStat::Signals);
    }
    result
}

fn handle_requests(active: &mut Active<'_>) -> Result<Next> {
    let vcpu = active.vcpu;
    if vcpu.take_request(Request::VmDead) {
        return Err(EIO);
    }
    if vcpu.take_request(Request::Sleep) {
        exit::sleep_while_off(active);
    }
    if vcpu.take_request(Request::Reset) {
        psci::apply_reset(active);
    }
    vcpu.take_request(Request::IrqPending);
    vcpu.take_request(Request::Unblock);
    if vcpu.take_request(Request::Suspend) {
        return Ok(suspend(active));
    }
    Ok(Next::Resume)
}

/// The vCPU is suspended (KVM_MP_STATE_SUSPENDED): it waits as after WFI. User space alone ends this state; it is told
/// when there is something to wake up for.
fn suspend(active: &mut Active<'_>) -> Next {
    if active.vcpu.power.lock().state != PowerState::Suspended {
        return Next::Resume;
    }
    exit::wait_for_interrupt(active);
    active.vcpu.request(Request::Suspend);
    if !super::events::interrupt_pending(active) {
        return Next::Resume;
    }
    let run = active.run();
    let event = run.exit_data::<bindings::kvm_run__bindgen_ty_1__bindgen_ty_19>();
    // SAFETY: The union has room for it, in a page that is alive. Zeroes are a valid value.
    unsafe {
        event.write_bytes(0, 1);
        (&raw mut (*event).type_).write_volatile(bindings::KVM_SYSTEM_EVENT_WAKEUP);
    }
    run.set_exit(bindings::KVM_EXIT_SYSTEM_EVENT);
    Next::ToUser
}

/// What became of an entry.
enum Entry {
    /// The guest ran, and stopped for this.
    Exited(ExitReason),
    /// The task's work or a request comes first.
    WorkFirst,
    /// EL2 of the CPU with this number is not ours.
    NoEl2(u32),
}

/// Runs the guest once.
///
/// # Errors
///
/// `EIO` if EL2 took an exception: it has been contained, and no guest runs any more.
fn enter(active: &mut Active<'_>) -> Result<Entry> {
    let (vcpu, vm) = (active.vcpu, active.vm);
    let service = vm.service();
    let masked = IrqsMasked::new();
    let cpu = service.this_cpu(masked.proof()).ok_or(EIO)?;
    vcpu.enter_mode();
    if vcpu.has_requests() || timing::task_work_pending() {
        vcpu.leave_mode();
        return Ok(Entry::WorkFirst);
    }
    if !cpu.may_run(service, masked.proof()) {
        vcpu.leave_mode();
        return Ok(Entry::NoEl2(cpu.number()));
    }
    let Some(vttbr) = vm.enter_vttbr(cpu.number()) else {
        vcpu.leave_mode();
        return Ok(Entry::NoEl2(cpu.number()));
    };
    let flush = vm.last_ran().changes(cpu.number(), vcpu.index())
        | core::mem::take(&mut active.state_mut().relaxed);
    let config = &mut active.context_mut().config;
    config.vttbr = vttbr;
    config::adapt(config, cpu);
    config.flags = (config.flags & !(1 << flags::FLUSH)) | (u64::from(flush) << flags::FLUSH);
    config.hcr = (config.hcr & !config::hcr::LINES) | vcpu.irq_lines.load(Ordering::Relaxed);
    config.cntvoff = vm.arch().virtual_offset();
    config.cnthctl = config::cnthctl(vm.arch().physical_offset());
    let fp = config.flags & (1 << flags::FP) != 0;
    if fp {
        timing::save_user_fp(masked.proof());
    }
    let host_debug = debug::load(active);
    let pstate = active.context().regs.spsr;
    let injected = Injected::take(&mut active.context_mut().config);
    timing::guest_enter(masked.proof());
    let outcome = cpu.run_guest(service, vcpu.hyp_va(), masked.proof());
    timing::guest_left(masked.proof());
    if let Some(injected) = injected {
        injected.end(
            &mut active.context_mut().config,
            cpu.number(),
            outcome.is_err(),
        );
    }
    if let Some(host) = host_debug {
        // SAFETY: Interrupts are still masked, and the guest has been left: EL2 has put the kernel's registers back.
        unsafe { host.restore() };
    }
    vcpu.leave_mode();
    if flush && active.context().config.flags & (1 << flags::FLUSH) != 0 {
        // EL2 came back at once: the flush is still owed, here for the one reason and anywhere for the other.
        vm.last_ran().forget(cpu.number());
        active.state_mut().relaxed = true;
    }
    if fp {
        timing::release_fp(masked.proof());
    }
    if outcome == Ok(ExitReason::Sync) {
        debug::settle_pstate(active, pstate);
    }
    if outcome == Ok(ExitReason::Irq) {
        take_interrupt(masked);
    } else {
        timing::guest_exit();
    }
    match outcome {
        // The stub has answered: somebody has given this CPU back behind our back, and the guest did not run.
        Err(error) if error == EBUSY => Ok(Entry::NoEl2(cpu.number())),
        outcome => outcome.map(Entry::Exited),
    }
}

/// The interrupt that ended the guest's run is taken here, the tick above all, while the time is still the guest's.
#[inline(never)]
fn take_interrupt(mut masked: IrqsMasked) {
    // Else the task could be preempted in the window, and run on with the guest's name on its time.
    let _preempt = PreemptOff::new();
    masked.open_window();
    timing::guest_exit();
    timing::note_quiescent(masked.proof());
    // Interrupts on, then preemption.
    drop(masked);
}

/// EL2 of this CPU is not ours: the system goes down, or somebody has reset the CPU.
fn no_el2(active: &Active<'_>, cpu: u32) {
    let run = active.run();
    let entry = run.exit_data::<bindings::kvm_run__bindgen_ty_1__bindgen_ty_2>();
    // SAFETY: The union has room for it, in a page that is alive.
    unsafe {
        (&raw mut (*entry).hardware_entry_failure_reason)
            .write_volatile(u64::from(bindings::KVM_EXIT_FAIL_ENTRY_CPU_UNSUPPORTED));
        (&raw mut (*entry).cpu).write_volatile(cpu);
    }
    run.set_exit(bindings::KVM_EXIT_FAIL_ENTRY);
}
