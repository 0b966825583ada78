// SPDX-License-Identifier: GPL-2.0-only

//! Every call with arguments that it must refuse: the error number is that of the documentation.
//!
//! The tables are what the stock KVM of Linux 7.2 answers; the same test checks them there.

use std::os::fd::{
    AsRawFd,
    RawFd, //
};

use anyhow::{
    ensure,
    Result, //
};
use kvm_bindings::{
    kvm_userspace_memory_region,
    KVM_MEM_READONLY,
    KVM_REG_ARM64, //
};
use kvm_ioctls::Kvm;
use nix::errno::Errno;

use crate::{
    ktap::Test,
    kvm::{
        calls::*,
        host,
        image::Program,
        machine::{
            Machine,
            BASE,
            EXTRA, //
        },
        ram::{
            page_size, //
            Ram,
        },
        raw,
        reg, //
    },
};

/// A call that is not of the KVM type.
const FOREIGN: u32 = 0x5401;

/// An address where no process has anything.
pub(super) const NOWHERE: u64 = 0xffff_0000_0000_0000;
/// More bytes than any structure that the calls take.
const ROOM: usize = 4096;

/// What a call gets.
pub(super) enum Argument {
    /// A number.
    Number(u64),
    /// The address of these words, which zeroes follow.
    Words(Vec<u64>),
}

