// SPDX-License-Identifier: GPL-2.0-only

//! What of the host's state a guest must leave alone: vector registers, keys of pointer authentication; and whose time its
//! running is booked as. What SVE adds to vector registers is in `guest_sve`.

use std::{
    arch::asm,
    fs,
    os::fd::AsRawFd,
    sync::{
        atomic::{
            AtomicBool,
            Ordering, //
        },
        Arc,
    },
    time::Instant, //
};

use anyhow::{
    anyhow,
    ensure,
    Context,
    Result, //
};
use kvm_ioctls::Kvm;
use nix::{
    libc,
    unistd::Pid, //
};

use crate::{
    guest::{
        cpu,
        debugfs,
        stat::Stat, //
    },
    ktap::{
        note,
        Skip,
        Test, //
    },
    kvm::{
        calls, host,
        image::{
            self,
            Program, //
        },
        machine::{
            Machine,
            BASE, //
        },
        poll,
        runner::Runner,
        vcpu::{
            Exit,
            Vcpu, //
        },
    },
};

/// Number of vector registers.
const VECTORS: usize = 32;

pub fn test() -> Test {
    host::test()
        .case("vector_registers_live_across_kvm_run", host::with(vectors))
        .case("keys_of_pointer_authentication_stay", host::with(keys))
        .case("branch_history_is_cleared_as_the_core_needs", history)
        .case("time_of_a_spinning_guest_is_the_guests", host::with(time))
}

fn has(capability: u64) -> bool {
    // SAFETY: The call has no effect.
    unsafe { libc::getauxval(libc::AT_HWCAP) & capability != 0 }
}

/// A vCPU that uses all vector registers and FPCR, and ends after some rounds.
fn computing(machine: &Machine) -> Result<Vcpu> {
    let mut vcpu = machine.vcpu(0)?;
    vcpu.start(Program::Compute, &[BASE + image::FREE, 64, 50, 1])?;
    Ok(vcpu)
}

/// The exit is the end of the program.
fn expect_done(vcpu: &mut Vcpu, result: i64) -> Result<()> {
    const KVM_EXIT_MMIO: u32 = 6;
    let reason = vcpu.fd.get_kvm_run().exit_reason;
    ensure!(
        result == 0 && reason == KVM_EXIT_MMIO,
        "KVM_RUN: {result}, exit {reason}"
    );
    Ok(())
}

/// The system call keeps V0..V31, FPCR and FPSR of its caller, whatever the guest does with its own.
fn vectors(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let mut vcpu = computing(&machine)?;
    let mut after = [[0_u64; 2]; VECTORS];
    // Round towards minus infinity.
    let fpcr = 2_u64 << 22;
    let mut result = vcpu.fd.as_raw_fd() as i64;
    let fpcr_after: u64;
    // SAFETY: KVM_RUN takes no pointer. All vector registers are declared as changed, and FPCR is put back.
    unsafe {
        asm!(
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            "mov x9, #(\\n * 3 + 5)",
            "fmov d\\n, x9",
            "mvn x9, x9",
            "mov v\\n\\().d[1], x9",
            ".endr",
            "mrs x10, fpcr",
            "msr fpcr, {fpcr}",
            "svc #0",
            "mrs x11, fpcr",
            "msr fpcr, x10",
            "mov x9, {buffer}",
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            "str q\\n, [x9], #16",
            ".endr",
            fpcr = in(reg) fpcr,
            buffer = in(reg) after.as_mut_ptr(),
            inout("x0") result,
            in("x1") u64::from(calls::RUN),
            in("x2") 0_u64,
            in("x8") libc::SYS_ioctl,
            out("x9") _,
            out("x10") _,
            out("x11") fpcr_after,
            out("v8") _, out("v9") _, out("v10") _, out("v11") _,
            out("v12") _, out("v13") _, out("v14") _, out("v15") _,
            clobber_abi("C"),
        );
    }
    expect_done(&mut vcpu, result)?;
    ensure!(fpcr_after == fpcr, "FPCR is {fpcr_after:#x}, not {fpcr:#x}");
    for (number, [low, high]) in after.into_iter().enumerate() {
        let value = number as u64 * 3 + 5;
        ensure!(
            (low, high) == (value, !value),
            "V{number} is {high:#x}:{low:#x}"
        );
    }
    Ok(())
}

/// What each of the five keys makes of one address.
fn signatures() -> [u64; 5] {
    let mut values = [0x1234_5678_u64; 5];
    let [ia, ib, da, db, ga] = &mut values;
    // SAFETY: The caller has found pointer authentication; general registers change only.
    unsafe {
        asm!(
            ".arch_extension pauth",
            "paciza {ia}",
            "pacizb {ib}",
            "pacdza {da}",
            "pacdzb {db}",
            "pacga {ga}, {ga}, {ga}",
            ia = inout(reg) * ia,
            ib = inout(reg) * ib,
            da = inout(reg) * da,
            db = inout(reg) * db,
            ga = inout(reg) * ga,
            options(nomem, nostack),
        );
    }
    values
}

