// SPDX-License-Identifier: GPL-2.0-only

//! Ghosts: entries that a TLB or a walk may use although the tables no longer say so, or do not say so for sure yet.
//!
//! A ghost is born when a descriptor changes, when a table is cut off, or when a CPU stops to use a root. It goes by
//! maintenance only:
//!
//! 1. As long as the store that made it is not visible to the walkers (`hidden_by`), any walk may find it in memory
//!    again, and no invalidation helps. A DSB of the CPU that stored it ends that.
//! 2. A TLBI that is issued then applies to it, unless a ghost of the table that led to it is still cached: a walk
//!    could come by it that way.
//! 3. The DSB that completes the TLBI takes it out of the TLBs.
//! 4. The CPU that did all this may have used it ahead, until a context synchronization event.

use std::collections::{
    BTreeMap,
    BTreeSet, //
};

use super::{
    descriptor::Entry,
    roots::RootId,
    types::CpuMask, //
};

/// Number of a ghost.
pub(super) type GhostId = u64;

/// An invalidation that was issued and is not complete.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub(super) issuer: usize,
    pub(super) broadcast: bool,
    /// CPUs whose copies of the entry itself go.
    pub(super) cached: CpuMask,
    /// CPUs whose combinations with stage 1 go.
    pub(super) combined: CpuMask,
    /// What was invalidated once when it was issued, on CPUs with the erratum that asks for twice.
    pub(super) again: (CpuMask, CpuMask),
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Ghost {
    pub(super) root: RootId,
    pub(super) level: i8,
    pub(super) first: u64,
    pub(super) last: u64,
    /// The descriptor that it was; `None` for what was never in a table that we know.
    pub(super) slot: Option<u64>,
    pub(super) entry: Entry,
    /// CPUs that may have it in a TLB (stage 2: as an entry of stage 2 alone).
    pub(super) cached: CpuMask,
    /// CPUs that may have combined it with stage 1.
    pub(super) combined: CpuMask,
    /// CPUs of which a DSB makes the new descriptor visible to the walkers; none if it is.
    pub(super) hidden_by: CpuMask,
    /// CPUs that need a context synchronization event.
    pub(super) unsynced: CpuMask,
    /// The ghost of the table that leads to it.
    pub(super) parent: Option<GhostId>,
    pub(super) pending: Vec<Pending>,
    /// What was invalidated once, on CPUs with the erratum that asks for twice.
    pub(super) once: (CpuMask, CpuMask),
    /// Number of the event that made it.
    pub(super) born: usize,
}

impl Ghost {
    /// Whether a TLB may still hold it, or a walk find it.
    pub(super) fn is_cached(&self) -> bool {
        self.entry.is_valid() && (self.cached | self.combined | self.hidden_by) != 0
    }

    /// Whether it waits for a barrier.
    fn is_busy(&self) -> bool {
        self.hidden_by | self.unsynced != 0 || !self.pending.is_empty()
    }

    /// Whether nothing is left of it.
    fn is_gone(&self) -> bool {
        self.cached | self.combined | self.hidden_by | self.unsynced == 0
    }
}

/// All ghosts.
#[derive(Clone, Default)]
pub(super) struct Ghosts {
    next: GhostId,
    all: BTreeMap<GhostId, Ghost>,
    /// By the first address.
    places: BTreeSet<(u64, GhostId)>,
    /// How many there are of each size, given as `last - first`, which is one less than a power of two.
    sizes: BTreeMap<u64, usize>,
    /// By the descriptor that they were.
    slots: BTreeSet<(u64, GhostId)>,
    /// Those that are tables.
    tables: BTreeSet<GhostId>,
    /// Those for which a barrier can do something.
    busy: BTreeSet<GhostId>,
}

impl Ghosts {
    pub(super) fn add(&mut self, ghost: Ghost) -> GhostId {
        self.next += 1;
        let id = self.next;
        self.places.insert((ghost.first, id));
        *self.sizes.entry(ghost.last - ghost.first).or_default() += 1;
        if let Some(slot) = ghost.slot {
            self.slots.insert((slot, id));
        }
        if matches!(ghost.entry, Entry::Table(_)) {
            self.tables.insert(id);
        }
        if ghost.is_busy() {
            self.busy.insert(id);
        }
        self.all.insert(id, ghost);
        id
    }

