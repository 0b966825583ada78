// SPDX-License-Identifier: GPL-2.0-only

//! Arch, host side: HVC and cache maintenance at EL1.
//!
//! Source: Arm ARM DDI 0487, B2.10 (caches), `arch/arm64/include/asm/assembler.h` of Linux for the errata.

use core::arch::asm;

use super::sysreg;

/// x0..x4 of an HVC, in both directions.
pub(crate) type HvcRegs = [u64; 5];

/// Executes `HVC #0` with x0..x4 = `regs` and returns x0..x4.
///
/// # Safety
///
/// - EL2 exists and HVC is enabled, otherwise the instruction is UNDEFINED.
/// - The caller answers for what EL2 does with the call, which can be anything.
/// - Interrupts are off if the call depends on which CPU it is made.
#[inline(never)]
pub(crate) unsafe fn hvc(regs: HvcRegs) -> HvcRegs {
    let [mut x0, mut x1, mut x2, mut x3, mut x4] = regs;
    // SAFETY: By the contract of this function. x5-x17 are clobbers of the stub ABI; x18 is reserved by the kernel and
    // neither the stub nor we change it. The default memory clobber is needed: EL2 reads and writes memory.
    unsafe {
        asm!(
            "hvc #0",
            inout("x0") x0,
            inout("x1") x1,
            inout("x2") x2,
            inout("x3") x3,
            inout("x4") x4,
            out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _,
            out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _,
            out("x15") _, out("x16") _, out("x17") _,
            options(nostack)
        )
    };
    [x0, x1, x2, x3, x4]
}

/// Runs the guest whose context EL2 sees at `hyp_va`, by `HVC #1`. Returns a status and an exit reason.
///
/// # Safety
///
/// - EL2 of this CPU is ours, and interrupts are masked.
/// - Nobody else uses the context, or the FP/SIMD registers if its flags say that the guest gets them.
#[inline]
pub(crate) unsafe fn hvc_run(call: u64, hyp_va: u64) -> (u64, u64) {
    let (mut x0, mut x1) = (call, hyp_va);
    // SAFETY: By the contract of this function. EL2 keeps x18-x30 and SP, and changes memory, hence the memory clobber.
    unsafe {
        asm!(
            "hvc #1",
            inout("x0") x0,
            inout("x1") x1,
            out("x2") _, out("x3") _, out("x4") _, out("x5") _, out("x6") _, out("x7") _,
            out("x8") _, out("x9") _, out("x10") _, out("x11") _, out("x12") _, out("x13") _,
            out("x14") _, out("x15") _, out("x16") _, out("x17") _,
            options(nostack)
        )
    };
    (x0, x1)
}

/// The current task (`current`).
#[inline]
pub(crate) fn current_task() -> *mut crate::bindings::task_struct {
    let task: *mut crate::bindings::task_struct;
    // SAFETY: The kernel keeps the current task in SP_EL0 while it runs. For the task itself it never changes, so the
    // read may be moved or dropped.
    unsafe {
        asm!("mrs {}, sp_el0", out(reg) task, options(pure, nomem, nostack, preserves_flags))
    };
    task
}

/// What to add to the address of a per-CPU variable to get at this CPU's. The caller cannot be moved to another CPU.
#[inline]
pub(crate) fn percpu_offset() -> usize {
    let offset: usize;
    // SAFETY: A kernel at EL1 keeps the offset in TPIDR_EL1. No `nomem`: the read stays where preemption is off.
    unsafe { asm!("mrs {}, tpidr_el1", out(reg) offset, options(nostack, preserves_flags)) };
    offset
}

/// Masks IRQ and FIQ in PSTATE, which is stronger than the kernel's priority mask (pseudo-NMI). Returns what
/// [`restore_irqs`] takes.
#[inline]
pub(crate) fn mask_irqs() -> u64 {
    let daif: u64;
    // SAFETY: Masking interrupts is always allowed. No `nomem`: the compiler must not move an access out of the masked
    // section.
    unsafe {
        asm!(
            "mrs {}, daif",
            "msr daifset, #3",
            out(reg) daif,
            options(nostack, preserves_flags)
        )
    };
    daif
}

/// Puts PSTATE.DAIF back.
///
/// # Safety
///
/// `daif` is from [`mask_irqs`], called by the same task on the same CPU, with nothing between that relies on the mask.
#[inline]
pub(crate) unsafe fn restore_irqs(daif: u64) {
    // SAFETY: By the contract of this function.
    unsafe { asm!("msr daif, {}", in(reg) daif, options(nostack, preserves_flags)) };
}

/// Makes a pending interrupt be taken now, if it is not masked: context synchronization (Arm ARM D1.3.6).
#[inline]
pub(crate) fn take_interrupts() {
    // SAFETY: A barrier has no precondition. The handlers change memory, hence no `nomem`.
    unsafe { asm!("isb", options(nostack, preserves_flags)) };
}

/// How far a line of the data cache reaches, and whether an erratum asks for every operation twice.
#[derive(Clone, Copy)]
pub(crate) struct CacheGeometry {
    /// Smallest line of any data cache of the system, in bytes.
    line_bytes: usize,
}

