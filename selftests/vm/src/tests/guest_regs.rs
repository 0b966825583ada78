// SPDX-License-Identifier: GPL-2.0-only

//! Registers through KVM_GET_ONE_REG, KVM_SET_ONE_REG and KVM_GET_REG_LIST, and as the guest itself sees them.

use std::collections::BTreeSet;

use anyhow::{
    ensure,
    Context,
    Result, //
};
use kvm_bindings::{
    RegList,
    KVM_REG_ARM64_SYSREG,
    KVM_REG_ARM_COPROC_MASK, //
};
use kvm_ioctls::Kvm;
use nix::errno::Errno;

use crate::{
    ktap::{
        note,
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
        raw,
        reg,
        vcpu::Vcpu, //
    },
};

/// Most registers that the list of `kvm-bindings` has room for.
const MOST: usize = 500;
/// A value that fits into every register that holds any value.
const PATTERN: u64 = 0x1122_3344_5566_7788;
/// Registers that count time, so that they differ from one look to the next: CNTVCT and CNTPCT of the guest.
const CLOCKS: [u64; 2] = [reg::system(3, 3, 14, 3, 2), reg::system(3, 3, 14, 0, 1)];

/// System registers of EL1 that hold any value: name and encoding.
const PLAIN: [(&str, [u64; 5]); 8] = [
    ("TTBR0_EL1", [3, 0, 2, 0, 0]),
    ("TTBR1_EL1", [3, 0, 2, 0, 1]),
    ("FAR_EL1", [3, 0, 6, 0, 0]),
    ("CONTEXTIDR_EL1", [3, 0, 13, 0, 1]),
    ("TPIDR_EL1", [3, 0, 13, 0, 4]),
    ("TPIDR_EL0", [3, 3, 13, 0, 2]),
    ("TPIDRRO_EL0", [3, 3, 13, 0, 3]),
    ("MAIR_EL1", [3, 0, 10, 2, 0]),
];

pub fn test() -> Test {
    host::test()
        .case("list_is_complete_and_readable", host::with(readable))
        .case("every_register_takes_its_own_value", host::with(writable))
        .case("list_too_short_e2big", host::with(too_short))
        .case("core_registers_round_trip", host::with(core))
        .case("vector_registers_round_trip", host::with(vectors))
        .case("system_registers_round_trip", host::with(system))
        .case("guest_sees_what_was_set", host::with(guest_sees))
        .case("user_space_sees_what_the_guest_set", host::with(guest_sets))
        .case("id_registers_are_the_same_in_the_guest", host::with(ids))
        .case("init_resets", host::with(resets))
}

fn list(vcpu: &Vcpu) -> Result<Vec<u64>> {
    let mut list = RegList::new(MOST)?;
    raw::errno(vcpu.fd.get_reg_list(&mut list)).context("KVM_GET_REG_LIST")?;
    Ok(list.as_slice().to_vec())
}

/// A register of any size.
fn get(vcpu: &Vcpu, id: u64) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; kvm_ioctls::reg_size(id)];
    raw::errno(vcpu.fd.get_one_reg(id, &mut value))?;
    Ok(value)
}

fn readable(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let vcpu = machine.vcpu(0)?;
    let list = list(&vcpu)?;
    let set: BTreeSet<u64> = list.iter().copied().collect();
    ensure!(set.len() == list.len(), "a register is in the list twice");
    let failed: Vec<_> = list
        .iter()
        .filter_map(|id| get(&vcpu, *id).err().map(|errno| (*id, errno)))
        .collect();
    ensure!(failed.is_empty(), "not readable: {failed:x?}");
    let names = (0..31).map(reg::x).chain([reg::PC, reg::PSTATE]);
    let plain = PLAIN.map(|(_, [op0, op1, crn, crm, op2])| reg::system(op0, op1, crn, crm, op2));
    let missing: Vec<_> = names.chain(plain).filter(|id| !set.contains(id)).collect();
    ensure!(missing.is_empty(), "not in the list: {missing:x?}");
    note(format!("{} registers", list.len()));
    Ok(())
}

