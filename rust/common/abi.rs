// SPDX-License-Identifier: GPL-2.0-only

//! Common: everything that crosses the border between EL1 and EL2.
//!
//! Three things do: the number of a call in x0, the header of the EL2 image, and the per-CPU context page. The host
//! and the EL2 image are separate crates, so their only common truth is this file: plain `repr(C)` data and numbers.
//!
//! Stub calls: `Documentation/virt/kvm/arm/hyp-abi.rst` of the Linux source.

use super::guest::GuestSlot;

/// Stub call: install the vectors at the physical address in x1.
pub const HVC_SET_VECTORS: u64 = 0;
/// Stub call: leave EL2's MMU off and jump, at EL2, to the physical address in x1 with x0..x2 = x2..x4.
pub const HVC_SOFT_RESTART: u64 = 1;
/// Stub call: put the kernel's own stub vectors back.
pub const HVC_RESET_VECTORS: u64 = 2;
/// Stub call: finish the boot-time set-up of EL2. Only ever meant for the kernel's own stub.
pub const HVC_FINALISE_EL2: u64 = 3;
/// Stub call: return ICH_VTR_EL2 in x1.
pub const HVC_GET_ICH_VTR_EL2: u64 = 4;
/// Numbers below this one are stub calls.
pub const HVC_STUB_CALLS: u64 = 5;
/// The stub's answer in x0 to a call that it does not know, and ours to a stub call that makes no sense here.
pub const HVC_STUB_ERR: u64 = 0x0bad_ca11;

/// First number of our own calls.
///
/// It is above every stub call and outside the SMCCC ranges. The kernel's stub answers [`HVC_STUB_ERR`] to it and a
/// live KVM answers `NOT_SUPPORTED`, so [`Call::Version`] is also the probe that tells who owns EL2.
pub const CALL_BASE: u64 = 0x0e12_0000;

/// Version of this interface, raised with every incompatible change.
pub const ABI_VERSION: u64 = 1;

/// Our hypercalls. x0 holds the number, x1..x4 the arguments; x0 returns a [`Status`], x1..x4 the results.
///
/// x5..x30 and all FP/SIMD state are preserved, but for x5..x17 by [`Call::Reset`] and by a call that ends in
/// [`Status::Fault`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Call {
    /// Returns x1 = [`ABI_VERSION`], x2 = the first eight bytes of the image's build ID, as a big-endian number.
    Version = CALL_BASE,
    /// Returns its arguments in x1..x4.
    Ping = CALL_BASE + 1,
    /// Returns x1 = CPU number, x2 = hypercalls taken on this CPU, x3 = VBAR_EL2, x4 = TTBR0_EL2.
    CpuInfo = CALL_BASE + 2,
    /// Maps x1 = PA, x2 = bytes (at most [`MAX_MAP_PAGES`] pages), x3 = protection ([`PROT_READ`], [`PROT_READ_WRITE`]) in the linear window. Returns x1 = hyp VA.
    Map = CALL_BASE + 3,
    /// Unmaps x1 = hyp VA, x2 = bytes.
    Unmap = CALL_BASE + 4,
    /// Shares the page at x1 = PA, counted. Returns x1 = hyp VA, x2 = count after the call: the shares of this page, or,
    /// where RAM is mapped linearly, those of all pages together.
    Share = CALL_BASE + 5,
    /// Undoes one share of the page at x1 = PA. Returns x2 = count after the call, as [`Call::Share`] does.
    Unshare = CALL_BASE + 6,
    /// Reads the 64-bit word at x1 = hyp VA of a page that is mapped or shared. Returns x1 = value.
    Read = CALL_BASE + 7,
    /// Translates x1 = hyp VA by AT S1E2R, or S1E2W where x2 = 1. Returns x1 = PAR_EL1.
    At = CALL_BASE + 8,
    /// Puts this CPU back to what was found at init. Returns x0 = 0 from the kernel's stub.
    Reset = CALL_BASE + 9,
    /// Returns x1 = value of register number x1 of [`crate::common::regs::IMAGE`]; not found if this CPU lacks it.
    ReadReg = CALL_BASE + 10,
    /// Returns x1 = pages in the pool, x2 = free pages, x3 = pages that hold tables, x4 = TLBIs issued so far.
    PoolInfo = CALL_BASE + 11,
    /// Takes an exception at EL2 on purpose, x1 = [`Provoke`] (containment test). Only where the host has asked for it at load
    /// ([`super::shared::Facts::provoke`]); else there is no such call.
    Provoke = CALL_BASE + 12,
    /// As [`Call::Read`], for the first word of each of x2 pages from x1 = hyp VA on. Returns x1 = the sum of these words.
    Walk = CALL_BASE + 13,
    /// Makes the vCPU whose context is shared at x1 = hyp VA the one that [`HVC_RUN`] runs on this CPU.
    AdmitVcpu = CALL_BASE + 14,
    /// Invalidates what is cached of a guest's stage 2, and of its stage 1 with it, on all CPUs: x1 = VTTBR_EL2, x2 = IPA,
    /// x3 = bytes, x4 = [`super::guest::stale_to_x4`].
    TlbIpa = CALL_BASE + 15,
    /// Invalidates all that is cached under the VMID of x1 = VTTBR_EL2 (x2 = VTCR_EL2 says how wide it is), on all CPUs.
    TlbVmid = CALL_BASE + 16,
    /// Invalidates all that is cached of any guest, on all CPUs: VMIDs are handed out anew.
    TlbAllVmids = CALL_BASE + 17,
}

