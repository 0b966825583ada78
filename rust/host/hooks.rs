// SPDX-License-Identifier: GPL-2.0-only

//! Host: registrations with the kernel, each undone when its guard is dropped.
//!
//! The callbacks find the [`Service`] through one static pointer, [`Published`], which is set before the first of them can
//! run and cleared after the last.
//!
//! Contexts: see each callback. Source: `kernel/cpu.c`, `kernel/cpu_pm.c`, `drivers/base/syscore.c` of Linux.

use core::{
    ptr::null_mut,
    sync::atomic::{
        AtomicPtr,
        Ordering, //
    },
};

use kernel::{
    error::to_result,
    ffi::{
        c_int,
        c_ulong,
        c_void, //
    },
    prelude::*, //
};

use super::service::Service;
use crate::bindings;

static SERVICE: AtomicPtr<Service> = AtomicPtr::new(null_mut());

/// The service, if a callback runs between registration and removal.
fn service() -> Option<&'static Service> {
    // Acquire pairs with the Release of `Published::new`: the service is complete.
    let service = SERVICE.load(Ordering::Acquire);
    // SAFETY: `Published` keeps the service alive until no callback can run any more.
    unsafe { service.as_ref() }
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
        SERVICE.store(core::ptr::from_ref(service).cast_mut(), Ordering::Release);
        Self(())
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        SERVICE.store(null_mut(), Ordering::Release);
    }
}

/// CPU hotplug: every CPU that is online is brought up, and every one that comes or goes later is followed.
///
/// The state is `CPUHP_AP_KVM_ONLINE`, as the kernel's own KVM uses it: its startup runs before any task can run on
/// the CPU, its teardown after all of them have left.
pub(crate) struct Hotplug(());

