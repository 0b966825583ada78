// SPDX-License-Identifier: GPL-2.0-only

//! Reboot and power off with the module loaded. init ends with it; what the machine does then is for the lab to see.

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

pub fn reboot() -> Test {
    handing_over().case("reboot_begins_while_every_cpu_is_hyp", || {
        leave_loaded(End::Reboot)
    })
}

pub fn shutdown() -> Test {
    handing_over().case("shutdown_begins_while_every_cpu_is_hyp", || {
        leave_loaded(End::PowerOff)
    })
}

fn leave_loaded(end: End) -> Result<()> {
    let loaded = module::load()?;
    debugfs::expect_online_are_hyp()?;
    end.request()?;
    loaded.keep();
    Ok(())
}
