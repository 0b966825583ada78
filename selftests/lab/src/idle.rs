// SPDX-License-Identifier: GPL-2.0-only

//! A machine whose CPUs have an idle state in which they are powered down.
//!
//! QEMU's board has none in its device tree, but its firmware answers PSCI CPU_SUSPEND with such a state: it waits for an
//! interrupt and returns. Source: `Documentation/devicetree/bindings/cpu/idle-states.yaml` of Linux.

use std::{
    fs,
    path::Path,
    process::Command, //
};

use anyhow::{
    Context as _,
    Result, //
};

use crate::{
    cmd,
    fdt::Fdt, //
};

/// Name of the device tree in the machine's directory.
pub const TREE: &str = "idle.dtb";

/// A phandle that QEMU, which counts from 0x8000 on, does not reach.
const PHANDLE: u32 = 0xe12;

/// PSCI's power state: power down (bit 16), of this CPU.
const POWER_DOWN: u32 = 1 << 16;

/// Has QEMU write the device tree of the board (`dump` has `-M dumpdtb=` of [`TREE`] in `dir`), adds the idle state for
/// `cpus` CPUs, and gives it to QEMU in `command`.
pub fn add(dump: &mut Command, command: &mut Command, cpus: u32, dir: &Path) -> Result<()> {
    cmd::capture(dump).context("cannot get the device tree of the board")?;
    let path = dir.join(TREE);
    let mut tree = Fdt::new(fs::read(&path)?)?;
    tree.add_node("/cpus", "idle-states")?;
    tree.add_property("/cpus/idle-states", "entry-method", b"psci\0")?;
    let state = "/cpus/idle-states/cpu-power-down";
    tree.add_node("/cpus/idle-states", "cpu-power-down")?;
    tree.add_property(state, "compatible", b"arm,idle-state\0")?;
    // As cheap as can be, so that the kernel takes it whenever a CPU has nothing to do.
    for (name, value) in [
        ("arm,psci-suspend-param", POWER_DOWN),
        ("entry-latency-us", 1),
        ("exit-latency-us", 1),
        ("min-residency-us", 2),
        ("phandle", PHANDLE),
    ] {
        tree.add_property(state, name, &value.to_be_bytes())?;
    }
    for cpu in 0..cpus {
        let node = format!("/cpus/cpu@{cpu:x}");
        tree.add_property(&node, "cpu-idle-states", &PHANDLE.to_be_bytes())?;
    }
    tree.trim()?;
    fs::write(&path, tree.bytes())?;
    command.arg("-dtb").arg(&path);
    Ok(())
}
