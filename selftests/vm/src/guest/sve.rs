// SPDX-License-Identifier: GPL-2.0-only

//! The SVE registers of a thread, all at once: loaded, left alone for a while, and stored.
//!
//! Compilers know nothing of this: the thread is in one routine from the first load to the last store.

use std::{
    arch::{
        asm,
        global_asm, //
    },
    mem::offset_of,
    os::fd::RawFd,
    sync::atomic::{
        AtomicU32,
        Ordering, //
    },
};

use nix::libc;

/// Vector and predicate registers; FFR follows the latter.
const VECTORS: usize = 32;
const PREDICATES: usize = 16;

/// Bytes of a vector register that are there without SVE too.
pub const LOW_BYTES: usize = 16;

/// Whether the kernel lets programs use SVE.
pub fn is_there() -> bool {
    const HWCAP_SVE: libc::c_ulong = 1 << 22;
    // SAFETY: It reads the auxiliary vector of this process.
    let capabilities = unsafe { libc::getauxval(libc::AT_HWCAP) };
    capabilities & HWCAP_SVE != 0
}

/// Bytes of a vector register, for this thread. Only with SVE.
pub fn vector_bytes() -> usize {
    let bytes: usize;
    // SAFETY: RDVL changes its destination only, and there is SVE.
    unsafe {
        asm!(
            ".arch_extension sve",
            "rdvl {}, #1",
            ".arch_extension nosve",
            out(reg) bytes,
            options(nomem, nostack)
        )
    };
    bytes
}

/// The values of all registers: vectors, predicates, FFR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Values(Vec<u8>);

impl Values {
    /// Values that differ from register to register. FFR holds what it may hold: ones, then zeroes.
    pub fn pattern(seed: u8) -> Self {
        let vector = vector_bytes();
        let before_ffr = VECTORS * vector + PREDICATES * vector / 8;
        let bytes = (0..before_ffr).map(|n| seed.wrapping_add((n * 7 + n / 251) as u8) | 1);
        let ffr = (0..vector / 8).map(|n| if n < vector / 16 { 0xff } else { 0 });
        Self(bytes.chain(ffr).collect())
    }

    fn cleared() -> Self {
        Self(vec![0; Self::pattern(0).0.len()])
    }

    /// What the vector registers have without SVE.
    pub fn low(&self) -> Vec<&[u8]> {
        let vectors = self.0.chunks(vector_bytes()).take(VECTORS);
        vectors.map(|vector| &vector[..LOW_BYTES]).collect()
    }
}

/// What the thread does while its registers have their values.
#[repr(C)]
pub struct Wait {
    /// A system call, `ioctl(fd, request, 0)`, if the request is not zero. Then nothing else.
    fd: u64,
    request: u64,
    /// The registers have their values. The routine sets it.
    ready: AtomicU32,
    /// It is over. The test sets it.
    over: AtomicU32,
}

impl Wait {
    /// It computes until [`Self::end`], without a system call.
    pub fn until_told() -> Self {
        Self {
            fd: 0,
            request: 0,
            ready: AtomicU32::new(0),
            over: AtomicU32::new(0),
        }
    }

    /// It makes one `ioctl` with the argument 0.
    pub fn in_ioctl(fd: RawFd, request: u32) -> Self {
        Self {
            fd: fd as u64,
            request: request.into(),
            ..Self::until_told()
        }
    }

    /// Whether the registers have their values.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) != 0
    }

    /// Ends it.
    pub fn end(&self) {
        self.over.store(1, Ordering::Release);
    }

    /// Gives all registers of this thread their `values`, waits, and returns what they have then.
    pub fn hold(&self, values: &Values) -> Values {
        let mut after = Values::cleared();
        // SAFETY: Both have room for all registers at the vector length of this thread, which nothing changes. The
        // routine keeps what the calling convention has it keep.
        unsafe { eltwo_sve_hold(values.0.as_ptr(), after.0.as_mut_ptr(), self) };
        after
    }
}

extern "C" {
    fn eltwo_sve_hold(values: *const u8, after: *mut u8, wait: *const Wait);
}

// eltwo_sve_hold: x0 = values, x1 = where to put them afterwards, x2 = Wait. Clobbers what a function may clobber.
global_asm!(
    "\t.pushsection .text.eltwo_sve_hold, \"ax\"",
    "\t.arch_extension sve",
    "\t.balign 4",
    "\t.globl eltwo_sve_hold",
    "\t.hidden eltwo_sve_hold",
    "\t.type eltwo_sve_hold, %function",
    "eltwo_sve_hold:",
    "\tstp d8, d9, [sp, #-64]!",
    "\tstp d10, d11, [sp, #16]",
    "\tstp d12, d13, [sp, #32]",
    "\tstp d14, d15, [sp, #48]",
    "\tmov x9, x1",
    "\tmov x10, x2",
    "\taddvl x3, x0, #31",
    "\taddvl x3, x3, #1",
    "\tldr p0, [x3, #16, mul vl]",
    "\twrffr p0.b",
    "\t.irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
    "\tldr z\\n, [x0, #\\n, mul vl]",
    "\t.endr",
    "\t.irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "\tldr p\\n, [x3, #\\n, mul vl]",
    "\t.endr",
    "\tmov w4, #1",
    "\tadd x5, x10, #{READY}",
    "\tstlr w4, [x5]",
    "\tldp x0, x1, [x10, #{FD}]",
    "\tadd x5, x10, #{OVER}",
    "\tcbz x1, 1f",
    "\tmov x2, xzr",
    "\tmov x8, #{IOCTL}",
    "\tsvc #0",
    "\tb 2f",
    "1:\tldar w4, [x5]",
    "\tcbz w4, 1b",
    "2:\taddvl x3, x9, #31",
    "\taddvl x3, x3, #1",
    "\t.irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
    "\tstr z\\n, [x9, #\\n, mul vl]",
    "\t.endr",
    "\t.irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "\tstr p\\n, [x3, #\\n, mul vl]",
    "\t.endr",
    "\trdffr p0.b",
    "\tstr p0, [x3, #16, mul vl]",
    "\tldp d10, d11, [sp, #16]",
    "\tldp d12, d13, [sp, #32]",
    "\tldp d14, d15, [sp, #48]",
    "\tldp d8, d9, [sp], #64",
    "\tret",
    "\t.size eltwo_sve_hold, . - eltwo_sve_hold",
    "\t.arch_extension nosve",
    "\t.popsection",
    FD = const offset_of!(Wait, fd),
    READY = const offset_of!(Wait, ready),
    OVER = const offset_of!(Wait, over),
    IOCTL = const libc::SYS_ioctl,
);
