// SPDX-License-Identifier: GPL-2.0-only

//! KVM_RUN and signals: EINTR, immediate_exit, KVM_SET_SIGNAL_MASK, a vCPU that waits.

use std::{
    sync::atomic::{
        AtomicBool,
        Ordering::Relaxed, //
    },
    thread,
    time::Duration, //
};

use anyhow::{
    ensure,
    Context,
    Result, //
};
use kvm_ioctls::Kvm;
use nix::{
    errno::Errno,
    sys::{
        pthread::{
            pthread_kill,
            pthread_self, //
        },
        signal::{
            SigSet,
            SigmaskHow, //
        },
    },
};

use crate::{
    ktap::{
        note,
        Test, //
    },
    kvm::{
        calls, host,
        image::{
            self,
            Program, //
        },
        machine::Machine,
        poll, raw,
        runner::{
            accept_kicks,
            Runner,
            KICK, //
        },
        vcpu::{
            Exit,
            Vcpu, //
        },
    },
};

/// `KVM_EXIT_INTR`.
const EXIT_INTR: u32 = 10;

pub fn test() -> Test {
    host::test()
        .case("signal_interrupts_a_running_vcpu", host::with(interrupts))
        .case("pending_signal_interrupts_at_once", host::with(pending))
        .case("immediate_exit_runs_nothing", host::with(immediate))
        .case("immediate_exit_completes_mmio", host::with(completes))
        .case("signal_mask_lets_in", host::with(mask_lets_in))
        .case("signal_mask_keeps_out", host::with(mask_keeps_out))
        .case("signal_wakes_wfi", host::with(wakes))
        .case("no_progress_is_lost", host::with(many))
        .case("vm_is_made_or_interrupted", host::with(made))
}

fn spinning(kvm: &Kvm) -> Result<(Machine, Vcpu)> {
    accept_kicks()?;
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    vcpu.start(Program::Spin, &[])?;
    Ok((machine, vcpu))
}

fn expect_interrupted(vcpu: &mut Vcpu) -> Result<()> {
    let exit = vcpu.run();
    ensure!(exit == Exit::Interrupted, "KVM_RUN: {exit:?}");
    let reason = vcpu.fd.get_kvm_run().exit_reason;
    ensure!(reason == EXIT_INTR, "exit_reason is {reason}");
    Ok(())
}

fn interrupts(kvm: &Kvm) -> Result<()> {
    let (_machine, vcpu) = spinning(kvm)?;
    let channel = vcpu.channel();
    let runner = Runner::start(vcpu, expect_interrupted)?;
    poll(|| channel.progress() != 0).context("the guest does not run")?;
    let (mut vcpu, ()) = runner.interrupt()?;
    let before = channel.progress();
    channel.stop();
    let count = vcpu.finish()?;
    ensure!(
        count >= before,
        "it counted to {count}, {before} when interrupted"
    );
    Ok(())
}

/// Blocks [`KICK`] in this thread for as long as this lives.
struct Blocked(SigSet);

impl Blocked {
    fn now() -> Result<Self> {
        Ok(Self(only_kick().thread_swap_mask(SigmaskHow::SIG_BLOCK)?))
    }

    /// Sends [`KICK`] to this thread, where it stays pending.
    fn raise(&self) -> Result<()> {
        Ok(pthread_kill(pthread_self(), KICK)?)
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // Cannot fail, as the mask was one before.
        let _ = self.0.thread_set_mask();
    }
}

fn only_kick() -> SigSet {
    let mut set = SigSet::empty();
    set.add(KICK);
    set
}

/// Sets the mask of KVM_RUN to `mask`, or takes it away.
fn set_mask(vcpu: &Vcpu, mask: Option<u64>) -> Result<()> {
    #[repr(C)]
    struct Mask {
        len: u32,
        set: [u8; 8],
    }
    let mask = mask.map(|mask| Mask {
        len: 8,
        set: mask.to_ne_bytes(),
    });
    let address = mask.as_ref().map_or(0, |mask| (&raw const *mask) as u64);
    // SAFETY: The argument is null or a `struct kvm_signal_mask` with as many bytes as it says.
    unsafe { raw::ioctl(&vcpu.fd, calls::SET_SIGNAL_MASK, address) }
        .context("KVM_SET_SIGNAL_MASK")?;
    Ok(())
}

const KICK_BIT: u64 = 1 << (KICK as u64 - 1);

/// The signal must have come before the guest's first instruction, so the guest must not have run.
fn pending(kvm: &Kvm) -> Result<()> {
    let (_machine, mut vcpu) = spinning(kvm)?;
    let blocked = Blocked::now()?;
    set_mask(&vcpu, Some(0))?;
    blocked.raise()?;
    expect_interrupted(&mut vcpu)?;
    let progress = vcpu.channel().progress();
    ensure!(progress == 0, "the guest counted to {progress}");
    Ok(())
}

fn immediate(kvm: &Kvm) -> Result<()> {
    let (_machine, mut vcpu) = spinning(kvm)?;
    vcpu.fd.set_kvm_immediate_exit(1);
    for _ in 0..100 {
        let exit = vcpu.run();
        ensure!(exit == Exit::Interrupted, "KVM_RUN: {exit:?}");
    }
    let progress = vcpu.channel().progress();
    ensure!(progress == 0, "the guest counted to {progress}");
    vcpu.fd.set_kvm_immediate_exit(0);
    vcpu.channel().stop();
    ensure!(vcpu.finish()? == 1, "it went on wrongly");
    Ok(())
}

