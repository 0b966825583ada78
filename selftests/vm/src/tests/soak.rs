// SPDX-License-Identifier: GPL-2.0-only

//! Hotplug, insmod and rmmod, VMs, sleep, signals, CPU PM and want of memory in random order, and nothing is left behind.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::atomic::Ordering::Relaxed,
    time::{
        Duration,
        Instant, //
    },
};

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
    guest::account::Account,
    hooks::{
        helper,
        table,
        world, //
    },
    ktap::{
        note,
        Test, //
    },
    kvm::runner::accept_kicks,
    soak::{
        orders::Orders,
        stock::Stock,
        Counts,
        Soak, //
    },
};

/// How much is done before the accounts are taken, each step once to begin with, so that caches and per-CPU lists reach their
/// level, and what the kernel makes once and keeps is there.
const WARM_UP: Duration = Duration::from_secs(8);
/// The seed of the warm-up is another one.
const WARM_UP_SEED: u64 = 0x5eed;
/// The limits of what may differ in each account: see [`tolerance`]. Measured on the stock kernel: nothing grows in 20 s, 12 pages
/// and no object in 2 minutes.
const LEAST_TOLERANCE: u64 = 8;
const MOST_TOLERANCE: u64 = 75;
/// How often a long soak says how far it is.
const PROGRESS: Duration = Duration::from_secs(60);
/// Fewest steps of a soak: on a slow machine it lasts longer than it was told to.
const FEWEST_STEPS: u64 = 50;

/// What the cases share.
struct Ground {
    world: world::Ground,
    stock: Stock,
    account: Account,
    /// What may differ after the soak.
    tolerance: i64,
}

pub fn test() -> Test {
    let ground = Rc::new(RefCell::new(None));
    let [first, second] = [Rc::clone(&ground), Rc::clone(&ground)];
    standard()
        .needs(helper::needed)
        .needs(needs_two_cpus)
        .needs(table::can_sleep)
        .case("warm_up", move || {
            accept_kicks()?;
            let world = world::Ground::prepare()?;
            let mut soak = Soak::new(&world, WARM_UP_SEED)?;
            let result = soak.each().and_then(|()| soak.run(WARM_UP, |_| true));
            let end = soak.end();
            result.and(end)?;
            drop(soak);
            let stock = Stock::take(&world.hooks)?;
            let account = Account::take()?;
            *first.borrow_mut() = Some(Ground {
                world,
                stock,
                account,
                tolerance: 0,
            });
            Ok(())
        })
        .case("soak", move || {
            let mut ground = second.borrow_mut();
            run(ground.as_mut().context("the warm-up has failed")?)
        })
        .case("nothing_is_left_behind", move || {
            let ground = ground.borrow_mut().take();
            compare(&ground.context("the warm-up has failed")?)
        })
}

/// What may differ in an account after so many loads and VMs.
///
/// Half of the lesser number, so that one page or area of vmalloc that each load or each VM leaves behind is seen where there were
/// more than [`LEAST_TOLERANCE`] of these: some dozens of loads and a dozen VMs are in the 20 s of `make check`. A long soak sees
/// what more than [`MOST_TOLERANCE`] leave behind, of 1,000 loads one in 13. Small objects wait in the sheaves of their cache,
/// which count as used: dozens can hide there, one for each VM of a short soak among them. `load_unload_100` and `guest_lifetime`
/// are for these.
fn tolerance(counts: &Counts) -> i64 {
    let half = counts.loads.min(counts.vms) / 2;
    half.clamp(LEAST_TOLERANCE, MOST_TOLERANCE) as i64
}

fn run(ground: &mut Ground) -> Result<()> {
    let orders = Orders::read()?;
    let seed = orders.seed;
    note(format!("soak: seed {seed}"));
    let start = Instant::now();
    let mut soak = Soak::new(&ground.world, seed)?;
    let mut last = start;
    let result = soak.run(orders.time, |counts| {
        if last.elapsed() >= PROGRESS {
            note(format!("so far: {counts}"));
            last = Instant::now();
        }
        counts.steps >= FEWEST_STEPS
            && counts.loads >= orders.loads
            && counts.transitions.load(Relaxed) >= orders.transitions
    });
    let end = soak.end();
    let minutes = start.elapsed().as_secs_f64() / 60.0;
    note(format!("soak: {minutes:.1} minutes, {}", soak.counts));
    note(format!("soak: {}", soak.vms()));
    ground.tolerance = tolerance(&soak.counts);
    result.with_context(|| format!("seed {seed}"))?;
    end.with_context(|| format!("at the end, seed {seed}"))
}

fn compare(ground: &Ground) -> Result<()> {
    let stock = Stock::take(&ground.world.hooks)?;
    note(format!("soak: {}", stock.figures()));
    ensure!(
        stock == ground.stock,
        "left behind: {stock:?}, at first {:?}",
        ground.stock
    );
    let now = ground.account.expect_back_at(ground.tolerance)?;
    note(format!("soak: {}", ground.account.compare(&now)));
    note(format!(
        "soak: {}, allowed are {}",
        ground.account.most_grown(&now),
        ground.tolerance
    ));
    Ok(())
}
