// SPDX-License-Identifier: GPL-2.0-only

//! Offline takes a CPU back to the stub, online makes it ours again.

use anyhow::{
    ensure,
    Result, //
};

use super::{
    needs_two_cpus,
    standard, //
};
use crate::{
    guest::{
        cpu,
        debugfs::{
            self,
            hypercall, //
        },
        kmsg::Log,
        module, //
    },
    ktap::{
        Skip,
        Test, //
    },
};

pub fn test() -> Test {
    standard()
        .needs(needs_two_cpus)
        .case("offline_each_secondary_online_again", each_secondary)
        .case("offline_all_secondaries_at_once", all_secondaries)
        .case("offline_cpu0", cpu0)
        .case("offline_online_after_rmmod", after_rmmod)
        .case("rmmod_with_a_cpu_offline", rmmod_offline)
}

/// One round trip of `cpu`, with everything that can be seen of it checked on the way.
pub fn round_trip(cpu: usize) -> Result<()> {
    let before = debugfs::cpu(cpu)?;
    debugfs::expect_hyp(&before)?;
    cpu::set_online(cpu, false)?;
    let away = debugfs::cpu(cpu)?;
    ensure!(
        away.state == "absent" && away.vbar.is_none() && away.ttbr0.is_none(),
        "CPU {cpu} is offline and shows {away:x?}"
    );
    ensure!(
        away.resets == before.resets + 1 && away.inits == before.inits,
        "offline: {before:?}, then {away:?}"
    );
    cpu::set_online(cpu, true)?;
    let back = debugfs::cpu(cpu)?;
    debugfs::expect_hyp(&back)?;
    ensure!(
        back.inits == before.inits + 1 && back.resets == away.resets,
        "online: {before:?}, then {back:?}"
    );
    ensure!(
        (back.vbar, back.ttbr0, back.sctlr) == (before.vbar, before.ttbr0, before.sctlr),
        "other registers than before: {before:x?}, then {back:x?}"
    );
    cpu::on(cpu, || {
        let [number, ..] = hypercall("cpu_info")?.ok()?;
        ensure!(number == cpu as u64, "it says that it is CPU {number}");
        let echo = hypercall("ping 1 2 3 4")?.ok()?;
        ensure!(echo == [1, 2, 3, 4], "ping gives {echo:?}");
        Ok(())
    })
}

fn each_secondary() -> Result<()> {
    let loaded = module::load()?;
    for cpu in cpu::secondaries()? {
        round_trip(cpu)?;
        debugfs::expect_online_are_hyp()?;
    }
    loaded.unload()
}

fn all_secondaries() -> Result<()> {
    let loaded = module::load()?;
    let secondaries = cpu::secondaries()?;
    for &cpu in &secondaries {
        cpu::set_online(cpu, false)?;
    }
    debugfs::expect_online_are_hyp()?;
    hypercall("ping 1")?.ok()?;
    for &cpu in secondaries.iter().rev() {
        cpu::set_online(cpu, true)?;
    }
    debugfs::expect_online_are_hyp()?;
    loaded.unload()
}

fn cpu0() -> Result<()> {
    if !std::path::Path::new("/sys/devices/system/cpu/cpu0/online").exists() {
        return Skip::because("this kernel does not take CPU 0 offline");
    }
    let loaded = module::load()?;
    round_trip(0)?;
    debugfs::expect_online_are_hyp()?;
    loaded.unload()
}

/// rmmod has taken our hotplug state away: CPUs come and go as if we had never been there.
fn after_rmmod() -> Result<()> {
    module::load()?.unload()?;
    let mut log = Log::from_now()?;
    for cpu in cpu::secondaries()? {
        cpu::set_online(cpu, false)?;
        cpu::set_online(cpu, true)?;
    }
    let lines = log.eltwo()?;
    ensure!(lines.is_empty(), "the module still speaks: {lines:?}");
    Ok(())
}

fn rmmod_offline() -> Result<()> {
    let loaded = module::load()?;
    let secondaries = cpu::secondaries()?;
    let last = secondaries[secondaries.len() - 1];
    cpu::set_online(last, false)?;
    loaded.unload()?;
    cpu::set_online(last, true)?;
    let loaded = module::load()?;
    debugfs::expect_online_are_hyp()?;
    loaded.unload()
}
