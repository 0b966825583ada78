// SPDX-License-Identifier: GPL-2.0-only

//! Host: the ID registers of a VM.
//!
//! All vCPUs of a VM have the same. User space may lower them until a vCPU has run.

use kernel::{
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};

use super::super::{
    attrs::Flag,
    config,
    vm::Vm, //
};
use crate::{
    arch::sysreg,
    bindings,
    common::{
        idreg::{
            self,
            IdReg,
            Zero, //
        },
        regid::Encoding,
        sysregs, //
    },
    host::{
        inject,
        probe, //
    },
};

/// The ID registers of a VM.
pub(crate) struct IdRegs {
    /// By [`idreg::index`].
    features: [u64; idreg::COUNT],
    ctr: u64,
    midr: u64,
    revidr: u64,
    aidr: u64,
}

/// Whether the register reads as zero on this machine.
fn is_zero(register: &IdReg) -> bool {
    match register.zero {
        Zero::Never => false,
        Zero::Always => true,
        Zero::WithoutAarch32 => !config::has_aarch32_el0(),
    }
}

/// What all CPUs have in common.
fn host(register: &IdReg) -> u64 {
    probe::sanitised(register.encoding.linux_key())
}

/// The most that a guest may be told.
fn limit(register: &IdReg) -> u64 {
    if is_zero(register) {
        return 0;
    }
    let mut limit = idreg::limit(register.encoding, host(register));
    if register.encoding == idreg::AA64PFR0 {
        if !probe::has_cap(bindings::ARM64_HAS_RAS_EXTN) {
            // The switch does not save what belongs to it.
            limit &= !idreg::AA64PFR0_RAS;
        }
        if probe::has_cap(bindings::ARM64_HAS_GICV3_CPUIF) {
            // Until a vCPU runs: user space may still make the controller. See `IdRegs::settle`.
            limit |= idreg::AA64PFR0_GIC_1;
        }
    }
    limit
}

impl IdRegs {
    /// Of a new VM: the most that there is.
    pub(in crate::host::kvm) fn new() -> Self {
        let mut features = [0; idreg::COUNT];
        for (index, value) in features.iter_mut().enumerate() {
            if let Some(register) = idreg::at(index).and_then(idreg::find) {
                *value = limit(register);
            }
        }
        Self {
            features,
            ctr: idreg::find(idreg::CTR).map_or(0, limit),
            midr: sysreg::midr_el1(),
            revidr: sysreg::revidr_el1(),
            aidr: sysreg::aidr_el1(),
        }
    }

    /// A vCPU is about to run: what the VM has not got by now it will not have.
    pub(super) fn settle(&mut self) {
        if let Some(pfr0) = self.slot(idreg::AA64PFR0) {
            *pfr0 &= !idreg::AA64PFR0_GIC;
        }
    }

    fn slot(&mut self, encoding: Encoding) -> Option<&mut u64> {
        match encoding {
            idreg::CTR => Some(&mut self.ctr),
            idreg::MIDR => Some(&mut self.midr),
            idreg::REVIDR => Some(&mut self.revidr),
            idreg::AIDR => Some(&mut self.aidr),
            _ => self.features.get_mut(idreg::index(encoding)?),
        }
    }

    /// The value of a register; those that are none are zero.
    pub(in crate::host::kvm) fn get(&self, encoding: Encoding) -> u64 {
        match encoding {
            idreg::CTR => self.ctr,
            idreg::MIDR => self.midr,
            idreg::REVIDR => self.revidr,
            idreg::AIDR => self.aidr,
            _ => idreg::index(encoding)
                .and_then(|index| self.features.get(index))
                .copied()
                .unwrap_or(0),
        }
    }
}

/// The value of an ID register of the VM.
pub(in crate::host::kvm) fn get(vm: &Vm, encoding: Encoding) -> u64 {
    vm.arch().config().ids.get(encoding)
}

/// User space lowers an ID register, CTR_EL0 among them.
///
/// # Errors
///
/// `EINVAL` for what is more than the guest may be told, `EBUSY` for a change once a vCPU has run.
pub(super) fn set(vm: &Vm, encoding: Encoding, value: u64) -> Result {
    let Some(register) = idreg::find(encoding) else {
        // Not allocated: zero, for ever.
        return if value == 0 { Ok(()) } else { Err(EINVAL) };
    };
    if register.zero == Zero::WithoutAarch32 && is_zero(register) {
        return Ok(());
    }
    let zero = is_zero(register);
    let value = if zero {
        value
    } else {
        idreg::adjusted(encoding, value, host(register)).ok_or(EINVAL)?
    };
    let arch = vm.arch();
    let mut config = arch.config();
    let Some(slot) = config.ids.slot(encoding) else {
        return Err(ENOENT);
    };
    if arch.has(Flag::HasRun) {
        return if *slot == value { Ok(()) } else { Err(EBUSY) };
    }
    if zero && value != 0 || !zero && !register.accepts(value, limit(register)) {
        return Err(EINVAL);
    }
    *slot = value;
    Ok(())
}

/// User space sets MIDR_EL1 or its like.
///
/// # Errors
///
/// `EINVAL` for a change that has not been allowed or is too wide, `EBUSY` for one once a vCPU has run.
pub(super) fn set_implementation(vm: &Vm, encoding: Encoding, value: u64) -> Result {
    let arch = vm.arch();
    let mut config = arch.config();
    let (Some(slot), Some(mask)) = (
        config.ids.slot(encoding),
        idreg::implementation_mask(encoding),
    ) else {
        return Err(ENOENT);
    };
    if *slot == value {
        return Ok(());
    }
    if !arch.has(Flag::WritableImplementation) {
        return Err(EINVAL);
    }
    if arch.has(Flag::HasRun) {
        return Err(EBUSY);
    }
    if value & !mask != 0 {
        return Err(EINVAL);
    }
    *slot = value;
    Ok(())
}

/// Words in what KVM_ARM_GET_REG_WRITABLE_MASKS fills.
const MASKS: usize = 3 * 8 * 8;

/// KVM_ARM_GET_REG_WRITABLE_MASKS.
///
/// # Errors
///
/// `EFAULT`, `EINVAL`.
pub(in crate::host::kvm) fn writable_masks(arg: usize) -> Result {
    // addr; range and the first reserved word; the other twelve reserved words.
    let [address, range_and_reserved, reserved @ ..] = super::user::read_longs::<8>(arg)?;
    if range_and_reserved != 0 || reserved.iter().any(|word| *word != 0) {
        return Err(EINVAL);
    }
    let flags = inject::kernel("the masks of ID registers")?;
    let mut masks = KVec::from_elem(0u64, MASKS, flags)?;
    for encoding in sysregs::all() {
        let Some(index) = encoding.feature_index() else {
            continue;
        };
        if let Some(place) = masks.get_mut(index as usize) {
            *place = writable_mask(encoding);
        }
    }
    let mut writer = UserSlice::new(
        UserPtr::from_addr(address as usize),
        MASKS * size_of::<u64>(),
    )
    .writer();
    masks.iter().try_for_each(|mask| writer.write(mask))
}

fn writable_mask(encoding: Encoding) -> u64 {
    if encoding == idreg::CLIDR {
        return idreg::CLIDR_WRITABLE;
    }
    if let Some(mask) = idreg::implementation_mask(encoding) {
        return mask;
    }
    if idreg::is_aarch32(encoding) && !config::has_aarch32_el0() {
        return 0;
    }
    idreg::find(encoding).map_or(0, |register| register.writable)
}
