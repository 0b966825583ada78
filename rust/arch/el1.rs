// SPDX-License-Identifier: GPL-2.0-only

//! Arch, host side: HVC and cache maintenance at EL1.
//!
//! The order of maintenance and barriers, and why, is in `common::upkeep`; here each of them is one instruction.

use core::arch::asm;

use super::sysreg;
use crate::common::upkeep::{
    self,
    Op,
    Port, //
};

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

/// Masks IRQ and FIQ in PSTATE. Returns what [`restore_irqs`] takes.
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

/// This CPU, as [`crate::common::upkeep`] sees it.
struct Cpu;

/// One instruction without an operand.
macro_rules! plain {
    ($instruction:literal) => {
        // SAFETY: A barrier or an invalidation of instruction caches is always allowed: it changes no data. No `nomem`: each
        // keeps its place among the accesses to memory.
        unsafe { asm!($instruction, options(nostack, preserves_flags)) }
    };
}

impl Port for Cpu {
    #[inline(always)]
    fn issue(&self, op: Op) {
        match op {
            Op::DcCivac(line) => {
                // SAFETY: Maintenance by VA loses no data. That the line is mapped is up to the two functions that issue it.
                unsafe { asm!("dc civac, {}", in(reg) line, options(nostack, preserves_flags)) }
            }
            Op::IcIalluis => plain!("ic ialluis"),
            Op::DsbSy => plain!("dsb sy"),
            Op::DsbIsh => plain!("dsb ish"),
            Op::DsbIshst => plain!("dsb ishst"),
            Op::Isb => plain!("isb"),
        }
    }
}

/// See [`upkeep::take_interrupts`].
#[inline]
pub(crate) fn take_interrupts() {
    upkeep::take_interrupts(&Cpu);
}

/// See [`upkeep::CacheGeometry`].
#[derive(Clone, Copy)]
pub(crate) struct CacheGeometry(upkeep::CacheGeometry);

impl CacheGeometry {
    /// From the system-wide value of CTR_EL0 (the smallest DminLine of all CPUs).
    pub(crate) fn from_ctr(ctr: u64) -> Self {
        Self(upkeep::CacheGeometry::from_ctr(ctr))
    }

    /// Cleans and invalidates `len_bytes` bytes at `start` to the PoC, so that a guest that has its caches off finds what the host
    /// has written. `twice` for an erratum (Linux: `ARM64_WORKAROUND_4311569`).
    ///
    /// # Safety
    ///
    /// The range is mapped as Normal memory in the kernel's linear map.
    pub(crate) unsafe fn clean_for_guest(self, start: *const u8, len_bytes: usize, twice: bool) {
        self.0
            .clean_to_poc(&Cpu, start as u64, len_bytes as u64, twice);
    }

    /// The same, so that EL2 finds them with the MMU off. Always twice: it is harmless elsewhere, and this is no hot path.
    ///
    /// # Safety
    ///
    /// The range is mapped as Normal memory in the kernel's linear map.
    pub(crate) unsafe fn clean_to_poc(self, start: *const u8, len_bytes: usize) {
        self.0
            .clean_to_poc(&Cpu, start as u64, len_bytes as u64, true);
    }

    /// See [`upkeep::CacheGeometry::publish_code`].
    ///
    /// # Safety
    ///
    /// `code` is mapped as Normal memory in the kernel's linear map.
    pub(crate) unsafe fn publish_code(self, code: upkeep::Code) {
        let (start, bytes) = (code.start as usize, code.bytes as usize);
        self.0.publish_code(&Cpu, code, || {
            // SAFETY: By the contract.
            unsafe { crate::bindings::caches_clean_inval_pou(start, start + bytes) };
        });
    }
}

/// See [`upkeep::publish_tables`].
pub(crate) fn publish_tables() {
    upkeep::publish_tables(&Cpu);
}

/// See [`upkeep::order_stores`].
pub(crate) fn dsb_ish() {
    upkeep::order_stores(&Cpu);
}

/// See [`upkeep::invalidate_icache`].
pub(crate) fn invalidate_icache() {
    upkeep::invalidate_icache(&Cpu);
}

/// Whether this CPU runs its kernel at EL1.
pub(crate) fn at_el1() -> bool {
    (sysreg::current_el() >> 2) & 3 == 1
}
