// SPDX-License-Identifier: GPL-2.0-only

//! The SVE state of the host's programs while guests, which have none, use the registers that SVE's are the extension of.

use std::{
    fs,
    os::fd::AsRawFd,
    sync::{
        mpsc,
        Arc, //
    },
    thread,
};

use anyhow::{
    anyhow,
    ensure,
    Context,
    Result, //
};
use kvm_ioctls::Kvm;
use nix::{
    sched::{
        sched_setaffinity,
        CpuSet, //
    },
    unistd::{
        gettid,
        Pid, //
    },
};

use crate::{
    guest::{
        cpu,
        sve::{
            self,
            Values,
            Wait, //
        },
    },
    ktap::{
        note,
        Skip,
        Test, //
    },
    kvm::{
        calls,
        fleet::{
            compute_while,
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
        poll,
        ram::Ram, //
    },
};

/// Times that the guest has to take the CPU from the program that holds the values.
const SWITCHES: u64 = 30;
const SIZE: Size = Size {
    machines: 1,
    vcpus: 1,
    words: 512,
    pause: 1000,
};

pub fn test() -> Test {
    host::test()
        .needs(needs_sve)
        .case("sve_state_of_another_program", host::with(other_program))
        .case("vectors_of_the_thread_itself", host::with(own_thread))
}

fn needs_sve() -> Result<()> {
    match sve::is_there() {
        true => Ok(()),
        false => Skip::because("the CPU has no SVE"),
    }
}

/// Times that the kernel has taken the CPU from this thread.
fn switches(thread: Pid) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/self/task/{thread}/status"))?;
    let mut lines = status.lines();
    let count = lines.find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"));
    Ok(count.context("status has no switches")?.trim().parse()?)
}

fn pin(thread: Pid, cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(thread, &set)?)
}

/// A program holds values in all registers, and a guest that computes with its own shares the CPU with it.
fn other_program(kvm: &Kvm) -> Result<()> {
    let place = *cpu::online()?.last().context("no CPU")?;
    let rounds = compute_while(kvm, SIZE, Ram::new, |fleet: &Fleet| {
        for thread in fleet.threads()? {
            pin(thread, place)?;
        }
        let wait = Arc::new(Wait::until_told());
        let (sender, receiver) = mpsc::channel();
        let holder = {
            let wait = wait.clone();
            thread::spawn(move || {
                // Nobody may be listening.
                let _ = sender.send(gettid());
                let values = Values::pattern(0x5a);
                (wait.hold(&values), values)
            })
        };
        let thread = receiver.recv()?;
        let shared = pin(thread, place).and_then(|()| {
            poll(|| wait.is_ready())?;
            let wanted = switches(thread)? + SWITCHES;
            fleet.advance(1)?;
            poll(|| switches(thread).is_ok_and(|count| count >= wanted))?;
            fleet.advance(1)
        });
        // Whatever has happened, the thread must end.
        wait.end();
        let (after, before) = holder.join().map_err(|_| anyhow!("the holder panicked"))?;
        shared?;
        ensure!(after == before, "{after:x?}, expected {before:x?}");
        Ok(())
    })?;
    note(format!(
        "vectors of {} bytes, {SWITCHES} switches, {rounds} rounds of the guest",
        sve::vector_bytes()
    ));
    Ok(())
}

/// KVM_RUN is a system call: what SVE adds may be gone after it, but not what every program has, nor the length of vectors.
fn own_thread(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    // The guest gives all of its vector registers other values before its one round ends, and then exits.
    let arguments = [BASE + image::FREE, 8, 1, 3, 0];
    vcpu.start(Program::Compute, &arguments)?;
    let values = Values::pattern(0xc3);
    let bytes = sve::vector_bytes();
    let after = Wait::in_ioctl(vcpu.fd.as_raw_fd(), calls::RUN).hold(&values);
    ensure!(
        after.low() == values.low(),
        "{:x?}, expected {:x?}",
        after.low(),
        values.low()
    );
    let bytes_after = sve::vector_bytes();
    ensure!(
        bytes_after == bytes,
        "vectors had {bytes} bytes and have {bytes_after}"
    );
    ensure!(
        vcpu.channel().progress() == 1,
        "the guest has not come to the end of its round"
    );
    Ok(())
}
