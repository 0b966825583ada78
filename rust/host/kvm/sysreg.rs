// SPDX-License-Identifier: GPL-2.0-only

//! Host: accesses of system registers, and system instructions, that trap.
//!
//! ID registers answer what the VM is told; registers that no CPU holds for the guest answer from memory; while the guest has
//! its caches off, its writes of what controls stage 1 are watched. All else is UNDEFINED, as it is where a feature does not exist.
//!
//! Source: Arm ARM DDI 0487, D24 (registers), D24.2.40 (ISS of EC 0x18); behaviour as `arch/arm64/kvm/sys_regs.c` of Linux.

use kernel::prelude::*;

use super::{
    config::{
        self,
        hcr, //
    },
    events,
    exit::Next,
    regs::{
        self,
        id, //
    },
    vcpu::Active, //
};
use crate::{
    arch::sysreg,
    common::{
        guest::SysReg,
        idreg,
        regid::Encoding,
        sysregs::{
            self,
            Memory,
            Place, //
        },
    },
};

/// What an access does.
enum Outcome {
    /// It is done; a load yields this.
    Done(u64),
    /// UNDEFINED.
    Undefined,
    /// An ID register that does not exist.
    UnknownId,
}
use Outcome::{
    Done,
    Undefined,
    UnknownId, //
};

/// EC 0x18: MRS, MSR or a system instruction has been trapped.
pub(crate) fn trapped(active: &mut Active<'_>) -> Result<Next> {
    /// ISS.Direction: a read.
    const READ: u64 = 1;
    let iss = active.context().exit.esr;
    let encoding = Encoding::from_iss(iss);
    let register = ((iss >> 5) & 0x1f) as u8;
    let outcome = if encoding.op0() == 1 {
        instruction(active, encoding)
    } else if iss & READ != 0 {
        read(active, encoding)
    } else {
        let value = regs::x(active.context(), register);
        write(active, encoding, value)
    };
    match outcome {
        Done(value) => {
            if encoding.op0() != 1 && iss & READ != 0 {
                regs::set_x(active.context_mut(), register, value);
            }
            active.advance_pc();
        }
        Undefined => events::inject_undefined(active),
        UnknownId => events::inject_unknown_id(active, encoding),
    }
    Ok(Next::Resume)
}

/// An access by another name: a write of a value, or a read. Returns what a read yields; `None` if it is UNDEFINED.
pub(super) fn access(
    active: &mut Active<'_>,
    encoding: Encoding,
    value: Option<u64>,
) -> Option<u64> {
    let outcome = match value {
        Some(value) => write(active, encoding, value),
        None => read(active, encoding),
    };
    match outcome {
        Done(value) => Some(value),
        Undefined | UnknownId => None,
    }
}

/// DC ISW, DC CSW, DC CISW: maintenance by set and way.
const DC_ISW: Encoding = Encoding::new(1, 0, 7, 6, 2);
const DC_CSW: Encoding = Encoding::new(1, 0, 7, 10, 2);
const DC_CISW: Encoding = Encoding::new(1, 0, 7, 14, 2);

fn instruction(active: &mut Active<'_>, encoding: Encoding) -> Outcome {
    if !matches!(encoding, DC_ISW | DC_CSW | DC_CISW) {
        return Undefined;
    }
    // By set and way a guest cannot reach its own memory, which other CPUs may hold: it is taken as "all of it", once, until
    // its caches go on. With FWB all of its memory is coherent anyway.
    if !config::fwb() && active.context().config.hcr & hcr::TVM == 0 {
        active.vm.flush_guest();
        active.context_mut().config.hcr |= hcr::TVM;
    }
    Done(0)
}

/// Registers that read as zero and ignore writes.
mod zero {
    use super::Encoding;

    /// MDRAR_EL1, OSDLR_EL1, DBGPRCR_EL1, DBGCLAIMSET_EL1, DBGCLAIMCLR_EL1, MDCCSR_EL0, DBGDTR_EL0, DBGDTRRX_EL0 with
    /// DBGDTRTX_EL0: there is no external debugger.
    pub(super) const DEBUG: [Encoding; 8] = [
        Encoding::new(2, 0, 1, 0, 0),
        Encoding::new(2, 0, 1, 3, 4),
        Encoding::new(2, 0, 1, 4, 4),
        Encoding::new(2, 0, 7, 8, 6),
        Encoding::new(2, 0, 7, 9, 6),
        Encoding::new(2, 3, 0, 1, 0),
        Encoding::new(2, 3, 0, 4, 0),
        Encoding::new(2, 3, 0, 5, 0),
    ];

