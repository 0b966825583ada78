// SPDX-License-Identifier: GPL-2.0-only

//! A test module: does on a chosen CPU what an emulated machine never does by itself.
//!
//! `/sys/kernel/debug/eltwo_hooks/run` takes the number of a CPU and up to [`MOST_STEPS`] steps, which are done there one
//! after the other, in one interrupt:
//!
//! | step | what | result |
//! |---|---|---|
//! | `enter` | `cpu_pm_enter` | what it returns |
//! | `fail` | `cpu_pm_enter` with a last notifier that refuses | what it returns, and what [`ASK`] got in that notifier |
//! | `exit` | `cpu_pm_exit`, with the virtual timer as power-down may leave it | what it returns |
//! | `cluster-enter`, `cluster-exit` | `cpu_cluster_pm_enter`, `cpu_cluster_pm_exit` | what they return |
//! | `ask` | an HVC that no owner of EL2 acts upon ([`ASK`]) | x0 and x1 of the answer |
//! | `call:X0:X1` | an HVC with these numbers (hexadecimal) | x0 and x1 of the answer |
//! | `chains` | counts what is registered | CPU PM notifiers and syscore operations, this module's own among them |
//! | `restart` | the stub call SOFT_RESTART to code that only returns | x0 and x1 of that code |
//!
//! Reading the file gives a line for each step of the last run: its name and both numbers.
//!
//! At reboot, power-off and kexec the module asks each CPU once more and prints who owns EL2 there, one line each, at a level that
//! reaches the console: `eltwo_hooks: shutdown: CPU1 stub`. The kernel calls what was registered last first, so that eltwo has
//! had its turn if it was loaded after this module.
//!
//! Source: `kernel/cpu_pm.c`, `drivers/base/syscore.c`, `Documentation/virt/kvm/arm/hyp-abi.rst` of Linux.

use core::{
    arch::{
        asm,
        global_asm, //
    },
    ffi::c_void,
    ptr::null_mut, //
};

use kernel::{
    bindings,
    cpu::{
        nr_cpu_ids,
        CpuId, //
    },
    debugfs::{
        Dir,
        File, //
    },
    error::to_result,
    ffi::{
        c_int,
        c_ulong, //
    },
    fmt,
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Mutex, //
    },
    types::Opaque,
    uaccess::UserSliceReader, //
};

#[expect(dead_code, reason = "shared with eltwo.ko, which uses more of it")]
#[path = "../../rust/arch/mod.rs"]
mod arch;
mod code_page;
#[expect(unreachable_pub, reason = "shared with crates that export it")]
mod common;

use arch::el1::hvc;
use code_page::{
    CodePage,
    HVC_SOFT_RESTART, //
};

module! {
    type: Hooks,
    name: "eltwo_hooks",
    authors: ["eltwo contributors"],
    description: "Test module: CPU PM and stub calls on demand",
    license: "GPL v2",
}

/// Most steps of one run.
const MOST_STEPS: usize = 8;
/// Longest text of a run, in bytes.
const LONGEST: usize = 256;
/// A number that the stub answers with an error, eltwo with its version, and nobody acts upon.
const ASK: u64 = 0x0e12_0000;
/// x0 of the stub's answer.
const STUB_ERR: u64 = 0x0bad_ca11;
/// x0 of eltwo's answer.
const DONE: u64 = 0;
/// [`FAILING`] when `cpu_pm_enter` is to succeed.
const NOBODY: u32 = u32::MAX;

extern "C" {
    fn cpu_pm_enter() -> c_int;
    fn cpu_pm_exit() -> c_int;
    fn cpu_cluster_pm_enter() -> c_int;
    fn cpu_cluster_pm_exit() -> c_int;
    fn cpu_pm_register_notifier(block: *mut bindings::notifier_block) -> c_int;
    fn cpu_pm_unregister_notifier(block: *mut bindings::notifier_block) -> c_int;
    fn register_syscore(syscore: *mut Syscore);
    fn unregister_syscore(syscore: *mut Syscore);
}

/// `struct syscore` of `include/linux/syscore_ops.h`.
#[repr(C)]
struct Syscore {
    node: bindings::list_head,
    operations: *const Operations,
    data: *mut c_void,
}

/// `struct syscore_ops` of the same file.
#[repr(C)]
struct Operations {
    suspend: Option<extern "C" fn(*mut c_void) -> c_int>,
    resume: Option<extern "C" fn(*mut c_void)>,
    shutdown: Option<extern "C" fn(*mut c_void)>,
}

