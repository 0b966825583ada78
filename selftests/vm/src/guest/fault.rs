// SPDX-License-Identifier: GPL-2.0-only

//! Exceptions at EL2 that are taken on request, and the reports about them.

use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use nix::libc;

use super::{
    cpu, debugfs,
    module::{
        self,
        Loaded, //
    },
};
use crate::{
    hooks::helper::{
        Hooks,
        Owner, //
    },
    tests::equal_images_on,
};

/// Where the exception is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In a hypercall.
    Call,
    /// On the way into a guest.
    Entering,
    /// On the way out of one.
    Leaving,
}

/// A kind of exception: how to ask for it, and the class (ESR_EL2.EC) that it must have.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// As `provoke` takes it.
    pub name: &'static str,
    class: u64,
    /// Offset of its vector.
    vector: u64,
}

const fn kind(name: &'static str, class: u64) -> Kind {
    Kind {
        name,
        class,
        vector: 0x000,
    }
}

const EC_UNKNOWN: u64 = 0x00;
const EC_INSTRUCTION_ABORT: u64 = 0x21;
const EC_DATA_ABORT: u64 = 0x25;
const EC_SERROR: u64 = 0x2f;
const EC_BRK: u64 = 0x3c;
/// ESR_ELx.WnR of a data abort.
const ISS_WNR: u64 = 1 << 6;

/// All kinds: a bad pointer read, written and executed, an undefined instruction, the stack into its guard page, an SError, an
/// assertion, and BRK without and with the lock of EL2's tables.
pub const KINDS: [Kind; 9] = [
    kind("read-unmapped", EC_DATA_ABORT),
    kind("write-text", EC_DATA_ABORT),
    kind("exec-data", EC_INSTRUCTION_ABORT),
    kind("undefined", EC_UNKNOWN),
    kind("stack-overflow", EC_DATA_ABORT),
    Kind {
        vector: 0x180,
        ..kind("serror", EC_SERROR)
    },
    kind("assertion", EC_BRK),
    kind("brk", EC_BRK),
    kind("under-lock", EC_BRK),
];

/// The function that takes the exception, in the EL2 image.
const PROVOKER: &str = "eltwo_hyp::hyp::provoke::provoke";
/// The one that uses up the stack.
const SINK: &str = "eltwo_hyp::hyp::provoke::sink";

/// What the module must be loaded with.
pub const PARAMETERS: &str = "provoke=1";

/// The module with what these tests need.
pub fn load() -> Result<Loaded> {
    module::load_with(PARAMETERS)
}

impl Kind {
    /// Takes the exception in a hypercall on `cpu`.
    pub fn provoke(self, cpu: usize) -> Result<()> {
        cpu::on(cpu, || match debugfs::write("provoke", self.name) {
            Ok(()) => bail!("the write succeeded"),
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(()),
            Err(error) => bail!("the write failed with {error}, expected EIO"),
        })
    }

    /// The next switch to a guest, on whatever CPU, is to take the exception.
    pub fn arm(self, place: Place) -> Result<()> {
        let place = match place {
            Place::Call => bail!("a call is not armed"),
            Place::Entering => "entering",
            Place::Leaving => "leaving",
        };
        debugfs::write("provoke", &format!("{} {place}", self.name)).context("provoke")
    }

    /// The functions in the report's backtrace, from the innermost on; `None` is an address in no function.
    fn backtrace(self, place: Place) -> Vec<Option<&'static str>> {
        let callers = match place {
            Place::Call => ["eltwo_hyp::hyp::call::hypercall", "eltwo_call"],
            Place::Entering | Place::Leaving => [
                "eltwo_hyp::hyp::provoke::provoke_in_switch",
                "eltwo_provoke_in_switch",
            ],
        };
        let callers = callers.map(Some);
        match self.name {
            // It is deeper than a report is long.
            "stack-overflow" => vec![Some(SINK); 17],
            "exec-data" => [&[None, Some(PROVOKER)][..], &callers].concat(),
            _ => [&[Some(PROVOKER)][..], &callers].concat(),
        }
    }

    /// Checks the one report of the log in debugfs, and that the kernel's log has it too, line by line.
    pub fn check_report(self, cpu: usize, place: Place, kernel_log: &[String]) -> Result<String> {
        let text = debugfs::read("log")?;
        self.check_text(&text, cpu, place)
            .with_context(|| text.clone())?;
        let mut said = kernel_log.iter();
        ensure!(
            said.any(|line| line.contains(&format!("CPU{cpu}: exception at EL2 contained"))),
            "the kernel's log does not announce it: {kernel_log:?}"
        );
        for line in text.lines() {
            ensure!(
                // What other CPUs say meanwhile may stand between.
                said.any(|said| said == line),
                "the kernel's log lacks {line:?}: {kernel_log:#?}"
            );
        }
        Ok(text)
    }

    fn check_text(self, text: &str, cpu: usize, place: Place) -> Result<()> {
        let Self {
            name,
            class,
            vector,
        } = self;
        let head = text.lines().next().unwrap_or_default();
        ensure!(
            head.starts_with(&format!("cpu {cpu} vector {vector:#05x}: ")),
            "it begins with {head:?}"
        );
        let end = match place {
            Place::Call => " in a call".to_string(),
            Place::Entering | Place::Leaving => " in the CPU".to_string(),
        };
        ensure!(head.ends_with(&end), "{head:?} does not end with {end:?}");
        let esr = value(text, "ESR_EL2")?;
        ensure!(
            (esr >> 26) & 0x3f == class,
            "ESR_EL2 {esr:#x}, expected class {class:#x}"
        );
        value(text, "HPFAR_EL2")?;
        for register in 0..31 {
            value(text, &format!("x{register}"))?;
        }
        if name == "assertion" {
            ensure!(
                text.contains("assertion failed at rust/hyp/provoke.rs:")
                    && text.contains(": this assertion fails on request"),
                "the assertion does not say what and where"
            );
        }
        let expected = self.backtrace(place);
        let found = backtrace(text)?;
        let names: Vec<_> = found
            .iter()
            .map(|place| place.function.as_deref())
            .collect();
        ensure!(
            names == expected,
            "the backtrace is {names:?}, expected {expected:?}"
        );
        stack(text)?;
        self.check_addresses(text, esr)
    }

    fn check_addresses(self, text: &str, esr: u64) -> Result<()> {
        let far = value(text, "FAR_EL2")?;
        let elr = value(text, "ELR_EL2")?;
        let mappings = debugfs::mappings()?;
        let region_of = |va: u64| {
            let mut all = mappings.iter().filter(|m| m.table == "runtime");
            all.find(|m| m.contains(va)).map(|m| m.region.as_str())
        };
        match self.name {
            "read-unmapped" => ensure!(
                region_of(far).is_none() && esr & ISS_WNR == 0,
                "FAR_EL2 is in {:?}",
                region_of(far)
            ),
            "write-text" => ensure!(
                region_of(far) == Some("image.text") && esr & ISS_WNR != 0,
                "FAR_EL2 is in {:?}",
                region_of(far)
            ),
            "exec-data" => ensure!(
                region_of(elr).is_some_and(|region| region != "image.text") && far == elr,
                "ELR_EL2 is in {:?}",
                region_of(elr)
            ),
            "stack-overflow" => ensure!(
                region_of(far).is_none()
                    && mappings
                        .iter()
                        .any(|m| m.region == "stack" && far < m.start && m.start - far <= 65536),
                "FAR_EL2 is not below a stack"
            ),
            _ => ensure!(
                region_of(elr) == Some("image.text"),
                "ELR_EL2 is in {:?}",
                region_of(elr)
            ),
        }
        Ok(())
    }
}

