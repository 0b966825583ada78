// SPDX-License-Identifier: GPL-2.0-only

//! Host: the registers of a vCPU, and the ioctls on it but for KVM_RUN.
//!
//! What EL2 switches is in the context page; the rest is in [`ArchState`] or belongs to the VM. All of it is in memory
//! whenever user space asks, as the vCPU's mutex is held.
//!
//! Source: `Documentation/virt/kvm/api.rst` of Linux; behaviour as `arch/arm64/kvm/{arm,guest,reset}.c`.

use kernel::{
    ffi::c_long,
    ioctl::{
        _IOR,
        _IOW,
        _IOWR, //
    },
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};

use super::{
    attrs::{
        self,
        Flag, //
    },
    config, debug, events, mmio, psci, pvtime,
    vcpu::{
        Active,
        PowerState,
        Request,
        ResetTo, //
    },
};
use crate::{
    arch::{
        el1,
        sysreg, //
    },
    bindings,
    common::{
        exception::{
            pstate,
            sctlr, //
        },
        guest::{
            FpRegs,
            SysReg,
            SYS_REGS, //
        },
        idreg, regid,
        sysregs::{
            self,
            Memory,
            DEBUG_REGS,
            MEMORY_REGS, //
        },
    },
};

mod core_regs;
mod firmware;
pub(super) mod id;
mod system;
pub(super) use system::{
    debug_register,
    set_debug_register,
    set_mdscr,
    set_os_lock, //
};
pub(super) mod user;

/// What the vCPU's mutex protects for this module, `sysreg`, `mmio` and `events`.
#[derive(Default)]
pub(crate) struct ArchState {
    /// See [`Memory`].
    memory: [u64; MEMORY_REGS],
    /// By [`sysregs::Debug`] and number.
    pub(super) debug: [[u64; DEBUG_REGS]; 4],
    /// SPSR_abt, SPSR_und, SPSR_irq, SPSR_fiq: no AArch64 guest has them, but user space may.
    aarch32_spsr: [u64; 4],
    /// CCSIDR_EL1 by CSSELR_EL1, where user space has set one.
    ccsidr: Option<[u32; regid::CSSELR_VALUES as usize]>,
    /// The access that user space emulates.
    pub(super) mmio: Option<mmio::Pending>,
    /// See [`debug`].
    pub(super) guest_debug: debug::GuestDebug,
    /// See [`pvtime`].
    pub(super) stolen: pvtime::Stolen,
}

impl ArchState {
    /// The value of a register that is in memory only.
    pub(super) fn memory(&self, register: Memory) -> u64 {
        self.memory.get(register as usize).copied().unwrap_or(0)
    }

    /// Sets a register that is in memory only.
    pub(super) fn set_memory(&mut self, register: Memory, value: u64) {
        if let Some(place) = self.memory.get_mut(register as usize) {
            *place = value;
        }
    }

    /// CCSIDR_EL1 where CSSELR_EL1 is `csselr`.
    pub(super) fn ccsidr(&self, csselr: usize) -> u32 {
        match &self.ccsidr {
            Some(set) => set.get(csselr).copied().unwrap_or(0),
            None => idreg::ccsidr(host_ctr(), csselr),
        }
    }

    /// # Errors
    ///
    /// `EINVAL` for a line that is shorter than that of the CPUs.
    fn set_ccsidr(&mut self, csselr: usize, value: u32) -> Result {
        if !idreg::ccsidr_accepts(value, host_ctr(), csselr) {
            return Err(EINVAL);
        }
        if self.ccsidr.is_none() && value == self.ccsidr(csselr) {
            return Ok(());
        }
        let made = core::array::from_fn(|csselr| idreg::ccsidr(host_ctr(), csselr));
        if let Some(place) = self.ccsidr.get_or_insert(made).get_mut(csselr) {
            *place = value;
        }
        Ok(())
    }
}

/// CTR_EL0 as all CPUs have it in common.
pub(super) fn host_ctr() -> u64 {
    crate::host::probe::sanitised(idreg::CTR.linux_key())
}

