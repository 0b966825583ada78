// SPDX-License-Identifier: GPL-2.0-only

//! What a second kernel finds after kexec from a first one that had the module loaded.

use anyhow::{
    ensure,
    Result, //
};

use super::{
    hotplug::round_trip,
    load_unload::equal_images_on,
    standard, //
};
use crate::{
    guest::{
        cpu,
        debugfs,
        kmsg::{
            self,
            Log, //
        },
        module, //
    },
    ktap::{
        note,
        Test, //
    },
};

pub fn test() -> Test {
    standard()
        .case("second_kernel_started_at_el2", started_at_el2)
        .case("second_kernel_has_every_cpu", every_cpu)
        .case("second_kernel_insmod_works", insmod_works)
        .case("second_kernel_hotplug_works", hotplug_works)
}

fn started_at_el2() -> Result<()> {
    let line = kmsg::boot_line("CPU: All CPU(s) started at")?;
    note(&line);
    ensure!(line.contains("EL2"), "{line}");
    Ok(())
}

fn every_cpu() -> Result<()> {
    cpu::expect_online(&cpu::present()?)
}

fn insmod_works() -> Result<()> {
    let loaded = module::load()?;
    debugfs::expect_online_are_hyp()?;
    let mut log = Log::from_now()?;
    loaded.unload()?;
    equal_images_on(&log.eltwo()?, &cpu::online()?).map(drop)
}

fn hotplug_works() -> Result<()> {
    let loaded = module::load()?;
    for cpu in cpu::secondaries()? {
        round_trip(cpu)?;
    }
    loaded.unload()
}
