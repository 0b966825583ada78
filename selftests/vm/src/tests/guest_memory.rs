// SPDX-License-Identifier: GPL-2.0-only

//! Memory of guests: slots that come, move and go, read-only slots, the dirty log, huge pages, faults.

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
    kvm_clear_dirty_log,
    kvm_clear_dirty_log__bindgen_ty_1,
    kvm_enable_cap,
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
    KVM_DIRTY_LOG_INITIALLY_SET,
    KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
    KVM_MEM_LOG_DIRTY_PAGES,
    KVM_MEM_READONLY, //
};
use kvm_ioctls::Kvm;
use nix::{
    errno::Errno,
    sys::mman::ProtFlags, //
};

use crate::{
    guest::page,
    ktap::{
        note,
        Skip,
        Test, //
    },
    kvm::{
        calls, host,
        image::Program,
        machine::{
            Machine,
            EXTRA, //
        },
        poll,
        ram::{
            huge_size,
            page_size, //
            Ram,
        },
        raw,
        runner::Runner,
        stats,
        vcpu::{
            Exit,
            Vcpu, //
        },
    },
};

/// Slot of the memory at [`EXTRA`].
const SLOT: u32 = 7;
/// Pages of the memory at [`EXTRA`], unless a case says otherwise: no multiple of 64.
const PAGES: usize = 200;

pub fn test() -> Test {
    host::test()
        .case("guest_and_host_see_the_same_memory", host::with(same))
        .case("slot_is_deleted_and_comes_back", host::with(deletes))
        .case("slot_moves", host::with(moves))
        .case("slots_change_under_a_running_vcpu", host::with(under_load))
        .case(
            "readonly_slot_reads_and_does_not_write",
            host::with(readonly),
        )
        .case("slot_becomes_readonly_by_replacement", host::with(replaced))
        .case("dirty_log_names_each_page_once", host::with(dirty))
        .case(
            "dirty_log_manual_protect",
            host::with(|kvm| manual(kvm, false)),
        )
        .case(
            "dirty_log_initially_set",
            host::with(|kvm| manual(kvm, true)),
        )
        .case("dirty_log_loses_no_write", host::with(dirty_under_load))
        .case("dirty_log_loses_no_write_huge", host::with(dirty_huge))
        .case("huge_pages_become_blocks", host::with(blocks))
        .case("inaccessible_memory_efault", host::with(inaccessible))
        .case("store_without_syndrome", host::with(no_syndrome))
}

/// A machine with extra memory at [`EXTRA`], and its vCPU.
fn setup(kvm: &Kvm, ram: &Ram, flags: u32) -> Result<(Machine, Vcpu)> {
    let machine = Machine::new(kvm)?;
    machine.add(SLOT, EXTRA, ram, flags)?;
    let vcpu = machine.vcpu(0)?;
    Ok((machine, vcpu))
}

/// Arguments of a program that goes through all pages of `ram` at [`EXTRA`], one word of each.
fn pages_of(ram: &Ram) -> [u64; 3] {
    [EXTRA, ram.len() as u64, page_size() as u64]
}

fn fill(ram: &Ram, factor: u64) -> u64 {
    let pages = (ram.len() / page_size()) as u64;
    for page in 0..pages {
        ram.set(page * page_size() as u64, factor * (page + 1));
    }
    factor * pages * (pages + 1) / 2
}

fn expect_sum(vcpu: &mut Vcpu, ram: &Ram, sum: u64) -> Result<()> {
    let got = vcpu.call(Program::Read, &pages_of(ram))?;
    ensure!(got == sum, "the guest reads {got:#x}, expected {sum:#x}");
    Ok(())
}

