// SPDX-License-Identifier: GPL-2.0-only

//! The words of the model: exception levels, registers, barriers, invalidations, accesses.

use core::fmt;

use crate::common::hwdebug::Bank;

/// A set of CPUs, one bit each.
pub type CpuMask = u64;

/// Where a CPU is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum El {
    /// EL1 or EL0 of the host.
    Host,
    /// EL2.
    Hyp,
    /// EL1 or EL0 of a guest, under stage 2.
    Guest,
}

/// A register. Those that control translation or exceptions are synchronised by context synchronization events only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reg {
    /// SCTLR_EL2.
    SctlrEl2,
    /// TTBR0_EL2.
    Ttbr0El2,
    /// TCR_EL2.
    TcrEl2,
    /// MAIR_EL2.
    MairEl2,
    /// VBAR_EL2.
    VbarEl2,
    /// HCR_EL2.
    HcrEl2,
    /// VTTBR_EL2.
    VttbrEl2,
    /// VTCR_EL2.
    VtcrEl2,
    /// TCR_EL1.
    TcrEl1,
    /// SP_EL2.
    SpEl2,
    /// SP_EL0.
    SpEl0,
    /// ELR_EL2.
    ElrEl2,
    /// SPSR_EL2.
    SpsrEl2,
    /// ESR_EL2.
    EsrEl2,
    /// FAR_EL2.
    FarEl2,
    /// HPFAR_EL2.
    HpfarEl2,
    /// TPIDR_EL2.
    TpidrEl2,
    /// DBGBVR, DBGBCR, DBGWVR or DBGWCR, with its number.
    Debug(Bank, usize),
    /// Any other one, by name.
    Other(&'static str),
    /// Not of the architecture: something of the model's that a context synchronization event does not touch.
    Model(&'static str),
}

impl Reg {
    /// Whether a write takes effect for sure only after a context synchronization event.
    pub const fn needs_sync(self) -> bool {
        matches!(
            self,
            Self::SctlrEl2
                | Self::Ttbr0El2
                | Self::TcrEl2
                | Self::MairEl2
                | Self::VbarEl2
                | Self::HcrEl2
                | Self::VttbrEl2
                | Self::VtcrEl2
                | Self::TcrEl1
                | Self::Debug(..)
                | Self::Other(_)
        )
    }

    /// Whether EL1 can write it.
    pub fn is_of_el1(self) -> bool {
        matches!(
            self,
            Self::SpEl0 | Self::Debug(..) | Self::Other("MDSCR_EL1")
        )
    }

    /// The name as an assembler takes it; of a register with a number, up to that.
    fn name(self) -> String {
        match self {
            Self::Debug(bank, _) => format!("dbg{bank:?}").to_lowercase(),
            Self::Other(name) => name.to_lowercase(),
            other => {
                let name = format!("{other:?}").to_lowercase();
                name.replace("el", "_el")
            }
        }
    }
}

/// Shareability domain of a barrier, each part of the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Domain {
    /// This PE.
    Nsh,
    /// Inner Shareable: all CPUs and their table walkers.
    Ish,
    /// Outer Shareable: also accesses with the MMU off.
    Osh,
    /// Full system.
    Sy,
}

/// Accesses that a barrier is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// LD.
    Loads,
    /// ST.
    Stores,
    /// No suffix: loads, stores and maintenance operations.
    Full,
}

/// A TLB invalidation. `is` says that it is broadcast to the Inner Shareable domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tlbi {
    /// ALLE2, ALLE2IS.
    Alle2 {
        /// Broadcast.
        is: bool,
    },
    /// ALLE1, ALLE1IS.
    Alle1 {
        /// Broadcast.
        is: bool,
    },
    /// VAE2, VAE2IS.
    Vae2 {
        /// VA, level hint.
        operand: u64,
        /// Broadcast.
        is: bool,
    },
    /// VALE2, VALE2IS.
    Vale2 {
        /// VA, level hint.
        operand: u64,
        /// Broadcast.
        is: bool,
    },
    /// VMALLE1, VMALLE1IS.
    Vmalle1 {
        /// Broadcast.
        is: bool,
    },
    /// VMALLS12E1, VMALLS12E1IS.
    Vmalls12e1 {
        /// Broadcast.
        is: bool,
    },
    /// IPAS2E1, IPAS2E1IS.
    Ipas2e1 {
        /// IPA, level hint.
        operand: u64,
        /// Broadcast.
        is: bool,
    },
    /// IPAS2LE1, IPAS2LE1IS.
    Ipas2le1 {
        /// IPA, level hint.
        operand: u64,
        /// Broadcast.
        is: bool,
    },
}

