// SPDX-License-Identifier: GPL-2.0-only

//! As `guest_bad_input`, for the calls that configure a VM: what signals and collects its writes, its lines, its counters, its
//! firmware, its attributes.

use std::os::fd::AsRawFd;

use anyhow::{
    ensure,
    Context,
    Result, //
};
use kvm_bindings::{
    KVM_MEM_LOG_DIRTY_PAGES,
    KVM_MEM_READONLY, //
};
use kvm_ioctls::Kvm;
use nix::{
    errno::Errno,
    libc, //
};

use super::guest_bad_input::{
    check,
    region,
    rows,
    Answer,
    Argument::{
        Number,
        Words, //
    },
    Row,
    EEXIST,
    EFAULT,
    EINVAL,
    ENOENT,
    ENXIO,
    NOWHERE,
    OK, //
};
use crate::{
    ktap::Test,
    kvm::{
        calls::*,
        host,
        image::Program,
        machine::{
            Machine,
            EXTRA, //
        },
        ram::{
            page_size,
            Ram, //
        },
    },
};

const EBADF: Answer = Err(Errno::EBADF);
const EBUSY: Answer = Err(Errno::EBUSY);
const ENODEV: Answer = Err(Errno::ENODEV);
const ENOSPC: Answer = Err(Errno::ENOSPC);

pub fn test() -> Test {
    host::test()
        .case("capabilities_are_kvms", host::with(capabilities))
        .case("interrupt_lines", host::with(lines))
        .case("counters_and_devices", host::with(devices))
        .case("doorbells", host::with(doorbells))
        .case("zones_up_to_the_limit", host::with(zones))
        .case("smccc_filters", host::with(filters))
        .case("stolen_time", host::with(stolen))
        .case("readonly_slot_with_a_log", host::with(readonly_log))
}