fn writable(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let vcpu = machine.vcpu(0)?;
    let mut wrong = Vec::new();
    for id in list(&vcpu)? {
        let before = get(&vcpu, id)?;
        if let Err(errno) = raw::errno(vcpu.fd.set_one_reg(id, &before)) {
            wrong.push(format!("{id:#x}: {errno}"));
        } else if get(&vcpu, id)? != before && !CLOCKS.contains(&id) {
            wrong.push(format!("{id:#x}: was {before:x?}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join(", "));
    Ok(())
}

fn too_short(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let vcpu = machine.vcpu(0)?;
    let count = list(&vcpu)?.len();
    for room in [0, 1, count - 1] {
        let mut list = RegList::new(room)?;
        let result = raw::errno(vcpu.fd.get_reg_list(&mut list));
        ensure!(
            result == Err(Errno::E2BIG),
            "room for {room} of {count}: {result:?}"
        );
    }
    let mut list = RegList::new(count)?;
    ensure!(
        raw::errno(vcpu.fd.get_reg_list(&mut list)).is_ok(),
        "room for just {count} is too little"
    );
    Ok(())
}

fn round_trip(vcpu: &Vcpu, id: u64, value: u64) -> Result<()> {
    vcpu.set(id, value)?;
    let got = vcpu.get(id)?;
    ensure!(got == value, "{id:#x}: {got:#x}, {value:#x} was written");
    Ok(())
}

fn core(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let vcpu = machine.vcpu(0)?;
    let all = || (0..31).map(reg::x).chain([reg::PC]);
    for turn in 0..2 {
        for (id, n) in all().zip(0..) {
            round_trip(&vcpu, id, PATTERN.rotate_left(turn) + 8 * n)?;
        }
        for (id, n) in all().zip(0..) {
            let got = vcpu.get(id)?;
            let value = PATTERN.rotate_left(turn) + 8 * n;
            ensure!(got == value, "{id:#x}: {got:#x}, expected {value:#x}");
        }
    }
    for pstate in [0x3c5, 0x3c4, 0x3c0, 0xf000_03c5] {
        round_trip(&vcpu, reg::PSTATE, pstate)?;
    }
    Ok(())
}

fn vectors(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let vcpu = machine.vcpu(0)?;
    let value = |n: usize| -> [u8; 16] { std::array::from_fn(|byte| (n * 16 + byte) as u8) };
    for n in 0..32 {
        raw::errno(vcpu.fd.set_one_reg(reg::v(n), &value(n)))?;
    }
    for n in 0..32 {
        let got = get(&vcpu, reg::v(n))?;
        ensure!(got == value(n), "V{n} is {got:x?}");
    }
    Ok(())
}

fn plain() -> impl Iterator<Item = (&'static str, u64)> {
    PLAIN
        .into_iter()
        .map(|(name, [op0, op1, crn, crm, op2])| (name, reg::system(op0, op1, crn, crm, op2)))
}

fn system(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let vcpu = machine.vcpu(0)?;
    for (n, (name, id)) in (0..).zip(plain()) {
        round_trip(&vcpu, id, PATTERN + n).context(name)?;
    }
    for (n, (name, id)) in (0..).zip(plain()) {
        let got = vcpu.get(id)?;
        ensure!(got == PATTERN + n, "{name} is {got:#x}");
    }
    Ok(())
}

/// MRS x0 (or MSR from x0) of the system register with this identifier.
fn access(id: u64, write: bool) -> u64 {
    // The fields are in the same order in both encodings, 16 bits wide, and op0 counts from 2 in the instruction.
    let read = u64::from(!write) << 21;
    0xd510_0000 | read | ((id & 0x3fff) << 5) | (((id >> 14) & 1) << 19)
}

const PLACE: u64 = BASE + image::FREE;

fn guest_sees(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    for (name, id) in plain() {
        // The runtime sets some itself; exceptions of the guest are no matter here.
        if ["TTBR0_EL1", "MAIR_EL1", "TPIDR_EL1"].contains(&name) {
            continue;
        }
        vcpu.set(id, PATTERN)?;
        let got = vcpu.call(Program::Execute, &[access(id, false), 0, PLACE])?;
        ensure!(got == PATTERN, "{name} is {got:#x} in the guest");
    }
    Ok(())
}

fn guest_sets(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    for (name, id) in plain() {
        if ["TTBR0_EL1", "MAIR_EL1", "TPIDR_EL1"].contains(&name) {
            continue;
        }
        vcpu.call(Program::Execute, &[access(id, true), PATTERN ^ id, PLACE])?;
        let got = vcpu.get(id)?;
        ensure!(got == PATTERN ^ id, "the guest has set {name} to {got:#x}");
    }
    Ok(())
}

fn ids(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    let system = KVM_REG_ARM64_SYSREG as u64;
    let is_id = |id: &u64| {
        // op0 3, op1 0, CRn 0: the ID registers, and MIDR_EL1, MPIDR_EL1 and REVIDR_EL1.
        id & KVM_REG_ARM_COPROC_MASK as u64 == system && id & 0xff80 == 0xc000
    };
    let all: Vec<u64> = list(&vcpu)?.into_iter().filter(is_id).collect();
    ensure!(all.len() > 40, "only {} ID registers", all.len());
    let mut wrong = Vec::new();
    for id in &all {
        let expected = vcpu.get(*id)?;
        let got = vcpu.call(Program::Execute, &[access(*id, false), 0, PLACE])?;
        let (taken, _) = vcpu.channel().exceptions();
        if taken != 0 || got != expected {
            wrong.push(format!(
                "{id:#x}: {got:#x}, {taken} exceptions, expected {expected:#x}"
            ));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    note(format!("{} ID registers", all.len()));
    Ok(())
}

fn resets(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let vcpu = machine.vcpu(0)?;
    let list = list(&vcpu)?;
    let fresh: Vec<_> = list.iter().map(|id| get(&vcpu, *id)).collect();
    for (id, n) in (0..31).map(reg::x).chain([reg::PC]).zip(0..) {
        vcpu.set(id, PATTERN + n)?;
    }
    vcpu.set(reg::system(3, 0, 1, 0, 0), 0x30d5_180d)?;
    vcpu.fd.vcpu_init(&machine.target()?)?;
    let mut wrong = Vec::new();
    for (id, before) in list.iter().zip(fresh) {
        let now = get(&vcpu, *id);
        if now != before && !CLOCKS.contains(id) {
            wrong.push(format!("{id:#x}: {now:x?}, at first {before:x?}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}
