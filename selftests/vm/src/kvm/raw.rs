// SPDX-License-Identifier: GPL-2.0-only

//! Calls that `kvm-ioctls` does not make, because they are wrong or because it lacks them.

use std::os::fd::AsRawFd;

use nix::{
    errno::Errno,
    libc, //
};

/// Makes an ioctl with any argument. The result is what the kernel returns.
///
/// # Safety
///
/// If the kernel reads or writes through `argument`, what is there must be memory that it may read or write.
pub unsafe fn ioctl(fd: &impl AsRawFd, request: u32, argument: u64) -> Result<i32, Errno> {
    // SAFETY: The caller answers for the argument.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request as _, argument) };
    Errno::result(result)
}

/// The error number at the root of `error`, if it comes from the kernel.
pub fn errno_of(error: &anyhow::Error) -> Option<Errno> {
    let root = error.root_cause();
    let of_ioctl = || {
        root.downcast_ref::<kvm_ioctls::Error>()
            .map(|error| Errno::from_raw(error.errno()))
    };
    root.downcast_ref().copied().or_else(of_ioctl)
}

/// The error number of a call of `kvm-ioctls`.
pub fn errno<T>(result: Result<T, kvm_ioctls::Error>) -> Result<T, Errno> {
    result.map_err(|error| Errno::from_raw(error.errno()))
}
