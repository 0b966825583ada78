// SPDX-License-Identifier: GPL-2.0-only

//! Waiting for something that the kernel finishes in its own time (RCU, workers), always with a deadline.

use std::{
    env, thread,
    time::{
        Duration,
        Instant, //
    },
};

use anyhow::Result;

/// Time between two looks.
const STEP: Duration = Duration::from_millis(20);

/// In the environment of a test: how many times longer than usual things may take.
pub const PATIENCE: &str = "ELTWO_PATIENCE";

/// What `limit` is on this machine.
pub fn patient(limit: Duration) -> Duration {
    let times = env::var(PATIENCE)
        .ok()
        .and_then(|times| times.parse().ok())
        .unwrap_or(1);
    limit.saturating_mul(times)
}

/// Repeats `check` until it succeeds. After `limit`, on a usual machine, its last error is the result.
pub fn until<T>(limit: Duration, mut check: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + patient(limit);
    loop {
        match check() {
            Err(_) if Instant::now() < deadline => thread::sleep(STEP),
            result => return result,
        }
    }
}
