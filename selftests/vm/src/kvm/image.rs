// SPDX-License-Identifier: GPL-2.0-only

//! The image of the guests: a runtime and small programs for EL1, in assembly language, embedded in this program.
//!
//! The image is position independent. It is copied to the start of a guest's memory; a program is chosen through the
//! [`Mailbox`] of a vCPU, which is also where arguments, results and progress are exchanged.

use std::{
    arch::global_asm,
    mem::offset_of,
    ptr::addr_of,
    slice, //
};

/// Guest physical address of the page of MMIO registers, where no memory is.
pub const MMIO: u64 = 0x0900_0000;
/// Register for a byte of text.
pub const CONSOLE: u64 = 0x00;
/// Register for a value that a program reports, 8 bytes.
pub const REPORT: u64 = 0x08;
/// Register for the result with which a program ends, 8 bytes.
pub const DONE: u64 = 0x10;
/// Register for ESR_EL1 of an exception that the program has not asked for, 8 bytes.
pub const FAULT: u64 = 0x18;
/// First of the registers that belong to the test.
pub const TEST: u64 = 0x100;

/// Offset of the stage-1 table from the start of the image, which is smaller.
pub const TABLE: u64 = 0x4000;
/// Offset of the first mailbox from the start of the image.
pub const MAILBOXES: u64 = 0x5000;
/// Offset of the first byte that no part of the runtime uses.
pub const FREE: u64 = 0x1_0000;

/// Factor of the words of the program `compute` (an odd number, so that no bit is lost).
pub const MULTIPLIER: u64 = 0x5851_f42d_4c95_7f2d;

/// What a vCPU and user space tell each other. Lies in the memory of the guest.
#[repr(C, align(256))]
pub struct Mailbox {
    /// Guest physical address of the program. User space fills it in before the vCPU starts.
    pub program: u64,
    /// x1..x6 of the program. User space fills them in before the vCPU starts.
    pub arguments: [u64; 6],
    /// x0..x3 after a call. The program fills them in.
    pub results: [u64; 4],
    /// Number of exceptions that were taken. The runtime counts.
    pub taken: u64,
    /// ESR_EL1 of the last exception.
    pub esr: u64,
    /// ELR_EL1 of the last exception.
    pub elr: u64,
    /// FAR_EL1 of the last exception.
    pub far: u64,
    /// Not zero: exceptions are skipped. The program sets it.
    pub skip: u64,
    /// How far the program is, in a unit of its own.
    pub progress: u64,
    /// Not zero: the program is to end. User space sets it.
    pub stop: u64,
    /// ISR_EL1 when the last interrupt was taken.
    pub interrupt: u64,
    /// Registers that the exception handler saves.
    scratch: [u64; 2],
}

/// Bytes from one mailbox to the next.
pub const MAILBOX_STRIDE: u64 = size_of::<Mailbox>() as u64;

global_asm!(
    ".pushsection .text",
    include_str!("image/runtime.S"),
    include_str!("image/programs.S"),
    include_str!("image/compute.S"),
    include_str!("image/bench.S"),
    "\t.balign 8",
    "\t.globl guest_image_end",
    "\t.hidden guest_image_end",
    "guest_image_end:",
    "\t.popsection",
    MMIO_HIGH = const MMIO >> 16,
    CONSOLE = const CONSOLE,
    REPORT = const REPORT,
    DONE = const DONE,
    FAULT = const FAULT,
    TABLE = const TABLE,
    MULTIPLIER = const MULTIPLIER,
    PROGRAM = const offset_of!(Mailbox, program),
    ARGUMENTS = const offset_of!(Mailbox, arguments),
    RESULTS = const offset_of!(Mailbox, results),
    TAKEN = const offset_of!(Mailbox, taken),
    ESR = const offset_of!(Mailbox, esr),
    FAR = const offset_of!(Mailbox, far),
    SKIP = const offset_of!(Mailbox, skip),
    PROGRESS = const offset_of!(Mailbox, progress),
    STOP = const offset_of!(Mailbox, stop),
    INTERRUPT = const offset_of!(Mailbox, interrupt),
    SCRATCH = const offset_of!(Mailbox, scratch),
);

extern "C" {
    static guest_image: u8;
    static guest_image_end: u8;
    static guest_boot: u8;
}

/// Makes the list of programs: a constant for each, and the symbol of the assembly language behind it.
macro_rules! programs {
    ($($(#[$doc:meta])* $name:ident = $symbol:ident;)*) => {
        extern "C" {
            $(static $symbol: u8;)*
        }

        /// A program of the image; `image/*.S` say what each does and takes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Program {
            $($(#[$doc])* $name,)*
        }

        impl Program {
            /// Offset of the program from the start of the image.
            pub fn offset(self) -> u64 {
                match self {
                    $(Self::$name => offset_of_symbol(addr_of!($symbol)),)*
                }
            }
        }
    };
}

programs! {
    /// Prints a line.
    Hello = guest_hello;
    /// Makes a call by HVC.
    Hvc = guest_hvc;
    /// Makes a call by SMC.
    Smc = guest_smc;
    /// Loads of every kind from an MMIO address.
    MmioLoads = guest_mmio_loads;
    /// Stores of every size to an MMIO address.
    MmioStores = guest_mmio_stores;
    /// A store to an MMIO address that hardware does not describe.
    MmioNoSyndrome = guest_mmio_no_syndrome;
    /// Executes one instruction.
    Execute = guest_execute;
    /// Reads memory once.
    Read = guest_read;
    /// Writes memory once.
    Write = guest_write;
    /// Reads memory until it is told to stop.
    ReadOn = guest_read_on;
    /// Counts in memory until it is told to stop.
    WriteOn = guest_write_on;
    /// Counts until it is told to stop.
    Spin = guest_spin;
    /// Waits for an interrupt.
    Wfi = guest_wfi;
    /// Waits for an interrupt, and takes it.
    Interrupt = guest_interrupt_taken;
    /// Lets SErrors in.
    Serror = guest_serror;
    /// Reads both counters.
    Counters = guest_counters;
    /// Jumps.
    Jump = guest_jump;
    /// Goes to EL0 in AArch32.
    Aarch32 = guest_aarch32;
    /// Reports which vCPU this is.
    Identity = guest_identity;
    /// Computes in memory and in all registers.
    Compute = guest_compute;
    /// Times calls by HVC.
    BenchHvc = guest_bench_hvc;
    /// Times writes to an MMIO address.
    BenchMmio = guest_bench_mmio;
    /// Times writes to memory, one for each page.
    BenchTouch = guest_bench_touch;
}

fn offset_of_symbol(symbol: *const u8) -> u64 {
    symbol.addr().wrapping_sub(addr_of!(guest_image).addr()) as u64
}

/// The bytes of the image.
pub fn bytes() -> &'static [u8] {
    let start = addr_of!(guest_image);
    let length = offset_of_symbol(addr_of!(guest_image_end));
    // SAFETY: The linker has put the section's bytes between the two symbols; they are never written.
    unsafe { slice::from_raw_parts(start, length as usize) }
}

/// Offset of the entry from the start of the image.
pub fn boot_offset() -> u64 {
    offset_of_symbol(addr_of!(guest_boot))
}
