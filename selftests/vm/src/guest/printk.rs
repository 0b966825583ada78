// SPDX-License-Identifier: GPL-2.0-only

//! The log of a dead kernel, out of its memory.
//!
//! VMCOREINFO says where the log's rings are and how their records are laid out.
//!
//! Source: `kernel/printk/printk_ringbuffer.h` and `log_buf_vmcoreinfo_setup` of Linux; `arch/arm64/include/asm/memory.h` for the
//! two ways to a physical address.

use anyhow::{
    ensure,
    Context,
    Result, //
};

use super::vmcore::Vmcore;

/// States of a record that can be read: finalized, and given free for reuse but still there.
const READABLE: [u64; 2] = [2, 3];
/// First address behind the kernel's linear map, with 48 bits of virtual address or more.
const LINEAR_END: u64 = 0xffff_8000_0000_0000;
/// Bytes of a record's identifier in front of its text.
const ID_BYTES: u64 = 8;

/// The dead kernel's memory, by its own addresses.
struct Memory<'a> {
    vmcore: &'a Vmcore,
    /// From an address of the kernel's image to the physical one.
    image_offset: u64,
    /// Start of the linear map, and where that is.
    linear: (u64, u64),
}

impl Memory<'_> {
    fn pa(&self, address: u64) -> u64 {
        if address >= LINEAR_END {
            address.wrapping_sub(self.image_offset)
        } else {
            let (start, pa) = self.linear;
            address.wrapping_sub(start).wrapping_add(pa)
        }
    }

    fn bytes(&self, address: u64, length: u64) -> Result<Vec<u8>> {
        self.vmcore
            .read(self.pa(address), length)
            .with_context(|| format!("{length} bytes at {address:#x}"))
    }

    fn word(&self, address: u64) -> Result<u64> {
        Ok(u64::from_le_bytes(
            self.bytes(address, 8)?.as_slice().try_into()?,
        ))
    }

    fn half(&self, address: u64) -> Result<u64> {
        let bytes = self.bytes(address, 4)?;
        Ok(u32::from_le_bytes(bytes.as_slice().try_into()?).into())
    }
}

/// All lines of the log, the oldest first.
pub fn lines(vmcore: &Vmcore) -> Result<Vec<String>> {
    let symbol = |name: &str| vmcore.fact(&format!("SYMBOL({name})"), 16);
    let offset = |name: &str| vmcore.fact(&format!("OFFSET({name})"), 10);
    let size = |name: &str| vmcore.fact(&format!("SIZE({name})"), 10);
    let va_bits = vmcore.fact("NUMBER(VA_BITS)", 10)?;
    let memory = Memory {
        vmcore,
        image_offset: vmcore.fact("NUMBER(kimage_voffset)", 16)?,
        linear: (u64::MAX << va_bits, vmcore.fact("NUMBER(PHYS_OFFSET)", 16)?),
    };
    let ring = memory.word(symbol("prb")?)?;
    let descriptors = ring + offset("printk_ringbuffer.desc_ring")?;
    let texts = ring + offset("printk_ringbuffer.text_data_ring")?;
    let count = 1 << memory.half(descriptors + offset("prb_desc_ring.count_bits")?)?;
    let descs = memory.word(descriptors + offset("prb_desc_ring.descs")?)?;
    let infos = memory.word(descriptors + offset("prb_desc_ring.infos")?)?;
    let head = memory.word(descriptors + offset("prb_desc_ring.head_id")?)?;
    let mut id = memory.word(descriptors + offset("prb_desc_ring.tail_id")?)?;
    let text_bytes = 1 << memory.half(texts + offset("prb_data_ring.size_bits")?)?;
    let text = memory.word(texts + offset("prb_data_ring.data")?)?;
    let text = memory.bytes(text, text_bytes)?;
    ensure!(head.wrapping_sub(id) < count, "the ring has no order");
    let block = offset("prb_desc.text_blk_lpos")?;
    let begin = block + offset("prb_data_blk_lpos.begin")?;
    let next = block + offset("prb_data_blk_lpos.next")?;
    let state = offset("prb_desc.state_var")?;
    let length = offset("printk_info.text_len")?;
    let (desc_bytes, info_bytes) = (size("prb_desc")?, size("printk_info")?);
    let mut lines = Vec::new();
    loop {
        let place = id % count;
        let desc = descs + place * desc_bytes;
        let (first, behind) = (memory.word(desc + begin)?, memory.word(desc + next)?);
        // The state is in the two upper bits, and an odd position means that there is no text.
        if READABLE.contains(&(memory.word(desc + state)? >> 62)) && first % 2 == 0 {
            let info = memory.bytes(infos + place * info_bytes + length, 2)?;
            let length = u64::from(u16::from_le_bytes(info.as_slice().try_into()?));
            // A record that would cross the end of the ring is at its start.
            let crosses = first / text_bytes != behind.wrapping_sub(1) / text_bytes;
            let start = if crosses { 0 } else { first % text_bytes } + ID_BYTES;
            let words = text
                .get(start as usize..(start + length) as usize)
                .context("a record outside of the ring")?;
            lines.extend(String::from_utf8_lossy(words).lines().map(str::to_string));
        }
        if id == head {
            return Ok(lines);
        }
        // Identifiers have 62 bits.
        id = (id + 1) & (u64::MAX >> 2);
    }
}
