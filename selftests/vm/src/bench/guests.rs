// SPDX-License-Identifier: GPL-2.0-only

//! What an exit of a guest costs, in instructions of a machine that counts them, on eltwo or on the stock KVM.
//!
//! The machine executes one instruction in one nanosecond of its own time (QEMU's `-icount shift=0`), so the clock of the
//! guest counts instructions: those of the host, of EL2 and of the guest alike. Those of the guest's own loop are
//! subtracted. Every figure is the least of several, as interrupts of the host come in between.

use std::arch::asm;

use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use kvm_ioctls::Kvm;

use super::{
    figure,
    needs_counting, //
};
use crate::{
    ktap::Test,
    kvm::{
        host,
        image::{
            self,
            Program, //
        },
        machine::{
            Machine,
            EXTRA, //
        },
        ram::{
            huge_size,
            page_size, //
            Ram,
        },
        vcpu::{
            Exit,
            Vcpu, //
        },
    },
};

/// Exits of one look.
const EXITS: u64 = 200;
/// Looks, of which the least counts.
const LOOKS: u32 = 30;
/// Huge pages of one look: their preparation is long.
const BLOCKS: u64 = 4;
const PSCI_VERSION: u64 = 0x8400_0000;
const NANOSECONDS: u64 = 1_000_000_000;

pub fn test() -> Test {
    host::test()
        .needs(needs_counting)
        .case("hvc", host::with(hvc))
        .case("mmio", host::with(mmio))
        .case("fault", host::with(fault))
        .case("block_fault", host::with(block_fault))
}

/// Prints a figure in the column of the hypervisor that runs.
fn exit_cost(row: &str, instructions: u64) {
    let column = if host::is_reference() {
        "stock KVM"
    } else {
        "eltwo"
    };
    figure(column, row, "instructions", instructions);
}

/// Frequency of the clock of the guest, in Hz.
fn frequency() -> u64 {
    let value;
    // SAFETY: Reading the register has no effect, and Linux lets programs read it.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) value, options(nomem, nostack)) };
    value
}

/// Runs a program that gives ticks, and returns nanoseconds, that is, instructions.
fn timed(vcpu: &mut Vcpu, program: Program, arguments: &[u64]) -> Result<u64> {
    vcpu.start(program, arguments)?;
    loop {
        match vcpu.run() {
            Exit::Done(ticks) => return Ok(ticks * NANOSECONDS / frequency()),
            Exit::Write(..) => {}
            exit => bail!("{exit:x?}"),
        }
    }
}

/// The least cost of one of `count` exits, without `own` instructions of the guest for each.
fn least(count: u64, own: u64, mut look: impl FnMut() -> Result<u64>) -> Result<u64> {
    let mut least = None;
    for _ in 0..LOOKS {
        let each = look()? / count;
        least = Some(least.map_or(each, |least: u64| least.min(each)));
    }
    let least = least.context("nothing was counted")?;
    ensure!(least > own, "{least} instructions for an exit");
    Ok(least - own)
}

fn hvc(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    let each = least(EXITS, 7, || {
        timed(&mut vcpu, Program::BenchHvc, &[PSCI_VERSION, EXITS])
    })?;
    exit_cost("HVC that the hypervisor answers", each);
    Ok(())
}

fn mmio(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    let each = least(EXITS, 2, || {
        let address = image::MMIO + image::TEST;
        timed(&mut vcpu, Program::BenchMmio, &[address, EXITS])
    })?;
    exit_cost("MMIO exit to user space and back", each);
    Ok(())
}

/// The host has the memory already; only the guest's own tables lack it.
fn touch(kvm: &Kvm, ram: &Ram, count: u64, step: usize) -> Result<u64> {
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    for offset in (0..ram.len()).step_by(page_size()) {
        ram.set(offset as u64, 1);
    }
    least(count, 3, || {
        machine.add(1, EXTRA, ram, 0)?;
        let arguments = [EXTRA, ram.len() as u64, step as u64];
        let time = timed(&mut vcpu, Program::BenchTouch, &arguments)?;
        machine.remove(1)?;
        Ok(time)
    })
}

fn fault(kvm: &Kvm) -> Result<()> {
    let ram = Ram::new(EXITS as usize * page_size())?;
    let each = touch(kvm, &ram, EXITS, page_size())?;
    exit_cost("stage-2 fault, page of 4 KiB", each);
    Ok(())
}

fn block_fault(kvm: &Kvm) -> Result<()> {
    let ram = Ram::huge(BLOCKS as usize * huge_size())?;
    let each = touch(kvm, &ram, BLOCKS, huge_size())?;
    exit_cost("stage-2 fault, block of 2 MiB", each);
    Ok(())
}
