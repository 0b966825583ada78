// SPDX-License-Identifier: GPL-2.0-only

//! Several CPUs, several loads, several machines.

use anyhow::Result;
use eltwo::common::{
    addr::Granule,
    shared::MapMode, //
};

use super::drive::{
    allow_restart,
    bring_up,
    check_up,
    hypercall,
    init_call,
    same,
    take_down,
    unload,
    Leave,
    BACK, //
};
use crate::{
    core::Outcome,
    elf::Image,
    world::{
        Change,
        Exit,
        Ground,
        World, //
    },
};

const CPUS: usize = 3;

fn machine(image: &Image) -> Result<World> {
    let mut world = World::new(image, &three_cpus(false), &[])?;
    allow_restart(&mut world);
    Ok(world)
}

/// Offline and online again, or suspend and resume: the same memory, and in between somebody else had EL2.
pub(super) fn loaded_twice(image: &Image) -> Result<()> {
    let mut world = machine(image)?;
    for leave in [Leave::Reset, Leave::ResetVectors, Leave::Reset] {
        bring_up(&mut world, 0)?;
        hypercall(&mut world, 0, [0; 5])?;
        take_down(&mut world, 0, leave)?;
        world.system.fill_with_previous_owner(0);
    }
    unload(&mut world)?;
    Ok(())
}

/// CPUs come and go while others are in.
pub(super) fn cpus_in_turn(image: &Image) -> Result<()> {
    let mut world = machine(image)?;
    for cpu in 0..CPUS {
        bring_up(&mut world, cpu)?;
        for other in 0..=cpu {
            hypercall(&mut world, other, [0, 41, 42, 43, 44])?;
        }
    }
    // CPU 1 goes offline and comes back.
    take_down(&mut world, 1, Leave::Reset)?;
    hypercall(&mut world, 0, [0; 5])?;
    bring_up(&mut world, 1)?;
    let ways = [Leave::SoftRestart, Leave::SetVectors, Leave::ResetVectors];
    for (cpu, leave) in ways.into_iter().enumerate() {
        take_down(&mut world, cpu, leave)?;
        for other in cpu + 1..CPUS {
            hypercall(&mut world, other, [0; 5])?;
        }
    }
    unload(&mut world)?;
    Ok(())
}

/// Three CPUs. `icache_on`: see [`Ground`].
pub fn three_cpus(icache_on: bool) -> Ground {
    Ground {
        cpus: CPUS,
        icache_on,
        ..Ground::default()
    }
}

/// The CPU that has loaded the module is the last to come in, so no other one can rely on what it does on its way.
///
/// # Errors
///
/// A violation.
pub fn others_first(image: &Image, ground: &Ground, changes: &[Change]) -> Result<()> {
    let mut world = World::new(image, ground, changes)?;
    for cpu in (0..ground.cpus).rev() {
        bring_up(&mut world, cpu)?;
        hypercall(&mut world, cpu, [0; 5])?;
    }
    for cpu in 0..ground.cpus {
        take_down(&mut world, cpu, Leave::ResetVectors)?;
    }
    unload(&mut world)?;
    Ok(())
}

pub(super) fn cpus_from_the_last(image: &Image) -> Result<()> {
    others_first(image, &three_cpus(false), &[])?;
    others_first(image, &three_cpus(true), &[])
}

/// Runs all CPUs, one instruction of each in turn, until all have ended. CPU n starts n * `lag` rounds late.
fn in_step(world: &mut World, lag: usize) -> Outcome<Vec<Exit>> {
    let mut exits = vec![None; CPUS];
    for round in 0.. {
        for (cpu, exit) in exits.iter_mut().enumerate() {
            if exit.is_none() && round >= cpu * lag {
                *exit = world.step(cpu)?;
            }
        }
        if exits.iter().all(Option::is_some) {
            break;
        }
    }
    Ok(exits.into_iter().flatten().collect())
}

/// All CPUs are on their way at the same time.
pub(super) fn cpus_in_step(image: &Image) -> Result<()> {
    for lag in [0, 1, 7, 20] {
        let mut world = machine(image)?;
        for cpu in 0..CPUS {
            let call = init_call(&mut world, cpu)?;
            world.start_hvc(cpu, call)?;
        }
        let exits = in_step(&mut world, lag)?;
        same(&world, "the end of init", exits, vec![BACK; CPUS])?;
        for cpu in 0..CPUS {
            check_up(&mut world, cpu)?;
        }
        for cpu in 0..CPUS {
            hypercall(&mut world, cpu, [0; 5])?;
        }
        let ways = [Leave::Reset, Leave::SoftRestart, Leave::SetVectors];
        for (cpu, leave) in ways.into_iter().enumerate() {
            world.start_hvc(cpu, leave.call())?;
        }
        let exits = in_step(&mut world, lag)?;
        for (cpu, (leave, exit)) in ways.into_iter().zip(exits).enumerate() {
            leave.check(&mut world, cpu, exit)?;
        }
        unload(&mut world)?;
    }
    Ok(())
}

/// Machines with other address sizes, and the image elsewhere in them.
fn grounds(granule: Granule) -> Vec<Ground> {
    let base = Ground::default();
    let far = |first: u64, image_pa: u64, pa_bits, wide| Ground {
        pa_bits,
        wide,
        ram: (first, first + 0x7fff_ffff),
        image_pa,
        ..base
    };
    let mut grounds = vec![
        Ground { seed: 1, ..base },
        Ground {
            seed: u64::MAX,
            ..base
        },
        Ground {
            pa_bits: 40,
            ..base
        },
        Ground {
            map: MapMode::Linear,
            ..base
        },
        // Above 39 bits: one level more than a small machine needs. At the top of 44 bits. In the upper half of 48 bits.
        far(0x80_0000_0000, 0x80_1230_0000, 44, false),
        far(0xfff_0000_0000, 0xfff_4567_0000, 44, false),
        far(0xf000_0000_0000, 0xf000_2340_0000, 48, false),
    ];
    if granule != Granule::K64 {
        grounds.push(far(0x4000_0000, 0x4780_0000, 48, true));
    }
    // 52 bits: LPA2, or FEAT_LPA with 64K.
    grounds.push(far(0xd_0000_0000_0000, 0xd_0000_1230_0000, 52, true));
    grounds
}

/// The same code everywhere.
pub(super) fn other_address_spaces(image: &Image) -> Result<()> {
    let granule = Granule::from_shift(image.header().text.trailing_zeros());
    for ground in grounds(granule.unwrap_or(Granule::K4)) {
        let mut world = World::new(image, &ground, &[])?;
        bring_up(&mut world, 0)?;
        hypercall(&mut world, 0, [0; 5])?;
        take_down(&mut world, 0, Leave::Reset)?;
        unload(&mut world)?;
    }
    Ok(())
}
