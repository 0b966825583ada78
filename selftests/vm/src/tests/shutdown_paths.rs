// SPDX-License-Identifier: GPL-2.0-only

//! Switching off with the module loaded. init ends with it; that the machine goes off is for the lab to see.

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
    handing_over().case("shutdown_paths_begins_while_every_cpu_is_hyp", || {
        let loaded = module::load()?;
        debugfs::expect_online_are_hyp()?;
        leave_loaded(loaded)
    })
}

fn leave_loaded(loaded: module::Loaded) -> Result<()> {
    End::PowerOff.request()?;
    loaded.keep();
    Ok(())
}