/// The value behind `name` in a report.
pub fn value(text: &str, name: &str) -> Result<u64> {
    let word = text
        .split_whitespace()
        .skip_while(|word| *word != name)
        .nth(1)
        .with_context(|| format!("no {name}"))?;
    hex(word)
}

fn hex(word: &str) -> Result<u64> {
    let digits = word
        .strip_prefix("0x")
        .with_context(|| format!("{word:?}"))?;
    Ok(u64::from_str_radix(digits, 16)?)
}

/// A line of a backtrace.
#[derive(Debug)]
pub struct Frame {
    /// The function, if it is in one.
    pub function: Option<String>,
}

/// The lines of the first backtrace of a log: `NAME+0xOFFSET/0xSIZE (eltwo_hyp+0xOFFSET)`, or an address.
pub fn backtrace(text: &str) -> Result<Vec<Frame>> {
    text.lines()
        .skip_while(|line| line.trim() != "backtrace")
        .skip(1)
        .take_while(|line| line.starts_with("    "))
        .map(|line| frame(line.trim()).with_context(|| format!("{line:?}")))
        .collect()
}

fn frame(line: &str) -> Result<Frame> {
    let Some((place, in_image)) = line.split_once(" (eltwo_hyp+") else {
        hex(line)?;
        return Ok(Frame { function: None });
    };
    let (name, into) = place.rsplit_once('+').context("no offset")?;
    let (into, size) = into.split_once('/').context("no size")?;
    ensure!(hex(into)? <= hex(size)?, "outside of its function");
    hex(in_image.trim_end_matches(')'))?;
    Ok(Frame {
        function: Some(name.to_string()),
    })
}

/// The excerpt of the stack: it must be there, and no word may be missing in a line.
fn stack(text: &str) -> Result<()> {
    let mut lines = text
        .lines()
        .skip_while(|line| !line.starts_with("  stack from 0x"))
        .skip(1);
    let first = lines.next().context("no excerpt of the stack")?;
    let words = first
        .split_whitespace()
        .map(|word| u64::from_str_radix(word, 16))
        .collect::<Result<Vec<_>, _>>()?;
    ensure!(words.len() == 4, "the excerpt begins with {first:?}");
    Ok(())
}

/// What is true of every fault on `cpu`, before which all CPUs that are online were at EL2 with us: each of them, the one that has
/// faulted too, is at the stub with its registers as they were, by eltwo's books and by what it answers.
pub fn expect_contained(cpu: usize, kernel_log: &[String], hooks: &Hooks) -> Result<()> {
    equal_images_on(kernel_log, &cpu::online()?)?;
    hooks.expect_owner_of_all(Owner::Stub)?;
    let row = debugfs::cpu(cpu)?;
    ensure!(
        row.state == "faulted" && row.faults == 1,
        "cpus shows {row:?}"
    );
    for other in cpu::online()? {
        let row = debugfs::cpu(other)?;
        ensure!(
            other == cpu || (row.state == "stub" && row.faults == 0),
            "cpus shows {row:?}"
        );
        // Nobody hangs or crashes who asks a CPU for it.
        let error = cpu::on(other, || Ok(debugfs::write("hypercall", "ping 1").err()))?;
        ensure!(
            error.as_ref().and_then(|e| e.raw_os_error()) == Some(libc::EBUSY),
            "ping on CPU {other} after the fault: {error:?}"
        );
    }
    Ok(())
}
