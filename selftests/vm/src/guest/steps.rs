// SPDX-License-Identifier: GPL-2.0-only

//! Steps of the module that fail on request (`rust/host/inject.rs`): which there are, and which have failed.
//!
//! Which there are the lab knows from the module's source (`selftests/lab/src/steps.rs`).

use std::{
    collections::BTreeSet,
    fs, //
};

use anyhow::{
    ensure,
    Context,
    Result, //
};

/// Names of the steps that loading takes.
pub const LOADING: &str = "/steps/loading";
/// Names of the steps that the calls of user space take.
pub const CALLS: &str = "/steps/calls";

/// What the module says about a step that fails on request, behind its name.
const REQUESTED: &str = ": this step fails on request";

/// The name of the step that this line of the module says to fail on request.
pub fn requested(line: &str) -> Option<&str> {
    line.strip_suffix(REQUESTED)
}

/// Fails unless every step that `file` names is among those that were seen to fail.
pub fn expect_all(file: &str, seen: &BTreeSet<String>) -> Result<()> {
    let text = fs::read_to_string(file).with_context(|| format!("{file}, which the lab writes"))?;
    ensure!(text.lines().next().is_some(), "{file} names no step");
    let missing: Vec<&str> = text.lines().filter(|name| !seen.contains(*name)).collect();
    ensure!(
        missing.is_empty(),
        "steps that were never seen to fail, so nobody has reached them: {missing:?}"
    );
    Ok(())
}
