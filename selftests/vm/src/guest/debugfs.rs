// SPDX-License-Identifier: GPL-2.0-only

//! The module's files in debugfs, parsed. What cannot be parsed is an error: the format is part of what is tested.

use std::{
    collections::BTreeMap,
    fs::{
        self,
        File,
        OpenOptions, //
    },
    io::{
        self,
        Read,
        Seek,
        SeekFrom,
        Write, //
    },
};

use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};

use super::cpu;

const DIR: &str = "/sys/kernel/debug/eltwo";

/// Every file that the module makes, with its defaults.
pub const FILES: [&str; 8] = [
    "cpus",
    "pool",
    "tables",
    "regs",
    "hypercall",
    "log",
    "vms",
    "stage2",
];

/// PAR_EL1.F, in the answer to `at`: the translation has failed.
pub const PAR_F: u64 = 1;

/// Reads one file whole.
pub fn read(file: &str) -> Result<String> {
    fs::read_to_string(format!("{DIR}/{file}")).with_context(|| format!("debugfs eltwo/{file}"))
}

/// A number as the files spell it: `0x…` or decimal.
fn number(text: &str) -> Result<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    }
    .with_context(|| format!("{text:?} is not a number"))
}

/// A number, or nothing for `-`.
fn maybe(text: &str) -> Result<Option<u64>> {
    if text == "-" {
        Ok(None)
    } else {
        number(text).map(Some)
    }
}

/// The number behind `key` in `vms`.
pub fn vms(key: &str) -> Result<u64> {
    let text = read("vms")?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
        .with_context(|| format!("the file vms has no {key}: {text:?}"))?;
    number(value)
}

/// One line of `cpus`.
#[derive(Clone, Debug)]
pub struct Cpu {
    /// Number.
    pub cpu: usize,
    /// "absent", or the name of a state of `rust/common/lifecycle`.
    pub state: String,
    /// VBAR_EL2, if the CPU is at EL2 with us.
    pub vbar: Option<u64>,
    /// TTBR0_EL2, likewise.
    pub ttbr0: Option<u64>,
    /// SCTLR_EL2, likewise.
    pub sctlr: Option<u64>,
    /// How often the CPU has been brought up.
    pub inits: u64,
    /// How often the CPU has been taken back to the stub.
    pub resets: u64,
    /// Hypercalls that it has taken.
    pub calls: u64,
    /// Unexpected exceptions at EL2.
    pub faults: u64,
}

/// `cpus`: one entry per possible CPU.
pub fn cpus() -> Result<Vec<Cpu>> {
    let text = read("cpus")?;
    let mut lines = text.lines();
    let header: Vec<_> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let expected = [
        "cpu",
        "state",
        "vbar_el2",
        "ttbr0_el2",
        "sctlr_el2",
        "inits",
        "resets",
        "hypercalls",
        "faults",
    ];
    ensure!(header == expected, "cpus: header is {header:?}");
    lines
        .map(|line| parse_cpu(line).with_context(|| format!("cpus: {line:?}")))
        .collect()
}

fn parse_cpu(line: &str) -> Result<Cpu> {
    let [cpu, state, vbar, ttbr0, sctlr, inits, resets, calls, faults] =
        line.split_whitespace().collect::<Vec<_>>()[..]
    else {
        bail!("nine columns expected");
    };
    Ok(Cpu {
        cpu: cpu.parse()?,
        state: state.to_string(),
        vbar: maybe(vbar)?,
        ttbr0: maybe(ttbr0)?,
        sctlr: maybe(sctlr)?,
        inits: number(inits)?,
        resets: number(resets)?,
        calls: number(calls)?,
        faults: number(faults)?,
    })
}

/// The line of `cpus` for one CPU.
pub fn cpu(wanted: usize) -> Result<Cpu> {
    cpus()?
        .into_iter()
        .find(|row| row.cpu == wanted)
        .with_context(|| format!("cpus: no line for CPU {wanted}"))
}

/// Fails unless exactly the CPUs that are online are `hyp`, with our vectors and tables and the MMU on.
pub fn expect_online_are_hyp() -> Result<()> {
    let online = cpu::online()?;
    for row in cpus()? {
        ensure!(
            (row.state == "hyp") == online.contains(&row.cpu),
            "CPU {} is {} with CPUs {online:?} online",
            row.cpu,
            row.state
        );
        if row.state == "hyp" {
            expect_hyp(&row)?;
        }
    }
    Ok(())
}

