// SPDX-License-Identifier: GPL-2.0-only

//! Exceptions that nobody wants: at EL2, and traps of the host that nobody has asked for.

use std::mem::offset_of;

use anyhow::{
    Context as _,
    Result, //
};
use eltwo::{
    common::abi::{
        Call,
        CpuContext,
        FaultReport,
        Status, //
    },
    fake::Reg, //
};

use super::{
    drive::{
        check_down,
        context_word,
        hypercall,
        preserved,
        same,
        take_down,
        unload,
        Expected,
        Leave,
        BACK, //
    },
    single::started, //
};
use crate::{
    core::{
        Failure,
        Outcome, //
    },
    elf::Image,
    sysreg::SysReg,
    world::{
        host_registers,
        Exit,
        World,
        HOST_PC,
        HOST_SP_EL0, //
    },
};

const CPU: usize = 0;
/// ESR_EL2 of a data abort at EL2.
const ESR: u64 = 0x9600_0045;
const FAR: u64 = 0x0000_7654_3210_0008;
const HPFAR: u64 = 0x0000_0000_0007_6540;

fn fault_registers(world: &mut World) -> Outcome<()> {
    let mut cpu = world.system.cpu(CPU);
    cpu.preset(Reg::FarEl2, FAR)?;
    cpu.preset(Reg::HpfarEl2, HPFAR)?;
    Ok(())
}

/// The report of the last fault.
fn check_report(world: &World, frame: &Expected, esr: u64, vector: u64) -> Outcome<()> {
    let report = offset_of!(CpuContext, report);
    frame.check(world, CPU, report + offset_of!(FaultReport, frame))?;
    let fields = [
        ("ESR", offset_of!(FaultReport, esr), esr),
        ("FAR", offset_of!(FaultReport, far), FAR),
        ("HPFAR", offset_of!(FaultReport, hpfar), HPFAR),
        ("the vector", offset_of!(FaultReport, vector), vector),
        ("the guest", offset_of!(FaultReport, guest), 0),
        ("the mark", offset_of!(FaultReport, valid), 1),
    ];
    for (what, offset, value) in fields {
        same(
            world,
            what,
            context_word(world, CPU, report + offset),
            Some(value),
        )?;
    }
    let faults = context_word(world, CPU, offset_of!(CpuContext, faults));
    same(world, "the count of faults", faults, Some(1))
}

/// The host's call has ended with the CPU at the stub and all registers that a call preserves in place.
fn check_contained(world: &mut World, exit: Exit) -> Outcome<()> {
    same(world, "the end of a fault", exit, BACK)?;
    same(world, "x0", world.cores[CPU].x[0], Status::Fault.to_x0())?;
    preserved(world, CPU, 18)?;
    check_down(world, CPU, &[])?;
    unload(world)
}

/// An exception in Rust code, by each vector that EL2t has.
pub(super) fn fault_at_el2(image: &Image) -> Result<()> {
    for vector in [0x000, 0x080, 0x100, 0x180] {
        let mut world = started(image, &[])?;
        fault_registers(&mut world)?;
        let exit = world.hvc(CPU, [Call::Provoke as u64, 1, 2, 3, 4])?;
        same(&world, "the way of a hypercall", exit, Exit::Rust)?;
        // Somewhere in Rust: all registers are in use, and the stack has run into its guard.
        let pc = world.cores[CPU].pc + 0x40;
        let x: [u64; 31] = std::array::from_fn(|number| 0x2222_0000_0000_0000 | number as u64);
        world.cores[CPU].x = x;
        let sp_el0 = 0x0000_5555_0000_0010;
        world
            .system
            .cpu(CPU)
            .msr(Reg::SpEl0, sp_el0)
            .map_err(Failure::from)?;
        let frame = Expected {
            x,
            sp_el0,
            elr: pc,
            spsr: 0x3c8,
        };
        world.from_hyp(CPU, vector, ESR, pc, frame.spsr)?;
        let exit = world.run(CPU)?;
        check_report(&world, &frame, ESR, vector)?;
        check_contained(&mut world, exit)?;
    }
    Ok(())
}

