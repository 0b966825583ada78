// SPDX-License-Identifier: GPL-2.0-only

//! TLB maintenance as sequences of instructions.
//!
//! Domain: common. The order of barriers and TLBIs is decided here, so that `cargo test` sees it; `arch` only turns one
//! [`Op`] into one instruction. A sequence is never taken apart: users call [`Maintenance`], not the port.
//!
//! Source: Arm ARM DDI 0487 D8.17 (TLB maintenance), C5.5 (TLBI operands), K13.5 (barrier examples); behaviour as
//! `arch/arm64/kvm/hyp/pgtable.c` (EL2) and `arch/arm64/kvm/hyp/nvhe/tlb.c` (stage 2).

use super::{
    field::Field,
    geometry::Level,
    maintenance::{
        Maintenance,
        Stale, //
    },
};
use crate::common::addr::{
    AddrRange,
    Address,
    Granule,
    HypVa,
    Ipa,
    Pow2, //
};

/// A TLB invalidation. All are broadcast to the Inner Shareable domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tlbi {
    /// EL2, by VA, leaves and cached walks.
    Vae2is(u64),
    /// EL2, by VA, leaves only.
    Vale2is(u64),
    /// EL2, everything.
    Alle2is,
    /// EL1&0 under all VMIDs, both stages.
    Alle1is,
    /// EL1&0 under the current VMID, stage 2 by IPA, leaves and cached walks.
    Ipas2e1is(u64),
    /// EL1&0 under the current VMID, stage 2 by IPA, leaves only.
    Ipas2le1is(u64),
    /// EL1&0 under the current VMID, stage 1 and what combines both stages.
    Vmalle1is,
    /// EL1&0 under the current VMID, both stages.
    Vmalls12e1is,
}

/// One instruction of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// DSB ISHST: stores before it are seen by the table walkers of all CPUs before anything after it.
    DsbIshst,
    /// DSB ISH: stores and TLBIs before it are complete on all CPUs.
    DsbIsh,
    /// ISB: what follows on this CPU is fetched and translated anew.
    Isb,
    /// TLBI.
    Tlbi(Tlbi),
    /// MSR VTTBR_EL2.
    WriteVttbr(u64),
    /// MSR VTCR_EL2.
    WriteVtcr(u64),
    /// MSR TCR_EL1.
    WriteTcrEl1(u64),
}

/// What executes the instructions: the CPU, at EL2, or a model of it.
pub trait TlbPort {
    /// Executes one. In program order with all others, and with all accesses to memory.
    fn issue(&self, op: Op);
}

/// VA or IPA bits from 12 up, of a by-address operand.
type OperandAddress = Field<0, 44>;
/// TTL: the level, in the lower two bits.
type TtlLevel = Field<44, 2>;
/// TTL: the granule, in the upper two bits; 0 is no hint at all.
type TtlGranule = Field<46, 2>;

/// TCR_EL1.EPD0 and EPD1: no walks from TTBR0_EL1 and TTBR1_EL1.
const NO_WALKS: u64 = (1 << 7) | (1 << 23);

/// More operations than this cost more than refilling all of the TLB does.
const MAX_BY_ADDRESS: u64 = 512;

/// What the CPUs need or offer besides Armv8.0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TlbFeatures {
    /// FEAT_TTL: operands may name the level of the leaf.
    pub ttl: bool,
    /// An erratum demands that TLBI and DSB are issued twice (Linux: `ARM64_WORKAROUND_REPEAT_TLBI`).
    pub repeat: bool,
}

/// Operand of an invalidation by address.
fn operand<A: Address>(at: A, granule: Granule, hint: Option<Level>) -> u64 {
    let address = OperandAddress::put(at.raw().wrapping_shr(12));
    let level = match hint {
        // No leaf exists at level −1.
        None | Some(Level::Minus1) => return address,
        Some(Level::L0) => 0,
        Some(Level::L1) => 1,
        Some(Level::L2) => 2,
        Some(Level::L3) => 3,
    };
    let granule = match granule {
        Granule::K4 => 1,
        Granule::K16 => 2,
        Granule::K64 => 3,
    };
    address | TtlLevel::put(level) | TtlGranule::put(granule)
}

