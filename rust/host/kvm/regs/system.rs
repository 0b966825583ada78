// SPDX-License-Identifier: GPL-2.0-only

//! Host: system registers for KVM_GET_ONE_REG and KVM_SET_ONE_REG.

use kernel::prelude::*;

use super::{
    super::{
        attrs::Flag,
        debug,
        vcpu::Active, //
    },
    host_ctr,
    id,
    set_mpidr,
    user,
    OSLSR_RESET, //
};
use crate::{
    arch::sysreg,
    common::{
        guest::SysReg,
        idreg, regid,
        sysregs::{
            self,
            Debug,
            Memory,
            Place, //
        },
    },
};

fn find(id: u64) -> Result<Place> {
    regid::system_register(id)
        .and_then(sysregs::place)
        .ok_or(ENOENT)
}

/// The value of a breakpoint or watchpoint register.
pub(in crate::host::kvm) fn debug_register(active: &Active<'_>, kind: Debug, number: usize) -> u64 {
    let bank = active.state().arch.debug.get(kind as usize);
    bank.and_then(|bank| bank.get(number)).copied().unwrap_or(0)
}

/// Sets a breakpoint or watchpoint register.
pub(in crate::host::kvm) fn set_debug_register(
    active: &mut Active<'_>,
    kind: Debug,
    number: usize,
    value: u64,
) {
    let bank = active.state_mut().arch.debug.get_mut(kind as usize);
    if let Some(place) = bank.and_then(|bank| bank.get_mut(number)) {
        *place = value;
    }
}

/// # Errors
///
/// `ENOENT` for what the vCPU has not, `EFAULT`.
pub(super) fn get(active: &Active<'_>, id: u64, address: u64) -> Result {
    let vm = active.vm;
    let value = match find(id)? {
        Place::Sys(register) => active.context().sys_reg(register),
        Place::Stored(register) => active.state().arch.memory(register),
        Place::Debug(kind, number) => debug_register(active, kind, number),
        Place::Mpidr => active.context().config.vmpidr,
        Place::Id(index) => idreg::at(index).map_or(0, |encoding| id::get(vm, encoding)),
        Place::Ctr => id::get(vm, idreg::CTR),
        Place::Implementation(encoding) => id::get(vm, encoding),
        Place::VirtualCounter => sysreg::cntpct().wrapping_sub(vm.arch().virtual_offset()),
        Place::PhysicalCounter => sysreg::cntpct().wrapping_sub(vm.arch().physical_offset()),
    };
    user::write(address, &value.to_ne_bytes())
}

/// CNTx_CTL_EL0.ISTATUS, which follows from the rest.
const ISTATUS: u64 = 1 << 2;
/// OSLSR_EL1.OSLK.
const OSLK: u64 = 1 << 1;

/// # Errors
///
/// As [`get`], and `EINVAL` and `EBUSY` where the register does not take the value.
pub(super) fn set(active: &mut Active<'_>, id: u64, address: u64) -> Result {
    let value = u64::from_ne_bytes(user::read(address)?);
    let vm = active.vm;
    match find(id)? {
        Place::Sys(SysReg::CntvCtlEl0) => active
            .context_mut()
            .set_sys_reg(SysReg::CntvCtlEl0, value & !ISTATUS),
        Place::Sys(register) => active.context_mut().set_sys_reg(register, value),
        Place::Stored(register) => set_memory(active, register, value)?,
        Place::Debug(kind, number) => set_debug_register(active, kind, number, value),
        Place::Mpidr => set_mpidr(active, value),
        Place::Id(index) => id::set(vm, idreg::at(index).ok_or(ENOENT)?, value)?,
        Place::Ctr => id::set(vm, idreg::CTR, value)?,
        Place::Implementation(encoding) => id::set_implementation(vm, encoding, value)?,
        Place::VirtualCounter if !vm.arch().has(Flag::FixedCounters) => vm
            .arch()
            .set_virtual_offset(sysreg::cntpct().wrapping_sub(value)),
        Place::PhysicalCounter if !vm.arch().has(Flag::FixedCounters) => vm
            .arch()
            .set_physical_offset(sysreg::cntpct().wrapping_sub(value)),
        Place::VirtualCounter | Place::PhysicalCounter => {}
    }
    Ok(())
}

fn set_memory(active: &mut Active<'_>, register: Memory, value: u64) -> Result {
    let value = match register {
        Memory::OslsrEl1 if (value ^ OSLSR_RESET) & !OSLK != 0 => return Err(EINVAL),
        Memory::ClidrEl1 if !idreg::clidr_accepts(value, host_ctr()) => return Err(EINVAL),
        Memory::CntpCtlEl0 => value & !ISTATUS,
        Memory::OslsrEl1 => {
            set_os_lock(active, value & OSLK != 0);
            return Ok(());
        }
        Memory::MdscrEl1 => {
            set_mdscr(active, value);
            return Ok(());
        }
        _ => value,
    };
    active.state_mut().arch.set_memory(register, value);
    Ok(())
}

/// MDSCR_EL1 of the guest. What the CPU gets follows from it.
pub(in crate::host::kvm) fn set_mdscr(active: &mut Active<'_>, value: u64) {
    let state = &mut active.state_mut().arch;
    state.set_memory(Memory::MdscrEl1, value);
    debug::apply(active);
}

/// Closes or opens the OS lock.
pub(in crate::host::kvm) fn set_os_lock(active: &mut Active<'_>, closed: bool) {
    let value = if closed {
        OSLSR_RESET | OSLK
    } else {
        OSLSR_RESET
    };
    let state = &mut active.state_mut().arch;
    state.set_memory(Memory::OslsrEl1, value);
    debug::apply(active);
}
