// SPDX-License-Identifier: GPL-2.0-only

//! Host: the stage 2 of a VM with its lock held, and what is done to the tables then.

use kernel::{
    prelude::*,
    sync::{
        lock::{
            spinlock::SpinLockBackend,
            Guard, //
        },
        Arc, //
    },
};

use super::{
    slots::{
        Slot,
        SlotMap, //
    },
    stage2::{
        to_errno,
        Stage2,
        PIECE_PAGES, //
    },
    stage2_memory::{
        KernelTables,
        Reserve, //
    },
    stage2_ranges::{
        pieces_of,
        Runs, //
    },
};
use crate::{
    arch::el1,
    common::{
        addr::{
            AddrRange,
            Ipa,
            PhysAddr, //
        },
        invalidation::Invalidations,
        pgtable::{
            self,
            Blocks,
            Env,
            GuestAttrs,
            Level,
            Maintenance,
            PageTable,
            Stage2 as Format,
            Stale, //
        },
        slots::GfnRange,
    },
};

/// What the lock protects.
pub(super) struct Mmu {
    /// `Some` until dropped.
    table: Option<PageTable<Format>>,
    reserve: Reserve,
    slots: SlotMap,
    invalidations: Invalidations,
}

impl Mmu {
    /// No slots, and what `table` has.
    pub(super) fn new(table: PageTable<Format>) -> Self {
        Self {
            table: Some(table),
            reserve: Reserve::new(),
            slots: SlotMap::new(),
            invalidations: Invalidations::new(),
        }
    }
}

/// Keeps the TLBs in step, by calls of EL2.
struct GuestTlbs<'a> {
    stage2: &'a Stage2,
    /// Leaves only get permissions, or are made accessible, in addition. What a TLB has of the old ones is then no danger:
    /// another CPU faults once more, and this one forgets it at its next entry (`VcpuState::relaxed`). So there is no broadcast.
    relaxing: bool,
}

impl GuestTlbs<'_> {
    /// The same, for leaves that only get permissions in addition.
    fn relaxing(&self) -> Self {
        Self {
            stage2: self.stage2,
            relaxing: true,
        }
    }
}

impl Maintenance<Ipa> for GuestTlbs<'_> {
    fn publish(&self) {
        el1::publish_tables();
    }

    fn invalidate(&self, range: AddrRange<Ipa>, stale: Stale) {
        if self.relaxing {
            return self.publish();
        }
        self.stage2.forget(range, stale);
    }
}

/// What a fault found, to be mapped.
#[derive(Clone, Copy)]
pub(super) struct Target {
    /// The guest's pages, one page or one block.
    pub(super) gfns: GfnRange,
    /// Where they are.
    pub(super) pa: PhysAddr,
    /// What the guest may do.
    pub(super) attrs: GuestAttrs,
}

/// The lock, held.
pub(super) struct Locked<'a> {
    stage2: &'a Stage2,
    mmu: Guard<'a, Mmu, SpinLockBackend>,
}

impl<'a> Locked<'a> {
    /// `mmu` is the lock of `stage2`.
    pub(super) fn new(stage2: &'a Stage2, mmu: Guard<'a, Mmu, SpinLockBackend>) -> Self {
        Self { stage2, mmu }
    }

    /// The slots by address.
    pub(super) fn slots(&self) -> &SlotMap {
        &self.mmu.slots
    }

    /// Changes the slots. What faults have found out without the lock no longer holds.
    pub(super) fn change_slots<T>(&mut self, change: impl FnOnce(&mut SlotMap) -> T) -> T {
        self.mmu.invalidations.slots_change();
        change(&mut self.mmu.slots)
    }

    /// The slot that has page `gfn`, and a number for [`Self::is_stale`].
    pub(super) fn find(&self, gfn: u64) -> Option<(Arc<Slot>, u64)> {
        let slot = self.mmu.slots.find(gfn)?.clone();
        Some((slot, self.mmu.invalidations.sequence()))
    }

    /// Whether what was found out since [`Self::find`] gave `sequence`, about the user addresses from `start` to before
    /// `end`, may not hold any more.
    pub(super) fn is_stale(&self, sequence: u64, start: u64, end: u64) -> bool {
        self.mmu.invalidations.is_stale(sequence, start, end)
    }

    /// The user memory from `start` to before `end` is about to change.
    pub(super) fn begin_invalidation(&mut self, start: u64, end: u64) {
        self.mmu.invalidations.begin(start, end);
    }

