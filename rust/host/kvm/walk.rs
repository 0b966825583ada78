// SPDX-License-Identifier: GPL-2.0-only

//! Host: where in the guest's own tables a walk has failed.

use super::vcpu::Active;
use crate::common::{
    exception::sctlr,
    guest::{
        SysReg,
        HPFAR_INVALID, //
    },
    s1walk::Controls, //
};

/// The level of the stage-1 table whose address is that of the fault which stopped the guest. `None` if its tables do not
/// lead there.
pub(super) fn level_of_fault(active: &Active<'_>) -> Option<i8> {
    /// HPFAR_EL2.FIPA: bits 43:4 are address bits 51:12.
    const FIPA: u64 = 0x0fff_ffff_fff0;
    let context = active.context();
    let exit = context.exit;
    let stage_1_is_on = context.sys_reg(SysReg::SctlrEl1) & sctlr::M != 0;
    if exit.hpfar == HPFAR_INVALID || !stage_1_is_on {
        return None;
    }
    let controls = Controls {
        tcr: context.sys_reg(SysReg::TcrEl1),
        ttbr0: context.sys_reg(SysReg::Ttbr0El1),
        ttbr1: context.sys_reg(SysReg::Ttbr1El1),
    };
    let big_endian = context.sys_reg(SysReg::SctlrEl1) & sctlr::EE != 0;
    controls.level_at(exit.far, (exit.hpfar & FIPA) << 8, |address| {
        let mut bytes = [0; 8];
        active.vm.read_guest(address, &mut bytes).ok()?;
        Some(if big_endian {
            u64::from_be_bytes(bytes)
        } else {
            u64::from_le_bytes(bytes)
        })
    })
}