/// What a call answers.
pub(super) type Answer = Result<(), Errno>;
/// A call, and what it must answer.
pub(super) type Row = (&'static str, u32, Argument, Answer);

/// Makes a list of calls: `what => call, argument, answer;`.
macro_rules! rows {
    ($($what:literal => $call:expr, $argument:expr, $answer:expr;)*) => {
        vec![$(($what, $call, $argument, $answer),)*]
    };
}
pub(super) use rows;

pub(super) const OK: Answer = Ok(());
const E2BIG: Answer = Err(Errno::E2BIG);
pub(super) const EEXIST: Answer = Err(Errno::EEXIST);
pub(super) const EFAULT: Answer = Err(Errno::EFAULT);
pub(super) const EINVAL: Answer = Err(Errno::EINVAL);
pub(super) const ENOENT: Answer = Err(Errno::ENOENT);
const ENOEXEC: Answer = Err(Errno::ENOEXEC);
pub(super) const ENXIO: Answer = Err(Errno::ENXIO);

use Argument::{
    Number,
    Words, //
};

pub fn test() -> Test {
    host::test()
        .case("system_calls", host::with(system))
        .case("vm_calls", host::with(vm))
        .case("memory_regions", host::with(regions))
        .case("dirty_logs", host::with(dirty_logs))
        .case("vcpu_creation", host::with(creation))
        .case("vcpu_calls_before_init", host::with(before_init))
        .case("vcpu_init", host::with(init))
        .case("vcpu_calls", host::with(vcpu))
        .case("registers", host::with(registers))
        .case("guest_works_after_all_that", host::with(works))
}

/// Makes the calls, and lists all whose answer is another one.
pub(super) fn check(fd: RawFd, rows: Vec<Row>) -> Result<()> {
    let mut wrong = Vec::new();
    for (what, request, argument, expected) in rows {
        let mut room = vec![0_u64; ROOM / 8];
        let argument = match argument {
            Number(number) => number,
            Words(words) => {
                room[..words.len()].copy_from_slice(&words);
                room.as_mut_ptr().expose_provenance() as u64
            }
        };
        // SAFETY: If the argument is an address, no call reads or writes more than the room behind it.
        let got = unsafe { raw::ioctl(&fd, request, argument) }.map(|_| ());
        if got != expected {
            wrong.push(format!("{what}: {got:?}, expected {expected:?}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn system(kvm: &Kvm) -> Result<()> {
    check(
        kvm.as_raw_fd(),
        rows! {
            "API version with an argument" => GET_API_VERSION, Number(1), EINVAL;
            "mmap size with an argument" => GET_VCPU_MMAP_SIZE, Number(1), EINVAL;
            "VM with 31 bits" => CREATE_VM, Number(31), EINVAL;
            "VM with 53 bits" => CREATE_VM, Number(53), EINVAL;
            "VM of an unknown type" => CREATE_VM, Number(1 << 32), EINVAL;
            "VM of an unknown type, low" => CREATE_VM, Number(1 << 8), EINVAL;
            "call of a VM" => CREATE_VCPU, Number(0), EINVAL;
            "call of a vCPU" => RUN, Number(0), EINVAL;
            "unknown call" => UNKNOWN, Number(0), EINVAL;
            "call of a terminal" => FOREIGN, Number(NOWHERE), EINVAL;
        },
    )
}

fn vm(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    check(
        machine.vm.as_raw_fd(),
        rows! {
            "call of the system" => CREATE_VM, Number(0), EINVAL;
            "call of a vCPU" => RUN, Number(0), EINVAL;
            "unknown call" => UNKNOWN, Number(0), EINVAL;
            "call of a terminal" => FOREIGN, Number(NOWHERE), EINVAL;
            "target to nowhere" => ARM_PREFERRED_TARGET, Number(NOWHERE), EFAULT;
            "capability from nowhere" => ENABLE_CAP, Number(NOWHERE), EFAULT;
            "unknown capability" => ENABLE_CAP, Words(vec![0xffff]), EINVAL;
            "capability with flags" => ENABLE_CAP, Words(vec![(1 << 32) | 168]), EINVAL;
            "manual protect, unknown mode" => ENABLE_CAP, Words(vec![168, 4]), EINVAL;
            "zone from nowhere" => REGISTER_COALESCED_MMIO, Number(NOWHERE), EFAULT;
            "zone of ports" => REGISTER_COALESCED_MMIO, Words(vec![0, 2 << 32]), EINVAL;
            "ioeventfd from nowhere" => IOEVENTFD, Number(NOWHERE), EFAULT;
            // datamatch, addr, len and fd, flags: 3 bytes; then an unknown flag; then no eventfd.
            "ioeventfd of 3 bytes" => IOEVENTFD, Words(vec![0, 0, 3]), EINVAL;
            "ioeventfd, unknown flag" => IOEVENTFD, Words(vec![0, 0, 4, 1 << 16]), EINVAL;
            "ioeventfd beyond the end" => IOEVENTFD, Words(vec![0, u64::MAX, 4]), EINVAL;
            "ioeventfd, a file that is none" => IOEVENTFD, Words(vec![0, 0, 4 | (1 << 32)]), EINVAL;
            "attribute from nowhere" => HAS_DEVICE_ATTR, Number(NOWHERE), EFAULT;
            "unknown attribute" => HAS_DEVICE_ATTR, Words(vec![99 << 32]), ENXIO;
        },
    )
}

/// `struct kvm_userspace_memory_region`.
pub(super) fn region(slot: u32, flags: u32, gpa: u64, bytes: u64, address: u64) -> Argument {
    Words(vec![
        u64::from(slot) | (u64::from(flags) << 32),
        gpa,
        bytes,
        address,
    ])
}

fn regions(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let ram = Ram::new(16 * page_size())?;
    machine.add(1, EXTRA, &ram, 0)?;
    let (page, bytes, address) = (page_size() as u64, ram.len() as u64, ram.address());
    let free = EXTRA + (64 << 20);
    // The VM has as many bits of address as the host allows.
    let end = 1 << kvm.get_host_ipa_limit();
    let set = SET_USER_MEMORY_REGION;
    check(
        machine.vm.as_raw_fd(),
        rows! {
            "from nowhere" => set, Number(NOWHERE), EFAULT;
            "unknown flag" => set, region(2, 1 << 5, free, bytes, address), EINVAL;
            "guest_memfd in the old call" => set, region(2, 4, free, bytes, address), EINVAL;
            "size of no pages" => set, region(2, 0, free, bytes + 8, address), EINVAL;
            "address of no page" => set, region(2, 0, free + 8, bytes, address), EINVAL;
            "user address of no page" => set, region(2, 0, free, bytes, address + 8), EINVAL;
            "user address of the kernel" => set, region(2, 0, free, bytes, NOWHERE), EINVAL;
            "past the end of all addresses" => set, region(2, 0, 0u64.wrapping_sub(page), 2 * page, address), EINVAL;
            "beyond the addresses of the VM" => set, region(2, 0, end, bytes, address), EFAULT;
            "slot too high" => set, region(0x7fff, 0, free, bytes, address), EINVAL;
            "another address space" => set, region(1 << 16, 0, free, bytes, address), EINVAL;
            "too many pages" => set, region(2, 0, free, page << 31, 0), EINVAL;
            "deleting what is not there" => set, region(2, 0, 0, 0, 0), EINVAL;
            "the same range again" => set, region(2, 0, EXTRA, bytes, address), EEXIST;
            "overlap at the end" => set, region(2, 0, EXTRA + bytes - page, bytes, address), EEXIST;
            "overlap at the start" => set, region(2, 0, EXTRA - page, 2 * page, address), EEXIST;
            "move onto another slot" => set, region(1, 0, BASE, bytes, address), EEXIST;
            "another size" => set, region(1, 0, EXTRA, bytes - page, address), EINVAL;
            "another user address" => set, region(1, 0, EXTRA, bytes, address + page), EINVAL;
            "another read-only flag" => set, region(1, KVM_MEM_READONLY, EXTRA, bytes, address), EINVAL;
            "nothing changes" => set, region(1, 0, EXTRA, bytes, address), OK;
            "next to another slot" => set, region(2, 0, EXTRA + bytes, bytes, address), OK;
            "the last slot" => set, region(0x7ffe, 0, free, bytes, address), OK;
            "new call from nowhere" => SET_USER_MEMORY_REGION2, Number(NOWHERE), EFAULT;
            "new call, unknown flag" => SET_USER_MEMORY_REGION2, region(3, 1 << 5, 2 * free, bytes, address), EINVAL;
            "new call" => SET_USER_MEMORY_REGION2, region(3, 0, free + bytes, bytes, address), OK;
        },
    )
}

fn dirty_logs(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let ram = Ram::new(16 * page_size())?;
    machine.add(1, EXTRA, &ram, 0)?;
    let log = |slot: u64, address: u64| Words(vec![slot, address]);
    let mut bitmap = [0_u64; 8];
    let room = bitmap.as_mut_ptr().expose_provenance() as u64;
    check(
        machine.vm.as_raw_fd(),
        rows! {
            "from nowhere" => GET_DIRTY_LOG, Number(NOWHERE), EFAULT;
            "a slot that is not there" => GET_DIRTY_LOG, log(2, room), ENOENT;
            "a slot without a log" => GET_DIRTY_LOG, log(1, room), ENOENT;
            "another address space" => GET_DIRTY_LOG, log(1 << 16, room), EINVAL;
            "a slot too high" => GET_DIRTY_LOG, log(0xffff, room), EINVAL;
            "clear in a slot without a log" => CLEAR_DIRTY_LOG, log(1, 0), ENOENT;
        },
    )?;
    machine.add(1, EXTRA, &ram, 1)?;
    check(
        machine.vm.as_raw_fd(),
        rows! {
            "to nowhere" => GET_DIRTY_LOG, log(1, NOWHERE), EFAULT;
            "as it should be" => GET_DIRTY_LOG, log(1, room), OK;
        },
    )
}

fn creation(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let _first = machine.vcpu(0)?;
    let limit = kvm.get_max_vcpu_id() as u64;
    check(
        machine.vm.as_raw_fd(),
        rows! {
            "a number that is taken" => CREATE_VCPU, Number(0), EEXIST;
            "a number too high" => CREATE_VCPU, Number(limit), EINVAL;
            "a number of 64 bits" => CREATE_VCPU, Number(1 << 32), EINVAL;
            "no number at all" => CREATE_VCPU, Number(u64::MAX), EINVAL;
        },
    )
}

fn before_init(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let fd = machine.vm.create_vcpu(0)?;
    let mut value = [0_u64; 2];
    let room = value.as_mut_ptr().expose_provenance() as u64;
    let one = || Words(vec![reg::x(0), room]);
    check(
        fd.as_raw_fd(),
        rows! {
            "KVM_RUN" => RUN, Number(0), ENOEXEC;
            "KVM_GET_ONE_REG" => GET_ONE_REG, one(), ENOEXEC;
            "KVM_SET_ONE_REG" => SET_ONE_REG, one(), ENOEXEC;
            "KVM_GET_REG_LIST" => GET_REG_LIST, Words(vec![0]), ENOEXEC;
            "KVM_GET_VCPU_EVENTS" => GET_VCPU_EVENTS, Words(vec![]), ENOEXEC;
            "KVM_SET_VCPU_EVENTS" => SET_VCPU_EVENTS, Words(vec![]), ENOEXEC;
        },
    )
}

fn init(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let fd = machine.vm.create_vcpu(0)?;
    let good = machine.target()?;
    let words = |target: u32, features: [u32; 3]| {
        Words(vec![
            u64::from(target) | (u64::from(features[0]) << 32),
            u64::from(features[1]) | (u64::from(features[2]) << 32),
        ])
    };
    let psci = good.features[0];
    check(
        fd.as_raw_fd(),
        rows! {
            "from nowhere" => ARM_VCPU_INIT, Number(NOWHERE), EFAULT;
            "unknown target" => ARM_VCPU_INIT, words(good.target + 77, [psci, 0, 0]), EINVAL;
            "unknown feature" => ARM_VCPU_INIT, words(good.target, [psci | (1 << 30), 0, 0]), ENOENT;
            "unknown feature, second word" => ARM_VCPU_INIT, words(good.target, [psci, 1, 0]), ENOENT;
            "half of pointer authentication" => ARM_VCPU_INIT, words(good.target, [psci | (1 << 5), 0, 0]), EINVAL;
            "as it should be" => ARM_VCPU_INIT, words(good.target, [psci, 0, 0]), OK;
            "again" => ARM_VCPU_INIT, words(good.target, [psci, 0, 0]), OK;
            "again, other features" => ARM_VCPU_INIT, words(good.target, [0, 0, 0]), EINVAL;
        },
    )
}

fn vcpu(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let vcpu = machine.vcpu(0)?;
    check(
        vcpu.fd.as_raw_fd(),
        rows! {
            "KVM_RUN with an argument" => RUN, Number(1), EINVAL;
            "call of the system" => CREATE_VM, Number(0), EINVAL;
            "call of a VM" => CREATE_VCPU, Number(0), EINVAL;
            "unknown call" => UNKNOWN, Number(0), EINVAL;
            "call of a terminal" => FOREIGN, Number(NOWHERE), EINVAL;
            "mask from nowhere" => SET_SIGNAL_MASK, Number(NOWHERE), EFAULT;
            "mask of 4 bytes" => SET_SIGNAL_MASK, Words(vec![4]), EINVAL;
            "mask of 16 bytes" => SET_SIGNAL_MASK, Words(vec![16]), EINVAL;
            "no mask" => SET_SIGNAL_MASK, Number(0), OK;
            "state to nowhere" => GET_MP_STATE, Number(NOWHERE), EFAULT;
            "state from nowhere" => SET_MP_STATE, Number(NOWHERE), EFAULT;
            "unknown state" => SET_MP_STATE, Words(vec![77]), EINVAL;
            "state of another architecture" => SET_MP_STATE, Words(vec![1]), EINVAL;
            "events to nowhere" => GET_VCPU_EVENTS, Number(NOWHERE), EFAULT;
            "events from nowhere" => SET_VCPU_EVENTS, Number(NOWHERE), EFAULT;
            "events with reserved bits" => SET_VCPU_EVENTS, Words(vec![0, 0, 1]), EINVAL;
            "syndrome without RAS" => SET_VCPU_EVENTS, Words(vec![0x0101, 0x200_0000]), EINVAL;
            "no events" => SET_VCPU_EVENTS, Words(vec![]), OK;
            "list to nowhere" => GET_REG_LIST, Number(NOWHERE), EFAULT;
            "list without room" => GET_REG_LIST, Words(vec![0]), E2BIG;
            "unknown capability" => ENABLE_CAP, Words(vec![0xffff]), EINVAL;
            "attribute from nowhere" => HAS_DEVICE_ATTR, Number(NOWHERE), EFAULT;
            "unknown attribute" => HAS_DEVICE_ATTR, Words(vec![99 << 32]), ENXIO;
            "setting an unknown attribute" => SET_DEVICE_ATTR, Words(vec![99 << 32]), ENXIO;
        },
    )
}

fn registers(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let vcpu = machine.vcpu(0)?;
    let mut value = [0_u64; 64];
    let room = value.as_mut_ptr().expose_provenance() as u64;
    let one = |id: u64| Words(vec![id, room]);
    // The same register with its size (bits 55 to 52) as a power of two bytes.
    let sized = |id: u64, power: u64| one((id & !(0xf << 52)) | (power << 52));
    let sctlr = reg::system(3, 0, 1, 0, 0);
    // No mode at all, and EL2h.
    let pstates = [0x3c2_u64, 0x3c9];
    let modes = pstates.as_ptr().expose_provenance() as u64;
    check(
        vcpu.fd.as_raw_fd(),
        rows! {
            "read from nowhere" => GET_ONE_REG, Number(NOWHERE), EFAULT;
            "write from nowhere" => SET_ONE_REG, Number(NOWHERE), EFAULT;
            "core register to nowhere" => GET_ONE_REG, Words(vec![reg::x(3), NOWHERE]), EFAULT;
            "core register from nowhere" => SET_ONE_REG, Words(vec![reg::x(3), NOWHERE]), EFAULT;
            "system register to nowhere" => GET_ONE_REG, Words(vec![sctlr, NOWHERE]), EFAULT;
            "system register from nowhere" => SET_ONE_REG, Words(vec![sctlr, NOWHERE]), EFAULT;
            "identifier 0" => GET_ONE_REG, one(0), EINVAL;
            "another architecture" => GET_ONE_REG, one(0x2030_0000_0000_0000), EINVAL;
            "unknown kind of register" => GET_ONE_REG, one(KVM_REG_ARM64 | (3 << 52) | (0x7f << 16)), ENOENT;
            "core register in 4 bytes" => GET_ONE_REG, sized(reg::x(3), 2), EINVAL;
            "core register in 16 bytes" => SET_ONE_REG, sized(reg::x(3), 4), EINVAL;
            "vector register in 8 bytes" => GET_ONE_REG, sized(reg::v(1), 3), EINVAL;
            "half of a core register" => GET_ONE_REG, one(reg::x(3) + 1), EINVAL;
            "core register past the last" => GET_ONE_REG, one(reg::x(0) + 0x1000), ENOENT;
            "system register in 4 bytes" => GET_ONE_REG, sized(sctlr, 2), ENOENT;
            "unknown system register" => GET_ONE_REG, one(reg::system(3, 7, 15, 15, 7)), ENOENT;
            "register of EL2" => SET_ONE_REG, one(reg::system(3, 4, 1, 1, 0)), ENOENT;
            "PSTATE of an unknown mode" => SET_ONE_REG, Words(vec![reg::PSTATE, modes]), EINVAL;
            "PSTATE of EL2" => SET_ONE_REG, Words(vec![reg::PSTATE, modes + 8]), EINVAL;
        },
    )
}

/// All the refusals in one VM, and then it runs.
fn works(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    let nowhere = kvm_userspace_memory_region {
        slot: 0,
        guest_phys_addr: EXTRA + 1,
        memory_size: page_size() as u64,
        ..Default::default()
    };
    // SAFETY: The call is refused.
    let refused = raw::errno(unsafe { machine.vm.set_user_memory_region(nowhere) });
    ensure!(refused == Err(Errno::EINVAL), "{refused:?}");
    // SAFETY: The calls take numbers only.
    let refused = unsafe { raw::ioctl(&vcpu.fd, RUN, 7) };
    ensure!(refused == Err(Errno::EINVAL), "{refused:?}");
    let result = vcpu.call(Program::Hello, &[])?;
    ensure!(result == 0x600d, "result {result:#x}");
    Ok(())
}
