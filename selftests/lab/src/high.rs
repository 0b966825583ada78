// SPDX-License-Identifier: GPL-2.0-only

//! A machine whose kernel finds its RAM high up in the physical address space.
//!
//! QEMU's board starts its RAM at 1 GiB, and its boot loader puts everything there. Here a memory module is plugged in at
//! the address that is wanted, and the kernel gets a device tree that names it. Up to 48 bits of address that is all
//! that it names, and the kernel itself is in it; beyond, where no kernel may be, it names the board's RAM too, and
//! the kernel is there. The first CPU starts in a stub that does what QEMU's boot loader does
//! (`Documentation/arch/arm64/booting.rst`, "Call the kernel image").

use std::{
    fs,
    path::Path,
    process::Command, //
};

use anyhow::{
    Context as _,
    Result, //
};

use crate::{
    cmd,
    fdt::Fdt,
    vm, //
};

/// Where the board has RAM, and how much of it there is here.
const BOARD_BASE: u64 = 1 << 30;
const BOARD_MIB: u64 = 512;

/// The kernel's image must be below.
const IMAGE_LIMIT: u64 = 1 << 48;

/// Name of the device tree in the machine's directory.
pub const TREE: &str = "board.dtb";

/// Where things are in the RAM that the kernel is in, as offsets.
const IMAGE_AT: u64 = 0x20_0000;
const TREE_AT: u64 = 0x1000_0000;
const INITRD_AT: u64 = 0x1200_0000;

/// The stub: device tree in x0, nothing in x1 to x3, jump to the kernel. Behind it stand the two addresses.
const STUB: [u32; 6] = [
    0x5800_00c0, // ldr x0, .+24
    0xaa1f_03e1, // mov x1, xzr
    0xaa1f_03e2, // mov x2, xzr
    0xaa1f_03e3, // mov x3, xzr
    0x5800_0084, // ldr x4, .+16
    0xd61f_0080, // br x4
];

/// The memory module.
#[derive(Clone, Copy, Debug)]
pub struct High {
    /// Its first address, a multiple of 1 GiB.
    pub base: u64,
    /// Its size in MiB.
    pub size_mib: u64,
}

impl High {
    /// QEMU's arguments for the RAM of the board, with room for the module.
    pub fn board(self, command: &mut Command) {
        let end_mib = (self.base >> 20) + self.size_mib;
        let memory = format!("{BOARD_MIB}M,slots=1,maxmem={end_mib}M");
        command.args(["-m", &memory]);
    }

    /// What the kernel's command line says besides, so that it finds its initramfs.
    pub fn words(self, initrd: &Path) -> Result<String> {
        let bytes = fs::metadata(initrd)?.len();
        let start = self.home() + INITRD_AT;
        Ok(format!(" initrd={start:#x},{bytes}"))
    }

    /// Adds the stub as the board's firmware: QEMU takes memory modules only on a board that has one, and gives it other
    /// devices than a board without.
    pub fn firmware(self, command: &mut Command, dir: &Path) -> Result<()> {
        let stub = dir.join("stub.bin");
        fs::write(&stub, self.stub())?;
        command.arg("-bios").arg(&stub);
        Ok(())
    }

    /// Has QEMU write the device tree of the board (`dump` has `-M dumpdtb=` of [`TREE`] in `dir`), changes it, and tells
    /// QEMU in `command` what to plug in and what to load.
    pub fn load(
        self,
        dump: &mut Command,
        command: &mut Command,
        (kernel, initrd): (&Path, &Path),
        dir: &Path,
    ) -> Result<()> {
        cmd::capture(dump).context("cannot get the device tree of the board")?;
        let path = dir.join(TREE);
        let mut tree = Fdt::new(fs::read(&path)?)?;
        tree.replace("/memory@40000000", "reg", &self.memory())?;
        fs::write(&path, tree.bytes())?;
        let (base, size_mib) = (self.base, self.size_mib);
        command
            .arg("-object")
            .arg(format!("memory-backend-ram,id=high,size={size_mib}M"));
        command
            .arg("-device")
            .arg(format!("pc-dimm,memdev=high,addr={base:#x}"));
        for (file, offset) in [(kernel, IMAGE_AT), (&path, TREE_AT), (initrd, INITRD_AT)] {
            let (file, address) = (vm::escape(file), self.home() + offset);
            command
                .arg("-device")
                .arg(format!("loader,file={file},addr={address:#x},force-raw=on"));
        }
        Ok(())
    }

    /// The RAM that the kernel is in.
    fn home(self) -> u64 {
        if self.base < IMAGE_LIMIT {
            self.base
        } else {
            BOARD_BASE
        }
    }

    /// The kernel's RAM, as the device tree has it: address and size of each part.
    fn memory(self) -> Vec<u8> {
        let module = [self.base, self.size_mib << 20];
        let board = [BOARD_BASE, BOARD_MIB << 20];
        let parts = match self.home() {
            BOARD_BASE => [board, module].concat(),
            _ => module.to_vec(),
        };
        parts.into_iter().flat_map(u64::to_be_bytes).collect()
    }

    /// The stub with its two addresses.
    fn stub(self) -> Vec<u8> {
        let code = STUB.into_iter().flat_map(u32::to_le_bytes);
        let addresses = [TREE_AT, IMAGE_AT].map(|offset| self.home() + offset);
        code.chain(addresses.into_iter().flat_map(u64::to_le_bytes))
            .collect()
    }
}
