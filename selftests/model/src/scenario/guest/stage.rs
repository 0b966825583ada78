// SPDX-License-Identifier: GPL-2.0-only

//! A machine whose CPU 0 runs guests: what the host prepares, the way in, and the way back, with everything compared.
//!
//! The host's part behaves as `rust/host/kvm/run.rs`, and `AdmitVcpu` as `rust/hyp/guest.rs`.

use std::mem::offset_of;

use anyhow::{
    Context as _,
    Result, //
};
use eltwo::{
    common::{
        abi::{
            CpuContext,
            Frame,
            Status,
            HVC_RUN,
            RUN_VCPU, //
        },
        addr::PhysAddr,
        guest::{
            extra,
            flags,
            ExitReason,
            FpRegs,
            GuestConfig,
            GuestExit,
            GuestSlot,
            HostEl2,
            SysReg as Place,
            VcpuContext, //
        },
        regs::{
            ESR_EC_HVC64,
            ESR_EC_SHIFT, //
        },
        shared::{
            MapMode,
            Shared, //
        },
    },
    fake::{
        Domain,
        Kind,
        Quirks,
        Reg,
        Regime,
        MAIR_EL1,
        SCTLR_EL1,
        TTBR0_EL1,
        TTBR1_EL1, //
    },
};

use super::{
    super::drive::bring_up,
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
    core::{
        Failure,
        Outcome, //
    },
    elf::Image,
    machine::model_reg,
    registers,
    sysreg::SysReg,
    world::{
        host_registers,
        Ground,
        World,
        HOST_SPSR, //
    },
};

pub(super) const CPU: usize = 0;
/// Where the page of [`Shared`], the stage-2 tables and the vCPUs are: RAM of the host.
const SHARED: u64 = 0x5000_0000;
const STAGE2: u64 = 0x5001_0000;
const VCPUS: u64 = 0x5010_0000;
/// The guests' RAM, at the same address as the host's.
pub(super) const GUEST_RAM: u64 = 0x4000_0000;
/// Shares that were undone so far.
const UNSHARES: u64 = 3;
/// VTCR_EL2: 39 bits of IPA in 4K granules from level 1 on, 44 bits of PA, walks WBWA and Inner Shareable, 16-bit VMIDs.
const VTCR: u64 =
    (1 << 31) | (1 << 19) | (4 << 16) | (3 << 12) | (1 << 10) | (1 << 8) | (1 << 6) | 25;
/// Stage 2: a block of RAM, read-only and, with these, writable.
const BLOCK: u64 = (1 << 10) | (3 << 8) | (1 << 6) | (0xf << 2) | 1;
pub(super) const WRITABLE: u64 = 1 << 7;
/// PSTATE of a guest: EL1h, and some flags.
pub(super) const GUEST_SPSR: u64 = 0xa000_0005;

/// What a story is about.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Setup {
    /// Bits of [`flags`].
    pub(super) flags: u64,
    /// Bits of [`extra`].
    pub(super) present: u64,
    /// See [`Quirks`].
    pub(super) quirks: Quirks,
    /// SPECULATIVE_AT.
    pub(super) speculative_at: bool,
    /// The host has no buffers in use.
    pub(super) idle_buffers: bool,
    /// An SError is taken as soon as it may be.
    pub(super) eager_serrors: bool,
    /// What unlearns: an SMC, or 0.
    pub(super) unlearn: u64,
}

impl Setup {
    /// All flags that `list` names.
    pub(super) fn with(self, list: &[u32]) -> Self {
        let flags = list.iter().fold(self.flags, |all, flag| all | (1 << flag));
        Self { flags, ..self }
    }

    /// All optional registers.
    pub(super) fn with_extras(self) -> Self {
        let present = PRESENT.iter().fold(0, |all, place| all | (1 << place));
        Self { present, ..self }.with(&[flags::EXTRA])
    }

    pub(super) fn has(&self, flag: u32) -> bool {
        (self.flags >> flag) & 1 != 0
    }
}

/// A vCPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vcpu {
    /// Number, of all vCPUs.
    pub(super) number: u64,
    /// Its VM, which is its VMID, too.
    pub(super) vm: u64,
    /// The registers of EL1 and EL0, which it changes.
    pub(super) owner: Owner,
    /// Those of EL2, which are the host's choice.
    pub(super) config: Owner,
    /// HCR_EL2.VSE.
    pub(super) vse: bool,
}