fn same(kvm: &Kvm) -> Result<()> {
    let ram = Ram::new(PAGES * page_size())?;
    let (_machine, mut vcpu) = setup(kvm, &ram, 0)?;
    expect_sum(&mut vcpu, &ram, 0)?;
    let sum = fill(&ram, 3);
    expect_sum(&mut vcpu, &ram, sum)?;
    let [gpa, bytes, step] = pages_of(&ram);
    let writes = vcpu.call(Program::Write, &[gpa, bytes, step, 0x1000])?;
    ensure!(writes == PAGES as u64, "{writes} writes");
    for page in 0..PAGES as u64 {
        let got = ram.get(page * page_size() as u64);
        ensure!(got == 0x1000 + page, "page {page} has {got:#x}");
    }
    Ok(())
}

fn expect_mmio(vcpu: &mut Vcpu, ram: &Ram, gpa: u64) -> Result<()> {
    vcpu.start(Program::Read, &[gpa, ram.len() as u64, page_size() as u64])?;
    let exit = vcpu.run();
    ensure!(
        exit == Exit::Read(gpa, 8),
        "{exit:x?}, expected MMIO at {gpa:#x}"
    );
    Ok(())
}

fn deletes(kvm: &Kvm) -> Result<()> {
    let ram = Ram::new(PAGES * page_size())?;
    let (machine, mut vcpu) = setup(kvm, &ram, 0)?;
    for turn in 1..=10 {
        let sum = fill(&ram, turn);
        expect_sum(&mut vcpu, &ram, sum)?;
        machine.remove(SLOT)?;
        expect_mmio(&mut vcpu, &ram, EXTRA).with_context(|| format!("turn {turn}"))?;
        machine.add(SLOT, EXTRA, &ram, 0)?;
    }
    Ok(())
}

fn moves(kvm: &Kvm) -> Result<()> {
    const AWAY: u64 = 64 << 20;
    let ram = Ram::new(PAGES * page_size())?;
    let (machine, mut vcpu) = setup(kvm, &ram, 0)?;
    let sum = fill(&ram, 5);
    expect_sum(&mut vcpu, &ram, sum)?;
    machine.add(SLOT, EXTRA + AWAY, &ram, 0)?;
    expect_mmio(&mut vcpu, &ram, EXTRA)?;
    let [gpa, bytes, step] = pages_of(&ram);
    let got = vcpu.call(Program::Read, &[gpa + AWAY, bytes, step])?;
    ensure!(got == sum, "at its new place it reads {got:#x}");
    machine.add(SLOT, EXTRA, &ram, 0)?;
    expect_mmio(&mut vcpu, &ram, EXTRA + AWAY)?;
    expect_sum(&mut vcpu, &ram, sum)
}

/// While the slot is away, the guest's reads are MMIO and get the same values, so its sums are always right.
fn under_load(kvm: &Kvm) -> Result<()> {
    const TURNS: u32 = 100;
    let ram = Ram::new(PAGES * page_size())?;
    let (machine, mut vcpu) = setup(kvm, &ram, 0)?;
    let sum = fill(&ram, 7);
    vcpu.start(Program::ReadOn, &pages_of(&ram))?;
    let channel = vcpu.channel();
    let runner = Runner::start(vcpu, |vcpu| {
        let mut emulated = 0_u64;
        loop {
            let exit = vcpu.run_with(|address, data| {
                let page = (address - EXTRA) / page_size() as u64;
                data.copy_from_slice(&(7 * (page + 1)).to_le_bytes());
            });
            match exit {
                Exit::Done(result) => return Ok((emulated, result)),
                Exit::Read(..) => emulated += 1,
                exit => bail!("{exit:x?}"),
            }
        }
    })?;
    for turn in 0..TURNS {
        let before = channel.progress();
        machine.remove(SLOT)?;
        if turn % 4 == 0 {
            thread::sleep(Duration::from_micros(500));
        }
        machine.add(SLOT, EXTRA, &ram, 0)?;
        poll(|| runner.is_finished() || channel.progress() > before)?;
    }
    channel.stop();
    let (_, (emulated, result)) = runner.join()?;
    ensure!(result == sum, "the last sum is {result:#x}, not {sum:#x}");
    ensure!(emulated != 0, "no access met the slot away");
    note(format!(
        "{TURNS} turns, {} rounds, {emulated} reads while the slot was away",
        channel.progress()
    ));
    Ok(())
}