    /// Lets the CPUs of `ghost` have what others have already, or adds it.
    pub(super) fn merge(&mut self, ghost: Ghost) -> GhostId {
        let slot = ghost.slot.unwrap_or(0);
        for (_, id) in self.slots.range((slot, 0)..=(slot, GhostId::MAX)) {
            let same = |known: &&mut Ghost| {
                known.root == ghost.root
                    && known.first == ghost.first
                    && known.entry == ghost.entry
                    && known.hidden_by == ghost.hidden_by
                    && known.pending.is_empty()
            };
            if let Some(known) = self.all.get_mut(id).filter(same) {
                known.cached |= ghost.cached;
                known.combined |= ghost.combined;
                known.parent = ghost.parent;
                return *id;
            }
        }
        self.add(ghost)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn get(&self, id: GhostId) -> Option<&Ghost> {
        self.all.get(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (GhostId, &Ghost)> {
        self.all.iter().map(|(id, ghost)| (*id, ghost))
    }

    /// Those that translate an address from `first` to `last`.
    pub(super) fn overlapping(
        &self,
        first: u64,
        last: u64,
    ) -> impl Iterator<Item = (GhostId, &Ghost)> {
        let inside = self.places.range((first, 0)..=(last, GhostId::MAX));
        // Those that start before the range: one place for each size.
        let around = self.sizes.keys().flat_map(move |size| {
            let base = first & !size;
            let end = if base < first { GhostId::MAX } else { 0 };
            self.places.range((base, 0)..=(base, end))
        });
        inside
            .chain(around)
            .filter_map(|(_, id)| self.all.get(id).map(|ghost| (*id, ghost)))
            .filter(move |(_, ghost)| ghost.last >= first)
    }

    /// Those that are tables.
    pub(super) fn tables(&self) -> impl Iterator<Item = (GhostId, &Ghost)> {
        self.tables
            .iter()
            .filter_map(|id| self.all.get(id).map(|ghost| (*id, ghost)))
    }

    /// Those that were the descriptor at `slot`.
    pub(super) fn at(&self, slot: u64) -> impl Iterator<Item = &Ghost> {
        self.slots
            .range((slot, 0)..=(slot, GhostId::MAX))
            .filter_map(|(_, id)| self.all.get(id))
    }

    /// `cpu` has seen the newest value at `slot`.
    pub(super) fn observe(&mut self, slot: u64, cpu: usize) {
        for (_, id) in self.slots.range((slot, 0)..=(slot, GhostId::MAX)) {
            if let Some(ghost) = self.all.get_mut(id) {
                if ghost.hidden_by != 0 {
                    ghost.hidden_by |= 1 << cpu;
                }
            }
        }
    }

    /// Those for which a barrier can do something.
    pub(super) fn busy(&self) -> Vec<GhostId> {
        self.busy.iter().copied().collect()
    }

    /// Changes a ghost, and forgets it if nothing is left of it.
    pub(super) fn edit(&mut self, id: GhostId, change: impl FnOnce(&mut Ghost)) {
        let Some(ghost) = self.all.get_mut(&id) else {
            return;
        };
        change(ghost);
        if ghost.is_busy() {
            self.busy.insert(id);
        } else {
            self.busy.remove(&id);
        }
        if ghost.is_gone() {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: GhostId) {
        let Some(ghost) = self.all.remove(&id) else {
            return;
        };
        self.places.remove(&(ghost.first, id));
        self.tables.remove(&id);
        self.busy.remove(&id);
        if let Some(slot) = ghost.slot {
            self.slots.remove(&(slot, id));
        }
        let size = ghost.last - ghost.first;
        if let Some(count) = self.sizes.get_mut(&size) {
            *count -= 1;
            if *count == 0 {
                self.sizes.remove(&size);
            }
        }
    }
}
