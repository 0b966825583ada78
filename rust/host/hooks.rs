// SPDX-License-Identifier: GPL-2.0-only

//! Host: registrations with the kernel, each undone when its guard is dropped.
//!
//! The callbacks find the [`Service`] through one static pointer, [`Published`], which is set before the first of them can
//! run and cleared after the last.
//!
//! Contexts: see each callback. Source: `kernel/cpu.c`, `kernel/cpu_pm.c`, `drivers/base/syscore.c` of Linux.

use core::{
    marker::PhantomData,
    ptr::null_mut, //
};

use kernel::{
    error::to_result,
    ffi::{
        c_int,
        c_ulong,
        c_void, //
    },
    prelude::*,
    sync::atomic::{
        Acquire,
        Atomic,
        Release, //
    },
    types::Opaque, //
};

use super::{
    inject::{
        self,
        Step, //
    },
    refused::{
        refuse,
        Reason,
        Refused, //
    },
    service::Service, //
};
use crate::{
    bindings,
    common::lifecycle::{
        self,
        Hook,
        State, //
    },
};

static SERVICE: Atomic<*mut Service> = Atomic::new(null_mut());

/// Runs `function` on the service, if there is one: callbacks may be called before it is published and after it is gone.
fn with_service<T>(function: impl FnOnce(&Service) -> T) -> Option<T> {
    // Acquire pairs with the Release of `Published::new`: the service is complete.
    let service = SERVICE.load(Acquire);
    // SAFETY: `Published` keeps the service alive until no callback can run any more, and this is only called by them.
    unsafe { service.as_ref() }.map(function)
}

/// Proof that interrupts are off on this CPU, by the kernel's own means, so that its books about it are right. It cannot
/// leave the CPU, and so neither can who holds it.
pub(crate) struct IrqsOff(PhantomData<*mut ()>);

impl IrqsOff {
    /// # Safety
    ///
    /// The caller is in a context in which the kernel has turned interrupts off, and drops the result before it leaves it.
    pub(super) unsafe fn assume() -> Self {
        Self(PhantomData)
    }
}

/// The service can be found by callbacks for as long as this lives.
pub(crate) struct Published(());

impl Published {
    /// Publishes `service`.
    ///
    /// # Safety
    ///
    /// `service` outlives the returned guard, and every other guard of this file is dropped before it.
    pub(crate) unsafe fn new(service: &Service) -> Self {
        SERVICE.store(core::ptr::from_ref(service).cast_mut(), Release);
        Self(())
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        SERVICE.store(null_mut(), Release);
    }
}

/// CPU hotplug: every CPU that is online is brought up, and every one that comes or goes later is followed.
///
/// The state is `CPUHP_AP_KVM_ONLINE`, as the kernel's own KVM uses it: its startup runs before any task can run on
/// the CPU, its teardown after all of them have left.
pub(crate) struct Hotplug(());

impl Hotplug {
    /// Brings all online CPUs up. If one refuses, those done are taken down again and its error is returned.
    pub(crate) fn new(service: &Service) -> Result<Self, Refused> {
        inject::loading("the hotplug state", |_| {
            // SAFETY: The callbacks are of the right type and live as long as the module; `drop` removes the state.
            to_result(unsafe {
                bindings::__cpuhp_setup_state(
                    bindings::cpuhp_state_CPUHP_AP_KVM_ONLINE,
                    c"eltwo:online".as_char_ptr(),
                    true,
                    Some(cpu_online),
                    Some(cpu_offline),
                    false,
                )
            })
            .map_err(|error| match error {
                // That CPU has said why.
                error if has_refusal(service) => Refused::told(error),
                EBUSY => refuse!(
                    EBUSY,
                    "the hotplug state of KVM is taken; remove the module that has it, or boot with kvm-arm.mode=none"
                ),
                error => error.tell("the hotplug state"),
            })
        })?;
        Ok(Self(()))
    }
}

impl Drop for Hotplug {
    fn drop(&mut self) {
        // SAFETY: The state was set up by `new`. With `invoke` the teardown runs on every online CPU.
        unsafe { bindings::__cpuhp_remove_state(bindings::cpuhp_state_CPUHP_AP_KVM_ONLINE, true) };
    }
}