impl Vcpu {
    pub(super) const fn new(number: u64, vm: u64) -> Self {
        let owner = Owner {
            seed: 100 + number,
            mmu: true,
            buffers: false,
        };
        Self {
            number,
            vm,
            owner,
            config: owner,
            vse: false,
        }
    }

    /// PA of its context.
    pub(super) const fn pa(&self) -> u64 {
        VCPUS + self.number * 4096
    }

    /// The same with values that nobody has had so far: the guest has run.
    pub(super) const fn later(self) -> Self {
        let seed = self.owner.seed + 1000;
        let owner = Owner { seed, ..self.owner };
        Self { owner, ..self }
    }

    /// One of [`EL2`].
    pub(super) fn el2(&self, place: usize) -> u64 {
        match EL2[place] {
            SysReg::VTTBR_EL2 => (self.vm << 48) | (STAGE2 + self.vm % 256 * 4096),
            SysReg::VTCR_EL2 => VTCR,
            // Another thing for each vCPU: it tells them apart.
            SysReg::HCR_EL2 if self.vse => self.config.el2(place) | super::values::HCR_VSE,
            _ => self.config.el2(place),
        }
    }
}

/// Why a guest is left.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leave {
    /// Offset of the vector.
    pub(super) vector: u64,
    /// ESR_EL2.
    pub(super) esr: u64,
    /// x1 of the host.
    pub(super) reason: ExitReason,
}

/// HVC of a guest.
pub(super) const BY_HVC: Leave = Leave {
    vector: 0x400,
    esr: (ESR_EC_HVC64 << ESR_EC_SHIFT) | (1 << 25),
    reason: ExitReason::Sync,
};

/// An interrupt of the host.
pub(super) const BY_IRQ: Leave = Leave {
    vector: 0x480,
    esr: 0,
    reason: ExitReason::Irq,
};

/// The machine.
#[derive(Clone)]
pub(super) struct Stage {
    pub(super) world: World,
    pub(super) setup: Setup,
    /// VSESR_EL2 and VDISR_EL2 of the vCPU that runs.
    pub(super) hpfar: u64,
}

/// Offsets in a [`VcpuContext`].
pub(super) const fn config(field: usize) -> u64 {
    (offset_of!(VcpuContext, config) + field) as u64
}
pub(super) const fn exit_field(field: usize) -> u64 {
    (offset_of!(VcpuContext, exit) + field) as u64
}
pub(super) const fn sys_field(place: usize) -> u64 {
    (offset_of!(VcpuContext, sys) + 8 * place) as u64
}
pub(super) const fn regs_field(field: usize) -> u64 {
    (offset_of!(VcpuContext, regs) + field) as u64
}

impl Stage {
    /// A machine at EL2 with the host's registers in place, and stage-2 tables for VMs of all VMIDs that are used.
    pub(super) fn new(image: &Image, setup: Setup) -> Result<Self> {
        let ground = Ground {
            map: MapMode::Linear,
            ..Ground::default()
        };
        let mut world = World::new(image, &ground, &[])?;
        world.eager_serrors = setup.eager_serrors;
        bring_up(&mut world, CPU)?;
        let mut stage = Self {
            world,
            setup,
            hpfar: 0x1234_5670,
        };
        stage.prepare_memory()?;
        stage.prepare_registers()?;
        Ok(stage)
    }

    /// The hyp VA of `pa`.
    pub(super) fn va(&self, pa: u64) -> Result<u64> {
        let pa = PhysAddr::new(pa).context("an address")?;
        let va = self.world.prepared.layout.linear_va(pa);
        Ok(va.context("not in the linear window")?.raw())
    }

    pub(super) fn write(&mut self, pa: u64, value: u64) -> Outcome<()> {
        let written = self.world.system.write_host(CPU, pa, &value.to_le_bytes());
        Ok(written?)
    }

    pub(super) fn context(&self) -> u64 {
        self.world.prepared.contexts[CPU]
    }

