// SPDX-License-Identifier: GPL-2.0-only

//! A fault at EL2 while there are VMs: the host lives, the VMs get errors, and the module can be unloaded.
//!
//! Each kind of fault is taken in the switch to a guest and in the switch back, on the CPU of the guest; and in a hypercall, on
//! that CPU while the guest's thread waits for it, and on another one while the guest runs.

use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use kvm_ioctls::Kvm;
use nix::{
    errno::Errno,
    libc, //
};

use crate::{
    guest::{
        cpu,
        debugfs,
        fault::{
            self,
            Kind,
            Place,
            KINDS, //
        },
        kmsg::Log,
        module,
        stat::Stat, //
    },
    hooks::helper::{
        self,
        Hooks, //
    },
    ktap::{
        note,
        Shared,
        Skip,
        Test, //
    },
    kvm::{
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

/// What makes a guest's first use of FP/SIMD an exception in the switch itself, which is assembly.
const FAIL_IN_SWITCH: &str = "fail_at=100";

/// Where the fault is, seen from the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Where {
    /// In the switch, on the guest's CPU.
    Switch(Place),
    /// In a hypercall on the guest's CPU, while its thread waits for that CPU.
    CallHere,
    /// In a hypercall on another CPU, while the guest runs.
    CallElsewhere,
}

const ALL: [(Where, &str); 4] = [
    (Where::Switch(Place::Entering), "in_the_switch_to_a_guest"),
    (Where::Switch(Place::Leaving), "in_the_switch_from_a_guest"),
    (Where::CallHere, "in_a_call_on_the_cpu_of_a_guest"),
    (Where::CallElsewhere, "in_a_call_on_another_cpu"),
];

pub fn test() -> Test {
    let hooks = Shared::new();
    let mut test = host::test().needs(needs_eltwo).needs(helper::needed);
    for (place, name) in ALL {
        for kind in KINDS {
            let hooks = hooks.clone();
            test = test.case(format!("{}_{name}", kind.name), move || {
                let hooks = hooks.get(Hooks::load)?;
                for cpu in cpu::online()? {
                    running(kind, place, cpu, hooks)
                        .with_context(|| format!("{} {name}, CPU {cpu}", kind.name))?;
                }
                Ok(())
            });
        }
    }
    test.case("fault_wakes_the_sleeping_vcpu_of_another_vm", sleeper)
        .case("fp_trap_in_the_switch", move || {
            fp_trap(hooks.get(Hooks::load)?)
        })
        .case("fault_with_an_idle_vm", idle)
}

fn needs_eltwo() -> Result<()> {
    if host::is_reference() {
        return Skip::because("the stock KVM has no way to provoke a fault at EL2");
    }
    super::needs_two_cpus()
}

/// After a new insmod everything works.
fn works_again() -> Result<()> {
    let host = Host::start()?;
    {
        let kvm = host.open()?;
        let machine = Machine::new(&kvm)?;
        let result = machine.vcpu(0)?.call(Program::Hello, &[])?;
        ensure!(result == 0x600d, "result {result:#x}");
    }
    host.end()
}

/// A vCPU in a thread that stays on `cpu`, running.
fn spin_on(mut vcpu: Vcpu, cpu: usize) -> Result<Runner<Exit>> {
    vcpu.start(Program::Spin, &[])?;
    let channel = vcpu.channel();
    let runner = Runner::start(vcpu, move |vcpu| cpu::on(cpu, || Ok(vcpu.run())))?;
    poll(|| channel.progress() != 0).context("the guest does not run")?;
    Ok(runner)
}

/// A fault on `cpu` with two vCPUs of a VM running.
fn running(kind: Kind, place: Where, cpu: usize, hooks: &Hooks) -> Result<()> {
    let online = cpu::online()?;
    let other = *online
        .iter()
        .find(|other| **other != cpu)
        .context("no CPU")?;
    let (at, homes) = match place {
        // Whichever of the two comes first has it.
        Where::Switch(at) => (at, [cpu, cpu]),
        Where::CallHere => (Place::Call, [cpu, other]),
        Where::CallElsewhere => (Place::Call, [other, other]),
    };
    let host = Host::start_with(fault::PARAMETERS)?;
    {
        let kvm = host.open()?;
        let machine = Machine::new(&kvm)?;
        let runners = [
            spin_on(machine.vcpu(0)?, homes[0])?,
            spin_on(machine.vcpu(1)?, homes[1])?,
        ];
        let mut kernel_log = Log::from_now()?;
        match place {
            Where::Switch(at) => kind.arm(at)?,
            Where::CallHere | Where::CallElsewhere => kind.provoke(cpu)?,
        }
        for runner in runners {
            let (mut vcpu, exit) = runner.join()?;
            let again = vcpu.run();
            let failed = Exit::Failed(Errno::EIO);
            ensure!(
                exit == failed && again == failed,
                "KVM_RUN: {exit:x?}, again: {again:x?}"
            );
        }
        let lines = kernel_log.eltwo()?;
        fault::expect_contained(cpu, &lines, hooks)?;
        let report = kind.check_report(cpu, at, &lines)?;
        if at != Place::Call {
            host_is_whole(cpu, &lines)?;
        }
        refused(&kvm, &machine)?;
        if cpu == 0 && kind.name == "assertion" {
            note(&report);
        }
    }
    host.end()
}

/// The module has compared what it had of EL1's registers before the switch with what is there after it.
fn host_is_whole(cpu: usize, kernel_log: &[String]) -> Result<()> {
    let start = format!("CPU{cpu}: EL1 registers of the host: ");
    let line = kernel_log
        .iter()
        .find_map(|line| line.strip_prefix(&start))
        .with_context(|| format!("no comparison of EL1's registers: {kernel_log:?}"))?;
    ensure!(line == "25 equal, 0 different", "{line}: {kernel_log:?}");
    Ok(())
}

/// A VM that is there does nothing any more, and there are no new ones and no new vCPUs.
fn refused(kvm: &Kvm, machine: &Machine) -> Result<()> {
    let errors = [
        kvm.create_vm().err(),
        machine.vm.create_vcpu(2).err(),
        machine
            .vm
            .get_preferred_target(&mut Default::default())
            .err(),
    ];
    ensure!(
        errors
            .iter()
            .all(|error| { error.is_some_and(|error| error.errno() == libc::EIO) }),
        "a new VM, a new vCPU, a question to the VM: {errors:?}"
    );
    Ok(())
}

/// The switch itself, which is assembly and has no stack, takes the exception: it loads FP registers that it has not been given.
fn fp_trap(hooks: &Hooks) -> Result<()> {
    const EC_FP: u64 = 0x07;
    for cpu in cpu::online()? {
        let host = Host::start_with(FAIL_IN_SWITCH)?;
        {
            let kvm = host.open()?;
            let machine = Machine::new(&kvm)?;
            let mut vcpu = machine.vcpu(0)?;
            vcpu.start(Program::Compute, &[BASE + image::FREE, 8, 1, 1])?;
            let mut kernel_log = Log::from_now()?;
            let exit = cpu::on(cpu, || Ok(vcpu.run()))?;
            ensure!(exit == Exit::Failed(Errno::EIO), "KVM_RUN: {exit:x?}");
            let lines = kernel_log.eltwo()?;
            fault::expect_contained(cpu, &lines, hooks)?;
            let text = debugfs::read("log")?;
            let head = format!("cpu {cpu} vector 0x200: FP/SIMD trap with the guest of 0x");
            let esr = fault::value(&text, "ESR_EL2")?;
            let functions = fault::backtrace(&text)?;
            ensure!(
                text.starts_with(&head)
                    && esr >> 26 == EC_FP
                    && functions.len() == 1
                    && functions[0].function.as_deref() == Some("eltwo_run_vcpu"),
                "{text}"
            );
            refused(&kvm, &machine)?;
        }
        host.end()?;
    }
    works_again()
}

/// A vCPU that waits for an interrupt is not in the switch and not in a call, and nobody sends it a signal.
fn sleeper() -> Result<()> {
    let host = Host::start_with(fault::PARAMETERS)?;
    {
        let kvm = host.open()?;
        let (asleep, awake) = (Machine::new(&kvm)?, Machine::new(&kvm)?);
        let mut vcpu = asleep.vcpu(0)?;
        vcpu.start(Program::Wfi, &[])?;
        let exit = vcpu.run();
        ensure!(matches!(exit, Exit::Report(_)), "{exit:x?}");
        let sleeper = Runner::start(vcpu, |vcpu| Ok(vcpu.run()))?;
        let thread = sleeper.thread_id()?;
        poll(|| Stat::of(thread).is_ok_and(|stat| stat.sleeps().unwrap_or(false)))
            .context("the guest does not wait")?;

        let cpu = *cpu::online()?.last().context("no CPU")?;
        let runner = spin_on(awake.vcpu(0)?, cpu)?;
        ensure!(!sleeper.is_finished(), "the wait has ended too early");
        KINDS[0].provoke(cpu)?;
        for runner in [runner, sleeper] {
            let (_, exit) = runner.join()?;
            ensure!(exit == Exit::Failed(Errno::EIO), "KVM_RUN: {exit:x?}");
        }
    }
    host.end()
}

fn idle() -> Result<()> {
    let host = Host::start_with(fault::PARAMETERS)?;
    {
        let kvm = host.open()?;
        let machine = Machine::new(&kvm)?;
        let mut vcpu = machine.vcpu(0)?;
        ensure!(vcpu.call(Program::Hello, &[])? == 0x600d, "wrong result");
        KINDS[0].provoke(*cpu::online()?.last().context("no CPU")?)?;
        vcpu.start(Program::Hello, &[])?;
        let exit = vcpu.run();
        ensure!(exit == Exit::Failed(Errno::EIO), "KVM_RUN: {exit:x?}");
        // It was found dead, and can only be closed: what the kernel says of a VM that it gave up.
        let Err(error) = machine.remove(crate::kvm::machine::SLOT) else {
            bail!("the dead VM still obeys");
        };
        ensure!(
            error.downcast_ref() == Some(&Errno::EIO),
            "removing a slot: {error:#}"
        );
    }
    host.end().context("rmmod after the fault")?;
    ensure!(!module::is_loaded()?, "still loaded");
    works_again()
}