/// Immediate of the HVC that runs a guest: x0 = [`RUN_VCPU`], x1 = hyp VA of the context, admitted on this CPU.
///
/// Returns x0 = [`Status::Ok`] and x1 = [`super::guest::ExitReason`], or x0 = [`Status::NotFound`] if the context is not
/// the admitted one, or a page was unshared since. x0-x17 are clobbered, unlike by a [`Call`]; and so are the FP/SIMD registers
/// if [`super::guest::flags::FP`] is set.
pub const HVC_RUN: u64 = 1;

/// x0 of [`HVC_RUN`]: no stub call, and no [`Call`].
pub const RUN_VCPU: u64 = CALL_BASE + 0x100;

impl Call {
    /// Every call with its name as `debugfs/eltwo/hypercall` takes it.
    pub const ALL: [(Call, &'static str); 18] = [
        (Call::Version, "version"),
        (Call::Ping, "ping"),
        (Call::CpuInfo, "cpu_info"),
        (Call::Map, "map"),
        (Call::Unmap, "unmap"),
        (Call::Share, "share"),
        (Call::Unshare, "unshare"),
        (Call::Read, "read"),
        (Call::At, "at"),
        (Call::Reset, "reset"),
        (Call::ReadReg, "read_reg"),
        (Call::PoolInfo, "pool_info"),
        (Call::Provoke, "provoke"),
        (Call::Walk, "walk"),
        (Call::AdmitVcpu, "admit_vcpu"),
        (Call::TlbIpa, "tlb_ipa"),
        (Call::TlbVmid, "tlb_vmid"),
        (Call::TlbAllVmids, "tlb_all_vmids"),
    ];

    /// The call with number `x0`, if there is one.
    pub fn from_number(x0: u64) -> Option<Call> {
        Self::ALL
            .iter()
            .map(|(call, _)| *call)
            .find(|call| *call as u64 == x0)
    }
}

/// Most pages that one [`Call::Map`] or [`Call::Unmap`] takes: interrupts of the CPU are off meanwhile.
pub const MAX_MAP_PAGES: u64 = 512;

/// Protection argument of [`Call::Map`]: EL2 may read.
pub const PROT_READ: u64 = 1;
/// Protection argument of [`Call::Map`]: EL2 may read and write.
pub const PROT_READ_WRITE: u64 = 3;

/// What a hypercall answers in x0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i64)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// There is no such call. The value is SMCCC's.
    NotSupported = -1,
    /// An argument is malformed: unaligned, zero, wrapping, or outside what it may name.
    Invalid = -2,
    /// The pool has no free page left.
    NoMemory = -3,
    /// Something else is mapped there already, or the share count is at its limit.
    Busy = -4,
    /// Nothing is mapped or shared there.
    NotFound = -5,
    /// The page exists but may not be used so: pool memory, or memory that is not RAM.
    Denied = -6,
    /// An exception was taken at EL2. The CPU has been reset to the stub and [`FaultReport`] tells more.
    Fault = -7,
}

impl Status {
    /// x0 as the caller sees it.
    pub const fn to_x0(self) -> u64 {
        self as i64 as u64
    }

    /// The status that `x0` stands for, if any.
    pub fn from_x0(x0: u64) -> Option<Status> {
        [
            Status::Ok,
            Status::NotSupported,
            Status::Invalid,
            Status::NoMemory,
            Status::Busy,
            Status::NotFound,
            Status::Denied,
            Status::Fault,
        ]
        .into_iter()
        .find(|status| status.to_x0() == x0)
    }
}

