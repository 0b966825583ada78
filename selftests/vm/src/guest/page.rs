// SPDX-License-Identifier: GPL-2.0-only

//! A page of this program, locked in memory, with its physical address.
//!
//! Source: `Documentation/admin-guide/mm/pagemap.rst` of Linux.

use std::{
    fs::{
        self,
        File, //
    },
    num::NonZeroUsize,
    os::unix::fs::FileExt,
    path::Path,
    ptr::NonNull,
};

use anyhow::{
    ensure,
    Context,
    Result, //
};
use nix::{
    libc::c_void,
    sys::mman::{
        madvise,
        mlock,
        mmap_anonymous,
        munmap,
        MapFlags,
        MmapAdvise,
        ProtFlags, //
    },
    unistd::{
        sysconf,
        SysconfVar, //
    },
};

/// Page size of the kernel in bytes.
pub fn size_bytes() -> Result<usize> {
    let size = sysconf(SysconfVar::PAGE_SIZE)?.context("no page size")?;
    Ok(size.try_into()?)
}

/// Has the kernel move what it can, so that there are large pieces of memory.
pub fn compact() -> Result<()> {
    const FILE: &str = "/proc/sys/vm/compact_memory";
    fs::write(FILE, "1").context(FILE)
}

/// PA of each of `count` pages from `address` on, as the kernel tells it now; nothing for a page that is not there.
pub fn places(address: usize, count: usize) -> Result<Vec<Option<u64>>> {
    const PRESENT: u64 = 1 << 63;
    const PFN: u64 = (1 << 55) - 1;
    let size = size_bytes()?;
    let mut entries = vec![0; count * 8];
    let first = address / size;
    File::open("/proc/self/pagemap")?.read_exact_at(&mut entries, first as u64 * 8)?;
    let place = |entry: &[u8]| -> Result<Option<u64>> {
        let entry = u64::from_le_bytes(entry.try_into()?);
        if entry & PRESENT == 0 {
            return Ok(None);
        }
        ensure!(entry & PFN != 0, "the kernel hides physical addresses");
        Ok(Some((entry & PFN) * size as u64))
    };
    entries.chunks_exact(8).map(place).collect()
}

/// Whether the kernel may give huge pages unasked, so that it must be told not to. With PREEMPT_RT it has none.
pub fn has_huge_pages() -> bool {
    Path::new("/sys/kernel/mm/transparent_hugepage").exists()
}

/// One or more pages, each present and locked. The kernel is told not to move locked pages while one lives.
pub struct Pages {
    start: NonNull<c_void>,
    size_bytes: usize,
}

impl Pages {
    /// Allocates `count` pages, each filled with words that tell its index.
    pub fn new(count: usize) -> Result<Self> {
        // mlock keeps a page in memory, but compaction may still move it to another PA.
        fs::write("/proc/sys/vm/compact_unevictable_allowed", "0")?;
        let size_bytes = size_bytes()? * count;
        let length = NonZeroUsize::new(size_bytes).context("no pages asked for")?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: A new mapping at an address that the kernel chooses touches no memory of this program.
        let start = unsafe { mmap_anonymous(None, length, protection, MapFlags::MAP_PRIVATE) }?;
        let mut pages = Self { start, size_bytes };
        if has_huge_pages() {
            // SAFETY: The range is the mapping made above. Small pages only, so that each has a PA of its own.
            unsafe { madvise(start, size_bytes, MmapAdvise::MADV_NOHUGEPAGE) }?;
        }
        for index in 0..pages.words_total() {
            pages.set(index, index as u64);
        }
        // SAFETY: The range is the mapping made above.
        unsafe { mlock(start, size_bytes) }?;
        Ok(pages)
    }

    /// The pages of one huge page, so that their PAs follow one another.
    pub fn contiguous() -> Result<Self> {
        let path = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size";
        let huge: usize = fs::read_to_string(path).context(path)?.trim().parse()?;
        fs::write("/proc/sys/vm/compact_unevictable_allowed", "0")?;
        let length = NonZeroUsize::new(2 * huge).context("no huge pages")?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: A new mapping at an address that the kernel chooses touches no memory of this program.
        let whole = unsafe { mmap_anonymous(None, length, protection, MapFlags::MAP_PRIVATE) }?;
        let before = whole.as_ptr().align_offset(huge);
        // SAFETY: Both ends of the result are within the mapping made above, which is twice as long.
        let (start, end) = unsafe { (whole.byte_add(before), whole.byte_add(before + huge)) };
        // SAFETY: What lies before and behind the aligned part belongs to the same mapping, and nothing refers to it.
        unsafe {
            if before != 0 {
                munmap(whole, before)?;
            }
            munmap(end, huge - before)?;
        }
        let mut pages = Self {
            start,
            size_bytes: huge,
        };
        // SAFETY: The range is the part of the mapping that is left.
        unsafe { madvise(start, huge, MmapAdvise::MADV_HUGEPAGE) }?;
        for index in 0..pages.words_total() {
            pages.set(index, index as u64);
        }
        // SAFETY: As above.
        unsafe { mlock(start, huge) }?;
        let (first, last) = (pages.pa(0)?, pages.pa(pages.count()? - 1)?);
        ensure!(
            last - first == (huge - size_bytes()?) as u64,
            "the kernel gave no huge page: {first:#x} to {last:#x}"
        );
        Ok(pages)
    }

    /// How many there are.
    pub fn count(&self) -> Result<usize> {
        Ok(self.size_bytes / size_bytes()?)
    }

    fn words_total(&self) -> usize {
        self.size_bytes / size_of::<u64>()
    }

    /// Writes the word with number `index`.
    pub fn set(&mut self, index: usize, value: u64) {
        assert!(index < self.words_total());
        // SAFETY: The index is within the mapping, which is aligned to pages. Volatile, as EL2 reads it behind the compiler.
        unsafe { self.start.cast::<u64>().add(index).write_volatile(value) }
    }

    /// PA of the page with number `index`, as the kernel tells it now.
    pub fn pa(&self, index: usize) -> Result<u64> {
        let address = self.start.as_ptr() as usize + index * size_bytes()?;
        let place = places(address, 1)?.pop().flatten();
        place.context("the page is not present")
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: The range is the mapping made in `new`, and nothing refers to it any more.
        let _ = unsafe { munmap(self.start, self.size_bytes) };
    }
}

/// A range of physical addresses that is not RAM, from `/proc/iomem`: the first one with `name` in its title.
pub fn iomem(name: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/iomem")?;
    let line = text
        .lines()
        .find(|line| line.contains(name))
        .with_context(|| format!("/proc/iomem has no {name:?}"))?;
    let start = line.trim().split('-').next().unwrap_or_default();
    Ok(u64::from_str_radix(start, 16)?)
}

/// The PA behind the last byte of RAM.
pub fn ram_end() -> Result<u64> {
    let text = fs::read_to_string("/proc/iomem")?;
    text.lines()
        .filter(|line| line.ends_with(": System RAM"))
        .filter_map(|line| line.split([' ', '-']).nth(1))
        .filter_map(|end| u64::from_str_radix(end, 16).ok())
        .max()
        .map(|last| last + 1)
        .context("/proc/iomem has no System RAM")
}
