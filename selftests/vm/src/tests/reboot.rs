// SPDX-License-Identifier: GPL-2.0-only

//! reboot(2) with the module loaded. init ends with it; that the machine restarts is for the lab to see.

use anyhow::Result;

use super::handing_over;
use crate::{
    guest::{
        debugfs,
        module, //
    },
    handover::End,
    ktap::Test,
};

pub fn test() -> Test {
    handing_over().case("reboot_begins_while_every_cpu_is_hyp", || {
        let loaded = module::load()?;
        debugfs::expect_online_are_hyp()?;
        leave_loaded(loaded)
    })
}

fn leave_loaded(loaded: module::Loaded) -> Result<()> {
    End::Reboot.request()?;
    loaded.keep();
    Ok(())
}