/// Ways to fault at EL2 on purpose, with the names that `debugfs/eltwo/provoke` takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Provoke {
    /// Read a VA that no table maps.
    ReadUnmapped = 0,
    /// Write to the EL2 image's text, which is mapped read-only.
    WriteText = 1,
    /// Branch to a data page, which is execute-never.
    ExecData = 2,
    /// Run the EL2 stack into its guard page.
    StackOverflow = 3,
    /// BRK.
    Brk = 4,
    /// BRK while the lock of the runtime PGD is held.
    UnderLock = 5,
    /// Execute an instruction that is permanently undefined.
    Undefined = 6,
    /// Enter the vector for SErrors, with the registers as hardware leaves them. A real one is not taken at EL2, where PSTATE.A
    /// is set, and not raised by the emulator.
    SError = 7,
    /// Fail an assertion, see [`AssertInfo`].
    Assertion = 8,
}

impl Provoke {
    /// Every way with its name.
    pub const ALL: [(Provoke, &'static str); 9] = [
        (Provoke::ReadUnmapped, "read-unmapped"),
        (Provoke::WriteText, "write-text"),
        (Provoke::ExecData, "exec-data"),
        (Provoke::StackOverflow, "stack-overflow"),
        (Provoke::Brk, "brk"),
        (Provoke::UnderLock, "under-lock"),
        (Provoke::Undefined, "undefined"),
        (Provoke::SError, "serror"),
        (Provoke::Assertion, "assertion"),
    ];

    /// The way with number `x1`, if there is one.
    pub fn from_number(x1: u64) -> Option<Provoke> {
        Self::ALL
            .iter()
            .map(|(way, _)| *way)
            .find(|way| *way as u64 == x1)
    }
}

/// Where the switch to a guest takes the exception, with the names that `debugfs/eltwo/provoke` takes behind that of the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProvokeAt {
    /// In the call that asks for it.
    Call,
    /// On the way into a guest: all its registers but the general-purpose ones are in the CPU.
    Entering,
    /// On the way out: none of the host's is back.
    Leaving,
}

impl ProvokeAt {
    /// Every place with its name.
    pub const ALL: [(ProvokeAt, &'static str); 3] = [
        (ProvokeAt::Call, "call"),
        (ProvokeAt::Entering, "entering"),
        (ProvokeAt::Leaving, "leaving"),
    ];
}

/// Immediate of the BRK that a failed assertion ends in, with x0 = hyp VA of an [`AssertInfo`].
pub const BRK_ASSERT: u16 = 0xe1a;
/// Immediate of the BRK of [`Provoke::Brk`] and [`Provoke::UnderLock`].
pub const BRK_PROVOKED: u16 = 0xe12;

/// What an assertion at EL2 claims, and where. A constant of the image; read by the host when it has failed.
#[derive(Debug)]
#[repr(C)]
pub struct AssertInfo {
    /// What must hold, as UTF-8.
    pub text: *const u8,
    /// Length of `text`.
    pub text_bytes: u64,
    /// Path of the source file, as the compiler was told it.
    pub file: *const u8,
    /// Length of `file`.
    pub file_bytes: u64,
    /// Line in it.
    pub line: u64,
}

// SAFETY: It is constant, and so is what it points to.
unsafe impl Sync for AssertInfo {}

impl AssertInfo {
    /// Of text that is part of the image.
    pub const fn new(text: &'static str, file: &'static str, line: u32) -> Self {
        Self {
            text: text.as_ptr(),
            text_bytes: text.len() as u64,
            file: file.as_ptr(),
            file_bytes: file.len() as u64,
            line: line as u64,
        }
    }
}

/// "EL2I", little endian: the first word of the EL2 image.
pub const IMAGE_MAGIC: u32 = 0x4932_4c45;

/// What stands at offset 0 of the EL2 image. Filled by `asm/idmap.S` at link time; all other fields are offsets from
/// the start of the image, in bytes. Read by the host once, before it copies the image.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ImageHeader {
    /// [`IMAGE_MAGIC`].
    pub magic: u32,
    /// [`ABI_VERSION`] of the image.
    pub abi_version: u32,
    /// Size in memory, including `.bss`.
    pub image_bytes: u32,
    /// End of the code that runs in the idmap and the trampoline. It starts at 0 and fits in 4 KiB.
    pub idmap_end: u32,
    /// Start of `.text`, aligned to the granule.
    pub text: u32,
    /// Start of `.rodata` with `.rela.dyn`, aligned to the granule.
    pub rodata: u32,
    /// Start of `.data` and `.bss`, aligned to the granule.
    pub data: u32,
    /// Start of the `Elf64_Rela` array.
    pub rela: u32,
    /// End of the `Elf64_Rela` array.
    pub rela_end: u32,
    /// Entry from the stub: init (in the idmap page).
    pub entry_init: u32,
    /// Entry from the stub: read one register (in the idmap page).
    pub entry_read_reg: u32,
    /// First instruction of the way back (in the trampoline page).
    pub entry_reset: u32,
    /// Runtime vectors, 2 KiB aligned (in `.text`).
    pub vectors: u32,
    /// The build ID of the image's ELF file, [`BUILD_ID_BYTES`] long (in `.rodata`).
    pub build_id: u32,
}

