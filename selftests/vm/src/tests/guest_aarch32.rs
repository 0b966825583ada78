// SPDX-License-Identifier: GPL-2.0-only

//! A guest whose EL0 is AArch32, under its own EL1 in AArch64.
//!
//! Source: Arm ARM DDI 0487, G1 and D1.6 (registers when the state of execution changes).

use anyhow::{
    ensure,
    Context,
    Result, //
};
use kvm_ioctls::Kvm;
use nix::errno::Errno;

use crate::{
    ktap::{
        Skip,
        Test, //
    },
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
        raw, reg,
        vcpu::{
            describe,
            Exit,
            Vcpu, //
        },
    },
};

/// ID_AA64PFR0_EL1; EL0 is the low field, 2: AArch32 too.
const ID_AA64PFR0_EL1: u64 = reg::system(3, 0, 0, 4, 0);
/// Where EL0 sees the memory at [`BASE`]: what EL0 may write EL1 cannot execute, so it has a second address.
const ALIAS: u64 = 0x4000_0000;
/// PSTATE of User mode with interrupts masked: A32, and T32.
const A32: u64 = 0x1d0;
const T32: u64 = 0x1f0;
/// ESR_EL1.EC: undefined, and SVC in AArch32.
const EC_UNDEFINED: u64 = 0;
const EC_SVC32: u64 = 0x11;

pub fn test() -> Test {
    host::test()
        .case("computes_and_calls_el1", host::with(computes))
        .case("thumb_code_runs", host::with(thumb))
        .case("vector_registers_work", host::with(vectors))
        .case("trapped_registers_are_undefined", host::with(undefined))
        .case("debug_identity_is_readable", host::with(debug_identity))
        .case("physical_counter_has_its_offset", host::with(counter))
        .case("user_space_sees_32_bits", host::with(narrow))
}

/// A machine with `code` for EL0, and its vCPU.
fn setup(kvm: &Kvm, code: &[u32]) -> Result<(Machine, Vcpu)> {
    /// Stage-1 block of 1 GiB: valid, normal memory, EL0 may read and write, inner shareable, accessed.
    const BLOCK: u64 = BASE | (1 << 10) | (3 << 8) | (1 << 6) | 1;
    let machine = Machine::new(kvm)?;
    let vcpu = machine.vcpu(0)?;
    if vcpu.get(ID_AA64PFR0_EL1)? & 0xf != 2 {
        return Skip::because("these CPUs have no AArch32 at EL0");
    }
    machine.ram.set(image::TABLE + 8 * (ALIAS >> 30), BLOCK);
    let bytes: Vec<u8> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
    machine.ram.write(image::FREE, &bytes);
    Ok((machine, vcpu))
}

/// Runs the code to its exception. Returns the exception's class and ISS.
fn run(vcpu: &mut Vcpu, pstate: u64, r: [u64; 4]) -> Result<(u64, u64)> {
    let [r0, r1, r2, r3] = r;
    let arguments = [ALIAS + image::FREE, pstate, r0, r1, r2, r3];
    vcpu.start(Program::Aarch32, &arguments)?;
    let exit = vcpu.run();
    let Exit::Fault(esr) = exit else {
        anyhow::bail!("{}", describe(&exit));
    };
    Ok((esr >> 26, esr & 0x1ff_ffff))
}

fn expect_svc(got: (u64, u64), number: u64) -> Result<()> {
    ensure!(
        got == (EC_SVC32, number),
        "an exception of class {:#x} with ISS {:#x}",
        got.0,
        got.1
    );
    Ok(())
}

fn computes(kvm: &Kvm) -> Result<()> {
    let code = [
        0xe080_4002, // add r4, r0, r2
        0xe051_5003, // subs r5, r1, r3
        0x03a0_6007, // moveq r6, #7
        0x13a0_6009, // movne r6, #9
        0xe1a0_7fc4, // asr r7, r4, #31
        0xef00_0017, // svc #0x17
    ];
    let (_machine, mut vcpu) = setup(kvm, &code)?;
    let got = run(&mut vcpu, A32, [0xffff_fff0, 5, 0x15, 5])?;
    expect_svc(got, 0x17)?;
    for (number, value) in [(4, 5), (5, 0), (6, 7), (7, 0)] {
        let got = vcpu.get(reg::x(number))?;
        ensure!(got == value, "r{number} is {got:#x}, not {value:#x}");
    }
    Ok(())
}

fn thumb(kvm: &Kvm) -> Result<()> {
    // movs r4, #0x2a; svc #5
    let (_machine, mut vcpu) = setup(kvm, &[0xdf05_242a])?;
    let got = run(&mut vcpu, T32, [0; 4])?;
    expect_svc(got, 5)?;
    let got = vcpu.get(reg::x(4))?;
    ensure!(got == 0x2a, "r4 is {got:#x}");
    Ok(())
}

/// The first use traps to the hypervisor, which gives the guest the registers.
fn vectors(kvm: &Kvm) -> Result<()> {
    let code = [
        0xec41_0b10, // vmov d0, r0, r1
        0xf230_0800, // vadd.i64 d0, d0, d0
        0xec55_4b10, // vmov r4, r5, d0
        0xef00_0001, // svc #1
    ];
    let (_machine, mut vcpu) = setup(kvm, &code)?;
    let got = run(&mut vcpu, A32, [0x9000_0001, 0x1234, 0, 0])?;
    expect_svc(got, 1)?;
    for (number, value) in [(4, 0x2000_0002), (5, 0x2469)] {
        let got = vcpu.get(reg::x(number))?;
        ensure!(got == value, "r{number} is {got:#x}, not {value:#x}");
    }
    Ok(())
}