    fn prepare_memory(&mut self) -> Result<()> {
        self.write(SHARED + offset_of!(Shared, unshares) as u64, UNSHARES)?;
        let shared = self.va(SHARED)?;
        let place = self.context() + offset_of!(CpuContext, shared_va) as u64;
        self.write(place, shared)?;
        for vm in 0..8 {
            for entry in 0..512 {
                self.write(STAGE2 + vm * 4096 + entry * 8, 0)?;
            }
            self.set_block(vm, WRITABLE)?;
        }
        Ok(())
    }

    /// Writes the one entry of a VM's stage 2, and lets walks see it.
    pub(super) fn set_block(&mut self, vm: u64, rights: u64) -> Outcome<()> {
        let slot = STAGE2 + vm % 256 * 4096 + (GUEST_RAM >> 30) * 8;
        self.write(slot, GUEST_RAM | BLOCK | rights)?;
        let published = self.world.system.cpu(CPU).dsb(Domain::Ish, Kind::Stores);
        Ok(published?)
    }

    fn prepare_registers(&mut self) -> Result<()> {
        let host = HOST;
        for (place, reg) in regs(&SYS) {
            self.preset(reg, host.sys(place))?;
        }
        for (place, reg) in EXTRA.into_iter().enumerate() {
            if !self.is_of_image(reg) {
                self.preset(registers::reg_of(reg.name())?, self.host_extra(place))?;
            }
        }
        self.preset(model_reg(SysReg::FPSR), host.other(2))?;
        self.preset(model_reg(SysReg::FPCR), host.other(3))?;
        self.preset(model_reg(SysReg::ISR_EL1), 0)?;
        self.preset(model_reg(SysReg::DISR_EL1), 0)?;
        let (quirks, speculative) = (self.setup.quirks, self.setup.speculative_at);
        self.world.system.cpu(CPU).give(quirks);
        if speculative {
            self.world.system.walks_speculatively();
        }
        self.world.cores[CPU].v = host.v();
        Ok(())
    }

    /// Whether init has found it and reset will look for it.
    fn is_of_image(&self, reg: SysReg) -> bool {
        let found = &self.world.found[CPU];
        found.iter().any(|(name, _)| *name == reg.name())
    }

    /// The host's value of one of [`EXTRA`] before init. A buffer is in use where the switch knows that it is there.
    pub(super) fn host_extra(&self, place: usize) -> u64 {
        let buffers = self.is_switched(place) && !self.setup.idle_buffers;
        Owner { buffers, ..HOST }.extra(place)
    }

    pub(super) fn preset(&mut self, reg: Reg, value: u64) -> Outcome<()> {
        Ok(self.world.system.cpu(CPU).preset(reg, value)?)
    }

    /// The host's value of one of [`EL2`] or [`EXTRA`].
    pub(super) fn of_host(&self, reg: SysReg, otherwise: u64) -> u64 {
        let found = &self.world.found[CPU];
        let known = found.iter().find(|(name, _)| *name == reg.name());
        known.map_or(otherwise, |(_, value)| *value)
    }

    /// Writes all of the context of `vcpu`.
    pub(super) fn fill(&mut self, vcpu: &Vcpu) -> Outcome<()> {
        let (pa, owner) = (vcpu.pa(), vcpu.owner);
        for word in 0..512 {
            self.write(pa + word * 8, 0x00c0_ffee)?;
        }
        for (number, value) in owner.x().into_iter().enumerate() {
            self.write(pa + regs_field(number * 8), value)?;
        }
        for place in 0..SYS.len() {
            self.write(pa + sys_field(place), owner.sys(place))?;
        }
        for place in 0..EL2.len() {
            self.write(pa + config(place * 8), vcpu.el2(place))?;
        }
        for place in 0..extra::COUNT {
            let field = offset_of!(GuestConfig, extra) + place * 8;
            self.write(pa + config(field), vcpu.config.extra(place))?;
        }
        for (number, value) in owner.v().into_iter().enumerate() {
            let at = pa + (offset_of!(VcpuContext, fp) + number * 16) as u64;
            self.write(at, value as u64)?;
            self.write(at + 8, (value >> 64) as u64)?;
        }
        let fp = |field: usize| (offset_of!(VcpuContext, fp) + field) as u64;
        let setup = self.setup;
        let rest = [
            (regs_field(offset_of!(Frame, sp_el0)), owner.other(0)),
            (regs_field(offset_of!(Frame, elr)), owner.other(1)),
            (regs_field(offset_of!(Frame, spsr)), GUEST_SPSR),
            (fp(offset_of!(FpRegs, fpsr)), owner.other(2)),
            (fp(offset_of!(FpRegs, fpcr)), owner.other(3)),
            (sys_field(Place::DisrEl1 as usize), owner.other(4)),
            (config(offset_of!(GuestConfig, vsesr)), vcpu.config.other(5)),
            (config(offset_of!(GuestConfig, flags)), setup.flags),
            (
                config(offset_of!(GuestConfig, extra_present)),
                setup.present,
            ),
            (config(offset_of!(GuestConfig, unlearn)), setup.unlearn),
        ];
        for (field, value) in rest {
            self.write(pa + field, value)?;
        }
        Ok(())
    }