static OPERATIONS: Operations = Operations {
    suspend: None,
    resume: None,
    shutdown: Some(shutdown),
};

// What SOFT_RESTART jumps to: returns to EL1 with two numbers that show that it ran.
global_asm!(
    ".pushsection .rodata.eltwo_hooks, \"a\"",
    ".balign 8",
    "eltwo_hooks_start:",
    "mrs x1, sctlr_el2",
    "mov x0, #0x5a",
    "eret",
    "eltwo_hooks_end:",
    ".popsection",
);

extern "C" {
    static eltwo_hooks_start: u8;
    static eltwo_hooks_end: u8;
}

/// The CPU on which the notifier refuses.
static FAILING: Atomic<u32> = Atomic::new(NOBODY);
/// x0 that the notifier got for [`ASK`].
static ASKED: Atomic<u64> = Atomic::new(0);
/// CPU PM notifiers when a CPU was told of ENTER the last time.
static NOTIFIERS: Atomic<u64> = Atomic::new(0);
/// Most entries of a list; one with more has no end.
const LONGEST_LIST: u64 = 4096;

type Callback = unsafe extern "C" fn(*mut bindings::notifier_block, c_ulong, *mut c_void) -> c_int;

/// `CPU_PM_ENTER` of `enum cpu_pm_event`.
const CPU_PM_ENTER: c_ulong = 0;

/// The last in the chain, by its priority: all others have been told of ENTER, and are told of ENTER_FAILED after it.
extern "C" fn notified(
    _block: *mut bindings::notifier_block,
    event: c_ulong,
    _data: *mut c_void,
) -> c_int {
    if event != CPU_PM_ENTER || FAILING.load(Relaxed) != CpuId::current().as_u32() {
        return bindings::NOTIFY_OK as c_int;
    }
    ASKED.store(ask()[0], Relaxed);
    bindings::NOTIFY_BAD as c_int
}

/// The first in the chain, by its priority: counts the others, and itself.
///
/// # Safety
///
/// Called by the kernel, with a block that is in its chain.
unsafe extern "C" fn counted(
    block: *mut bindings::notifier_block,
    event: c_ulong,
    _data: *mut c_void,
) -> c_int {
    if event == CPU_PM_ENTER {
        let (mut count, mut next) = (0, block);
        while !next.is_null() && count < LONGEST_LIST {
            count += 1;
            // SAFETY: The kernel holds the lock of the chain during ENTER, so the entries stay.
            next = unsafe { (*next).next };
        }
        NOTIFIERS.store(count, Relaxed);
    }
    bindings::NOTIFY_OK as c_int
}

/// Who owns EL2 of this CPU?
fn ask() -> [u64; 2] {
    call(ASK, 0)
}

fn call(x0: u64, x1: u64) -> [u64; 2] {
    // SAFETY: The lab's machines have EL2, and whoever writes to the file answers for the call.
    let [x0, x1, ..] = unsafe { hvc([x0, x1, 0, 0, 0]) };
    [x0, x1]
}

/// CNTV_CTL_EL0 is UNKNOWN in a CPU that comes back from power-down, and a kernel that was entered at EL2 leaves it so. A kernel
/// that was entered at EL1 has the timer enabled.
fn enable_virtual_timer() {
    // SAFETY: Nobody has asked for the timer's interrupt, so it comes to nobody; a guest brings its own control.
    unsafe {
        asm!("msr cntv_ctl_el0, {}", in(reg) 1u64, options(nostack, preserves_flags));
    }
}

/// One step.
#[derive(Clone, Copy)]
enum Step {
    Enter,
    Fail,
    Exit,
    ClusterEnter,
    ClusterExit,
    Ask,
    Chains,
    Call(u64, u64),
    Restart,
}

