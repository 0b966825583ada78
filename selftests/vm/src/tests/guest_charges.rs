// SPDX-License-Identifier: GPL-2.0-only

//! What VMs make the kernel allocate is charged to their process's control group, and nothing of it is left when they are gone:
//! not one object in a hundred VMs (a quarter of them on the debug kernel).
//!
//! A file that a process of the group is the first to look up may stay charged to it, too: its directory entry and inode outlive the
//! process. So a process makes a VM before it enters the group.

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
        account::rounds,
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

/// VMs of each case on an ordinary kernel.
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
    let vms = rounds(VMS);
    let child = child::start(|| {
        let kvm = Kvm::new()?;
        in_turn(&kvm, 1)?;
        group.enter()?;
        work(&kvm, vms)
    })?;
    child::wait_success(child)?;
    expect_nothing(group)?;
    note(format!("{vms} VMs, nothing charged afterwards"));
    Ok(())
}

/// One VM more or less shows: that of a process that is gone, as long as somebody else has its file.
fn kept(group: &Group) -> Result<()> {
    let (ours, theirs) = UnixStream::pair()?;
    let child = child::start(|| {
        let kvm = Kvm::new()?;
        Machine::new(&kvm)?.vcpu(0)?;
        group.enter()?;
        let machine = Machine::new(&kvm)?;
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
