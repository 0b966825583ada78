// SPDX-License-Identifier: GPL-2.0-only

//! Tests of the page tables. They run in an arena that watches every store, allocation and barrier.

mod arena;
mod concurrent;
mod descriptors;
mod geometry;
mod model;
mod monitor;
mod only;
mod operations;
mod reclaim;
mod refusals;
mod sequences;
mod tags;

use std::vec::Vec;

use super::{
    tlb::{
        GuestTlb,
        HypTlb,
        Op,
        Stage2Regs,
        TlbFeatures,
        TlbPort, //
    },
    *,
};
use crate::common::addr::{
    AddrRange,
    Address,
    Granule,
    HypVa,
    Ipa,
    PhysAddr, //
};
use arena::{
    ops,
    Arena,
    Event, //
};

/// All shapes of stage 1: granule, VA bits, PA bits, 52-bit descriptors.
const STAGE1_SHAPES: [(Granule, u32, u32, bool); 12] = [
    (Granule::K4, 25, 32, false),
    (Granule::K4, 39, 40, false),
    (Granule::K4, 48, 48, false),
    (Granule::K4, 48, 44, true),
    (Granule::K4, 52, 52, true),
    (Granule::K16, 25, 36, false),
    (Granule::K16, 47, 48, false),
    (Granule::K16, 48, 48, false),
    (Granule::K16, 52, 52, true),
    (Granule::K64, 42, 48, false),
    (Granule::K64, 48, 48, false),
    (Granule::K64, 52, 52, true),
];

/// All shapes of stage 2: granule, IPA bits, PA bits, 52-bit descriptors.
const STAGE2_SHAPES: [(Granule, u32, u32, bool); 9] = [
    (Granule::K4, 32, 32, false),
    (Granule::K4, 40, 44, false),
    (Granule::K4, 48, 48, false),
    (Granule::K4, 52, 52, true),
    (Granule::K16, 40, 40, false),
    (Granule::K16, 52, 52, true),
    (Granule::K64, 36, 36, false),
    (Granule::K64, 48, 48, false),
    (Granule::K64, 52, 52, true),
];

/// A format under test, with the maintenance that belongs to it.
trait Subject: Format {
    type Tlb<P: TlbPort>: Maintenance<Self::Input>;

    fn tlb<P: TlbPort>(port: P, granule: Granule) -> Self::Tlb<P>;
    fn geometry(granule: Granule, input_bits: u32, output: Output) -> Result<Geometry, Error>;
    fn format() -> Self;
    /// An arena with a monitor for this format.
    fn arena(granule: Granule, base: u64) -> Arena;
    /// Attributes; the first is for all the rest, and the last needs a break against all others.
    fn attrs() -> Vec<Self::Attrs>;
}

impl Subject for Stage1 {
    type Tlb<P: TlbPort> = HypTlb<P>;

    fn tlb<P: TlbPort>(port: P, granule: Granule) -> HypTlb<P> {
        HypTlb {
            port,
            granule,
            features: TlbFeatures::default(),
        }
    }

    fn geometry(granule: Granule, input_bits: u32, output: Output) -> Result<Geometry, Error> {
        Geometry::stage1(granule, input_bits, output)
    }

    fn format() -> Self {
        Stage1
    }

    fn arena(granule: Granule, base: u64) -> Arena {
        Arena::new(granule, base)
    }

    fn attrs() -> Vec<HypAttrs> {
        vec![
            HypAttrs::normal(HypAccess::ReadWrite),
            HypAttrs::normal(HypAccess::Read),
            HypAttrs::normal(HypAccess::ReadExecute)
                .with_tag(9)
                .unwrap(),
            HypAttrs::device(true),
        ]
    }
}

impl Subject for Stage2 {
    type Tlb<P: TlbPort> = GuestTlb<P>;

    fn tlb<P: TlbPort>(port: P, granule: Granule) -> GuestTlb<P> {
        GuestTlb {
            port,
            granule,
            features: TlbFeatures::default(),
            guest: Stage2Regs {
                vttbr: GUEST_VTTBR,
                vtcr: GUEST_VTCR,
            },
            host: Stage2Regs::default(),
            host_tcr: None,
        }
    }

    fn geometry(granule: Granule, input_bits: u32, output: Output) -> Result<Geometry, Error> {
        Geometry::stage2(granule, input_bits, output)
    }

    fn format() -> Self {
        Stage2 {
            fwb: false,
            xnx: true,
        }
    }

