// SPDX-License-Identifier: GPL-2.0-only

//! Host: what the kernel's inline functions do around a guest: preemption, accounting of time, RCU, FP/SIMD.
//!
//! None of these can be called from Rust, so they are made from what is exported. Source: `include/linux/{preempt,vtime,
//! context_tracking_state,kvm_host,entry-virt}.h` of Linux.

use core::{
    marker::PhantomData,
    ptr,
    sync::atomic::{
        compiler_fence,
        AtomicBool,
        AtomicI32,
        AtomicU32,
        AtomicU64,
        Ordering, //
    },
};

use super::hooks::IrqsOff;
use crate::{
    arch::el1,
    bindings, //
};

/// DAIF.I: IRQs are masked.
#[cfg(CONFIG_TRACE_IRQFLAGS)]
const DAIF_I: u64 = 1 << 7;

/// Interrupts of this CPU are off for as long as this lives, so the task stays on its CPU.
pub(crate) struct IrqsMasked {
    daif: u64,
    proof: IrqsOff,
}

impl IrqsMasked {
    /// As `local_irq_disable`. `probe` has refused kernels that mask by priority (pseudo-NMI).
    #[inline]
    pub(crate) fn new() -> Self {
        let daif = el1::mask_irqs();
        tell_masked(daif);
        // SAFETY: Interrupts are off until `drop`, but for `open_window`, which borrows the whole.
        let proof = unsafe { IrqsOff::assume() };
        Self { daif, proof }
    }

    /// Proof that they are.
    #[inline]
    pub(crate) fn proof(&self) -> &IrqsOff {
        &self.proof
    }

    /// Takes what is pending, and masks again.
    #[inline]
    pub(crate) fn open_window(&mut self) {
        self.unmask();
        el1::take_interrupts();
        self.daif = el1::mask_irqs();
        tell_masked(self.daif);
    }

    #[inline]
    fn unmask(&mut self) {
        #[cfg(CONFIG_TRACE_IRQFLAGS)]
        if self.daif & DAIF_I == 0 {
            // SAFETY: They are about to be unmasked.
            unsafe { bindings::trace_hardirqs_on() };
        }
        // SAFETY: The value is from this CPU, by `new` or `open_window`.
        unsafe { el1::restore_irqs(self.daif) };
    }
}

impl Drop for IrqsMasked {
    #[inline]
    fn drop(&mut self) {
        self.unmask();
    }
}

/// Tells the kernel that interrupts are masked now, if they were not before, by `daif`.
#[inline]
fn tell_masked(_daif: u64) {
    #[cfg(CONFIG_TRACE_IRQFLAGS)]
    if _daif & DAIF_I == 0 {
        // SAFETY: Interrupts have just been masked.
        unsafe { bindings::trace_hardirqs_off() };
    }
}

/// The task cannot be preempted for as long as this lives.
pub(crate) struct PreemptOff(PhantomData<*mut ()>);

/// The count of the current task. Only the task itself changes it.
fn preempt_count() -> &'static AtomicU32 {
    // SAFETY: The current task is alive while it runs this, and the count is an aligned `u32`.
    unsafe {
        AtomicU32::from_ptr(
            &raw mut (*el1::current_task())
                .thread_info
                .__bindgen_anon_1
                .preempt
                .count,
        )
    }
}

impl PreemptOff {
    /// As `preempt_disable`.
    pub(crate) fn new() -> Self {
        let count = preempt_count();
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        Self(PhantomData)
    }
}

