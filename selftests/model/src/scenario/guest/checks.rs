// SPDX-License-Identifier: GPL-2.0-only

//! Whose registers are in the CPU, and whose are in memory: everything, compared.

use std::mem::offset_of;

use eltwo::{
    common::{
        abi::{
            CpuContext,
            Frame,
            Status, //
        },
        guest::{
            extra,
            flags,
            ExitReason,
            FpRegs,
            GuestSlot,
            SysReg as Place,
            VcpuContext, //
        },
    },
    fake::Reg,
};

use super::{
    super::drive::{
        preserved,
        same, //
    },
    stage::{
        regs_field,
        sys_field,
        Stage,
        Vcpu,
        CPU,
        GUEST_SPSR, //
    },
    values::{
        regs,
        Owner,
        EL2,
        EXTRA,
        HOST,
        PRESENT,
        SYS, //
    },
};
use crate::{
    core::Outcome,
    machine::model_reg,
    sysreg::SysReg,
    world::{
        Exit,
        HOST_PC,
        HOST_SPSR, //
    },
};

/// MDCR_EL2.HPMN.
const MDCR_HPMN: u64 = 0x1f;
/// ICC_SRE_EL2.Enable.
const SRE_ENABLE: u64 = 8;

impl Stage {
    /// Everything is the guest's.
    pub(super) fn check_guest(&mut self, vcpu: &Vcpu, exit: Exit) -> Outcome<()> {
        let owner = vcpu.owner;
        let at = Exit::Guest {
            pc: owner.other(1),
            spsr: GUEST_SPSR,
        };
        same(&self.world, "the guest", exit, at)?;
        let x = self.world.cores[CPU].x;
        same(&self.world, "x0..x30 of the guest", x, owner.x())?;
        self.is(Reg::SpEl0, owner.other(0))?;
        for (place, reg) in regs(&SYS) {
            self.is(reg, owner.sys(place))?;
        }
        for (place, reg) in EL2.into_iter().enumerate() {
            let hpmn = self.of_host(reg, 0) & MDCR_HPMN;
            let value = match reg {
                SysReg::MDCR_EL2 => vcpu.el2(place) & !MDCR_HPMN | hpmn,
                _ => vcpu.el2(place),
            };
            self.is(model_reg(reg), value)?;
        }
        self.check_guest_extras(&vcpu.config)?;
        self.check_fp(if self.setup.has(flags::FP) {
            owner
        } else {
            HOST
        })?;
        if self.setup.has(flags::RAS) {
            self.is(model_reg(SysReg::VDISR_EL2), owner.other(4))?;
            self.is(model_reg(SysReg::VSESR_EL2), vcpu.config.other(5))?;
        }
        Ok(())
    }

    pub(super) fn check_guest_extras(&mut self, config: &Owner) -> Outcome<()> {
        for (place, reg) in EXTRA.into_iter().enumerate() {
            let of_host = self.of_host(reg, self.host_extra(place));
            // Where a buffer is closed already, its source is left alone.
            let used = |limit: u32| self.host_extra(limit as usize) & 1 != 0;
            let is_idle = reg == SysReg::PMSCR_EL1 && !used(extra::PMBLIMITR);
            let value = match reg {
                _ if !self.is_switched(place) || is_idle => of_host,
                SysReg::ICC_SRE_EL2 => of_host & !SRE_ENABLE,
                SysReg::PMBLIMITR_EL1 | SysReg::TRBLIMITR_EL1 if of_host & 1 == 0 => of_host,
                SysReg::PMSCR_EL1
                | SysReg::PMBLIMITR_EL1
                | SysReg::TRFCR_EL1
                | SysReg::TRBLIMITR_EL1
                | SysReg::BRBCR_EL1 => 0,
                _ => config.extra(place),
            };
            self.is(model_reg(reg), value)?;
        }
        Ok(())
    }

    /// Whether the switch changes number `place` of [`EXTRA`].
    pub(super) fn is_switched(&self, place: usize) -> bool {
        // The bit that stands for it: its own, or the last one before.
        let bit = PRESENT.iter().rev().find(|bit| **bit as usize <= place);
        self.setup.has(flags::EXTRA) && bit.is_some_and(|bit| (self.setup.present >> bit) & 1 != 0)
    }

