// SPDX-License-Identifier: GPL-2.0-only

//! Common: how stage 2 keeps up with memory that the kernel takes away, and with slots that change: who does what in which order.
//!
//! Three may meet, each of which takes the lock of stage 2 for single steps only:
//!
//! - a fault looks the slot up, then the memory behind it, then maps that, unless [`Invalidations::is_stale`];
//! - the kernel takes memory away: an invalidation begins, what slots map of it is unmapped, the memory is used for something
//!   else, the invalidation ends ([`for_each_part`] finds the slots);
//! - a slot goes or moves ([`change_slot`]).
//!
//! Whatever the order of their steps, no memory that was taken away is mapped. The tests try all of them.
//!
//! Source: `include/linux/mmu_notifier.h` of Linux; behaviour as `virt/kvm/kvm_main.c`.

use super::slots::{
    GfnRange,
    Place, //
};

/// Under the lock of stage 2.
#[derive(Debug, Default)]
pub struct Invalidations {
    /// Those that have begun and not ended.
    under_way: u32,
    /// The user addresses that these are about, all together: from the first to before the second.
    range: (u64, u64),
    /// Changes when an invalidation of memory of a slot has ended, and when the slots have changed.
    sequence: u64,
}

impl Invalidations {
    /// None so far.
    pub const fn new() -> Self {
        Self {
            under_way: 0,
            range: (0, 0),
            sequence: 0,
        }
    }

    /// For [`Self::is_stale`].
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether what was found out since [`Self::sequence`] was `sequence`, about the user addresses from `start` to before
    /// `end`, may not hold any more.
    pub const fn is_stale(&self, sequence: u64, start: u64, end: u64) -> bool {
        let (first, last) = self.range;
        self.sequence != sequence || (self.under_way != 0 && first < end && start < last)
    }

    /// The slots change. What faults have found out without the lock no longer holds.
    pub fn slots_change(&mut self) {
        self.sequence = self.sequence.wrapping_add(1);
    }

    /// The user memory from `start` to before `end` begins to change.
    pub fn begin(&mut self, start: u64, end: u64) {
        let (first, last) = self.range;
        self.range = match self.under_way {
            0 => (start, end),
            _ => (first.min(start), last.max(end)),
        };
        self.under_way = self.under_way.wrapping_add(1);
    }

    /// It has changed. `of_slot`: a slot has some of it, so what a fault has found of it before is stale from here on; a slot that
    /// was there before, or comes later, has changed the sequence itself.
    pub fn end(&mut self, of_slot: bool) {
        self.under_way = self.under_way.saturating_sub(1);
        if of_slot {
            self.sequence = self.sequence.wrapping_add(1);
        }
    }
}

/// Stage 2 and its lock. Each call takes the lock and releases it.
pub trait Locking {
    /// The slots by address.
    type Slots;

    /// [`Invalidations::begin`].
    fn begin(&self, start: u64, end: u64);

    /// Unmaps `gfns`, piece by piece.
    fn unmap(&self, gfns: GfnRange);

    /// Changes the slots, then [`Invalidations::end`].
    fn change_and_end<T>(
        &self,
        start: u64,
        end: u64,
        change: impl FnOnce(&mut Self::Slots) -> T,
    ) -> T;

    /// The first pages that are memory between the user addresses `start` and `end`, of slots that begin at page `from` or
    /// above, and the page that the slot ends before.
    fn part(&self, from: u64, start: u64, end: u64) -> Option<(GfnRange, u64)>;
}

/// Changes the slots at a moment at which nothing of the one at `old` is mapped.
///
/// Until then whoever takes memory away finds the slot: memory is not left mapped for want of a slot. That nothing is mapped
/// meanwhile is as for a change by the kernel.
pub fn change_slot<L: Locking, T>(
    stage2: &L,
    old: &Place,
    change: impl FnOnce(&mut L::Slots) -> T,
) -> T {
    let (start, end) = (old.user, old.user_end());
    stage2.begin(start, end);
    stage2.unmap(old.gfns);
    stage2.change_and_end(start, end, change)
}

/// Calls `function` for each part of a slot between the user addresses `start` and `end`. The lock is released between calls:
/// a slot that comes meanwhile has nothing mapped that is older than the invalidation.
pub fn for_each_part<L: Locking>(
    stage2: &L,
    start: u64,
    end: u64,
    mut function: impl FnMut(GfnRange),
) {
    let mut from = 0;
    while let Some((gfns, slot_end)) = stage2.part(from, start, end) {
        from = slot_end;
        function(gfns);
    }
}

#[cfg(test)]
mod tests;
