// SPDX-License-Identifier: GPL-2.0-only

//! EL2 asks its own MMU: the one piece of Rust in the image whose order of instructions matters by itself
//! (`rust/arch/el2.rs:translate`). It is inlined, so it is found by what it does: PAR_EL1 is saved, used and put back.

use std::ops::Range;

use anyhow::{
    Context as _,
    Result, //
};
use eltwo::common::abi::Call;

use super::{
    drive::{
        same,
        take_down,
        unload,
        Leave, //
    },
    single::started, //
};
use crate::{
    core::Failure,
    elf::Image,
    insn::{
        decode,
        Insn, //
    },
    machine::{
        model_reg,
        PAR_F,
        PAR_RES1, //
    },
    sysreg::{
        SysOp,
        SysReg, //
    },
    world::Exit, //
};

const CPU: usize = 0;
/// What the host has in PAR_EL1.
const HOST_PAR: u64 = 0x5a5a_0000_1234_0b81;

/// The instructions, in bytes from the start of the image: from the read of PAR_EL1 that saves it to the write that puts
/// it back, which stands right behind the read of the result.
///
/// # Errors
///
/// There are none.
pub fn instructions(image: &Image) -> Result<Range<u64>> {
    let header = image.header();
    let text = u64::from(header.text)..u64::from(header.rodata);
    let insn = |offset: &u64| image.word(*offset).and_then(|word| decode(word).ok());
    let reads_par = |offset: &u64| {
        matches!(
            insn(offset),
            Some(Insn::Mrs {
                reg: SysReg::PAR_EL1,
                ..
            })
        )
    };
    let translates = |offset: &u64| {
        let op = SysOp::AtS1e2r;
        matches!(insn(offset), Some(Insn::Sys { op: is, .. }) if is == op)
    };
    // The world switch reads PAR_EL1, too, but translates in the regime of EL1.
    let at = text.clone().step_by(4).find(translates);
    let at = at.context("nothing translates for EL2")?;
    let first = (text.start..at).step_by(4).filter(reads_par).last();
    let first = first.context("nothing saves PAR_EL1")?;
    let last = (at..text.end).step_by(4).find(reads_par);
    let last = last.context("nothing reads the result")?;
    Ok(first..last + 8)
}

/// The registers that the compiler has chosen: address, whether to write, result.
fn operands(image: &Image, code: &Range<u64>) -> Option<[u8; 3]> {
    let insns = code
        .clone()
        .step_by(4)
        .filter_map(|offset| image.word(offset));
    let insns: Vec<Insn> = insns.filter_map(|word| decode(word).ok()).collect();
    let address = insns.iter().find_map(|insn| match insn {
        Insn::Sys {
            op: SysOp::AtS1e2r,
            rt,
        } => Some(*rt),
        _ => None,
    })?;
    let write = insns.iter().find_map(|insn| match insn {
        Insn::BranchTest { rt, .. } => Some(*rt),
        _ => None,
    })?;
    let result = insns.iter().rev().find_map(|insn| match insn {
        Insn::Mrs {
            rt,
            reg: SysReg::PAR_EL1,
        } => Some(*rt),
        _ => None,
    })?;
    Some([address, write, result])
}

/// Text, the data of this CPU and a hole, for a read and for a write. The host's PAR_EL1 stays as it was.
pub(super) fn translate_of_va(image: &Image) -> Result<()> {
    let code = instructions(image)?;
    let [address, write, result] =
        operands(image, &code).context("this is not how EL2 translates")?;
    let mut world = started(image, &[])?;
    let base = world.prepared.layout.image().first().raw();
    let text = base + u64::from(image.header().text);
    let context = world.prepared.layout.context(CPU as u32);
    let data = context.context("no context")?.first().raw();
    let hole = world.prepared.layout.idmap().first().raw();
    let found = |pa: u64| PAR_RES1 | pa;
    let text_pa = world.image_pa(image.header().text);
    let data_pa = world.prepared.contexts[CPU];
    let cases = [
        (text, 0, found(text_pa)),
        (text, 1, PAR_RES1 | PAR_F),
        (data, 0, found(data_pa)),
        (data, 1, found(data_pa)),
        (hole, 0, PAR_RES1 | PAR_F),
    ];
    world.add_target(base + code.end);
    world.start_hvc(CPU, [Call::At as u64, 0, 0, 0, 0])?;
    let exit = world.run(CPU)?;
    same(&world, "the way of a hypercall", exit, Exit::Rust)?;
    let link = world.cores[CPU].x[30];
    for (va, is_write, expected) in cases {
        let par = model_reg(SysReg::PAR_EL1);
        let set = world.system.cpu(CPU).preset(par, HOST_PAR);
        set.map_err(Failure::from)?;
        let core = &mut world.cores[CPU];
        core.x[usize::from(address)] = va;
        core.x[usize::from(write)] = is_write;
        core.pc = base + code.start;
        let exit = world.run(CPU)?;
        let pc = base + code.end;
        same(&world, "the end of it", exit, Exit::Restarted { pc })?;
        let value = world.cores[CPU].x[usize::from(result)];
        same(&world, "the result", value, expected)?;
        let left = world.register(CPU, SysReg::PAR_EL1)?;
        same(&world, "PAR_EL1", left, HOST_PAR)?;
    }
    world.cores[CPU].x[30] = link;
    world.return_from_rust(CPU);
    let exit = world.run(CPU)?;
    same(&world, "the end of the call", exit, super::drive::BACK)?;
    take_down(&mut world, CPU, Leave::Reset)?;
    unload(&mut world)?;
    Ok(())
}
