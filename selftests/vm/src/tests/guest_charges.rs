// SPDX-License-Identifier: GPL-2.0-only

//! What VMs make the kernel allocate is charged to their process's control group, and nothing of it is left when they are gone:
//! not one object in a hundred VMs.

use std::{
    fs::File,
    os::{
        fd::AsRawFd,
        unix::net::UnixStream, //
    },
};

use anyhow::{
    ensure,
    Context,
    Result, //
};
use kvm_ioctls::Kvm;

use super::guest_lifetime::{
    in_turn,
    killed,
    receive,
    send, //
};
use crate::{
    guest::{
        cgroup::Group,
        child, //
    },
    ktap::{
        note,
        Test, //
    },
    kvm::{
        host::{
            self,
            Host, //
        },
        machine::Machine,
        poll,
    },
};

/// VMs of each case.
const VMS: u32 = 100;

pub fn test() -> Test {
    host::test()
        .case("vm_that_is_kept_is_charged", || with_group(kept))
        .case("vms_in_turn_leave_no_charge", || {
            with_group(|group| all_of(group, in_turn))
        })
        .case("vms_killed_at_random_leave_no_charge", || {
            with_group(|group| all_of(group, killed))
        })
}

fn with_group(body: impl FnOnce(&Group) -> Result<()>) -> Result<()> {
    let host = Host::start()?;
    let result = Group::new("eltwo-guests").and_then(|group| body(&group));
    let end = host.end();
    result.and(end)
}

/// Waits until nothing is charged to the group, whose processes are gone: the kernel puts some of what it frees off.
fn expect_nothing(group: &Group) -> Result<()> {
    group.leave()?;
    let mut charged = Ok(0);
    let nothing = poll(|| {
        charged = group.charged();
        !matches!(charged, Ok(bytes) if bytes != 0)
    });
    let bytes = charged?;
    nothing.with_context(|| {
        let details = group.details().unwrap_or_default();
        format!("{bytes} bytes are still charged: {details}")
    })
}

/// Does `work` in a process of the group.
fn all_of(group: &Group, work: fn(&Kvm, u32) -> Result<()>) -> Result<()> {
    let child = child::start(|| {
        group.enter()?;
        work(&Kvm::new()?, VMS)
    })?;
    child::wait_success(child)?;
    expect_nothing(group)?;
    note(format!("{VMS} VMs, nothing charged afterwards"));
    Ok(())
}

/// One VM more or less shows: that of a process that is gone, as long as somebody else has its file.
fn kept(group: &Group) -> Result<()> {
    let (ours, theirs) = UnixStream::pair()?;
    let child = child::start(|| {
        group.enter()?;
        let machine = Machine::new(&Kvm::new()?)?;
        machine.vcpu(0)?;
        send(&theirs, machine.vm.as_raw_fd())
    })?;
    let file = File::from(receive(&ours)?);
    child::wait_success(child)?;
    let charged = group.charged()?;
    drop(file);
    ensure!(charged != 0, "nothing is charged for a VM");
    expect_nothing(group)?;
    note(format!("a VM without memory: {charged} bytes"));
    Ok(())
}
