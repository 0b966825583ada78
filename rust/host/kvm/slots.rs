// SPDX-License-Identifier: GPL-2.0-only

//! Host: memory slots: which part of a guest's memory is which part of its maker's.
//!
//! A [`Slot`] never changes, but for its log of dirty pages; a change of a slot puts another one in its place. All slots
//! are kept twice: by number, under the mutex that the ioctls take, and by address, under the lock of stage 2, where faults and
//! notifiers look them up. A fault takes a reference and looks, when it maps, whether the slots are still the same: that is
//! cheaper than to keep changes waiting, and a change is complete when the lock is released. No fault is waited for. A
//! write of ours into the guest's memory takes the mutex.

use kernel::{
    prelude::*,
    sync::Arc, //
};

use super::dirty::DirtyLog;
use crate::{
    bindings,
    common::slots::{
        GfnRange,
        Place, //
    },
    host::inject,
};

/// Number of slots that user space can have, as KVM_CAP_NR_MEMSLOTS says.
pub(super) const SLOTS_MAX: u32 = 32767;

/// See the module.
pub(crate) struct Slot {
    /// The number that user space gave it.
    pub(super) id: u16,
    /// Where it is, in the guest and in its maker's address space.
    pub(super) place: Place,
    /// `KVM_MEM_*`.
    pub(super) flags: u32,
    /// There if `KVM_MEM_LOG_DIRTY_PAGES` is.
    pub(super) dirty: Option<Arc<DirtyLog>>,
}

impl Slot {
    /// The guest's pages.
    pub(super) fn gfns(&self) -> GfnRange {
        self.place.gfns
    }

    /// Whether the guest may not write.
    pub(super) fn is_read_only(&self) -> bool {
        self.flags & bindings::KVM_MEM_READONLY != 0
    }
}

/// All slots by address. Under the lock of stage 2.
pub(crate) struct SlotMap {
    // INVARIANT: ascending by address, without overlaps.
    sorted: KVVec<Arc<Slot>>,
}

impl SlotMap {
    pub(super) const fn new() -> Self {
        Self {
            sorted: KVVec::new(),
        }
    }

    /// The slot that has the page `gfn`.
    pub(super) fn find(&self, gfn: u64) -> Option<&Arc<Slot>> {
        let place = self
            .sorted
            .partition_point(|slot| slot.gfns().first() <= gfn);
        let slot = self.sorted.get(place.checked_sub(1)?)?;
        slot.gfns().contains(gfn).then_some(slot)
    }

    /// The slots that begin at page `from` or above.
    pub(super) fn from(&self, from: u64) -> impl Iterator<Item = &Arc<Slot>> {
        let first = self
            .sorted
            .partition_point(|slot| slot.gfns().first() < from);
        self.sorted.iter().skip(first)
    }

    /// The first pages that are memory between the user addresses `start` and `end`, of slots that begin at page `from` or
    /// above, and the page that the slot ends before.
    pub(super) fn in_user_range(&self, from: u64, start: u64, end: u64) -> Option<(GfnRange, u64)> {
        self.from(from)
            .find_map(|slot| Some((slot.place.gfns_of(start, end)?, slot.gfns().end())))
    }

    /// Whether a slot other than number `id` has a page of `gfns`.
    pub(super) fn is_taken(&self, gfns: GfnRange, id: u16) -> bool {
        let first = self
            .sorted
            .partition_point(|slot| !slot.gfns().ends_after(gfns.first()));
        self.sorted
            .iter()
            .skip(first)
            .take_while(|slot| slot.gfns().overlaps(&gfns))
            .any(|slot| slot.id != id)
    }

    /// Whether one more slot needs room first, and for how many there should be room then.
    pub(super) fn wants_room(&self) -> Option<usize> {
        (self.sorted.len() == self.sorted.capacity())
            .then(|| (self.sorted.len() * 2).clamp(8, SLOTS_MAX as usize))
    }

    /// Moves everything over to `room`, which is empty and larger, and returns what was there.
    pub(super) fn give_room(&mut self, mut room: KVVec<Arc<Slot>>) -> KVVec<Arc<Slot>> {
        for slot in self.sorted.drain_all() {
            // There is room, so nothing is dropped.
            let _ = room.push_within_capacity(slot);
        }
        core::mem::replace(&mut self.sorted, room)
    }

    /// Adds a slot, whose pages are free.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if there is no room.
    pub(super) fn insert(&mut self, slot: Arc<Slot>) -> Result {
        let place = self
            .sorted
            .partition_point(|other| other.gfns().first() < slot.gfns().first());
        self.sorted
            .insert_within_capacity(place, slot)
            .map_err(|_| ENOMEM)?;
        Ok(())
    }

    /// Removes the slot that begins where `slot` does.
    pub(super) fn remove(&mut self, slot: &Slot) -> Option<Arc<Slot>> {
        let place = self.place_of(slot)?;
        self.sorted.remove(place).ok()
    }

    /// Puts `new` in the place of `old`, which has the same pages.
    pub(super) fn replace(&mut self, old: &Slot, new: Arc<Slot>) -> Option<Arc<Slot>> {
        let place = self.place_of(old)?;
        let entry = self.sorted.get_mut(place)?;
        Some(core::mem::replace(entry, new))
    }

    fn place_of(&self, slot: &Slot) -> Option<usize> {
        self.sorted
            .binary_search_by_key(&slot.gfns().first(), |other| other.gfns().first())
            .ok()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.sorted.len()
    }
}

/// All slots by number. Under the mutex of the ioctls.
pub(super) struct SlotTable {
    by_id: KVVec<Option<Arc<Slot>>>,
}

impl SlotTable {
    pub(super) const fn new() -> Self {
        Self {
            by_id: KVVec::new(),
        }
    }

    /// The slot with this number.
    pub(super) fn get(&self, id: u16) -> Option<&Arc<Slot>> {
        self.by_id.get(usize::from(id))?.as_ref()
    }

    /// Makes room for number `id`, so that [`Self::set`] of it cannot fail.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn reserve(&mut self, id: u16) -> Result {
        let missing = (usize::from(id) + 1).saturating_sub(self.by_id.len());
        if missing > 0 {
            let flags = inject::account("the table of slots")?;
            self.by_id.reserve(missing, flags)?;
            self.by_id.extend_with(missing, None, flags)?;
        }
        Ok(())
    }

    /// Sets or clears number `id`, for which there is room.
    pub(super) fn set(&mut self, id: u16, slot: Option<Arc<Slot>>) {
        if let Some(entry) = self.by_id.get_mut(usize::from(id)) {
            *entry = slot;
        }
    }
}
