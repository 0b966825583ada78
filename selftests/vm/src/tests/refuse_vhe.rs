// SPDX-License-Identifier: GPL-2.0-only

//! On a kernel that runs at EL2 itself (VHE), insmod is refused and KVM goes on working.

use std::path::Path;

use anyhow::{
    ensure,
    Result, //
};
use nix::errno::Errno;

use super::{
    refuse,
    standard, //
};
use crate::{
    guest::kmsg,
    ktap::{
        Skip,
        Test, //
    },
};

pub fn test() -> Test {
    standard()
        .needs(needs_vhe)
        .case("vhe_enodev_with_the_remedy", || {
            refuse::expect(Errno::ENODEV, &["VHE", "id_aa64mmfr1.vh=0"])
        })
        .case("vhe_kernel_unharmed", refuse::kernel_unharmed)
        .case("vhe_kvm_works", vhe_kvm_works)
        .case("vhe_refused_again", || {
            refuse::expect(Errno::ENODEV, &["VHE"])
        })
}

fn vhe_kvm_works() -> Result<()> {
    if !Path::new("/dev/kvm").exists() {
        return Skip::because("the kernel's KVM is off");
    }
    refuse::kvm_works()
}

fn needs_vhe() -> Result<()> {
    let line = kmsg::boot_line("CPU: All CPU(s) started at")?;
    ensure!(line.contains("EL2"), "the kernel says {line:?}");
    if kmsg::boot_line("Virtualization Host Extensions").is_err() {
        return Skip::because("the kernel does not run in VHE");
    }
    Ok(())
}
