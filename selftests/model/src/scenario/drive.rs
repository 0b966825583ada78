// SPDX-License-Identifier: GPL-2.0-only

//! The journeys of one CPU, each with everything checked that its contract says.
//!
//! The contracts are the comments at the entries in `asm/idmap.S` and `asm/vectors.S`, and
//! `Documentation/virt/kvm/arm/hyp-abi.rst` of Linux.

use std::mem::offset_of;

use anyhow::Result;
use eltwo::{
    common::abi::{
        BootParams,
        Call,
        CpuContext,
        Frame,
        HVC_RESET_VECTORS,
        HVC_SET_VECTORS,
        HVC_SOFT_RESTART, //
    },
    fake::{
        Reg,
        Translation, //
    },
};

use crate::{
    core::{
        Failure,
        Outcome, //
    },
    registers,
    sysreg::SysReg,
    world::{
        host_registers,
        Exit,
        World,
        HOST_PC,
        HOST_SPSR,
        HOST_SP_EL0, //
    },
};

/// What a call returned to the host: it must be at EL1 behind its HVC.
pub const BACK: Exit = Exit::Host {
    pc: HOST_PC,
    spsr: HOST_SPSR,
};

/// Registers that a write of must be certain before EL2 changes hands.
const CONTROL: [Reg; 8] = [
    Reg::SctlrEl2,
    Reg::Ttbr0El2,
    Reg::TcrEl2,
    Reg::MairEl2,
    Reg::VbarEl2,
    Reg::HcrEl2,
    Reg::VttbrEl2,
    Reg::VtcrEl2,
];

/// Fails unless `actual` is `expected`.
pub fn same<T: PartialEq + std::fmt::Debug>(
    world: &World,
    what: &str,
    actual: T,
    expected: T,
) -> Outcome<()> {
    if actual == expected {
        return Ok(());
    }
    Err(world.failure(&format!("{what} is {actual:x?}, not {expected:x?}")))
}

/// Fails unless x`from` and all above are what the host had, and SP_EL0 too.
pub fn preserved(world: &mut World, cpu: usize, from: usize) -> Outcome<()> {
    let now = world.cores[cpu].x;
    for (number, expected) in host_registers().into_iter().enumerate().skip(from) {
        same(world, &format!("x{number}"), now[number], expected)?;
    }
    let sp_el0 = world.register(cpu, SysReg::SP_EL0)?;
    same(world, "SP_EL0", sp_el0, HOST_SP_EL0)
}

/// The values of the registers that init changes, as found, in the order of [`SavedRegs`](eltwo::common::abi::SavedRegs).
pub fn saved(world: &World, cpu: usize) -> [u64; 6] {
    [
        "SCTLR_EL2",
        "VBAR_EL2",
        "TTBR0_EL2",
        "TCR_EL2",
        "MAIR_EL2",
        "SP_EL2",
    ]
    .map(|name| {
        let found = world.found[cpu].iter().find(|(known, _)| *known == name);
        found.map_or(0, |(_, value)| *value)
    })
}

/// x0..x4 of the call that brings `cpu` in, behind what the host does before it.
///
/// # Errors
///
/// A violation.
pub fn init_call(world: &mut World, cpu: usize) -> Result<[u64; 5]> {
    let saved = saved(world, cpu);
    world.before_init(cpu, &saved)?;
    let params = world.prepared.contexts[cpu] + offset_of!(CpuContext, boot) as u64;
    let entry = world.image_pa(world.image().header().entry_init);
    Ok([HVC_SOFT_RESTART, entry, params, 0, 0])
}

/// Init of `cpu`, with all checks.
///
/// # Errors
///
/// A violation.
pub fn bring_up(world: &mut World, cpu: usize) -> Result<()> {
    let call = init_call(world, cpu)?;
    let exit = world.hvc(cpu, call)?;
    same(world, "the end of init", exit, BACK)?;
    check_up(world, cpu)?;
    Ok(())
}

