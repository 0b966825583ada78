// SPDX-License-Identifier: GPL-2.0-only

//! What scenes are made of: both formats with their maintenance, and the operations.

use super::super::Port;
use crate::common::{
    addr::{
        AddrRange,
        Granule,
        HypVa,
        Ipa, //
    },
    pgtable::{
        tlb::{
            invalidate_all_vms,
            GuestTlb,
            HypTlb,
            Stage2Regs,
            TlbFeatures, //
        },
        Blocks,
        Format,
        Geometry,
        GuestAttrs,
        GuestExecute,
        HypAccess,
        HypAttrs,
        Maintenance,
        Output,
        Stage1,
        Stage2,
        Stale, //
    },
};

/// Registers that an invalidation for a guest needs.
#[derive(Clone, Copy, Debug)]
pub struct GuestRegs {
    /// VTTBR_EL2 and VTCR_EL2 of the guest.
    pub stage2: Stage2Regs,
    /// TCR_EL1 of the host, if walks must be kept off.
    pub host_tcr: Option<u64>,
}

/// Granule, input bits, output bits, 52-bit descriptors.
pub type Shape = (Granule, u32, u32, bool);

/// A format under test and the regime that walks it.
pub trait Subject: Format + Send + Sync + 'static {
    type Tlb: Maintenance<Self::Input>;

    fn format() -> Self;
    fn geometry(granule: Granule, input_bits: u32, output: Output) -> Geometry;
    /// Invalidates what is `stale` in `range`, and with it whatever `way` says.
    fn invalidate(tlb: &Self::Tlb, range: AddrRange<Self::Input>, stale: Stale, way: Way);
    /// Maintenance through `port`.
    fn tlb(port: Port, granule: Granule, features: TlbFeatures, guest: GuestRegs) -> Self::Tlb;
    /// Attributes: read-write, read-only, executable, of another memory type.
    fn attrs() -> [Self::Attrs; 4];
    /// Whether a guest's CPUs walk it.
    const IS_GUEST: bool;
}

impl Subject for Stage1 {
    type Tlb = HypTlb<Port>;
    const IS_GUEST: bool = false;

    fn format() -> Self {
        Self
    }

    fn geometry(granule: Granule, input_bits: u32, output: Output) -> Geometry {
        Geometry::stage1(granule, input_bits, output).unwrap()
    }

    fn tlb(port: Port, granule: Granule, features: TlbFeatures, _guest: GuestRegs) -> HypTlb<Port> {
        HypTlb {
            port,
            granule,
            features,
        }
    }

    fn invalidate(tlb: &HypTlb<Port>, range: AddrRange<HypVa>, stale: Stale, _way: Way) {
        tlb.invalidate(range, stale);
    }

    fn attrs() -> [HypAttrs; 4] {
        [
            HypAttrs::normal(HypAccess::ReadWrite),
            HypAttrs::normal(HypAccess::Read),
            HypAttrs::normal(HypAccess::ReadExecute),
            HypAttrs::device(true),
        ]
    }
}

impl Subject for Stage2 {
    type Tlb = GuestTlb<Port>;
    const IS_GUEST: bool = true;

    fn format() -> Self {
        Self {
            fwb: false,
            xnx: true,
        }
    }

    fn geometry(granule: Granule, input_bits: u32, output: Output) -> Geometry {
        Geometry::stage2(granule, input_bits, output).unwrap()
    }

    fn tlb(
        port: Port,
        granule: Granule,
        features: TlbFeatures,
        guest: GuestRegs,
    ) -> GuestTlb<Port> {
        GuestTlb {
            port,
            granule,
            features,
            guest: guest.stage2,
            host: Stage2Regs::default(),
            host_tcr: guest.host_tcr,
        }
    }

    fn invalidate(tlb: &GuestTlb<Port>, range: AddrRange<Ipa>, stale: Stale, way: Way) {
        match way {
            Way::ByRange => tlb.invalidate(range, stale),
            Way::Vm => tlb.invalidate_vm(),
            Way::AllVms => invalidate_all_vms(&tlb.port, tlb.features),
        }
    }

    fn attrs() -> [GuestAttrs; 4] {
        let data = GuestAttrs {
            execute: GuestExecute::Nobody,
            ..GuestAttrs::RAM
        };
        let read_only = GuestAttrs {
            write: false,
            ..data
        };
        let code = GuestAttrs {
            execute: GuestExecute::All,
            ..read_only
        };
        [data, read_only, code, GuestAttrs::DEVICE]
    }
}

/// How much an invalidation of a guest's entries takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// What is stale.
    ByRange,
    /// All of the guest.
    Vm,
    /// All guests.
    AllVms,
}

/// An operation, on pages counted from the start of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Map {
        first: u64,
        pages: u64,
        to: u64,
        attr: usize,
        blocks: Blocks,
    },
    MapConcurrent {
        first: u64,
        pages: u64,
        to: u64,
        attr: usize,
        blocks: Blocks,
    },
    Unmap {
        first: u64,
        pages: u64,
    },
    Protect {
        first: u64,
        pages: u64,
        attr: usize,
    },
    Split {
        first: u64,
        pages: u64,
    },
    Merge {
        first: u64,
        pages: u64,
    },
}
