// SPDX-License-Identifier: GPL-2.0-only

//! The kernel's own `cpu-hotplug` selftest, unchanged, with the module loaded.

use std::{
    path::Path,
    process::Command, //
};

use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};

use super::{
    needs_two_cpus,
    standard, //
};
use crate::{
    guest::{
        cpu,
        debugfs,
        module, //
    },
    ktap::{
        note,
        Skip,
        Test, //
    },
};

const SCRIPT: &str = "/kselftest/cpu-hotplug/cpu-on-off-test.sh";

pub fn test() -> Test {
    standard()
        .needs(needs_two_cpus)
        .needs(needs_script)
        .case("cpu_on_off_test_one_cpu", || run(&[]))
        .case("cpu_on_off_test_all_cpus", || run(&["-a"]))
}

fn needs_script() -> Result<()> {
    for file in [SCRIPT, "/bin/bash"] {
        if !Path::new(file).exists() {
            return Skip::because(format!("no {file}"));
        }
    }
    Ok(())
}

fn run(arguments: &[&str]) -> Result<()> {
    let loaded = module::load()?;
    let before = debugfs::cpus()?;
    let output = Command::new("/bin/bash")
        .arg(SCRIPT)
        .args(arguments)
        .output()
        .context(SCRIPT)?;
    note(String::from_utf8_lossy(&output.stdout));
    note(String::from_utf8_lossy(&output.stderr));
    match output.status.code() {
        Some(0) => {}
        Some(4) => bail!("{SCRIPT} skips: the VM lacks what it names above"),
        _ => bail!("{SCRIPT} ends with {}", output.status),
    }
    debugfs::expect_online_are_hyp()?;
    let moved = debugfs::cpus()?
        .iter()
        .zip(&before)
        .filter(|(now, before)| now.inits > before.inits)
        .count();
    let wanted = if arguments.is_empty() {
        1
    } else {
        cpu::online()?.len() - 1
    };
    ensure!(
        moved == wanted,
        "{moved} CPUs went and came, expected {wanted}"
    );
    loaded.unload()
}
