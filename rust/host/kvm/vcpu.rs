// SPDX-License-Identifier: GPL-2.0-only

//! Host: one virtual CPU.
//!
//! A [`Vcpu`] belongs to its VM and lives as long as that; its file descriptor holds references to both. Three kinds of state:
//!
//! - what the thread that runs it uses, under the mutex: [`Active`] is the proof that it is held;
//! - what others may look at or change at any time, from any context: requests, mode, [`Power`];
//! - two pages: the context that EL2 reads and writes, and `struct kvm_run`, which user space may write at any time.
//!
//! Source: `Documentation/virt/kvm/{api,vcpu-requests}.rst` of Linux; behaviour as `virt/kvm/kvm_main.c`.

use core::{
    ptr::{
        self,
        NonNull, //
    },
    sync::atomic::{
        fence,
        AtomicPtr,
        AtomicU32,
        AtomicU64,
        AtomicU8,
        Ordering, //
    },
};

use kernel::{
    new_mutex,
    new_spinlock,
    page::Page,
    pr_err_once,
    prelude::*,
    sync::{
        lock::mutex::MutexBackend,
        lock::Guard,
        rcu,
        Arc,
        Mutex,
        SpinLock, //
    },
    types::Opaque, //
};

use super::{
    mutex,
    regs::ArchState,
    stats::VcpuCounters,
    vm::Vm, //
};
use crate::{
    arch::el1::{
        self,
        HvcRegs, //
    },
    bindings,
    common::{
        abi::{
            Call,
            Status, //
        },
        guest::VcpuContext, //
    },
    host::{
        inject,
        linear,
        service::Service, //
    },
};

/// What others ask of a vCPU; it looks before each entry. One bit each.
///
/// Who asks writes what it is about, then [`Vcpu::request`], then [`Vcpu::kick`]; or lets the vCPU come by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Request {
    /// The VM cannot run any more: KVM_RUN returns EIO.
    VmDead = 0,
    /// Look at [`Power`], and sleep if it is off.
    Sleep = 1,
    /// Take over [`Power::reset`].
    Reset = 2,
    /// An interrupt line has changed.
    IrqPending = 3,
    /// Behave as after WFI, or tell user space (PSCI SYSTEM_SUSPEND).
    Suspend = 4,
    /// End a WFI that has nothing to wait for.
    Unblock = 5,
}

/// Where the vCPU's thread is, seen from outside.
mod mode {
    /// In the kernel or in user space: it will look at requests before it enters the guest.
    pub(super) const OUTSIDE: u8 = 0;
    /// In the guest, or about to be: an IPI is needed to get it out.
    pub(super) const GUEST: u8 = 1;
    /// In the guest, and somebody has sent that IPI.
    pub(super) const EXITING: u8 = 2;
}

/// Power state, as PSCI and KVM_SET_MP_STATE know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PowerState {
    /// It runs when its thread does.
    On,
    /// It sleeps until it is switched on.
    Off,
    /// It sleeps until an interrupt (KVM_MP_STATE_SUSPENDED).
    Suspended,
}

/// Where a vCPU that is switched on starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResetTo {
    /// PC.
    pub(crate) pc: u64,
    /// x0.
    pub(crate) x0: u64,
    /// SCTLR_EL1.EE.
    pub(crate) big_endian: bool,
}

/// Changed by other vCPUs (PSCI) too; the lock is held for a few instructions, with nothing taken inside it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Power {
    /// See [`PowerState`].
    pub(crate) state: PowerState,
    /// To be applied by the vCPU's thread on [`Request::Reset`].
    pub(crate) reset: Option<ResetTo>,
}

/// What the mutex protects, besides the two pages.
pub(crate) struct VcpuState {
    /// KVM_ARM_VCPU_INIT was successful.
    pub(crate) initialized: bool,
    /// Bitmap of `KVM_ARM_VCPU_*`.
    pub(crate) features: u64,
    /// KVM_RUN was called and got past its checks.
    pub(crate) ever_ran: bool,
    /// Stage 2 allows more than TLBs may have cached: the next entry drops what its CPU has.
    pub(crate) relaxed: bool,
    /// The mask that KVM_RUN runs with (KVM_SET_SIGNAL_MASK).
    pub(crate) sigmask: Option<bindings::sigset_t>,
    /// Registers and events, as `regs`, `sysreg`, `mmio` and `events` need them.
    pub(crate) arch: ArchState,
}

