// SPDX-License-Identifier: GPL-2.0-only

//! Invalidations, barriers and context synchronization: what takes entries out of the set again.

use std::collections::BTreeSet;

use super::{
    descriptor::{
        Entry,
        Stage, //
    },
    ghost::{
        Ghost,
        GhostId,
        Pending, //
    },
    memory::PAGE_BYTES,
    types::{
        CpuMask,
        Domain,
        Kind,
        Tlbi, //
    },
    violation::Checked,
    System, //
};

/// Which regime an invalidation is for.
#[derive(Clone, Copy)]
enum Regime {
    Hyp,
    /// EL1&0: of this VMID, or of all.
    Guest(Option<u16>),
}

/// An address with its level hint.
#[derive(Clone, Copy)]
struct Place {
    address: u64,
    /// TTL: granule (1 to 3) and level; `None` if the operand has none.
    hint: Option<(u64, i8)>,
}

/// What an invalidation asks for.
#[derive(Clone, Copy)]
struct Reach {
    regime: Regime,
    place: Option<Place>,
    /// Tables too.
    tables: bool,
    /// Entries of the stage itself.
    entries: bool,
    /// Combinations of both stages.
    combined: bool,
}

impl Place {
    fn of(operand: u64) -> Self {
        let ttl = (operand >> 44) & 0xf;
        Self {
            address: (operand & ((1 << 44) - 1)) << 12,
            hint: (ttl >> 2 != 0).then_some((ttl >> 2, (ttl & 3) as i8)),
        }
    }

    /// The largest granule that the address is in.
    fn granule_around(&self) -> (u64, u64) {
        let below = (1 << 16) - 1;
        (self.address & !below, self.address | below)
    }

    /// Whether an entry is one that hardware has to look for.
    fn finds(&self, ghost: &Ghost, granule_shift: u32) -> bool {
        // Only bits from the granule up count.
        let address = self.address >> granule_shift << granule_shift;
        let hinted = self.hint.is_none_or(|(granule, level)| {
            let granule = [0, 12, 14, 16][granule as usize];
            let leaf = !matches!(ghost.entry, Entry::Table(_));
            leaf && granule == granule_shift && level == ghost.level
        });
        hinted && ghost.first <= address && address <= ghost.last
    }
}

impl Reach {
    fn of(tlbi: Tlbi, vmid: Option<u16>) -> Self {
        let all = |regime| Self {
            regime,
            place: None,
            tables: true,
            entries: true,
            combined: true,
        };
        let guest = Regime::Guest(vmid);
        let at = |regime, operand, tables| Self {
            place: Some(Place::of(operand)),
            tables,
            ..all(regime)
        };
        match tlbi {
            Tlbi::Alle2 { .. } => all(Regime::Hyp),
            Tlbi::Vae2 { operand, .. } => at(Regime::Hyp, operand, true),
            Tlbi::Vale2 { operand, .. } => at(Regime::Hyp, operand, false),
            Tlbi::Alle1 { .. } => all(Regime::Guest(None)),
            Tlbi::Vmalls12e1 { .. } => all(guest),
            Tlbi::Vmalle1 { .. } => Self {
                entries: false,
                ..all(guest)
            },
            Tlbi::Ipas2e1 { operand, .. } => Self {
                combined: false,
                ..at(guest, operand, true)
            },
            Tlbi::Ipas2le1 { operand, .. } => Self {
                combined: false,
                ..at(guest, operand, false)
            },
        }
    }
}

impl System {
    /// Issues an invalidation on `cpu`, which is at a level that may.
    pub(super) fn issue_tlbi(&mut self, cpu: usize, tlbi: Tlbi) {
        let vmid = self.cpus[cpu].vmid();
        let by_vmid = !matches!(
            tlbi,
            Tlbi::Alle1 { .. } | Tlbi::Alle2 { .. } | Tlbi::Vae2 { .. } | Tlbi::Vale2 { .. }
        );
        if by_vmid && vmid.is_none() {
            return;
        }
        let reach = Reach::of(tlbi, vmid);
        let (first, last) = match reach.place {
            Some(place) => place.granule_around(),
            None => (0, u64::MAX),
        };
        let found: BTreeSet<GhostId> = self
            .ghosts
            .overlapping(first, last)
            .filter(|(_, ghost)| self.finds(&reach, ghost))
            .map(|(id, _)| id)
            .collect();
        let everywhere = tlbi.is_broadcast();
        let cpus: CpuMask = if everywhere { CpuMask::MAX } else { 1 << cpu };
        let mut orders = Vec::new();
        for id in &found {
            let Some(ghost) = self.ghosts.get(*id) else {
                continue;
            };
            let from_table = ghost
                .parent
                .filter(|parent| !found.contains(parent) && self.is_in_memory(ghost))
                .and_then(|parent| self.ghosts.get(parent))
                .map_or(0, |parent| parent.cached);
            let entries = if reach.entries { cpus & !from_table } else { 0 };
            // A combination comes back for as long as its part of stage 2 is there.
            let keeps = if reach.entries {
                from_table
            } else {
                ghost.cached
            };
            let combined = if reach.combined { cpus & !keeps } else { 0 };
            let (entries, combined) = (entries & ghost.cached, combined & ghost.combined);
            if entries | combined != 0 {
                orders.push((*id, entries, combined));
            }
        }
        for (id, cached, combined) in orders {
            self.ghosts.edit(id, |ghost| {
                ghost.pending.push(Pending {
                    issuer: cpu,
                    broadcast: everywhere,
                    cached,
                    combined,
                    again: ghost.once,
                });
            });
        }
    }

