// SPDX-License-Identifier: GPL-2.0-only

//! Every hook alone and every ordered pair of hooks: after each the state of every CPU is what the model says.
//!
//! The pairs come from the table of [`crate::hooks::table`]. Where the first hook makes EL2 hand a CPU back without eltwo
//! being told, the pair is also tried with nobody looking in between; where it leaves one CPU in another state than the others,
//! also with the second hook on another CPU.

use anyhow::{
    Context,
    Result, //
};

use super::{
    needs_two_cpus,
    standard, //
};
use crate::{
    hooks::{
        helper,
        table::{
            self,
            Hook,
            HOOKS, //
        },
        world::{
            Ground,
            Look,
            World, //
        },
    },
    ktap::{
        Shared,
        Skip,
        Test, //
    },
};

/// Pairs of hooks none of which puts the machine to sleep.
pub fn awake() -> Test {
    pairs(standard(), |first, second| !first.sleeps && !second.sleeps)
}

/// Pairs of hooks of which one puts the machine to sleep.
pub fn asleep() -> Test {
    let test = standard().needs(table::can_sleep);
    pairs(test, |first, second| first.sleeps || second.sleeps).case("suspend_to_ram", || {
        let modes = std::fs::read_to_string("/sys/power/mem_sleep")?;
        if !modes.contains("deep") {
            return Skip::because("this machine's firmware has no SYSTEM_SUSPEND");
        }
        table::sleep("mem")
    })
}

fn pairs(mut test: Test, wanted: fn(&Hook, &Hook) -> bool) -> Test {
    test = test.needs(helper::needed).needs(needs_two_cpus);
    let ground = Shared::new();
    for first in &HOOKS {
        for second in &HOOKS {
            if !wanted(first, second) {
                continue;
            }
            for view in views(first, second) {
                let name = format!("{}_then_{}{}", first.name, second.name, view.suffix());
                let ground = ground.clone();
                test = test.case(name, move || pair(&ground, first, second, view));
            }
        }
    }
    test
}

/// One way to make a pair of hooks happen.
#[derive(Clone, Copy)]
struct View {
    /// How closely is looked at the machine between the two?
    between: Look,
    /// Does the second happen to another CPU than the first?
    elsewhere: bool,
}

impl View {
    fn suffix(self) -> &'static str {
        match (self.between, self.elsewhere) {
            (Look::Close, false) => "",
            (Look::Close, true) => "_elsewhere",
            (Look::FromAfar, false) => "_unseen",
            (Look::FromAfar, true) => "_elsewhere_unseen",
        }
    }
}

/// A hand-over that nobody is told of is noticed by whatever comes next, or by whoever looks. And what has set one CPU apart
/// matters to what happens to another.
fn views(first: &Hook, second: &Hook) -> Vec<View> {
    let looks: &[Look] = match first.name {
        "stub_0" | "stub_1" | "stub_2" => &[Look::Close, Look::FromAfar],
        _ => &[Look::Close],
    };
    let places: &[bool] = match first.sets_apart && second.of_one_cpu {
        true => &[false, true],
        false => &[false],
    };
    let views = looks.iter().flat_map(|&between| {
        places
            .iter()
            .map(move |&elsewhere| View { between, elsewhere })
    });
    views.collect()
}

/// How the machine is before the first hook: is the module loaded, is the last CPU online?
fn start(first: &Hook, second: &Hook) -> (bool, bool) {
    let loaded = match (first.name, second.name) {
        ("insmod", _) => false,
        // insmod is to find what the first hook has left, if that works without the module.
        (_, "insmod") => first.needs_module,
        _ => true,
    };
    let online = match (first.name, second.name) {
        ("online", _) => false,
        ("offline", _) => true,
        (_, "online") => false,
        _ => true,
    };
    (loaded, online)
}

fn pair(ground: &Shared<Ground>, first: &Hook, second: &Hook, view: View) -> Result<()> {
    let ground = ground.get(Ground::prepare)?;
    let mut world = World::new(ground)?;
    let (loaded, online) = start(first, second);
    let prelude = [("insmod", loaded), ("offline", !online)];
    for (name, wanted) in prelude {
        if let Some(hook) = HOOKS.iter().find(|hook| wanted && hook.name == name) {
            world.step(hook, Look::Close).context("at the start")?;
        }
    }
    world.step(first, view.between)?;
    // The first happens to the last CPU.
    let target = if view.elsewhere { 0 } else { world.target() };
    world.step_on(target, second, Look::Close)?;
    world.finish()
}
