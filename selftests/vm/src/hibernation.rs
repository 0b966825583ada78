// SPDX-License-Identifier: GPL-2.0-only

//! Hibernation: what the kernel that goes to sleep and the one that wakes it agree on.

use std::fs;

use anyhow::{
    Context,
    Result, //
};

/// Note on the disk: the kernel that resumes has eltwo loaded when it does.
pub const LOAD_FIRST: &str = "load eltwo first";

/// Writes an image to the swap and powers off. Returns when the machine has been started again and has resumed.
pub fn hibernate() -> Result<()> {
    for (file, text) in [
        ("/sys/power/disk", "shutdown"),
        // As small as it can be.
        ("/sys/power/image_size", "0"),
        ("/sys/power/state", "disk"),
    ] {
        fs::write(file, text).with_context(|| format!("{text} to {file}"))?;
    }
    Ok(())
}