impl Tlbi {
    /// Whether other CPUs obey.
    pub const fn is_broadcast(self) -> bool {
        match self {
            Self::Alle2 { is }
            | Self::Alle1 { is }
            | Self::Vae2 { is, .. }
            | Self::Vale2 { is, .. }
            | Self::Vmalle1 { is }
            | Self::Vmalls12e1 { is }
            | Self::Ipas2e1 { is, .. }
            | Self::Ipas2le1 { is, .. } => is,
        }
    }

    /// The same for this CPU alone.
    pub const fn local(self) -> Self {
        let is = false;
        match self {
            Self::Alle2 { .. } => Self::Alle2 { is },
            Self::Alle1 { .. } => Self::Alle1 { is },
            Self::Vae2 { operand, .. } => Self::Vae2 { operand, is },
            Self::Vale2 { operand, .. } => Self::Vale2 { operand, is },
            Self::Vmalle1 { .. } => Self::Vmalle1 { is },
            Self::Vmalls12e1 { .. } => Self::Vmalls12e1 { is },
            Self::Ipas2e1 { operand, .. } => Self::Ipas2e1 { operand, is },
            Self::Ipas2le1 { operand, .. } => Self::Ipas2le1 { operand, is },
        }
    }

    /// Whether it is UNDEFINED at EL1.
    pub const fn needs_el2(self) -> bool {
        !matches!(self, Self::Vmalle1 { .. })
    }
}

/// An instruction of a maintenance sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// DSB.
    Dsb(Domain, Kind),
    /// ISB.
    Isb,
    /// TLBI.
    Tlbi(Tlbi),
    /// MSR.
    Msr(Reg, u64),
    /// DC CIVAC.
    DcCivac(u64),
    /// IC IALLUIS.
    IcIalluis,
}

impl Instruction {
    /// The name, without an operand or a value, as an assembler takes it.
    pub fn name(self) -> String {
        match self {
            Self::Dsb(domain, kind) => {
                let domain = match domain {
                    Domain::Nsh => "nsh",
                    Domain::Ish => "ish",
                    Domain::Osh => "osh",
                    Domain::Sy => "sy",
                };
                let kind = match kind {
                    Kind::Loads => "ld",
                    Kind::Stores => "st",
                    Kind::Full => "",
                };
                format!("dsb {domain}{kind}")
            }
            Self::Isb => "isb".into(),
            Self::Tlbi(tlbi) => {
                let text = tlbi.to_string();
                text.split(',').next().unwrap_or_default().into()
            }
            Self::DcCivac(_) => "dc civac".into(),
            Self::IcIalluis => "ic ialluis".into(),
            Self::Msr(Reg::Debug(_, number), _) => format!("{}{number}_el1", self.stem()),
            Self::Msr(..) => self.stem(),
        }
    }

    /// The name as `rust/arch` has it: of registers with a number, which are one line there, without that.
    pub fn stem(self) -> String {
        match self {
            Self::Msr(reg, _) => format!("msr {}", reg.name()),
            other => other.name(),
        }
    }
}

/// A hint that is more than a hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// ESB.
    Esb,
    /// PSB CSYNC.
    PsbCsync,
    /// TSB CSYNC.
    TsbCsync,
    /// CLRBHB.
    ClrBhb,
}

/// What an access wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Load.
    Read,
    /// Store.
    Write,
    /// Instruction fetch.
    Execute,
}

/// How far a clean of the data cache reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clean {
    /// DC CVAU: to the point of unification.
    ToPou,
    /// DC CVAC: to the point of coherency.
    ToPoc,
    /// DC CIVAC: to the point of coherency, and the line is gone.
    AndInvalidate,
}

/// What was fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The instruction.
    pub word: u32,
    /// Where it was read.
    pub pa: u64,
}

/// What an access would find, whatever the adversary chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Translation {
    /// It succeeds.
    Mapped {
        /// The physical address.
        pa: u64,
        /// Some choice makes a cacheable access of it.
        cacheable: bool,
        /// Some choice makes a Device or Non-cacheable access of it.
        uncached: bool,
    },
    /// It faults: no translation.
    Fault,
    /// It faults: no permission.
    Denied,
}

impl fmt::Display for Tlbi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, operand) = match *self {
            Self::Alle2 { .. } => ("alle2", None),
            Self::Alle1 { .. } => ("alle1", None),
            Self::Vae2 { operand, .. } => ("vae2", Some(operand)),
            Self::Vale2 { operand, .. } => ("vale2", Some(operand)),
            Self::Vmalle1 { .. } => ("vmalle1", None),
            Self::Vmalls12e1 { .. } => ("vmalls12e1", None),
            Self::Ipas2e1 { operand, .. } => ("ipas2e1", Some(operand)),
            Self::Ipas2le1 { operand, .. } => ("ipas2le1", Some(operand)),
        };
        let scope = if self.is_broadcast() { "is" } else { "" };
        write!(f, "tlbi {name}{scope}")?;
        operand.map_or(Ok(()), |operand| write!(f, ", {operand:#x}"))
    }
}
