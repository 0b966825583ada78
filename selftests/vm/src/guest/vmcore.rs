// SPDX-License-Identifier: GPL-2.0-only

//! The memory of a dead kernel, as a crash kernel shows it: an ELF core file.
//!
//! Source: `Documentation/admin-guide/kdump/vmcoreinfo.rst` and `fs/proc/vmcore.c` of Linux.

use std::{
    fs::File,
    os::unix::fs::FileExt, //
};

use anyhow::{
    ensure,
    Context,
    Result, //
};
use memmap2::{
    Mmap,
    MmapOptions, //
};
use object::{
    elf::{
        FileHeader64,
        NT_PRSTATUS,
        PT_LOAD, //
    },
    read::elf::{
        FileHeader as _,
        ProgramHeader as _, //
    },
    LittleEndian,
};

/// What stands at its beginning: the headers, and the notes behind them.
const HEAD_BYTES: usize = 1 << 20;

/// A piece of memory.
#[derive(Debug)]
pub struct Segment {
    /// Physical address.
    pub pa: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// Where it is in the file.
    offset: u64,
}

impl Segment {
    /// Is `pa` in it?
    pub fn holds(&self, pa: u64) -> bool {
        self.pa <= pa && pa - self.pa < self.bytes
    }
}

/// The file, and what its headers say.
#[derive(Debug)]
pub struct Vmcore {
    file: File,
    /// Size of the file in bytes.
    pub size: u64,
    /// Memory.
    pub segments: Vec<Segment>,
    /// CPUs that have saved their registers.
    pub cpus: usize,
    /// What the kernel says of itself: VMCOREINFO.
    pub info: String,
}

impl Vmcore {
    /// The file.
    pub const FILE: &str = "/proc/vmcore";

    /// Reads its headers.
    pub fn open() -> Result<Self> {
        let file = File::open(Self::FILE).context("this is no crash kernel")?;
        let size = file.metadata()?.len();
        let mut head = vec![0; HEAD_BYTES];
        let length = file.read_at(&mut head, 0)?;
        let data = &head[..length];
        let header = FileHeader64::<LittleEndian>::parse(data)?;
        let mut vmcore = Self {
            file,
            size,
            segments: Vec::new(),
            cpus: 0,
            info: String::new(),
        };
        for entry in header.program_headers(LittleEndian, data)? {
            if entry.p_type(LittleEndian) == PT_LOAD {
                let end = entry.p_offset(LittleEndian) + entry.p_filesz(LittleEndian);
                ensure!(end <= size, "a segment ends at {end:#x} of {size:#x} bytes");
                vmcore.segments.push(Segment {
                    pa: entry.p_paddr(LittleEndian),
                    bytes: entry.p_filesz(LittleEndian),
                    offset: entry.p_offset(LittleEndian),
                });
                continue;
            }
            let Some(mut notes) = entry.notes(LittleEndian, data)? else {
                continue;
            };
            while let Some(note) = notes.next()? {
                match note.name() {
                    b"CORE" if note.n_type(LittleEndian) == NT_PRSTATUS => vmcore.cpus += 1,
                    b"VMCOREINFO" => {
                        vmcore.info = String::from_utf8_lossy(note.desc()).into_owned();
                    }
                    _ => {}
                }
            }
        }
        Ok(vmcore)
    }

    /// Maps `length` bytes of the file at `offset`, a multiple of the page size, as `makedumpfile` does: `read` has the kernel map and
    /// unmap each page by itself.
    pub fn map(&self, offset: u64, length: usize) -> Result<Mmap> {
        // SAFETY: The memory of a dead kernel, which nothing changes any more.
        let map = unsafe {
            MmapOptions::new()
                .offset(offset)
                .len(length)
                .map(&self.file)
        };
        map.with_context(|| format!("{} at {offset:#x}", Self::FILE))
    }

    /// Reads memory at a physical address.
    pub fn read(&self, pa: u64, length: u64) -> Result<Vec<u8>> {
        let mut segments = self.segments.iter();
        let segment = segments
            .find(|segment| segment.holds(pa))
            .with_context(|| format!("no memory at {pa:#x}"))?;
        ensure!(
            length <= segment.bytes - (pa - segment.pa),
            "{length} bytes at {pa:#x} are not in one segment"
        );
        let mut bytes = vec![0; length.try_into()?];
        self.file
            .read_exact_at(&mut bytes, segment.offset + (pa - segment.pa))?;
        Ok(bytes)
    }

    /// A number of VMCOREINFO.
    pub fn fact(&self, name: &str, radix: u32) -> Result<u64> {
        let word = self
            .info
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .with_context(|| format!("VMCOREINFO lacks {name}"))?;
        let digits = word.strip_prefix("0x").unwrap_or(word);
        u64::from_str_radix(digits, radix).with_context(|| format!("{name}={word}"))
    }
}
