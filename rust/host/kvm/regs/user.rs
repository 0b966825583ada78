// SPDX-License-Identifier: GPL-2.0-only

//! Host: arguments of ioctls in user space.

use kernel::{
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};

/// Reads `N` bytes.
///
/// # Errors
///
/// `EFAULT`.
pub(in crate::host::kvm) fn read<const N: usize>(address: u64) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    UserSlice::new(UserPtr::from_addr(address as usize), N)
        .reader()
        .read_slice(&mut bytes)?;
    Ok(bytes)
}

/// Reads `N` words of 32 bits.
///
/// # Errors
///
/// `EFAULT`.
pub(in crate::host::kvm) fn read_words<const N: usize>(address: usize) -> Result<[u32; N]> {
    let mut words = [0; N];
    let mut reader = UserSlice::new(UserPtr::from_addr(address), N * size_of::<u32>()).reader();
    for word in &mut words {
        *word = reader.read()?;
    }
    Ok(words)
}

/// Reads `N` words of 64 bits.
///
/// # Errors
///
/// `EFAULT`.
pub(in crate::host::kvm) fn read_longs<const N: usize>(address: usize) -> Result<[u64; N]> {
    let mut words = [0; N];
    let mut reader = UserSlice::new(UserPtr::from_addr(address), N * size_of::<u64>()).reader();
    for word in &mut words {
        *word = reader.read()?;
    }
    Ok(words)
}

/// Writes `bytes`.
///
/// # Errors
///
/// `EFAULT`.
pub(in crate::host::kvm) fn write(address: u64, bytes: &[u8]) -> Result {
    UserSlice::new(UserPtr::from_addr(address as usize), bytes.len())
        .writer()
        .write_slice(bytes)
}

/// `struct kvm_device_attr`.
pub(in crate::host::kvm) struct Attr {
    /// `group`.
    pub(in crate::host::kvm) group: u32,
    /// `attr`.
    pub(in crate::host::kvm) attr: u64,
    /// `addr`.
    pub(in crate::host::kvm) address: u64,
}

impl Attr {
    /// # Errors
    ///
    /// `EFAULT`.
    pub(in crate::host::kvm) fn read(arg: usize) -> Result<Self> {
        // flags and group, attr, addr.
        let [flags_group, attr, address] = read_longs::<3>(arg)?;
        Ok(Self {
            group: (flags_group >> 32) as u32,
            attr,
            address,
        })
    }
}
