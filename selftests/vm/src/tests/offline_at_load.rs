// SPDX-License-Identifier: GPL-2.0-only

//! CPUs that are offline at insmod join when they come; CPUs that are offline at rmmod are left in peace.

use anyhow::{
    ensure,
    Result, //
};

use super::{
    needs_four_cpus,
    standard, //
};
use crate::{
    guest::{
        cpu,
        debugfs::{
            self,
            hypercall, //
        },
        module, //
    },
    ktap::Test,
};

pub fn test() -> Test {
    standard()
        .needs(needs_four_cpus)
        .case("insmod_with_cpus_offline_join_later", join_later)
        .case("insmod_rmmod_while_offline", whole_life_offline)
        .case("insmod_with_one_cpu_online", one_online)
        .case("rmmod_with_cpus_offline_then_insmod", rmmod_while_offline)
}

fn join_later() -> Result<()> {
    for cpu in [1, 3] {
        cpu::set_online(cpu, false)?;
    }
    let loaded = module::load()?;
    for cpu in [1, 3] {
        let row = debugfs::cpu(cpu)?;
        ensure!(
            row.state == "absent" && row.inits == 0,
            "CPU {cpu} is offline and shows {row:?}"
        );
    }
    debugfs::expect_online_are_hyp()?;
    for cpu in [3, 1] {
        cpu::set_online(cpu, true)?;
        debugfs::expect_hyp(&debugfs::cpu(cpu)?)?;
        let [number, ..] = cpu::on(cpu, || hypercall("cpu_info")?.ok())?;
        ensure!(
            number == cpu as u64,
            "CPU {cpu} says that it is CPU {number}"
        );
    }
    debugfs::expect_online_are_hyp()?;
    loaded.unload()
}

/// A CPU that is offline all the time that the module is loaded has nothing to do with it.
fn whole_life_offline() -> Result<()> {
    cpu::set_online(2, false)?;
    let loaded = module::load()?;
    ensure!(
        debugfs::cpu(2)?.inits == 0,
        "an offline CPU was initialised"
    );
    loaded.unload()?;
    cpu::set_online(2, true)
}

fn one_online() -> Result<()> {
    let secondaries = cpu::secondaries()?;
    for &cpu in &secondaries {
        cpu::set_online(cpu, false)?;
    }
    let loaded = module::load()?;
    debugfs::expect_online_are_hyp()?;
    for &cpu in &secondaries {
        cpu::set_online(cpu, true)?;
    }
    debugfs::expect_online_are_hyp()?;
    loaded.unload()
}

fn rmmod_while_offline() -> Result<()> {
    let loaded = module::load()?;
    for cpu in [1, 3] {
        cpu::set_online(cpu, false)?;
    }
    loaded.unload()?;
    cpu::set_online(3, true)?;
    let loaded = module::load()?;
    debugfs::expect_online_are_hyp()?;
    cpu::set_online(1, true)?;
    debugfs::expect_online_are_hyp()?;
    loaded.unload()
}
