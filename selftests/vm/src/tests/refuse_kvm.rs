// SPDX-License-Identifier: GPL-2.0-only

//! Where the kernel's own KVM owns EL2, insmod is refused and KVM goes on working.

use std::path::Path;

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
        .needs(needs_kvm)
        .case("kvm_works_before", refuse::kvm_works)
        .case("kvm_ebusy_with_the_remedy", || {
            refuse::expect(Errno::EBUSY, &["KVM", "kvm-arm.mode=none"])
        })
        .case("kvm_works_after", refuse::kvm_works)
        .case("kvm_kernel_unharmed", refuse::kernel_unharmed)
        .case("kvm_refused_again", || {
            refuse::expect(Errno::EBUSY, &["KVM"])
        })
        .case("kvm_works_at_the_end", refuse::kvm_works)
}

fn needs_kvm() -> Result<()> {
    if !Path::new("/dev/kvm").exists() {
        return Skip::because("the kernel's KVM is off; boot without kvm-arm.mode=none");
    }
    if kmsg::boot_line("Virtualization Host Extensions").is_ok() {
        return Skip::because("the kernel runs in VHE; boot with kvm-arm.mode=nvhe");
    }
    Ok(())
}