/// Whether it was a CPU that kept the hotplug state from being set up: all others are back at the stub.
fn has_refusal(service: &Service) -> bool {
    service.cpus.iter().any(|cpu| cpu.state() != State::Stub)
}

/// Runs on the CPU's hotplug thread, interrupts on, hotplug lock held.
extern "C" fn cpu_online(cpu: u32) -> c_int {
    match with_service(|service| service.online(cpu)) {
        Some(Err(error)) => error.to_errno(),
        Some(Ok(())) | None => 0,
    }
}

/// As [`cpu_online`]. An error would be a BUG in the kernel at removal, so there is none.
extern "C" fn cpu_offline(cpu: u32) -> c_int {
    with_service(|service| service.offline(cpu));
    0
}

/// CPU power management: EL2 state is lost in deep idle, so the CPU is taken down before and brought up after.
pub(crate) struct CpuPm(Pin<KBox<Opaque<bindings::notifier_block>>>);

// SAFETY: The block is touched by the kernel alone, under its own lock.
unsafe impl Send for CpuPm {}
// SAFETY: As above.
unsafe impl Sync for CpuPm {}

impl CpuPm {
    /// Registers the notifier.
    pub(crate) fn new() -> Result<Self, Refused> {
        let block = Opaque::new(bindings::notifier_block {
            notifier_call: Some(cpu_pm_event),
            ..Default::default()
        });
        let block = inject::loading("the CPU PM notifier", |flags| KBox::pin(block, flags))?;
        inject::at(Step::CpuPm, |_| {
            // SAFETY: The block is pinned and lives until `drop` has unregistered it.
            to_result(unsafe { bindings::cpu_pm_register_notifier(block.get()) })
        })?;
        Ok(Self(block))
    }
}

impl Drop for CpuPm {
    fn drop(&mut self) {
        // SAFETY: `new` has registered the block. There is no other error than that it was not.
        let _ = unsafe { bindings::cpu_pm_unregister_notifier(self.0.get()) };
        // CPU_PM_EXIT walks the chain under RCU, and unregistering does not wait for it.
        // SAFETY: This is called from process context, with nothing held.
        unsafe { bindings::synchronize_rcu() };
    }
}

/// Runs on the CPU that goes or comes, usually in its idle task, interrupts off; must not sleep.
extern "C" fn cpu_pm_event(
    _block: *mut bindings::notifier_block,
    event: c_ulong,
    _data: *mut c_void,
) -> c_int {
    // SAFETY: See above.
    let irqs = unsafe { IrqsOff::assume() };
    with_service(|service| match event as bindings::cpu_pm_event {
        bindings::cpu_pm_event_CPU_PM_ENTER => service.sleep(&irqs, Hook::Nap),
        // ENTER_FAILED: the CPU has stayed up. EXIT: it has lost its state or not; both are told the same way.
        bindings::cpu_pm_event_CPU_PM_ENTER_FAILED | bindings::cpu_pm_event_CPU_PM_EXIT => {
            service.sleep(&irqs, Hook::Wake)
        }
        _ => {}
    });
    bindings::NOTIFY_OK as c_int
}

/// System suspend, hibernation, reboot, kexec.
pub(crate) struct Syscore(Pin<KBox<Opaque<bindings::syscore>>>);

// SAFETY: The block is touched by the kernel alone, under its own lock.
unsafe impl Send for Syscore {}
// SAFETY: As above.
unsafe impl Sync for Syscore {}

static SYSCORE_OPS: bindings::syscore_ops = bindings::syscore_ops {
    suspend: Some(system_suspend),
    resume: Some(system_resume),
    shutdown: Some(system_shutdown),
};

impl Syscore {
    /// Registers the operations.
    pub(crate) fn new() -> Result<Self, Refused> {
        let block = Opaque::new(bindings::syscore {
            node: Default::default(),
            ops: &SYSCORE_OPS,
            data: null_mut(),
        });
        let block = inject::at(Step::Syscore, |flags| KBox::pin(block, flags))?;
        // SAFETY: The block is pinned and lives until `drop` has unregistered it.
        unsafe { bindings::register_syscore(block.get()) };
        Ok(Self(block))
    }
}

impl Drop for Syscore {
    fn drop(&mut self) {
        // SAFETY: `new` has registered the block.
        unsafe { bindings::unregister_syscore(self.0.get()) };
    }
}