const KVMIO: u32 = 0xae;
const GET_MP_STATE: u32 = _IOR::<bindings::kvm_mp_state>(KVMIO, 0x98);
const SET_MP_STATE: u32 = _IOW::<bindings::kvm_mp_state>(KVMIO, 0x99);
const GET_VCPU_EVENTS: u32 = _IOR::<bindings::kvm_vcpu_events>(KVMIO, 0x9f);
const SET_VCPU_EVENTS: u32 = _IOW::<bindings::kvm_vcpu_events>(KVMIO, 0xa0);
const GET_ONE_REG: u32 = _IOW::<bindings::kvm_one_reg>(KVMIO, 0xab);
const SET_ONE_REG: u32 = _IOW::<bindings::kvm_one_reg>(KVMIO, 0xac);
const ARM_VCPU_INIT: u32 = _IOW::<bindings::kvm_vcpu_init>(KVMIO, 0xae);
const GET_REG_LIST: u32 = _IOWR::<bindings::kvm_reg_list>(KVMIO, 0xb0);
const SET_GUEST_DEBUG: u32 = _IOW::<bindings::kvm_guest_debug>(KVMIO, 0x9b);
const ARM_VCPU_FINALIZE: u32 = _IOW::<i32>(KVMIO, 0xc2);

/// Every vCPU ioctl but KVM_RUN and KVM_SET_SIGNAL_MASK.
///
/// # Errors
///
/// As the API says; `EINVAL` for what there is not.
pub(crate) fn vcpu_ioctl(active: &mut Active<'_>, cmd: u32, arg: usize) -> Result<c_long> {
    let needs_init = matches!(
        cmd,
        GET_ONE_REG
            | SET_ONE_REG
            | GET_REG_LIST
            | GET_VCPU_EVENTS
            | SET_VCPU_EVENTS
            | ARM_VCPU_FINALIZE
    );
    if needs_init && !active.state().initialized {
        return Err(ENOEXEC);
    }
    match cmd {
        ARM_VCPU_INIT => init(active, arg)?,
        GET_ONE_REG | SET_ONE_REG => {
            let [id, address] = user::read_longs::<2>(arg)?;
            // What PSCI has decided comes before what user space looks at or changes.
            if active.vcpu.take_request(Request::Reset) {
                psci::apply_reset(active);
            }
            if cmd == GET_ONE_REG {
                get(active, id, address)?;
            } else {
                set(active, id, address)?;
            }
        }
        GET_REG_LIST => list(arg)?,
        SET_GUEST_DEBUG => debug::set(active, arg)?,
        GET_MP_STATE => events::get_mp_state(active, arg)?,
        SET_MP_STATE => events::set_mp_state(active, arg)?,
        GET_VCPU_EVENTS => events::get(active, arg)?,
        SET_VCPU_EVENTS => events::set(active, arg)?,
        attrs::SET_DEVICE_ATTR | attrs::GET_DEVICE_ATTR | attrs::HAS_DEVICE_ATTR => {
            pvtime::attr(active, cmd, &user::Attr::read(arg)?)?;
        }
        ARM_VCPU_FINALIZE => {
            // There is no feature that would have to be finalised.
            user::read_words::<1>(arg)?;
            return Err(EINVAL);
        }
        _ => return Err(EINVAL),
    }
    Ok(0)
}

/// KVM_ARM_VCPU_POWER_OFF, KVM_ARM_VCPU_PSCI_0_2.
const POWER_OFF: u64 = 1 << bindings::KVM_ARM_VCPU_POWER_OFF;
const PSCI_0_2: u64 = 1 << bindings::KVM_ARM_VCPU_PSCI_0_2;
/// Every feature that the uAPI knows.
const KNOWN_FEATURES: u64 = (1 << (bindings::KVM_ARM_VCPU_HAS_EL2_E2H0 + 1)) - 1;

