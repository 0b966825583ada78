// SPDX-License-Identifier: GPL-2.0-only

//! What has happened to the machine before its kernel ends. `eltwo.before=` on the command line names hooks of the table, with
//! commas between them.

use std::{
    fs,
    mem, //
};

use anyhow::Result;

use super::{
    table,
    world::{
        Ground,
        Look,
        World, //
    },
};
use crate::{
    crash,
    guest::{
        debugfs,
        module, //
    },
};

/// Loads the module, which stays, and makes these hooks happen. Nobody looks through eltwo after them, so what nobody has told it
/// it does not know when the kernel ends.
pub fn load() -> Result<()> {
    let line = fs::read_to_string("/proc/cmdline")?;
    let Some(names) = crash::word(&line, "eltwo.before") else {
        let loaded = module::load()?;
        debugfs::expect_online_are_hyp()?;
        loaded.keep();
        return Ok(());
    };
    let ground = Ground::prepare()?;
    let mut world = World::new(&ground)?;
    world.step(table::named("insmod")?, Look::Close)?;
    for name in names.split(',') {
        world.step(table::named(name)?, Look::FromAfar)?;
    }
    drop(world);
    // Its module stays too.
    mem::forget(ground);
    Ok(())
}