impl Step {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "enter" => Self::Enter,
            "fail" => Self::Fail,
            "exit" => Self::Exit,
            "cluster-enter" => Self::ClusterEnter,
            "cluster-exit" => Self::ClusterExit,
            "ask" => Self::Ask,
            "chains" => Self::Chains,
            "restart" => Self::Restart,
            word => {
                let mut numbers = word.strip_prefix("call:")?.split(':');
                let mut next = || u64::from_str_radix(numbers.next()?, 16).ok();
                Self::Call(next()?, next()?)
            }
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Enter => "enter",
            Self::Fail => "fail",
            Self::Exit => "exit",
            Self::ClusterEnter => "cluster-enter",
            Self::ClusterExit => "cluster-exit",
            Self::Ask => "ask",
            Self::Chains => "chains",
            Self::Call(..) => "call",
            Self::Restart => "restart",
        }
    }

    /// Does it on this CPU. Interrupts are off.
    fn take(self, run: &Run) -> [u64; 2] {
        let returned = |code: c_int| [i64::from(code) as u64, 0];
        match self {
            // SAFETY: Interrupts are off, as each of these four asks for.
            Self::Enter => returned(unsafe { cpu_pm_enter() }),
            Self::Exit => {
                enable_virtual_timer();
                // SAFETY: As above.
                returned(unsafe { cpu_pm_exit() })
            }
            // SAFETY: As above.
            Self::ClusterEnter => returned(unsafe { cpu_cluster_pm_enter() }),
            // SAFETY: As above.
            Self::ClusterExit => returned(unsafe { cpu_cluster_pm_exit() }),
            Self::Fail => {
                FAILING.store(CpuId::current().as_u32(), Relaxed);
                // SAFETY: As above.
                let [code, _] = returned(unsafe { cpu_pm_enter() });
                FAILING.store(NOBODY, Relaxed);
                [code, ASKED.load(Relaxed)]
            }
            Self::Ask => ask(),
            Self::Call(x0, x1) => call(x0, x1),
            Self::Restart => call(HVC_SOFT_RESTART, run.restart_pa),
            Self::Chains => {
                // SAFETY: As above.
                unsafe {
                    cpu_pm_enter();
                    cpu_pm_exit();
                }
                [NOTIFIERS.load(Relaxed), run.syscore]
            }
        }
    }
}

/// Steps, and what they gave.
struct Run {
    restart_pa: u64,
    /// Number of syscore operations.
    syscore: u64,
    steps: [Option<Step>; MOST_STEPS],
    results: [[u64; 2]; MOST_STEPS],
}

impl Run {
    const fn new(restart_pa: u64, syscore: u64) -> Self {
        Self {
            restart_pa,
            syscore,
            steps: [None; MOST_STEPS],
            results: [[0; 2]; MOST_STEPS],
        }
    }

    /// Takes the steps on `cpu`, and waits for it.
    ///
    /// # Errors
    ///
    /// `ENXIO` if that CPU is offline.
    fn take_on(&mut self, cpu: c_int) -> Result {
        let data: *mut Self = self;
        // Wait. It is an `int` in Linux 7.2, and a `bool` in 7.3.
        let wait = true.into();
        // SAFETY: `run` takes a `Run`, which is borrowed from whoever else there is, and the call waits for it.
        to_result(unsafe { bindings::smp_call_function_single(cpu, Some(run), data.cast(), wait) })
    }
}

/// Hard interrupt context.
///
/// # Safety
///
/// `data` is a [`Run`] that lives until this returns, and nobody else uses it.
unsafe extern "C" fn run(data: *mut c_void) {
    // SAFETY: By the contract.
    let run = unsafe { &mut *data.cast::<Run>() };
    let mut results = run.results;
    for (step, result) in run.steps.iter().flatten().zip(&mut results) {
        *result = step.take(run);
    }
    run.results = results;
}

/// What is behind the file.
#[pin_data]
struct Last {
    restart: CodePage,
    syscore: SyscoreList,
    #[pin]
    run: Mutex<Run>,
}

fn show(last: &Last, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let run = last.run.lock();
    for (step, [x0, x1]) in run.steps.iter().flatten().zip(&run.results) {
        writeln!(f, "{} {x0:#x} {x1:#x}", step.name())?;
    }
    Ok(())
}

fn store(last: &Last, reader: &mut UserSliceReader) -> Result {
    let mut buffer = [0; LONGEST];
    let bytes = buffer.get_mut(..reader.len()).ok_or(EINVAL)?;
    reader.read_slice(bytes)?;
    let text = core::str::from_utf8(bytes).map_err(|_| EINVAL)?;
    let mut words = text.split_ascii_whitespace();
    let cpu: c_int = words.next().ok_or(EINVAL)?.parse().map_err(|_| EINVAL)?;
    let mut fresh = Run::new(last.restart.pa(), last.syscore.count());
    for (at, word) in words.enumerate() {
        *fresh.steps.get_mut(at).ok_or(EINVAL)? = Some(Step::parse(word).ok_or(EINVAL)?);
    }
    let mut guard = last.run.lock();
    *guard = fresh;
    guard.take_on(cpu)
}

