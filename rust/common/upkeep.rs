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

/// How far a line of the data cache reaches.
#[derive(Clone, Copy, Debug)]
pub struct CacheGeometry {
    /// log2 of the size in bytes of the smallest line of any data cache of the system.
    line_shift: u32,
}

impl CacheGeometry {
    /// From the system-wide value of CTR_EL0: DminLine is in words.
    pub const fn from_ctr(ctr: u64) -> Self {
        Self {
            line_shift: (ctr.wrapping_shr(16) & 0xf) as u32 + 2,
        }
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