    /// Whether a walk that comes to the descriptor of a ghost may still find it there.
    fn is_in_memory(&self, ghost: &Ghost) -> bool {
        let Some(slot) = ghost.slot else {
            return true;
        };
        let format = &self.roots.get(ghost.root).format;
        format.decode(ghost.level, self.memory.read(slot)) == ghost.entry
            || self.ghosts.at(slot).any(|other| other.hidden_by != 0)
    }

    fn finds(&self, reach: &Reach, ghost: &Ghost) -> bool {
        let format = &self.roots.get(ghost.root).format;
        let regime = match (reach.regime, format.stage) {
            (Regime::Hyp, Stage::Hyp) => true,
            (Regime::Guest(None), Stage::Guest { .. }) => true,
            // Entries of a foreign owner may have any VMID: only ALLE1 is for all of them.
            (Regime::Guest(Some(vmid)), Stage::Guest { vmid: of }) => {
                vmid == of && ghost.slot.is_some()
            }
            _ => false,
        };
        regime
            && ghost.hidden_by == 0
            && (reach.tables || !matches!(ghost.entry, Entry::Table(_)))
            && reach
                .place
                .is_none_or(|place| place.finds(ghost, format.granule_shift))
    }

    /// DSB on `cpu`.
    pub(super) fn complete(&mut self, cpu: usize, domain: Domain, kind: Kind) -> Checked<()> {
        if kind != Kind::Loads {
            self.publish(cpu, domain);
        }
        if kind != Kind::Full {
            return Ok(());
        }
        let bit: CpuMask = 1 << cpu;
        self.cpus[cpu].loads_ahead &= domain < Domain::Ish;
        // Walks that began at EL1 are done, and no new one begins at EL2 (R_LFHQG).
        self.cpus[cpu].walks_of_el1 = false;
        let result = self.update_roots(cpu);
        let repeat = self.repeat_tlbi;
        for id in self.ghosts.busy() {
            self.ghosts
                .edit(id, |ghost| finish(ghost, cpu, domain, repeat));
        }
        for clean in core::mem::take(&mut self.cpus[cpu].cleans) {
            self.memory.complete_clean(clean, domain);
        }
        for (flush, is) in core::mem::take(&mut self.cpus[cpu].flushes) {
            if is && domain >= Domain::Ish {
                self.memory.complete_flush(&flush, CpuMask::MAX & !bit);
            }
            // What this CPU has fetched ahead goes with its next context synchronization event.
            self.cpus[cpu].flushed.push(flush);
        }
        result
    }

    /// The stores of `cpu` become visible to the walkers.
    fn publish(&mut self, cpu: usize, domain: Domain) {
        let bit: CpuMask = 1 << cpu;
        for id in self.ghosts.busy() {
            let Some(ghost) = self.ghosts.get(id) else {
                continue;
            };
            // A Non-shareable DSB does where no other CPU walks.
            let walkers = self.roots.cpus(ghost.root);
            let alone = (walkers | ghost.cached | ghost.combined | ghost.hidden_by) & !bit == 0;
            if ghost.hidden_by & bit == 0 || domain < Domain::Ish && !alone {
                continue;
            }
            // A guest is entered by an exception return, which is a context synchronization event.
            let sync = self.is_hyp(ghost.root) && !ghost.entry.is_valid();
            self.ghosts.edit(id, |ghost| {
                if sync {
                    ghost.unsynced |= ghost.hidden_by;
                }
                ghost.hidden_by = 0;
            });
        }
        if domain >= Domain::Ish {
            let pages = core::mem::take(&mut self.cpus[cpu].unpublished);
            if self.idc {
                pages
                    .iter()
                    .for_each(|page| self.memory.unify(page * PAGE_BYTES));
            }
        }
    }

    /// A context synchronization event on `cpu`.
    pub(super) fn synchronise(&mut self, cpu: usize) -> Checked<()> {
        self.cpus[cpu].forget_old_values();
        let result = self.update_roots(cpu);
        for id in self.ghosts.busy() {
            self.ghosts.edit(id, |ghost| ghost.unsynced &= !(1 << cpu));
        }
        for flush in core::mem::take(&mut self.cpus[cpu].flushed) {
            self.memory.complete_flush(&flush, 1 << cpu);
        }
        result
    }
}

/// Completes the invalidations of `ghost` that `cpu` has issued, by a DSB of `domain`.
fn finish(ghost: &mut Ghost, cpu: usize, domain: Domain, repeat: bool) {
    let bit: CpuMask = 1 << cpu;
    for pending in core::mem::take(&mut ghost.pending) {
        if pending.issuer != cpu {
            ghost.pending.push(pending);
            continue;
        }
        let reach = if pending.broadcast && domain < Domain::Ish {
            // Waits for this CPU alone.
            bit
        } else {
            CpuMask::MAX
        };
        let (mut cached, mut combined) = (pending.cached & reach, pending.combined & reach);
        if repeat && pending.broadcast {
            ghost.once.0 |= cached;
            ghost.once.1 |= combined;
            cached &= pending.again.0;
            combined &= pending.again.1;
        }
        let had_it = ghost.cached | ghost.combined;
        ghost.cached &= !cached;
        ghost.combined &= !combined;
        ghost.unsynced |= had_it & bit;
    }
}