    pub(super) fn check_fp(&mut self, owner: Owner) -> Outcome<()> {
        let v = self.world.cores[CPU].v;
        same(&self.world, "V0..V31", v, owner.v())?;
        self.is(model_reg(SysReg::FPSR), owner.other(2))?;
        self.is(model_reg(SysReg::FPCR), owner.other(3))
    }

    /// Fails unless `reg` is `value`.
    pub(super) fn is(&mut self, reg: Reg, value: u64) -> Outcome<()> {
        let now = self.world.system.cpu(CPU).mrs(reg);
        same(&self.world, &format!("{reg:?}"), now, value)
    }

    /// Fails unless the word at `field` of the context of `vcpu` is `value`.
    pub(super) fn holds(&self, vcpu: &Vcpu, what: &str, field: u64, value: u64) -> Outcome<()> {
        let now = self.world.system.read(vcpu.pa() + field);
        same(&self.world, what, now, Some(value))
    }

    /// Everything is the host's again, with these results of the call.
    pub(super) fn check_host(
        &mut self,
        exit: Exit,
        status: Status,
        reason: ExitReason,
    ) -> Outcome<()> {
        let back = Exit::Host {
            pc: HOST_PC,
            spsr: HOST_SPSR,
        };
        same(&self.world, "the host", exit, back)?;
        same(
            &self.world,
            "x0",
            self.world.cores[CPU].x[0],
            status.to_x0(),
        )?;
        if status == Status::Ok {
            same(&self.world, "x1", self.world.cores[CPU].x[1], reason as u64)?;
        }
        preserved(&mut self.world, CPU, 18)?;
        self.check_host_registers()
    }

    /// All system registers are the host's, and the slot says so.
    pub(super) fn check_host_registers(&mut self) -> Outcome<()> {
        let host = HOST;
        for (place, reg) in regs(&SYS) {
            self.is(reg, host.sys(place))?;
        }
        for (place, reg) in EXTRA.into_iter().enumerate() {
            let value = self.of_host(reg, self.host_extra(place));
            self.is(model_reg(reg), value)?;
        }
        self.is(model_reg(SysReg::DISR_EL1), 0)?;
        if !self.setup.has(flags::FP) {
            self.check_fp(host)?;
        }
        let slot = self.context() + offset_of!(CpuContext, guest) as u64;
        let loaded = self
            .world
            .system
            .read(slot + offset_of!(GuestSlot, loaded) as u64);
        same(&self.world, "GuestSlot::loaded", loaded, Some(0))
    }

    /// At EL2 too.
    pub(super) fn check_host_el2(&mut self) -> Outcome<()> {
        for reg in EL2 {
            let value = self.of_host(reg, 0);
            self.is(model_reg(reg), value)?;
        }
        let vectors = self.world.prepared.params[CPU].vbar;
        self.is(Reg::VbarEl2, vectors)
    }

    /// The context holds what the guest had.
    pub(super) fn check_saved(&mut self, vcpu: &Vcpu) -> Outcome<()> {
        let owner = vcpu.owner;
        for (number, value) in owner.x().into_iter().enumerate() {
            self.holds(vcpu, &format!("x{number}"), regs_field(number * 8), value)?;
        }
        for (place, reg) in SYS.into_iter().enumerate() {
            self.holds(vcpu, reg.name(), sys_field(place), owner.sys(place))?;
        }
        let sp = regs_field(offset_of!(Frame, sp_el0));
        self.holds(vcpu, "SP_EL0", sp, owner.other(0))?;
        let spsr = regs_field(offset_of!(Frame, spsr));
        self.holds(vcpu, "PSTATE", spsr, GUEST_SPSR)?;
        if self.setup.has(flags::RAS) {
            let disr = sys_field(Place::DisrEl1 as usize);
            self.holds(vcpu, "DISR_EL1", disr, owner.other(4))?;
        }
        if self.setup.has(flags::FP) {
            for (number, value) in owner.v().into_iter().enumerate() {
                let at = (offset_of!(VcpuContext, fp) + number * 16) as u64;
                self.holds(vcpu, "a V register", at, value as u64)?;
                self.holds(vcpu, "a V register", at + 8, (value >> 64) as u64)?;
            }
            let fp = |field: usize| (offset_of!(VcpuContext, fp) + field) as u64;
            self.holds(vcpu, "FPSR", fp(offset_of!(FpRegs, fpsr)), owner.other(2))?;
            self.holds(vcpu, "FPCR", fp(offset_of!(FpRegs, fpcr)), owner.other(3))?;
        }
        Ok(())
    }
}
