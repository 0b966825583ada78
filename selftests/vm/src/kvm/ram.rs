// SPDX-License-Identifier: GPL-2.0-only

//! Memory of a guest, as user space sees it.

use std::{
    num::NonZeroUsize,
    os::fd::AsFd,
    ptr::NonNull,
    sync::{
        atomic::{
            AtomicU64,
            Ordering, //
        },
        OnceLock,
    },
};

use anyhow::{
    ensure,
    Context,
    Result, //
};
use nix::{
    libc::{
        self,
        c_void, //
    },
    sys::mman::{
        madvise,
        mmap,
        mmap_anonymous,
        mprotect,
        munmap,
        MapFlags,
        MmapAdvise,
        ProtFlags, //
    },
};

use crate::guest::page;

/// Size of a page of the kernel in bytes.
pub fn page_size() -> usize {
    static SIZE: OnceLock<usize> = OnceLock::new();
    // 4 KiB, if the kernel does not say.
    *SIZE.get_or_init(|| page::size_bytes().unwrap_or(4096))
}

/// Size of a huge page of the kernel in bytes: what one descriptor maps at the level above that of pages.
pub fn huge_size() -> usize {
    page_size() * page_size() / size_of::<u64>()
}

/// A mapping of this process that is also memory of a guest. Its address is a multiple of [`huge_size`], unless
/// it is a file's.
///
/// The guest and other threads use the memory at any time, so it is only read and written by atomic accesses.
#[derive(Debug)]
pub struct Ram {
    /// The whole reservation, which is larger than the memory, as `mmap` aligns to pages only.
    reservation: NonNull<c_void>,
    reserved: usize,
    start: usize,
    bytes: usize,
}

// SAFETY: The mapping belongs to no thread in particular.
unsafe impl Send for Ram {}
// SAFETY: As above; all accesses to the memory are atomic.
unsafe impl Sync for Ram {}

impl Ram {
    /// Private anonymous memory in small pages.
    pub fn new(bytes: usize) -> Result<Self> {
        let ram = Self::reserve(bytes)?;
        if page::has_huge_pages() {
            ram.advise(MmapAdvise::MADV_NOHUGEPAGE)?;
        }
        Ok(ram)
    }

    /// Private anonymous memory that may be in huge pages.
    pub fn huge(bytes: usize) -> Result<Self> {
        let ram = Self::reserve(bytes)?;
        ram.advise(MmapAdvise::MADV_HUGEPAGE)?;
        Ok(ram)
    }

    /// Private memory of the pool of huge pages, which must have as many free. `bytes` are huge pages.
    pub fn hugetlb(bytes: usize) -> Result<Self> {
        let size = MapFlags::from_bits_retain((huge_size().ilog2() as i32) << libc::MAP_HUGE_SHIFT);
        Self::map(bytes, 0, MapFlags::MAP_HUGETLB | size)
    }

