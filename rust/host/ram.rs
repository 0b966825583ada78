// SPDX-License-Identifier: GPL-2.0-only

//! Host: which physical addresses are RAM that the kernel maps.
//!
//! The resource tree names them: memory that firmware marked "no-map" is not "System RAM" there, and must not be mapped
//! at EL2 either, as speculation would reach it.

use kernel::{
    error::to_result,
    ffi::{
        c_int,
        c_ulong,
        c_void, //
    },
    prelude::*, //
};

use super::refused::{
    refuse,
    Reason,
    Refused, //
};
use crate::{
    bindings,
    common::{
        addr::{
            AddrRange,
            PhysAddr, //
        },
        shared::{
            RamRange,
            MAX_RAM_RANGES, //
        },
    },
};

/// The ranges, in ascending order.
pub(crate) struct Ram {
    ranges: [RamRange; MAX_RAM_RANGES],
    count: usize,
}

impl Ram {
    /// Asks the kernel.
    ///
    /// # Errors
    ///
    /// `E2BIG`: there are more ranges than we have room for.
    pub(crate) fn read() -> Result<Self, Refused> {
        let mut ram = Self {
            ranges: [RamRange::default(); MAX_RAM_RANGES],
            count: 0,
        };
        // SAFETY: `add_range` takes the `Ram` that is passed, for the duration of the call.
        to_result(unsafe {
            bindings::walk_iomem_res_desc(
                bindings::IORES_DESC_NONE as c_ulong,
                (bindings::IORESOURCE_SYSTEM_RAM | bindings::IORESOURCE_BUSY) as c_ulong,
                0,
                u64::MAX,
                (&raw mut ram).cast(),
                Some(add_range),
            )
        })
        .map_err(|error| match error {
            E2BIG => refuse!(E2BIG, "RAM comes in more than {MAX_RAM_RANGES} pieces; raise MAX_RAM_RANGES in rust/common/shared.rs"),
            error => error.tell("the map of RAM"),
        })?;
        Ok(ram)
    }

    /// The ranges as EL2 gets them.
    pub(crate) fn table(&self) -> (&[RamRange; MAX_RAM_RANGES], u32) {
        (&self.ranges, self.count as u32)
    }

    /// The ranges.
    pub(crate) fn ranges(&self) -> &[RamRange] {
        self.ranges.get(..self.count).unwrap_or(&[])
    }

    /// From the first byte of RAM to the last.
    pub(crate) fn span(&self) -> Option<AddrRange<PhysAddr>> {
        let first = PhysAddr::new(self.ranges().first()?.first)?;
        let last = PhysAddr::new(self.ranges().last()?.last)?;
        AddrRange::from_bounds(first, last)
    }
}

/// Called for each range, in ascending order. A range that continues the one before it is merged with it.
///
/// # Safety
///
/// `data` is a [`Ram`] that nobody else uses, and `resource` is valid, both until this returns.
unsafe extern "C" fn add_range(resource: *mut bindings::resource, data: *mut c_void) -> c_int {
    // SAFETY: By the contract of this function.
    let (ram, resource) = unsafe { (&mut *data.cast::<Ram>(), &*resource) };
    let (first, last) = (resource.start, resource.end);
    if let Some(previous) = ram
        .count
        .checked_sub(1)
        .and_then(|at| ram.ranges.get_mut(at))
    {
        if previous.last.checked_add(1) == Some(first) {
            previous.last = last;
            return 0;
        }
    }
    let Some(slot) = ram.ranges.get_mut(ram.count) else {
        return E2BIG.to_errno();
    };
    *slot = RamRange { first, last };
    ram.count += 1;
    0
}
