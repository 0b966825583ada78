// SPDX-License-Identifier: GPL-2.0-only

//! The linked EL2 image: what the host copies, its header, and the symbols.

use std::{
    fs,
    ops::Range,
    path::Path, //
};

use anyhow::{
    bail,
    ensure,
    Context as _,
    Result, //
};
use eltwo::common::abi::{
    ImageHeader,
    ABI_VERSION,
    IMAGE_MAGIC, //
};
use object::{
    elf,
    read::elf::{
        ElfFile64,
        ProgramHeader as _, //
    },
    Endianness,
    Object as _,
    ObjectSymbol as _,
    SymbolKind, //
};

/// Size of an `Elf64_Rela`: offset, info, addend.
const RELA_BYTES: usize = 24;

/// A function of the image.
#[derive(Clone, Debug)]
pub struct Function {
    /// Name.
    pub name: String,
    /// Offsets in the image, in bytes.
    pub range: Range<u64>,
}

/// The image, flattened as the build does it. It was linked at 0, so addresses are offsets.
#[derive(Clone, Debug)]
pub struct Image {
    bytes: Vec<u8>,
    functions: Vec<Function>,
    header: ImageHeader,
}

impl Image {
    /// Reads `eltwo_hyp.elf`.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is not the EL2 image of this version.
    pub fn read(path: &Path) -> Result<Self> {
        let data = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&data).with_context(|| format!("{} is not the EL2 image", path.display()))
    }

    fn parse(data: &[u8]) -> Result<Self> {
        let file = ElfFile64::<Endianness>::parse(data)?;
        let bytes = flatten(&file, data)?;
        let header = header(&bytes)?;
        ensure!(
            bytes.len() <= header.image_bytes as usize,
            "the segments exceed the image"
        );
        let functions = file
            .symbols()
            .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() != 0)
            .map(|symbol| {
                Ok(Function {
                    name: symbol.name()?.to_owned(),
                    range: symbol.address()..symbol.address() + symbol.size(),
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            bytes,
            functions,
            header,
        })
    }

    /// The header at offset 0.
    pub fn header(&self) -> &ImageHeader {
        &self.header
    }

    /// Size in memory, `.bss` included.
    pub fn size_bytes(&self) -> u64 {
        self.header.image_bytes.into()
    }

    /// The image as it stands in memory when it runs at hyp VA `at`: `.bss` zeroed, relocations applied.
    ///
    /// # Errors
    ///
    /// A relocation is not `R_AARCH64_RELATIVE`.
    pub fn relocated(&self, at: u64) -> Result<Vec<u8>> {
        let mut memory = self.bytes.clone();
        memory.resize(self.header.image_bytes as usize, 0);
        let entries = self
            .bytes
            .get(self.header.rela as usize..self.header.rela_end as usize)
            .context("the relocations are not in the image")?;
        for entry in entries.chunks_exact(RELA_BYTES) {
            let word = |index: usize| u64_at(entry, index * 8);
            let (offset, info, addend) = (word(0)?, word(1)?, word(2)?);
            ensure!(
                info == u64::from(elf::R_AARCH64_RELATIVE),
                "relocation of type {info}"
            );
            let place = memory
                .get_mut(offset as usize..offset as usize + 8)
                .context("a relocation is not in the image")?;
            place.copy_from_slice(&at.wrapping_add(addend).to_le_bytes());
        }
        Ok(memory)
    }

    /// The instruction at `offset`.
    pub fn word(&self, offset: u64) -> Option<u32> {
        let bytes = self.bytes.get(offset as usize..offset as usize + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }

    /// The same image with another instruction at `offset`.
    pub fn patched(&self, offset: u64, word: u32) -> Self {
        let mut image = self.clone();
        if let Some(place) = image.bytes.get_mut(offset as usize..offset as usize + 4) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        image
    }

    /// All functions.
    pub fn functions(&self) -> impl Iterator<Item = &Function> {
        self.functions.iter()
    }

    /// The function called `name`.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn function(&self, name: &str) -> Result<&Function> {
        self.functions
            .iter()
            .find(|function| function.name == name)
            .with_context(|| format!("the image has no function {name}"))
    }

    /// The function at `offset`, and how far into it that is.
    pub fn locate(&self, offset: u64) -> Option<(&Function, u64)> {
        let at = self
            .functions
            .iter()
            .find(|function| function.range.contains(&offset))?;
        Some((at, offset - at.range.start))
    }

    /// `offset` as symbol and distance.
    pub fn place(&self, offset: u64) -> String {
        match self.locate(offset) {
            Some((function, distance)) => format!("{}+{distance:#x}", function.name),
            None => format!("image+{offset:#x}"),
        }
    }
}

/// The loadable segments, one behind the other, as `objcopy -O binary` leaves them.
fn flatten(file: &ElfFile64<'_, Endianness>, data: &[u8]) -> Result<Vec<u8>> {
    let endian = file.endian();
    let mut bytes = Vec::new();
    for segment in file.elf_program_headers() {
        if segment.p_type(endian) != elf::PT_LOAD {
            continue;
        }
        let contents = segment
            .data(endian, data)
            .map_err(|()| anyhow::anyhow!("a segment is not in the file"))?;
        let start = segment.p_vaddr(endian) as usize;
        if bytes.len() < start + contents.len() {
            bytes.resize(start + contents.len(), 0);
        }
        bytes[start..start + contents.len()].copy_from_slice(contents);
    }
    Ok(bytes)
}

fn u32_at(bytes: &[u8], offset: usize) -> Result<u32> {
    match bytes.get(offset..).and_then(|rest| rest.first_chunk()) {
        Some(field) => Ok(u32::from_le_bytes(*field)),
        None => bail!("offset {offset:#x} is beyond the image"),
    }
}

fn u64_at(bytes: &[u8], offset: usize) -> Result<u64> {
    Ok(u64::from(u32_at(bytes, offset)?) | (u64::from(u32_at(bytes, offset + 4)?) << 32))
}

fn header(bytes: &[u8]) -> Result<ImageHeader> {
    let field = |index: usize| u32_at(bytes, index * 4);
    let header = ImageHeader {
        magic: field(0)?,
        abi_version: field(1)?,
        image_bytes: field(2)?,
        idmap_end: field(3)?,
        text: field(4)?,
        rodata: field(5)?,
        data: field(6)?,
        rela: field(7)?,
        rela_end: field(8)?,
        entry_init: field(9)?,
        entry_read_reg: field(10)?,
        entry_reset: field(11)?,
        vectors: field(12)?,
        build_id: field(13)?,
    };
    ensure!(
        header.magic == IMAGE_MAGIC,
        "its magic number is {:#x}",
        header.magic
    );
    ensure!(
        u64::from(header.abi_version) == ABI_VERSION,
        "its version is {}, not {ABI_VERSION}",
        header.abi_version
    );
    Ok(header)
}

const _: () = assert!(
    size_of::<ImageHeader>() == 14 * 4,
    "`header` reads every field"
);
