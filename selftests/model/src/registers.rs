// SPDX-License-Identifier: GPL-2.0-only

//! The EL2 registers of a CPU, as our image finds them.

use anyhow::{
    Context as _,
    Result, //
};
use eltwo::{
    common::regs::{
        sctlr,
        Register,
        IMAGE, //
    },
    fake::{
        Reg,
        System, //
    },
};

use crate::{
    core::{
        Failure,
        Outcome, //
    },
    machine::model_reg,
    sysreg::SysReg,
    world::World, //
};

/// SCTLR_EL2 as `init_kernel_el` of Linux leaves it (`INIT_SCTLR_EL2_MMU_OFF`): the RES1 bits, EIS and EOS among them.
const SCTLR_MMU_OFF: u64 = 0x30c5_0830;
/// VBAR_EL2: the kernel's stub.
const STUB_VECTORS: u64 = 0x4021_0800;
/// HCR_EL2: RW, API, APK, ATA.
const HCR: u64 = (1 << 31) | (1 << 41) | (1 << 40) | (1 << 56);

/// A register and its value.
pub type Value = (&'static str, u64);

/// The registers of `cpu` before init: those that matter as Linux leaves them, all others with a value that nobody would
/// guess, different from CPU to CPU. `icache_on` is SCTLR_EL2.I.
pub fn found(cpu: usize, icache_on: bool) -> Vec<Value> {
    let value = |number: u64, register: &Register| match register.name {
        "SCTLR_EL2" if icache_on => SCTLR_MMU_OFF | sctlr::I,
        "SCTLR_EL2" => SCTLR_MMU_OFF,
        "VBAR_EL2" => STUB_VECTORS,
        "HCR_EL2" => HCR,
        // The host is VMID 0, always.
        "VTTBR_EL2" | "VTCR_EL2" => 0,
        // Not a table, and not even an address that exists.
        "TTBR0_EL2" => 0x0000_0bad_0000_0000 | ((cpu as u64) << 16),
        "TCR_EL2" => 0x0bad_c000 | cpu as u64,
        _ => 0x0bad_0000_0000_0000 | (number << 16) | ((cpu as u64) << 8) | 0xe,
    };
    (1..)
        .zip(&IMAGE)
        .map(|(number, register)| (register.name, value(number, register)))
        .collect()
}

pub(crate) fn reg_of(name: &str) -> Result<Reg> {
    if name == "SP_EL2" {
        return Ok(Reg::SpEl2);
    }
    let reg = SysReg::by_name(name).with_context(|| format!("{name} has no encoding"))?;
    Ok(model_reg(reg))
}

/// Gives a register a value, as if it had it since long ago.
///
/// # Errors
///
/// There is no such register.
pub(crate) fn preset(system: &mut System, cpu: usize, name: &str, value: u64) -> Result<()> {
    let reg = reg_of(name)?;
    system.cpu(cpu).preset(reg, value).map_err(Failure::from)?;
    Ok(())
}

/// All registers of the image, now.
///
/// # Errors
///
/// A register has no encoding.
pub fn now(world: &mut World, cpu: usize) -> Result<Vec<Value>> {
    let read = |register: &Register| {
        let value = world.system.cpu(cpu).mrs(reg_of(register.name)?);
        Ok((register.name, value))
    };
    IMAGE.iter().map(read).collect()
}

/// Compares the registers of `cpu` with what was found, but for those that `expected` names with other values.
///
/// # Errors
///
/// A register differs.
pub fn check(world: &mut World, cpu: usize, expected: &[(&str, u64)]) -> Outcome<()> {
    let now = now(world, cpu).map_err(|error| Failure::new(error.to_string()))?;
    let found = world.found[cpu].clone();
    for ((name, value), (_, found)) in now.into_iter().zip(found) {
        let other = expected.iter().find(|(other, _)| *other == name);
        let wanted = other.map_or(found, |(_, value)| *value);
        if value != wanted {
            return Err(world.failure(&format!("{name} is {value:#x}, not {wanted:#x}")));
        }
    }
    Ok(())
}
