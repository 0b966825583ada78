// SPDX-License-Identifier: GPL-2.0-only

//! 100 times (a quarter of them on the debug kernel) offline and online for every secondary CPU, with the module loaded: no error
//! and nothing lost.

use std::{
    collections::BTreeSet,
    time::Instant, //
};

use anyhow::{
    ensure,
    Context,
    Result, //
};

use super::{
    hotplug::round_trip,
    load_unload::equal_images_on,
    needs_two_cpus,
    standard, //
};
use crate::{
    guest::{
        account::{
            rounds,
            Account, //
        },
        cpu,
        debugfs,
        kmsg::Log,
        module, //
    },
    ktap::{
        note,
        Test, //
    },
};

/// Round trips of each CPU before the accounts are taken.
const WARM_UP: u32 = 5;
const CYCLES: u32 = 100;

pub fn test() -> Test {
    let cycles = rounds(CYCLES);
    standard()
        .needs(needs_two_cpus)
        .case(format!("every_secondary_{cycles}_round_trips"), move || {
            all(cycles)
        })
}

fn all(cycles: u32) -> Result<()> {
    let loaded = module::load()?;
    let secondaries = cpu::secondaries()?;
    let mut counts = BTreeSet::new();
    for _ in 0..WARM_UP {
        cycle(&secondaries, &mut counts)?;
    }
    let memory = Account::take()?;
    let pool = debugfs::read("pool")?;
    let start = Instant::now();
    for number in 1..=cycles {
        cycle(&secondaries, &mut counts).with_context(|| format!("cycle {number}"))?;
    }
    let trips = cycles * secondaries.len() as u32;
    note(format!(
        "{trips} round trips, {} ms each",
        (start.elapsed() / trips).as_millis()
    ));
    ensure!(
        debugfs::read("pool")? == pool,
        "the pool has changed: {pool:?}"
    );
    // As in `load_unload_100`: a leak of one unit in each round trip of each CPU would be more than twice that.
    let now = memory.expect_back_at(i64::from(cycles) / 2)?;
    note(memory.compare(&now));
    ensure!(
        counts.len() == 1,
        "numbers of registers compared: {counts:?}"
    );
    for row in debugfs::cpus()? {
        let resets = if row.cpu == 0 {
            0
        } else {
            u64::from(WARM_UP + cycles)
        };
        ensure!(
            row.resets == resets && row.faults == 0,
            "expected {resets} resets: {row:?}"
        );
    }
    loaded.unload()
}

fn cycle(secondaries: &[usize], counts: &mut BTreeSet<u64>) -> Result<()> {
    for &cpu in secondaries {
        let mut log = Log::from_now()?;
        round_trip(cpu)?;
        let equal = equal_images_on(&log.eltwo()?, &[cpu])?;
        counts.extend(equal.into_values());
    }
    Ok(())
}
