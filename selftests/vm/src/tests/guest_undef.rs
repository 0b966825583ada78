// SPDX-License-Identifier: GPL-2.0-only

//! What a guest must not use is undefined there: an exception of class 0 at EL1, at the instruction itself.

use anyhow::{
    ensure,
    Result, //
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
        vcpu::Vcpu,
    },
};

/// ESR_EL1 of an undefined instruction: class 0, 32 bits long.
const ESR_UNDEFINED: u64 = 1 << 25;

/// MRS x0 of a system register.
const fn mrs(op0: u32, op1: u32, crn: u32, crm: u32, op2: u32) -> u32 {
    0xd530_0000 | ((op0 - 2) << 19) | (op1 << 16) | (crn << 12) | (crm << 8) | (op2 << 5)
}

/// MSR from x0.
const fn msr(op0: u32, op1: u32, crn: u32, crm: u32, op2: u32) -> u32 {
    mrs(op0, op1, crn, crm, op2) & !(1 << 21)
}

/// Not there for a guest without optional features: (what, instruction).
const UNDEFINED: [(&str, u32); 18] = [
    ("UDF", 0),
    ("MRS of an unallocated register", mrs(3, 7, 15, 15, 7)),
    ("MSR of an unallocated register", msr(3, 7, 15, 15, 7)),
    ("MRS HCR_EL2", mrs(3, 4, 1, 1, 0)),
    ("MSR VBAR_EL2", msr(3, 4, 12, 0, 0)),
    ("MRS SCTLR_EL3", mrs(3, 6, 1, 0, 0)),
    ("MRS PMCR_EL0", mrs(3, 3, 9, 12, 0)),
    ("MRS PMCCNTR_EL0", mrs(3, 3, 9, 13, 0)),
    ("MSR PMCNTENSET_EL0", msr(3, 3, 9, 12, 1)),
    ("MRS PMEVCNTR0_EL0", mrs(3, 3, 14, 8, 0)),
    ("MRS ZCR_EL1", mrs(3, 0, 1, 2, 0)),
    ("MSR ZCR_EL1", msr(3, 0, 1, 2, 0)),
    ("MSR of MIDR_EL1, read-only", msr(3, 0, 0, 0, 0)),
    ("MSR of ID_AA64PFR0_EL1, read-only", msr(3, 0, 0, 4, 0)),
    ("MRS ICC_IAR1_EL1, no GIC", mrs(3, 0, 12, 12, 0)),
    ("MSR ICC_SGI1R_EL1, no GIC", msr(3, 0, 12, 11, 5)),
    ("SVE: PTRUE p0.b", 0x2518_e3e0),
    ("MRS CNTHCTL_EL2", mrs(3, 4, 14, 1, 0)),
];

/// There for every guest.
const DEFINED: [(&str, u32); 9] = [
    ("NOP", 0xd503_201f),
    ("MRS MIDR_EL1", mrs(3, 0, 0, 0, 0)),
    ("MRS ID_AA64PFR0_EL1", mrs(3, 0, 0, 4, 0)),
    ("MRS of a reserved ID register", mrs(3, 0, 0, 7, 7)),
    ("MRS CTR_EL0", mrs(3, 3, 0, 0, 1)),
    ("MRS TPIDR_EL0", mrs(3, 3, 13, 0, 2)),
    ("MRS DBGBVR0_EL1", mrs(2, 0, 0, 0, 4)),
    ("MRS OSLSR_EL1", mrs(2, 0, 1, 1, 4)),
    ("MRS CNTVCT_EL0", mrs(3, 3, 14, 0, 2)),
];

/// Error records: (least ID_AA64PFR0_EL1.RAS, CRm, op2), from ERRIDR_EL1 to ERXMISC3_EL1.
const ERROR_RECORDS: [(u64, u32, u32); 13] = [
    (1, 3, 0),
    (1, 3, 1),
    (1, 4, 0),
    (1, 4, 1),
    (1, 4, 2),
    (1, 4, 3),
    (2, 4, 4),
    (2, 4, 5),
    (2, 4, 6),
    (1, 5, 0),
    (1, 5, 1),
    (2, 5, 2),
    (2, 5, 3),
];

/// CRm and op2 of ERRIDR_EL1.
const ERRIDR: (u32, u32) = (3, 0);

pub fn test() -> Test {
    host::test()
        .case("undefined_accesses_reach_the_guest", host::with(undefined))
        .case("defined_accesses_work", host::with(defined))
        .case(
            "error_records_are_as_the_id_register_says",
            host::with(error_records),
        )
}

/// What x0 is after `instruction`, with which it is all ones.
fn result(vcpu: &mut Vcpu, instruction: u32) -> Result<u64> {
    let place = BASE + image::FREE;
    vcpu.call(Program::Execute, &[u64::from(instruction), u64::MAX, place])
}

fn execute(vcpu: &mut Vcpu, instruction: u32) -> Result<(u64, u64)> {
    let place = BASE + image::FREE;
    vcpu.call(Program::Execute, &[u64::from(instruction), 0, place])?;
    Ok(vcpu.channel().exceptions())
}

fn error_records(kvm: &Kvm) -> Result<()> {
    const RAS_SHIFT: u32 = 28;
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    let ras = (result(&mut vcpu, mrs(3, 0, 0, 4, 0))? >> RAS_SHIFT) & 0xf;
    let mut wrong = Vec::new();
    for (least, crm, op2) in ERROR_RECORDS {
        let value = result(&mut vcpu, mrs(3, 0, 5, crm, op2))?;
        let found = (vcpu.channel().exceptions(), value);
        let (zero, undefined) = (((0, 0), 0), ((1, ESR_UNDEFINED), u64::MAX));
        // A CPU without error records, as an emulated one, may have none of the registers but ERRIDR_EL1.
        let is_fine = match ras >= least {
            true => found == zero || found == undefined && (crm, op2) != ERRIDR,
            false => found == undefined,
        };
        if !is_fine {
            wrong.push(format!("S3_0_C5_C{crm}_{op2}: {found:x?}"));
        }
    }
    ensure!(wrong.is_empty(), "with RAS = {ras}: {}", wrong.join("; "));
    Ok(())
}

fn undefined(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    let mut wrong = Vec::new();
    for (what, instruction) in UNDEFINED {
        match execute(&mut vcpu, instruction)? {
            (1, ESR_UNDEFINED) => {}
            (taken, esr) => wrong.push(format!("{what}: {taken} exceptions, ESR_EL1 {esr:#x}")),
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

fn defined(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    let mut wrong = Vec::new();
    for (what, instruction) in DEFINED {
        let (taken, esr) = execute(&mut vcpu, instruction)?;
        if taken != 0 {
            wrong.push(format!("{what}: {taken} exceptions, ESR_EL1 {esr:#x}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}
