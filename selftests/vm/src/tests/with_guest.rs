// SPDX-License-Identifier: GPL-2.0-only

//! Reboot, power off and kexec while a guest runs: nobody stops it before the machine goes down.

use std::{
    fs,
    path::Path,
    time::Duration, //
};

use anyhow::{
    ensure,
    Result, //
};
use kvm_ioctls::Kvm;

use super::going_down;
use crate::{
    guest::{
        child,
        poll, //
    },
    handover::{
        End,
        GoingDown, //
    },
    ktap::Test,
    kvm::{
        fleet::{
            Fleet,
            Size, //
        },
        ram::Ram,
    },
    second_kernel,
};

/// Where the guest says that it runs.
const SIGN: &str = "/run/eltwo-guest";
/// How long it may take to get so far.
const LIMIT: Duration = Duration::from_secs(60);

const SIZE: Size = Size {
    machines: 1,
    vcpus: 2,
    words: 512,
    pause: 0,
};

pub fn reboot() -> Test {
    ending(End::Reboot, || Ok(()))
}

pub fn shutdown() -> Test {
    ending(End::PowerOff, || Ok(()))
}

pub fn kexec() -> Test {
    ending(End::Kexec, || second_kernel::load("kexec_second")).needs(second_kernel::needed)
}

fn ending(end: End, prepare: fn() -> Result<()>) -> Test {
    going_down().case("guest_runs_when_the_machine_goes_down", move || {
        let going_down = GoingDown::load()?;
        prepare()?;
        let guest = child::leave_running(|| {
            let fleet = Fleet::start(&Kvm::new()?, SIZE, Ram::new)?;
            fs::write(SIGN, "")?;
            loop {
                fleet.advance(1)?;
            }
        })?;
        poll::until(LIMIT, || {
            ensure!(Path::new(SIGN).exists(), "the guest does not run");
            Ok(())
        })?;
        ensure!(
            Path::new(&format!("/proc/{guest}")).exists(),
            "the guest has ended"
        );
        going_down.go(end)
    })
}