fn expect_refused_write(vcpu: &mut Vcpu, ram: &Ram) -> Result<()> {
    vcpu.start(
        Program::Write,
        &[EXTRA, page_size() as u64, page_size() as u64, 0xbad],
    )?;
    let exit = vcpu.run();
    let bytes = 0xbad_u64.to_le_bytes().to_vec();
    ensure!(exit == Exit::Write(EXTRA, bytes), "{exit:x?}");
    ensure!(ram.get(0) != 0xbad, "the write has reached the memory");
    vcpu.finish().map(|_| ())
}

fn readonly(kvm: &Kvm) -> Result<()> {
    let ram = Ram::new(PAGES * page_size())?;
    let (_machine, mut vcpu) = setup(kvm, &ram, KVM_MEM_READONLY)?;
    let sum = fill(&ram, 11);
    // Before and after the page is mapped for reading.
    expect_refused_write(&mut vcpu, &ram)?;
    expect_sum(&mut vcpu, &ram, sum)?;
    expect_refused_write(&mut vcpu, &ram)?;
    expect_sum(&mut vcpu, &ram, sum)
}

/// The flag of a slot cannot change; the slot must be deleted and made anew.
fn replaced(kvm: &Kvm) -> Result<()> {
    let ram = Ram::new(PAGES * page_size())?;
    let (machine, mut vcpu) = setup(kvm, &ram, 0)?;
    let sum = fill(&ram, 13);
    expect_sum(&mut vcpu, &ram, sum)?;
    let changed = machine.add(SLOT, EXTRA, &ram, KVM_MEM_READONLY);
    ensure!(
        changed
            .as_ref()
            .err()
            .and_then(|error| error.downcast_ref::<Errno>())
            == Some(&Errno::EINVAL),
        "the flag was changed: {changed:?}"
    );
    machine.remove(SLOT)?;
    machine.add(SLOT, EXTRA, &ram, KVM_MEM_READONLY)?;
    expect_refused_write(&mut vcpu, &ram)?;
    expect_sum(&mut vcpu, &ram, sum)
}

/// The pages whose bits are set.
fn logged(machine: &Machine, ram: &Ram) -> Result<Vec<usize>> {
    let bits =
        raw::errno(machine.vm.get_dirty_log(SLOT, ram.len())).context("KVM_GET_DIRTY_LOG")?;
    let is_set = |page: &usize| (bits[page / 64] >> (page % 64)) & 1 == 1;
    Ok((0..bits.len() * 64).filter(is_set).collect())
}

/// The guest writes to these pages.
fn write_pages(vcpu: &mut Vcpu, pages: &[usize]) -> Result<()> {
    for page in pages {
        let gpa = EXTRA + (page * page_size()) as u64;
        vcpu.call(Program::Write, &[gpa, 8, 8, 0xd1])?;
    }
    Ok(())
}

fn expect_logged(machine: &Machine, ram: &Ram, pages: &[usize]) -> Result<()> {
    let got = logged(machine, ram)?;
    ensure!(got == pages, "dirty are {got:?}, expected {pages:?}");
    Ok(())
}

fn dirty(kvm: &Kvm) -> Result<()> {
    let ram = Ram::new(PAGES * page_size())?;
    let (machine, mut vcpu) = setup(kvm, &ram, KVM_MEM_LOG_DIRTY_PAGES)?;
    expect_logged(&machine, &ram, &[])?;
    // Reading makes no page dirty, and neither does the host.
    let sum = fill(&ram, 17);
    expect_sum(&mut vcpu, &ram, sum)?;
    expect_logged(&machine, &ram, &[])?;
    for pages in [&[0, 1, 63, 64, 127, 199][..], &[64], &[], &[5, 64, 198]] {
        write_pages(&mut vcpu, pages)?;
        expect_logged(&machine, &ram, pages)?;
        expect_logged(&machine, &ram, &[])?;
    }
    // Pages that were mapped for writing before logging begins.
    machine.add(SLOT, EXTRA, &ram, 0)?;
    write_pages(&mut vcpu, &[9, 10])?;
    machine.add(SLOT, EXTRA, &ram, KVM_MEM_LOG_DIRTY_PAGES)?;
    write_pages(&mut vcpu, &[10, 11])?;
    expect_logged(&machine, &ram, &[10, 11])
}

