// SPDX-License-Identifier: GPL-2.0-only

//! kexec with the module loaded. init starts the second kernel, which runs `kexec_second`.

use anyhow::Result;

use super::going_down;
use crate::{
    handover::{
        End,
        GoingDown, //
    },
    hooks::before,
    ktap::Test,
    second_kernel,
};

pub fn test() -> Test {
    going_down()
        .needs(second_kernel::needed)
        .case("kexec_kernel_loads_with_the_module", load)
}

fn load() -> Result<()> {
    let Some(hooks) = before::ordered()? else {
        let going_down = GoingDown::load()?;
        second_kernel::load("kexec_second")?;
        return going_down.go(End::Kexec);
    };
    before::happen(&hooks)?;
    second_kernel::load("kexec_second")?;
    End::Kexec.request()
}
