// SPDX-License-Identifier: GPL-2.0-only

//! Arch, EL2 side: TLB maintenance of the EL2 regime, address translation, deliberate faults.
//!
//! Which barriers go with a TLBI, and why, is in `common::pgtable::tlb`; here each of them is one instruction.

use core::arch::asm;

use crate::common::{
    abi::{
        AssertInfo,
        BRK_ASSERT,
        BRK_PROVOKED, //
    },
    pgtable::tlb::{
        Op,
        TlbPort,
        Tlbi, //
    },
};

/// ESR_EL2 of an asynchronous SError: EC 0x2f, IL, DFSC 0x11.
const ESR_SERROR: u64 = (0x2f << 26) | (1 << 25) | 0x11;

/// This CPU, as [`crate::common::pgtable::tlb`] sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpu;

/// One instruction without an operand.
macro_rules! plain {
    ($instruction:literal) => {
        // SAFETY: A barrier or an invalidation is always allowed at EL2: it changes no data, and a translation that is
        // still wanted is walked anew. VTTBR_EL2, VTCR_EL2 and TCR_EL1 are written for the
        // time of an invalidation alone, and put back. No
        // `nomem`: each keeps its place among the accesses to the tables.
        unsafe { asm!($instruction, options(nostack, preserves_flags)) }
    };
}

/// One instruction with a register.
macro_rules! with_operand {
    ($instruction:literal, $operand:expr) => {
        // SAFETY: As for `plain`.
        unsafe { asm!(concat!($instruction, ", {}"), in(reg) $operand, options(nostack, preserves_flags)) }
    };
}

impl TlbPort for Cpu {
    #[inline]
    fn issue(&self, op: Op) {
        match op {
            Op::DsbIshst => plain!("dsb ishst"),
            Op::DsbIsh => plain!("dsb ish"),
            Op::Isb => plain!("isb"),
            Op::Tlbi(Tlbi::Vae2is(operand)) => with_operand!("tlbi vae2is", operand),
            Op::Tlbi(Tlbi::Vale2is(operand)) => with_operand!("tlbi vale2is", operand),
            Op::Tlbi(Tlbi::Alle2is) => plain!("tlbi alle2is"),
            Op::Tlbi(Tlbi::Alle1is) => plain!("tlbi alle1is"),
            Op::Tlbi(Tlbi::Ipas2e1is(operand)) => with_operand!("tlbi ipas2e1is", operand),
            Op::Tlbi(Tlbi::Ipas2le1is(operand)) => with_operand!("tlbi ipas2le1is", operand),
            Op::Tlbi(Tlbi::Vmalle1is) => plain!("tlbi vmalle1is"),
            Op::Tlbi(Tlbi::Vmalls12e1is) => plain!("tlbi vmalls12e1is"),
            Op::WriteVttbr(value) => with_operand!("msr vttbr_el2", value),
            Op::WriteVtcr(value) => with_operand!("msr vtcr_el2", value),
            Op::WriteTcrEl1(value) => with_operand!("msr tcr_el1", value),
        }
    }
}

/// Translates `va` as EL2 would for a read or a write and returns PAR_EL1. The caller's PAR_EL1 is preserved.
pub(crate) fn translate(va: u64, write: bool) -> u64 {
    let par: u64;
    // SAFETY: AT changes PAR_EL1 alone, which belongs to the host and is put back. The ISB makes the result of the AT
    // visible to the MRS.
    unsafe {
        asm!(
            "mrs {old}, par_el1",
            "cbnz {write}, 1f",
            "at s1e2r, {va}",
            "b 2f",
            "1: at s1e2w, {va}",
            "2: isb",
            "mrs {par}, par_el1",
            "msr par_el1, {old}",
            old = out(reg) _,
            par = out(reg) par,
            va = in(reg) va,
            write = in(reg) u64::from(write),
            options(nostack, preserves_flags)
        )
    };
    par
}

/// Reads `va`, which nothing maps, for the containment test.
pub(crate) fn fault_by_read(va: u64) {
    // SAFETY: The exception is contained by the vectors of this image; nothing after it runs.
    unsafe { asm!("ldr xzr, [{}]", in(reg) va, options(nostack, preserves_flags)) };
}

/// Writes to `va`, which is mapped read-only, for the containment test.
pub(crate) fn fault_by_write(va: u64) {
    // SAFETY: As in `fault_by_read`. It writes what is there already, should it succeed.
    unsafe {
        asm!(
            "ldr {word:w}, [{va}]",
            "str {word:w}, [{va}]",
            va = in(reg) va,
            word = out(reg) _,
            options(nostack, preserves_flags)
        )
    };
}

/// Branches to `va`, which is execute-never, for the containment test.
pub(crate) fn fault_by_branch(va: u64) {
    // SAFETY: As in `fault_by_read`.
    unsafe { asm!("blr {}", in(reg) va, out("x30") _, options(nostack)) };
}

/// Executes BRK, for the containment test.
pub(crate) fn brk() {
    // SAFETY: The exception is contained by the vectors of this image; nothing after it runs.
    unsafe {
        asm!(
            "brk #{}",
            const BRK_PROVOKED,
            options(nostack, preserves_flags)
        )
    };
}

/// Executes an instruction that is permanently undefined, for the containment test.
pub(crate) fn undefined() {
    // SAFETY: As in `brk`.
    unsafe { asm!("udf #0xe12", options(nostack, preserves_flags)) };
}

/// Enters the vector for SErrors from EL2t as hardware does: ESR_EL2 of an asynchronous SError (EC 0x2f, IL, DFSC 0x11), ELR_EL2
/// and SPSR_EL2 of the interrupted code, SP_EL2 selected, DAIF set as it is already. For the containment test.
pub(crate) fn enter_serror_vector() {
    // SAFETY: As in `brk`: the vector records what it finds and leaves by the host's own frame. The caller runs on SP_EL0,
    // so 0x180 is its vector; and DAIF is set, as everywhere at EL2. The model takes no provoked exception, so no mutant dies
    // here; the VM's test `contain` reads all of this in the report. No ISB: the vector reads the registers directly.
    unsafe {
        asm!(
            "msr esr_el2, {esr}",
            "adr {scratch}, 1f",
            "msr elr_el2, {scratch}",
            "mrs {scratch}, nzcv",
            "orr {scratch}, {scratch}, {pstate}",
            "msr spsr_el2, {scratch}",
            "mrs {scratch}, vbar_el2",
            "add {scratch}, {scratch}, #0x180",
            "msr spsel, #1",
            "br {scratch}",
            "1:",
            esr = in(reg) ESR_SERROR,
            // DAIF and EL2t.
            pstate = in(reg) 0x3c8_u64,
            scratch = out(reg) _,
            options(nostack)
        )
    };
}

/// Ends the call that this CPU is in, as what `info` says does not hold: the host finds it by x0.
#[cold]
#[inline(always)]
pub(crate) fn assertion_failed(info: &'static AssertInfo) -> ! {
    // SAFETY: As in `brk`.
    unsafe {
        asm!(
            "brk #{}",
            const BRK_ASSERT,
            in("x0") info,
            options(noreturn, nostack)
        )
    }
}
