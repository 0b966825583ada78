// SPDX-License-Identifier: GPL-2.0-only

//! What a guest without interrupt controller gets from outside: its two interrupt lines (KVM_IRQ_LINE), and what its counters
//! show (KVM_ARM_SET_COUNTER_OFFSET).
//!
//! Source: `Documentation/virt/kvm/api.rst`, 4.25 and 4.138.

use std::{
    arch::asm,
    thread,
    time::Duration, //
};

use anyhow::{
    ensure,
    Context,
    Result, //
};
use kvm_bindings::{
    KVM_CAP_ARM_INJECT_SERROR_ESR,
    KVM_CAP_ARM_IRQ_LINE_LAYOUT_2, //
};
use kvm_ioctls::Kvm;
use nix::errno::Errno;

use crate::{
    ktap::{
        note,
        Test, //
    },
    kvm::{
        calls, host,
        image::Program,
        machine::Machine,
        poll, raw, reg,
        runner::Runner,
        vcpu::{
            Exit,
            Vcpu, //
        },
    },
};

/// `KVM_CAP_COUNTER_OFFSET`.
const CAP_COUNTER_OFFSET: u64 = 227;

/// Numbers of the lines: IRQ and FIQ.
const LINES: [u32; 2] = [0, 1];
/// Their bits in ISR_EL1.
const ISR: [u64; 2] = [1 << 7, 1 << 6];
/// KVM_REG_ARM_TIMER_CNT and KVM_REG_ARM_PTIMER_CNT.
const COUNTERS: [u64; 2] = [reg::system(3, 3, 14, 3, 2), reg::system(3, 3, 14, 0, 1)];

pub fn test() -> Test {
    host::test()
        .case("line_up_before_the_guest_waits", host::with(before))
        .case("line_up_wakes_a_waiting_guest", host::with(wakes))
        .case("line_down_is_not_taken", host::with(down))
        .case("line_is_of_one_vcpu_only", host::with(one_vcpu))
        .case("serror_syndrome_reaches_the_guest", host::with(serror))
        .case("counters_are_behind_by_the_offset", host::with(offset))
        .case("counter_offset_of_a_running_vcpu_ebusy", host::with(busy))
        .case("counter_offset_of_64_vcpus", host::with(offset_of_many))
}

/// A vCPU that is about to let interrupts in.
fn waiting(machine: &Machine, id: u64) -> Result<Vcpu> {
    let mut vcpu = machine.vcpu(id)?;
    vcpu.start(Program::Interrupt, &[])?;
    let exit = vcpu.run();
    ensure!(matches!(exit, Exit::Report(_)), "{exit:x?}");
    Ok(vcpu)
}

fn before(kvm: &Kvm) -> Result<()> {
    ensure!(
        kvm.check_extension_raw(KVM_CAP_ARM_IRQ_LINE_LAYOUT_2.into()) == 1,
        "KVM_CAP_ARM_IRQ_LINE_LAYOUT_2 is not offered"
    );
    for (line, isr) in LINES.into_iter().zip(ISR) {
        let machine = Machine::new(kvm)?;
        let mut vcpu = waiting(&machine, 0)?;
        machine.set_line(0, line, true)?;
        let got = vcpu.finish()?;
        ensure!(got == isr, "line {line}: ISR_EL1 was {got:#x}");
    }
    Ok(())
}

fn wakes(kvm: &Kvm) -> Result<()> {
    for (line, isr) in LINES.into_iter().zip(ISR) {
        let machine = Machine::new(kvm)?;
        let vcpu = waiting(&machine, 0)?;
        let runner = Runner::start(vcpu, Vcpu::finish)?;
        thread::sleep(Duration::from_millis(50));
        ensure!(!runner.is_finished(), "line {line}: WFI did not wait");
        machine.set_line(0, line, true)?;
        let (_, got) = runner.join()?;
        ensure!(got == isr, "line {line}: ISR_EL1 was {got:#x}");
    }
    Ok(())
}

/// Up and down again before the guest looks: then the other line.
fn down(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let mut vcpu = waiting(&machine, 0)?;
    machine.set_line(0, LINES[0], true)?;
    machine.set_line(0, LINES[0], false)?;
    machine.set_line(0, LINES[1], true)?;
    let got = vcpu.finish()?;
    ensure!(got == ISR[1], "ISR_EL1 was {got:#x}");
    Ok(())
}

fn one_vcpu(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let runners = [0, 1]
        .into_iter()
        .map(|id| Runner::start(waiting(&machine, id)?, Vcpu::finish))
        .collect::<Result<Vec<_>>>()?;
    machine.set_line(1, LINES[0], true)?;
    poll(|| runners[1].is_finished()).context("vCPU 1 does not wake up")?;
    thread::sleep(Duration::from_millis(20));
    ensure!(!runners[0].is_finished(), "vCPU 0 woke up");
    machine.set_line(0, LINES[0], true)?;
    for runner in runners {
        let (_, got) = runner.join()?;
        ensure!(got == ISR[0], "ISR_EL1 was {got:#x}");
    }
    Ok(())
}

/// `struct kvm_vcpu_events` as words: pending, has ESR and external abort are the first bytes; then ESR; the rest is reserved.
type Events = [u64; 8];

fn events(vcpu: &Vcpu, request: u32, events: &mut Events) -> Result<(), Errno> {
    // SAFETY: The call reads or writes 64 bytes, which live until it is over.
    unsafe { raw::ioctl(&vcpu.fd, request, events.as_mut_ptr() as u64) }.map(|_| ())
}