/// What does not depend on the machine, and what only a VM can be asked.
fn capabilities(kvm: &Kvm) -> Result<()> {
    const ANSWERS: [(&str, u64, i32); 20] = [
        ("USER_MEMORY", 3, 1),
        ("DESTROY_MEMORY_REGION_WORKS", 21, 1),
        ("JOIN_MEMORY_REGIONS_WORKS", 30, 1),
        ("IOEVENTFD", 36, 1),
        ("ONE_REG", 70, 1),
        ("NR_MEMSLOTS", 10, 32767),
        ("READONLY_MEM", 81, 1),
        ("ENABLE_CAP_VM", 98, 1),
        ("CHECK_EXTENSION_VM", 105, 1),
        ("IOEVENTFD_ANY_LENGTH", 122, 1),
        ("IMMEDIATE_EXIT", 136, 1),
        ("COALESCED_PIO", 162, 1),
        ("MANUAL_DIRTY_LOG_PROTECT2", 168, 3),
        ("ARM_IRQ_LINE_LAYOUT_2", 174, 1),
        ("ARM_NISV_TO_USER", 177, 1),
        ("ARM_INJECT_EXT_DABT", 178, 1),
        ("BINARY_STATS_FD", 203, 1),
        ("SYSTEM_EVENT_DATA", 215, 1),
        ("ARM_SYSTEM_SUSPEND", 216, 1),
        ("an unknown one", 0xffff, 0),
    ];
    /// KVM_CAP_ARM_CACHEABLE_PFNMAP_SUPPORTED.
    const CACHEABLE_PFNMAP: u64 = 243;
    let machine = Machine::new(kvm)?;
    let mut wrong = Vec::new();
    for (name, number, expected) in ANSWERS {
        let answers = [
            kvm.check_extension_raw(number),
            machine.vm.check_extension_raw(number),
        ];
        if answers != [expected; 2] {
            wrong.push(format!("{name}: {answers:?}, expected {expected}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    let system = kvm.check_extension_raw(CACHEABLE_PFNMAP);
    let vm = machine.vm.check_extension_raw(CACHEABLE_PFNMAP);
    ensure!(
        system == -1 && (0..=1).contains(&vm),
        "cacheable PFNMAP: {system} and {vm}"
    );
    Ok(())
}

fn lines(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let _vcpu = machine.vcpu(0)?;
    // Type in bits 31:24 (0: line of a CPU, 1: SPI, 2: PPI), vCPU in bits 23:16, number in the rest; level above it.
    let line =
        |kind: u64, vcpu: u64, number: u64| Words(vec![(kind << 24) | (vcpu << 16) | number]);
    check(
        machine.vm.as_raw_fd(),
        rows! {
            "from nowhere" => IRQ_LINE, Number(NOWHERE), EFAULT;
            "SPI without a controller" => IRQ_LINE, line(1, 0, 32), ENXIO;
            "PPI without a controller" => IRQ_LINE, line(2, 0, 27), ENXIO;
            "unknown type" => IRQ_LINE, line(3, 0, 0), EINVAL;
            "a vCPU that is not there" => IRQ_LINE, line(0, 1, 0), EINVAL;
            "a vCPU that is not there, second field" => IRQ_LINE, line(1 << 4, 0, 0), EINVAL;
            "unknown line" => IRQ_LINE, line(0, 0, 2), EINVAL;
            "FIQ" => IRQ_LINE, line(0, 0, 1), OK;
        },
    )
}

fn devices(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    check(
        machine.vm.as_raw_fd(),
        rows! {
            "offset from nowhere" => SET_COUNTER_OFFSET, Number(NOWHERE), EFAULT;
            "offset with reserved bits" => SET_COUNTER_OFFSET, Words(vec![0, 1]), EINVAL;
            "device from nowhere" => CREATE_DEVICE, Number(NOWHERE), EFAULT;
            "unknown device" => CREATE_DEVICE, Words(vec![99]), ENODEV;
            "address from nowhere" => SET_DEVICE_ADDR, Number(NOWHERE), EFAULT;
            "address of an unknown device" => SET_DEVICE_ADDR, Words(vec![7 << 16, 0]), ENODEV;
            "masks to nowhere" => GET_REG_WRITABLE_MASKS, Number(NOWHERE), EFAULT;
            "masks of an unknown range" => GET_REG_WRITABLE_MASKS, Words(vec![0, 1]), EINVAL;
            "masks with reserved bits" => GET_REG_WRITABLE_MASKS, Words(vec![0, 1 << 32]), EINVAL;
            "masks, their place nowhere" => GET_REG_WRITABLE_MASKS, Words(vec![NOWHERE]), EFAULT;
            "attribute of a VM" => HAS_DEVICE_ATTR, Words(vec![0, 0]), OK;
            "unknown attribute of the group" => HAS_DEVICE_ATTR, Words(vec![0, 1]), ENXIO;
            "reading an attribute of a VM" => GET_DEVICE_ATTR, Words(vec![0, 0]), EINVAL;
        },
    )
}

/// One write must not ring two bells.
fn doorbells(kvm: &Kvm) -> Result<()> {
    const DATAMATCH: u64 = 1;
    const DEASSIGN: u64 = 4;
    const AT: u64 = 0x0a00_1000;
    let machine = Machine::new(kvm)?;
    // SAFETY: The call makes a file, which is closed below.
    let event = Errno::result(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) }).context("eventfd")?;
    let bell = |value: u64, at: u64, bytes: u64, flags: u64, fd: i32| {
        Words(vec![value, at, bytes | (u64::from(fd as u32) << 32), flags])
    };
    let rows = rows! {
        "any value" => IOEVENTFD, bell(0, AT, 4, 0, event), OK;
        "the same again" => IOEVENTFD, bell(0, AT, 4, 0, event), EEXIST;
        "one value of those" => IOEVENTFD, bell(7, AT, 4, DATAMATCH, event), EEXIST;
        "any length" => IOEVENTFD, bell(0, AT, 0, 0, event), EEXIST;
        "another length" => IOEVENTFD, bell(0, AT, 8, 0, event), OK;
        "a value elsewhere" => IOEVENTFD, bell(7, AT + 8, 2, DATAMATCH, event), OK;
        "another value there" => IOEVENTFD, bell(8, AT + 8, 2, DATAMATCH, event), OK;
        "the first value there" => IOEVENTFD, bell(7, AT + 8, 2, DATAMATCH, event), EEXIST;
        "a value of no length" => IOEVENTFD, bell(7, AT + 16, 0, DATAMATCH, event), EINVAL;
        "no file" => IOEVENTFD, bell(0, AT + 16, 4, 0, -1), EBADF;
        "removing another length" => IOEVENTFD, bell(0, AT, 2, DEASSIGN, event), ENOENT;
        "removing another value" => IOEVENTFD, bell(9, AT + 8, 2, DATAMATCH | DEASSIGN, event), ENOENT;
        "removing a value as any" => IOEVENTFD, bell(7, AT + 8, 2, DEASSIGN, event), ENOENT;
        "removing" => IOEVENTFD, bell(7, AT + 8, 2, DATAMATCH | DEASSIGN, event), OK;
        "removing again" => IOEVENTFD, bell(7, AT + 8, 2, DATAMATCH | DEASSIGN, event), ENOENT;
        "removing without a file" => IOEVENTFD, bell(0, AT, 4, DEASSIGN, -1), EBADF;
    };
    let result = check(machine.vm.as_raw_fd(), rows);
    // SAFETY: The file is ours, and nobody uses it any more.
    unsafe { libc::close(event) };
    result
}

/// A thousand zones of memory and a thousand of ports.
fn zones(kvm: &Kvm) -> Result<()> {
    const LIMIT: u64 = 1000;
    let machine = Machine::new(kvm)?;
    let zone = |at: u64, bytes: u64, port: u64| Words(vec![at, bytes | (port << 32)]);
    for port in [0, 1] {
        let mut rows: Vec<Row> = (0..LIMIT)
            .map(|number| {
                let zone = zone(number << 12, 0x1000, port);
                ("a zone", REGISTER_COALESCED_MMIO, zone, OK)
            })
            .collect();
        rows.extend(rows! {
            "one zone too many" => REGISTER_COALESCED_MMIO, zone(LIMIT << 12, 0x1000, port), ENOSPC;
            "removing what is not there" => UNREGISTER_COALESCED_MMIO, zone(LIMIT << 12, 0x1000, port), OK;
            "still one too many" => REGISTER_COALESCED_MMIO, zone(LIMIT << 12, 0x1000, port), ENOSPC;
            "removing by a part of it" => UNREGISTER_COALESCED_MMIO, zone(0x10, 4, port), OK;
            "room again" => REGISTER_COALESCED_MMIO, zone(0, 0x1000, port), OK;
        });
        check(machine.vm.as_raw_fd(), rows)?;
    }
    check(
        machine.vm.as_raw_fd(),
        rows! {
            "removing a zone of a third kind" => UNREGISTER_COALESCED_MMIO, zone(0, 4, 2), EINVAL;
            "removing from nowhere" => UNREGISTER_COALESCED_MMIO, Number(NOWHERE), EFAULT;
        },
    )
}

fn filters(kvm: &Kvm) -> Result<()> {
    const STANDARD: u64 = 0x8400_0050;
    let machine = Machine::new(kvm)?;
    // First function and number of them; action, padding. They live to the end of the case.
    let filter = |first: u64, count: u64, action: u64, padding: u64| {
        let words = vec![first | (count << 32), action | (padding << 8), 0, 0].leak();
        Words(vec![0, 0, words.as_ptr().expose_provenance() as u64])
    };
    let set = SET_DEVICE_ATTR;
    check(
        machine.vm.as_raw_fd(),
        rows! {
            "from nowhere" => set, Words(vec![0, 0, NOWHERE]), EFAULT;
            "another attribute" => set, Words(vec![0, 1, NOWHERE]), ENXIO;
            "no functions" => set, filter(STANDARD, 0, 1, 0), EINVAL;
            "past the last function" => set, filter(0xffff_ffff, 2, 1, 0), EINVAL;
            "unknown action" => set, filter(STANDARD, 1, 3, 0), EINVAL;
            "padding" => set, filter(STANDARD, 1, 1, 1), EINVAL;
            "architectural calls" => set, filter(0x8000_8000, 1, 1, 0), EEXIST;
            "architectural calls of 64 bits" => set, filter(0xc000_ffff, 2, 1, 0), EEXIST;
            "four functions" => set, filter(STANDARD, 4, 1, 0), OK;
            "one of them again" => set, filter(STANDARD + 3, 2, 2, 0), EEXIST;
            "the next" => set, filter(STANDARD + 4, 1, 2, 0), OK;
        },
    )?;
    let result = machine.vcpu(0)?.call(Program::Hvc, &[STANDARD])?;
    ensure!(result == u64::MAX, "a denied function answers {result:#x}");
    check(
        machine.vm.as_raw_fd(),
        rows! {
            "when a vCPU has run" => set, filter(0x8600_0000, 1, 1, 0), EBUSY;
        },
    )
}

/// The address of stolen time: of memory that can be written, once.
fn stolen(kvm: &Kvm) -> Result<()> {
    /// KVM_ARM_VCPU_PVTIME_CTRL, in the upper half of the first word.
    const GROUP: u64 = 2 << 32;
    let machine = Machine::new(kvm)?;
    let ram = Ram::new(2 * page_size())?;
    machine.add(1, EXTRA, &ram, KVM_MEM_READONLY)?;
    machine.add(2, EXTRA + (64 << 20), &ram, 0)?;
    let vcpu = machine.vcpu(0)?;
    let at = |ipa: u64| {
        let word = vec![ipa].leak();
        Words(vec![GROUP, 0, word.as_ptr().expose_provenance() as u64])
    };
    check(
        vcpu.fd.as_raw_fd(),
        rows! {
            "is there" => HAS_DEVICE_ATTR, Words(vec![GROUP]), OK;
            "another attribute" => SET_DEVICE_ATTR, Words(vec![GROUP, 1]), ENXIO;
            "from nowhere" => SET_DEVICE_ATTR, Words(vec![GROUP, 0, NOWHERE]), EFAULT;
            "to nowhere" => GET_DEVICE_ATTR, Words(vec![GROUP, 0, NOWHERE]), EFAULT;
            "unaligned" => SET_DEVICE_ATTR, at(EXTRA + (64 << 20) + 32), EINVAL;
            "no memory" => SET_DEVICE_ATTR, at(EXTRA + (128 << 20)), EINVAL;
            "memory that cannot be written" => SET_DEVICE_ATTR, at(EXTRA), EINVAL;
            "memory" => SET_DEVICE_ATTR, at(EXTRA + (64 << 20) + 64), OK;
            "again" => SET_DEVICE_ATTR, at(EXTRA + (64 << 20) + 128), EEXIST;
            "again, unaligned" => SET_DEVICE_ATTR, at(1), EINVAL;
        },
    )
}

fn readonly_log(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let ram = Ram::new(16 * page_size())?;
    let (bytes, address) = (ram.len() as u64, ram.address());
    let both = KVM_MEM_READONLY | KVM_MEM_LOG_DIRTY_PAGES;
    check(
        machine.vm.as_raw_fd(),
        rows! {
            "new" => SET_USER_MEMORY_REGION, region(1, both, EXTRA, bytes, address), OK;
            "no log any more" => SET_USER_MEMORY_REGION, region(1, KVM_MEM_READONLY, EXTRA, bytes, address), OK;
            "a log again" => SET_USER_MEMORY_REGION, region(1, both, EXTRA, bytes, address), OK;
            "writable" => SET_USER_MEMORY_REGION, region(1, KVM_MEM_LOG_DIRTY_PAGES, EXTRA, bytes, address), EINVAL;
        },
    )?;
    let log = machine
        .vm
        .get_dirty_log(1, ram.len())
        .context("KVM_GET_DIRTY_LOG")?;
    ensure!(log.iter().all(|word| *word == 0), "dirty are {log:x?}");
    Ok(())
}
