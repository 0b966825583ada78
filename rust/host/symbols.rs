// SPDX-License-Identifier: GPL-2.0-only

//! Host: names of the EL2 image's functions.
//!
//! The build writes them, out of the linked image, into the module (`Kbuild`: `hyp/eltwo_hyp.syms`): a line with the image's
//! build ID, then one for each function, `OFFSET SIZE NAME` with both numbers in eight hexadecimal digits, by offset.

use core::{
    fmt,
    slice,
    str, //
};

use crate::common::abi::BUILD_ID_BYTES;

extern "C" {
    /// First byte of the table (`asm/eltwo_blob.S`).
    static eltwo_syms_start: u8;
    /// First byte behind it.
    static eltwo_syms_end: u8;
}

/// The table.
fn text() -> &'static str {
    let start = &raw const eltwo_syms_start;
    let end = &raw const eltwo_syms_end;
    // SAFETY: Both labels are in one section of the module, which is mapped and constant for as long as its code runs.
    let bytes = unsafe { slice::from_raw_parts(start, end as usize - start as usize) };
    str::from_utf8(bytes).unwrap_or_default()
}

/// Whether the table was made from the image with this build ID.
pub(crate) fn belong_to(build_id: &[u8; BUILD_ID_BYTES]) -> bool {
    let line = text().lines().next().unwrap_or_default();
    let digits = |at: usize| {
        line.get(2 * at..2 * at + 2)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
    };
    line.len() == 2 * BUILD_ID_BYTES
        && build_id
            .iter()
            .enumerate()
            .all(|(at, byte)| digits(at) == Some(*byte))
}

/// A place in a function of the image.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    name: &'static str,
    into: u64,
    size: u64,
}

impl Place {
    /// The place at `offset` bytes from the start of the image, if it is in a function.
    pub(crate) fn find(offset: u64) -> Option<Self> {
        text().lines().skip(1).find_map(|line| {
            let mut words = line.splitn(3, ' ');
            let mut number = || u64::from_str_radix(words.next()?, 16).ok();
            let (start, size) = (number()?, number()?);
            let into = offset.checked_sub(start)?;
            (into < size).then_some(Self {
                name: words.next()?,
                into,
                size,
            })
        })
    }

    /// The place to which a call made at the place before `offset` returns: the call may be the last instruction of its function.
    pub(crate) fn find_caller(offset: u64) -> Option<Self> {
        let call = Self::find(offset.checked_sub(1)?)?;
        Some(Self {
            into: call.into + 1,
            ..call
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:#x}/{:#x}", self.name, self.into, self.size)
    }
}
