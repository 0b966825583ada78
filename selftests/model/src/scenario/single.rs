// SPDX-License-Identifier: GPL-2.0-only

//! One CPU, one way in, each way out.

use anyhow::Result;
use eltwo::{
    common::{
        abi::{
            HVC_FINALISE_EL2,
            HVC_GET_ICH_VTR_EL2,
            HVC_SOFT_RESTART,
            HVC_STUB_ERR, //
        },
        regs::IMAGE, //
    },
    fake::Reg,
};

use super::drive::{
    allow_restart,
    bring_up,
    hypercall,
    preserved,
    same,
    take_down,
    unload,
    Leave,
    BACK, //
};
use crate::{
    core::Failure,
    elf::Image,
    registers,
    world::{
        Change,
        Exit,
        Ground,
        World, //
    },
};

const CPU: usize = 0;

/// A machine with one CPU at EL2.
pub(super) fn started(image: &Image, changes: &[Change]) -> Result<World> {
    let mut world = World::new(image, &Ground::default(), changes)?;
    allow_restart(&mut world);
    bring_up(&mut world, CPU)?;
    Ok(world)
}

/// In, two calls, out, and the memory goes back.
pub fn there_and_back(
    image: &Image,
    ground: &Ground,
    changes: &[Change],
    leave: Leave,
) -> Result<()> {
    let mut world = World::new(image, ground, changes)?;
    allow_restart(&mut world);
    bring_up(&mut world, CPU)?;
    hypercall(&mut world, CPU, [0, 31, 32, 33, 34])?;
    hypercall(&mut world, CPU, [u64::MAX, 0, 0, 0, 0])?;
    take_down(&mut world, CPU, leave)?;
    unload(&mut world)?;
    Ok(())
}

pub(super) fn init_hypercall_reset(image: &Image) -> Result<()> {
    there_and_back(image, &Ground::default(), &[], Leave::Reset)
}

/// The host does no more than init asks for: no invalidation of instruction caches, and nothing at the PoC but what runs
/// with the MMU off.
pub(super) fn least_clean(image: &Image) -> Result<()> {
    there_and_back(
        image,
        &Ground::default(),
        &[Change::CleanLeast],
        Leave::Reset,
    )
}

/// Somebody has left SCTLR_EL2.I set: the first instruction of init comes through the instruction cache already.
pub(super) fn icache_on(image: &Image) -> Result<()> {
    let ground = Ground {
        icache_on: true,
        ..Ground::default()
    };
    there_and_back(image, &ground, &[], Leave::Reset)
}

pub(super) fn reset_vectors(image: &Image) -> Result<()> {
    there_and_back(image, &Ground::default(), &[], Leave::ResetVectors)
}

pub(super) fn set_vectors(image: &Image) -> Result<()> {
    there_and_back(image, &Ground::default(), &[], Leave::SetVectors)
}

pub(super) fn soft_restart(image: &Image) -> Result<()> {
    there_and_back(image, &Ground::default(), &[], Leave::SoftRestart)
}

/// Stub calls that leave everything as it is, but for the answer.
pub(super) fn refused_stub_calls(image: &Image) -> Result<()> {
    const GIC: u64 = 1 << 24;
    const ICH_VTR: u64 = 0x9008_0003;
    let cases = [
        (HVC_FINALISE_EL2, GIC, [HVC_STUB_ERR, 0x51]),
        (HVC_GET_ICH_VTR_EL2, GIC, [0, ICH_VTR]),
        (HVC_GET_ICH_VTR_EL2, 0, [HVC_STUB_ERR, 0x51]),
    ];
    for (call, pfr0, [x0, x1]) in cases {
        let mut world = started(image, &[])?;
        let mut cpu = world.system.cpu(CPU);
        for (name, value) in [("ID_AA64PFR0_EL1", pfr0), ("ICH_VTR_EL2", ICH_VTR)] {
            cpu.preset(Reg::Other(name), value).map_err(Failure::from)?;
        }
        let exit = world.hvc(CPU, [call, 0x51, 0x52, 0x53, 0x54])?;
        same(&world, "the end of a stub call", exit, BACK)?;
        let answer = [x0, x1, 0x52, 0x53, 0x54];
        same(&world, "x0..x4", &world.cores[CPU].x[..5], &answer[..])?;
        preserved(&mut world, CPU, 5)?;
        // The CPU is still ours.
        super::drive::hypercall(&mut world, CPU, [0; 5])?;
        take_down(&mut world, CPU, Leave::Reset)?;
        unload(&mut world)?;
    }
    Ok(())
}

/// Every register is read by way of the stub, and none is changed by that.
pub(super) fn read_reg_from_stub(image: &Image) -> Result<()> {
    let mut world = World::new(image, &Ground::default(), &[])?;
    let entry = world.image_pa(image.header().entry_read_reg);
    let found: Vec<u64> = world.found[CPU].iter().map(|(_, value)| *value).collect();
    for place in 0..IMAGE.len() + 2 {
        let exit = world.hvc(CPU, [HVC_SOFT_RESTART, entry, place as u64, 0, 0])?;
        same(&world, "the end of a read", exit, BACK)?;
        let expected = found.get(place).copied().unwrap_or(0);
        let name = IMAGE.get(place).map_or("nothing", |register| register.name);
        same(&world, name, world.cores[CPU].x[0], expected)?;
        // The stub itself clobbers x4.
        preserved(&mut world, CPU, 5)?;
        registers::check(&mut world, CPU, &[])?;
    }
    Ok(())
}

/// The same function, called from Rust, which runs on SP_EL0.
pub(super) fn read_reg_from_rust(image: &Image) -> Result<()> {
    const RETURN_TO: u64 = 0x0000_1234_5678_9abc;
    let mut world = started(image, &[])?;
    world.add_target(RETURN_TO);
    world.start_hvc(CPU, [eltwo::common::abi::Call::ReadReg as u64, 0, 0, 0, 0])?;
    let exit = world.run(CPU)?;
    same(&world, "the way of a hypercall", exit, Exit::Rust)?;
    let entry = image.function("eltwo_read_reg")?.range.start;
    let expected = registers::now(&mut world, CPU)?;
    for (place, (name, value)) in (0..).zip(expected) {
        let core = &mut world.cores[CPU];
        core.x[0] = place;
        core.x[30] = RETURN_TO;
        core.pc = world.prepared.layout.image().first().raw() + entry;
        let callee_saved = core.x[19..29].to_vec();
        let exit = world.run(CPU)?;
        same(
            &world,
            "the return",
            exit,
            Exit::Restarted { pc: RETURN_TO },
        )?;
        same(&world, name, world.cores[CPU].x[0], value)?;
        same(&world, "PSTATE.SP", world.cores[CPU].el2h, false)?;
        same(
            &world,
            "x19..x28",
            world.cores[CPU].x[19..29].to_vec(),
            callee_saved,
        )?;
    }
    Ok(())
}