/// Fails unless this line is that of a CPU at EL2 with us.
pub fn expect_hyp(row: &Cpu) -> Result<()> {
    const SCTLR_M: u64 = 1 << 0;
    const SCTLR_C: u64 = 1 << 2;
    const SCTLR_I: u64 = 1 << 12;
    const SCTLR_WXN: u64 = 1 << 19;
    ensure!(row.state == "hyp", "CPU {} is {}", row.cpu, row.state);
    let (Some(vbar), Some(ttbr0), Some(sctlr)) = (row.vbar, row.ttbr0, row.sctlr) else {
        bail!("CPU {} is hyp without registers: {row:?}", row.cpu);
    };
    ensure!(vbar != 0 && vbar % 2048 == 0, "VBAR_EL2 {vbar:#x}");
    ensure!(ttbr0 != 0, "TTBR0_EL2 {ttbr0:#x}");
    let wanted = SCTLR_M | SCTLR_C | SCTLR_I | SCTLR_WXN;
    ensure!(
        sctlr & wanted == wanted,
        "SCTLR_EL2 {sctlr:#x} lacks M, C, I or WXN"
    );
    ensure!(
        row.inits == row.resets + 1,
        "CPU {}: {} inits and {} resets",
        row.cpu,
        row.inits,
        row.resets
    );
    Ok(())
}

/// `pool`: its keys and values.
pub fn pool() -> Result<BTreeMap<String, u64>> {
    let text = read("pool")?;
    text.lines()
        .map(|line| {
            let (key, value) = line
                .split_once(':')
                .with_context(|| format!("pool: {line:?}"))?;
            Ok((key.to_string(), number(value.trim())?))
        })
        .collect()
}

/// One value of `pool`.
pub fn pool_value(key: &str) -> Result<u64> {
    pool()?
        .remove(key)
        .with_context(|| format!("pool: no {key}"))
}

/// One line of `regs`.
#[derive(Clone, Debug)]
pub struct Register {
    /// CPU number.
    pub cpu: usize,
    /// Name as in the Arm ARM.
    pub name: String,
    /// Value found before init.
    pub before: u64,
    /// Value now, if it could be read.
    pub now: Option<u64>,
}

/// `regs`: every register of every CPU that is saved.
pub fn registers() -> Result<Vec<Register>> {
    let text = read("regs")?;
    text.lines()
        .filter(|line| !line.starts_with("cpu"))
        .map(|line| {
            let [cpu, name, before, now] = line.split_whitespace().collect::<Vec<_>>()[..] else {
                bail!("regs: {line:?}");
            };
            Ok(Register {
                cpu: cpu.parse()?,
                name: name.to_string(),
                before: number(before)?,
                now: maybe(now)?,
            })
        })
        .collect()
}

/// One line of `tables`.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// boot or runtime.
    pub table: String,
    /// First VA.
    pub start: u64,
    /// VA after the last.
    pub end: u64,
    /// PA of the first byte.
    pub pa: u64,
    /// Level of its descriptors: 3 for pages, less for blocks.
    pub level: i64,
    /// What EL2 may do: `RW-`, `R-X`, `R--`.
    pub access: String,
    /// Name of the region.
    pub region: String,
}

impl Mapping {
    /// May EL2 do this: `R`, `W` or `X`?
    pub fn allows(&self, what: char) -> bool {
        self.access.contains(what)
    }

    /// Is `va` in it?
    pub fn contains(&self, va: u64) -> bool {
        self.start <= va && va < self.end
    }

    /// Is `pa` in it?
    pub fn holds(&self, pa: u64) -> bool {
        self.pa <= pa && pa - self.pa < self.end - self.start
    }
}

/// PA of a table that `tables` shows, by name: boot or runtime.
pub fn pgd(name: &str) -> Result<u64> {
    let text = read("tables")?;
    let line = text
        .lines()
        .find(|line| line.starts_with("---[") && line.contains(name))
        .with_context(|| format!("tables: no section {name:?}"))?;
    let at = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix('@'))
        .with_context(|| format!("tables: {line:?}"))?;
    number(at)
}

/// `tables`: what both PGDs map.
pub fn mappings() -> Result<Vec<Mapping>> {
    let text = read("tables")?;
    let mut table = String::new();
    let mut mappings = Vec::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("---[") {
            table = title
                .split_whitespace()
                .next()
                .unwrap_or_default()
                .to_string();
        } else {
            mappings
                .push(parse_mapping(&table, line).with_context(|| format!("tables: {line:?}"))?);
        }
    }
    Ok(mappings)
}

