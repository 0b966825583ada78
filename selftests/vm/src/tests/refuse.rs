// SPDX-License-Identifier: GPL-2.0-only

//! What the tests of refusals have in common.

use std::{
    fs::OpenOptions,
    os::fd::{
        AsRawFd,
        FromRawFd,
        OwnedFd, //
    },
};

use anyhow::{
    ensure,
    Context,
    Result, //
};
use nix::{
    errno::Errno,
    libc::c_int, //
};

use crate::{
    guest::{
        cpu,
        module, //
    },
    ktap::note,
};

/// `KVMIO` of `include/uapi/linux/kvm.h`.
const KVMIO: u8 = 0xae;

nix::ioctl_write_int_bad!(
    /// Returns the version of the KVM uAPI: 12. The argument must be 0.
    kvm_get_api_version,
    nix::request_code_none!(KVMIO, 0x00)
);
nix::ioctl_write_int_bad!(
    /// Creates a VM of a type; returns its file descriptor.
    kvm_create_vm,
    nix::request_code_none!(KVMIO, 0x01)
);
nix::ioctl_write_int_bad!(
    /// Creates a vCPU of a VM; returns its file descriptor.
    kvm_create_vcpu,
    nix::request_code_none!(KVMIO, 0x41)
);

/// insmod is refused with `errno`, and says why, once, in one line with all of `words`.
pub fn expect(errno: Errno, words: &[&str]) -> Result<()> {
    let log = module::expect_refusal("", errno)?;
    let refusals: Vec<_> = log
        .iter()
        .filter(|line| line.starts_with("refused: "))
        .collect();
    let [line] = refusals[..] else {
        anyhow::bail!("expected one line with refused: {log:?}");
    };
    for word in words {
        ensure!(line.contains(word), "{word:?} is not in {line:?}");
    }
    note(line);
    Ok(())
}

/// CPUs still come and go.
pub fn kernel_unharmed() -> Result<()> {
    for cpu in cpu::secondaries()? {
        cpu::set_online(cpu, false)?;
        cpu::set_online(cpu, true)?;
        cpu::on(cpu, || Ok(()))?;
    }
    Ok(())
}

/// The kernel's KVM makes a VM with a vCPU.
pub fn kvm_works() -> Result<()> {
    let kvm = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .context("/dev/kvm")?;
    let fd = kvm.as_raw_fd();
    // SAFETY: The argument is a number.
    let version = unsafe { kvm_get_api_version(fd, 0) }.context("KVM_GET_API_VERSION")?;
    ensure!(version == 12, "KVM says that its API is version {version}");
    // SAFETY: The argument is a number.
    let vm = owned(unsafe { kvm_create_vm(fd, 0) }.context("KVM_CREATE_VM")?);
    let fd = vm.as_raw_fd();
    // SAFETY: The argument is a number.
    let _vcpu = owned(unsafe { kvm_create_vcpu(fd, 0) }.context("KVM_CREATE_VCPU")?);
    Ok(())
}

fn owned(fd: c_int) -> OwnedFd {
    // SAFETY: The kernel has just made this descriptor for us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
