// SPDX-License-Identifier: GPL-2.0-only

//! How VMs end: closed in any order, by kill -9 at any time, with files in other processes; and nothing is left.

use std::{
    fs::{
        self,
        File, //
    },
    io::{
        IoSlice,
        IoSliceMut, //
    },
    os::{
        fd::{
            AsRawFd,
            FromRawFd,
            OwnedFd,
            RawFd, //
        },
        unix::net::UnixStream,
    },
    thread,
    time::{
        Duration,
        Instant, //
    },
};

use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use kvm_ioctls::Kvm;
use nix::{
    errno::Errno,
    sys::{
        signal::{
            kill,
            Signal, //
        },
        socket::{
            recvmsg,
            sendmsg,
            ControlMessage,
            ControlMessageOwned,
            MsgFlags, //
        },
        wait::{
            waitpid,
            WaitStatus, //
        },
    },
};

use crate::{
    guest::{
        account::{
            rounds,
            vmstat,
            Account, //
        },
        child,
        debugfs,
        module,
        page, //
    },
    ktap::{
        note,
        Skip,
        Test, //
    },
    kvm::{
        calls,
        fleet::{
            Fleet,
            Size, //
        },
        host::{
            self,
            Host, //
        },
        image::{
            self,
            Program, //
        },
        machine::{
            Machine,
            BASE,
            EXTRA, //
        },
        poll,
        ram::{
            huge_size,
            page_size,
            Ram, //
        },
        raw,
        vcpu::Vcpu, //
    },
};

/// VMs before the accounts are taken. Each CPU keeps slabs of its own that are partly in use, and they reach their level
/// here.
const WARM_UP: u32 = 30;
/// VMs of the cases that count.
const VMS: u32 = 100;

pub fn test() -> Test {
    host::test()
        .case("files_close_in_any_order", host::with(any_order))
        .case("two_vms_at_once_are_apart", host::with(two_at_once))
        .case("rmmod_is_refused_while_a_vm_exists", refused)
        .case("fork_child_must_not_use_the_vm", host::with(forked))
        .case("passed_vcpu_does_not_run_elsewhere", host::with(passed))
        .case("vm_outlives_its_creator_in_another_process", outlives)
        .case("vms_in_turn_leave_nothing", || counted(in_turn))
        .case("vms_killed_at_random_leave_nothing", || counted(killed))
        .case("huge_zero_page_that_guests_read_is_freed", zeroes)
}

fn hello(vcpu: &mut Vcpu) -> Result<()> {
    let result = vcpu.call(Program::Hello, &[])?;
    ensure!(result == 0x600d, "result {result:#x}");
    Ok(())
}

fn any_order(kvm: &Kvm) -> Result<()> {
    // The vCPU outlives the file of its VM.
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    drop(machine);
    hello(&mut vcpu)?;
    drop(vcpu);
    // The VM outlives its vCPUs, of which none was ever run.
    let machine = Machine::new(kvm)?;
    drop(machine.vcpu(0)?);
    drop(machine.vcpu(1)?);
    // The number of a closed vCPU is not free again.
    let again = raw::errno(machine.vm.create_vcpu(0)).err();
    ensure!(again == Some(Errno::EEXIST), "vCPU 0 again: {again:?}");
    // /dev/kvm itself may be closed first.
    let own = Kvm::new()?;
    let machine = Machine::new(&own)?;
    drop(own);
    hello(&mut machine.vcpu(0)?)
}

/// Same addresses, other contents; the programs take turns, so a stale translation would show.
fn two_at_once(kvm: &Kvm) -> Result<()> {
    let machines = [Machine::new(kvm)?, Machine::new(kvm)?];
    let mut vcpus = Vec::new();
    for (value, machine) in (1..).zip(&machines) {
        for word in 0..512 {
            machine.ram.set(image::FREE + 8 * word, value);
        }
        vcpus.push((value, machine.vcpu(0)?));
    }
    for turn in 0..50 {
        for (value, vcpu) in &mut vcpus {
            let sum = vcpu.call(Program::Read, &[BASE + image::FREE, 4096, 8])?;
            ensure!(sum == 512 * *value, "turn {turn}: VM {value} reads {sum}");
        }
    }
    Ok(())
}

