// SPDX-License-Identifier: GPL-2.0-only

//! Host: general-purpose and FP/SIMD registers for KVM_GET_ONE_REG and KVM_SET_ONE_REG.

use kernel::prelude::*;

use super::{
    super::{
        config,
        vcpu::Active, //
    },
    set_x,
    user,
    x, //
};
use crate::common::{
    exception::pstate,
    guest::SysReg,
    regid::{
        self,
        CoreReg,
        NoCoreReg, //
    },
};

fn find(id: u64) -> Result<CoreReg> {
    regid::core_register(id).map_err(|error| match error {
        NoCoreReg::Beyond => ENOENT,
        NoCoreReg::Malformed => EINVAL,
    })
}

/// # Errors
///
/// `ENOENT`, `EINVAL` for an ID that names nothing, `EFAULT`.
pub(super) fn get(active: &Active<'_>, id: u64, address: u64) -> Result {
    let register = find(id)?;
    let context = active.context();
    let value = match register {
        CoreReg::V(number) => {
            let value = context.fp.v.get(usize::from(number)).copied().unwrap_or(0);
            return user::write(address, &value.to_ne_bytes());
        }
        CoreReg::Fpsr => return user::write(address, &(context.fp.fpsr as u32).to_ne_bytes()),
        CoreReg::Fpcr => return user::write(address, &(context.fp.fpcr as u32).to_ne_bytes()),
        CoreReg::X(number) => x(context, number),
        CoreReg::Sp => context.regs.sp_el0,
        CoreReg::Pc => context.regs.elr,
        CoreReg::Pstate => context.regs.spsr,
        CoreReg::SpEl1 => context.sys_reg(SysReg::SpEl1),
        CoreReg::ElrEl1 => context.sys_reg(SysReg::ElrEl1),
        CoreReg::Spsr(0) => context.sys_reg(SysReg::SpsrEl1),
        CoreReg::Spsr(number) => {
            let aarch32 = &active.state().arch.aarch32_spsr;
            let place = usize::from(number).wrapping_sub(1);
            aarch32.get(place).copied().unwrap_or(0)
        }
    };
    user::write(address, &value.to_ne_bytes())
}

/// # Errors
///
/// As [`get`], and `EINVAL` for a mode that the vCPU has not.
pub(super) fn set(active: &mut Active<'_>, id: u64, address: u64) -> Result {
    let register = find(id)?;
    match register {
        CoreReg::V(number) => {
            let value = u128::from_ne_bytes(user::read(address)?);
            if let Some(place) = active.context_mut().fp.v.get_mut(usize::from(number)) {
                *place = value;
            }
        }
        CoreReg::Fpsr => {
            active.context_mut().fp.fpsr = u64::from(u32::from_ne_bytes(user::read(address)?));
        }
        CoreReg::Fpcr => {
            active.context_mut().fp.fpcr = u64::from(u32::from_ne_bytes(user::read(address)?));
        }
        _ => set_long(active, register, u64::from_ne_bytes(user::read(address)?))?,
    }
    narrow(active);
    Ok(())
}

/// A register of 64 bits.
fn set_long(active: &mut Active<'_>, register: CoreReg, value: u64) -> Result {
    if register == CoreReg::Pstate {
        check_mode(value)?;
    }
    if let CoreReg::Spsr(number @ 1..) = register {
        let place = usize::from(number).wrapping_sub(1);
        if let Some(place) = active.state_mut().arch.aarch32_spsr.get_mut(place) {
            *place = value;
        }
        return Ok(());
    }
    let context = active.context_mut();
    match register {
        CoreReg::X(number) => set_x(context, number, value),
        CoreReg::Sp => context.regs.sp_el0 = value,
        CoreReg::Pc => context.regs.elr = value,
        CoreReg::Pstate => context.regs.spsr = value,
        CoreReg::SpEl1 => context.set_sys_reg(SysReg::SpEl1, value),
        CoreReg::ElrEl1 => context.set_sys_reg(SysReg::ElrEl1, value),
        _ => context.set_sys_reg(SysReg::SpsrEl1, value),
    }
    Ok(())
}

/// EL1 is AArch64; EL0 may be AArch32 where the CPUs have that.
fn check_mode(spsr: u64) -> Result {
    match spsr & pstate::MODE {
        pstate::EL0T | pstate::EL1T | pstate::EL1H => Ok(()),
        pstate::AARCH32 if config::has_aarch32_el0() => Ok(()),
        _ => Err(EINVAL),
    }
}

/// In AArch32 at EL0, what r0..r14 and the PC are seen through has 32 bits.
fn narrow(active: &mut Active<'_>) {
    let regs = &mut active.context_mut().regs;
    if regs.spsr & pstate::AARCH32 == 0 {
        return;
    }
    for register in regs.x.iter_mut().take(15) {
        *register &= 0xffff_ffff;
    }
    regs.elr &= 0xffff_ffff;
}
