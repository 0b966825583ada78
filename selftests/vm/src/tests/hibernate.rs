// SPDX-License-Identifier: GPL-2.0-only

//! Hibernation with an image on a disk: the machine powers off, starts anew and goes on, with eltwo in the image.
//!
//! All that the restored kernel finds in memory has gone through the disk, the EL2 image too: what runs with the MMU off
//! must be cleaned to the PoC before the CPUs are brought up.

use anyhow::{
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
        disk,
        kmsg, //
    },
    hibernation::{
        hibernate,
        LOAD_FIRST, //
    },
    hooks::{
        helper,
        table::{
            hook,
            named,
            Hook, //
        },
        world::{
            Ground,
            Look,
            World, //
        },
    },
    ktap::{
        note,
        Test, //
    },
};

/// Hibernation, whose effect on the CPUs is that of the same without an image.
const HIBERNATE: Hook = hook(
    "hibernate",
    |_, _| hibernate(),
    |model, _| model.system_nap(),
);

pub fn test() -> Test {
    standard()
        .needs(helper::needed)
        .needs(needs_two_cpus)
        .case("resumed_kernel_has_every_cpu_at_el2_and_a_guest", || {
            asleep(&["insmod", "guest"], "")
        })
        .case("resumed_by_a_kernel_with_eltwo_loaded", || {
            asleep(&["insmod", "offline"], LOAD_FIRST)
        })
        .case("resumed_kernel_can_load_eltwo", || asleep(&[], LOAD_FIRST))
}

/// Hibernates after the hooks `before`. All hooks still work when the machine has come back.
fn asleep(before: &[&str], kernel_that_resumes: &str) -> Result<()> {
    let disk = disk::VIRTIO.attach()?;
    disk.write_note(kernel_that_resumes)?;
    let _swap = disk.swap()?;
    let ground = Ground::prepare()?;
    let mut world = World::new(&ground)?;
    for name in before {
        note(format!("before: {name}"));
        world.step(named(name)?, Look::Close)?;
    }
    note("hibernation");
    world.step(&HIBERNATE, Look::Close)?;
    note("awake");
    let line = kmsg::boot_line("PM: Image not found").ok();
    ensure!(line.is_none(), "{line:?}");
    for name in ["insmod", "cpu_pm", "offline", "online", "guest"] {
        world.step(named(name)?, Look::Close).context("after it")?;
    }
    world.finish()
}
