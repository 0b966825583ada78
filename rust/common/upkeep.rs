// SPDX-License-Identifier: GPL-2.0-only

//! What the host does at EL1 for the machine's sake, as sequences of instructions: cache maintenance and barriers.
//!
//! Domain: common. As in [`super::pgtable::tlb`], the order is decided here, so that the model sees it; `arch` only turns one
//! [`Op`] into one instruction.
//!
//! Source: Arm ARM DDI 0487 B2.8 (caches), K13.5 (barrier examples); `arch/arm64/include/asm/assembler.h` of Linux for the
//! errata.

/// One instruction of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// DC CIVAC of the line at an address.
    DcCivac(u64),
    /// IC IALLUIS.
    IcIalluis,
    /// DSB SY.
    DsbSy,
    /// DSB ISH.
    DsbIsh,
    /// DSB ISHST.
    DsbIshst,
    /// ISB.
    Isb,
}

/// What executes the instructions: the CPU, at EL1, or a model of it.
pub trait Port {
    /// Executes one. In program order with all others, and with all accesses to memory.
    fn issue(&self, op: Op);
}

/// CTR_EL0.L1Ip of an instruction cache in which the PA alone decides where a line is.
const PIPT: u64 = 0b11;

/// Lines of instruction caches that are invalidated one by one, each with its broadcast, before all of them are at once (Linux:
/// `MAX_DVM_OPS`, with pages of 4K).
const LINES_BY_VA: u64 = 512;

/// How far a line of a cache reaches, and who finds it.
#[derive(Clone, Copy, Debug)]
pub struct CacheGeometry {
    /// log2 of the size in bytes of the smallest line of any data cache of the system.
    line_shift: u32,
    /// The same for instruction caches.
    code_line_shift: u32,
    /// Some instruction cache may hold the same memory in several lines, by the VAs that it is executed at.
    aliases: bool,
}

/// Memory that is to be executed.
#[derive(Clone, Copy, Debug)]
pub struct Code {
    /// Where this CPU has it mapped.
    pub start: u64,
    /// Bytes.
    pub bytes: u64,
    /// What was written is at the PoU already.
    pub clean: bool,
    /// See [`CacheGeometry::clean_to_poc`].
    pub twice: bool,
}

impl CacheGeometry {
    /// From the system-wide value of CTR_EL0: DminLine and IminLine are in words. L1Ip is that of all CPUs, or VIPT if they differ;
    /// what is not PIPT may have aliases.
    pub const fn from_ctr(ctr: u64) -> Self {
        Self {
            line_shift: (ctr.wrapping_shr(16) & 0xf) as u32 + 2,
            code_line_shift: (ctr & 0xf) as u32 + 2,
            aliases: ctr.wrapping_shr(14) & 0b11 != PIPT,
        }
    }

    /// Whether an invalidation of instruction caches by VA reaches `bytes` bytes at whatever VA they are executed, and is no more
    /// work than that of all.
    const fn does_by_va(self, bytes: u64) -> bool {
        !self.aliases && bytes.wrapping_shr(self.code_line_shift) <= LINES_BY_VA
    }

    /// Makes `code` fit to be executed, on all CPUs and at any VA: no instruction cache holds what was there before, and each finds
    /// what was written.
    ///
    /// `by_va` does so for this CPU's VA of it (Linux: `caches_clean_inval_pou`).
    pub fn publish_code(self, port: &impl Port, code: Code, by_va: impl FnOnce()) {
        if self.does_by_va(code.bytes) {
            return by_va();
        }
        if !code.clean {
            // To the PoC, which is beyond the PoU.
            self.clean_to_poc(port, code.start, code.bytes, code.twice);
        }
        invalidate_icache(port);
    }

    /// Cleans and invalidates `bytes` bytes at `start` to the PoC, so that who has its caches off finds what this CPU has
    /// written, and no line can be written back over what that one writes. `twice` for an erratum (Linux:
    /// `ARM64_WORKAROUND_4311569`).
    ///
    /// CIVAC and not CVAC: some cores need it for a clean (Linux: `ARM64_WORKAROUND_CLEAN_CACHE`).
    #[inline]
    pub fn clean_to_poc(self, port: &impl Port, start: u64, bytes: u64, twice: bool) {
        let Some(last) = bytes
            .checked_sub(1)
            .and_then(|more| start.checked_add(more))
        else {
            return;
        };
        let first = start.wrapping_shr(self.line_shift);
        let lines = last
            .wrapping_shr(self.line_shift)
            .wrapping_sub(first)
            .wrapping_add(1);
        for _ in 0..=u8::from(twice) {
            self.clean_lines(port, first.wrapping_shl(self.line_shift), lines);
        }
        // SY, because the next reader's accesses may be Device, and so outside of any shareability domain that ISH would name.
        port.issue(Op::DsbSy);
    }

    /// Two lines in each turn: a guest's first access to a block of 2 MiB costs 32768 of them and little else.
    #[inline]
    fn clean_lines(self, port: &impl Port, first: u64, lines: u64) {
        let clean = |line| port.issue(Op::DcCivac(line));
        let size = 1u64.wrapping_shl(self.line_shift);
        let mut line = first;
        if lines & 1 != 0 {
            clean(line);
            line = line.wrapping_add(size);
        }
        for _ in 0..lines.wrapping_shr(1) {
            clean(line);
            clean(line.wrapping_add(size));
            line = line.wrapping_add(size.wrapping_mul(2));
        }
    }
}

/// Makes descriptors that this CPU has stored visible to the table walks of all CPUs.
///
/// ISHST: the stores must be observed by the walkers, which are Inner Shareable observers (TCR_EL2.SH0, VTCR_EL2.SH0); loads play
/// no part. No ISB: these tables are not in use before an HVC, which is a context synchronization event.
#[inline]
pub fn publish_tables(port: &impl Port) {
    port.issue(Op::DsbIshst);
}

/// Orders all stores of this CPU before its later loads, and before walks that see what those loads see.
#[inline]
pub fn order_stores(port: &impl Port) {
    port.issue(Op::DsbIsh);
}

/// Invalidates the instruction caches of all CPUs.
#[inline]
pub fn invalidate_icache(port: &impl Port) {
    // What was stored is what they find then.
    port.issue(Op::DsbIshst);
    port.issue(Op::IcIalluis);
    // Completes it on all CPUs; and what this one has fetched ahead goes.
    port.issue(Op::DsbIsh);
    port.issue(Op::Isb);
}

/// Makes a pending interrupt be taken now, if it is not masked: context synchronization (Arm ARM D1.3.6).
#[inline]
pub fn take_interrupts(port: &impl Port) {
    port.issue(Op::Isb);
}
