// SPDX-License-Identifier: GPL-2.0-only

//! Reboot and power off with the module loaded. init ends with it; what the machine does then is for the lab to see.

use super::going_down;
use crate::{
    handover::{
        End,
        GoingDown, //
    },
    ktap::Test,
};

pub fn reboot() -> Test {
    going_down().case("reboot_begins_while_every_cpu_is_hyp", || {
        GoingDown::load()?.go(End::Reboot)
    })
}

pub fn shutdown() -> Test {
    going_down().case("shutdown_begins_while_every_cpu_is_hyp", || {
        GoingDown::load()?.go(End::PowerOff)
    })
}
