// SPDX-License-Identifier: GPL-2.0-only

//! Going on where a kernel has hibernated.

use std::fs;

use anyhow::{
    bail,
    Context,
    Result, //
};

use super::setup::Results;
use crate::{
    guest::{
        disk,
        module, //
    },
    hibernation::LOAD_FIRST,
};

const RESUME: &str = "/sys/power/resume";

/// Has the kernel resume from the image on the disk, if there is one. Then this returns only if that fails.
pub fn if_there_is_an_image() -> Result<()> {
    let disk = disk::VIRTIO.attach()?;
    if !disk.has_image()? {
        return Ok(());
    }
    let results = Results::open(false)?;
    if disk.read_note()? == LOAD_FIRST {
        module::load()?.keep();
    }
    results.line("# eltwo-init: resuming");
    results.drain();
    fs::write(RESUME, disk.path()).context(RESUME)?;
    bail!("the kernel has not resumed from {}", disk.path())
}
