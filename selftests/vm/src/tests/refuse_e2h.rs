// SPDX-License-Identifier: GPL-2.0-only

//! Where the kernel is at EL1 but EL2 has HCR_EL2.E2H set (hVHE, CPUs without FEAT_E2H0), insmod is refused.
//!
//! QEMU has no CPU that cannot clear E2H, so the test module `eltwo_e2h.ko` sets it on one that has FEAT_VHE.

use std::path::Path;

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
    ktap::{
        Skip,
        Test, //
    },
};

const FILE: &str = "/eltwo_e2h.ko";

pub fn test() -> Test {
    standard()
        .needs(needs_e2h)
        .case("e2h_enodev_with_the_reason", enodev)
        .case("e2h_kernel_unharmed", || {
            let _e2h = set_e2h()?;
            refuse::expect(Errno::ENODEV, &["E2H=1"])?;
            refuse::kernel_unharmed()
        })
        .case("e2h_cleared_insmod_works", || {
            drop(set_e2h()?);
            let loaded = module::load()?;
            debugfs::expect_online_are_hyp()?;
            loaded.unload()
        })
}

fn set_e2h() -> Result<Helper> {
    Helper::load(c"eltwo_e2h", FILE)
}

fn needs_e2h() -> Result<()> {
    if !Path::new(FILE).exists() {
        return Skip::because(format!("no {FILE}"));
    }
    match set_e2h() {
        Ok(_) => Ok(()),
        Err(error) => Skip::because(format!("E2H cannot be set here: {error:#}")),
    }
}

fn enodev() -> Result<()> {
    let _e2h = set_e2h()?;
    refuse::expect(Errno::ENODEV, &["E2H=1"])
}