    /// The memory that `file` has at `offset`, shared with it.
    pub fn of_file(file: &impl AsFd, offset: i64, bytes: usize, access: ProtFlags) -> Result<Self> {
        let length = NonZeroUsize::new(bytes).context("no bytes")?;
        // SAFETY: A new mapping at an address of the kernel's choice touches nothing that exists.
        let reservation =
            unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, file, offset)? };
        Ok(Self {
            reservation,
            reserved: bytes,
            start: reservation.as_ptr().addr(),
            bytes,
        })
    }

    fn reserve(bytes: usize) -> Result<Self> {
        Self::map(bytes, huge_size(), MapFlags::MAP_NORESERVE)
    }

    /// New memory, with `slack` bytes more to find an aligned start in.
    fn map(bytes: usize, slack: usize, flags: MapFlags) -> Result<Self> {
        ensure!(
            bytes != 0 && bytes % page_size() == 0,
            "{bytes} bytes are not pages"
        );
        let reserved = bytes + slack;
        let length = NonZeroUsize::new(reserved).unwrap_or(NonZeroUsize::MIN);
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | flags;
        // SAFETY: A new mapping at an address of the kernel's choice touches nothing that exists.
        let reservation = unsafe { mmap_anonymous(None, length, protection, flags)? };
        let start = reservation.as_ptr().addr().next_multiple_of(huge_size());
        Ok(Self {
            reservation,
            reserved,
            start,
            bytes,
        })
    }

    /// Address in this process.
    pub fn address(&self) -> u64 {
        self.start as u64
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// PA of each page, as the kernel tells it now; nothing for a page that is not there.
    pub fn places(&self) -> Result<Vec<Option<u64>>> {
        page::places(self.start, self.bytes / page_size())
    }

    fn pointer(&self, offset: u64, bytes: usize) -> *mut u8 {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        assert!(
            offset
                .checked_add(bytes)
                .is_some_and(|end| end <= self.bytes),
            "{bytes} bytes at {offset:#x} are outside of the memory"
        );
        let pointer = self.reservation.as_ptr().cast::<u8>();
        pointer.wrapping_add(self.start - pointer.addr() + offset)
    }

    /// The 8 bytes at `offset`, a multiple of 8.
    pub fn word(&self, offset: u64) -> &AtomicU64 {
        assert!(offset % 8 == 0, "{offset:#x} is not aligned");
        let pointer = self.pointer(offset, 8).cast();
        // SAFETY: The word is in the mapping, which lives as long as `self`, and aligned; all access to it is atomic.
        unsafe { AtomicU64::from_ptr(pointer) }
    }

    /// Reads the 8 bytes at `offset`.
    pub fn get(&self, offset: u64) -> u64 {
        self.word(offset).load(Ordering::Acquire)
    }

    /// Writes the 8 bytes at `offset`.
    pub fn set(&self, offset: u64, value: u64) {
        self.word(offset).store(value, Ordering::Release);
    }

    /// Writes `bytes` at `offset`, a multiple of 8; zeroes follow up to the next such multiple.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        for (chunk, at) in bytes.chunks(8).zip((offset..).step_by(8)) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.set(at, u64::from_le_bytes(word));
        }
    }

    /// Tells the kernel about the use of all of the memory.
    pub fn advise(&self, advice: MmapAdvise) -> Result<()> {
        self.advise_range(0, self.bytes, advice)
    }

    /// Tells the kernel about the use of a part of the memory.
    pub fn advise_range(&self, offset: u64, bytes: usize, advice: MmapAdvise) -> Result<()> {
        let address = NonNull::new(self.pointer(offset, bytes).cast()).unwrap_or(self.reservation);
        // SAFETY: The range is ours. What the advice may take away is memory that is only read by atomic accesses, for
        // which zeroes are as good as anything else.
        unsafe { madvise(address, bytes, advice)? };
        Ok(())
    }

    /// Changes what this process, and with it the guest, may do with a part of the memory.
    pub fn protect(&self, offset: u64, bytes: usize, protection: ProtFlags) -> Result<()> {
        let address = NonNull::new(self.pointer(offset, bytes).cast()).unwrap_or(self.reservation);
        // SAFETY: The range is ours, and the caller does not use it against its protection.
        unsafe { mprotect(address, bytes, protection)? };
        Ok(())
    }

    /// Puts fresh zeroed pages in place of a part of the memory, as `munmap` and `mmap` do.
    pub fn replace(&self, offset: u64, bytes: usize) -> Result<()> {
        let address = NonZeroUsize::new(self.pointer(offset, bytes).addr());
        let length = NonZeroUsize::new(bytes).unwrap_or(NonZeroUsize::MIN);
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED;
        // SAFETY: The range is ours; all access to it is atomic, and memory stays there all the time.
        unsafe { mmap_anonymous(address, length, protection, flags)? };
        Ok(())
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: The reservation is ours, and nobody can have a reference into it any more.
        // A failure leaves it mapped to the end of the process.
        let _ = unsafe { munmap(self.reservation, self.reserved) };
    }
}
