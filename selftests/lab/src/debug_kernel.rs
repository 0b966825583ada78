// SPDX-License-Identifier: GPL-2.0-only

//! The kernel of `make check-debug`: small, and built with everything that finds errors of a module.
//!
//! KASAN of a kernel with Rust in it needs clang for all of it, so it is not Debian's configuration with a few options
//! more: `debug.config` says what it is made of. The build takes long and is done once for each source, configuration
//! and set of compilers.

use std::{
    ffi::OsStr,
    fs,
    path::{
        Path,
        PathBuf, //
    },
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
    cmd::{
        self,
        Failure, //
    },
    kernel::{
        self,
        Source, //
    },
    root::Root,
    ui::{
        Step,
        Ui, //
    },
};

/// What it is called where flavours of Debian's kernel have their names.
pub const FLAVOUR: &str = "debug";

/// What is merged over `make allnoconfig`.
const FRAGMENT: &str = include_str!("../debug.config");

/// Where make looks for it.
const FRAGMENT_FILE: &str = "debug.config";

/// Variables for all of its make: the whole kernel is built with clang and lld.
pub const VARIABLES: [&str; 2] = ["ARCH=arm64", "LLVM=1"];

/// What the kernel calls itself, behind its version.
const SUFFIX: &str = "-eltwo-debug";

/// The kernel, built, and its tree.
#[derive(Debug)]
pub struct DebugKernel {
    artefact: Artefact,
}

impl DebugKernel {
    /// Builds it, if that has not been done.
    pub fn ensure(
        ui: &Ui,
        cache: &Cache,
        lock: &Lock,
        root: &Root,
        source: &Source,
    ) -> Result<Self> {
        let key = Key::new()
            .with("source", source.path().as_os_str().as_encoded_bytes())
            .with("compilers", root.path().as_os_str().as_encoded_bytes())
            .with("config", FRAGMENT)
            .with_list("variable", VARIABLES);
        let artefact = cache.artefact(lock, "kernel-debug", &key, |dir| {
            ui.step("debug kernel (once, half an hour)", |step| {
                build(cache, root, source, dir, step)
            })
        })?;
        Ok(Self { artefact })
    }

    /// The kernel's image.
    pub fn image(&self) -> PathBuf {
        self.artefact.join("arch/arm64/boot/Image")
    }

    /// The directory to give to the build of modules as `KDIR`.
    pub fn path(&self) -> &Path {
        self.artefact.path()
    }
}

fn build(cache: &Cache, root: &Root, source: &Source, dir: &Path, step: &Step) -> Result<()> {
    let log = cache.fresh_log("kernel-debug")?;
    let tree = source.path();
    let sandbox = root.sandbox().with_input(&tree).with_output(dir);
    let fragment = dir.join(FRAGMENT_FILE);
    fs::write(&fragment, FRAGMENT)?;
    let release = format!("KERNELRELEASE={}{SUFFIX}", source.upstream());
    let make = |arguments: &[&str]| {
        let mut make = sandbox.command(&tree, "make");
        make.args(VARIABLES).arg(format!("O={}", dir.display()));
        make.arg(&release).args(arguments);
        let remedy = "see the log; `make distclean` removes the lab for a fresh start";
        cmd::run(make, &log, remedy, |line| step.news(line))
    };
    make(&[
        &format!("KCONFIG_ALLCONFIG={}", fragment.display()),
        "allnoconfig",
    ])?;
    check_config(&fs::read_to_string(dir.join(".config"))?)?;
    make(&[&format!("-j{}", kernel::jobs()), "Image", "modules"])?;
    strip(dir)
}

/// Checks that the configuration has all that the fragment asks for: an option whose conditions are not met vanishes without a
/// word.
fn check_config(config: &str) -> Result<(), Failure> {
    let lost = |line: &&str| match line.strip_suffix("=n") {
        _ if !line.starts_with("CONFIG_") => false,
        Some(option) => config
            .lines()
            .any(|other| other.starts_with(&format!("{option}="))),
        None => config.lines().all(|other| other != *line),
    };
    let lost: Vec<&str> = FRAGMENT.lines().filter(lost).collect();
    if lost.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        format!("the kernel cannot be configured with {}", lost.join(", ")),
        "adapt selftests/lab/debug.config to this kernel",
    ))
}

/// Removes what only the kernel's own build needs: objects, and the kernel as an ELF file. Programs of the build and what
/// they are made of stay, or make would build them again.
fn strip(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            let keep = ["scripts", "rust", "include"].map(OsStr::new);
            if !keep.contains(&entry.file_name().as_os_str()) {
                strip(&path)?;
            }
        } else {
            let kinds = ["o", "a", "ko", "cmd"].map(OsStr::new);
            let names = ["vmlinux", "vmlinux.unstripped"].map(OsStr::new);
            if path.extension().is_some_and(|kind| kinds.contains(&kind))
                || names.contains(&entry.file_name().as_os_str())
            {
                fs::remove_file(path)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_without_an_option_is_refused() {
        // An option that is off is not there, or named in a comment.
        let is_set = |line: &&str| !line.ends_with("=n");
        let set: Vec<&str> = FRAGMENT.lines().filter(is_set).collect();
        let whole = set.join("\n") + "\n";
        assert!(check_config(&whole).is_ok());
        let lost = check_config(&whole.replace("CONFIG_KASAN=y\n", "")).unwrap_err();
        assert!(lost.to_string().contains("CONFIG_KASAN=y"), "{lost}");
        let more = whole + "CONFIG_DEBUG_KMEMLEAK_AUTO_SCAN=y\n";
        assert!(check_config(&more).is_err());
    }
}
