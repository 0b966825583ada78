// SPDX-License-Identifier: GPL-2.0-only

//! A fault at EL2 while there are VMs: the host lives, the VMs get errors, and the module can be unloaded.

use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use nix::{
    errno::Errno,
    libc, //
};

use crate::{
    guest::{
        cpu,
        debugfs,
        module, //
    },
    ktap::{
        note,
        Skip,
        Test, //
    },
    kvm::{
        host::{
            self,
            Host, //
        },
        image::Program,
        machine::Machine,
        poll,
        runner::Runner,
        vcpu::Exit, //
    },
};

pub fn test() -> Test {
    host::test()
        .needs(needs_eltwo)
        .case("fault_with_a_running_vcpu", running)
        .case("fault_with_an_idle_vm", idle)
}

fn needs_eltwo() -> Result<()> {
    if host::is_reference() {
        return Skip::because("the stock KVM has no way to provoke a fault at EL2");
    }
    Ok(())
}

/// Makes EL2 of a CPU fault.
fn provoke() -> Result<()> {
    let cpu = *cpu::online()?.last().context("no CPU")?;
    cpu::on(cpu, || match debugfs::write("provoke", "brk") {
        Ok(()) => bail!("the write succeeded"),
        Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(()),
        Err(error) => bail!("the write failed with {error}, expected EIO"),
    })
}

/// The service is gone, and after a new insmod everything works.
fn recovers(host: Host) -> Result<()> {
    host.end().context("rmmod after the fault")?;
    ensure!(!module::is_loaded()?, "still loaded");
    let host = Host::start()?;
    {
        let kvm = host.open()?;
        let machine = Machine::new(&kvm)?;
        let result = machine.vcpu(0)?.call(Program::Hello, &[])?;
        ensure!(result == 0x600d, "result {result:#x}");
    }
    host.end()
}

fn running() -> Result<()> {
    let host = Host::start()?;
    {
        let kvm = host.open()?;
        let machine = Machine::new(&kvm)?;
        let mut vcpu = machine.vcpu(0)?;
        vcpu.start(Program::Spin, &[])?;
        let channel = vcpu.channel();
        let runner = Runner::start(vcpu, |vcpu| Ok(vcpu.run()))?;
        poll(|| channel.progress() != 0).context("the guest does not run")?;
        provoke()?;
        let (mut vcpu, exit) = runner.join().context("the running vCPU")?;
        ensure!(matches!(exit, Exit::Failed(_)), "KVM_RUN: {exit:x?}");
        let again = vcpu.run();
        ensure!(
            matches!(again, Exit::Failed(_)),
            "KVM_RUN again: {again:x?}"
        );
        note(format!("KVM_RUN: {exit:?}, then {again:?}"));
    }
    recovers(host)
}

fn idle() -> Result<()> {
    let host = Host::start()?;
    {
        let kvm = host.open()?;
        let machine = Machine::new(&kvm)?;
        let mut vcpu = machine.vcpu(0)?;
        ensure!(vcpu.call(Program::Hello, &[])? == 0x600d, "wrong result");
        provoke()?;
        vcpu.start(Program::Hello, &[])?;
        let exit = vcpu.run();
        ensure!(matches!(exit, Exit::Failed(_)), "KVM_RUN: {exit:x?}");
        // It was found dead, and can only be closed: what the kernel says of a VM that it gave up.
        let Err(error) = machine.remove(crate::kvm::machine::SLOT) else {
            bail!("the dead VM still obeys");
        };
        ensure!(
            error.downcast_ref() == Some(&Errno::EIO),
            "removing a slot: {error:#}"
        );
    }
    recovers(host)
}
