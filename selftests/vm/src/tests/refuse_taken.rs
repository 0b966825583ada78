// SPDX-License-Identifier: GPL-2.0-only

//! Where another module has the hotplug state of KVM or the number of `/dev/kvm`, insmod is refused, with one line that says so.
//!
//! That module is the test module `eltwo_taken.ko`.

use std::ffi::CStr;

use anyhow::Result;
use nix::errno::Errno;

use super::{
    refuse,
    standard, //
};
use crate::{
    guest::{
        debugfs,
        module::{
            self,
            Helper, //
        },
    },
    ktap::Test,
};

const FILE: &str = "/eltwo_taken.ko";

pub fn test() -> Test {
    standard()
        .case("taken_hotplug_state_ebusy_with_the_remedy", || {
            refused(c"hotplug=1", "the hotplug state of KVM is taken")
        })
        .case("taken_device_ebusy_with_the_remedy", || {
            refused(c"", "somebody else provides /dev/kvm")
        })
}

/// With `eltwo_taken.ko` loaded with `parameters` insmod is refused with `words`; without it, it works.
fn refused(parameters: &CStr, words: &str) -> Result<()> {
    let taken = Helper::load_with(c"eltwo_taken", FILE, parameters)?;
    refuse::expect(Errno::EBUSY, &[words, "remove", "kvm-arm.mode=none"])?;
    refuse::kernel_unharmed()?;
    drop(taken);
    let loaded = module::load()?;
    debugfs::expect_online_are_hyp()?;
    loaded.unload()
}