    /// LORSA_EL1, LOREA_EL1, LORN_EL1, LORC_EL1: with FEAT_LOR, of which there are no regions.
    pub(super) const LOR: [Encoding; 4] = [
        Encoding::new(3, 0, 10, 4, 0),
        Encoding::new(3, 0, 10, 4, 1),
        Encoding::new(3, 0, 10, 4, 2),
        Encoding::new(3, 0, 10, 4, 3),
    ];
}

const OSLAR: Encoding = Encoding::new(2, 0, 1, 0, 4);
const DBGAUTHSTATUS: Encoding = Encoding::new(2, 0, 7, 14, 6);
const LORID: Encoding = Encoding::new(3, 0, 10, 4, 7);
const CCSIDR: Encoding = Encoding::new(3, 1, 0, 0, 0);
/// CCSIDR2_EL1, GMID_EL1, SMIDR_EL1: of features that no guest has.
const CCSIDR2: Encoding = Encoding::new(3, 1, 0, 0, 2);
const GMID: Encoding = Encoding::new(3, 1, 0, 0, 4);
const SMIDR: Encoding = Encoding::new(3, 1, 0, 0, 6);
const CNTPCT: Encoding = Encoding::new(3, 3, 14, 0, 1);
const CNTPCTSS: Encoding = Encoding::new(3, 3, 14, 0, 5);
const CNTP_TVAL: Encoding = Encoding::new(3, 3, 14, 2, 0);
/// CNTP_CTL_EL0: ENABLE, ISTATUS.
const CTL_ENABLE: u64 = 1 << 0;
const CTL_ISTATUS: u64 = 1 << 2;

/// The least ID_AA64PFR0_EL1.RAS with which the register exists, if it is one of the error records, of which a guest has none:
/// ERRIDR_EL1 to ERXMISC3_EL1.
fn ras_of_error_record(encoding: Encoding) -> Option<u64> {
    const RAS: u64 = 1;
    const RAS_V1P1: u64 = 2;
    if (encoding.op0(), encoding.op1(), encoding.crn()) != (3, 0, 5) {
        return None;
    }
    match (encoding.crm(), encoding.op2()) {
        (3, 0..=1) | (4, 0..=3) | (5, 0..=1) => Some(RAS),
        // ERXPFGF_EL1, ERXPFGCTL_EL1, ERXPFGCDN_EL1; ERXMISC2_EL1, ERXMISC3_EL1.
        (4, 4..=6) | (5, 2..=3) => Some(RAS_V1P1),
        _ => None,
    }
}

/// Whether the register reads as zero and ignores writes.
fn is_zero(active: &Active<'_>, encoding: Encoding) -> bool {
    /// ID_AA64MMFR1_EL1.LO, ID_AA64PFR0_EL1.RAS.
    const LO_SHIFT: u32 = 16;
    const RAS_SHIFT: u32 = 28;
    let told = |register, shift| idreg::field(id::get(active.vm, register), shift);
    if zero::LOR.contains(&encoding) {
        told(Encoding::new(3, 0, 0, 7, 1), LO_SHIFT) != 0
    } else if let Some(least) = ras_of_error_record(encoding) {
        told(idreg::AA64PFR0, RAS_SHIFT) >= least
    } else {
        zero::DEBUG.contains(&encoding)
    }
}

/// The guest's physical counter.
fn counter(active: &Active<'_>) -> u64 {
    sysreg::cntpct().wrapping_sub(active.vm.arch().physical_offset())
}

fn read(active: &mut Active<'_>, encoding: Encoding) -> Outcome {
    if is_zero(active, encoding) {
        return Done(0);
    }
    let memory = |register| active.state().arch.memory(register);
    match encoding {
        LORID if is_zero(active, zero::LOR[0]) => return Done(0),
        DBGAUTHSTATUS => return Done(sysreg::dbgauthstatus_el1()),
        CCSIDR => return ccsidr(active),
        CCSIDR2 | GMID | SMIDR => return UnknownId,
        CNTPCT | CNTPCTSS => return Done(counter(active)),
        CNTP_TVAL => {
            let left = memory(Memory::CntpCvalEl0).wrapping_sub(counter(active));
            return Done(left & 0xffff_ffff);
        }
        _ => {}
    }
    let vm = active.vm;
    match sysregs::place(encoding) {
        Some(Place::Id(_) | Place::Ctr | Place::Implementation(_)) => Done(id::get(vm, encoding)),
        Some(Place::Sys(register @ (SysReg::ActlrEl1 | SysReg::CsselrEl1))) => {
            Done(active.context().sys_reg(register))
        }
        Some(Place::Debug(kind, number)) => Done(regs::debug_register(active, kind, number)),
        Some(Place::Stored(Memory::CntpCtlEl0)) => Done(timer_control(active)),
        Some(Place::Stored(
            register @ (Memory::MdccintEl1
            | Memory::MdscrEl1
            | Memory::OslsrEl1
            | Memory::ClidrEl1
            | Memory::CntpCvalEl0),
        )) => Done(memory(register)),
        _ => Undefined,
    }
}

