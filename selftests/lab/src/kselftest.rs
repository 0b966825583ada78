// SPDX-License-Identifier: GPL-2.0-only

//! The kernel's own KVM selftests, built from the kernel's source as they are.
//!
//! They are linked statically, so that the VM needs no libraries, and nothing is written into the source tree: both are
//! asked for by variables of their Makefile (`tools/testing/selftests/lib.mk`, `kvm/Makefile.kvm`).

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path, //
};

use anyhow::{
    Context as _,
    Result, //
};

use crate::{
    cache::{
        Artefact,
        Cache,
        Key,
        Lock, //
    },
    cmd,
    initramfs::Initramfs,
    kernel,
    setup::Lab,
    ui::{
        Step,
        Ui, //
    }, //
};

/// Where they are in the source tree.
const DIR: &str = "tools/testing/selftests/kvm";

/// Where they are in the VM.
const GUEST_DIR: &str = "kselftest/kvm";

/// Variables of their Makefile: what is added to the compiler's flags, and where it tries options out.
const VARIABLES: [&str; 2] = ["EXTRA_CFLAGS=-static", "TMPOUT=/tmp/try"];

/// The programs, built.
#[derive(Debug)]
pub struct KvmSelftests {
    artefact: Artefact,
}

impl KvmSelftests {
    /// Builds the programs, if that has not been done.
    pub fn ensure(ui: &Ui, cache: &Cache, lock: &Lock, lab: &Lab) -> Result<Self> {
        let key = Key::new()
            .with("source", lab.source.path().as_os_str().as_encoded_bytes())
            .with("root", lab.root.path().as_os_str().as_encoded_bytes())
            .with_list("variable", VARIABLES);
        let artefact = cache.artefact(lock, "kvm-selftests", &key, |dir| {
            ui.step("the kernel's KVM selftests", |step| {
                build(cache, lab, dir, step)
            })
        })?;
        Ok(Self { artefact })
    }

    /// The names of all programs, relative to the directory of the tests, sorted.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        programs(&self.artefact.join("programs"), "", &mut names)?;
        names.sort();
        Ok(names)
    }

    /// Adds the programs to the file system of a VM.
    pub fn add_to(&self, archive: &mut Initramfs) -> Result<()> {
        for name in self.names()? {
            let program = self.artefact.join("programs").join(&name);
            archive.program_from(&format!("{GUEST_DIR}/{name}"), &program)?;
        }
        Ok(())
    }
}

/// Builds the programs into the directory `programs` below `dir`.
fn build(cache: &Cache, lab: &Lab, dir: &Path, step: &Step) -> Result<()> {
    let log = cache.fresh_log("kvm-selftests")?;
    let source = lab.source.path();
    let [headers, objects] = ["headers", "objects"].map(|name| dir.join(name));
    // The Makefile of the tools does not make the directory that it is told to write to.
    fs::create_dir_all(objects.join("tools"))?;
    let sandbox = lab.root.sandbox().with_input(&source).with_output(dir);
    let make = |dir: &Path, arguments: &[String]| {
        let mut make = sandbox.command(dir, "make");
        make.arg("ARCH=arm64");
        make.arg(format!("CROSS_COMPILE={}", lab.arch.cross_compile()));
        make.arg(format!("-j{}", kernel::jobs())).args(arguments);
        let remedy = "see the log; `make distclean` removes the lab for a fresh start";
        cmd::run(make, &log, remedy, |line| step.news(line))
    };
    make(
        &source,
        &[format!("O={}", headers.display()), "headers".to_owned()],
    )?;
    let mut arguments = vec![
        format!("OUTPUT={}", objects.display()),
        format!("abs_objdir={}", objects.display()),
        format!("KHDR_INCLUDES=-isystem {}/usr/include", headers.display()),
    ];
    arguments.extend(VARIABLES.map(str::to_owned));
    make(&source.join(DIR), &arguments)?;
    keep_programs(&objects, &dir.join("programs"))?;
    crate::cache::remove_tree(&headers)?;
    crate::cache::remove_tree(&objects)
}

/// Moves the programs out of the directory of the build.
fn keep_programs(objects: &Path, into: &Path) -> Result<()> {
    let mut names = Vec::new();
    programs(objects, "", &mut names)?;
    anyhow::ensure!(!names.is_empty(), "the build made no program");
    for name in names {
        let to = into.join(&name);
        fs::create_dir_all(to.parent().unwrap_or(into))?;
        fs::rename(objects.join(&name), &to)
            .with_context(|| format!("cannot move {} away", to.display()))?;
    }
    Ok(())
}

/// Adds the files below `dir` that can be executed, whose names start with `prefix`.
fn programs(dir: &Path, prefix: &str, names: &mut Vec<String>) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    for entry in entries {
        let entry = entry?;
        let metadata = entry.metadata()?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if metadata.is_dir() {
            programs(&entry.path(), &format!("{name}/"), names)?;
        } else if metadata.permissions().mode() & 0o111 != 0 {
            names.push(name);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_the_executable_files() {
        let dir = std::env::temp_dir().join(format!("eltwo-lab-programs-{}", std::process::id()));
        fs::create_dir_all(dir.join("arm64")).unwrap();
        for (name, mode) in [("one", 0o755), ("arm64/two", 0o700), ("one.o", 0o644)] {
            fs::write(dir.join(name), "").unwrap();
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        keep_programs(&dir, &dir.join("programs")).unwrap();
        let mut names = Vec::new();
        programs(&dir.join("programs"), "", &mut names).unwrap();
        names.sort();
        assert_eq!(names, ["arm64/two", "one"]);
        crate::cache::remove_tree(&dir).unwrap();
    }
}
