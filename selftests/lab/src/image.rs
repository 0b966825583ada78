// SPDX-License-Identifier: GPL-2.0-only

//! Checks of the linked EL2 image, and its sizes.
//!
//! The image is copied anywhere in the pool and runs without a kernel below it, so it must not need anything from
//! outside, must know no relocation but the one that its loader knows, must not be writable and executable anywhere,
//! must contain no path to a panic, and nothing that the linker has to keep from CPUs with an erratum.

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
    let checks: [(&'static str, Option<String>); 7] = [
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
        ("image_avoids_erratum_843419", erratum_843419(&elf)?),
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

/// What a Cortex-A53 may compute a wrong address for (erratum 843419), in code at an address that is a multiple of 4 KiB; its
/// offset. The linker leaves none of these, if it is asked to.
///
/// An ADRP in one of the last two words of a 4 KiB page, then a load or store that is no load of a pair, then, at once or behind
/// one more instruction, a load or store with an unsigned offset from the register of the ADRP.
fn affected_by_843419(code: &[u8]) -> Option<usize> {
    let word = |offset: usize| {
        let bytes = code.get(offset..offset + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let is_affected = |offset: usize| {
        let (adrp, access) = (word(offset)?, word(offset + 4)?);
        let is_adrp = adrp & 0x9f00_0000 == 0x9000_0000;
        let accesses = access & 0x0a00_0000 == 0x0800_0000;
        let loads_pair = access & 0x3a40_0000 == 0x2840_0000;
        let uses = [offset + 8, offset + 12]
            .into_iter()
            .filter_map(word)
            .any(|using| using & 0x3b00_0000 == 0x3900_0000 && (using >> 5) & 0x1f == adrp & 0x1f);
        Some(is_adrp && accesses && !loads_pair && uses)
    };
    (0..code.len())
        .step_by(4)
        .filter(|offset| offset & 0xfff >= 0xff8)
        .find(|offset| is_affected(*offset) == Some(true))
}

fn erratum_843419(elf: &Elf<'_>) -> Result<Option<String>> {
    for section in elf.sections() {
        if section.kind() != object::SectionKind::Text {
            continue;
        }
        // What is in front of the section is no code.
        let (address, before) = (section.address(), section.address() & 0xfff);
        let mut code = vec![0; usize::try_from(before)?];
        code.extend_from_slice(section.data()?);
        if let Some(offset) = affected_by_843419(&code) {
            let place = address - before + offset as u64;
            return Ok(Some(format!("ADRP and what follows at {place:#x}")));
        }
    }
    Ok(None)
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
    fn erratum_843419_is_found_where_it_is() {
        const ADRP_X3: u32 = 0x9000_0003;
        const ADR_X3: u32 = 0x1000_0003;
        const STR_X1_SP: u32 = 0xf900_03e1;
        const LDP_X0_X1_SP: u32 = 0xa940_07e0;
        const STP_X0_X1_SP: u32 = 0xa900_07e0;
        const NOP: u32 = 0xd503_201f;
        const LDR_X2_X3: u32 = 0xf940_0062;
        const LDR_X2_X4: u32 = 0xf940_0082;
        let found = |at: usize, words: [u32; 4]| {
            let mut code = vec![0; at];
            code.extend(words.into_iter().flat_map(u32::to_le_bytes));
            affected_by_843419(&code)
        };
        for at in [0xff8, 0xffc, 0x1_fff8] {
            assert_eq!(found(at, [ADRP_X3, STR_X1_SP, LDR_X2_X3, NOP]), Some(at));
            assert_eq!(found(at, [ADRP_X3, STP_X0_X1_SP, NOP, LDR_X2_X3]), Some(at));
            assert_eq!(found(at, [ADRP_X3, LDP_X0_X1_SP, LDR_X2_X3, NOP]), None);
            assert_eq!(found(at, [ADRP_X3, STR_X1_SP, NOP, LDR_X2_X4]), None);
            assert_eq!(found(at, [ADRP_X3, NOP, NOP, LDR_X2_X3]), None);
            assert_eq!(found(at, [ADR_X3, STR_X1_SP, LDR_X2_X3, NOP]), None);
        }
        assert_eq!(found(0xff4, [ADRP_X3, STR_X1_SP, LDR_X2_X3, NOP]), None);
        assert_eq!(found(0x1000, [ADRP_X3, STR_X1_SP, LDR_X2_X3, NOP]), None);
    }

    #[test]
    fn sizes_add_up() {
        let sizes = Sizes::read(&ordinary_program()).unwrap();
        let sum: u64 = sizes.sections.iter().map(|(_, size)| size).sum();
        assert!(sizes.image_bytes >= sum - 4096 && !sizes.sections.is_empty());
        assert!(check(b"no ELF").is_err());
    }
}