/// The addresses of `range` in steps of an entry of `level`; `None` if there are too many of them.
fn steps<A: Address>(
    range: AddrRange<A>,
    granule: Granule,
    level: Level,
) -> Option<impl Iterator<Item = A>> {
    let size = Pow2::from_shift(level.entry_shift(granule)?)?;
    let count = range.size_bytes().wrapping_shr(size.shift());
    let step = move |index: u64| {
        index
            .checked_mul(size.bytes())
            .and_then(|offset| range.first().checked_add(offset))
    };
    (count <= MAX_BY_ADDRESS).then(|| (0..count).filter_map(step))
}

/// Maintenance of the EL2 regime, executed at EL2: these TLBIs are UNDEFINED at EL1.
#[derive(Clone, Copy, Debug)]
pub struct HypTlb<P> {
    /// Executes the instructions.
    pub port: P,
    /// Granule of the tables.
    pub granule: Granule,
    /// What the CPUs need or offer.
    pub features: TlbFeatures,
}

impl<P: TlbPort> HypTlb<P> {
    fn tlbi(&self, range: AddrRange<HypVa>, stale: Stale) {
        let issue = |tlbi| self.port.issue(Op::Tlbi(tlbi));
        match stale {
            Stale::Leaves(level) => match steps(range, self.granule, level) {
                Some(addresses) => {
                    let hint = self.features.ttl.then_some(level);
                    addresses.for_each(|va| issue(Tlbi::Vale2is(operand(va, self.granule, hint))));
                }
                None => issue(Tlbi::Alle2is),
            },
            // Any address below the entry will do: what is left of it is the cached walk that all of them share. The level of
            // a leaf that there is not cannot be named.
            Stale::Table(_) => issue(Tlbi::Vae2is(operand(range.first(), self.granule, None))),
            Stale::Subtree(_) => issue(Tlbi::Alle2is),
        }
    }
}

impl<P: TlbPort> Maintenance<HypVa> for HypTlb<P> {
    fn publish(&self) {
        // The walkers see the new descriptors before anything that comes after, and this CPU drops what it fetched, or
        // faulted on, before them.
        self.port.issue(Op::DsbIshst);
        self.port.issue(Op::Isb);
    }

    fn invalidate(&self, range: AddrRange<HypVa>, stale: Stale) {
        // Without it a walker could read the old descriptor again after the TLBI.
        self.port.issue(Op::DsbIshst);
        self.tlbi(range, stale);
        // Completes the TLBI on all CPUs, and their accesses that used the old translation.
        self.port.issue(Op::DsbIsh);
        if self.features.repeat {
            self.tlbi(range, stale);
            self.port.issue(Op::DsbIsh);
        }
        // This CPU's own instructions already in flight.
        self.port.issue(Op::Isb);
    }
}

/// Invalidates all that is cached for guests under any VMID, on all CPUs: before VMIDs are given out anew.
///
/// Executed at EL2, which it does not concern, so that no ISB is needed: a guest is entered by an exception return.
pub fn invalidate_all_vms<P: TlbPort>(port: &P, features: TlbFeatures) {
    // Without it a walker could read an old descriptor again after the TLBI.
    port.issue(Op::DsbIshst);
    port.issue(Op::Tlbi(Tlbi::Alle1is));
    // Completes it on all CPUs, before any of them runs another guest under an old VMID.
    port.issue(Op::DsbIsh);
    if features.repeat {
        port.issue(Op::Tlbi(Tlbi::Alle1is));
        port.issue(Op::DsbIsh);
    }
}

/// The registers of a stage 2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stage2Regs {
    /// VTTBR_EL2, with the VMID.
    pub vttbr: u64,
    /// VTCR_EL2: VS tells how many bits of the VMID count, TG0 and DS how an address is to be read.
    pub vtcr: u64,
}