impl Drop for PreemptOff {
    fn drop(&mut self) {
        compiler_fence(Ordering::SeqCst);
        let count = preempt_count();
        count.store(count.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
        // Count and inverted "need resched" are one word: zero means that both are due.
        // SAFETY: As in `preempt_count`; the word is an aligned `u64`.
        let word = unsafe {
            AtomicU64::from_ptr(
                &raw mut (*el1::current_task())
                    .thread_info
                    .__bindgen_anon_1
                    .preempt_count,
            )
        };
        if word.load(Ordering::Relaxed) == 0 {
            #[cfg(CONFIG_PREEMPTION)]
            // SAFETY: It checks by itself whether preemption is possible here.
            unsafe {
                bindings::preempt_schedule()
            };
        }
    }
}

/// Lets other tasks run.
pub(crate) fn yield_cpu() {
    // SAFETY: Process context, with nothing held that must not sleep.
    unsafe { bindings::yield_() };
}

/// Whether no other task waits for this CPU. It is a hint: the next moment it may be otherwise.
pub(crate) fn is_alone() -> bool {
    // SAFETY: It looks at a counter of whatever CPU this runs on.
    unsafe { bindings::single_task_running() }
}

/// Signals, rescheduling, task work: what has to be done before a guest runs.
#[inline]
pub(crate) fn task_work_pending() -> bool {
    const WORK: u64 = (bindings::_TIF_NEED_RESCHED
        | bindings::_TIF_NEED_RESCHED_LAZY
        | bindings::_TIF_SIGPENDING
        | bindings::_TIF_NOTIFY_SIGNAL
        | bindings::_TIF_NOTIFY_RESUME) as u64;
    // SAFETY: The current task is alive; its flags are an aligned word that others set bits in.
    let flags = unsafe { (&raw const (*el1::current_task()).thread_info.flags).read_volatile() };
    flags as u64 & WORK != 0
}

/// Saves the FP/SIMD, SVE and SME state of the task for user space; the registers are ours until [`release_fp`].
pub(crate) fn save_user_fp(_irqs: &IrqsOff) {
    // SAFETY: Task context, and preemption is off, so no buffer is needed.
    unsafe { bindings::kernel_neon_begin(ptr::null_mut()) };
}

/// Undoes [`save_user_fp`]; the registers hold nothing that is needed.
pub(crate) fn release_fp(_irqs: &IrqsOff) {
    // SAFETY: After `kernel_neon_begin`, with the same argument.
    unsafe { bindings::kernel_neon_end(ptr::null_mut()) };
}

/// Whether this CPU tracks contexts (nohz_full).
fn tracks_context() -> bool {
    // SAFETY: The key is a live kernel object; its count is an aligned `i32`.
    let enabled =
        unsafe { AtomicI32::from_ptr(&raw mut bindings::context_tracking_key.key.enabled.counter) };
    if enabled.load(Ordering::Relaxed) <= 0 {
        return false;
    }
    let offset = el1::percpu_offset();
    let place = (&raw mut bindings::context_tracking)
        .cast::<u8>()
        .wrapping_add(offset)
        .cast::<bindings::context_tracking>();
    // SAFETY: This CPU's copy of a per-CPU variable; a `bool`.
    unsafe { AtomicBool::from_ptr(&raw mut (*place).active) }.load(Ordering::Relaxed)
}

/// From here the task's time is the guest's, and RCU need not wait for a CPU that tracks contexts.
#[inline]
pub(crate) fn guest_enter(irqs: &IrqsOff) {
    if tracks_context() {
        // SAFETY: The current task, interrupts masked.
        unsafe { bindings::vtime_guest_enter(el1::current_task()) };
        guest_again(irqs);
        return;
    }
    // SAFETY: Only the task itself changes its flags.
    unsafe { (*el1::current_task()).flags |= bindings::PF_VCPU };
}

/// The kernel runs again: RCU waits for this CPU. The time is still the guest's.
#[inline]
pub(crate) fn guest_left(_irqs: &IrqsOff) {
    if tracks_context() {
        // SAFETY: After `__ct_user_enter` with the same state.
        unsafe { bindings::__ct_user_exit(bindings::ctx_state_CT_STATE_GUEST) };
    }
}

/// Undoes [`guest_left`]: RCU need not wait for this CPU again.
#[inline]
pub(crate) fn guest_again(_irqs: &IrqsOff) {
    if tracks_context() {
        // SAFETY: The current task, interrupts masked.
        unsafe { bindings::__ct_user_enter(bindings::ctx_state_CT_STATE_GUEST) };
    }
}

/// The time is the host's again. Interrupts are off, or preemption is.
#[inline]
pub(crate) fn guest_exit() {
    if tracks_context() {
        // SAFETY: As in `guest_enter`.
        unsafe { bindings::vtime_guest_exit(el1::current_task()) };
        return;
    }
    // SAFETY: As in `guest_enter`.
    unsafe { (*el1::current_task()).flags &= !bindings::PF_VCPU };
}

/// Tells RCU that the task is in no read-side critical section, as at a switch of tasks. Once per interrupt is often enough:
/// whatever RCU wants of a CPU that does not pass through the scheduler, it asks for by the tick or by an IPI.
#[inline]
pub(crate) fn note_quiescent(_irqs: &IrqsOff) {
    if !tracks_context() {
        // SAFETY: Interrupts are off, and the caller holds no RCU lock: it has just run a guest.
        unsafe { bindings::rcu_note_context_switch(false) };
    }
}

/// KVM_RUN goes back to user space. The work of the task was done without the registers of user space at hand, so what of it
/// is about a restartable sequence is still to do (as `rseq_virt_userspace_exit`).
#[inline]
pub(crate) fn note_return_to_user() {
    #[cfg(CONFIG_RSEQ)]
    {
        let task = el1::current_task();
        // SAFETY: The current task is alive. The field is a byte that only the task and the scheduler on its behalf write.
        let switched = unsafe {
            (&raw const (*task)
                .rseq
                .event
                .__bindgen_anon_1
                .__bindgen_anon_1
                .__bindgen_anon_1
                .__bindgen_anon_1
                .sched_switch)
                .read_volatile()
        };
        if switched != 0 {
            // SAFETY: As above; the flags are an aligned word that others set bits in.
            let flags = unsafe { AtomicU64::from_ptr((&raw mut (*task).thread_info.flags).cast()) };
            flags.fetch_or(bindings::_TIF_NOTIFY_RESUME.into(), Ordering::Relaxed);
        }
    }
}
