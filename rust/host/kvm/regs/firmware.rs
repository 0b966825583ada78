// SPDX-License-Identifier: GPL-2.0-only

//! Host: pseudo-registers of what plays firmware: the PSCI version, mitigations, and bitmaps of SMCCC services.
//!
//! Source: `Documentation/virt/kvm/arm/fw-pseudo-registers.rst` of Linux.

use kernel::prelude::*;

use super::{
    super::{
        attrs::BITMAPS,
        psci,
        vcpu::Active, //
    },
    user,
    PSCI_0_2, //
};
use crate::common::{
    regid::{
        self,
        SIZE_U64, //
    },
    smccc::psci as version,
};

/// KVM_REG_ARM_PSCI_VERSION.
const PSCI_VERSION: u64 = regid::firmware_id(0);
/// KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_1..3.
const WORKAROUND_1: u64 = regid::firmware_id(1);
const WORKAROUND_2: u64 = regid::firmware_id(2);
const WORKAROUND_3: u64 = regid::firmware_id(3);
/// KVM_REG_ARM_STD_BMAP, KVM_REG_ARM_STD_HYP_BMAP, KVM_REG_ARM_VENDOR_HYP_BMAP, KVM_REG_ARM_VENDOR_HYP_BMAP_2.
const BITMAP_IDS: [u64; BITMAPS] = [
    regid::firmware_bitmap_id(0),
    regid::firmware_bitmap_id(1),
    regid::firmware_bitmap_id(2),
    regid::firmware_bitmap_id(3),
];

/// The IDs of all of them.
pub(super) fn ids() -> impl Iterator<Item = u64> {
    let single = [PSCI_VERSION, WORKAROUND_1, WORKAROUND_2, WORKAROUND_3];
    Iterator::chain(single.into_iter(), BITMAP_IDS)
}

/// Protection of the guest against one kind of speculation: the level, of four bits. A higher one is better.
///
/// No service of EL3 is passed on, so a guest is told that it is protected only where the CPUs need none.
fn level(id: u64) -> u64 {
    const NOT_AVAILABLE: u64 = 0;
    const NOT_REQUIRED: u64 = 2;
    match id {
        WORKAROUND_1 if psci::spectre_v2_unaffected() => NOT_REQUIRED,
        WORKAROUND_3 if psci::spectre_bhb_unaffected() => NOT_REQUIRED,
        _ => NOT_AVAILABLE,
    }
}

fn bitmap_place(id: u64) -> Option<usize> {
    BITMAP_IDS.iter().position(|bitmap| *bitmap == id)
}

/// # Errors
///
/// `ENOENT`, `EFAULT`.
pub(super) fn get(active: &Active<'_>, id: u64, address: u64) -> Result {
    let value = match id {
        PSCI_VERSION => u64::from(psci::version(active)),
        WORKAROUND_1 | WORKAROUND_2 | WORKAROUND_3 => level(id),
        _ => active.vm.arch().bitmap(bitmap_place(id).ok_or(ENOENT)?),
    };
    user::write(address, &value.to_ne_bytes())
}

/// # Errors
///
/// `ENOENT`, `EFAULT`; `EINVAL` for more than there is; `EBUSY` where it is too late.
pub(super) fn set(active: &Active<'_>, id: u64, address: u64) -> Result {
    /// The level is in these bits.
    const LEVEL: u64 = 0xf;
    /// KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_2_ENABLED, and the one level that it goes with.
    const ENABLED: u64 = 1 << 4;
    const AVAILABLE_2: u64 = 2;
    if regid::size_bytes(id) != regid::size_bytes(SIZE_U64) {
        return Err(ENOENT);
    }
    let value = u64::from_ne_bytes(user::read(address)?);
    match id {
        PSCI_VERSION => set_version(active, value),
        WORKAROUND_1 | WORKAROUND_3 if value & !LEVEL == 0 && value <= level(id) => Ok(()),
        WORKAROUND_2 => {
            let level_2 = value & LEVEL;
            let enabled_ok = value & ENABLED == 0 || level_2 == AVAILABLE_2;
            // "Not available" and "unknown" are within what this machine has; "available" and "not required" are more.
            if value & !(LEVEL | ENABLED) == 0 && enabled_ok && level_2 < AVAILABLE_2 {
                Ok(())
            } else {
                Err(EINVAL)
            }
        }
        WORKAROUND_1 | WORKAROUND_3 => Err(EINVAL),
        _ => active
            .vm
            .arch()
            .set_bitmap(bitmap_place(id).ok_or(ENOENT)?, value),
    }
}

fn set_version(active: &Active<'_>, value: u64) -> Result {
    const KNOWN: [u32; 6] = [
        version::V0_1,
        version::V0_2,
        version::V1_0,
        version::V1_1,
        version::V1_2,
        version::V1_3,
    ];
    let value = u32::try_from(value).map_err(|_| EINVAL)?;
    let new = active.state().features & PSCI_0_2 != 0;
    if !KNOWN.contains(&value) || (value != version::V0_1) != new {
        return Err(EINVAL);
    }
    active.vm.arch().set_psci_version(value);
    Ok(())
}
