// SPDX-License-Identifier: GPL-2.0-only

//! What a crash kernel finds: it is at EL2, sees the memory of the one that has died, and can load the module.

use std::path::Path;

use anyhow::{
    ensure,
    Result, //
};

use super::standard;
use crate::{
    guest::{
        debugfs,
        kmsg,
        module, //
    },
    ktap::{
        note,
        Test, //
    },
};

pub fn test() -> Test {
    standard()
        .case("crash_kernel_started_at_el2", started_at_el2)
        .case("crash_kernel_sees_the_old_memory", old_memory)
        .case("crash_kernel_insmod_works", insmod_works)
}

fn started_at_el2() -> Result<()> {
    let line = kmsg::boot_line("CPU: All CPU(s) started at")?;
    note(&line);
    ensure!(line.contains("EL2"), "{line}");
    Ok(())
}

fn old_memory() -> Result<()> {
    ensure!(
        Path::new("/proc/vmcore").exists(),
        "no /proc/vmcore: this is not a crash kernel"
    );
    Ok(())
}

fn insmod_works() -> Result<()> {
    let loaded = module::load()?;
    debugfs::expect_online_are_hyp()?;
    debugfs::hypercall("ping 1")?.ok()?;
    loaded.unload()
}