    /// The user memory from `start` to before `end` has changed.
    pub(super) fn end_invalidation(&mut self, start: u64, end: u64) {
        let of_slot = self.mmu.slots.in_user_range(0, start, end).is_some();
        self.mmu.invalidations.end(of_slot);
    }

    /// The tables, of which nothing is used from here on.
    pub(super) fn take_table(&mut self) -> Option<PageTable<Format>> {
        self.mmu.table.take()
    }

    /// The tables, and what it takes to work on them.
    fn with<T>(
        &mut self,
        work: impl FnOnce(&mut PageTable<Format>, &Env<'_, KernelTables<'_>, GuestTlbs<'_>>) -> T,
    ) -> Option<T> {
        let mmu = &mut *self.mmu;
        let memory = KernelTables::reserved(&mut mmu.reserve, self.stage2.used());
        let tlb = GuestTlbs {
            stage2: self.stage2,
            relaxing: false,
        };
        Some(work(mmu.table.as_mut()?, &Env::new(&memory, &tlb)))
    }

    /// Whether all pages of `target` are mapped to its memory already.
    pub(super) fn maps(&mut self, target: &Target) -> bool {
        let Some(range) = self.stage2.range(target.gfns) else {
            return false;
        };
        self.with(|table, env| table.leads_to(env.memory, range, target.pa)) == Some(Ok(true))
    }

    /// Gives the reserve what `pages` has.
    pub(super) fn refill(&mut self, pages: Reserve) {
        self.mmu.reserve.add(pages);
    }

    /// Unmaps `gfns`, at most a piece; blocks that extend beyond go whole. The host reads there what the guest has written, as soon
    /// as the lock is released: the memory may be copied and freed then.
    pub(super) fn unmap(&mut self, gfns: GfnRange) {
        let Some(range) = self.stage2.range(gfns) else {
            return;
        };
        let stage2 = self.stage2;
        let result = self.with(|table, env| {
            table.reclaim(env, range, |pa, bytes| {
                // SAFETY: RAM that was mapped a moment ago: who takes it away waits for the lock first.
                unsafe { stage2.system().clean(pa, bytes) };
            })
        });
        report(result);
    }

    /// Makes what is mapped of `gfns`, at most a piece, read-only.
    pub(super) fn write_protect(&mut self, gfns: GfnRange) {
        let read_only = |attrs| GuestAttrs {
            write: false,
            ..attrs
        };
        self.change(gfns, |attrs| attrs.write, read_only);
    }

    /// Clears the access flag of what is mapped of `gfns`, and returns whether any was set.
    pub(super) fn age(&mut self, gfns: GfnRange) -> bool {
        let old = |attrs| GuestAttrs {
            accessed: false,
            ..attrs
        };
        pieces_of(gfns, PIECE_PAGES).fold(false, |young, piece| {
            self.change(piece, |attrs| attrs.accessed, old) || young
        })
    }

    /// Whether the access flag of anything mapped of `gfns` is set.
    pub(super) fn is_young(&mut self, gfns: GfnRange) -> bool {
        self.has(gfns, |attrs| attrs.accessed)
    }

    /// Whether anything of `gfns` is mapped.
    pub(super) fn has_any(&mut self, gfns: GfnRange) -> bool {
        self.has(gfns, |_| true)
    }

    /// Whether `wanted` holds for anything mapped of `gfns`.
    fn has(&mut self, gfns: GfnRange, wanted: impl Fn(GuestAttrs) -> bool) -> bool {
        let Some(range) = self.stage2.range(gfns) else {
            return false;
        };
        let mut found = false;
        let result = self.with(|table, env| {
            table.visit_while(env.memory, range, |leaf| {
                found = wanted(leaf.attrs);
                !found
            })
        });
        report(result);
        found
    }

    /// Changes all leaves that have pages of `gfns` and that `wanted` holds for; blocks that extend beyond are changed whole.
    /// Returns whether there were any.
    fn change(
        &mut self,
        gfns: GfnRange,
        wanted: impl Fn(GuestAttrs) -> bool,
        new: impl Fn(GuestAttrs) -> GuestAttrs,
    ) -> bool {
        let Some(range) = self.stage2.range(gfns) else {
            return false;
        };
        let mut any = false;
        let result = self.with(|table, env| {
            let mut rest = Some(range);
            while let Some(part) = rest {
                let mut runs = Runs::new();
                table.visit_while(env.memory, part, |leaf| {
                    if wanted(leaf.attrs) {
                        runs.add(leaf.range);
                    }
                    runs.rest.is_none()
                })?;
                for run in runs.found() {
                    any = true;
                    table.protect(env, *run, |attrs| {
                        Some(if wanted(attrs) { new(attrs) } else { attrs })
                    })?;
                }
                rest = runs
                    .rest
                    .and_then(|first| AddrRange::from_bounds(first, range.last()));
            }
            Ok(())
        });
        report(result);
        any
    }

    /// Sets the access flag of the leaf that has page `gfn`, if there is one.
    pub(super) fn mark_young(&mut self, gfn: u64) {
        let Some(range) = GfnRange::new(gfn, 1).and_then(|gfns| self.stage2.range(gfns)) else {
            return;
        };
        let young = |attrs| {
            Some(GuestAttrs {
                accessed: true,
                ..attrs
            })
        };
        let result = self.with(
            |table, env| match table.lookup(env.memory, range.first())? {
                Some(leaf) => table.protect(
                    &Env::new(env.memory, &env.tlb.relaxing()),
                    leaf.range,
                    young,
                ),
                None => Ok(()),
            },
        );
        report(result);
    }

    /// Maps `target`. What is mapped there already, to the same memory, keeps its permissions and gets those of `target` in
    /// addition.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if the reserve is empty: the caller gives it some and tries again.
    pub(super) fn map(&mut self, target: &Target) -> Result {
        let range = self.stage2.range(target.gfns).ok_or(EFAULT)?;
        self.with(|table, env| map(table, env, range, target))
            .ok_or(EIO)?
            .map_err(to_errno)
    }

    /// Calls `leaf` for all that is mapped, leaves that continue each other together.
    pub(super) fn runs(&mut self, run: impl FnMut(pgtable::Mapping<Format>)) {
        let result = self.with(|table, env| table.runs(env.memory, run));
        report(result);
    }

    /// The memory that is mapped in `gfns`, and no more, as (first byte, bytes).
    pub(super) fn mapped(&mut self, gfns: GfnRange, mut found: impl FnMut(PhysAddr, u64)) {
        let Some(range) = self.stage2.range(gfns) else {
            return;
        };
        let result = self.with(|table, env| {
            table.visit(env.memory, range, |leaf| {
                let part = leaf.range.intersection(&range);
                let normal = leaf.attrs.memory == pgtable::GuestMemory::Normal;
                if let Some(part) = part.filter(|_| normal) {
                    if let Some(pa) = leaf.translate(part.first()) {
                        found(pa, part.size_bytes());
                    }
                }
            })
        });
        report(result);
    }
}

/// See [`Locked::map`].
fn map(
    table: &mut PageTable<Format>,
    env: &Env<'_, KernelTables<'_>, GuestTlbs<'_>>,
    range: AddrRange<Ipa>,
    target: &Target,
) -> Result<(), pgtable::Error> {
    let one_page = target.gfns.count() == 1;
    let blocks = if one_page {
        Blocks::PagesOnly
    } else {
        Blocks::Allowed
    };
    // Under the exclusive lock it finds the same as `map` would, with one walk.
    match table.map_concurrent(env, range, target.pa, target.attrs, blocks) {
        Err(pgtable::Error::BreakBeforeMake) => {}
        result => return result,
    }
    let merge = |old: GuestAttrs| {
        Some(GuestAttrs {
            write: old.write || target.attrs.write,
            execute: if old.execute == pgtable::GuestExecute::All {
                old.execute
            } else {
                target.attrs.execute
            },
            accessed: true,
            ..old
        })
    };
    match table.lookup(env.memory, range.first())? {
        Some(leaf) if leaf.translate(range.first()) == Some(target.pa) => {
            if leaf.range.contains_range(&range) {
                if leaf.range != range {
                    // A block of which single pages are to be logged.
                    table.split(env, range, Level::L3)?;
                }
                return table.protect(&Env::new(env.memory, &env.tlb.relaxing()), range, merge);
            }
        }
        _ => {}
    }
    // Pages where a block is to be, or something else altogether. Nothing is cleaned: the block has the pages' memory, and other
    // memory cannot be there, as what the maker's process does not have there any more was unmapped when it was taken away.
    table.unmap(env, range)?;
    table.map(env, range, target.pa, target.attrs, blocks)
}

/// Tells of an error that there is no remedy for: tables are as only we write them.
fn report<T>(result: Option<Result<T, pgtable::Error>>) {
    if let Some(Err(error)) = result {
        pr_err!("stage 2: {}; please report this\n", format_args!("{error}"));
    }
}
