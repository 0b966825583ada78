// SPDX-License-Identifier: GPL-2.0-only

//! Every step on the way to a running guest fails once: the call reports it, works when it is made again, and nothing is
//! left behind if it is not.
//!
//! The steps are found by counting: the first one fails, then the second, until there is none any more. Those of the module have
//! names, and each name in its source must be among them.

use std::{
    collections::{
        BTreeMap,
        BTreeSet, //
    },
    fs::File,
    os::{
        fd::{
            AsRawFd,
            FromRawFd,
            IntoRawFd,
            OwnedFd, //
        },
        unix::fs::FileExt,
    },
};

use anyhow::{
    ensure,
    Context,
    Result, //
};
use kvm_bindings::KVM_MEM_LOG_DIRTY_PAGES;
use kvm_ioctls::{
    Kvm,
    VcpuFd,
    VmFd, //
};
use nix::{
    errno::Errno,
    libc, //
};

use crate::{
    guest::{
        account::{
            rounds,
            Account, //
        },
        kmsg::Log,
        module,
        steps, //
    },
    ktap::{
        note,
        Test, //
    },
    kvm::{
        calls,
        faults::{
            By,
            Faults,
            Then,
            COUNT_ONLY, //
        },
        host,
        image::{
            self,
            Program, //
        },
        machine::{
            Machine,
            BASE,
            EXTRA,
            SLOT, //
        },
        poll,
        ram::{
            huge_size,
            page_size, //
            Ram,
        },
        raw,
        vcpu::{
            Exit,
            Vcpu, //
        },
    },
};

/// `KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2`.
const MANUAL_PROTECT: u64 = 168;
/// Words of what KVM_ARM_GET_REG_WRITABLE_MASKS fills.
const MASKS: usize = 3 * 8 * 8;

/// The slot that is added.
const MORE: u32 = 5;
/// Its pages.
const PAGES: usize = 64;
/// Addresses of the devices.
const DOORBELL: u64 = 0x0a00_0000;
const ZONE: u64 = 0x0b00_0000;
/// A function that user space may deny: SiP service calls, 32 bits.
const DENIED: u64 = 0x8200_0001;

/// Steps are at least that many.
const AT_LEAST: u32 = 35;
/// No row of calls has so many steps.
const LAST: u32 = 20_000;
/// Rounds of all failures over which memory is compared, and rounds before it.
const ROUNDS: u32 = 10;
const WARM_UP: i64 = 3;

pub fn test() -> Test {
    host::test()
        .case("each_step_fails_and_works_again", || {
            with_module(|kvm| each(kvm, By::Module))
        })
        .case("each_step_given_up_leaves_nothing", || with_module(no_leak))
}

/// The same by the kernel's own means, where it has them.
pub fn by_kernel() -> Test {
    host::test().case("each_allocation_fails_and_works_again", || {
        let _quiet = By::kernel()?;
        with_module(|kvm| each(kvm, By::Kernel))
    })
}

/// Runs `body` with a module that counts steps.
fn with_module(body: impl FnOnce(&Kvm) -> Result<()>) -> Result<()> {
    let loaded = module::load_with(COUNT_ONLY)?;
    let result = Kvm::new().context("/dev/kvm").and_then(|kvm| body(&kvm));
    // The kernel puts the release of files off a little.
    let closed = poll(|| module::unload().is_ok());
    loaded.keep();
    result.and(closed).and(module::nothing_left())
}

/// Makes a call with `words` as its argument.
fn pass(fd: &impl AsRawFd, request: u32, words: &[u64]) -> Result<i32> {
    // SAFETY: All these calls take an address of as many words as they need.
    Ok(unsafe { raw::ioctl(fd, request, words.as_ptr() as u64) }?)
}

/// An eventfd.
fn event() -> Result<OwnedFd> {
    // SAFETY: Numbers only.
    let fd = Errno::result(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) })?;
    // SAFETY: The kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A VM with two slots, two vCPUs and devices, which computes; each call may fail on request.