impl CacheGeometry {
    /// From the system-wide value of CTR_EL0 (the smallest DminLine of all CPUs).
    pub(crate) fn from_ctr(ctr: u64) -> Self {
        Self {
            line_bytes: 4usize << ((ctr >> 16) & 0xf),
        }
    }

    /// Cleans and invalidates `len_bytes` bytes at `start` to the PoC, so that a guest that has its caches off finds what the host
    /// has written. `twice` for an erratum (Linux: `ARM64_WORKAROUND_4311569`).
    ///
    /// # Safety
    ///
    /// The range is mapped as Normal memory in the kernel's linear map.
    pub(crate) unsafe fn clean_for_guest(self, start: *const u8, len_bytes: usize, twice: bool) {
        let first = start as usize & !(self.line_bytes - 1);
        let last = (start as usize + len_bytes).next_multiple_of(self.line_bytes);
        // A size of a line is a power of two.
        let lines = (last - first) >> self.line_bytes.trailing_zeros();
        for _ in 0..=u8::from(twice) {
            // SAFETY: The lines are mapped by the contract of this function.
            unsafe { self.clean_lines(first, lines) };
            // SAFETY: A barrier has no precondition. SY, because the guest's accesses may be Device.
            unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
        }
    }

    /// Cleans and invalidates `lines` lines from `first`, the address of a line, on. Barriers are the caller's.
    ///
    /// Two lines in each turn: a guest's first access to a block of 2 MiB costs 32768 of them and little else.
    ///
    /// # Safety
    ///
    /// The lines are mapped as Normal memory in the kernel's linear map.
    unsafe fn clean_lines(self, first: usize, lines: usize) {
        let mut line = first;
        if lines % 2 != 0 {
            // SAFETY: The line is mapped by the contract of this function. Maintenance by VA loses no data.
            unsafe { asm!("dc civac, {}", in(reg) line, options(nostack, preserves_flags)) };
            line += self.line_bytes;
        }
        if lines < 2 {
            return;
        }
        // SAFETY: As above, for each of the lines; the counter is not zero at first, and ends the loop at zero.
        unsafe {
            asm!(
                "2: dc civac, {line}",
                "add {line}, {line}, {step}",
                "dc civac, {line}",
                "add {line}, {line}, {step}",
                "subs {pairs}, {pairs}, #1",
                "b.ne 2b",
                line = inout(reg) line => _,
                pairs = inout(reg) lines / 2 => _,
                step = in(reg) self.line_bytes,
                options(nostack),
            );
        }
    }

    /// Cleans and invalidates `len_bytes` bytes at `start` to the PoC, so that EL2 finds them with the MMU off, and no
    /// line of ours can be written back over them later.
    ///
    /// CIVAC and not CVAC: some cores need it for a clean (`ARM64_WORKAROUND_CLEAN_CACHE`).
    ///
    /// # Safety
    ///
    /// The range is mapped as Normal memory in the kernel's linear map.
    pub(crate) unsafe fn clean_to_poc(self, start: *const u8, len_bytes: usize) {
        let first = start as usize & !(self.line_bytes - 1);
        let end = start as usize + len_bytes;
        // Errata ask for the whole loop twice (ARM64_WORKAROUND_4311569); it is harmless elsewhere, and this is no hot path.
        for _ in 0..2 {
            let mut line = first;
            while line < end {
                // SAFETY: The line is mapped by the contract of this function. Maintenance by VA loses no data.
                unsafe { asm!("dc civac, {}", in(reg) line, options(nostack, preserves_flags)) };
                line += self.line_bytes;
            }
            // SAFETY: A barrier has no precondition. SY, because the next reader has its MMU off, which makes its
            // accesses Device and so outside of any shareability domain that ISH would name.
            unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
        }
    }
}

/// Makes descriptors that this CPU has stored visible to the table walks of all CPUs.
///
/// ISHST: the stores must be observed by the walkers, which are Inner Shareable observers (TCR_EL2.SH0); loads play no
/// part. No ISB: these tables are not in use before an HVC, which is a context synchronization event.
///
/// The DSB SY of [`CacheGeometry::clean_to_poc`], which follows on this CPU before any HVC, would do for both (no mutant dies
/// here). It stays, because what a caller cleans later, and whether it does, must not decide whether its tables are seen.
pub(crate) fn publish_tables() {
    // SAFETY: A barrier has no precondition.
    unsafe { asm!("dsb ishst", options(nostack, preserves_flags)) };
}

/// Orders all stores of this CPU before its later loads, and before walks that see what those loads see.
pub(crate) fn dsb_ish() {
    // SAFETY: A barrier has no precondition.
    unsafe { asm!("dsb ish", options(nostack, preserves_flags)) };
}

/// Invalidates the instruction caches of all CPUs.
pub(crate) fn invalidate_icache() {
    // SAFETY: No instruction is lost: they are fetched again.
    unsafe {
        asm!(
            "dsb ishst",
            "ic ialluis",
            "dsb ish",
            "isb",
            options(nostack, preserves_flags)
        )
    };
}

/// Whether this CPU runs its kernel at EL1.
pub(crate) fn at_el1() -> bool {
    (sysreg::current_el() >> 2) & 3 == 1
}
