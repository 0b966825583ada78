// SPDX-License-Identifier: GPL-2.0-only

//! What has happened to the machine before its kernel ends. `eltwo.before=` on the command line names hooks of the table, with
//! commas between them.

use std::{
    fs,
    mem, //
};

use anyhow::Result;

use super::{
    table::{
        self,
        Hook, //
    },
    world::{
        Ground,
        Look,
        World, //
    },
};
use crate::crash;

/// The hooks that the command line names, if it does.
pub fn ordered() -> Result<Option<Vec<&'static Hook>>> {
    let line = fs::read_to_string("/proc/cmdline")?;
    let names = crash::word(&line, "eltwo.before");
    names
        .map(|names| names.split(',').map(table::named).collect())
        .transpose()
}

/// Loads eltwo and makes `hooks` happen. Nobody looks through eltwo after them, so what nobody has told it it does not know when
/// the kernel ends. It stays, and so does the test module, which tells the lab who owns EL2 then.
pub fn happen(hooks: &[&Hook]) -> Result<()> {
    let ground = Ground::prepare()?;
    let mut world = World::new(&ground)?;
    world.step(table::named("insmod")?, Look::Close)?;
    for hook in hooks {
        world.step(hook, Look::FromAfar)?;
    }
    drop(world);
    mem::forget(ground);
    Ok(())
}
