// SPDX-License-Identifier: GPL-2.0-only

//! Hibernation up to the point where the image would be made: all CPUs but one go, and syscore is suspended and resumed.
//!
//! Source: `Documentation/power/basic-pm-debugging.rst` of Linux (`pm_test`).

use std::{
    fs,
    path::Path, //
};

use anyhow::{
    ensure,
    Context,
    Result, //
};

use super::standard;
use crate::{
    guest::{
        cpu,
        debugfs::{
            self,
            hypercall, //
        },
        module, //
    },
    ktap::{
        Skip,
        Test, //
    },
};

const TEST: &str = "/sys/power/pm_test";
const STATE: &str = "/sys/power/state";

pub fn test() -> Test {
    standard()
        .needs(needs_pm_test)
        .case("hibernate_core_every_cpu_is_hyp_again", suspended)
        .case("hibernate_core_while_not_loaded", not_loaded)
}

pub fn needs_pm_test() -> Result<()> {
    for file in [TEST, STATE] {
        if !Path::new(file).exists() {
            return Skip::because(format!("no {file}"));
        }
    }
    if !fs::read_to_string(STATE)?.contains("disk") {
        return Skip::because("this kernel does not hibernate");
    }
    Ok(())
}

/// Goes to the last step before the image and back. The kernel waits five seconds there.
pub fn hibernate() -> Result<()> {
    fs::write(TEST, "core").context(TEST)?;
    let result = fs::write(STATE, "disk").context("hibernate");
    fs::write(TEST, "none").context(TEST)?;
    result
}

fn suspended() -> Result<()> {
    let loaded = module::load()?;
    let before = debugfs::cpus()?;
    hibernate()?;
    debugfs::expect_online_are_hyp()?;
    for (old, new) in before.iter().zip(debugfs::cpus()?) {
        ensure!(
            new.inits == old.inits + 1 && new.resets == old.resets + 1 && new.faults == 0,
            "CPU {}: {old:?} before, {new:?} after",
            old.cpu
        );
        cpu::on(old.cpu, || {
            let echo = hypercall("ping 5 6 7 8")?.ok()?;
            ensure!(echo == [5, 6, 7, 8], "ping gives {echo:?}");
            Ok(())
        })?;
    }
    loaded.unload()
}

/// The hooks are gone with the module.
fn not_loaded() -> Result<()> {
    module::load()?.unload()?;
    hibernate()?;
    let loaded = module::load()?;
    debugfs::expect_online_are_hyp()?;
    loaded.unload()
}
