// SPDX-License-Identifier: GPL-2.0-only

//! The chapters in the second kernel.

use anyhow::Result;
use nix::sys::utsname::uname;

use super::text::{
    fact,
    line,
    timed, //
};
use crate::{
    guest::{
        cpu,
        debugfs,
        kmsg::{
            self,
            Log, //
        },
        module, //
    },
    tests::equal_images_on,
};

pub fn machine() -> Result<()> {
    fact("kernel", uname()?.release().to_string_lossy());
    fact("boot log", kmsg::boot_line("CPU: All CPU(s) started at")?);
    Ok(())
}

pub fn once_more() -> Result<()> {
    let (loaded, time) = timed(module::load)?;
    debugfs::expect_online_are_hyp()?;
    fact(
        "insmod",
        format!(
            "in {time}; EL2 of all {} CPUs is ours",
            cpu::online()?.len()
        ),
    );
    let mut log = Log::from_now()?;
    let (_, time) = timed(|| loaded.unload())?;
    equal_images_on(&log.eltwo()?, &cpu::online()?)?;
    fact("rmmod", format!("in {time}; registers equal on every CPU"));
    line("");
    line("That was the whole journey. Bye.");
    Ok(())
}
