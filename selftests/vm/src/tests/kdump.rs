// SPDX-License-Identifier: GPL-2.0-only

//! A panic with the module loaded starts the crash kernel, which runs `kdump_second`.

use std::fs;

use anyhow::Result;

use super::handing_over;
use crate::{
    guest::{
        debugfs,
        module, //
    },
    handover::End,
    ktap::{
        Skip,
        Test, //
    },
    second_kernel,
};

pub fn test() -> Test {
    handing_over()
        .needs(second_kernel::needed)
        .needs(needs_crash_memory)
        .case("kdump_kernel_loads_while_every_cpu_is_hyp", load)
}

fn needs_crash_memory() -> Result<()> {
    if !fs::read_to_string("/proc/iomem")?.contains("Crash kernel") {
        return Skip::because("no memory for a crash kernel; boot with crashkernel=192M");
    }
    Ok(())
}

fn load() -> Result<()> {
    let loaded = module::load()?;
    debugfs::expect_online_are_hyp()?;
    second_kernel::load_for_crash("kdump_second")?;
    End::Crash.request()?;
    loaded.keep();
    Ok(())
}
