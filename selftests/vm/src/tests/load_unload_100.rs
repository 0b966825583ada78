// SPDX-License-Identifier: GPL-2.0-only

//! 100 cycles (a quarter of them on the debug kernel) of insmod and rmmod: no error, register images equal each time,
//! and no memory lost.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::Rc,
    time::Instant, //
};

use anyhow::{
    ensure,
    Context,
    Result, //
};

use super::{
    load_unload::equal_images_on,
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

/// Cycles before the accounts are taken. Caches, the module loader's tables and per-CPU lists reach their level here.
const WARM_UP: u32 = 10;
const CYCLES: u32 = 100;

/// What the cycles have in common.
#[derive(Default)]
struct Course {
    /// `pool` right after the first insmod.
    pool: Option<BTreeMap<String, u64>>,
    /// Number of registers compared at each reset.
    registers: Option<u64>,
}

pub fn test() -> Test {
    let course = Rc::new(RefCell::new(Course::default()));
    let warm = Rc::clone(&course);
    let baseline = Rc::new(RefCell::new(None));
    let taken = Rc::clone(&baseline);
    let count = rounds(CYCLES);
    standard()
        .case(format!("warm_up_{WARM_UP}_cycles"), move || {
            cycles(&warm, WARM_UP)?;
            *taken.borrow_mut() = Some(Account::take()?);
            Ok(())
        })
        .case(format!("insmod_rmmod_{count}_cycles"), move || {
            let start = Instant::now();
            cycles(&course, count)?;
            let mean = start.elapsed() / count;
            note(format!("{count} cycles, {} ms each", mean.as_millis()));
            Ok(())
        })
        .case("memory_back_to_the_start", move || {
            let baseline = baseline.borrow();
            let before = baseline.as_ref().context("the warm-up has failed")?;
            // A leak of one page or one object in each cycle cannot hide in half of them.
            let now = before.expect_back_at(i64::from(count) / 2)?;
            note(before.compare(&now));
            Ok(())
        })
}

fn cycles(course: &RefCell<Course>, count: u32) -> Result<()> {
    for cycle in 1..=count {
        one_cycle(&mut course.borrow_mut()).with_context(|| format!("cycle {cycle} of {count}"))?;
    }
    Ok(())
}

fn one_cycle(course: &mut Course) -> Result<()> {
    let mut log = Log::from_now()?;
    let loaded = module::load()?;
    debugfs::expect_online_are_hyp()?;
    let mut pool = debugfs::pool()?;
    // The layout is drawn anew each time, so a region may need a table more or less.
    let tables = pool
        .remove("pages_tables")
        .context("pool has no pages_tables")?;
    let free = pool
        .remove("pages_free")
        .context("pool has no pages_free")?;
    pool.insert("tables and free".into(), tables + free);
    ensure!(
        *course.pool.get_or_insert_with(|| pool.clone()) == pool,
        "the pool differs from the first cycle: {pool:?} and {:?}",
        course.pool
    );
    loaded.unload()?;
    let equal = equal_images_on(&log.eltwo()?, &cpu::online()?)?;
    for registers in equal.into_values() {
        ensure!(
            *course.registers.get_or_insert(registers) == registers,
            "{registers} registers compared, at first {:?}",
            course.registers
        );
    }
    Ok(())
}
