// SPDX-License-Identifier: GPL-2.0-only

//! Host: the EL2 image, from the module's read-only data into the pool.
//!
//! The image was linked on its own and flattened (`asm/eltwo_hyp.lds.S`). Loading it is a copy and the application of its
//! `R_AARCH64_RELATIVE` relocations, the only ones that the build lets through.

use core::{
    ptr::NonNull,
    slice, //
};

use kernel::prelude::*;

use super::{
    linear,
    refused::{
        refuse,
        Refused, //
    },
    symbols, //
};
use crate::common::{
    abi::{
        ImageHeader,
        ABI_VERSION,
        BUILD_ID_BYTES,
        IMAGE_MAGIC, //
    },
    addr::{
        Granule,
        HypVa,
        PhysAddr, //
    },
};

extern "C" {
    /// First byte of the flattened image (`asm/eltwo_blob.S`).
    static eltwo_blob_start: u8;
    /// First byte behind it.
    static eltwo_blob_end: u8;
}

/// ELF64 AArch64 relocation type: base + addend.
const R_AARCH64_RELATIVE: u64 = 1027;
/// Size of an `Elf64_Rela`: offset, info, addend.
const RELA_BYTES: usize = 24;

/// The flattened image in the module. `.bss` is not part of it.
pub(crate) fn blob() -> &'static [u8] {
    let start = &raw const eltwo_blob_start;
    let end = &raw const eltwo_blob_end;
    // SAFETY: Both labels are in one section of the module, which is mapped and constant for as long as its code runs.
    unsafe { slice::from_raw_parts(start, end as usize - start as usize) }
}

/// Reads and checks the header of the blob.
///
/// # Errors
///
/// `ENOEXEC`: the module was put together wrongly.
pub(crate) fn header(granule: Granule) -> Result<ImageHeader, Refused> {
    valid_header(granule).ok_or_else(|| {
        refuse!(
            ENOEXEC,
            "the EL2 image in this module is damaged; build the module again"
        )
    })
}

fn valid_header(granule: Granule) -> Option<ImageHeader> {
    let bytes = blob();
    if bytes.len() < size_of::<ImageHeader>() {
        return None;
    }
    // SAFETY: The blob is long enough, and any bit pattern is a header.
    let header = unsafe { bytes.as_ptr().cast::<ImageHeader>().read_unaligned() };
    let ascending = [
        0,
        header.entry_init,
        header.idmap_end,
        header.text,
        header.rodata,
        header.rela,
        header.rela_end,
        header.data,
        header.image_bytes,
    ];
    let aligned = [header.text, header.rodata, header.data, header.image_bytes];
    let valid = header.magic == IMAGE_MAGIC
        && u64::from(header.abi_version) == ABI_VERSION
        && ascending.is_sorted()
        && aligned
            .iter()
            .all(|part| granule.unit().divides(u64::from(*part)))
        && bytes.len() <= header.image_bytes as usize
        && build_id(&header).is_ok_and(symbols::belong_to);
    valid.then_some(header)
}

/// The build ID, which names the `eltwo_hyp.elf` that this image was made from.
fn build_id(header: &ImageHeader) -> Result<&'static [u8; BUILD_ID_BYTES]> {
    blob()
        .get(header.build_id as usize..)
        .and_then(|rest| rest.first_chunk())
        .ok_or(ENOEXEC)
}

/// The image in the pool, ready to run at its place in the hyp address space.
pub(crate) struct Image {
    header: ImageHeader,
    base: PhysAddr,
}

impl Image {
    /// The image that `header` describes, in the zeroed pages at `base`.
    pub(crate) fn new(header: ImageHeader, base: PhysAddr) -> Self {
        Self { header, base }
    }

    /// The first eight bytes of the build ID, as [`crate::common::abi::Call::Version`] returns them.
    pub(crate) fn identity(&self) -> Result<u64> {
        let start = build_id(&self.header)?.first_chunk().ok_or(ENOEXEC)?;
        Ok(u64::from_be_bytes(*start))
    }

    /// Copies the image and relocates it to run at `at`.
    pub(crate) fn fill(&self, at: HypVa) -> Result {
        let bytes = blob();
        let start = self.start();
        // SAFETY: The pool has `image_bytes` contiguous bytes for it, zeroed, and `header` has checked that the blob fits.
        unsafe {
            start
                .as_ptr()
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len())
        };
        let relocations = bytes
            .get(self.header.rela as usize..self.header.rela_end as usize)
            .ok_or(ENOEXEC)?;
        for entry in relocations.chunks_exact(RELA_BYTES) {
            let word = |index: usize| -> Result<u64> {
                let field = entry.get(index * 8..index * 8 + 8).ok_or(ENOEXEC)?;
                Ok(u64::from_le_bytes(field.try_into().map_err(|_| ENOEXEC)?))
            };
            let (offset, info, addend) = (word(0)?, word(1)?, word(2)?);
            let fits = offset % 8 == 0 && offset < bytes.len() as u64;
            if info != R_AARCH64_RELATIVE || !fits {
                return Err(ENOEXEC);
            }
            let value = at.raw().wrapping_add(addend);
            // SAFETY: The offset is aligned and inside of what was copied.
            unsafe {
                start
                    .as_ptr()
                    .add(offset as usize)
                    .cast::<u64>()
                    .write(value)
            };
        }
        Ok(())
    }

    /// The image as the kernel sees it.
    pub(crate) fn start(&self) -> NonNull<u8> {
        linear::phys_to_kern(self.base)
    }

    /// The word at `offset` bytes from its start, relocated, as EL2 sees it.
    pub(crate) fn word(&self, offset: u64) -> Option<u64> {
        let offset = usize::try_from(offset).ok()?;
        let inside = offset % 8 == 0 && offset.checked_add(8)? <= self.bytes();
        // SAFETY: The pool has `image_bytes` bytes for the image, and this is one of its words. EL2 may write there: volatile.
        inside.then(|| unsafe {
            self.start()
                .as_ptr()
                .add(offset)
                .cast::<u64>()
                .read_volatile()
        })
    }

    /// Size in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.header.image_bytes as usize
    }

    /// The header.
    pub(crate) fn header(&self) -> &ImageHeader {
        &self.header
    }

    /// Physical address of the image, and of the idmap page, which comes first in it.
    pub(crate) fn base(&self) -> PhysAddr {
        self.base
    }

    /// Physical address of `eltwo_init`.
    pub(crate) fn entry_init_pa(&self) -> u64 {
        self.base.raw() + u64::from(self.header.entry_init)
    }

    /// Physical address of `eltwo_stub_read_reg`.
    pub(crate) fn entry_read_reg_pa(&self) -> u64 {
        self.base.raw() + u64::from(self.header.entry_read_reg)
    }
}
