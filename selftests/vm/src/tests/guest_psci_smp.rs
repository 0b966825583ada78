// SPDX-License-Identifier: GPL-2.0-only

//! PSCI with several vCPUs: CPU_ON, CPU_OFF, AFFINITY_INFO, CPU_SUSPEND, SYSTEM_RESET2, and what they answer to wrong arguments.
//!
//! Source: Arm Power State Coordination Interface, DEN0022, chapter 5.

use std::{
    thread,
    time::Duration, //
};

use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use kvm_bindings::{
    KVM_MP_STATE_RUNNABLE,
    KVM_MP_STATE_STOPPED,
    KVM_SYSTEM_EVENT_RESET,
    KVM_SYSTEM_EVENT_RESET_FLAG_PSCI_RESET2, //
};
use kvm_ioctls::Kvm;

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
            BASE, //
        },
        poll, reg,
        runner::Runner,
        vcpu::{
            describe,
            Channel,
            Exit,
            Vcpu, //
        },
    },
};

const CPU_OFF: u64 = 0x8400_0002;
const CPU_ON: u64 = 0xc400_0003;
const AFFINITY_INFO: u64 = 0xc400_0004;
const FEATURES: u64 = 0x8400_000a;
/// CPU_SUSPEND with arguments of 32 and of 64 bits.
const CPU_SUSPEND: [u64; 2] = [0x8400_0001, 0xc400_0001];
/// SYSTEM_RESET2, likewise.
const SYSTEM_RESET2: [u64; 2] = [0x8400_0012, 0xc400_0012];
const SUCCESS: u64 = 0;
const NOT_SUPPORTED: u64 = -1_i64 as u64;
const INVALID_PARAMETERS: u64 = -2_i64 as u64;
const ALREADY_ON: u64 = -4_i64 as u64;
const INTERNAL_FAILURE: u64 = -6_i64 as u64;
const ON: u64 = 0;
const OFF: u64 = 1;

/// Affinity fields of MPIDR_EL1.
const AFFINITY: u64 = 0xff_00ff_ffff;
const MPIDR_EL1: u64 = reg::system(3, 0, 0, 0, 5);
/// CurrentEL at EL1.
const EL1: u64 = 1 << 2;
/// vCPUs of the machine.
const VCPUS: u64 = 4;

pub fn test() -> Test {
    host::test()
        .case("cpu_on_starts_the_others", host::with(on))
        .case("cpu_off_and_on_again", host::with(off_and_on))
        .case("wrong_arguments", host::with(wrong_arguments))
        .case("mpidr_values_differ", host::with(mpidr_values))
        .case("cpu_suspend_waits_for_an_interrupt", host::with(suspend))
        .case("system_reset2_stops_the_machine", host::with(reset2))
        .case("system_reset2_of_a_wrong_type", host::with(wrong_reset2))
        .case("system_reset2_came_with_1_1", host::with(no_reset2))
}

fn affinity(vcpu: &Vcpu) -> Result<u64> {
    Ok(vcpu.get(MPIDR_EL1)? & AFFINITY)
}

/// What a vCPU that was started has reported, up to the end of its program.
type Reports = Vec<u64>;

/// Runs the vCPU until its program ends, or for a program that does not, until it is interrupted.
fn run_to_end(vcpu: &mut Vcpu) -> Result<Reports> {
    let mut reports = Vec::new();
    loop {
        match vcpu.run() {
            Exit::Report(value) => reports.push(value),
            Exit::Done(value) => {
                reports.push(value);
                return Ok(reports);
            }
            Exit::Interrupted => return Ok(reports),
            exit => bail!("{}", describe(&exit)),
        }
    }
}

fn cpu_on(first: &mut Vcpu, target: u64, channel: &Channel) -> Result<u64> {
    let entry = BASE + image::boot_offset();
    first.call(Program::Hvc, &[CPU_ON, target, entry, channel.gpa()])
}

fn expect_state(first: &mut Vcpu, target: u64, state: u64) -> Result<()> {
    let answer = first.call(Program::Hvc, &[AFFINITY_INFO, target, 0])?;
    ensure!(
        answer == state,
        "AFFINITY_INFO of {target:#x}: {answer:#x}, expected {state}"
    );
    Ok(())
}