/// A zeroed page of kernel memory, accounted to the process.
struct KernelPage {
    page: Page,
    address: NonNull<u8>,
}

impl KernelPage {
    fn new() -> Result<Self> {
        let flags = inject::account("the page that a vCPU shares with user space")?;
        let page = Page::alloc_page(flags | __GFP_ZERO)?;
        // SAFETY: arm64 has no high memory: this is the page's address in the linear map, for as long as the page exists.
        let address = unsafe { bindings::kmap_local_page(page.as_ptr()) };
        Ok(Self {
            address: NonNull::new(address.cast()).ok_or(EFAULT)?,
            page,
        })
    }
}

/// The page of a [`VcpuContext`], shared with EL2 for as long as this lives.
struct ContextPage {
    address: NonNull<u8>,
    service: Arc<Service>,
    pa: u64,
    /// Where EL2 sees it.
    hyp_va: u64,
}

impl ContextPage {
    fn new(service: Arc<Service>) -> Result<Self> {
        let address = service.contexts.lock().alloc()?;
        Self::share(&service, address)
            .inspect_err(|_| service.contexts.lock().free(address))
            .map(|(pa, hyp_va)| Self {
                address,
                service,
                pa,
                hyp_va,
            })
    }

    /// Returns where the page is, and where EL2 sees it from now on.
    fn share(service: &Service, address: NonNull<u8>) -> Result<(u64, u64)> {
        inject::step("sharing the context of a vCPU with EL2")?;
        let pa = linear::kern_to_phys(address).ok_or(EFAULT)?.raw();
        let [x0, x1, ..] = service.hypercall_anywhere(Call::Share as u64, [pa, 0, 0, 0])?;
        match Status::from_x0(x0) {
            Some(Status::Ok) => Ok((pa, x1)),
            Some(Status::NoMemory) => Err(ENOMEM),
            answer => {
                pr_err_once!("EL2 does not take the page at {pa:#x} ({answer:?}); if memory was added after eltwo was loaded, load it again\n");
                Err(EIO)
            }
        }
    }

    /// Takes the page away from EL2. False if it may still be mapped there.
    fn unshare(&self) -> bool {
        let service = &self.service;
        let call = || service.hypercall_anywhere(Call::Unshare as u64, [self.pa, 0, 0, 0]);
        let done = |answer: Result<HvcRegs>| answer.map(|[x0, ..]| x0 == Status::Ok.to_x0());
        let mut answer = done(call());
        if answer == Ok(false) && service.has_failed() {
            // EL2's tables are locked for ever, by who has faulted. Soon no CPU uses them.
            service.settle();
            answer = done(call());
        }
        match answer {
            Ok(done) => done,
            // No CPU is at EL2 with us. None will be, if the service is closed; else the next one to come has these tables. One that
            // could not be given back is there for ever.
            Err(_) => service.still_open().is_err() && !service.pool.is_abandoned(),
        }
    }
}

impl Drop for ContextPage {
    fn drop(&mut self) {
        if self.unshare() {
            self.service.contexts.lock().free(self.address);
        } else {
            pr_err!("a vCPU's page at {:#x} stays shared with EL2\n", self.pa);
        }
    }
}

/// `struct kvm_run`. User space may write it at any time: every field is read once and checked.
#[derive(Clone, Copy)]
pub(crate) struct RunPage(NonNull<bindings::kvm_run>);

impl RunPage {
    /// For accesses to single fields, by volatile reads and writes through raw pointers.
    pub(crate) fn raw(self) -> *mut bindings::kvm_run {
        self.0.as_ptr()
    }

    /// The union behind `exit_reason`, as the structure of one exit.
    pub(crate) fn exit_data<T>(self) -> *mut T {
        const { assert!(size_of::<T>() <= 256) };
        // SAFETY: The page is a `kvm_run`; no reference is made.
        unsafe { (&raw mut (*self.raw()).__bindgen_anon_1).cast() }
    }

