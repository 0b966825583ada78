// SPDX-License-Identifier: GPL-2.0-only

//! A guest boots, prints, reads and writes MMIO in every size, calls the hypervisor, and ends.

use anyhow::{
    ensure,
    Context,
    Result, //
};
use kvm_bindings::{
    KVM_SYSTEM_EVENT_RESET,
    KVM_SYSTEM_EVENT_SHUTDOWN, //
};
use kvm_ioctls::Kvm;

use crate::{
    ktap::{
        note,
        Test, //
    },
    kvm::{
        compute::Compute,
        host,
        image::{
            self,
            Program, //
        },
        machine::{
            Machine,
            BASE, //
        },
        vcpu::Exit, //
    },
};

/// MMIO address of the loads and stores: 8 bytes that are not at a multiple of 16.
const DEVICE: u64 = image::MMIO + image::TEST + 8;
/// A value whose every byte, halfword and word is negative and another one.
const PATTERN: u64 = 0xf1e2_d3c4_b5a6_9788;

const PSCI_VERSION: u64 = 0x8400_0000;
const PSCI_SYSTEM_OFF: u64 = 0x8400_0008;
const PSCI_SYSTEM_RESET: u64 = 0x8400_0009;
const PSCI_FEATURES: u64 = 0x8400_000a;
const SMCCC_VERSION: u64 = 0x8000_0000;
const NOT_SUPPORTED: u64 = u64::MAX;

pub fn test() -> Test {
    host::test()
        .case("guest_prints_and_ends", host::with(prints))
        .case("guest_computes", host::with(computes))
        .case("mmio_load_sizes_and_signs", host::with(loads))
        .case("mmio_store_sizes", host::with(stores))
        .case("hvc_and_smc_calls", host::with(calls))
        .case("psci_system_off", host::with(off))
        .case("psci_system_reset", host::with(reset))
}

fn prints(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    let result = vcpu.call(Program::Hello, &[])?;
    ensure!(result == 0x600d, "result {result:#x}");
    ensure!(
        vcpu.text == "Hello from EL1 of a guest.\n",
        "it printed {:?}",
        vcpu.text
    );
    note(format!(
        "{} exits for: {}",
        vcpu.exits,
        vcpu.text.trim_end()
    ));
    Ok(())
}

fn computes(kvm: &Kvm) -> Result<()> {
    const WORDS: u64 = 4096;
    const ROUNDS: u64 = 20;
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    for seed in [1, 0xfeed] {
        let mut expected = Compute::new(WORDS as usize, seed);
        expected.rounds(ROUNDS);
        for word in 0..WORDS {
            machine.ram.set(image::FREE + 8 * word, 0);
        }
        let arguments = [BASE + image::FREE, WORDS, ROUNDS, seed];
        let result = vcpu.call(Program::Compute, &arguments)?;
        ensure!(
            result == expected.result(),
            "seed {seed}: {result:#x}, expected {:#x}",
            expected.result()
        );
        for (word, offset) in expected.words.iter().zip((image::FREE..).step_by(8)) {
            let got = machine.ram.get(offset);
            ensure!(got == *word, "seed {seed}: {got:#x} at {offset:#x}");
        }
    }
    Ok(())
}

/// What each load of `MmioLoads` must leave in the register: name, size, value.
fn expected_loads() -> [(&'static str, usize, u64); 9] {
    let p = PATTERN;
    [
        ("ldrb w", 1, u64::from(p as u8)),
        ("ldrh w", 2, u64::from(p as u16)),
        ("ldr w", 4, u64::from(p as u32)),
        ("ldr x", 8, p),
        ("ldrsb w", 1, u64::from(i32::from(p as i8) as u32)),
        ("ldrsb x", 1, i64::from(p as i8) as u64),
        ("ldrsh w", 2, u64::from(i32::from(p as i16) as u32)),
        ("ldrsh x", 2, i64::from(p as i16) as u64),
        ("ldrsw x", 4, i64::from(p as i32) as u64),
    ]
}

fn loads(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    vcpu.start(Program::MmioLoads, &[DEVICE])?;
    for (name, size, value) in expected_loads() {
        let exit = vcpu.run_with(|_, data| {
            let bytes = PATTERN.to_le_bytes();
            data.copy_from_slice(&bytes[..data.len()]);
        });
        ensure!(exit == Exit::Read(DEVICE, size), "{name}: {exit:x?}");
        let exit = vcpu.run();
        ensure!(
            exit == Exit::Report(value),
            "{name}: {exit:x?}, expected {value:#x}"
        );
    }
    vcpu.finish().map(|_| ())
}

fn stores(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    vcpu.start(Program::MmioStores, &[DEVICE, PATTERN])?;
    for value in [PATTERN, 0] {
        for size in [1, 2, 4, 8] {
            let exit = vcpu.run();
            let bytes = value.to_le_bytes()[..size].to_vec();
            ensure!(
                exit == Exit::Write(DEVICE, bytes),
                "{size} bytes of {value:#x}: {exit:x?}"
            );
        }
    }
    vcpu.finish().map(|_| ())
}

fn calls(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    for program in [Program::Hvc, Program::Smc] {
        let mut call = |function: u64, argument: u64| {
            vcpu.call(program, &[function, argument])
                .with_context(|| format!("function {function:#x} by {program:?}"))
        };
        let version = call(PSCI_VERSION, 0)?;
        ensure!(
            (0x1_0000..=0x1_0003).contains(&version),
            "PSCI {version:#x}"
        );
        let version = call(SMCCC_VERSION, 0)?;
        ensure!(version >= 0x1_0001, "SMCCC {version:#x}");
        let off = call(PSCI_FEATURES, PSCI_SYSTEM_OFF)?;
        ensure!(off == 0, "PSCI_FEATURES(SYSTEM_OFF): {off:#x}");
        for function in [0x8400_00ff, 0xc300_0000, 0x8600_1234] {
            let result = call(function, 0)?;
            ensure!(
                result == NOT_SUPPORTED,
                "function {function:#x}: {result:#x}"
            );
        }
    }
    Ok(())
}

fn system_event(kvm: &Kvm, function: u64, kind: u32) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    vcpu.start(Program::Hvc, &[function])?;
    let exit = vcpu.run();
    ensure!(
        matches!(exit, Exit::SystemEvent(got, _) if got == kind),
        "{exit:x?}, expected system event {kind}"
    );
    // User space may run the vCPU on after a new KVM_ARM_VCPU_INIT.
    vcpu.fd.vcpu_init(&machine.target()?)?;
    let result = vcpu.call(Program::Hello, &[])?;
    ensure!(result == 0x600d, "after the event: {result:#x}");
    Ok(())
}

fn off(kvm: &Kvm) -> Result<()> {
    system_event(kvm, PSCI_SYSTEM_OFF, KVM_SYSTEM_EVENT_SHUTDOWN)
}

fn reset(kvm: &Kvm) -> Result<()> {
    system_event(kvm, PSCI_SYSTEM_RESET, KVM_SYSTEM_EVENT_RESET)
}
