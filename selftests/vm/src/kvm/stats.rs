// SPDX-License-Identifier: GPL-2.0-only

//! Numbers that KVM counts for a vCPU, through KVM_GET_STATS_FD.
//!
//! Source: `Documentation/virt/kvm/api.rst`, 4.133.

use std::{
    fs::File,
    os::{
        fd::FromRawFd,
        unix::fs::FileExt, //
    },
};

use anyhow::{
    Context,
    Result, //
};
use kvm_ioctls::VcpuFd;

use super::{
    calls,
    raw, //
};

/// Bytes of a descriptor before its name.
const DESCRIPTOR: usize = 16;

fn u32_at(bytes: &[u8], offset: usize) -> Result<usize> {
    let word = bytes.get(offset..offset + 4).context("too short")?;
    Ok(u32::from_le_bytes(word.try_into()?) as usize)
}

/// The counter `name` of the vCPU, if it has one. It must be a single number.
pub fn counter(vcpu: &VcpuFd, name: &str) -> Result<Option<u64>> {
    // SAFETY: The call has no argument.
    let fd = unsafe { raw::ioctl(vcpu, calls::GET_STATS_FD, 0) }.context("KVM_GET_STATS_FD")?;
    // SAFETY: The kernel has just made this file for us.
    let file = unsafe { File::from_raw_fd(fd) };
    let mut header = [0; 24];
    file.read_exact_at(&mut header, 0)?;
    let (name_bytes, count) = (u32_at(&header, 4)?, u32_at(&header, 8)?);
    let (descriptors, data) = (u32_at(&header, 16)?, u32_at(&header, 20)?);
    let stride = DESCRIPTOR + name_bytes;
    let mut table = vec![0; stride * count];
    file.read_exact_at(&mut table, descriptors as u64)?;
    for descriptor in table.chunks_exact(stride) {
        let text = descriptor[DESCRIPTOR..].split(|byte| *byte == 0).next();
        if text == Some(name.as_bytes()) {
            let mut value = [0; 8];
            let offset = data + u32_at(descriptor, 8)?;
            file.read_exact_at(&mut value, offset as u64)?;
            return Ok(Some(u64::from_le_bytes(value)));
        }
    }
    Ok(None)
}