/// With RAS user space chooses the syndrome. The SError waits until the guest does not mask it any more.
fn serror(kvm: &Kvm) -> Result<()> {
    /// ESR_EL1: class of an SError, 32 bits long; ISS: IMPLEMENTATION DEFINED syndrome.
    const CLASS: u64 = (0x2f << 26) | (1 << 25);
    const ISS: u64 = (1 << 24) | 0x1234;
    let has_ras = kvm.check_extension_raw(KVM_CAP_ARM_INJECT_SERROR_ESR.into()) == 1;
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    let mut none: Events = [0; 8];
    events(&vcpu, calls::GET_VCPU_EVENTS, &mut none).context("KVM_GET_VCPU_EVENTS")?;
    let capable = u64::from(has_ras) << 8;
    ensure!(none == [capable, 0, 0, 0, 0, 0, 0, 0], "events: {none:x?}");
    // More than an ISS, or a syndrome without RAS.
    let wrong = [
        0x0101,
        if has_ras { 1 << 25 } else { ISS },
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    let refused = events(&vcpu, calls::SET_VCPU_EVENTS, &mut { wrong });
    ensure!(refused == Err(Errno::EINVAL), "{refused:?}");
    let iss = if has_ras { ISS } else { 0 };
    let pending: Events = [1 | capable, iss, 0, 0, 0, 0, 0, 0];
    vcpu.start(Program::Serror, &[])?;
    events(&vcpu, calls::SET_VCPU_EVENTS, &mut { pending }).context("KVM_SET_VCPU_EVENTS")?;
    let mut got: Events = [0; 8];
    events(&vcpu, calls::GET_VCPU_EVENTS, &mut got).context("KVM_GET_VCPU_EVENTS")?;
    ensure!(got == pending, "events: {got:x?}, expected {pending:x?}");
    let exit = vcpu.run();
    let Exit::Fault(esr) = exit else {
        anyhow::bail!("{exit:x?}");
    };
    ensure!(
        esr & !0x1ff_ffff == CLASS && (!has_ras || esr & 0x1ff_ffff == ISS),
        "ESR_EL1 {esr:#x}"
    );
    let mut got: Events = [0; 8];
    events(&vcpu, calls::GET_VCPU_EVENTS, &mut got).context("KVM_GET_VCPU_EVENTS")?;
    ensure!(got == none, "after it was taken: {got:x?}");
    note(format!("ESR_EL1 {esr:#x}"));
    Ok(())
}

/// The host's counter, which is what a guest's is counted from.
fn counter() -> u64 {
    let value;
    // SAFETY: User space may read the counter.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) value, options(nomem, nostack)) };
    value
}

fn set_offset(machine: &Machine, offset: u64) -> Result<(), Errno> {
    let words = [offset, 0];
    // SAFETY: The call reads 16 bytes, which live until it is over.
    unsafe {
        raw::ioctl(
            &machine.vm,
            calls::SET_COUNTER_OFFSET,
            words.as_ptr() as u64,
        )
    }
    .map(|_| ())
}

/// The guest's counters are the host's less `offset`.
fn expect_offset(vcpu: &mut Vcpu, offset: u64) -> Result<()> {
    let first = counter().wrapping_sub(offset);
    vcpu.call(Program::Counters, &[])?;
    let last = counter().wrapping_sub(offset);
    let [virtual_, physical, ..] = vcpu.channel().results();
    for (name, value) in [("CNTVCT_EL0", virtual_), ("CNTPCT_EL0", physical)] {
        ensure!(
            (first..=last).contains(&value),
            "{name} is {value:#x}, not from {first:#x} to {last:#x}"
        );
    }
    Ok(())
}

fn offset(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    ensure!(
        kvm.check_extension_raw(CAP_COUNTER_OFFSET) == 1,
        "KVM_CAP_COUNTER_OFFSET is not offered"
    );
    let mut vcpu = machine.vcpu(0)?;
    // A guest that has counted for long; one whose counters are ahead of the host's; and the host's own.
    for offset in [counter() / 2, 0u64.wrapping_sub(7 << 40), 0] {
        set_offset(&machine, offset)
            .with_context(|| format!("KVM_ARM_SET_COUNTER_OFFSET {offset:#x}"))?;
        expect_offset(&mut vcpu, offset)?;
        // Writes of the counters are accepted and do nothing from now on.
        for id in COUNTERS {
            vcpu.set(id, 0x1234_5678)?;
        }
        expect_offset(&mut vcpu, offset)?;
        // What user space reads is what the guest does.
        for id in COUNTERS {
            let first = counter().wrapping_sub(offset);
            let value = vcpu.get(id)?;
            let last = counter().wrapping_sub(offset);
            ensure!(
                (first..=last).contains(&value),
                "{id:#x} is {value:#x}, not from {first:#x} to {last:#x}"
            );
        }
    }
    note("both counters follow three offsets");
    Ok(())
}

/// The call stops all of them: more mutexes than lockdep can tell apart.
fn offset_of_many(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let mut vcpus = (0..64)
        .map(|number| machine.vcpu(number))
        .collect::<Result<Vec<_>>>()?;
    let offset = counter() / 2;
    set_offset(&machine, offset).context("KVM_ARM_SET_COUNTER_OFFSET")?;
    for vcpu in [0, 63] {
        expect_offset(&mut vcpus[vcpu], offset)?;
    }
    Ok(())
}

fn busy(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    vcpu.start(Program::Spin, &[])?;
    let channel = vcpu.channel();
    let runner = Runner::start(vcpu, Vcpu::finish)?;
    poll(|| channel.progress() != 0).context("the guest does not run")?;
    let refused = set_offset(&machine, 1);
    channel.stop();
    runner.join()?;
    ensure!(refused == Err(Errno::EBUSY), "{refused:?}");
    set_offset(&machine, 1).context("when it has stopped")
}
