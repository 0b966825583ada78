// SPDX-License-Identifier: GPL-2.0-only

//! The chapter about a guest.

use std::collections::BTreeMap;

use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use kvm_bindings::KVM_MEM_READONLY;
use kvm_ioctls::Kvm;

use super::text::{
    fact,
    row,
    timed, //
};
use crate::{
    guest::debugfs,
    kvm::{
        compute::Compute,
        image::{
            self,
            Program, //
        },
        machine::{
            Machine,
            BASE,
            EXTRA,
            SLOT, //
        },
        ram::{
            huge_size,
            page_size, //
            Ram,
        },
        stats,
        vcpu::{
            Exit,
            Vcpu, //
        },
    },
};

/// Rows of the stage-2 table that are shown.
const ROWS: usize = 12;
/// Pages of the second slot.
const READ_ONLY_PAGES: usize = 4;
/// Words and rounds of the computation.
const WORDS: u64 = 16 << 10;
const ROUNDS: u64 = 10;
const SYSTEM_OFF: u64 = 0x8400_0008;

pub fn chapter() -> Result<()> {
    let kvm = Kvm::new().context("/dev/kvm")?;
    fact(
        "/dev/kvm",
        format!(
            "API version {}, up to {} vCPUs, {} bits of guest address",
            kvm.get_api_version(),
            kvm.get_max_vcpus(),
            kvm.get_host_ipa_limit()
        ),
    );
    let machine = Machine::with_ram(&kvm, Ram::huge(2 * huge_size())?)?;
    let mut vcpu = machine.vcpu(0)?;
    fact(
        "VM",
        format!(
            "{} MiB at {BASE:#x}, one vCPU; this program drives it through the crate kvm-ioctls",
            machine.ram.len() >> 20
        ),
    );
    hello(&mut vcpu)?;
    compute(&mut vcpu)?;
    let other = Ram::new(READ_ONLY_PAGES * page_size())?;
    machine.add(SLOT + 1, EXTRA, &other, KVM_MEM_READONLY)?;
    vcpu.call(
        Program::Read,
        &[EXTRA, other.len() as u64, page_size() as u64],
    )?;
    fact(
        "slot",
        format!("{READ_ONLY_PAGES} small pages at {EXTRA:#x}, read-only, and the guest reads them"),
    );
    tables()?;
    vcpu.start(Program::Hvc, &[SYSTEM_OFF])?;
    match vcpu.run() {
        Exit::SystemEvent(kind, _) => fact(
            "off",
            format!("it calls PSCI SYSTEM_OFF: KVM_EXIT_SYSTEM_EVENT, type {kind}"),
        ),
        exit => bail!("SYSTEM_OFF: {exit:x?}"),
    }
    drop(vcpu);
    drop(machine);
    fact(
        "closed",
        "the VM is gone, and its memory is the host's again",
    );
    Ok(())
}

/// Runs the program that prints, and counts its exits.
fn hello(vcpu: &mut Vcpu) -> Result<()> {
    let mut exits: BTreeMap<&str, u32> = BTreeMap::new();
    vcpu.start(Program::Hello, &[])?;
    loop {
        let exit = vcpu.run();
        let kind = match exit {
            Exit::Printed => "a byte for the console",
            Exit::Done(_) => "the result",
            exit => bail!("{exit:x?}"),
        };
        *exits.entry(kind).or_default() += 1;
        if matches!(exit, Exit::Done(_)) {
            break;
        }
    }
    fact("guest", format!("prints \"{}\"", vcpu.text.trim_end()));
    let kinds: Vec<_> = exits
        .iter()
        .map(|(kind, n)| format!("{n} for {kind}"))
        .collect();
    fact(
        "exits",
        format!(
            "{} to user space, all MMIO writes: {}",
            vcpu.exits,
            kinds.join(", ")
        ),
    );
    Ok(())
}

fn compute(vcpu: &mut Vcpu) -> Result<()> {
    let mut expected = Compute::new(WORDS as usize, 7);
    expected.rounds(ROUNDS);
    let arguments = [BASE + image::FREE, WORDS, ROUNDS, 7];
    let before = stats::counter(&vcpu.fd, "exits")?;
    let (result, time) = timed(|| vcpu.call(Program::Compute, &arguments))?;
    ensure!(
        result == expected.result(),
        "the guest computes {result:#x}, the host {:#x}",
        expected.result()
    );
    fact(
        "compute",
        format!(
            "{} KiB of memory and 32 vector registers in {time}: {result:#x}, as the host has it",
            WORDS * 8 / 1024
        ),
    );
    if let (Some(before), Some(after)) = (before, stats::counter(&vcpu.fd, "exits")?) {
        fact(
            "",
            format!(
                "{} exits to EL2 in that time, host interrupts included",
                after - before
            ),
        );
    }
    Ok(())
}

/// The stage-2 table, as it is.
fn tables() -> Result<()> {
    let text = debugfs::read("stage2")?;
    let (heads, rows): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| line.starts_with("---["));
    ensure!(
        heads.len() == 1 && !rows.is_empty(),
        "the file stage2 shows {text:?}"
    );
    row("");
    for line in heads.iter().chain(rows.iter().take(ROWS)) {
        row(line);
    }
    if rows.len() > ROWS {
        row(format!("... {} more", rows.len() - ROWS));
    }
    row("");
    Ok(())
}