    fn arena(granule: Granule, base: u64) -> Arena {
        Arena::for_guest(granule, base)
    }

    fn attrs() -> Vec<GuestAttrs> {
        vec![
            GuestAttrs::RAM,
            GuestAttrs {
                write: false,
                accessed: false,
                ..GuestAttrs::RAM
            },
            GuestAttrs {
                execute: GuestExecute::El0,
                tag: 3,
                ..GuestAttrs::RAM
            },
            GuestAttrs::DEVICE,
        ]
    }
}

/// VTTBR_EL2 of the guest under test.
const GUEST_VTTBR: u64 = 0x0007_0000_4000_0000;
/// VTCR_EL2 of the guest under test.
const GUEST_VTCR: u64 = 0x8002_3559;

/// A table with all that it works with.
struct Bench<F: Subject> {
    arena: Arena,
    tlb: F::Tlb<Arena>,
    table: PageTable<F>,
}

impl<F: Subject> Bench<F> {
    fn new((granule, input_bits, pa_bits, wide): (Granule, u32, u32, bool)) -> Self {
        let output = Output::new(granule, pa_bits, wide).unwrap();
        let geometry = F::geometry(granule, input_bits, output).unwrap();
        // In the upper quarter of the output, so that all bits of table addresses are at work.
        let arena = F::arena(granule, 3 << (output.bits() - 2));
        let table = PageTable::create(F::format(), geometry, &arena).unwrap();
        arena.take_trace();
        Self {
            tlb: F::tlb(arena.clone(), granule),
            arena,
            table,
        }
    }

    fn map(
        &mut self,
        range: AddrRange<F::Input>,
        pa: u64,
        attrs: F::Attrs,
        blocks: Blocks,
    ) -> Result<(), Error> {
        let env = Env::new(&self.arena, &self.tlb);
        self.table.map(&env, range, self::pa(pa), attrs, blocks)
    }

    fn map_concurrent(
        &self,
        range: AddrRange<F::Input>,
        pa: u64,
        attrs: F::Attrs,
        blocks: Blocks,
    ) -> Result<(), Error> {
        let env = Env::new(&self.arena, &self.tlb);
        self.table
            .map_concurrent(&env, range, self::pa(pa), attrs, blocks)
    }

    fn unmap(&mut self, range: AddrRange<F::Input>) -> Result<u64, Error> {
        self.table.unmap(&Env::new(&self.arena, &self.tlb), range)
    }

    fn protect(&mut self, range: AddrRange<F::Input>, attrs: F::Attrs) -> Result<(), Error> {
        let env = Env::new(&self.arena, &self.tlb);
        self.table.protect(&env, range, |_| Some(attrs))
    }

    fn split(&mut self, range: AddrRange<F::Input>, level: Level) -> Result<(), Error> {
        self.table
            .split(&Env::new(&self.arena, &self.tlb), range, level)
    }

    fn merge(&mut self, range: AddrRange<F::Input>) -> Result<u64, Error> {
        self.table.merge(&Env::new(&self.arena, &self.tlb), range)
    }

    fn all(&self) -> AddrRange<F::Input> {
        self.table.geometry().input_range().unwrap()
    }

    /// All runs of leaves.
    fn runs(&self) -> Vec<Mapping<F>> {
        let mut runs = Vec::new();
        self.table.runs(&self.arena, |run| runs.push(run)).unwrap();
        runs
    }

    /// Checks what must hold after every operation.
    fn assert_sound(&self) {
        assert_eq!(self.arena.take_violations(), [""; 0]);
        self.arena.assert_counts(self.table.root());
        let tables = self.table.table_granules(&self.arena).unwrap()
            - self.table.geometry().root_granules()
            + 1;
        assert_eq!(
            self.arena.table_count() as u64,
            tables,
            "a table is in the arena, but not reachable"
        );
    }

    /// Takes everything down and checks that all memory has come back.
    fn destroy(self) {
        self.table.destroy(&self.arena).unwrap();
        assert_eq!(self.arena.table_count(), 0);
    }
}

fn pa(raw: u64) -> PhysAddr {
    PhysAddr::new(raw).unwrap()
}

fn va(first: u64, size_bytes: u64) -> AddrRange<HypVa> {
    AddrRange::new(HypVa::new(first).unwrap(), size_bytes).unwrap()
}

fn ipa(first: u64, size_bytes: u64) -> AddrRange<Ipa> {
    AddrRange::new(Ipa::new(first).unwrap(), size_bytes).unwrap()
}