/// One CPU left, interrupts off.
extern "C" fn system_suspend(_data: *mut c_void) -> c_int {
    // SAFETY: See above.
    let irqs = unsafe { IrqsOff::assume() };
    with_service(|service| {
        service.image_may_go_stale();
        service.sleep(&irqs, Hook::Nap);
    });
    0
}

/// One CPU so far, interrupts off.
extern "C" fn system_resume(_data: *mut c_void) {
    // SAFETY: See above.
    let irqs = unsafe { IrqsOff::assume() };
    with_service(|service| service.sleep(&irqs, Hook::Wake));
}

/// Process context, interrupts on, hotplug disabled, all CPUs running.
extern "C" fn system_shutdown(_data: *mut c_void) {
    with_service(lifecycle::service::close);
}

/// Runs `function` on every online CPU with interrupts off, and waits for all.
pub(crate) fn on_each_cpu<F: Fn(&IrqsOff) + Sync>(mut function: F) {
    /// Hard interrupt context (on the calling CPU: interrupts off).
    ///
    /// # Safety
    ///
    /// `data` is an `F` that lives until this returns.
    unsafe extern "C" fn run<F: Fn(&IrqsOff) + Sync>(data: *mut c_void) {
        // SAFETY: By the contract of this function, and the kernel calls it with interrupts off.
        let (function, irqs) = unsafe { (&*data.cast::<F>(), IrqsOff::assume()) };
        function(&irqs);
    }
    // SAFETY: `run` takes what is passed; waiting keeps it alive; no condition and the mask of online CPUs.
    unsafe {
        bindings::on_each_cpu_cond_mask(
            None,
            Some(run::<F>),
            (&raw mut function).cast(),
            true,
            &raw const bindings::__cpu_online_mask,
        )
    };
}

/// Whether the system is on its way down, or to another kernel.
pub(crate) fn system_goes_down() -> bool {
    // SAFETY: A read of one word that the kernel changes by whole stores.
    unsafe {
        (&raw const bindings::system_state).read_volatile() > bindings::system_states_SYSTEM_RUNNING
    }
}

/// No CPU comes or goes, for as long as this lives. Process context.
pub(crate) struct HotplugHeld(());

impl HotplugHeld {
    /// Waits for who is coming or going.
    pub(crate) fn new() -> Self {
        // SAFETY: Process context, by the contract of the type; not within a callback of hotplug.
        unsafe { bindings::cpus_read_lock() };
        Self(())
    }
}

impl Drop for HotplugHeld {
    fn drop(&mut self) {
        // SAFETY: `new` has taken it.
        unsafe { bindings::cpus_read_unlock() };
    }
}

/// Whether the CPU with this number is online.
pub(crate) fn is_online(cpu: u32) -> bool {
    // SAFETY: The mask is the kernel's own; a number that is out of range would be a bug of the caller, who counts the
    // possible CPUs.
    unsafe { bindings::cpumask_test_cpu(cpu as c_int, &raw mut bindings::__cpu_online_mask) }
}

/// Runs `function` on `cpu` with interrupts off and returns its result; `None` if that CPU is offline.
pub(crate) fn on_cpu<T, F: FnOnce(&IrqsOff) -> T>(cpu: u32, function: F) -> Option<T> {
    struct Call<T, F> {
        function: Option<F>,
        result: Option<T>,
    }
    /// Hard interrupt context (on the calling CPU: interrupts off).
    ///
    /// # Safety
    ///
    /// `data` is a [`Call`] of the same type, lives until this returns, and nobody else uses it.
    unsafe extern "C" fn run<T, F: FnOnce(&IrqsOff) -> T>(data: *mut c_void) {
        // SAFETY: By the contract of this function, and the kernel calls it with interrupts off.
        let (call, irqs) = unsafe { (&mut *data.cast::<Call<T, F>>(), IrqsOff::assume()) };
        call.result = call.function.take().map(|function| function(&irqs));
    }
    let mut call = Call {
        function: Some(function),
        result: None,
    };
    // SAFETY: `run` takes what is passed; waiting keeps `call` alive. For an offline CPU it is not called.
    unsafe {
        bindings::smp_call_function_single(
            cpu as c_int,
            Some(run::<T, F>),
            (&raw mut call).cast(),
            // Wait. It is an `int` in Linux 7.2, and a `bool` in 7.3.
            true.into(),
        )
    };
    call.result
}
