// SPDX-License-Identifier: GPL-2.0-only

//! What runs in the VM besides the kernel: a few Debian programs for arm64, the module and its tests.

use std::{
    collections::BTreeSet,
    fs,
    path::{
        Path,
        PathBuf, //
    }, //
};

use anyhow::{
    Context as _,
    Result, //
};
use object::{
    elf,
    read::elf::{
        Dyn as _,
        ElfFile64,
        FileHeader as _,
        SectionHeader as _, //
    },
    LittleEndian, //
};

use crate::{
    apt::Apt,
    cache::{
        Artefact,
        Cache,
        Key,
        Lock, //
    },
    initramfs::Initramfs,
    kselftest::KvmSelftests,
    steps::Steps,
    ui::Ui, //
};

/// Packages whose programs the VM gets.
const PACKAGES: [&str; 3] = ["bash-static", "busybox-static", "kexec-tools"];

/// Where Debian keeps the shared libraries of arm64.
const LIBRARY_DIR: &str = "usr/lib/aarch64-linux-gnu";

/// The dynamic loader of arm64 programs.
const LOADER: &str = "ld-linux-aarch64.so.1";

/// Programs for the VM, unpacked.
#[derive(Debug)]
pub struct Userland {
    artefact: Artefact,
}

impl Userland {
    /// Fetches and unpacks the programs, if that has not been done.
    pub fn ensure(ui: &Ui, cache: &Cache, lock: &Lock, apt: &Apt) -> Result<Self> {
        let key = Key::new()
            .with_list("package", PACKAGES)
            .with_list("suite", crate::root::SUITES);
        let artefact = cache.artefact(lock, "userland", &key, |dir| {
            ui.step("programs for the VM: busybox, bash, kexec", |step| {
                apt.unpack_closure(step, &PACKAGES.map(str::to_owned), dir)
            })
        })?;
        Ok(Self { artefact })
    }

    fn add_to(&self, archive: &mut Initramfs) -> Result<()> {
        archive.program_from("bin/busybox", &self.artefact.join("usr/bin/busybox"))?;
        archive.program_from("bin/bash", &self.artefact.join("usr/bin/bash-static"))?;
        let kexec = self.artefact.join("usr/sbin/kexec");
        archive.program_from("usr/sbin/kexec", &kexec)?;
        archive.link("sbin/kexec", "/usr/sbin/kexec");
        for library in self.libraries_of(&kexec)? {
            archive.program_from(&format!("lib/{library}"), &self.library(&library))?;
        }
        Ok(())
    }

    fn library(&self, name: &str) -> PathBuf {
        self.artefact.join(LIBRARY_DIR).join(name)
    }

    /// The shared libraries that `program` needs, those that they need, and so on.
    fn libraries_of(&self, program: &Path) -> Result<BTreeSet<String>> {
        let mut found = BTreeSet::from([LOADER.to_owned()]);
        let mut open = needed_libraries(program)?;
        while let Some(library) = open.pop() {
            if found.insert(library.clone()) {
                open.extend(needed_libraries(&self.library(&library))?);
            }
        }
        Ok(found)
    }
}

/// The shared libraries that an ELF file names.
fn needed_libraries(path: &Path) -> Result<Vec<String>> {
    let data = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let elf = ElfFile64::<LittleEndian>::parse(&*data)
        .with_context(|| format!("{} is no ELF file", path.display()))?;
    let sections = elf.elf_header().sections(LittleEndian, &*data)?;
    let mut names = Vec::new();
    for section in sections.iter() {
        let Some((entries, strings)) = section.dynamic(LittleEndian, &*data)? else {
            continue;
        };
        let strings = sections.strings(LittleEndian, &*data, strings)?;
        for entry in entries
            .iter()
            .filter(|entry| entry.tag32(LittleEndian) == Some(elf::DT_NEEDED))
        {
            let name = entry.string(LittleEndian, strings)?;
            names.push(String::from_utf8_lossy(name).into_owned());
        }
    }
    Ok(names)
}

/// What goes into the VM for the tests.
#[derive(Debug)]
pub struct Payload<'a> {
    /// Programs of Debian.
    pub userland: &'a Userland,
    /// The module.
    pub module: &'a Path,
    /// Modules that only tests load.
    pub test_modules: &'a [PathBuf],
    /// The program that is `/init` and all tests.
    pub init: &'a Path,
    /// The steps of the module that the tests make fail.
    pub steps: &'a Steps,
    /// The kernel's source tree, for its own selftests.
    pub source: &'a Path,
    /// The kernel's image, for kexec.
    pub image: &'a Path,
}

impl Payload<'_> {
    /// The archive for a VM, with the kernel's KVM selftests if they are given. With `kexec`, the kernel and the same archive without them are in `/boot`.
    pub fn archive(&self, kvm_selftests: Option<&KvmSelftests>, kexec: bool) -> Result<Vec<u8>> {
        let mut archive = Initramfs::with_skeleton();
        self.userland.add_to(&mut archive)?;
        archive.program_from("init", self.init)?;
        archive.program_from("eltwo.ko", self.module)?;
        self.steps.add_to(&mut archive);
        for module in self.test_modules {
            let name = module.file_name().unwrap_or_default().to_string_lossy();
            archive.program_from(&name, module)?;
        }
        let script = "cpu-hotplug/cpu-on-off-test.sh";
        let tests = self.source.join("tools/testing/selftests");
        archive.program_from(&format!("kselftest/{script}"), &tests.join(script))?;
        if let Some(tests) = kvm_selftests {
            tests.add_to(&mut archive)?;
        }
        let mut bytes = archive.into_bytes()?;
        if kexec {
            let mut second = Initramfs::default();
            let image = fs::read(self.image).context("cannot read the kernel image")?;
            second.file("boot/vmlinuz", image);
            second.file("boot/initrd", bytes.clone());
            bytes.extend(second.into_bytes()?);
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needed_libraries_of_an_ordinary_program() {
        let libraries = needed_libraries(&std::env::current_exe().unwrap()).unwrap();
        assert!(
            libraries
                .iter()
                .any(|library| library.starts_with("libc.so")),
            "{libraries:?}"
        );
    }
}