/// The data of a read count at the next KVM_RUN, even if that runs nothing.
fn completes(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    vcpu.start(Program::MmioLoads, &[image::MMIO + image::TEST])?;
    let exit = vcpu.run_with(|_, data| data.fill(0x5a));
    ensure!(matches!(exit, Exit::Read(_, 1)), "{exit:x?}");
    vcpu.fd.set_kvm_immediate_exit(1);
    let exit = vcpu.run();
    ensure!(exit == Exit::Interrupted, "KVM_RUN: {exit:?}");
    vcpu.fd.get_kvm_run().__bindgen_anon_1.mmio.data = [0xee; 8];
    vcpu.fd.set_kvm_immediate_exit(0);
    let exit = vcpu.run();
    ensure!(exit == Exit::Report(0x5a), "{exit:x?}");
    Ok(())
}

fn mask_lets_in(kvm: &Kvm) -> Result<()> {
    let (_machine, vcpu) = spinning(kvm)?;
    let channel = vcpu.channel();
    let runner = Runner::start(vcpu, |vcpu| {
        let blocked = Blocked::now()?;
        set_mask(vcpu, Some(0))?;
        expect_interrupted(vcpu)?;
        // Still blocked outside of KVM_RUN, so it is still pending, and interrupts again.
        expect_interrupted(vcpu)?;
        ensure!(
            only_kick().wait()? == KICK,
            "the signal is no longer pending"
        );
        drop(blocked);
        Ok(())
    })?;
    poll(|| channel.progress() != 0).context("the guest does not run")?;
    runner.kick()?;
    runner.join()?;
    Ok(())
}

fn mask_keeps_out(kvm: &Kvm) -> Result<()> {
    let (_machine, vcpu) = spinning(kvm)?;
    let channel = vcpu.channel();
    let runner = Runner::start(vcpu, |vcpu| {
        set_mask(vcpu, Some(KICK_BIT))?;
        let result = vcpu.finish();
        set_mask(vcpu, None)?;
        result
    })?;
    poll(|| channel.progress() != 0).context("the guest does not run")?;
    for _ in 0..20 {
        runner.kick()?;
        thread::sleep(Duration::from_millis(2));
    }
    ensure!(!runner.is_finished(), "the blocked signal came through");
    channel.stop();
    runner.join()?;
    Ok(())
}

fn wakes(kvm: &Kvm) -> Result<()> {
    accept_kicks()?;
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    vcpu.start(Program::Wfi, &[])?;
    let exit = vcpu.run();
    ensure!(matches!(exit, Exit::Report(_)), "{exit:x?}");
    let runner = Runner::start(vcpu, |vcpu| Ok(vcpu.run()))?;
    thread::sleep(Duration::from_millis(100));
    ensure!(
        !runner.is_finished(),
        "WFI came back, though there is no interrupt"
    );
    let (mut vcpu, exit) = runner.interrupt()?;
    ensure!(exit == Exit::Interrupted, "{exit:x?}");
    // The wait has ended, as it may, with the signal or goes on; a new signal ends this run too.
    let runner = Runner::start(
        {
            vcpu.exits = 0;
            vcpu
        },
        |vcpu| Ok(vcpu.run()),
    )?;
    let (_, exit) = runner.interrupt()?;
    ensure!(
        matches!(exit, Exit::Interrupted | Exit::Done(1)),
        "{exit:x?}"
    );
    Ok(())
}

fn many(kvm: &Kvm) -> Result<()> {
    const KICKS: u64 = 300;
    let (_machine, vcpu) = spinning(kvm)?;
    let channel = vcpu.channel();
    let runner = Runner::start(vcpu, |vcpu| {
        let mut interrupts = 0_u64;
        loop {
            match vcpu.run() {
                Exit::Interrupted => interrupts += 1,
                Exit::Done(count) => return Ok((interrupts, count)),
                exit => anyhow::bail!("{exit:x?}"),
            }
        }
    })?;
    let mut last = 0;
    for _ in 0..KICKS {
        runner.kick()?;
        let now = channel.progress();
        ensure!(now >= last, "progress went back from {last} to {now}");
        last = now;
        thread::sleep(Duration::from_micros(500));
    }
    channel.stop();
    let (_, (interrupts, count)) = runner.join()?;
    ensure!(
        interrupts != 0,
        "none of {KICKS} signals has interrupted KVM_RUN"
    );
    ensure!(count == channel.progress(), "{count} counted");
    Ok(())
}

/// A signal that comes while a VM is made ends that with EINTR, or is too early or too late for that; both must be seen.
fn made(kvm: &Kvm) -> Result<()> {
    const LEAST_OF_EACH: u32 = 5;
    accept_kicks()?;
    let (maker, over) = (pthread_self(), AtomicBool::new(false));
    let (mut vms, mut interrupted) = (0, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for pause in (0..40).cycle() {
                if over.load(Relaxed) || pthread_kill(maker, KICK).is_err() {
                    break;
                }
                thread::sleep(Duration::from_micros(50 * pause));
            }
        });
        let mut other = None;
        let result = poll(|| {
            match raw::errno(kvm.create_vm()) {
                Ok(_) => vms += 1,
                Err(Errno::EINTR) => interrupted += 1,
                Err(errno) => other = Some(errno),
            }
            other.is_some() || (vms >= LEAST_OF_EACH && interrupted >= LEAST_OF_EACH)
        });
        over.store(true, Relaxed);
        other.map_or(result, |errno| Err(errno).context("KVM_CREATE_VM"))
    })
    .with_context(|| format!("{vms} VMs, {interrupted} times EINTR"))?;
    note(format!("{vms} VMs, {interrupted} times EINTR"));
    Ok(())
}
