// SPDX-License-Identifier: GPL-2.0-only

//! Host: the log of exceptions that were taken at EL2.
//!
//! EL2 leaves a raw report in the context page of the CPU. The backtrace is made here: the stack is pool memory, so the
//! host follows the frame records in it without any help of the EL2 that has just failed; and the names come from a table in
//! the module. The whole report goes to the kernel's log, and is kept for `debugfs/eltwo/log`.

use core::{
    fmt::{
        self,
        Write as _, //
    },
    mem::offset_of,
    str, //
};

use kernel::prelude::*;

use super::{
    image::{
        self,
        Image, //
    },
    linear,
    service::Service,
    symbols::Place, //
};
use crate::common::{
    abi::{
        AssertInfo,
        FaultReport,
        BRK_ASSERT, //
    },
    addr::HypVa, //
};

/// Reports kept; the oldest goes first.
const KEPT: usize = 8;
/// Return addresses kept of each.
const DEPTH: usize = 16;
/// Words of the stack kept of each.
const STACK_WORDS: usize = 16;
/// Longest text of an assertion that is believed, in bytes.
const ASSERT_BYTES: usize = 256;

/// Longest line of the kernel's log, in bytes. The rest is cut off.
const LINE_BYTES: usize = 480;

/// First vector of the exceptions that were taken in code that runs on SP_EL2: assembly, without a stack.
const EL2H: u64 = 0x200;
/// First vector of the exceptions that come from EL1 and EL0.
const LOWER_EL: u64 = 0x400;

/// ESR_EL2.EC of BRK.
const EC_BRK: u64 = 0x3c;

/// One exception.
#[derive(Clone, Copy)]
struct Record {
    cpu: u32,
    report: FaultReport,
    /// Where the image is mapped.
    image: u64,
    backtrace: [u64; DEPTH],
    depth: usize,
    /// The stack, from this hyp VA on.
    stack_from: u64,
    stack: [u64; STACK_WORDS],
    stack_words: usize,
    assertion: Option<Assertion>,
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
        let record = Record::new(service, cpu, report);
        let what = if report.vector < LOWER_EL {
            "exception at EL2 contained"
        } else {
            "unexpected trap from the host"
        };
        pr_err!("CPU{cpu}: {what}; kept in eltwo/log of debugfs\n");
        let mut lines = KernelLog::default();
        // It never fails: what does not fit is cut off.
        let _ = write!(lines, "{record}");
        self.records.rotate_left(usize::from(self.total >= KEPT));
        let slot = self.total.min(KEPT - 1);
        if let Some(slot) = self.records.get_mut(slot) {
            *slot = Some(record);
        }
        self.total += 1;
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

/// The kernel's log, which takes whole lines.
struct KernelLog {
    line: [u8; LINE_BYTES],
    used: usize,
}

impl Default for KernelLog {
    fn default() -> Self {
        Self {
            line: [0; LINE_BYTES],
            used: 0,
        }
    }
}

impl fmt::Write for KernelLog {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                let line = self.line.get(..self.used).unwrap_or_default();
                pr_err!("{}\n", str::from_utf8(line).unwrap_or("?"));
                self.used = 0;
            } else if let Some(slot) = self.line.get_mut(self.used) {
                *slot = byte;
                self.used += 1;
            }
        }
        Ok(())
    }
}

/// What a failed assertion has claimed.
#[derive(Clone, Copy)]
struct Assertion {
    text: &'static str,
    file: &'static str,
    line: u64,
}

impl Assertion {
    /// The one whose [`AssertInfo`] is at hyp VA `at`. Whatever the registers say, only the image is read.
    fn read(image: &Image, base: u64, at: u64) -> Option<Self> {
        let word = |field: usize| image.word(at.checked_sub(base)?.checked_add(field as u64)?);
        let string = |pointer: usize, length: usize| {
            let start = usize::try_from(word(pointer)?.checked_sub(base)?).ok()?;
            let length = usize::try_from(word(length)?).ok()?;
            // No relocation is in a text, so it is the same in the module.
            let bytes = image::blob().get(start..start.checked_add(length)?)?;
            str::from_utf8(bytes)
                .ok()
                .filter(|_| length <= ASSERT_BYTES)
        };
        let text = string(
            offset_of!(AssertInfo, text),
            offset_of!(AssertInfo, text_bytes),
        )?;
        let file = string(
            offset_of!(AssertInfo, file),
            offset_of!(AssertInfo, file_bytes),
        )?;
        // The compiler was told a path of the machine that it ran on.
        let in_tree = file.rfind("rust/").and_then(|tree| file.get(tree..));
        Some(Self {
            text,
            file: in_tree.unwrap_or(file),
            line: word(offset_of!(AssertInfo, line))?,
        })
    }
}