    /// Sets `exit_reason` (`KVM_EXIT_*`).
    pub(crate) fn set_exit(self, reason: u32) {
        // SAFETY: The field is in the page, and the page lives as long as the vCPU that `self` is from.
        unsafe { (&raw mut (*self.raw()).exit_reason).write_volatile(reason) };
    }

    /// `exit_reason` as it is now.
    pub(crate) fn exit_reason(self) -> u32 {
        // SAFETY: As above.
        unsafe { (&raw const (*self.raw()).exit_reason).read_volatile() }
    }

    /// Sets `flags`.
    pub(crate) fn set_flags(self, flags: u16) {
        // SAFETY: As above.
        unsafe { (&raw mut (*self.raw()).flags).write_volatile(flags) };
    }

    /// Whether user space wants KVM_RUN to return before the guest runs.
    pub(crate) fn immediate_exit(self) -> bool {
        // SAFETY: As above.
        unsafe { (&raw const (*self.raw()).immediate_exit__unsafe).read_volatile() != 0 }
    }
}

/// See the module.
#[pin_data]
pub(crate) struct Vcpu {
    id: u32,
    index: u32,
    /// MPIDR_EL1 as the guest sees it. Set with the context's, for those who look for this vCPU from outside.
    pub(crate) mpidr: AtomicU64,
    /// HCR_EL2.VI and VF: the levels of its interrupt lines. It is looked at before each entry.
    pub(crate) irq_lines: AtomicU64,
    requests: AtomicU32,
    mode: AtomicU8,
    /// The thread that is in KVM_RUN, or null. Written under the mutex, read under RCU, which keeps a task's memory.
    runner: AtomicPtr<bindings::task_struct>,
    /// Where that thread sleeps.
    #[pin]
    sleeper: Opaque<bindings::rcuwait>,
    #[pin]
    pub(crate) power: SpinLock<Power>,
    #[pin]
    state: Mutex<VcpuState>,
    context: ContextPage,
    run: KernelPage,
    /// What KVM_GET_STATS_FD shows.
    pub(crate) counters: VcpuCounters,
}

// SAFETY: The pages are accessed under the mutex, but for what is meant for concurrent access; the rest is atomic or locked.
unsafe impl Send for Vcpu {}
// SAFETY: As above.
unsafe impl Sync for Vcpu {}

impl Vcpu {
    /// A vCPU that is not initialised yet, number `id` for user space and `index` in its VM.
    pub(crate) fn new(service: Arc<Service>, id: u32, index: u32) -> Result<Arc<Self>> {
        const { assert!(size_of::<VcpuContext>() <= bindings::PAGE_SIZE) };
        let context = ContextPage::new(service)?;
        let run = KernelPage::new()?;
        let vcpu = pin_init!(Self {
            id,
            index,
            mpidr: AtomicU64::new(0),
            irq_lines: AtomicU64::new(0),
            requests: AtomicU32::new(0),
            mode: AtomicU8::new(mode::OUTSIDE),
            runner: AtomicPtr::new(ptr::null_mut()),
            // Nobody sleeps.
            sleeper: Opaque::zeroed(),
            power <- new_spinlock!(Power { state: PowerState::On, reset: None }),
            state <- new_mutex!(VcpuState {
                initialized: false,
                features: 0,
                ever_ran: false,
                relaxed: false,
                sigmask: None,
                arch: ArchState::default(),
            }),
            context,
            run,
            counters: VcpuCounters::default(),
        });
        Arc::pin_init(vcpu, inject::account("a vCPU")?)
    }

    /// The number that user space gave it.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Its place in the VM.
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// Where EL2 sees its context.
    pub(super) fn hyp_va(&self) -> u64 {
        self.context.hyp_va
    }

    /// The page that user space maps.
    pub(super) fn run_page(&self) -> *mut bindings::page {
        self.run.page.as_ptr()
    }