/// Length of a build ID (SHA-1).
pub const BUILD_ID_BYTES: usize = 20;

/// General-purpose state of whoever was interrupted by an exception to EL2.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Frame {
    /// x0..x30.
    pub x: [u64; 31],
    /// SP_EL0.
    pub sp_el0: u64,
    /// ELR_EL2: where the exception was taken from.
    pub elr: u64,
    /// SPSR_EL2: PSTATE there.
    pub spsr: u64,
}

/// What EL2 records when an exception is taken from EL2 itself, or one that nobody expects from EL1.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct FaultReport {
    /// State at the exception. `sp_el0` is the EL2 stack pointer if `vector` is one of EL2t's.
    pub frame: Frame,
    /// ESR_EL2.
    pub esr: u64,
    /// FAR_EL2.
    pub far: u64,
    /// HPFAR_EL2.
    pub hpfar: u64,
    /// Offset of the vector that was taken, 0x000..0x780.
    pub vector: u64,
    /// Hyp VA of the context of the vCPU whose registers were in the CPU, in part at least; 0 if the host's were. Valid for
    /// exceptions from EL2.
    pub guest: u64,
    /// 1 once the report is complete, stored with release; the host clears it when it has read the report.
    pub valid: u64,
}

/// What the init code reads with the MMU off, so the host cleans it to the PoC before every init.
///
/// Filled by the host. All values are final: EL2 writes them to the registers as they are.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BootParams {
    /// MAIR_EL2.
    pub mair: u64,
    /// TCR_EL2, the same for both PGDs.
    pub tcr: u64,
    /// TTBR0_EL2 of the boot PGD.
    pub ttbr_boot: u64,
    /// TTBR0_EL2 of the runtime PGD.
    pub ttbr_runtime: u64,
    /// SCTLR_EL2 with the MMU on.
    pub sctlr: u64,
    /// VBAR_EL2: hyp VA of the runtime vectors.
    pub vbar: u64,
    /// SP_EL2: hyp VA of this [`CpuContext`].
    pub context_va: u64,
    /// Hyp VA of the trampoline page minus PA of the same page, modulo 2^64.
    pub trampoline_offset: u64,
    /// Hyp VA (trampoline) of the first instruction of the way back.
    pub reset_va: u64,
}

/// The registers that init changes, as they were found. Reset writes exactly these back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SavedRegs {
    /// SCTLR_EL2.
    pub sctlr: u64,
    /// VBAR_EL2.
    pub vbar: u64,
    /// TTBR0_EL2.
    pub ttbr0: u64,
    /// TCR_EL2.
    pub tcr: u64,
    /// MAIR_EL2.
    pub mair: u64,
    /// SP_EL2.
    pub sp: u64,
}

/// One page per CPU. SP_EL2 points at it for as long as the CPU is ours, so that an exception can be recorded whatever
/// has become of the stack: Rust code at EL2 runs on SP_EL0.
#[derive(Debug)]
#[repr(C)]
pub struct CpuContext {
    /// State of the host at its last call.
    pub host: Frame,
    /// Top of the EL2 stack (hyp VA). Filled by the host.
    pub stack_top: u64,
    /// Hyp VA of [`Shared`]. Filled by the host.
    pub shared_va: u64,
    /// Number of this CPU. Filled by the host.
    pub cpu: u64,
    /// One bit for each register of [`crate::common::regs::IMAGE`] that this CPU has. Filled by the host.
    pub present: u64,
    /// Calls that reached the Rust dispatcher. Counted by EL2.
    pub hypercalls: u64,
    /// Exceptions taken at EL2. Counted by EL2.
    pub faults: u64,
    /// The last of them. Filled by EL2.
    pub report: FaultReport,
    /// As found before init. Filled by the host.
    pub saved: SavedRegs,
    /// Read with the MMU off.
    pub boot: BootParams,
    /// For guests. The host zeroes it before init.
    pub guest: GuestSlot,
}
