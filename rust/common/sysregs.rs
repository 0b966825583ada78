// SPDX-License-Identifier: GPL-2.0-only

//! Common: which system registers a vCPU has, and where their values are.
//!
//! What user space may read and write is [`place`]; what it is told in KVM_GET_REG_LIST is [`all`].
//!
//! Source: Arm ARM DDI 0487, D24 (encodings); the selection is that of `arch/arm64/kvm/sys_regs.c` of Linux for a vCPU
//! without optional features.

use super::{
    guest::SysReg,
    idreg,
    regid::Encoding, //
};

/// Registers that are in no CPU while the guest runs: every access traps, or there is none from AArch64.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
#[allow(missing_docs, reason = "the names are those of the Arm ARM")]
pub enum Memory {
    MdccintEl1,
    /// As the guest and user space see it; what the CPU gets has fewer bits.
    MdscrEl1,
    OslsrEl1,
    Dbgvcr32El2,
    Dacr32El2,
    Ifsr32El2,
    Fpexc32El2,
    ClidrEl1,
    CntpCtlEl0,
    CntpCvalEl0,
    /// Number of places.
    Count,
}

/// Number of registers that are in memory only.
pub const MEMORY_REGS: usize = Memory::Count as usize;

/// The kinds of breakpoint and watchpoint registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Debug {
    /// DBGBVRn_EL1.
    BreakValue,
    /// DBGBCRn_EL1.
    BreakControl,
    /// DBGWVRn_EL1.
    WatchValue,
    /// DBGWCRn_EL1.
    WatchControl,
}

/// Breakpoints, and watchpoints, that the architecture has room for.
pub const DEBUG_REGS: usize = 16;

/// Where the value of a register is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In [`super::guest::VcpuContext::sys`].
    Sys(SysReg),
    /// See [`Memory`].
    Stored(Memory),
    /// A breakpoint or watchpoint register, by number.
    Debug(Debug, usize),
    /// MPIDR_EL1.
    Mpidr,
    /// An ID register of the VM, by its place in [`idreg::at`].
    Id(usize),
    /// CTR_EL0, of the VM.
    Ctr,
    /// MIDR_EL1, REVIDR_EL1 or AIDR_EL1, of the VM.
    Implementation(Encoding),
    /// CNTVCT_EL0.
    VirtualCounter,
    /// CNTPCT_EL0.
    PhysicalCounter,
}

const MDCCINT: Encoding = Encoding::new(2, 0, 0, 2, 0);
const MDSCR: Encoding = Encoding::new(2, 0, 0, 2, 2);

/// Those that are one of a kind, in ascending order of their encodings; debug and ID registers stand before them.
static SINGLE: [(Encoding, Place); 38] = {
    use self::Memory::*;
    use Place::*;
    use SysReg::*;
    const fn at(op0: u16, op1: u16, crn: u16, crm: u16, op2: u16) -> Encoding {
        Encoding::new(op0, op1, crn, crm, op2)
    }
    [
        (at(2, 0, 1, 1, 4), Stored(OslsrEl1)),
        (at(2, 4, 0, 7, 0), Stored(Dbgvcr32El2)),
        (idreg::MIDR, Implementation(idreg::MIDR)),
        (idreg::MPIDR, Mpidr),
        (idreg::REVIDR, Implementation(idreg::REVIDR)),
        (at(3, 0, 1, 0, 0), Sys(SctlrEl1)),
        (at(3, 0, 1, 0, 1), Sys(ActlrEl1)),
        (at(3, 0, 1, 0, 2), Sys(CpacrEl1)),
        (at(3, 0, 2, 0, 0), Sys(Ttbr0El1)),
        (at(3, 0, 2, 0, 1), Sys(Ttbr1El1)),
        (at(3, 0, 2, 0, 2), Sys(TcrEl1)),
        (at(3, 0, 5, 1, 0), Sys(Afsr0El1)),
        (at(3, 0, 5, 1, 1), Sys(Afsr1El1)),
        (at(3, 0, 5, 2, 0), Sys(EsrEl1)),
        (at(3, 0, 6, 0, 0), Sys(FarEl1)),
        (at(3, 0, 7, 4, 0), Sys(ParEl1)),
        (at(3, 0, 10, 2, 0), Sys(MairEl1)),
        (at(3, 0, 10, 3, 0), Sys(AmairEl1)),
        (at(3, 0, 12, 0, 0), Sys(VbarEl1)),
        (at(3, 0, 12, 1, 1), Sys(DisrEl1)),
        (at(3, 0, 13, 0, 1), Sys(ContextidrEl1)),
        (at(3, 0, 13, 0, 4), Sys(TpidrEl1)),
        (at(3, 0, 14, 1, 0), Sys(CntkctlEl1)),
        (idreg::CLIDR, Stored(ClidrEl1)),
        (idreg::AIDR, Implementation(idreg::AIDR)),
        (at(3, 2, 0, 0, 0), Sys(CsselrEl1)),
        (idreg::CTR, Ctr),
        (at(3, 3, 13, 0, 2), Sys(TpidrEl0)),
        (at(3, 3, 13, 0, 3), Sys(TpidrroEl0)),
        (at(3, 3, 14, 0, 1), PhysicalCounter),
        (at(3, 3, 14, 0, 2), VirtualCounter),
        (at(3, 3, 14, 2, 1), Stored(CntpCtlEl0)),
        (at(3, 3, 14, 2, 2), Stored(CntpCvalEl0)),
        (at(3, 3, 14, 3, 1), Sys(CntvCtlEl0)),
        (at(3, 3, 14, 3, 2), Sys(CntvCvalEl0)),
        (at(3, 4, 3, 0, 0), Stored(Dacr32El2)),
        (at(3, 4, 5, 0, 1), Stored(Ifsr32El2)),
        (at(3, 4, 5, 3, 0), Stored(Fpexc32El2)),
    ]
};