/// `cpu` is in its runtime address space, and nothing is left of what was there before.
///
/// # Errors
///
/// A violation.
pub fn check_up(world: &mut World, cpu: usize) -> Outcome<()> {
    same(world, "x0 of init", world.cores[cpu].x[0], 0)?;
    preserved(world, cpu, 9)?;
    let params: BootParams = world.prepared.params[cpu];
    let expected = [
        ("SCTLR_EL2", params.sctlr),
        ("VBAR_EL2", params.vbar),
        ("TTBR0_EL2", params.ttbr_runtime),
        ("TCR_EL2", params.tcr),
        ("MAIR_EL2", params.mair),
        ("SP_EL2", params.context_va),
    ];
    registers::check(world, cpu, &expected)?;
    let idmap = world.prepared.layout.idmap().first().raw();
    let found = world.translate(cpu, idmap)?;
    same(
        world,
        "the idmap page at run time",
        found,
        Translation::Fault,
    )?;
    world.survey(cpu)?;
    world.system.assert_settled(cpu)?;
    world.system.el1_tlb_clean(cpu)?;
    Ok(())
}

/// A hypercall: into Rust, which answers `results`, and out again.
///
/// # Errors
///
/// A violation.
pub fn hypercall(world: &mut World, cpu: usize, results: [u64; 5]) -> Outcome<()> {
    let call = [Call::Ping as u64, 21, 22, 23, 24];
    let exit = world.hvc(cpu, call)?;
    same(world, "the way of a hypercall", exit, Exit::Rust)?;
    check_rust(world, cpu, &call)?;
    let frame = world.prepared.params[cpu].context_va + offset_of!(CpuContext, host) as u64;
    for (number, value) in (0..).zip(results) {
        world.system.cpu(cpu).store64(frame + number * 8, value)?;
    }
    world.return_from_rust(cpu);
    let exit = world.run(cpu)?;
    same(world, "the end of a hypercall", exit, BACK)?;
    for (number, value) in results.into_iter().enumerate() {
        same(
            world,
            &format!("x{number}"),
            world.cores[cpu].x[number],
            value,
        )?;
    }
    preserved(world, cpu, 5)
}

/// Rust is entered on its own stack, with the context, and all of the host's registers are in it.
fn check_rust(world: &mut World, cpu: usize, call: &[u64; 5]) -> Outcome<()> {
    let params = world.prepared.params[cpu];
    let core = world.cores[cpu].clone();
    same(world, "the context in x0", core.x[0], params.context_va)?;
    same(world, "the frame pointer", core.x[29], 0)?;
    same(world, "PSTATE.SP", core.el2h, false)?;
    let stack = world.prepared.layout.stack(cpu as u32);
    let top = stack.map_or(0, |stack| stack.last().raw() + 1);
    let sp = world.system.cpu(cpu).mrs(Reg::SpEl0);
    same(world, "the stack", sp, top)?;
    let mut registers = host_registers();
    registers[..5].copy_from_slice(call);
    let frame = Expected {
        x: registers,
        sp_el0: HOST_SP_EL0,
        elr: HOST_PC,
        spsr: HOST_SPSR,
    };
    frame.check(world, cpu, offset_of!(CpuContext, host))
}

/// What a [`Frame`] in the context must hold.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// x0..x30.
    pub x: [u64; 31],
    /// SP_EL0.
    pub sp_el0: u64,
    /// ELR_EL2.
    pub elr: u64,
    /// SPSR_EL2.
    pub spsr: u64,
}