fn clear(machine: &Machine, first: u64, count: u32, bits: &mut [u64]) -> Result<(), Errno> {
    let mut clear = kvm_clear_dirty_log {
        slot: SLOT,
        num_pages: count,
        first_page: first,
        __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 {
            dirty_bitmap: bits.as_mut_ptr().cast(),
        },
    };
    let argument = (&raw mut clear) as u64;
    // SAFETY: The structure and its bitmap live until the call is over; `count` bits are in it.
    unsafe { raw::ioctl(&machine.vm, calls::CLEAR_DIRTY_LOG, argument) }.map(|_| ())
}

fn manual(kvm: &Kvm, initially_set: bool) -> Result<()> {
    let ram = Ram::new(PAGES * page_size())?;
    let machine = Machine::new(kvm)?;
    let supported = machine
        .vm
        .check_extension_raw(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.into());
    if supported == 0 {
        return Skip::because("KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 is not offered");
    }
    let mut mode = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
    if initially_set {
        mode |= KVM_DIRTY_LOG_INITIALLY_SET;
    }
    let enable = kvm_enable_cap {
        cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
        args: [mode.into(), 0, 0, 0],
        ..Default::default()
    };
    // SAFETY: The structure lives until the call is over.
    unsafe { raw::ioctl(&machine.vm, calls::ENABLE_CAP, (&raw const enable) as u64) }
        .context("KVM_ENABLE_CAP")?;
    machine.add(SLOT, EXTRA, &ram, KVM_MEM_LOG_DIRTY_PAGES)?;
    let mut vcpu = machine.vcpu(0)?;
    let all: Vec<usize> = (0..PAGES).collect();
    if initially_set {
        expect_logged(&machine, &ram, &all)?;
        clear(&machine, 0, PAGES as u32, &mut [u64::MAX; 4]).context("KVM_CLEAR_DIRTY_LOG")?;
    }
    expect_logged(&machine, &ram, &[])?;
    write_pages(&mut vcpu, &[1, 64, 70, 199])?;
    // Reading does not clear.
    expect_logged(&machine, &ram, &[1, 64, 70, 199])?;
    expect_logged(&machine, &ram, &[1, 64, 70, 199])?;
    clear(&machine, 64, 64, &mut [1 << (70 - 64)]).context("KVM_CLEAR_DIRTY_LOG")?;
    expect_logged(&machine, &ram, &[1, 64, 199])?;
    write_pages(&mut vcpu, &[70])?;
    expect_logged(&machine, &ram, &[1, 64, 70, 199])?;
    clear(&machine, 0, PAGES as u32, &mut [u64::MAX; 4]).context("KVM_CLEAR_DIRTY_LOG")?;
    expect_logged(&machine, &ram, &[])?;
    write_pages(&mut vcpu, &[199])?;
    expect_logged(&machine, &ram, &[199])?;
    for (first, count) in [(1, 63), (0, 1), (64, 1000), (256, 64)] {
        let result = clear(&machine, first, count, &mut [0; 16]);
        ensure!(
            result == Err(Errno::EINVAL),
            "{count} pages from {first}: {result:?}"
        );
    }
    Ok(())
}

