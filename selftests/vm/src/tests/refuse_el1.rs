// SPDX-License-Identifier: GPL-2.0-only

//! On a machine without EL2, insmod is refused and the kernel unharmed.

use anyhow::Result;
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
        .needs(needs_el1)
        .case("el1_enodev_with_the_reason", || {
            refuse::expect(Errno::ENODEV, &["this CPU has no EL2"])
        })
        .case("el1_kernel_unharmed", refuse::kernel_unharmed)
        .case("el1_refused_again", || {
            refuse::expect(Errno::ENODEV, &["this CPU has no EL2"])
        })
}

fn needs_el1() -> Result<()> {
    if !kmsg::boot_line("CPU: All CPU(s) started at")?.contains("EL1") {
        return Skip::because("the kernel was entered at EL2; boot the machine without it");
    }
    Ok(())
}