impl Expected {
    /// Compares.
    ///
    /// # Errors
    ///
    /// A register differs.
    pub fn check(&self, world: &World, cpu: usize, offset: usize) -> Outcome<()> {
        let fields = [
            (offset_of!(Frame, sp_el0), self.sp_el0),
            (offset_of!(Frame, elr), self.elr),
            (offset_of!(Frame, spsr), self.spsr),
        ];
        let registers = self.x.into_iter().enumerate();
        for (place, value) in registers
            .map(|(number, value)| (number * 8, value))
            .chain(fields)
        {
            let word = context_word(world, cpu, offset + place);
            same(world, &format!("frame[{place}]"), word, Some(value))?;
        }
        Ok(())
    }
}

/// A word of the context of `cpu`.
pub fn context_word(world: &World, cpu: usize, offset: usize) -> Option<u64> {
    world
        .system
        .read(world.prepared.contexts[cpu] + offset as u64)
}

/// Ways to ask for the way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// Our own call.
    Reset,
    /// The stub call RESET_VECTORS.
    ResetVectors,
    /// The stub call SET_VECTORS.
    SetVectors,
    /// The stub call SOFT_RESTART.
    SoftRestart,
}

/// Vectors that a kernel sets by SET_VECTORS before kexec or resume.
const OTHER_VECTORS: u64 = 0x4088_1000;
/// Where a kernel restarts a CPU.
const RESTART_PC: u64 = 0x4099_2340;

/// The way back of `cpu`, with all checks but for the memory, which may be in use by other CPUs.
///
/// # Errors
///
/// A violation.
pub fn take_down(world: &mut World, cpu: usize, leave: Leave) -> Outcome<()> {
    let exit = world.hvc(cpu, leave.call())?;
    leave.check(world, cpu, exit)
}

impl Leave {
    /// x0..x4 of the call.
    pub fn call(self) -> [u64; 5] {
        match self {
            Self::Reset => [Call::Reset as u64, 0, 0, 0, 0],
            Self::ResetVectors => [HVC_RESET_VECTORS, 0, 0, 0, 0],
            Self::SetVectors => [HVC_SET_VECTORS, OTHER_VECTORS, 0, 0, 0],
            Self::SoftRestart => [HVC_SOFT_RESTART, RESTART_PC, 0xa0, 0xa1, 0xa2],
        }
    }

    /// Checks what `call` led to.
    ///
    /// # Errors
    ///
    /// A violation.
    pub fn check(self, world: &mut World, cpu: usize, exit: Exit) -> Outcome<()> {
        let x = world.cores[cpu].x;
        match self {
            Self::SoftRestart => {
                same(
                    world,
                    "the end of reset",
                    exit,
                    Exit::Restarted { pc: RESTART_PC },
                )?;
                same(world, "x0..x2", &x[..3], &[0xa0, 0xa1, 0xa2][..])?;
                same(world, "PSTATE.SP", world.cores[cpu].el2h, true)?;
            }
            _ => {
                same(world, "the end of reset", exit, BACK)?;
                same(world, "x0", x[0], 0)?;
            }
        }
        preserved(world, cpu, 18)?;
        let vectors = match self {
            Self::SetVectors => vec![("VBAR_EL2", OTHER_VECTORS)],
            _ => Vec::new(),
        };
        check_down(world, cpu, &vectors)
    }
}

/// EL2 of `cpu` is as it was found, but for `expected`.
///
/// # Errors
///
/// A violation.
pub fn check_down(world: &mut World, cpu: usize, expected: &[(&str, u64)]) -> Outcome<()> {
    registers::check(world, cpu, expected)?;
    for reg in CONTROL {
        world.system.cpu(cpu).certain(reg)?;
    }
    world.system.el2_tlb_clean(cpu)?;
    Ok(())
}

/// Allows the targets that [`Leave::SoftRestart`] uses.
pub fn allow_restart(world: &mut World) {
    world.add_target(RESTART_PC);
}

/// The module is unloaded: all memory goes back to the kernel, which uses it at once.
///
/// # Errors
///
/// A walk may still see it.
pub fn unload(world: &mut World) -> Outcome<()> {
    let (first, size) = world.prepared.pool;
    world.system.release(0, first, size).map_err(Failure::from)
}
