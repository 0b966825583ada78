// SPDX-License-Identifier: GPL-2.0-only

//! kexec with the module loaded. init starts the second kernel, which runs `kexec_second`.

use anyhow::Result;

use super::going_down;
use crate::{
    handover::{
        End,
        GoingDown, //
    },
    ktap::Test,
    second_kernel,
};

pub fn test() -> Test {
    going_down()
        .needs(second_kernel::needed)
        .case("kexec_kernel_loads_while_every_cpu_is_hyp", load)
}

fn load() -> Result<()> {
    let going_down = GoingDown::load()?;
    second_kernel::load("kexec_second")?;
    going_down.go(End::Kexec)
}
