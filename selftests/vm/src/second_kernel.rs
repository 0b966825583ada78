// SPDX-License-Identifier: GPL-2.0-only

//! Loading a second kernel by kexec-tools.

use std::{
    fs,
    path::Path,
    process::Command, //
};

use anyhow::{
    ensure,
    Context,
    Result, //
};

use crate::{
    guest::kmsg,
    ktap::Skip, //
};

const KERNEL: &str = "/boot/vmlinuz";
const INITRD: &str = "/boot/initrd";

/// Skips where there is no second kernel at hand.
pub fn needed() -> Result<()> {
    for file in [KERNEL, INITRD] {
        if !Path::new(file).exists() {
            return Skip::because(format!("no {file}"));
        }
    }
    lpis_are_off()?;
    if Command::new("kexec").arg("--version").output().is_err() {
        return Skip::because("no kexec-tools");
    }
    Ok(())
}

/// A GICv3 whose LPIs are on cannot switch them off again. The second kernel then uses the LPI tables where the first one
/// had put them, and only EFI can have told it to keep its own text out of there.
fn lpis_are_off() -> Result<()> {
    let on = kmsg::boot_line("using allocated LPI pending table").is_ok();
    if on && !Path::new("/sys/firmware/efi").exists() {
        return Skip::because(
            "LPIs are on and there is no EFI, so no second kernel survives here; use QEMU's its=off",
        );
    }
    Ok(())
}

/// The command line of this kernel with another `eltwo.run=`.
fn command_line(run: &str) -> Result<String> {
    let line = fs::read_to_string("/proc/cmdline")?;
    let words = line
        .split_whitespace()
        .filter(|word| !word.starts_with("eltwo.run="));
    Ok(words
        .map(str::to_string)
        .chain([format!("eltwo.run={run}")])
        .collect::<Vec<_>>()
        .join(" "))
}

/// Loads the second kernel, which is going to run `run`.
pub fn load(run: &str) -> Result<()> {
    kexec("-l", &command_line(run)?, "/sys/kernel/kexec_loaded")
}

/// Loads the crash kernel, which is going to run `run` on one CPU, as crash kernels do, with `more` on its command line.
pub fn load_for_crash(run: &str, more: &str) -> Result<()> {
    let line = command_line(run)?;
    let words = line
        .split(' ')
        .filter(|word| !word.starts_with("crashkernel="));
    let line = words
        .chain(["nr_cpus=1", "reset_devices", more])
        .collect::<Vec<_>>()
        .join(" ");
    kexec("-p", &line, "/sys/kernel/kexec_crash_loaded")
}

/// Without the check of the segments' digests between the kernels: it is kexec-tools' own, not the kernel's, and runs with
/// the MMU off, which an emulator does slowly.
fn kexec(how: &str, command_line: &str, loaded: &str) -> Result<()> {
    let output = Command::new("kexec")
        .args(["--kexec-syscall", "--no-checks", how, KERNEL])
        .arg(format!("--initrd={INITRD}"))
        .arg(format!("--command-line={command_line}"))
        .output()
        .context("kexec")?;
    ensure!(
        output.status.success(),
        "kexec {how}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(
        fs::read_to_string(loaded)
            .with_context(|| loaded.to_string())?
            .trim()
            == "1",
        "kexec {how} succeeded and no kernel is loaded"
    );
    Ok(())
}