fn on(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let mut first = machine.vcpu(0)?;
    for id in 1..VCPUS {
        let vcpu = machine.vcpu_off(id)?;
        let (target, channel) = (affinity(&vcpu)?, vcpu.channel());
        channel.prepare(Program::Identity, &[]);
        let runner = Runner::start(vcpu, run_to_end)?;
        expect_state(&mut first, target, OFF)?;
        let answer = cpu_on(&mut first, target, &channel)?;
        ensure!(answer == 0, "CPU_ON of {target:#x}: {answer:#x}");
        // Its program may have ended, but it has not switched itself off.
        expect_state(&mut first, target, ON)?;
        let again = cpu_on(&mut first, target, &channel)?;
        ensure!(again == ALREADY_ON, "CPU_ON again: {again:#x}");
        let (_, reports) = runner.join().with_context(|| format!("vCPU {id}"))?;
        let [mpidr, level, mailbox, result] = reports[..] else {
            bail!("vCPU {id} reported {reports:x?}");
        };
        ensure!(
            mpidr & AFFINITY == target && result == mpidr,
            "MPIDR_EL1 is {mpidr:#x} on vCPU {target:#x}"
        );
        ensure!(level == EL1, "CurrentEL is {level:#x}");
        ensure!(mailbox == channel.gpa(), "context {mailbox:#x} in x0");
    }
    Ok(())
}

fn off_and_on(kvm: &Kvm) -> Result<()> {
    const TURNS: u32 = 20;
    let machine = Machine::new(kvm)?;
    let mut first = machine.vcpu(0)?;
    let mut second = machine.vcpu_off(1)?;
    let (target, channel) = (affinity(&second)?, second.channel());
    for turn in 0..TURNS {
        channel.prepare(Program::Hvc, &[CPU_OFF]);
        let runner = Runner::start(second, run_to_end)?;
        let answer = cpu_on(&mut first, target, &channel)?;
        ensure!(answer == 0, "turn {turn}: CPU_ON: {answer:#x}");
        poll(|| expect_state(&mut first, target, OFF).is_ok())
            .with_context(|| format!("turn {turn}: CPU_OFF"))?;
        let (vcpu, reports) = runner.interrupt()?;
        ensure!(reports.is_empty(), "it went on: {reports:x?}");
        second = vcpu;
    }
    Ok(())
}

fn wrong_arguments(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let mut first = machine.vcpu(0)?;
    let nobody = 0x7f_0000_0000;
    let channel = first.channel();
    let answer = cpu_on(&mut first, nobody, &channel)?;
    ensure!(
        answer == INVALID_PARAMETERS,
        "CPU_ON of nobody: {answer:#x}"
    );
    let answer = first.call(Program::Hvc, &[AFFINITY_INFO, nobody, 0])?;
    ensure!(
        answer == INVALID_PARAMETERS,
        "AFFINITY_INFO of nobody: {answer:#x}"
    );
    let answer = first.call(Program::Hvc, &[AFFINITY_INFO, 0, 99])?;
    ensure!(
        answer == INVALID_PARAMETERS,
        "AFFINITY_INFO of level 99: {answer:#x}"
    );
    let own = affinity(&first)?;
    let answer = cpu_on(&mut first, own, &channel)?;
    ensure!(answer == ALREADY_ON, "CPU_ON of itself: {answer:#x}");
    Ok(())
}

fn mpidr_values(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let mut seen = Vec::new();
    for id in 0..20 {
        let vcpu = machine.vcpu(id)?;
        let value = affinity(&vcpu)?;
        ensure!(
            !seen.contains(&value),
            "vCPU {id} has the MPIDR_EL1 {value:#x} of another"
        );
        seen.push(value);
    }
    Ok(())
}

