// SPDX-License-Identifier: GPL-2.0-only

//! Waiting for something that the kernel finishes in its own time (RCU, workers), always with a deadline.

use std::{
    thread,
    time::{
        Duration,
        Instant, //
    },
};

use anyhow::Result;

/// Time between two looks.
const STEP: Duration = Duration::from_millis(20);

/// Repeats `check` until it succeeds. After `limit` its last error is the result.
pub fn until<T>(limit: Duration, mut check: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match check() {
            Err(_) if Instant::now() < deadline => thread::sleep(STEP),
            result => return result,
        }
    }
}