fn life(kvm: &Kvm, faults: &mut Faults) -> Result<()> {
    let (ram, more) = (Ram::new(huge_size())?, Ram::new(PAGES * page_size())?);
    let vm = faults.call("KVM_CREATE_VM", || Ok(raw::errno(kvm.create_vm())?))?;
    let machine = Machine::without_memory(vm, ram)?;
    faults.call("KVM_ENABLE_CAP", || {
        pass(
            &machine.vm,
            calls::ENABLE_CAP,
            &[MANUAL_PROTECT, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        )
    })?;
    faults.call("KVM_SET_USER_MEMORY_REGION", || {
        machine.add(SLOT, BASE, &machine.ram, 0)
    })?;
    faults.call("KVM_SET_USER_MEMORY_REGION with a log", || {
        machine.add(MORE, EXTRA, &more, KVM_MEM_LOG_DIRTY_PAGES)
    })?;
    let mut vcpus = Vec::new();
    for id in 0..2 {
        let fd = create_vcpu(&machine.vm, id, faults)?;
        let init = machine.target()?;
        faults.call("KVM_ARM_VCPU_INIT", || Ok(raw::errno(fd.vcpu_init(&init))?))?;
        vcpus.push(Vcpu::new(fd, machine.ram.clone(), id)?);
    }
    devices(&machine, faults)?;
    // Which stops the vCPUs.
    faults.call("KVM_ARM_SET_COUNTER_OFFSET", || {
        pass(&machine.vm, calls::SET_COUNTER_OFFSET, &[0, 0])
    })?;
    statistics(&machine.vm, faults)?;
    statistics(&vcpus[0].fd, faults)?;
    run(&mut vcpus, faults)?;
    logs(&machine, faults)?;
    faults.call("removing a slot", || machine.remove(MORE))
}

/// A vCPU. Its page is mapped by a call of its own: a vCPU whose page could not be mapped is there all the same.
fn create_vcpu(vm: &VmFd, id: u64, faults: &mut Faults) -> Result<VcpuFd> {
    let file = faults.call("KVM_CREATE_VCPU", || {
        // SAFETY: The argument is a number, and a result that is no error is a new file.
        Ok(unsafe { OwnedFd::from_raw_fd(raw::ioctl(vm, calls::CREATE_VCPU, id)?) })
    })?;
    faults.call("mmap of a vCPU", || {
        let file = file.try_clone()?;
        // SAFETY: The file is that of a vCPU, and belongs to nobody else.
        let vcpu = unsafe { vm.create_vcpu_from_rawfd(file.into_raw_fd()) };
        Ok(raw::errno(vcpu)?)
    })
}

fn devices(machine: &Machine, faults: &mut Faults) -> Result<()> {
    let event = event()?;
    for number in 0..6_u64 {
        let bell = [
            0,
            DOORBELL + 8 * number,
            ((event.as_raw_fd() as u64) << 32) | 4,
            0,
            0,
            0,
            0,
            0,
        ];
        faults.call("KVM_IOEVENTFD", || {
            pass(&machine.vm, calls::IOEVENTFD, &bell)
        })?;
        let zone = [ZONE + 0x1000 * number, 0x1000];
        faults.call("KVM_REGISTER_COALESCED_MMIO", || {
            pass(&machine.vm, calls::REGISTER_COALESCED_MMIO, &zone)
        })?;
    }
    // One function, KVM_SMCCC_FILTER_DENY.
    let filter = [DENIED | (1 << 32), 1, 0];
    let attribute = [0, 0, filter.as_ptr() as u64];
    faults.call("KVM_ARM_VM_SMCCC_FILTER", || {
        pass(&machine.vm, calls::SET_DEVICE_ATTR, &attribute)
    })?;
    let mut masks = [0_u64; MASKS];
    let range = [masks.as_mut_ptr() as u64, 0, 0, 0, 0, 0, 0, 0];
    faults.call("KVM_ARM_GET_REG_WRITABLE_MASKS", || {
        pass(&machine.vm, calls::GET_REG_WRITABLE_MASKS, &range)
    })?;
    Ok(())
}

fn statistics(of: &impl AsRawFd, faults: &mut Faults) -> Result<()> {
    let fd = faults.call("KVM_GET_STATS_FD", || pass(of, calls::GET_STATS_FD, &[]))?;
    // SAFETY: The kernel has just made this descriptor for us.
    let file = unsafe { File::from_raw_fd(fd) };
    let mut header = [0; 24];
    faults.call("reading statistics", || {
        file.read_exact_at(&mut header, 0).map_err(|error| {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
            anyhow::Error::from(errno)
        })
    })
}

/// Both vCPUs write all memory; faults fill the tables of stage 2.
fn run(vcpus: &mut [Vcpu], faults: &mut Faults) -> Result<()> {
    for (value, vcpu) in (1..).zip(vcpus) {
        let free = [BASE + image::FREE, huge_size() as u64 - image::FREE];
        for [address, bytes] in [free, [EXTRA, (PAGES * page_size()) as u64]] {
            vcpu.start(Program::Write, &[address, bytes, page_size() as u64, value])?;
            finish(vcpu, faults)?;
            vcpu.start(Program::Read, &[address, bytes, page_size() as u64])?;
            let sum = finish(vcpu, faults)?;
            // Each page has a value that is one more than the last.
            let pages = bytes / page_size() as u64;
            let expected = pages * value + pages * (pages - 1) / 2;
            ensure!(sum == expected, "the sum is {sum}, not {expected}");
        }
        vcpu.start(Program::Hello, &[])?;
        ensure!(finish(vcpu, faults)? == 0x600d, "no hello");
    }
    Ok(())
}

fn finish(vcpu: &mut Vcpu, faults: &mut Faults) -> Result<u64> {
    loop {
        let exit = faults.call("KVM_RUN", || match vcpu.run() {
            Exit::Failed(errno) => Err(errno.into()),
            exit => Ok(exit),
        })?;
        match exit {
            Exit::Done(result) => return Ok(result),
            Exit::Printed => {}
            exit => anyhow::bail!("{exit:x?}"),
        }
    }
}

fn logs(machine: &Machine, faults: &mut Faults) -> Result<()> {
    let bits = faults.call("KVM_GET_DIRTY_LOG", || {
        Ok(raw::errno(
            machine.vm.get_dirty_log(MORE, PAGES * page_size()),
        )?)
    })?;
    ensure!(bits == [u64::MAX], "dirty: {bits:x?}");
    // Slot and number of pages, the first page, the bits.
    let clear = [
        MORE as u64 | ((PAGES as u64) << 32),
        0,
        bits.as_ptr() as u64,
    ];
    faults.call("KVM_CLEAR_DIRTY_LOG", || {
        pass(&machine.vm, calls::CLEAR_DIRTY_LOG, &clear)
    })?;
    Ok(())
}

/// What has failed.
#[derive(Default)]
struct Seen {
    /// How often each call failed, and how often it did not mind.
    calls: BTreeMap<&'static str, (u32, u32)>,
    /// The steps of the module.
    steps: BTreeSet<String>,
}

impl Seen {
    /// Takes note of the step that the module says to have failed.
    fn read(&mut self, log: &mut Log) -> Result<()> {
        let lines = log.eltwo()?;
        let names = lines.iter().filter_map(|line| steps::requested(line));
        self.steps.extend(names.map(str::to_string));
        Ok(())
    }
}

/// Each step fails in turn. Returns how many there are.
fn rows(kvm: &Kvm, by: By, then: Then, seen: &mut Seen) -> Result<u32> {
    for nth in 1..LAST {
        let mut faults = Faults::new(by, nth, then)?;
        let mut log = Log::from_now()?;
        let outcome = life(kvm, &mut faults);
        // The kernel has more to say about its own than the log holds.
        if by == By::Module {
            seen.read(&mut log)?;
        }
        let requested = faults.failed().is_some();
        match outcome {
            Err(_) if requested && then == Then::GiveUp => {}
            outcome => outcome.with_context(|| format!("step {nth}, in {:?}", faults.hit()))?,
        }
        let Some(call) = faults.hit() else {
            return Ok(nth - 1);
        };
        let count = seen.calls.entry(call).or_default();
        count.0 += u32::from(requested);
        count.1 += u32::from(!requested);
    }
    anyhow::bail!("no end of steps")
}

fn each(kvm: &Kvm, by: By) -> Result<()> {
    let mut seen = Seen::default();
    let steps = rows(kvm, by, Then::Again, &mut seen)?;
    ensure!(steps >= AT_LEAST, "only {steps} steps");
    // The kernel's have no names.
    if by == By::Module {
        steps::expect_all(steps::CALLS, &seen.steps)?;
    }
    note(format!(
        "{steps} steps failed in turn, with {} names; calls that failed and that did not mind:",
        seen.steps.len()
    ));
    for (call, (failed, not)) in &seen.calls {
        note(format!("{call}: {failed}, {not}"));
        // What the module asks for it needs. The kernel's own allocations may have something to fall back to.
        ensure!(
            by == By::Kernel || *not == 0,
            "{call} does not mind a failure"
        );
    }
    Ok(())
}

fn no_leak(kvm: &Kvm) -> Result<()> {
    let round = || rows(kvm, By::Module, Then::GiveUp, &mut Seen::default());
    for _ in 0..WARM_UP {
        round()?;
    }
    let before = Account::take()?;
    let mut failures = 0;
    let rounds = rounds(ROUNDS);
    for _ in 0..rounds {
        failures += round()?;
    }
    let now = before.expect_back_at(i64::from(rounds) / 2)?;
    note(format!("{failures} failures given up"));
    note(before.compare(&now));
    Ok(())
}