/// KVM_ARM_VCPU_INIT.
///
/// # Errors
///
/// `EINVAL` for another target, for a feature that there is not, and if the features differ from those of an earlier call on this
/// vCPU or another of the VM; `ENOENT` for a feature that nobody knows; `EFAULT`.
fn init(active: &mut Active<'_>, arg: usize) -> Result {
    let [target, features, others @ ..] = user::read_words::<8>(arg)?;
    let power_off = u64::from(features) & POWER_OFF != 0;
    let features = u64::from(features) & !POWER_OFF;
    if target != bindings::KVM_ARM_TARGET_GENERIC_V8 && target != this_target() {
        return Err(EINVAL);
    }
    if features & !KNOWN_FEATURES != 0 || others.iter().any(|word| *word != 0) {
        return Err(ENOENT);
    }
    if features & !PSCI_0_2 != 0 {
        return Err(EINVAL);
    }
    {
        let mut config = active.vm.arch().config();
        if *config.features.get_or_insert(features) != features {
            return Err(EINVAL);
        }
    }
    active.state_mut().features = features;
    active.vcpu.take_request(Request::Reset);
    let to = active.vcpu.power.lock().reset.take();
    reset(active, to);
    active.state_mut().initialized = true;
    let fwb = config::fwb();
    if active.state().ever_ran {
        // RAM faults in again: a guest that starts with its caches off must find what user space has written.
        if fwb {
            el1::invalidate_icache();
        } else {
            active.vm.unmap_guest();
        }
    }
    let hcr = &mut active.context_mut().config.hcr;
    *hcr &= !config::hcr::VSE;
    if !fwb {
        *hcr |= config::hcr::TVM;
    }
    let state = if power_off {
        PowerState::Off
    } else {
        PowerState::On
    };
    events::set_power(active, state);
    Ok(())
}

/// `KVM_ARM_TARGET_*` of this CPU.
fn this_target() -> u32 {
    let midr = sysreg::midr_el1();
    match ((midr >> 24) & 0xff, (midr >> 4) & 0xfff) {
        (0x41, 0xd0f) => bindings::KVM_ARM_TARGET_AEM_V8,
        (0x41, 0xd00) => bindings::KVM_ARM_TARGET_FOUNDATION_V8,
        (0x41, 0xd03) => bindings::KVM_ARM_TARGET_CORTEX_A53,
        (0x41, 0xd07) => bindings::KVM_ARM_TARGET_CORTEX_A57,
        (0x50, 0x000) => bindings::KVM_ARM_TARGET_XGENE_POTENZA,
        _ => bindings::KVM_ARM_TARGET_GENERIC_V8,
    }
}

/// SCTLR_EL1 at reset: stage 1 and caches are off, little-endian.
const SCTLR_RESET: u64 = 0x00c5_0078;
/// OSLSR_EL1 at reset: the OS lock exists, and is open.
const OSLSR_RESET: u64 = 1 << 3;

/// The state after a reset of the CPU. Registers that are UNKNOWN then are zero. ID registers stay, once they are there.
pub(super) fn reset(active: &mut Active<'_>, to: Option<ResetTo>) {
    let first = !active.state().initialized;
    let context = active.context_mut();
    context.regs.x = [0; 31];
    context.regs.sp_el0 = 0;
    context.regs.elr = 0;
    context.regs.spsr = pstate::DAIF | pstate::EL1H;
    context.fp = FpRegs {
        v: [0; 32],
        fpsr: 0,
        fpcr: 0,
    };
    context.sys = [0; SYS_REGS];
    context.set_sys_reg(SysReg::SctlrEl1, SCTLR_RESET);
    context.set_sys_reg(SysReg::ActlrEl1, sysreg::actlr_el1());
    context.set_sys_reg(SysReg::AmairEl1, sysreg::amair_el1());
    if let Some(to) = to {
        context.regs.elr = to.pc;
        set_x(context, 0, to.x0);
        if to.big_endian {
            context.set_sys_reg(SysReg::SctlrEl1, SCTLR_RESET | sctlr::EE | sctlr::E0E);
        }
    }
    let state = &mut active.state_mut().arch;
    let clidr = if first {
        idreg::clidr(host_ctr())
    } else {
        state.memory(Memory::ClidrEl1)
    };
    state.memory = [0; MEMORY_REGS];
    state.set_memory(Memory::ClidrEl1, clidr);
    state.set_memory(Memory::OslsrEl1, OSLSR_RESET);
    state.debug = Default::default();
    state.aarch32_spsr = Default::default();
    state.mmio = None;
    debug::apply(active);
    if first {
        let id = u64::from(active.vcpu.id());
        // Sixteen CPUs to a cluster, as many as a GICv3 can name in one go. Bit 31 is RES1.
        set_mpidr(
            active,
            1 << 31 | id & 0xf | (id >> 4 & 0xff) << 8 | (id >> 12 & 0xff) << 16,
        );
    }
}

