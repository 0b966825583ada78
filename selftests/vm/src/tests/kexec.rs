// SPDX-License-Identifier: GPL-2.0-only

//! kexec with the module loaded. init starts the second kernel, which runs `kexec_second`.

use anyhow::Result;

use super::handing_over;
use crate::{
    guest::{
        debugfs,
        module, //
    },
    handover::End,
    ktap::Test,
    second_kernel,
};

pub fn test() -> Test {
    handing_over()
        .needs(second_kernel::needed)
        .case("kexec_kernel_loads_while_every_cpu_is_hyp", load)
}

fn load() -> Result<()> {
    let loaded = module::load()?;
    debugfs::expect_online_are_hyp()?;
    second_kernel::load("kexec_second")?;
    debugfs::expect_online_are_hyp()?;
    End::Kexec.request()?;
    loaded.keep();
    Ok(())
}
