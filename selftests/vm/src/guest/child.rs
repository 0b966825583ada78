// SPDX-License-Identifier: GPL-2.0-only

//! Other processes of a test.

use std::{
    fs::OpenOptions,
    process, //
};

use anyhow::{
    ensure,
    Result, //
};
use nix::{
    sys::wait::{
        waitpid,
        WaitStatus, //
    },
    unistd::{
        dup2_stderr,
        dup2_stdin,
        dup2_stdout,
        fork,
        setsid,
        ForkResult,
        Pid, //
    },
};

use crate::ktap::note;

/// Runs `body` in a child process. Returns its process number.
///
/// The caller must have no other threads that hold locks which `body` needs.
pub fn start(body: impl FnOnce() -> Result<()>) -> Result<Pid> {
    // SAFETY: The tests have joined their threads, so that no lock is held by a thread that the child lacks.
    match unsafe { fork()? } {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let status = match body() {
                Ok(()) => 0,
                Err(error) => {
                    note(format!("child: {error:#}"));
                    1
                }
            };
            process::exit(status);
        }
    }
}

/// As [`start`], for a child that is to outlive the test: nobody waits for it, or for its output.
pub fn leave_running(body: impl FnOnce() -> Result<()>) -> Result<Pid> {
    start(|| {
        setsid()?;
        let nowhere = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")?;
        dup2_stdin(&nowhere)?;
        dup2_stdout(&nowhere)?;
        dup2_stderr(&nowhere)?;
        body()
    })
}

/// Waits for the end of `child`, which must be a success.
pub fn wait_success(child: Pid) -> Result<()> {
    let status = waitpid(child, None)?;
    ensure!(
        matches!(status, WaitStatus::Exited(_, 0)),
        "the child: {status:?}"
    );
    Ok(())
}
