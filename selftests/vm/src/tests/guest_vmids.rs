// SPDX-License-Identifier: GPL-2.0-only

//! More VMs than there are VMIDs: generations of VMIDs come and go, and each VM still sees its own memory alone.

use anyhow::{
    ensure,
    Result, //
};
use kvm_ioctls::Kvm;

use crate::{
    guest::debugfs,
    ktap::{
        note,
        Test, //
    },
    kvm::{
        fleet::{
            Fleet,
            Size, //
        },
        host,
        image::{
            self,
            Program, //
        },
        machine::{
            Machine,
            BASE, //
        },
        ram::Ram,
        vcpu::Vcpu, //
    },
};

/// More than fit into 8 bits, so that a round over all of them begins at least one generation.
const VMS: u64 = 300;
const ROUNDS: u64 = 4;
/// Words that each VM has at the same address, with values of its own.
const WORDS: u64 = 512;

/// Two vCPUs that run all the time, over every change of generation.
const RUNNING: Size = Size {
    machines: 1,
    vcpus: 2,
    words: 512,
    pause: 10_000,
};

pub fn test() -> Test {
    host::test().case("more_vms_than_vmids", host::with(many))
}

/// A line of debugfs; `None` for the stock KVM.
fn counter(name: &str) -> Result<Option<u64>> {
    if host::is_reference() {
        return Ok(None);
    }
    debugfs::vms(name).map(Some)
}

/// A VM with `value` in all its words.
fn with_value(kvm: &Kvm, value: u64) -> Result<(Machine, Vcpu)> {
    let machine = Machine::new(kvm)?;
    (0..WORDS).for_each(|word| machine.ram.set(image::FREE + 8 * word, value));
    let vcpu = machine.vcpu(0)?;
    Ok((machine, vcpu))
}

fn many(kvm: &Kvm) -> Result<()> {
    let fleet = Fleet::start(kvm, RUNNING, Ram::new)?;
    let result = rounds(kvm);
    // Whatever has happened, the threads must end.
    let computed = fleet.finish();
    result?;
    note(format!("{} rounds of the VM that kept running", computed?));
    Ok(())
}

fn rounds(kvm: &Kvm) -> Result<()> {
    let mut vms = (1..=VMS)
        .map(|value| with_value(kvm, value))
        .collect::<Result<Vec<_>>>()?;
    let vmids = counter("vmid_space")?;
    let before = counter("vmid_generations")?;
    for round in 0..ROUNDS {
        for (value, (machine, vcpu)) in (1..).zip(&mut vms) {
            // What the last round has left, plus one: a TLB entry of another VM would show in the sum or in the memory.
            let sum = vcpu.call(Program::Read, &[BASE + image::FREE, WORDS * 8, 8])?;
            ensure!(
                sum == WORDS * (value + round),
                "round {round}: VM {value} reads {sum}"
            );
            for word in 0..WORDS {
                machine.ram.set(image::FREE + 8 * word, value + round + 1);
            }
        }
    }
    let (Some(vmids), Some(before), Some(after)) = (vmids, before, counter("vmid_generations")?)
    else {
        return Ok(());
    };
    note(format!(
        "{VMS} VMs, {vmids} VMIDs, {} generations began",
        after - before
    ));
    if vmids < VMS {
        ensure!(after - before >= ROUNDS - 1, "no VMID was used again");
    }
    Ok(())
}