/// Copies what the log names while the guest writes; in the end the copy is the memory.
fn copy_while_writing(kvm: &Kvm, ram: &Ram, turns: u32) -> Result<()> {
    let (machine, mut vcpu) = setup(kvm, ram, 0)?;
    vcpu.start(Program::WriteOn, &pages_of(ram))?;
    let channel = vcpu.channel();
    let runner = Runner::start(vcpu, |vcpu| vcpu.finish())?;
    poll(|| runner.is_finished() || channel.progress() > 1)?;
    machine.add(SLOT, EXTRA, ram, KVM_MEM_LOG_DIRTY_PAGES)?;
    let mut copy: Vec<u64> = vec![0; ram.len() / page_size()];
    let mut copied = 0;
    let all: Vec<usize> = (0..copy.len()).collect();
    let mut update = |pages: &[usize]| {
        copied += pages.len();
        for page in pages {
            copy[*page] = ram.get((page * page_size()) as u64);
        }
    };
    update(&all);
    for _ in 0..turns {
        let before = channel.progress();
        update(&logged(&machine, ram)?);
        poll(|| runner.is_finished() || channel.progress() > before)?;
    }
    channel.stop();
    let (_, rounds) = runner.join()?;
    update(&logged(&machine, ram)?);
    for (page, value) in copy.iter().enumerate() {
        let memory = ram.get((page * page_size()) as u64);
        ensure!(
            *value == memory && memory == rounds,
            "page {page}: {value} copied, {memory} in memory, after {rounds} rounds"
        );
    }
    note(format!("{rounds} rounds, {copied} pages copied"));
    Ok(())
}

fn dirty_under_load(kvm: &Kvm) -> Result<()> {
    copy_while_writing(kvm, &Ram::new(PAGES * page_size())?, 100)
}

/// Blocks must be split when logging begins.
fn dirty_huge(kvm: &Kvm) -> Result<()> {
    let ram = Ram::huge(2 * huge_size())?;
    copy_while_writing(kvm, &ram, 8)
}

/// Exits of a vCPU while it reads every page of `ram`.
fn exits_for_reading(kvm: &Kvm, ram: &Ram) -> Result<u64> {
    let sum = fill(ram, 1);
    let (_machine, mut vcpu) = setup(kvm, ram, 0)?;
    let count = |vcpu: &Vcpu| stats::counter(&vcpu.fd, "exits");
    let Some(before) = count(&vcpu)? else {
        return Skip::because("there is no counter of exits");
    };
    expect_sum(&mut vcpu, ram, sum)?;
    Ok(count(&vcpu)?.context("no counter")? - before)
}

fn blocks(kvm: &Kvm) -> Result<()> {
    const COUNT: usize = 2;
    let pages = (COUNT * huge_size() / page_size()) as u64;
    page::compact()?;
    let small = exits_for_reading(kvm, &Ram::new(COUNT * huge_size())?)?;
    let huge = exits_for_reading(kvm, &Ram::huge(COUNT * huge_size())?)?;
    ensure!(small >= pages, "{small} exits for {pages} small pages");
    ensure!(
        huge < pages / 4,
        "{huge} exits for {COUNT} huge pages: they are not blocks"
    );
    note(format!(
        "{COUNT} x {} MiB: {small} exits in small pages, {huge} in huge ones",
        huge_size() >> 20
    ));
    Ok(())
}

fn inaccessible(kvm: &Kvm) -> Result<()> {
    let ram = Ram::new(PAGES * page_size())?;
    let (_machine, mut vcpu) = setup(kvm, &ram, 0)?;
    let sum = fill(&ram, 19);
    for mapped_before in [false, true] {
        ram.protect(0, ram.len(), ProtFlags::PROT_NONE)?;
        vcpu.start(Program::Read, &pages_of(&ram))?;
        let exit = vcpu.run();
        ram.protect(0, ram.len(), ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
        ensure!(
            exit == Exit::Failed(Errno::EFAULT),
            "mapped before: {mapped_before}: {exit:x?}"
        );
        // The guest has not advanced, and goes on where it was.
        let got = vcpu.finish()?;
        ensure!(got == sum, "it reads {got:#x} afterwards, not {sum:#x}");
    }
    Ok(())
}

/// The instruction writes its address register back, so the syndrome does not tell what it stores.
fn no_syndrome(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    vcpu.start(Program::MmioNoSyndrome, &[EXTRA, 1])?;
    let exit = vcpu.run();
    ensure!(exit == Exit::Failed(Errno::ENOSYS), "{exit:x?}");
    Ok(())
}