impl Record {
    fn new(service: &Service, cpu: u32, report: FaultReport) -> Self {
        let image = service.tables.layout().image().first().raw();
        let esr = report.esr;
        let asserted = class(esr) == EC_BRK && esr & 0xffff == u64::from(BRK_ASSERT);
        let mut record = Self {
            cpu,
            report,
            image,
            backtrace: [0; DEPTH],
            depth: 0,
            stack_from: report.frame.sp_el0,
            stack: [0; STACK_WORDS],
            stack_words: 0,
            assertion: asserted
                .then(|| Assertion::read(&service.image, image, report.frame.x[0]))
                .flatten(),
        };
        if report.vector < EL2H {
            record.follow_frames(service);
            record.copy_stack(service);
        }
        record
    }

    fn push(&mut self, address: u64) {
        if let Some(slot) = self.backtrace.get_mut(self.depth) {
            *slot = address;
            self.depth += 1;
        }
    }

    /// Follows the frame records (AAPCS64: x29 points at the caller's x29 and x30) for as long as they are in this CPU's
    /// stack and ascend.
    fn follow_frames(&mut self, service: &Service) {
        let elr = self.report.frame.elr;
        if Place::find(elr.wrapping_sub(self.image)).is_none() {
            // It has gone astray: the link register knows from where.
            self.push(self.report.frame.x[30]);
        }
        let mut frame = self.report.frame.x[29];
        while self.depth < DEPTH {
            let (Some(next), Some(caller)) = (
                self.stack_word(service, frame),
                self.stack_word(service, frame.wrapping_add(8)),
            ) else {
                return;
            };
            self.push(caller);
            if next <= frame {
                return;
            }
            frame = next;
        }
    }

    /// Copies the end of the stack that was in use last. If the pointer has left the stack, that is its lower end.
    fn copy_stack(&mut self, service: &Service) {
        let Some(stack) = service.tables.layout().stack(self.cpu) else {
            return;
        };
        self.stack_from = self.stack_from.max(stack.first().raw()) & !7;
        while self.stack_words < STACK_WORDS {
            let at = self.stack_from + 8 * self.stack_words as u64;
            let Some(word) = self.stack_word(service, at) else {
                return;
            };
            if let Some(slot) = self.stack.get_mut(self.stack_words) {
                *slot = word;
            }
            self.stack_words += 1;
        }
    }

    /// The word at hyp VA `at`, if that is in this CPU's stack.
    fn stack_word(&self, service: &Service, at: u64) -> Option<u64> {
        let stack = service.tables.layout().stack(self.cpu)?;
        let va = HypVa::new(at).filter(|va| at % 8 == 0 && stack.contains(*va))?;
        let pa = service.tables.runtime_pa(&service.pool, va)?;
        let word = linear::phys_to_kern(pa).cast::<u64>();
        // SAFETY: It is in a stack page of the pool, aligned.
        Some(unsafe { word.as_ptr().read_volatile() })
    }

    /// One line of the backtrace.
    fn show_place(
        &self,
        f: &mut fmt::Formatter<'_>,
        address: u64,
        find: fn(u64) -> Option<Place>,
    ) -> fmt::Result {
        let offset = address.wrapping_sub(self.image);
        match find(offset) {
            Some(place) => writeln!(f, "    {place} (eltwo_hyp+{offset:#x})"),
            None => writeln!(f, "    {address:#x}"),
        }
    }

    fn show_stack(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  stack from {:#x}", self.stack_from)?;
        for line in self
            .stack
            .get(..self.stack_words)
            .unwrap_or_default()
            .chunks(4)
        {
            write!(f, "   ")?;
            for word in line {
                write!(f, " {word:016x}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// ESR_EL2.EC.
fn class(esr: u64) -> u64 {
    (esr >> 26) & 0x3f
}

/// Names of the exception classes that EL2 can raise against itself.
fn class_name(esr: u64) -> &'static str {
    match class(esr) {
        0x00 => "undefined instruction",
        0x07 => "FP/SIMD trap",
        0x21 => "instruction abort",
        0x22 => "PC alignment",
        0x25 => "data abort",
        0x26 => "SP alignment",
        0x2f => "SError",
        EC_BRK => "BRK",
        _ => "unexpected class",
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = &self.report;
        write!(
            f,
            "cpu {} vector {:#05x}: {}",
            self.cpu,
            report.vector,
            class_name(report.esr)
        )?;
        match report.guest {
            _ if report.vector >= LOWER_EL => writeln!(f, " from the host")?,
            0 => writeln!(f, " in a call")?,
            guest => writeln!(f, " with the guest of {guest:#x} in the CPU")?,
        }
        if let Some(Assertion { text, file, line }) = self.assertion {
            writeln!(f, "  assertion failed at {file}:{line}: {text}")?;
        }
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
        if report.vector >= LOWER_EL {
            return Ok(());
        }
        writeln!(f, "  backtrace")?;
        self.show_place(f, report.frame.elr, Place::find)?;
        for address in self.backtrace.iter().take(self.depth) {
            self.show_place(f, *address, Place::find_caller)?;
        }
        if report.vector < EL2H {
            self.show_stack(f)?;
        }
        Ok(())
    }
}
