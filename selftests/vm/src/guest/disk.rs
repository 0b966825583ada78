// SPDX-License-Identifier: GPL-2.0-only

//! Disks whose drivers the lab brings along, as swap.
//!
//! Source: `union swap_header` of Linux; `swsusp_check` for what hibernation makes of it.

use std::{
    ffi::{
        CStr,
        CString, //
    },
    fs::{
        self,
        File,
        OpenOptions, //
    },
    os::unix::fs::FileExt,
    path::Path,
    time::Duration,
};

use anyhow::{
    Context,
    Result, //
};
use nix::{
    errno::Errno,
    libc, //
};

use super::{
    module::Helper,
    page,
    poll, //
};
use crate::ktap::Skip;

/// Unit in which the kernel counts the size of a disk.
const SECTOR: u64 = 512;
/// How long a disk may take to show up.
const LIMIT: Duration = Duration::from_secs(10);

/// A disk.
#[derive(Debug)]
pub struct Disk {
    module: &'static CStr,
    /// The driver.
    file: &'static str,
    name: &'static str,
}

/// The kernel's own disk in memory.
pub const MEMORY: Disk = Disk {
    module: c"brd",
    file: "/brd.ko",
    name: "ram0",
};

/// The disk of a machine that hibernates.
pub const VIRTIO: Disk = Disk {
    module: c"virtio_blk",
    file: "/virtio_blk.ko",
    name: "vda",
};

impl Disk {
    /// Loads the driver.
    pub fn attach(&'static self) -> Result<Attached> {
        if !Path::new(self.file).exists() {
            return Skip::because(format!("there is no {}", self.file));
        }
        let driver = Helper::load(self.module, self.file)?;
        let attached = Attached {
            disk: self,
            _driver: driver,
        };
        poll::until(LIMIT, || File::open(attached.path()).context(self.name))?;
        Ok(attached)
    }
}

/// A disk with its driver.
pub struct Attached {
    disk: &'static Disk,
    _driver: Helper,
}

impl Attached {
    /// The device.
    pub fn path(&self) -> String {
        format!("/dev/{}", self.disk.name)
    }

    /// Its size.
    pub fn bytes(&self) -> Result<u64> {
        let file = format!("/sys/block/{}/size", self.disk.name);
        let sectors: u64 = fs::read_to_string(&file).context(file)?.trim().parse()?;
        Ok(sectors * SECTOR)
    }

    /// Whether an image of a kernel that hibernates is on it.
    pub fn has_image(&self) -> Result<bool> {
        let mut signature = [0; 9];
        let at = page::size_bytes()? as u64 - 10;
        File::open(self.path())?.read_exact_at(&mut signature, at)?;
        Ok(&signature == b"S1SUSPEND")
    }

    /// The last sector, which is not used for swap.
    pub fn read_note(&self) -> Result<String> {
        let mut note = [0; SECTOR as usize];
        File::open(self.path())?.read_exact_at(&mut note, self.bytes()? - SECTOR)?;
        let text = String::from_utf8_lossy(&note);
        Ok(text.trim_end_matches('\0').to_string())
    }

    /// Writes to the last sector.
    pub fn write_note(&self, text: &str) -> Result<()> {
        let mut note = [0; SECTOR as usize];
        note[..text.len()].copy_from_slice(text.as_bytes());
        let file = OpenOptions::new().write(true).open(self.path())?;
        file.write_all_at(&note, self.bytes()? - SECTOR)?;
        Ok(file.sync_all()?)
    }

    /// Swaps to all of it but the last page.
    pub fn swap(self) -> Result<Swap> {
        let page = page::size_bytes()?;
        let header = swap_header(page, self.bytes()? - page as u64);
        let file = OpenOptions::new().write(true).open(self.path())?;
        file.write_all_at(&header, 0).context(self.path())?;
        file.sync_all()?;
        let path = CString::new(self.path())?;
        // SAFETY: The path is a string with a zero at its end.
        Errno::result(unsafe { libc::swapon(path.as_ptr(), 0) }).context("swapon")?;
        Ok(Swap { path, _disk: self })
    }
}

/// Swap on a disk, for as long as this lives.
pub struct Swap {
    path: CString,
    /// Dropped after [`Drop::drop`] has put an end to the swap.
    _disk: Attached,
}

impl Drop for Swap {
    fn drop(&mut self) {
        // SAFETY: The path is a string with a zero at its end.
        unsafe { libc::swapoff(self.path.as_ptr()) };
    }
}

/// First page of a swap device: version 1, last page, signature at the end.
fn swap_header(page_bytes: usize, bytes: u64) -> Vec<u8> {
    let mut page = vec![0; page_bytes];
    page[1024..1028].copy_from_slice(&1_u32.to_le_bytes());
    let last = (bytes / page_bytes as u64 - 1) as u32;
    page[1028..1032].copy_from_slice(&last.to_le_bytes());
    page[page_bytes - 10..].copy_from_slice(b"SWAPSPACE2");
    page
}