    /// Waits for the mutex.
    ///
    /// # Errors
    ///
    /// `EINTR` if the process is being killed.
    pub(crate) fn lock<'a>(&'a self, vm: &'a Vm) -> Result<Active<'a>> {
        Ok(Active {
            vm,
            vcpu: self,
            guard: mutex::lock_killable(&self.state)?,
        })
    }

    /// Keeps all ioctls on it waiting while the result lives; `None` if one is under way. Of a VM's vCPUs only who has the list of
    /// them, `vcpus`, holds more than one.
    pub(crate) fn try_hold<'a, T>(
        &'a self,
        vcpus: &Guard<'_, T, MutexBackend>,
    ) -> Option<impl Sized + 'a> {
        mutex::try_lock_under(&self.state, vcpus)
    }

    /// Asks for something. It is seen before the next entry; [`Self::kick`] makes that soon.
    pub(crate) fn request(&self, request: Request) {
        // Release: what the request is about was written before it, and `take_request` acquires.
        self.requests
            .fetch_or(1 << request as u32, Ordering::Release);
    }

    /// Whether anything was asked for.
    pub(super) fn has_requests(&self) -> bool {
        self.requests.load(Ordering::Relaxed) != 0
    }

    /// Takes one request, if it was made.
    pub(crate) fn take_request(&self, request: Request) -> bool {
        let bit = 1 << request as u32;
        self.requests.load(Ordering::Relaxed) & bit != 0
            && self.requests.fetch_and(!bit, Ordering::Acquire) & bit != 0
    }

    /// From here on a kick sends an IPI. Interrupts are masked; requests and signals are looked at after this.
    #[inline]
    pub(super) fn enter_mode(&self) {
        // Release: who sees `GUEST` sees `runner` too.
        self.mode.store(mode::GUEST, Ordering::Release);
        // Pairs with the fence in `kick`: either that side sees `GUEST`, or this side sees the request.
        fence(Ordering::SeqCst);
    }

    /// Undoes [`Self::enter_mode`].
    #[inline]
    pub(super) fn leave_mode(&self) {
        self.mode.store(mode::OUTSIDE, Ordering::Release);
    }

    /// Wakes its thread if that sleeps in KVM_RUN, and tells whether it did. From any context.
    pub(crate) fn wake(&self) -> bool {
        // SAFETY: The structure is initialised, and lives as long as `self`.
        unsafe { bindings::rcuwait_wake_up(self.sleeper.get()) != 0 }
    }

    /// Makes its thread look at requests soon: wakes it if it sleeps, gets it out of the guest if it is there. From any
    /// context, on any CPU.
    pub(crate) fn kick(&self) {
        if self.wake() {
            return;
        }
        // Pairs with the fence in `enter_mode`.
        fence(Ordering::SeqCst);
        let was_inside = self.mode.compare_exchange(
            mode::GUEST,
            mode::EXITING,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        if was_inside.is_err() {
            return;
        }
        let _rcu = rcu::read_lock();
        let runner = self.runner.load(Ordering::Relaxed);
        if !runner.is_null() {
            // It sends the reschedule IPI to the CPU that the task runs on, if that is another one. Should the task leave
            // that CPU meanwhile, it leaves the guest to do so, and sees the request before it enters again.
            // SAFETY: A task that was in KVM_RUN inside this RCU section is not freed before its end.
            unsafe { bindings::kick_process(runner) };
        }
    }

    /// Sleeps until `ready` holds after a wake-up, or a signal is pending. The caller has the mutex.
    pub(super) fn sleep_until(&self, mut ready: impl FnMut() -> bool) {
        let task = el1::current_task();
        // SAFETY: The kernel's own field for what is being waited for; whoever has the mutex is its only writer, and
        // `rcuwait_wake_up` reads it by a single load.
        let place = unsafe { AtomicPtr::from_ptr(&raw mut (*self.sleeper.get()).task) };
        place.store(task, Ordering::Release);
        // SAFETY: The current task is alive; its state is an aligned `u32` that a waker changes too.
        let state = unsafe { AtomicU32::from_ptr(&raw mut (*task).__state) };
        loop {
            state.store(bindings::TASK_INTERRUPTIBLE, Ordering::Relaxed);
            // As `set_current_state`: the state, then what is waited for. Pairs with the barrier of `rcuwait_wake_up`.
            fence(Ordering::SeqCst);
            if ready() || signal_pending() {
                break;
            }
            // SAFETY: Process context, with no spinlock held.
            unsafe { bindings::schedule() };
        }
        // SAFETY: It clears the task, and sets its state to running.
        unsafe { bindings::finish_rcuwait(self.sleeper.get()) };
    }
}