impl Hotplug {
    /// Brings all online CPUs up. If one refuses, those done are taken down again and its error is returned.
    pub(crate) fn new() -> Result<Self> {
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
        .inspect_err(|error| {
            if *error == EBUSY {
                pr_err!(
                    "refused: the hotplug state of KVM is taken; boot with kvm-arm.mode=none\n"
                );
            }
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

/// Runs on the CPU's hotplug thread, interrupts on, hotplug lock held.
extern "C" fn cpu_online(_cpu: u32) -> c_int {
    match service().map(Service::bring_up_this_cpu) {
        Some(Err(error)) => error.to_errno(),
        Some(Ok(())) | None => 0,
    }
}

/// As [`cpu_online`]. An error would be a BUG in the kernel at removal, so there is none.
extern "C" fn cpu_offline(_cpu: u32) -> c_int {
    if let Some(service) = service() {
        service.take_down_this_cpu();
    }
    0
}

/// CPU power management: EL2 state is lost in deep idle, so the CPU is taken down before and brought up after.
pub(crate) struct CpuPm(Pin<KBox<Notifier>>);

struct Notifier(bindings::notifier_block);

// SAFETY: The block is only touched by the kernel between registration and removal, under the kernel's own lock.
unsafe impl Send for Notifier {}
// SAFETY: As above.
unsafe impl Sync for Notifier {}

impl CpuPm {
    /// Registers the notifier.
    pub(crate) fn new() -> Result<Self> {
        let mut notifier = KBox::pin(
            Notifier(bindings::notifier_block {
                notifier_call: Some(cpu_pm_event),
                ..Default::default()
            }),
            GFP_KERNEL,
        )?;
        // SAFETY: The block is pinned and lives until `drop` has unregistered it.
        to_result(unsafe {
            bindings::cpu_pm_register_notifier(&mut notifier.as_mut().get_unchecked_mut().0)
        })?;
        Ok(Self(notifier))
    }
}

impl Drop for CpuPm {
    fn drop(&mut self) {
        // SAFETY: `new` has registered the block.
        let result = unsafe {
            bindings::cpu_pm_unregister_notifier(&mut self.0.as_mut().get_unchecked_mut().0)
        };
        if result != 0 {
            pr_err!("cpu_pm_unregister_notifier failed with {result}\n");
        }
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
    if let Some(service) = service() {
        match event as bindings::cpu_pm_event {
            bindings::cpu_pm_event_CPU_PM_ENTER => service.suspend_this_cpu(),
            // ENTER_FAILED: the CPU has stayed up. EXIT: it has lost its state or not; both are told the same way.
            bindings::cpu_pm_event_CPU_PM_ENTER_FAILED | bindings::cpu_pm_event_CPU_PM_EXIT => {
                service.resume_this_cpu()
            }
            _ => {}
        }
    }
    bindings::NOTIFY_OK as c_int
}

/// System suspend, hibernation, reboot, kexec.
pub(crate) struct Syscore(Pin<KBox<SyscoreBlock>>);

struct SyscoreBlock(bindings::syscore);

// SAFETY: As for `Notifier`.
unsafe impl Send for SyscoreBlock {}
// SAFETY: As above.
unsafe impl Sync for SyscoreBlock {}

static SYSCORE_OPS: bindings::syscore_ops = bindings::syscore_ops {
    suspend: Some(system_suspend),
    resume: Some(system_resume),
    shutdown: Some(system_shutdown),
};

impl Syscore {
    /// Registers the operations.
    pub(crate) fn new() -> Result<Self> {
        let mut block = KBox::pin(
            SyscoreBlock(bindings::syscore {
                node: Default::default(),
                ops: &SYSCORE_OPS,
                data: null_mut(),
            }),
            GFP_KERNEL,
        )?;
        // SAFETY: The block is pinned and lives until `drop` has unregistered it.
        unsafe { bindings::register_syscore(&mut block.as_mut().get_unchecked_mut().0) };
        Ok(Self(block))
    }
}

impl Drop for Syscore {
    fn drop(&mut self) {
        // SAFETY: `new` has registered the block.
        unsafe { bindings::unregister_syscore(&mut self.0.as_mut().get_unchecked_mut().0) };
    }
}

/// One CPU left, interrupts off.
extern "C" fn system_suspend(_data: *mut c_void) -> c_int {
    if let Some(service) = service() {
        service.suspend_this_cpu();
    }
    0
}

/// One CPU so far, interrupts off.
extern "C" fn system_resume(_data: *mut c_void) {
    if let Some(service) = service() {
        service.clean_after_restore();
        service.resume_this_cpu();
    }
}

/// Process context, interrupts on, hotplug disabled, all CPUs running.
extern "C" fn system_shutdown(_data: *mut c_void) {
    if let Some(service) = service() {
        service.close();
    }
}

/// Runs `function` on every online CPU with interrupts off, and waits for all.
pub(crate) fn on_each_cpu(service: &Service, function: fn(&Service)) {
    struct Call<'a> {
        service: &'a Service,
        function: fn(&Service),
    }
    /// Hard interrupt context (on the calling CPU: interrupts off).
    ///
    /// # Safety
    ///
    /// `data` is a [`Call`] that lives until this returns.
    unsafe extern "C" fn run(data: *mut c_void) {
        // SAFETY: By the contract of this function.
        let call = unsafe { &*data.cast::<Call<'_>>() };
        (call.function)(call.service);
    }
    let mut call = Call { service, function };
    // SAFETY: `run` takes what is passed; waiting keeps `call` alive; no condition and the mask of online CPUs.
    unsafe {
        bindings::on_each_cpu_cond_mask(
            None,
            Some(run),
            (&raw mut call).cast(),
            true,
            &raw const bindings::__cpu_online_mask,
        )
    };
}

/// Whether the CPU with this number is online.
pub(crate) fn is_online(cpu: u32) -> bool {
    // SAFETY: The mask is the kernel's own; a number that is out of range would be a bug of the caller, who counts the
    // possible CPUs.
    unsafe { bindings::cpumask_test_cpu(cpu as c_int, &raw mut bindings::__cpu_online_mask) }
}

/// Runs `function` on `cpu` with interrupts off and returns its result; `None` if that CPU is offline.
pub(crate) fn on_cpu<T>(service: &Service, cpu: u32, function: fn(&Service) -> T) -> Option<T> {
    struct Call<'a, T> {
        service: &'a Service,
        function: fn(&Service) -> T,
        result: Option<T>,
    }
    /// Hard interrupt context.
    ///
    /// # Safety
    ///
    /// `data` is a [`Call`] of the same type, lives until this returns, and nobody else uses it.
    unsafe extern "C" fn run<T>(data: *mut c_void) {
        // SAFETY: By the contract of this function.
        let call = unsafe { &mut *data.cast::<Call<'_, T>>() };
        call.result = Some((call.function)(call.service));
    }
    let mut call = Call {
        service,
        function,
        result: None,
    };
    // SAFETY: `run` takes what is passed; waiting keeps `call` alive. For an offline CPU it is not called.
    unsafe {
        bindings::smp_call_function_single(cpu as c_int, Some(run::<T>), (&raw mut call).cast(), 1)
    };
    call.result
}