/// The kernel refuses to unload a module that is in use with EAGAIN, whatever the module says.
fn refused() -> Result<()> {
    if host::is_reference() {
        return Skip::because("the stock KVM is no module");
    }
    let host = Host::start()?;
    let result = (|| {
        let expect_refusal = |what: &str| match module::unload() {
            Ok(()) => bail!("rmmod succeeded with {what}"),
            Err(error) => {
                let errno = error.downcast_ref::<Errno>();
                ensure!(errno == Some(&Errno::EAGAIN), "{what}: {error:#}");
                Ok(())
            }
        };
        let kvm = host.open()?;
        expect_refusal("/dev/kvm open")?;
        let machine = Machine::new(&kvm)?;
        drop(kvm);
        expect_refusal("a VM")?;
        let mut vcpu = machine.vcpu(0)?;
        drop(machine);
        expect_refusal("a vCPU")?;
        hello(&mut vcpu)
    })();
    let end = host.end();
    result.and(end)
}

/// Calls of a process that is not the VM's fail with EIO.
fn expect_foreign(fd: RawFd, request: u32) -> Result<()> {
    // SAFETY: The calls take numbers only.
    let result = unsafe { raw::ioctl(&fd, request, 0) };
    ensure!(
        result == Err(Errno::EIO),
        "request {request:#x} of another process: {result:?}"
    );
    Ok(())
}

fn forked(kvm: &Kvm) -> Result<()> {
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    hello(&mut vcpu)?;
    let child = child::start(|| {
        expect_foreign(machine.vm.as_raw_fd(), calls::CREATE_VCPU)?;
        expect_foreign(vcpu.fd.as_raw_fd(), calls::RUN)
    })?;
    child::wait_success(child)?;
    hello(&mut vcpu)
}

/// Passes a file to another process.
pub(super) fn send(socket: &UnixStream, fd: RawFd) -> Result<()> {
    let fds = [fd];
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(b"x")],
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::empty(),
        None,
    )?;
    Ok(())
}

/// Takes over a file from another process.
pub(super) fn receive(socket: &UnixStream) -> Result<OwnedFd> {
    let mut byte = [0];
    let mut room = nix::cmsg_space!(RawFd);
    let mut parts = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut room),
        MsgFlags::empty(),
    )?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            let fd = *fds.first().context("no file in the message")?;
            // SAFETY: The kernel has just made this descriptor for us.
            return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
    bail!("no file in the message")
}

fn passed(kvm: &Kvm) -> Result<()> {
    let (ours, theirs) = UnixStream::pair()?;
    let child = child::start(|| {
        let fd = receive(&theirs)?;
        expect_foreign(fd.as_raw_fd(), calls::RUN)
    })?;
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    send(&ours, vcpu.fd.as_raw_fd())?;
    child::wait_success(child)?;
    hello(&mut vcpu)
}

/// A child makes a VM, passes its file, and dies. The file is all that keeps the VM, and the module with it.
fn outlives() -> Result<()> {
    let host = Host::start()?;
    let result = (|| {
        let (ours, theirs) = UnixStream::pair()?;
        let child = child::start(|| {
            let machine = Machine::new(&Kvm::new()?)?;
            hello(&mut machine.vcpu(0)?)?;
            send(&theirs, machine.vm.as_raw_fd())
        })?;
        let fd = receive(&ours)?;
        child::wait_success(child)?;
        expect_foreign(fd.as_raw_fd(), calls::CREATE_VCPU)?;
        if !host::is_reference() {
            module::expect_busy("the file of a VM")?;
        }
        drop(File::from(fd));
        Ok(())
    })();
    let end = host.end();
    result.and(end)
}

/// Does `work` for some VMs, then for [`VMS`] more (a quarter of them on the debug kernel), which must leave nothing.
fn counted(work: fn(&Kvm, u32) -> Result<()>) -> Result<()> {
    let host = Host::start()?;
    let result = (|| {
        work(&host.open()?, WARM_UP)?;
        let before = Account::take()?;
        let start = Instant::now();
        let vms = rounds(VMS);
        work(&host.open()?, vms)?;
        let mean = start.elapsed() / vms;
        if poll(|| none_left().is_ok()).is_err() {
            none_left()?;
        }
        // A leak of one in each VM could not hide in that.
        let now = before.expect_back_at(i64::from(vms) * 3 / 4)?;
        note(format!("{vms} VMs, {} ms each", mean.as_millis()));
        note(before.compare(&now));
        Ok(())
    })();
    let end = host.end();
    result.and(end)
}

