// SPDX-License-Identifier: GPL-2.0-only

//! Every EL2 register that is touched has a saved value, which is what it has again after each reset.

use std::collections::BTreeMap;

use anyhow::{
    ensure,
    Context,
    Result, //
};

use super::{
    load_unload::equal_images_on,
    needs_two_cpus,
    standard, //
};
use crate::{
    guest::{
        cpu,
        debugfs::{
            self,
            Register, //
        },
        kmsg::Log,
        module, //
    },
    ktap::{
        note,
        Test, //
    },
};

/// What the init sequence and the switch to a guest write: each must be among the registers that are saved.
const TOUCHED: [&str; 9] = [
    "SP_EL2",
    "VBAR_EL2",
    "TTBR0_EL2",
    "TCR_EL2",
    "MAIR_EL2",
    "SCTLR_EL2",
    "HCR_EL2",
    "VTTBR_EL2",
    "VTCR_EL2",
];

pub fn test() -> Test {
    standard()
        .case("regs_list_is_the_same_on_every_cpu", same_list)
        .case("regs_now_is_ours", now_is_ours)
        .case("regs_before_is_the_stub", before_is_stub)
        .case("regs_before_equal_over_reloads", before_over_reloads)
        .case("regs_equal_at_hotplug_reset", equal_at_hotplug)
}

/// Registers by CPU and name.
fn by_cpu() -> Result<BTreeMap<usize, BTreeMap<String, Register>>> {
    let mut cpus: BTreeMap<usize, BTreeMap<_, _>> = BTreeMap::new();
    for register in debugfs::registers()? {
        let name = register.name.clone();
        let double = cpus.entry(register.cpu).or_default().insert(name, register);
        ensure!(double.is_none(), "twice in regs: {double:?}");
    }
    Ok(cpus)
}

fn same_list() -> Result<()> {
    let loaded = module::load()?;
    let cpus = by_cpu()?;
    let online = cpu::online()?;
    ensure!(
        cpus.keys().eq(online.iter()),
        "regs has CPUs {:?}, online are {online:?}",
        cpus.keys()
    );
    let first = cpus.values().next().context("regs is empty")?;
    for (cpu, registers) in &cpus {
        ensure!(
            registers.keys().eq(first.keys()),
            "CPU {cpu} saves {:?}, the first one {:?}",
            registers.keys(),
            first.keys()
        );
    }
    for name in TOUCHED {
        ensure!(first.contains_key(name), "{name} is not saved");
    }
    note(format!("{} registers: {:?}", first.len(), first.keys()));
    loaded.unload()
}

fn now_is_ours() -> Result<()> {
    let loaded = module::load()?;
    for (cpu, registers) in by_cpu()? {
        let row = debugfs::cpu(cpu)?;
        for (name, shown) in [
            ("VBAR_EL2", row.vbar),
            ("TTBR0_EL2", row.ttbr0),
            ("SCTLR_EL2", row.sctlr),
        ] {
            let register = &registers[name];
            ensure!(
                register.now.is_some() && register.now == shown,
                "CPU {cpu} {name}: regs has {:x?}, cpus has {shown:x?}",
                register.now
            );
            ensure!(
                register.now != Some(register.before),
                "CPU {cpu} {name} did not change: {:#x}",
                register.before
            );
        }
    }
    loaded.unload()
}

/// The kernel's stub runs with the MMU off and the same vectors everywhere.
fn before_is_stub() -> Result<()> {
    const SCTLR_M: u64 = 1;
    const HCR_RW: u64 = 1 << 31;
    const HCR_E2H: u64 = 1 << 34;
    let loaded = module::load()?;
    let cpus = by_cpu()?;
    let mut vectors: Vec<u64> = cpus
        .values()
        .map(|registers| registers["VBAR_EL2"].before)
        .collect();
    vectors.dedup();
    ensure!(
        vectors.len() == 1 && vectors[0] % 2048 == 0,
        "stub vectors at {vectors:x?}"
    );
    for (cpu, registers) in &cpus {
        let sctlr = registers["SCTLR_EL2"].before;
        ensure!(
            sctlr & SCTLR_M == 0,
            "CPU {cpu}: SCTLR_EL2 was {sctlr:#x}, MMU on"
        );
        let hcr = &registers["HCR_EL2"];
        ensure!(
            hcr.before & (HCR_RW | HCR_E2H) == HCR_RW,
            "CPU {cpu}: HCR_EL2 was {:#x}",
            hcr.before
        );
        ensure!(
            hcr.now == Some(hcr.before),
            "CPU {cpu}: HCR_EL2 is {:x?}, the kernel's was {:#x}",
            hcr.now,
            hcr.before
        );
    }
    loaded.unload()
}

/// What is found at the second insmod is what was found at the first: rmmod has put everything back.
fn before_over_reloads() -> Result<()> {
    let mut found = Vec::new();
    for _ in 0..3 {
        let loaded = module::load()?;
        let cpus: Vec<_> = debugfs::registers()?
            .into_iter()
            .map(|register| (register.cpu, register.name, register.before))
            .collect();
        found.push(cpus);
        loaded.unload()?;
    }
    for later in &found[1..] {
        for (first, now) in found[0].iter().zip(later) {
            ensure!(first == now, "found {first:x?} at first, {now:x?} later");
        }
        ensure!(found[0].len() == later.len(), "another number of registers");
    }
    Ok(())
}

fn equal_at_hotplug() -> Result<()> {
    needs_two_cpus()?;
    let loaded = module::load()?;
    for cpu in cpu::secondaries()? {
        let mut log = Log::from_now()?;
        cpu::set_online(cpu, false)?;
        let lines = log.eltwo()?;
        cpu::set_online(cpu, true)?;
        equal_images_on(&lines, &[cpu]).with_context(|| format!("CPU {cpu} went offline"))?;
    }
    loaded.unload()
}