    /// `AdmitVcpu`, which is Rust.
    pub(super) fn admit(&mut self, vcpu: &Vcpu) -> Result<()> {
        let va = self.va(vcpu.pa())?;
        let slot = self.context() + offset_of!(CpuContext, guest) as u64;
        let el2 = slot + offset_of!(GuestSlot, el2) as u64;
        self.write(slot + offset_of!(GuestSlot, admitted) as u64, va)?;
        self.write(slot + offset_of!(GuestSlot, unshares) as u64, UNSHARES)?;
        for (place, reg) in EL2.into_iter().enumerate() {
            self.write(el2 + place as u64 * 8, self.of_host(reg, 0))?;
        }
        for (place, reg) in EXTRA.into_iter().enumerate() {
            let at = el2 + (offset_of!(HostEl2, extra) + place * 8) as u64;
            let value = match place < extra::PMUSERENR as usize {
                true => self.of_host(reg, self.host_extra(place)),
                false => 0,
            };
            self.write(at, value)?;
        }
        Ok(())
    }

    /// The regimes of the host and of `vcpu`, for SPECULATIVE_AT.
    pub(super) fn know(&mut self, vcpu: &Vcpu) {
        let mut cpu = self.world.system.cpu(CPU);
        let host = Regime {
            sctlr: cpu.mrs(SCTLR_EL1),
            tcr: cpu.mrs(Reg::TcrEl1),
            tables: [TTBR0_EL1, TTBR1_EL1, MAIR_EL1].map(|reg| cpu.mrs(reg)),
            stage2: false,
            vttbr: [0, 0],
        };
        let sys = |place: Place| vcpu.owner.sys(place as usize);
        let guest = Regime {
            sctlr: sys(Place::SctlrEl1),
            tcr: sys(Place::TcrEl1),
            tables: [Place::Ttbr0El1, Place::Ttbr1El1, Place::MairEl1].map(sys),
            stage2: true,
            vttbr: [vcpu.el2(4), vcpu.el2(5)],
        };
        cpu.know(&[host, guest]);
    }

    /// `HVC #1` of the host for the context at hyp VA `va`, up to the first instruction at EL2.
    pub(super) fn call(&mut self, va: u64) -> Outcome<()> {
        let mut x = host_registers();
        (x[0], x[1]) = (RUN_VCPU, va);
        self.world.cores[CPU].x = x;
        let esr = (ESR_EC_HVC64 << ESR_EC_SHIFT) | (1 << 25) | HVC_RUN;
        self.world.from_host(CPU, esr, HOST_SPSR)
    }

    /// The host enters `vcpu`, whose context is filled, and the guest finds exactly its registers.
    pub(super) fn enter(&mut self, vcpu: &Vcpu) -> Result<()> {
        self.admit(vcpu)?;
        self.know(vcpu);
        let va = self.va(vcpu.pa())?;
        self.call(va)?;
        let exit = self.world.run(CPU)?;
        self.check_guest(vcpu, exit)?;
        Ok(())
    }

    /// The guest runs, which changes all of its registers to those of `vcpu`.
    pub(super) fn guest_runs(&mut self, vcpu: &Vcpu) -> Outcome<()> {
        let owner = vcpu.owner;
        self.world.cores[CPU].x = owner.x();
        for (place, reg) in regs(&SYS) {
            self.preset(reg, owner.sys(place))?;
        }
        self.preset(Reg::SpEl0, owner.other(0))?;
        self.preset(model_reg(SysReg::VDISR_EL2), owner.other(4))?;
        self.know_again(vcpu);
        if self.setup.has(flags::FP) {
            self.world.cores[CPU].v = owner.v();
            self.preset(model_reg(SysReg::FPSR), owner.other(2))?;
            self.preset(model_reg(SysReg::FPCR), owner.other(3))?;
        }
        Ok(())
    }