/// The breakpoint or watchpoint register, or one of the two that stand among them, with this encoding.
fn debug(encoding: Encoding) -> Option<Place> {
    if encoding.op0() != 2 || encoding.op1() != 0 || encoding.crn() != 0 {
        return None;
    }
    let kind = match encoding.op2() {
        _ if encoding == MDCCINT => return Some(Place::Stored(Memory::MdccintEl1)),
        _ if encoding == MDSCR => return Some(Place::Stored(Memory::MdscrEl1)),
        4 => Debug::BreakValue,
        5 => Debug::BreakControl,
        6 => Debug::WatchValue,
        7 => Debug::WatchControl,
        _ => return None,
    };
    Some(Place::Debug(kind, encoding.crm() as usize))
}

/// Where the value of the system register `encoding` is; `None` if a vCPU has no such register.
pub fn place(encoding: Encoding) -> Option<Place> {
    if let Some(place) = debug(encoding) {
        return Some(place);
    }
    if let Some(index) = idreg::index(encoding) {
        return Some(Place::Id(index));
    }
    SINGLE
        .iter()
        .find(|(single, _)| *single == encoding)
        .map(|(_, place)| *place)
}

/// Every register that [`place`] knows, once.
pub fn all() -> impl Iterator<Item = Encoding> {
    let debug = (0..DEBUG_REGS as u16).flat_map(|crm| {
        (0..8u16).filter_map(move |op2| {
            let encoding = Encoding::new(2, 0, 0, crm, op2);
            debug(encoding).map(|_| encoding)
        })
    });
    debug
        .chain((0..idreg::COUNT).filter_map(idreg::at))
        .chain(SINGLE.iter().map(|(encoding, _)| *encoding))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_register_is_listed_once_and_has_a_place() {
        let registers: Vec<_> = all().collect();
        let mut sorted = registers.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), registers.len());
        let places: Vec<_> = registers.iter().map(|it| place(*it).unwrap()).collect();
        for (index, place) in places.iter().enumerate() {
            assert!(!places.iter().skip(index + 1).any(|other| other == place));
        }
    }

    #[test]
    fn list_has_what_the_uapi_has_always_had() {
        // 16 times four debug registers and two, 56 ID registers, and the single ones.
        assert_eq!(all().count(), 66 + 56 + SINGLE.len());
        assert_eq!(
            place(Encoding::new(2, 0, 0, 15, 7)),
            Some(Place::Debug(Debug::WatchControl, 15))
        );
        assert_eq!(place(Encoding::new(3, 0, 0, 7, 7)), Some(Place::Id(55)));
    }

    #[test]
    fn what_a_vcpu_has_not_has_no_place() {
        // ZCR_EL1, PMCR_EL0, ICC_PMR_EL1, TCR2_EL1, APIAKeyLo_EL1.
        for encoding in [
            Encoding::new(3, 0, 1, 2, 0),
            Encoding::new(3, 3, 9, 12, 0),
            Encoding::new(3, 0, 4, 6, 0),
            Encoding::new(3, 0, 2, 0, 3),
            Encoding::new(3, 0, 2, 1, 0),
        ] {
            assert_eq!(place(encoding), None, "{encoding:?}");
        }
    }
}