/// Maintenance of one guest's stage 2, executed at EL2 while no guest runs on this CPU.
#[derive(Clone, Copy, Debug)]
pub struct GuestTlb<P> {
    /// Executes the instructions.
    pub port: P,
    /// Granule of the tables.
    pub granule: Granule,
    /// What the CPUs need or offer.
    pub features: TlbFeatures,
    /// Those of the guest: its VMID is what the TLBIs apply to.
    pub guest: Stage2Regs,
    /// Those to leave behind.
    pub host: Stage2Regs,
    /// TCR_EL1 of the host, on CPUs with an erratum that lets an AT be executed speculatively while VTTBR_EL2 and the
    /// registers of EL1 belong to different guests (Linux: `ARM64_WORKAROUND_SPECULATIVE_AT`).
    pub host_tcr: Option<u64>,
}

impl<P: TlbPort> GuestTlb<P> {
    /// Invalidates all that is cached under the guest's VMID, on all CPUs: before its tables are freed, or the VMID reused.
    pub fn invalidate_vm(&self) {
        self.under_vmid(|| self.complete(|| self.port.issue(Op::Tlbi(Tlbi::Vmalls12e1is))));
    }

    /// Runs `sequence` with the guest's VMID in place.
    fn under_vmid(&self, sequence: impl FnOnce()) {
        // The stores to the tables are seen by all walkers, and walks of this CPU under the old VMID are done: a full DSB
        // does for both.
        self.port.issue(Op::DsbIsh);
        if let Some(tcr) = self.host_tcr {
            // No walk of the host's stage 1 can start from here on: its result would be cached under the guest's VMID.
            self.port.issue(Op::WriteTcrEl1(tcr | NO_WALKS));
            self.port.issue(Op::Isb);
        }
        self.put(self.guest);
        self.port.issue(Op::Isb);
        sequence();
        // The TLBIs are finished for this CPU too before anything else changes, as in the examples of the Arm ARM. It costs
        // little and spares every reader the proof that it could go: the DSB before it has completed the TLBIs, an MSR does
        // not overtake a DSB, and the ISB behind that MSR does for both. So no mutant dies here.
        self.port.issue(Op::Isb);
        self.put(self.host);
        // What EL2 does next, it does under the host's VMID for sure.
        self.port.issue(Op::Isb);
        if let Some(tcr) = self.host_tcr {
            // No ISB: EL2 does not use it, and the host is entered by an exception return.
            self.port.issue(Op::WriteTcrEl1(tcr));
        }
    }

    fn put(&self, regs: Stage2Regs) {
        self.port.issue(Op::WriteVttbr(regs.vttbr));
        self.port.issue(Op::WriteVtcr(regs.vtcr));
    }

    /// Issues `tlbis` and waits until they are complete.
    fn complete(&self, tlbis: impl Fn()) {
        tlbis();
        self.port.issue(Op::DsbIsh);
        if self.features.repeat {
            tlbis();
            self.port.issue(Op::DsbIsh);
        }
    }

    /// Invalidates stage 2 by address, then stage 1.
    ///
    /// The order matters: if stage 1 came first, a walk on another CPU could cache a combination of both stages from the old
    /// stage-2 entry, which no IPA would find.
    fn by_ipa(&self, stage2: impl Fn()) {
        self.complete(stage2);
        self.complete(|| self.port.issue(Op::Tlbi(Tlbi::Vmalle1is)));
    }
}

impl<P: TlbPort> Maintenance<Ipa> for GuestTlb<P> {
    fn publish(&self) {
        // No ISB: the guest is entered by an exception return.
        self.port.issue(Op::DsbIshst);
    }

    fn invalidate(&self, range: AddrRange<Ipa>, stale: Stale) {
        let issue = |tlbi| self.port.issue(Op::Tlbi(tlbi));
        let hint = |level| self.features.ttl.then_some(level);
        self.under_vmid(|| match stale {
            Stale::Leaves(level) => match steps(range, self.granule, level) {
                Some(_) => self.by_ipa(|| {
                    steps(range, self.granule, level)
                        .into_iter()
                        .flatten()
                        .for_each(|ipa| {
                            issue(Tlbi::Ipas2le1is(operand(ipa, self.granule, hint(level))));
                        });
                }),
                None => self.complete(|| issue(Tlbi::Vmalls12e1is)),
            },
            Stale::Table(_) => self.by_ipa(|| {
                issue(Tlbi::Ipas2e1is(operand(range.first(), self.granule, None)));
            }),
            Stale::Subtree(_) => self.complete(|| issue(Tlbi::Vmalls12e1is)),
        });
    }
}