/// MPIDR_EL1 is in the context, and where other vCPUs look for it.
fn set_mpidr(active: &mut Active<'_>, value: u64) {
    active.context_mut().config.vmpidr = value;
    active
        .vcpu
        .mpidr
        .store(value, core::sync::atomic::Ordering::Relaxed);
}

/// Register xN; 31 is the zero register.
pub(super) fn x(context: &crate::common::guest::VcpuContext, number: u8) -> u64 {
    context
        .regs
        .x
        .get(usize::from(number))
        .copied()
        .unwrap_or(0)
}

/// Sets xN; 31 is the zero register.
pub(super) fn set_x(context: &mut crate::common::guest::VcpuContext, number: u8, value: u64) {
    if let Some(register) = context.regs.x.get_mut(usize::from(number)) {
        *register = value;
    }
}

/// Before the first KVM_RUN of an initialised vCPU: the VM's registers are what they are from here on.
pub(crate) fn first_run(active: &mut Active<'_>) -> Result {
    let arch = active.vm.arch();
    {
        let mut config = arch.config();
        config.ids.settle();
        arch.set(Flag::HasRun);
    }
    let midr = id::get(active.vm, idreg::MIDR);
    let context = active.context_mut();
    context.config.vpidr = midr;
    debug::apply(active);
    Ok(())
}

/// KVM_RUN begins.
pub(super) fn begin_run(active: &mut Active<'_>) {
    let offset = active.vm.arch().physical_offset();
    config::trap_physical_counter(active.context_mut(), offset != 0);
    debug::begin(active);
}

/// KVM_RUN ends.
pub(super) fn end_run(active: &mut Active<'_>) {
    debug::end(active);
}

fn get(active: &Active<'_>, id: u64, address: u64) -> Result {
    match regid::kind(id).ok_or(EINVAL)? {
        regid::Kind::Core => core_regs::get(active, id, address),
        regid::Kind::Firmware => firmware::get(active, id, address),
        regid::Kind::System => system::get(active, id, address),
        regid::Kind::Demux => {
            let level = regid::demux_level(id).ok_or(ENOENT)?;
            user::write(address, &active.state().arch.ccsidr(level).to_ne_bytes())
        }
        regid::Kind::Sve(true) => Err(ENOENT),
        regid::Kind::Sve(false) => Err(EINVAL),
    }
}

fn set(active: &mut Active<'_>, id: u64, address: u64) -> Result {
    match regid::kind(id).ok_or(EINVAL)? {
        regid::Kind::Core => core_regs::set(active, id, address),
        regid::Kind::Firmware => firmware::set(active, id, address),
        regid::Kind::System => system::set(active, id, address),
        regid::Kind::Demux => {
            let level = regid::demux_level(id).ok_or(ENOENT)?;
            let value = u32::from_ne_bytes(user::read(address)?);
            active.state_mut().arch.set_ccsidr(level, value)
        }
        regid::Kind::Sve(true) => Err(ENOENT),
        regid::Kind::Sve(false) => Err(EINVAL),
    }
}

/// KVM_GET_REG_LIST.
///
/// # Errors
///
/// `E2BIG` if there is no room; the number has been written then. `EFAULT`.
fn list(arg: usize) -> Result {
    let [room] = user::read_longs::<1>(arg)?;
    let ids = || {
        // By its full name, as the kernel's prelude has another `chain`.
        let general = Iterator::chain(regid::core_ids(), firmware::ids());
        let system = Iterator::chain(general, sysregs::all().map(regid::system_id));
        Iterator::chain(system, (0..regid::CSSELR_VALUES).map(regid::demux_id))
    };
    let count = ids().count();
    let mut writer =
        UserSlice::new(UserPtr::from_addr(arg), (1 + count) * size_of::<u64>()).writer();
    writer.write(&(count as u64))?;
    if room < count as u64 {
        return Err(E2BIG);
    }
    ids().try_for_each(|id| writer.write(&id))
}