/// Reboot, power-off and kexec. Process context, interrupts on, hotplug disabled, no CPU stopped yet.
extern "C" fn shutdown(_data: *mut c_void) {
    for cpu in 0..nr_cpu_ids() {
        let mut run = Run::new(0, 0);
        run.steps[0] = Some(Step::Ask);
        let asked = run.take_on(cpu as c_int);
        let owner = match (asked, run.results[0][0]) {
            (Ok(()), STUB_ERR) => "stub",
            (Ok(()), DONE) => "eltwo",
            (Ok(()), _) => "unknown",
            (Err(_), _) => "offline",
        };
        pr_err!("shutdown: CPU{cpu} {owner}\n");
    }
}

/// An entry of the list of syscore operations, registered until this is dropped.
struct SyscoreList(Pin<KBox<Opaque<Syscore>>>);

// SAFETY: The entry is touched by the kernel alone, under its own lock.
unsafe impl Send for SyscoreList {}
// SAFETY: As above; `count` only reads.
unsafe impl Sync for SyscoreList {}

impl SyscoreList {
    fn new() -> Result<Self> {
        let entry = KBox::pin(
            Opaque::new(Syscore {
                node: Default::default(),
                operations: &OPERATIONS,
                data: null_mut(),
            }),
            GFP_KERNEL,
        )?;
        // SAFETY: The entry is pinned and lives until `drop` has unregistered it.
        unsafe { register_syscore(entry.get()) };
        Ok(Self(entry))
    }

    /// Number of entries. Nobody registers or unregisters any meanwhile: whoever asks sees to that.
    fn count(&self) -> u64 {
        let own: *mut bindings::list_head = self.0.get().cast();
        // The list is a ring of the entries and one head, which is not counted.
        let mut count = 0;
        // SAFETY: The entry is registered, so that its list is whole.
        let mut next = unsafe { (*own).next };
        while next != own && count < LONGEST_LIST {
            count += 1;
            // SAFETY: As above.
            next = unsafe { (*next).next };
        }
        count
    }
}

impl Drop for SyscoreList {
    fn drop(&mut self) {
        // SAFETY: `new` has registered the entry.
        unsafe { unregister_syscore(self.0.get()) };
    }
}

/// A notifier, registered until this is dropped.
struct Notifier(Pin<KBox<Opaque<bindings::notifier_block>>>);

// SAFETY: The block is touched by the kernel alone, under its own lock.
unsafe impl Send for Notifier {}
// SAFETY: As above.
unsafe impl Sync for Notifier {}

impl Notifier {
    fn new(call: Callback, priority: c_int) -> Result<Self> {
        let block = KBox::pin(
            Opaque::new(bindings::notifier_block {
                notifier_call: Some(call),
                priority,
                ..Default::default()
            }),
            GFP_KERNEL,
        )?;
        // SAFETY: The block is pinned and lives until `drop` has unregistered it.
        to_result(unsafe { cpu_pm_register_notifier(block.get()) })?;
        Ok(Self(block))
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        // SAFETY: `new` has registered the block. There is no other error than that it was not.
        let _ = unsafe { cpu_pm_unregister_notifier(self.0.get()) };
        // CPU_PM_EXIT walks the chain under RCU, and unregistering does not wait for it.
        // SAFETY: This is called from process context, with nothing held.
        unsafe { bindings::synchronize_rcu() };
    }
}

/// The module. Fields are dropped in order: the file first, as it is what leads to the rest.
struct Hooks {
    _file: Pin<KBox<File<Last>>>,
    _dir: Dir,
    _notifiers: [Notifier; 2],
}

impl kernel::Module for Hooks {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        // SAFETY: The labels are in one section, and the code is position independent and shorter than a page.
        let restart =
            unsafe { CodePage::new(&raw const eltwo_hooks_start, &raw const eltwo_hooks_end)? };
        let notifiers = [
            Notifier::new(counted, c_int::MAX)?,
            Notifier::new(notified, c_int::MIN)?,
        ];
        let dir = Dir::new(c"eltwo_hooks");
        let last = try_pin_init!(Last {
            restart,
            syscore: SyscoreList::new()?,
            run <- new_mutex!(Run::new(0, 0)),
        } ? Error);
        let file = dir.read_write_callback_file(c"run", last, &show, &store);
        let file = KBox::pin_init(file, GFP_KERNEL)?;
        Ok(Self {
            _file: file,
            _dir: dir,
            _notifiers: notifiers,
        })
    }
}