/// `0xFIRST-0xLAST 0xPA SIZE LEVEL KIND ACCESS MEMORY REGION [cpu=N]`.
fn parse_mapping(table: &str, line: &str) -> Result<Mapping> {
    let words: Vec<_> = line.split_whitespace().collect();
    let [range, pa, _size, level, kind, access, _memory, region, ..] = words[..] else {
        bail!("too few columns");
    };
    ensure!(["PAGE", "BLOCK"].contains(&kind), "kind {kind}");
    let level = level.strip_prefix('L').context("no level")?.parse()?;
    let (start, last) = range.split_once('-').context("no range")?;
    Ok(Mapping {
        table: table.to_string(),
        start: number(start)?,
        end: number(last)? + 1,
        pa: number(pa)?,
        level,
        access: access.to_string(),
        region: region.to_string(),
    })
}

/// What a hypercall answers in x0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// 0
    Ok,
    /// -1
    NotSupported,
    /// -2
    Invalid,
    /// -3
    NoMemory,
    /// -4
    Busy,
    /// -5
    NotFound,
    /// -6
    Denied,
    /// -7
    Fault,
    /// Anything else.
    Unknown(u64),
}

impl Status {
    fn from_x0(x0: u64) -> Self {
        match x0 as i64 {
            0 => Status::Ok,
            -1 => Status::NotSupported,
            -2 => Status::Invalid,
            -3 => Status::NoMemory,
            -4 => Status::Busy,
            -5 => Status::NotFound,
            -6 => Status::Denied,
            -7 => Status::Fault,
            _ => Status::Unknown(x0),
        }
    }
}

/// The answer to a hypercall.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// x0.
    pub status: Status,
    /// x1 to x4.
    pub x: [u64; 4],
}

impl Answer {
    /// The results, if the status is OK.
    pub fn ok(&self) -> Result<[u64; 4]> {
        ensure!(
            self.status == Status::Ok,
            "hypercall answered {:?}",
            self.status
        );
        Ok(self.x)
    }

    /// The PA in the answer to `at`; nothing where the translation faults.
    pub fn translation(&self) -> Result<Option<u64>> {
        /// PAR_EL1.PA.
        const PAR_PA: u64 = 0x000f_ffff_ffff_f000;
        let par = self.ok()?[0];
        Ok((par & PAR_F == 0).then_some(par & PAR_PA))
    }

    /// Fails unless the status is `wanted`.
    pub fn expect(&self, wanted: Status) -> Result<()> {
        ensure!(
            self.status == wanted,
            "hypercall answered {self:x?}, expected {wanted:?}"
        );
        Ok(())
    }
}

/// The file `hypercall`, open.
pub struct Caller(File);

impl Caller {
    /// Opens the file.
    pub fn open() -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(format!("{DIR}/hypercall"))
            .context("debugfs eltwo/hypercall")?;
        Ok(Self(file))
    }

    /// Writes `text` as it is.
    pub fn write(&mut self, text: &str) -> io::Result<()> {
        self.0.write_all(text.as_bytes())
    }

    /// Makes a hypercall on the CPU of the caller and returns the answer.
    pub fn call(&mut self, text: &str) -> Result<Answer> {
        self.write(text)
            .with_context(|| format!("hypercall {text:?}"))?;
        self.answer().with_context(|| format!("hypercall {text:?}"))
    }

    /// The answer to the last hypercall.
    pub fn answer(&mut self) -> Result<Answer> {
        let mut answer = String::new();
        self.0.seek(SeekFrom::Start(0))?;
        self.0.read_to_string(&mut answer)?;
        let [x0, x1, x2, x3, x4] = answer.split_whitespace().collect::<Vec<_>>()[..] else {
            bail!("answer is {answer:?}");
        };
        Ok(Answer {
            status: Status::from_x0(number(x0)?),
            x: [number(x1)?, number(x2)?, number(x3)?, number(x4)?],
        })
    }
}

/// Makes one hypercall on the CPU of the caller.
pub fn hypercall(text: &str) -> Result<Answer> {
    Caller::open()?.call(text)
}

/// Writes to a file that is there; the error is the kernel's.
pub fn write(file: &str, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .open(format!("{DIR}/{file}"))?;
    file.write_all(text.as_bytes())
}