/// CPU_SUSPEND is as WFI is: an interrupt ends it, although the guest does not let it in.
fn suspend(kvm: &Kvm) -> Result<()> {
    const IRQ: u32 = 0;
    for function in CPU_SUSPEND {
        let machine = Machine::new(kvm)?;
        let mut vcpu = machine.vcpu(0)?;
        let known = vcpu.call(Program::Hvc, &[FEATURES, function])?;
        ensure!(known == SUCCESS, "PSCI_FEATURES({function:#x}): {known:#x}");
        vcpu.start(Program::Hvc, &[function, 0, BASE, 1])?;
        let runner = Runner::start(vcpu, Vcpu::finish)?;
        thread::sleep(Duration::from_millis(50));
        ensure!(!runner.is_finished(), "{function:#x} did not wait");
        machine.set_line(0, IRQ, true)?;
        let (mut vcpu, result) = runner.join()?;
        ensure!(result == SUCCESS, "{function:#x}: {result:#x}");
        // It does not wait when there is an interrupt already.
        vcpu.start(Program::Hvc, &[function, 0, BASE, 1])?;
        let (_, result) = Runner::start(vcpu, Vcpu::finish)?.join()?;
        ensure!(result == SUCCESS, "{function:#x} again: {result:#x}");
    }
    Ok(())
}

/// The architected warm reset is type 0; the vendor's types have bit 31.
fn reset2(kvm: &Kvm) -> Result<()> {
    for function in SYSTEM_RESET2 {
        for kind in [0, 1 << 31, 0xffff_ffff] {
            expect_reset(kvm, function, kind)
                .with_context(|| format!("{function:#x} of type {kind:#x}"))?;
        }
    }
    expect_reset(kvm, SYSTEM_RESET2[0], 1 << 32).context("only 32 bits of the type count")
}

fn expect_reset(kvm: &Kvm, function: u64, kind: u64) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let mut first = machine.vcpu(0)?;
    let second = machine.vcpu(1)?;
    let state = || -> Result<u32> { Ok(second.fd.get_mp_state()?.mp_state) };
    ensure!(state()? == KVM_MP_STATE_RUNNABLE, "vCPU 1 is off");
    first.start(Program::Hvc, &[function, kind, 0])?;
    let exit = first.run();
    let flags = vec![u64::from(KVM_SYSTEM_EVENT_RESET_FLAG_PSCI_RESET2)];
    let expected = Exit::SystemEvent(KVM_SYSTEM_EVENT_RESET, flags);
    ensure!(exit == expected, "{exit:x?}, expected {expected:x?}");
    ensure!(state()? == KVM_MP_STATE_STOPPED, "vCPU 1 is still on");
    let answer = first.get(reg::x(0))?;
    ensure!(answer == INTERNAL_FAILURE, "the guest finds {answer:#x}");
    // User space starts the machine again.
    first.fd.vcpu_init(&machine.target()?)?;
    let result = first.call(Program::Hello, &[])?;
    ensure!(result == 0x600d, "after the reset: {result:#x}");
    Ok(())
}

fn wrong_reset2(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    for function in SYSTEM_RESET2 {
        for kind in [1, 2, 0x7fff_ffff] {
            let answer = vcpu.call(Program::Hvc, &[function, kind, 0])?;
            ensure!(
                answer == INVALID_PARAMETERS,
                "{function:#x} of type {kind:#x}: {answer:#x}"
            );
        }
    }
    Ok(())
}

/// A guest that is told PSCI 1.0 has none.
fn no_reset2(kvm: &Kvm) -> Result<()> {
    for (version, expected) in [(0x1_0000, NOT_SUPPORTED), (0x1_0001, SUCCESS)] {
        let machine = Machine::new(kvm)?;
        let mut vcpu = machine.vcpu(0)?;
        vcpu.set(reg::PSCI_VERSION, version)?;
        for function in SYSTEM_RESET2 {
            let known = vcpu.call(Program::Hvc, &[FEATURES, function])?;
            ensure!(
                known == expected,
                "PSCI {version:#x}: PSCI_FEATURES({function:#x}): {known:#x}"
            );
        }
    }
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    vcpu.set(reg::PSCI_VERSION, 0x1_0000)?;
    let answer = vcpu.call(Program::Hvc, &[SYSTEM_RESET2[0], 0, 0])?;
    ensure!(answer == NOT_SUPPORTED, "SYSTEM_RESET2: {answer:#x}");
    Ok(())
}
