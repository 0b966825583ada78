// SPDX-License-Identifier: GPL-2.0-only

//! Checks of the linked EL2 image, and its sizes.
//!
//! The image is copied anywhere in the pool and runs without a kernel below it, so it must not need anything from
//! outside, must know no relocation but the one that its loader knows, must not be writable and executable anywhere,
//! and must contain no path to a panic.

use std::fmt;

use anyhow::{
    Context as _,
    Result, //
};
use object::{
    elf,
    read::elf::{
        ElfFile64,
        FileHeader as _,
        ProgramHeader as _,
        Rela as _,
        SectionHeader as _, //
    },
    LittleEndian,
    Object as _,
    ObjectSection as _,
    ObjectSymbol as _, //
};

type Elf<'a> = ElfFile64<'a, LittleEndian>;

/// One check of the image: what must hold, and a description of the first place where it does not.
#[derive(Debug)]
pub struct Check {
    /// What must hold.
    pub name: &'static str,
    /// The offence, if there is one.
    pub offence: Option<String>,
}

/// Makes all checks of the image in `data`.
pub fn check(data: &[u8]) -> Result<Vec<Check>> {
    let elf = Elf::parse(data).context("the EL2 image is no 64-bit little-endian ELF file")?;
    let checks: [(&'static str, Option<String>); 6] = [
        ("image_is_for_arm64", machine(&elf)),
        ("image_has_no_undefined_symbol", undefined_symbol(&elf)),
        (
            "image_has_no_writable_executable_segment",
            writable_executable(&elf),
        ),
        (
            "image_has_only_relative_relocations",
            odd_relocation(&elf, data)?,
        ),
        ("image_needs_no_loader", loader(&elf)),
        ("image_has_no_panicking_path", panicking_symbol(&elf)),
    ];
    Ok(checks
        .into_iter()
        .map(|(name, offence)| Check { name, offence })
        .collect())
}

fn machine(elf: &Elf<'_>) -> Option<String> {
    let machine = elf.elf_header().e_machine(LittleEndian);
    (machine != elf::EM_AARCH64).then(|| format!("e_machine is {machine}"))
}

fn undefined_symbol(elf: &Elf<'_>) -> Option<String> {
    let mut names = elf
        .symbols()
        .filter(|symbol| symbol.is_undefined())
        .filter_map(|symbol| symbol.name().ok().map(str::to_owned));
    names.find(|name| !name.is_empty())
}

fn writable_executable(elf: &Elf<'_>) -> Option<String> {
    let headers = elf.elf_program_headers().iter();
    headers
        .filter(|header| header.p_type(LittleEndian) == elf::PT_LOAD)
        .find(|header| {
            let flags = header.p_flags(LittleEndian);
            flags & elf::PF_W != 0 && flags & elf::PF_X != 0
        })
        .map(|header| format!("segment at {:#x}", header.p_vaddr(LittleEndian)))
}

fn odd_relocation(elf: &Elf<'_>, data: &[u8]) -> Result<Option<String>> {
    for section in elf.elf_section_table().iter() {
        let Some((entries, _)) = section.rela(LittleEndian, data)? else {
            continue;
        };
        for entry in entries {
            let kind = entry.r_type(LittleEndian, false);
            if kind != elf::R_AARCH64_RELATIVE {
                let offset = entry.r_offset(LittleEndian);
                return Ok(Some(format!("relocation of type {kind} at {offset:#x}")));
            }
        }
    }
    Ok(None)
}

fn loader(elf: &Elf<'_>) -> Option<String> {
    let headers = elf.elf_program_headers().iter();
    headers
        .filter(|header| header.p_type(LittleEndian) == elf::PT_INTERP)
        .map(|_| "it names an interpreter".to_owned())
        .next()
}

fn panicking_symbol(elf: &Elf<'_>) -> Option<String> {
    let mut names = elf
        .symbols()
        .filter_map(|symbol| symbol.name().ok().map(str::to_owned));
    names.find(|name| name.contains("panic"))
}

/// Sizes of the parts of the image in bytes.
#[derive(Debug)]
pub struct Sizes {
    /// Bytes that the image takes in memory, from its first byte to its last.
    pub image_bytes: u64,
    /// Name and size of each section that is part of it.
    pub sections: Vec<(String, u64)>,
}

impl Sizes {
    /// Reads the sizes of the image in `data`.
    pub fn read(data: &[u8]) -> Result<Self> {
        let elf = Elf::parse(data)?;
        let loaded = elf.sections().filter(|section| match section.flags() {
            object::SectionFlags::Elf { sh_flags } => sh_flags & u64::from(elf::SHF_ALLOC) != 0,
            _ => false,
        });
        let sections: Vec<(String, u64, u64)> = loaded
            .map(|section| {
                Ok((
                    section.name()?.to_owned(),
                    section.address(),
                    section.size(),
                ))
            })
            .collect::<Result<_>>()?;
        let start = sections
            .iter()
            .map(|(_, address, _)| *address)
            .min()
            .unwrap_or(0);
        let end = sections
            .iter()
            .map(|(_, address, size)| address + size)
            .max()
            .unwrap_or(0);
        Ok(Self {
            image_bytes: end - start,
            sections: sections
                .into_iter()
                .filter(|(_, _, size)| *size != 0)
                .map(|(name, _, size)| (name, size))
                .collect(),
        })
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes in memory (", self.image_bytes)?;
        for (index, (name, size)) in self.sections.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{name} {size}")?;
        }
        write!(f, ")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The program that runs these tests: linked, dynamic, full of panics, for an arbitrary machine.
    fn ordinary_program() -> Vec<u8> {
        std::fs::read(std::env::current_exe().unwrap()).unwrap()
    }

    #[test]
    fn check_finds_the_offences_of_an_ordinary_program() {
        let checks = check(&ordinary_program()).unwrap();
        let offence = |name: &str| {
            checks
                .iter()
                .find(|check| check.name == name)
                .unwrap()
                .offence
                .is_some()
        };
        assert!(offence("image_has_no_undefined_symbol"));
        assert!(offence("image_has_only_relative_relocations"));
        assert!(offence("image_needs_no_loader"));
        assert!(offence("image_has_no_panicking_path"));
        assert!(!offence("image_has_no_writable_executable_segment"));
    }

    #[test]
    fn check_finds_a_writable_executable_segment() {
        let mut program = ordinary_program();
        let header_offset = u64::from_le_bytes(program[32..40].try_into().unwrap());
        let count = usize::from(u16::from_le_bytes(program[56..58].try_into().unwrap()));
        for index in 0..count {
            // Offset 4 of a program header of 56 bytes is p_flags.
            let flags = usize::try_from(header_offset).unwrap() + index * 56 + 4;
            program[flags] |= 7;
        }
        let checks = check(&program).unwrap();
        let found = checks
            .iter()
            .find(|check| check.name == "image_has_no_writable_executable_segment");
        assert!(found.unwrap().offence.is_some());
    }

    #[test]
    fn sizes_add_up() {
        let sizes = Sizes::read(&ordinary_program()).unwrap();
        let sum: u64 = sizes.sections.iter().map(|(_, size)| size).sum();
        assert!(sizes.image_bytes >= sum - 4096 && !sizes.sections.is_empty());
        assert!(check(b"no ELF").is_err());
    }
}