/// What eltwo itself counts of VMs is zero: VMs, their numbers in the TLB, pages of their tables.
fn none_left() -> Result<()> {
    if host::is_reference() {
        return Ok(());
    }
    for key in ["vms", "vmids", "table_pages"] {
        let value = debugfs::vms(key)?;
        ensure!(value == 0, "{key}: {value} without a VM");
    }
    Ok(())
}

/// A process whose guest reads memory that nobody has written, all of it. It is one page that all processes share.
fn read_zeroes(kvm: &Kvm) -> Result<()> {
    let ram = Ram::huge(2 * huge_size())?;
    let machine = Machine::new(kvm)?;
    machine.add(1, EXTRA, &ram, 0)?;
    let args = [EXTRA, ram.len() as u64, page_size() as u64];
    let sum = machine.vcpu(0)?.call(Program::Read, &args)?;
    ensure!(sum == 0, "the guest reads {sum}");
    Ok(())
}

/// The kernel makes the huge zero page when a process needs it, and frees it when no process uses it: then a reference that a
/// guest's fault has left behind loses it for good.
fn zeroes() -> Result<()> {
    const ROUNDS: u64 = 8;
    if !page::has_huge_pages() {
        return Skip::because("this kernel has no transparent huge pages");
    }
    let host = Host::start()?;
    page::compact()?;
    let round = || -> Result<u64> {
        child::wait_success(child::start(|| read_zeroes(&host.open()?))?)?;
        fs::write("/proc/sys/vm/drop_caches", "3")?;
        vmstat("nr_free_pages")
    };
    let result = (|| {
        round()?;
        let (made, before) = (vmstat("thp_zero_page_alloc")?, round()?);
        let mut free = before;
        for _ in 1..ROUNDS {
            free = round()?;
        }
        let made = vmstat("thp_zero_page_alloc")? - made;
        let lost = before.saturating_sub(free);
        note(format!("made {made} times, {lost} pages fewer are free"));
        ensure!(
            made >= ROUNDS,
            "it was made {made} times in {ROUNDS} rounds"
        );
        let huge = (huge_size() / page_size()) as u64;
        ensure!(
            lost < ROUNDS / 2 * huge,
            "{lost} pages are lost, a huge one has {huge}"
        );
        Ok(())
    })();
    let end = host.end();
    result.and(end)
}

const SIZE: Size = Size {
    machines: 1,
    vcpus: 2,
    words: 512,
    pause: 0,
};

/// VMs one after the other, which run.
pub(super) fn in_turn(kvm: &Kvm, count: u32) -> Result<()> {
    for _ in 0..count {
        let machine = Machine::new(kvm)?;
        let mut vcpus = [machine.vcpu(0)?, machine.vcpu(1)?];
        for vcpu in &mut vcpus {
            hello(vcpu)?;
        }
        let bytes = machine.ram.len() as u64 - image::FREE;
        vcpus[0].call(Program::Write, &[BASE + image::FREE, bytes, 4096, 1])?;
    }
    Ok(())
}

/// Numbers that look random and are the same each time (a linear congruential generator).
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(image::MULTIPLIER).wrapping_add(1);
    *state >> 33
}

/// VMs one after the other, each killed at some point of its life.
pub(super) fn killed(_: &Kvm, count: u32) -> Result<()> {
    /// Longest life of a VM.
    const LONGEST: Duration = Duration::from_millis(60);
    let mut state = u64::from(count);
    for number in 0..count {
        let child = child::start(|| {
            let fleet = Fleet::start(&Kvm::new()?, SIZE, Ram::new)?;
            loop {
                fleet.advance(1000)?;
            }
        })?;
        let life = random(&mut state) % LONGEST.as_micros() as u64;
        thread::sleep(Duration::from_micros(life));
        kill(child, Signal::SIGKILL)?;
        let status = waitpid(child, None)?;
        ensure!(
            matches!(status, WaitStatus::Signaled(_, Signal::SIGKILL, _)),
            "VM {number}: {status:?}"
        );
    }
    Ok(())
}
