// SPDX-License-Identifier: GPL-2.0-only

//! Guests for the tests: machines on `/dev/kvm` through the crate `kvm-ioctls`, and what runs in them.

pub mod calls;
pub mod compute;
pub mod faults;
pub mod fleet;
pub mod host;
pub mod image;
pub mod machine;
pub mod ram;
pub mod raw;
pub mod reg;
pub mod runner;
pub mod stats;
pub mod vcpu;

use std::{
    thread,
    time::{
        Duration,
        Instant, //
    },
};

use anyhow::{
    bail,
    Result, //
};

use crate::guest::poll::patient;

/// How long [`poll`] waits.
const LIMIT: Duration = Duration::from_secs(60);

/// Waits until `condition` holds.
pub fn poll(mut condition: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + patient(LIMIT);
    while !condition() {
        if Instant::now() >= deadline {
            bail!("not within {} s", patient(LIMIT).as_secs());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