    /// The guest's regime is another one now.
    fn know_again(&mut self, vcpu: &Vcpu) {
        let host = HOST;
        let sys = |owner: Owner, place: Place| owner.sys(place as usize);
        let regime = |owner, stage2, vttbr| Regime {
            sctlr: sys(owner, Place::SctlrEl1),
            tcr: sys(owner, Place::TcrEl1),
            tables: [Place::Ttbr0El1, Place::Ttbr1El1, Place::MairEl1].map(|at| sys(owner, at)),
            stage2,
            vttbr,
        };
        let vttbr = [vcpu.el2(4), vcpu.el2(5)];
        let known = [regime(host, false, [0, 0]), regime(vcpu.owner, true, vttbr)];
        self.world.system.cpu(CPU).know(&known);
    }

    /// The guest, whose registers are those of `vcpu`, takes an exception. Stops at the first instruction of the vector.
    pub(super) fn leave(&mut self, vcpu: &Vcpu, leave: &Leave) -> Outcome<()> {
        let hpfar = self.hpfar;
        self.preset(Reg::FarEl2, vcpu.owner.other(6))?;
        self.preset(Reg::HpfarEl2, hpfar)?;
        let at = (vcpu.owner.other(1), GUEST_SPSR);
        self.world.from_guest(CPU, leave.vector, leave.esr, at)
    }

    /// The guest runs and leaves; the host finds all of its own, and all of the guest's in the context.
    pub(super) fn exit(&mut self, vcpu: &Vcpu, leave: &Leave) -> Outcome<()> {
        self.guest_runs(vcpu)?;
        self.leave(vcpu, leave)?;
        self.finish(vcpu, leave)
    }

    /// The same from the vector on.
    pub(super) fn finish(&mut self, vcpu: &Vcpu, leave: &Leave) -> Outcome<()> {
        let exit = self.world.run(CPU)?;
        self.check_host(exit, Status::Ok, leave.reason)?;
        self.check_saved(vcpu)?;
        if leave.reason == ExitReason::Sync {
            self.holds(
                vcpu,
                "ESR",
                exit_field(offset_of!(GuestExit, esr)),
                leave.esr,
            )?;
            let far = vcpu.owner.other(6);
            self.holds(vcpu, "FAR", exit_field(offset_of!(GuestExit, far)), far)?;
        }
        if leave.reason != ExitReason::SError {
            let pc = regs_field(offset_of!(Frame, elr));
            self.holds(vcpu, "PC", pc, vcpu.owner.other(1))?;
        }
        self.check_host_el2()?;
        Ok(())
    }

    /// HPFAR as the host is told.
    pub(super) fn told_hpfar(&self, vcpu: &Vcpu) -> Option<u64> {
        let field = exit_field(offset_of!(GuestExit, hpfar));
        self.world.system.read(vcpu.pa() + field)
    }

    /// ESR and PC as the host is told.
    pub(super) fn told(&self, vcpu: &Vcpu) -> [Option<u64>; 2] {
        let esr = exit_field(offset_of!(GuestExit, esr));
        let pc = regs_field(offset_of!(Frame, elr));
        [esr, pc].map(|field| self.world.system.read(vcpu.pa() + field))
    }

    /// The flags in the context.
    pub(super) fn told_flags(&self, vcpu: &Vcpu) -> Option<u64> {
        let field = config(offset_of!(GuestConfig, flags));
        self.world.system.read(vcpu.pa() + field)
    }

    /// Sets PSTATE in the context.
    pub(super) fn set_pstate(&mut self, vcpu: &Vcpu, spsr: u64) -> Outcome<()> {
        self.write(vcpu.pa() + regs_field(offset_of!(Frame, spsr)), spsr)
    }

    /// PA of what all CPUs share.
    pub(super) fn shared_pa(&self) -> u64 {
        SHARED
    }

    /// HCR_EL2 in the context.
    pub(super) fn told_hcr(&self, vcpu: &Vcpu) -> Option<u64> {
        self.world.system.read(vcpu.pa() + config(0))
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(format!("{error:#}"))
    }
}