/// Whether the current thread has a signal to take.
pub(super) fn signal_pending() -> bool {
    kernel::current!().signal_pending()
}

/// A vCPU with its mutex held: what every ioctl and every exit handler gets.
pub(crate) struct Active<'a> {
    pub(crate) vm: &'a Vm,
    pub(crate) vcpu: &'a Vcpu,
    guard: Guard<'a, VcpuState, MutexBackend>,
}

/// KVM_RUN is under way for as long as this lives.
pub(super) struct Running<'a>(&'a Vcpu);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.runner.store(ptr::null_mut(), Ordering::Relaxed);
    }
}

impl<'a> Active<'a> {
    /// From here on the current thread is the one to kick.
    pub(super) fn start_running(&self) -> Running<'a> {
        self.vcpu
            .runner
            .store(el1::current_task(), Ordering::Relaxed);
        Running(self.vcpu)
    }

    fn context_ptr(&self) -> *mut VcpuContext {
        self.vcpu.context.address.as_ptr().cast()
    }

    /// What EL2 sees.
    pub(crate) fn context(&self) -> &VcpuContext {
        // SAFETY: The page is there for as long as the vCPU; zeroed or written as this type; the mutex is held, and EL2
        // uses it only inside the entry, which has `self` borrowed mutably.
        unsafe { &*self.context_ptr() }
    }

    /// As [`Self::context`].
    pub(crate) fn context_mut(&mut self) -> &mut VcpuContext {
        // SAFETY: As above, and `self` is borrowed mutably.
        unsafe { &mut *self.context_ptr() }
    }

    /// What the mutex protects.
    pub(crate) fn state(&self) -> &VcpuState {
        &self.guard
    }

    /// As [`Self::state`].
    pub(crate) fn state_mut(&mut self) -> &mut VcpuState {
        &mut self.guard
    }

    /// `struct kvm_run`.
    pub(crate) fn run(&self) -> RunPage {
        RunPage(self.vcpu.run.address.cast())
    }

    /// Past the instruction that was trapped or emulated. All of them have four bytes, but for AArch32's at EL0.
    pub(crate) fn advance_pc(&mut self) {
        /// ESR_ELx.IL: the trapped instruction has 32 bits.
        const ESR_IL: u64 = 1 << 25;
        /// PSTATE.BTYPE, SS: what executing an instruction clears.
        const BTYPE_SS: u64 = (3 << 10) | (1 << 21);
        /// PSTATE.M[4]: AArch32.
        const AARCH32: u64 = 1 << 4;
        let context = self.context_mut();
        let short = context.regs.spsr & AARCH32 != 0 && context.exit.esr & ESR_IL == 0;
        context.regs.elr = context.regs.elr.wrapping_add(if short { 2 } else { 4 });
        if context.regs.spsr & AARCH32 == 0 {
            context.regs.spsr &= !BTYPE_SS;
        } else {
            context.regs.spsr = advance_it(context.regs.spsr);
        }
    }
}

/// PSTATE.IT of AArch32, advanced by one instruction of an IT block (Arm ARM, `AArch32.ITAdvance`).
fn advance_it(spsr: u64) -> u64 {
    const IT_HIGH: u64 = 0xfc00;
    const IT_LOW: u64 = 0x0600_0000;
    let it = ((spsr & IT_HIGH) >> 8) | ((spsr & IT_LOW) >> 25);
    let next = if it & 7 == 0 {
        0
    } else {
        (it & 0xe0) | ((it << 1) & 0x1f)
    };
    (spsr & !(IT_HIGH | IT_LOW)) | ((next << 8) & IT_HIGH) | ((next << 25) & IT_LOW)
}
