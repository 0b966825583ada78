// SPDX-License-Identifier: GPL-2.0-only

//! Host: accesses of AArch32's coprocessor registers that trap. EL1 of a guest is AArch64, so they come from its EL0.
//!
//! What EL0 may have is the debugger's identity, its empty channel and the physical counter and timer, if the guest's EL1 lets
//! it; all else is UNDEFINED.
//!
//! Source: Arm ARM DDI 0487, D24.2.40 (ISS of EC 0x03 to 0x0c), G8.3 (debug registers); behaviour as
//! `arch/arm64/kvm/sys_regs.c` of Linux.

use kernel::prelude::*;

use super::{
    events,
    exit::Next,
    regs::{
        self,
        id, //
    },
    sysreg,
    vcpu::Active, //
};
use crate::common::{
    idreg,
    regid::Encoding, //
};

/// ISS.Direction: a read.
const READ: u64 = 1;

/// Which register of AArch64 answers, or what does.
enum Register {
    /// The same register under its other name.
    Same(Encoding),
    /// DBGDIDR.
    DebugIdentity,
    /// Reads as zero, and ignores writes.
    Zero,
}

const CNTPCT: Encoding = Encoding::new(3, 3, 14, 0, 1);
const CNTPCTSS: Encoding = Encoding::new(3, 3, 14, 0, 5);
const CNTP_TVAL: Encoding = Encoding::new(3, 3, 14, 2, 0);
const CNTP_CTL: Encoding = Encoding::new(3, 3, 14, 2, 1);
const CNTP_CVAL: Encoding = Encoding::new(3, 3, 14, 2, 2);

fn field(iss: u64, shift: u32, bits: u32) -> u64 {
    (iss >> shift) & ((1 << bits) - 1)
}

/// MRC and MCR. `debug`: of coprocessor 14, else 15.
pub(super) fn trapped(active: &mut Active<'_>, debug: bool) -> Result<Next> {
    let iss = active.context().exit.esr;
    let [op1, crn, crm, op2] =
        [(14, 3), (10, 4), (1, 4), (17, 3)].map(|(at, bits)| field(iss, at, bits));
    let register = match (debug, op1, crn, crm, op2) {
        (true, 0, 0, 0, 0) => Some(Register::DebugIdentity),
        // DBGDSCRint, DBGDTRRXint with DBGDTRTXint, DBGDRAR, DBGDSAR.
        (true, 0, 0, 1, 0) | (true, 0, 0, 5, 0) | (true, 0, 1, 0, 0) | (true, 0, 2, 0, 0) => {
            Some(Register::Zero)
        }
        (false, 0, 14, 2, 0) => Some(Register::Same(CNTP_TVAL)),
        (false, 0, 14, 2, 1) => Some(Register::Same(CNTP_CTL)),
        _ => None,
    };
    let rt = field(iss, 5, 5) as u8;
    let value = regs::x(active.context(), rt) & 0xffff_ffff;
    if let Some(value) = register.and_then(|register| access(active, register, iss, value)) {
        if iss & READ != 0 {
            regs::set_x(active.context_mut(), rt, value & 0xffff_ffff);
        }
        active.advance_pc();
    } else {
        events::inject_undefined(active);
    }
    Ok(Next::Resume)
}

/// MRRC and MCRR.
pub(super) fn trapped_wide(active: &mut Active<'_>, debug: bool) -> Result<Next> {
    let iss = active.context().exit.esr;
    let [op1, crm] = [(16, 4), (1, 4)].map(|(at, bits)| field(iss, at, bits));
    let register = match (debug, op1, crm) {
        // DBGDRAR, DBGDSAR.
        (true, 0, 1) | (true, 0, 2) => Some(Register::Zero),
        (false, 0, 14) => Some(Register::Same(CNTPCT)),
        (false, 2, 14) => Some(Register::Same(CNTP_CVAL)),
        (false, 8, 14) => Some(Register::Same(CNTPCTSS)),
        _ => None,
    };
    let [low, high] = [5, 10].map(|at| field(iss, at, 5) as u8);
    let [old_low, old_high] = [low, high].map(|rt| regs::x(active.context(), rt) & 0xffff_ffff);
    let value = old_low | (old_high << 32);
    if let Some(value) = register.and_then(|register| access(active, register, iss, value)) {
        if iss & READ != 0 {
            regs::set_x(active.context_mut(), low, value & 0xffff_ffff);
            regs::set_x(active.context_mut(), high, value >> 32);
        }
        active.advance_pc();
    } else {
        events::inject_undefined(active);
    }
    Ok(Next::Resume)
}

/// Does it. Returns what a read yields; `None` if it is UNDEFINED.
fn access(active: &mut Active<'_>, register: Register, iss: u64, value: u64) -> Option<u64> {
    match register {
        Register::Same(encoding) => {
            sysreg::access(active, encoding, (iss & READ == 0).then_some(value))
        }
        Register::DebugIdentity => Some(debug_identity(active)),
        Register::Zero => Some(0),
    }
}

/// DBGDIDR, of which all but the highest exception level follows from ID_AA64DFR0_EL1.
fn debug_identity(active: &Active<'_>) -> u64 {
    /// nSUHD_imp: secure debug from user mode is not there.
    const NSUHD: u64 = 1 << 15;
    /// PCSR_imp and SE_imp: EL3 is implemented.
    const EL3: u64 = (1 << 14) | (1 << 12);
    let dfr0 = id::get(active.vm, idreg::AA64DFR0);
    let pfr0 = id::get(active.vm, idreg::AA64PFR0);
    let [watchpoints, contexts, breakpoints, version] =
        [20, 28, 12, 0].map(|shift| idreg::field(dfr0, shift));
    let el3 = if idreg::field(pfr0, 12) != 0 { EL3 } else { 0 };
    (watchpoints << 28) | (breakpoints << 24) | (contexts << 20) | (version << 16) | NSUHD | el3
}