/// The guest tries to write the keys, and gets exceptions for it.
fn keys(kvm: &Kvm) -> Result<()> {
    if !has(libc::HWCAP_PACA | libc::HWCAP_PACG) {
        return Skip::because("these CPUs have no pointer authentication");
    }
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    let before = signatures();
    for (crm, op2) in [
        (1, 0),
        (1, 1),
        (1, 2),
        (1, 3),
        (2, 0),
        (2, 1),
        (2, 2),
        (2, 3),
        (3, 0),
        (3, 1),
    ] {
        // MSR of APIAKeyLo_EL1 and its like, from x0.
        let instruction = 0xd510_0000_u64 | (1 << 19) | (2 << 12) | (crm << 8) | (op2 << 5);
        vcpu.call(Program::Execute, &[instruction, 0xbad, BASE + image::FREE])?;
        let (taken, esr) = vcpu.channel().exceptions();
        ensure!(
            (taken, esr) == (1, 1 << 25),
            "c2, c{crm}, {op2}: {taken} exceptions, ESR_EL1 {esr:#x}"
        );
    }
    let after = signatures();
    ensure!(before == after, "{before:x?} before, {after:x?} after");
    ensure!(
        before.iter().any(|value| *value != 0x1234_5678),
        "nothing was signed"
    );
    Ok(())
}

/// What eltwo does about branch history at each exit, on the cores that QEMU knows and whose firmware does nothing.
fn history() -> Result<()> {
    /// Of MIDR_EL1.
    const CORES: [(u64, &str); 4] = [
        (0xd03, "smc 0x0, branches 0, clrbhb false"),
        // Variant 2 is open there, so clearing the history would be of no use.
        (0xd08, "smc 0x0, branches 0, clrbhb false"),
        (0xd0b, "smc 0x0, branches 24, clrbhb false"),
        (0xd0c, "smc 0x0, branches 24, clrbhb false"),
    ];
    if host::is_reference() {
        return Skip::because("the stock KVM does not show it");
    }
    let midr = fs::read_to_string("/sys/devices/system/cpu/cpu0/regs/identification/midr_el1")?;
    let midr = u64::from_str_radix(midr.trim().trim_start_matches("0x"), 16)?;
    let part = (midr >> 4) & 0xfff;
    let Some((_, expected)) = CORES.into_iter().find(|(core, _)| *core == part) else {
        return Skip::because(format!("MIDR_EL1 is {midr:#x}, of no core of the list"));
    };
    host::with(|kvm| {
        let machine = Machine::new(kvm)?;
        ensure!(
            machine.vcpu(0)?.call(Program::Hello, &[])? == 0x600d,
            "the guest"
        );
        Ok(())
    })()?;
    let host = host::Host::start()?;
    let shown = debugfs::read("vms");
    host.end()?;
    let shown = shown?;
    let line = shown
        .lines()
        .find_map(|line| line.strip_prefix("at_exit: "));
    ensure!(line == Some(expected), "{line:?}, expected {expected}");
    note(expected);
    Ok(())
}

/// User, system and guest time in ticks.
#[derive(Clone, Copy, Debug)]
struct Times {
    user: u64,
    system: u64,
    guest: u64,
}

impl Times {
    fn since(self, before: Self) -> Self {
        Self {
            user: self.user - before.user,
            system: self.system - before.system,
            guest: self.guest - before.guest,
        }
    }
}

/// Of a thread.
fn times_of(thread: Pid) -> Result<Times> {
    let stat = Stat::of(thread)?;
    Ok(Times {
        user: stat.number(14)?,
        system: stat.number(15)?,
        guest: stat.number(43)?,
    })
}

/// Of a CPU. Source: proc_stat(5).
fn times_of_cpu(cpu: usize) -> Result<Times> {
    let text = fs::read_to_string("/proc/stat")?;
    let name = format!("cpu{cpu} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    let fields = line
        .context("no such CPU")?
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<Vec<u64>, _>>()?;
    let field = |number: usize| fields.get(number).copied().context("too few columns");
    Ok(Times {
        user: field(0)?,
        system: field(2)?,
        guest: field(8)?,
    })
}

/// A guest that never exits by itself: the tick finds it running, and all of that is the guest's time (and user time, which
/// contains it).
fn time(kvm: &Kvm) -> Result<()> {
    /// Ticks that make a picture. A busy host may keep some of them from coming.
    const TICKS: u64 = 60;
    let on = *cpu::online()?.last().context("no CPU")?;
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    vcpu.start(Program::Spin, &[])?;
    let channel = vcpu.channel();
    let measured = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&measured);
    let runner = Runner::start(vcpu, move |vcpu| {
        let result = cpu::on(on, || match vcpu.run() {
            Exit::Done(result) => Ok(result),
            exit => Err(anyhow!("{exit:x?}")),
        });
        // The thread's times are gone when it is.
        poll(|| seen.load(Ordering::Relaxed))?;
        result
    })?;
    let thread = runner.thread_id()?;
    poll(|| channel.progress() != 0).context("the guest does not run")?;
    let (before, cpu_before) = (times_of(thread)?, times_of_cpu(on)?);
    let start = Instant::now();
    let spent = || -> Result<(Times, Times)> {
        let thread = times_of(thread)?.since(before);
        Ok((thread, times_of_cpu(on)?.since(cpu_before)))
    };
    let enough = poll(|| {
        let guest = |(thread, cpu): (Times, Times)| thread.guest.min(cpu.guest);
        // Where they cannot be read, that is told below.
        spent().map_or(true, |spent| guest(spent) >= TICKS)
    });
    let (spent, elapsed) = (spent()?, start.elapsed());
    channel.stop();
    measured.store(true, Ordering::Relaxed);
    runner.join()?;
    let (thread, cpu) = spent;
    note(format!(
        "in {} ms, in ticks: thread {thread:?}, CPU {on} {cpu:?}",
        elapsed.as_millis()
    ));
    for (what, times) in [("thread", thread), ("CPU", cpu)] {
        ensure!(
            // The kernel scales a thread's user and system time to how long it ran; ticks that are lost, as on a busy machine, make
            // that coarse.
            times.user >= 4 * times.system && 10 * times.user >= 9 * times.guest,
            "{what}: {times:?}"
        );
    }
    enough.context("the ticks of the guest's time")
}
