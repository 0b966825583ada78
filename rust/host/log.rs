// SPDX-License-Identifier: GPL-2.0-only

//! Host: the log of exceptions that were taken at EL2.
//!
//! EL2 leaves a raw report in the context page of the CPU. The backtrace is made here: the stack is pool memory, so the
//! host follows the frame records in it without any help of the EL2 that has just failed.

use core::{
    fmt,
    iter, //
};

use kernel::prelude::*;

use super::{
    linear,
    service::Service, //
};
use crate::common::{
    abi::FaultReport,
    addr::HypVa, //
};

/// Reports kept; the oldest goes first.
const KEPT: usize = 8;
/// Return addresses kept of each.
const DEPTH: usize = 16;

/// First vector of the exceptions that come from EL1 and EL0.
const LOWER_EL: u64 = 0x400;

/// One exception.
#[derive(Clone, Copy)]
struct Record {
    cpu: u32,
    report: FaultReport,
    /// Where the image is mapped, so that addresses can be given as offsets into `eltwo_hyp.elf`.
    image: u64,
    image_bytes: u64,
    backtrace: [u64; DEPTH],
    depth: usize,
}

/// The last exceptions.
#[derive(Default)]
pub(crate) struct FaultLog {
    records: [Option<Record>; KEPT],
    total: usize,
}

impl FaultLog {
    /// Keeps what EL2 has recorded for `cpu`, and says so in the kernel's log.
    pub(crate) fn record(&mut self, service: &Service, cpu: u32, report: FaultReport) {
        let mut record = Record {
            cpu,
            report,
            image: service.tables.layout().image().first().raw(),
            image_bytes: service.image.bytes() as u64,
            backtrace: [0; DEPTH],
            depth: 0,
        };
        record.follow_frames(service);
        pr_err!(
            "CPU{}: {}: {}, ESR_EL2 {:#x} FAR_EL2 {:#x} ELR_EL2 {:#x}; see eltwo/log in debugfs\n",
            record.cpu,
            if report.vector < LOWER_EL {
                "exception at EL2 contained"
            } else {
                "unexpected trap from the host"
            },
            class_name(report.esr),
            report.esr,
            report.far,
            report.frame.elr
        );
        self.records.rotate_left(usize::from(self.total >= KEPT));
        let slot = self.total.min(KEPT - 1);
        if let Some(slot) = self.records.get_mut(slot) {
            *slot = Some(record);
        }
        self.total += 1;
    }
}

impl Record {
    fn offset(&self, va: u64) -> u64 {
        va.wrapping_sub(self.image)
    }

    /// Follows the frame records (AAPCS64: x29 points at the caller's x29 and x30) for as long as they are in this CPU's
    /// stack and ascend.
    fn follow_frames(&mut self, service: &Service) {
        let Some(stack) = service.tables.layout().stack(self.cpu) else {
            return;
        };
        let mut frame = self.report.frame.x[29];
        while self.depth < DEPTH {
            let inside = HypVa::new(frame).is_some_and(|va| stack.contains(va)) && frame % 16 == 0;
            let Some(pa) = HypVa::new(frame)
                .filter(|_| inside)
                .and_then(|va| service.tables.runtime_pa(&service.pool, va))
            else {
                return;
            };
            let words = linear::phys_to_kern(pa).cast::<[u64; 2]>();
            // SAFETY: The frame is in a stack page of the pool, 16-byte aligned, so both words are in that page.
            let [next, caller] = unsafe { words.as_ptr().read_volatile() };
            if let Some(slot) = self.backtrace.get_mut(self.depth) {
                *slot = caller;
                self.depth += 1;
            }
            if next <= frame {
                return;
            }
            frame = next;
        }
    }
}

impl fmt::Display for FaultLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for record in self.records.iter().flatten() {
            write!(f, "{record}")?;
        }
        Ok(())
    }
}

/// Names of the exception classes that EL2 can raise against itself (ESR_EL2.EC).
fn class_name(esr: u64) -> &'static str {
    match (esr >> 26) & 0x3f {
        0x00 => "unknown reason",
        0x21 => "instruction abort",
        0x22 => "PC alignment",
        0x25 => "data abort",
        0x26 => "SP alignment",
        0x2f => "SError",
        0x3c => "BRK",
        _ => "unexpected class",
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = &self.report;
        writeln!(
            f,
            "cpu {} vector {:#05x}: {}",
            self.cpu,
            report.vector,
            class_name(report.esr)
        )?;
        writeln!(
            f,
            "  ESR_EL2 {:#018x} FAR_EL2 {:#018x} HPFAR_EL2 {:#018x}",
            report.esr, report.far, report.hpfar
        )?;
        writeln!(
            f,
            "  ELR_EL2 {:#018x} SPSR_EL2 {:#018x} SP_EL0 {:#018x}",
            report.frame.elr, report.frame.spsr, report.frame.sp_el0
        )?;
        for (number, value) in report.frame.x.iter().enumerate() {
            let last = number % 4 == 3 || number == 30;
            write!(
                f,
                "  x{number:<2} {value:#018x}{}",
                if last { "\n" } else { "" }
            )?;
        }
        write!(f, "  backtrace")?;
        let callers = self.backtrace.iter().take(self.depth);
        for address in Iterator::chain(iter::once(&report.frame.elr), callers) {
            let offset = self.offset(*address);
            if offset < self.image_bytes {
                write!(f, " eltwo_hyp+{offset:#x}")?;
            } else {
                write!(f, " {address:#x}")?;
            }
        }
        writeln!(f)
    }
}