fn undefined(kvm: &Kvm) -> Result<()> {
    let instructions = [
        ("MRC of an IMPLEMENTATION DEFINED register", 0xee1f_0f10),
        ("MCR of the same", 0xee0f_0f10),
        ("MRC PMCR", 0xee19_0f1c),
        ("MRC SCTLR", 0xee11_0f10),
        ("MRC DBGBVR0", 0xee10_0e90),
        ("UDF", 0xe7f0_00f0),
    ];
    for (what, instruction) in instructions {
        let (_machine, mut vcpu) = setup(kvm, &[instruction, 0xef00_0000])?;
        let (class, iss) = run(&mut vcpu, A32, [0; 4])?;
        ensure!(
            (class, iss) == (EC_UNDEFINED, 0),
            "{what}: an exception of class {class:#x} with ISS {iss:#x}"
        );
        let at = vcpu.get(reg::ELR_EL1)?;
        ensure!(at == ALIAS + image::FREE, "{what}: ELR_EL1 is {at:#x}");
    }
    Ok(())
}

/// What of the debug registers EL0 may read: the hypervisor answers, as with the kernel's own KVM.
fn debug_identity(kvm: &Kvm) -> Result<()> {
    /// Cores with AArch32 at EL0 alone, by MIDR_EL1: QEMU leaves DBGDIDR out there, as it may (Cortex-A76, Neoverse N1).
    const WITHOUT: [u64; 2] = [0xd0b, 0xd0c];
    let code = [
        0xee10_4e10, // mrc p14, 0, r4, c0, c0, 0: DBGDIDR
        0xee11_5e10, // mrc p14, 0, r5, c1, c0, 0: DBGDRAR
        0xef00_0002, // svc #2
    ];
    let (_machine, mut vcpu) = setup(kvm, &code)?;
    let part = (vcpu.get(reg::system(3, 0, 0, 0, 0))? >> 4) & 0xfff;
    if WITHOUT.contains(&part) {
        return Skip::because("these CPUs have no DBGDIDR");
    }
    let got = run(&mut vcpu, A32, [0; 4])?;
    let at = vcpu.get(reg::ELR_EL1)?.wrapping_sub(ALIAS + image::FREE);
    expect_svc(got, 2).with_context(|| format!("at {at:#x} of the code"))?;
    let (didr, rar) = (vcpu.get(reg::x(4))?, vcpu.get(reg::x(5))?);
    let dfr0 = vcpu.get(reg::system(3, 0, 0, 5, 0))?;
    // Watchpoints, breakpoints, those with contexts, and the version, as ID_AA64DFR0_EL1 has them.
    let expected = [
        (28, dfr0 >> 20),
        (24, dfr0 >> 12),
        (20, dfr0 >> 28),
        (16, dfr0),
    ];
    for (shift, value) in expected {
        ensure!(
            (didr >> shift) & 0xf == value & 0xf,
            "DBGDIDR is {didr:#x} with ID_AA64DFR0_EL1 {dfr0:#x}"
        );
    }
    ensure!(rar == 0, "DBGDRAR is {rar:#x}");
    Ok(())
}

/// With an offset the physical counter traps, also for EL0, which its EL1 lets read it.
fn counter(kvm: &Kvm) -> Result<()> {
    const CNTKCTL_EL1: u64 = reg::system(3, 0, 14, 1, 0);
    const EL0PCTEN: u64 = 1;
    const PHYSICAL: u64 = reg::system(3, 3, 14, 0, 1);
    let code = [
        0xec55_4f0e, // mrrc p15, 0, r4, r5, c14: CNTPCT
        0xef00_0003, // svc #3
    ];
    let (_machine, mut vcpu) = setup(kvm, &code)?;
    vcpu.set(CNTKCTL_EL1, EL0PCTEN)?;
    // The counter is at 5 << 40 now: the guest's is behind by what is left.
    vcpu.set(PHYSICAL, 5 << 40)?;
    let got = run(&mut vcpu, A32, [0; 4])?;
    expect_svc(got, 3)?;
    let (low, high) = (vcpu.get(reg::x(4))?, vcpu.get(reg::x(5))?);
    let after = vcpu.get(PHYSICAL)?;
    let value = low | (high << 32);
    ensure!(
        (5 << 40..=after).contains(&value),
        "CNTPCT is {value:#x}, and {after:#x} afterwards"
    );
    Ok(())
}

/// Once PSTATE says AArch32, general registers have 32 bits; modes that are not there are refused.
fn narrow(kvm: &Kvm) -> Result<()> {
    let (_machine, vcpu) = setup(kvm, &[])?;
    vcpu.set(reg::x(3), 0x1234_5678_9abc_def0)?;
    vcpu.set(reg::PSTATE, A32)?;
    let got = vcpu.get(reg::x(3))?;
    ensure!(got == 0x9abc_def0, "r3 is {got:#x}");
    // FIQ, IRQ, Supervisor, Abort, Undefined and System: EL1 is AArch64.
    for mode in [0x11, 0x12, 0x13, 0x17, 0x1b, 0x1f] {
        let value = (0x1c0_u64 | mode).to_le_bytes();
        let result = raw::errno(vcpu.fd.set_one_reg(reg::PSTATE, &value)).map(|_| ());
        ensure!(result == Err(Errno::EINVAL), "mode {mode:#x}: {result:?}");
    }
    Ok(())
}