/// An exception in the vectors themselves, on SP_EL2, behind the point where the host's registers are saved.
pub(super) fn fault_in_vectors(image: &Image) -> Result<()> {
    let call = image.function("eltwo_call")?.range.start;
    for vector in [0x200, 0x280, 0x300, 0x380] {
        let mut world = started(image, &[])?;
        fault_registers(&mut world)?;
        world.start_hvc(CPU, [Call::Ping as u64, 0, 0, 0, 0])?;
        let pc = world.prepared.layout.image().first().raw() + call;
        while world.cores[CPU].pc != pc {
            let end = world.step(CPU)?;
            same(&world, "the way to eltwo_call", end, None)?;
        }
        let frame = Expected {
            x: world.cores[CPU].x,
            sp_el0: HOST_SP_EL0,
            elr: pc,
            spsr: 0x3c9,
        };
        world.from_hyp(CPU, vector, ESR, pc, frame.spsr)?;
        let exit = world.run(CPU)?;
        check_report(&world, &frame, ESR, vector)?;
        check_contained(&mut world, exit)?;
    }
    Ok(())
}

/// PSTATE of an exception to EL1 from one with `spsr`, by SCTLR_EL1.SPAN and DSSBS (Arm ARM, AArch64.TakeException).
const fn undefined_pstate(spsr: u64, sctlr: u64) -> u64 {
    let pan = if sctlr & SPAN == 0 { 1 << 22 } else { 0 };
    let ssbs = if sctlr & DSSBS != 0 { 1 << 12 } else { 0 };
    // NZCV, DIT and PAN stay; DAIF, EL1h.
    (spsr & 0xf140_0000) | pan | ssbs | 0x3c5
}

/// SCTLR_EL1.SPAN.
const SPAN: u64 = 1 << 23;
/// SCTLR_EL1.DSSBS.
const DSSBS: u64 = 1 << 44;

/// A trap of the host, from each mode that it can be in.
pub(super) fn trap_of_host(image: &Image) -> Result<()> {
    const VBAR_EL1: u64 = 0xffff_8000_8001_0800;
    // EC 0x18: MSR, MRS.
    const TRAP: u64 = 0x6230_0001;
    // SPSR_EL2, SCTLR_EL1, and which vector of EL1 that is.
    let modes = [
        (0xa140_03c5, SPAN, 0x200),
        (0x5000_03c4, 0, 0x000),
        (0x0040_0000, SPAN | DSSBS, 0x400),
        (0x6000_0010, DSSBS, 0x600),
    ];
    for (spsr, sctlr, offset) in modes {
        let mut world = started(image, &[])?;
        fault_registers(&mut world)?;
        for (name, value) in [("VBAR_EL1", VBAR_EL1), ("SCTLR_EL1", sctlr)] {
            world
                .system
                .cpu(CPU)
                .preset(Reg::Other(name), value)
                .map_err(Failure::from)?;
        }
        world.cores[CPU].x = host_registers();
        world.from_host(CPU, TRAP, spsr)?;
        let exit = world.run(CPU)?;
        let undefined = Exit::Host {
            pc: VBAR_EL1 + offset,
            spsr: undefined_pstate(spsr, sctlr),
        };
        same(&world, "the end of a trap", exit, undefined)?;
        check_undefined(&mut world, spsr, TRAP)?;
        // EL2 is still ours.
        hypercall(&mut world, CPU, [0; 5])?;
        take_down(&mut world, CPU, Leave::Reset)?;
        unload(&mut world)?;
    }
    Ok(())
}

/// The kernel finds what an UNDEFINED instruction leaves, and the log a report.
fn check_undefined(world: &mut World, spsr: u64, esr: u64) -> Result<()> {
    preserved(world, CPU, 0)?;
    let expected = [
        (SysReg::ELR_EL1, HOST_PC),
        (SysReg::SPSR_EL1, spsr),
        (SysReg::ESR_EL1, 1 << 25),
    ];
    for (reg, value) in expected {
        let now = world.register(CPU, reg)?;
        same(world, reg.name(), now, value)?;
    }
    let frame = Expected {
        x: host_registers(),
        sp_el0: HOST_SP_EL0,
        elr: HOST_PC,
        spsr,
    };
    check_report(world, &frame, esr, 0x400).context("the report of a trap")
}