/// CCSIDR_EL1: what CSSELR_EL1 selects; UNKNOWN, here zero, if that is nothing.
fn ccsidr(active: &Active<'_>) -> Outcome {
    let csselr = active.context().sys_reg(SysReg::CsselrEl1) & 0xf;
    let value = match csselr {
        0..crate::common::regid::CSSELR_VALUES => active.state().arch.ccsidr(csselr as usize),
        _ => 0,
    };
    Done(u64::from(value))
}

/// CNTP_CTL_EL0, with the condition as it is now.
fn timer_control(active: &Active<'_>) -> u64 {
    let state = &active.state().arch;
    let control = state.memory(Memory::CntpCtlEl0);
    let met = counter(active) >= state.memory(Memory::CntpCvalEl0);
    if control & CTL_ENABLE != 0 && met {
        control | CTL_ISTATUS
    } else {
        control
    }
}

fn write(active: &mut Active<'_>, encoding: Encoding, value: u64) -> Outcome {
    if is_zero(active, encoding) {
        return Done(0);
    }
    let state = &mut active.state_mut().arch;
    match encoding {
        OSLAR => {
            regs::set_os_lock(active, value & 1 != 0);
            return Done(0);
        }
        // Writes of these are ignored.
        DBGAUTHSTATUS => return Done(0),
        CNTP_TVAL => {
            let end = counter(active).wrapping_add_signed(i64::from(value as i32));
            let state = &mut active.state_mut().arch;
            state.set_memory(Memory::CntpCvalEl0, end);
            return Done(0);
        }
        _ => {}
    }
    match sysregs::place(encoding) {
        Some(Place::Sys(SysReg::ActlrEl1)) => {}
        Some(Place::Sys(SysReg::CsselrEl1)) => {
            active.context_mut().set_sys_reg(SysReg::CsselrEl1, value);
        }
        Some(Place::Sys(register)) if is_stage_1(register) => {
            control_stage_1(active, register, value)
        }
        Some(Place::Debug(kind, number)) => regs::set_debug_register(active, kind, number, value),
        Some(Place::Stored(Memory::MdscrEl1)) => regs::set_mdscr(active, value),
        Some(Place::Stored(Memory::MdccintEl1)) => state.set_memory(Memory::MdccintEl1, value),
        Some(Place::Stored(Memory::CntpCtlEl0)) => {
            state.set_memory(Memory::CntpCtlEl0, value & !CTL_ISTATUS);
        }
        Some(Place::Stored(Memory::CntpCvalEl0)) => state.set_memory(Memory::CntpCvalEl0, value),
        _ => return Undefined,
    }
    Done(0)
}

/// What HCR_EL2.TVM traps, and with an erratum HFGWTR_EL2.TCR_EL1.
fn is_stage_1(register: SysReg) -> bool {
    matches!(
        register,
        SysReg::SctlrEl1
            | SysReg::Ttbr0El1
            | SysReg::Ttbr1El1
            | SysReg::TcrEl1
            | SysReg::EsrEl1
            | SysReg::FarEl1
            | SysReg::Afsr0El1
            | SysReg::Afsr1El1
            | SysReg::MairEl1
            | SysReg::AmairEl1
            | SysReg::ContextidrEl1
    )
}

/// A write of a register that controls stage 1, while these are watched.
fn control_stage_1(active: &mut Active<'_>, register: SysReg, value: u64) {
    let before = events::has_caches(active);
    let value = match register {
        SysReg::TcrEl1 => config::tcr_el1(value),
        _ => value,
    };
    active.context_mut().set_sys_reg(register, value);
    let after = events::has_caches(active);
    if before != after {
        // What the guest wrote around the caches, or in them, must be what it sees from here on.
        active.vm.flush_guest();
    }
    if after && !config::watches_stage_1() {
        active.context_mut().config.hcr &= !hcr::TVM;
    }
}
