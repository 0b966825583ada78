// SPDX-License-Identifier: GPL-2.0-only

//! The file system of the VM: an uncompressed cpio archive in the format `newc`, which the kernel unpacks at boot.
//!
//! It is not compressed, because an emulated CPU takes longer to unpack than QEMU takes to load the bytes.

use std::{
    collections::BTreeMap,
    fs,
    io::Cursor,
    path::Path, //
};

use anyhow::{
    Context as _,
    Result, //
};
use cpio::newc::{
    Builder,
    ModeFileType, //
};

/// Archives that follow one another must start at a multiple of this many bytes.
const ARCHIVE_ALIGN: usize = 512;

/// One file of the archive.
struct Node {
    kind: ModeFileType,
    permissions: u32,
    /// Contents of a file, target of a link.
    data: Vec<u8>,
    /// Major and minor number of a device.
    device: (u32, u32),
}

/// An archive in the making. Names are relative to the root of the file system.
#[derive(Default)]
pub struct Initramfs {
    /// Sorted by name, so that a directory stands before what is in it.
    nodes: BTreeMap<String, Node>,
}

impl Initramfs {
    /// An archive with the directories and the console that every system needs.
    pub fn with_skeleton() -> Self {
        let mut archive = Self::default();
        for dir in [
            "bin", "dev", "etc", "lib", "proc", "run", "sbin", "sys", "tests", "tmp", "usr/sbin",
        ] {
            archive.dir(dir);
        }
        archive.insert("dev/console", ModeFileType::Char, 0o600, Vec::new(), (5, 1));
        archive
    }

    fn insert(
        &mut self,
        name: &str,
        kind: ModeFileType,
        permissions: u32,
        data: Vec<u8>,
        device: (u32, u32),
    ) {
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.dir(parent);
        }
        self.nodes.insert(
            name.to_owned(),
            Node {
                kind,
                permissions,
                data,
                device,
            },
        );
    }

    /// Adds a directory and those above it.
    pub fn dir(&mut self, name: &str) {
        if !self.nodes.contains_key(name) {
            self.insert(name, ModeFileType::Directory, 0o755, Vec::new(), (0, 0));
        }
    }

    /// Adds a file that can be executed.
    pub fn program(&mut self, name: &str, data: Vec<u8>) {
        self.insert(name, ModeFileType::Regular, 0o755, data, (0, 0));
    }

    /// Adds a file.
    pub fn file(&mut self, name: &str, data: Vec<u8>) {
        self.insert(name, ModeFileType::Regular, 0o644, data, (0, 0));
    }

    /// Adds a file of the host as a program.
    pub fn program_from(&mut self, name: &str, path: &Path) -> Result<()> {
        let data = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        self.program(name, data);
        Ok(())
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, name: &str, target: &str) {
        self.insert(
            name,
            ModeFileType::Symlink,
            0o777,
            target.as_bytes().to_vec(),
            (0, 0),
        );
    }

    /// The archive, padded so that another one can follow it.
    pub fn into_bytes(self) -> Result<Vec<u8>> {
        let inputs = self
            .nodes
            .into_iter()
            .zip(1..)
            .map(|((name, node), inode)| {
                let builder = Builder::new(&name)
                    .ino(inode)
                    .mode(node.permissions)
                    .set_mode_file_type(node.kind)
                    .nlink(1)
                    .rdev_major(node.device.0)
                    .rdev_minor(node.device.1);
                (builder, Cursor::new(node.data))
            });
        let mut bytes = cpio::write_cpio(inputs, Vec::new())?;
        bytes.resize(bytes.len().next_multiple_of(ARCHIVE_ALIGN), 0);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(mut bytes: &[u8]) -> Vec<(String, u32)> {
        let mut names = Vec::new();
        loop {
            let reader = cpio::NewcReader::new(bytes).unwrap();
            if reader.entry().is_trailer() {
                return names;
            }
            names.push((reader.entry().name().to_owned(), reader.entry().mode()));
            bytes = reader.finish().unwrap();
        }
    }

    #[test]
    fn directories_stand_before_their_contents() {
        let mut archive = Initramfs::default();
        archive.program("usr/sbin/kexec", b"x".to_vec());
        archive.link("init", "usr/sbin/kexec");
        let bytes = archive.into_bytes().unwrap();
        assert_eq!(bytes.len() % ARCHIVE_ALIGN, 0);
        let expected = [
            ("init", 0o120_777),
            ("usr", 0o40_755),
            ("usr/sbin", 0o40_755),
            ("usr/sbin/kexec", 0o100_755),
        ];
        assert_eq!(
            names(&bytes),
            expected.map(|(name, mode)| (name.to_owned(), mode))
        );
    }

    #[test]
    fn skeleton_has_a_console() {
        let bytes = Initramfs::with_skeleton().into_bytes().unwrap();
        assert!(names(&bytes).contains(&("dev/console".to_owned(), 0o20_600)));
    }
}
