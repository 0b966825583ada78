// SPDX-License-Identifier: GPL-2.0-only

//! `maxcpus=`: CPUs that have never been online since boot join when they come.

use anyhow::{
    ensure,
    Result, //
};

use super::standard;
use crate::{
    guest::{
        cpu,
        debugfs,
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
        .needs(needs_unseen_cpus)
        .case("never_seen_cpus_join_when_they_come", join)
        .case("log_nothing_is_wrong_with_never_seen_cpus", nothing_wrong)
}

fn unseen() -> Result<Vec<usize>> {
    let online = cpu::online()?;
    Ok(cpu::present()?
        .into_iter()
        .filter(|cpu| !online.contains(cpu))
        .collect())
}

fn needs_unseen_cpus() -> Result<()> {
    if unseen()?.is_empty() {
        return Skip::because("all CPUs are online; boot with maxcpus=");
    }
    Ok(())
}

fn join() -> Result<()> {
    let unseen = unseen()?;
    let loaded = module::load()?;
    debugfs::expect_online_are_hyp()?;
    for &cpu in &unseen {
        ensure!(
            debugfs::cpu(cpu)?.inits == 0,
            "CPU {cpu} was never online and was initialised"
        );
        cpu::set_online(cpu, true)?;
        debugfs::expect_hyp(&debugfs::cpu(cpu)?)?;
        super::hotplug::round_trip(cpu)?;
    }
    debugfs::expect_online_are_hyp()?;
    loaded.unload()?;
    for &cpu in &unseen {
        cpu::set_online(cpu, false)?;
    }
    Ok(())
}

/// The kernel compares late CPUs with the others when they come. It must have done so, and have nothing to say about them.
fn nothing_wrong() -> Result<()> {
    let records = Log::from_boot()?.records()?;
    let find = |wanted: &str| records.iter().find(|record| record.text.contains(wanted));
    for cpu in unseen()? {
        let booted = format!("CPU{cpu}: Booted secondary processor");
        ensure!(find(&booted).is_some(), "CPU {cpu} has never come");
    }
    for complaint in [
        "SANITY CHECK",
        "inconsistent modes",
        "failed to come online",
    ] {
        let found = find(complaint);
        ensure!(found.is_none(), "the kernel says {found:?}");
    }
    Ok(())
}
