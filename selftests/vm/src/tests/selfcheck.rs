// SPDX-License-Identifier: GPL-2.0-only

//! A register that is not handed back as it was found is seen, and named. The module spoils its own copy of one
//! (`fail_at=101`), so that the comparison must differ. And without the comparison CPUs are given back all the same.

use anyhow::{
    ensure,
    Result, //
};

use super::{
    hibernate_core,
    needs_two_cpus,
    standard, //
};
use crate::{
    guest::{
        cpu,
        debugfs,
        fault::KINDS,
        kmsg::Log,
        module, //
    },
    hooks::helper::{
        self,
        Hooks,
        Owner, //
    },
    ktap::{
        Shared,
        Test, //
    },
};

/// The register whose copy is spoilt (`index::SPOILT`).
const SPOILT: &str = "HACR_EL2";

/// Nothing is compared. What compares reads by SOFT_RESTART, which EL2 of ours answers by handing the CPU back: it would mend
/// a CPU that was not given back.
const UNCOMPARED: &str = "selfcheck=0 provoke=1";

pub fn test() -> Test {
    let hooks = Shared::new();
    let [fault, offline, rmmod] = [hooks.clone(), hooks.clone(), hooks];
    standard()
        .needs(needs_two_cpus)
        .needs(helper::needed)
        .case("difference_at_rmmod_is_named", at_rmmod)
        .case("difference_at_offline_is_named", at_offline)
        .case("difference_found_while_asleep_is_named_later", while_asleep)
        .case("without_selfcheck_nothing_is_compared", without)
        .case(
            "without_selfcheck_a_fault_gives_every_cpu_back",
            move || after_fault(fault.get(Hooks::load)?),
        )
        .case("without_selfcheck_hotplug_takes_the_cpu_anew", move || {
            after_hotplug(offline.get(Hooks::load)?)
        })
        .case("without_selfcheck_rmmod_gives_every_cpu_back", move || {
            after_rmmod(rmmod.get(Hooks::load)?)
        })
}

/// How often CPU `cpu` is said to have been given back with the register spoilt.
fn named(lines: &[String], cpu: usize) -> usize {
    let words = format!("CPU{cpu}: {SPOILT} is ");
    lines.iter().filter(|line| line.contains(&words)).count()
}

fn equal(lines: &[String]) -> usize {
    lines
        .iter()
        .filter(|line| line.contains("EL2 register image equal"))
        .count()
}

fn spoilt(cpu: usize) -> String {
    format!("selfcheck=1 fail_at=101 fail_cpu={cpu}")
}

fn at_rmmod() -> Result<()> {
    let cpus = cpu::online()?;
    for &cpu in &cpus {
        let loaded = module::load_with(&spoilt(cpu))?;
        let mut log = Log::from_now()?;
        loaded.unload()?;
        let lines = log.eltwo()?;
        ensure!(
            named(&lines, cpu) == 1 && equal(&lines) == cpus.len() - 1,
            "CPU {cpu}: {lines:?}"
        );
    }
    Ok(())
}

fn at_offline() -> Result<()> {
    let cpu = cpu::secondaries()?[0];
    let loaded = module::load_with(&spoilt(cpu))?;
    let mut log = Log::from_now()?;
    cpu::set_online(cpu, false)?;
    let lines = log.eltwo()?;
    ensure!(named(&lines, cpu) == 1 && equal(&lines) == 0, "{lines:?}");
    cpu::set_online(cpu, true)?;
    debugfs::expect_online_are_hyp()?;
    loaded.unload()
}

/// On the way to hibernation nothing may be printed: it is said when somebody looks.
fn while_asleep() -> Result<()> {
    hibernate_core::needs_pm_test()?;
    let loaded = module::load_with(&spoilt(0))?;
    let mut log = Log::from_now()?;
    hibernate_core::hibernate()?;
    debugfs::expect_online_are_hyp()?;
    let lines = log.eltwo()?;
    ensure!(named(&lines, 0) == 1, "{lines:?}");
    debugfs::expect_online_are_hyp()?;
    let again = log.eltwo()?;
    ensure!(named(&again, 0) == 0, "it is said twice: {again:?}");
    loaded.unload()
}

fn without() -> Result<()> {
    let loaded = module::load_with("selfcheck=0 fail_at=101")?;
    let mut log = Log::from_now()?;
    loaded.unload()?;
    let lines = log.eltwo()?;
    ensure!(
        named(&lines, 0) == 0 && equal(&lines) == 0,
        "it was compared: {lines:?}"
    );
    Ok(())
}

fn after_fault(hooks: &Hooks) -> Result<()> {
    for cpu in cpu::online()? {
        let loaded = module::load_with(UNCOMPARED)?;
        hooks.expect_owner_of_all(Owner::Eltwo)?;
        KINDS[0].provoke(cpu)?;
        hooks.expect_owner_of_all(Owner::Stub)?;
        loaded.unload()?;
    }
    Ok(())
}

fn after_hotplug(hooks: &Hooks) -> Result<()> {
    let loaded = module::load_with(UNCOMPARED)?;
    for cpu in cpu::secondaries()? {
        cpu::set_online(cpu, false)?;
        hooks.expect_owner_of_all(Owner::Eltwo)?;
        cpu::set_online(cpu, true)?;
        hooks.expect_owner_of_all(Owner::Eltwo)?;
    }
    loaded.unload()?;
    hooks.expect_owner_of_all(Owner::Stub)
}

/// With all CPUs online, and with one that comes only afterwards.
fn after_rmmod(hooks: &Hooks) -> Result<()> {
    module::load_with(UNCOMPARED)?.unload()?;
    hooks.expect_owner_of_all(Owner::Stub)?;
    let cpu = cpu::secondaries()?[0];
    let loaded = module::load_with(UNCOMPARED)?;
    cpu::set_online(cpu, false)?;
    loaded.unload()?;
    hooks.expect_owner_of_all(Owner::Stub)?;
    cpu::set_online(cpu, true)?;
    hooks.expect_owner_of_all(Owner::Stub)
}
