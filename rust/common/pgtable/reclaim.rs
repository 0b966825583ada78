// SPDX-License-Identifier: GPL-2.0-only

//! Reclaiming: a guest's memory is unmapped, and what the guest has written to it is what its owner reads.
//!
//! Domain: common. Without FEAT_S2FWB a guest can write RAM past the caches, with its own caches off or by a mapping that is
//! Non-cacheable. The host maps the same RAM cacheable, so a CPU may have loaded lines of it by speculation before that: clean, and
//! older than the memory. They must be gone before the host reads, or it copies to swap or to another page what was there
//! before. That is after the TLBs have forgotten the leaf, as until then the guest writes on, and new lines are loaded.
//!
//! Source: Arm ARM DDI 0487 B2.8 (mismatched attributes); behaviour as `stage2_unmap_walker` of `arch/arm64/kvm/hyp/pgtable.c`.

use super::{
    error::Error,
    maintenance::Maintenance,
    memory::TableMemory,
    query::Mapping,
    stage2::{
        GuestMemory,
        Stage2, //
    },
    Env, PageTable,
};
use crate::common::addr::{
    AddrRange,
    Address,
    Ipa,
    PhysAddr, //
};

/// Runs of memory that are remembered until their leaves are gone.
const RUNS: usize = 32;

/// The cacheable memory of leaves, neighbours taken together, as much as there is room for.
struct Cacheable {
    /// First byte, and bytes.
    runs: [Option<(PhysAddr, u64)>; RUNS],
    count: usize,
    /// Where the first leaf is that there was no room for.
    rest: Option<Ipa>,
}

impl Cacheable {
    const fn new() -> Self {
        Self {
            runs: [None; RUNS],
            count: 0,
            rest: None,
        }
    }

    fn add(&mut self, leaf: &Mapping<Stage2>) {
        // What is a device is none of the kernel's RAM: it has no lines of it.
        if self.rest.is_some() || leaf.attrs.memory != GuestMemory::Normal {
            return;
        }
        let more = leaf.range.size_bytes();
        let last = self
            .count
            .checked_sub(1)
            .and_then(|last| self.runs.get_mut(last));
        if let Some(Some((first, bytes))) = last {
            if first.checked_add(*bytes) == Some(leaf.pa) {
                *bytes = bytes.wrapping_add(more);
                return;
            }
        }
        match self.runs.get_mut(self.count) {
            Some(place) => {
                *place = Some((leaf.pa, more));
                self.count = self.count.wrapping_add(1);
            }
            None => self.rest = Some(leaf.range.first()),
        }
    }
}

impl PageTable<Stage2> {
    /// Unmaps all that is mapped in `range`. Blocks that extend beyond it go whole: what is missing afterwards can be mapped again,
    /// while a split would need memory.
    ///
    /// `clean` cleans memory, given as (first byte, bytes), and invalidates it, to the PoC. It is called for all memory
    /// that was mapped as cacheable, after no CPU has a translation to it any more; not with FWB, where no guest can get past
    /// the caches.
    ///
    /// # Errors
    ///
    /// [`Error::Unaligned`], [`Error::InputRange`] for the arguments.
    pub fn reclaim<M: TableMemory, T: Maintenance<Ipa>>(
        &mut self,
        env: &Env<'_, M, T>,
        range: AddrRange<Ipa>,
        mut clean: impl FnMut(PhysAddr, u64),
    ) -> Result<(), Error> {
        self.check_input(&range)?;
        let whole = self.with_blocks(env.memory, range)?;
        if self.format.fwb {
            return self.unmap(env, whole).map(drop);
        }
        let mut rest = Some(whole);
        while let Some(part) = rest {
            let mut cacheable = Cacheable::new();
            self.visit(env.memory, part, |leaf| cacheable.add(&leaf))?;
            let last = match cacheable.rest {
                Some(first) => first.checked_sub(1).ok_or(Error::Corrupt)?,
                None => part.last(),
            };
            let gone = AddrRange::from_bounds(part.first(), last).ok_or(Error::Corrupt)?;
            let unmapped = self.unmap(env, gone);
            // Also where that has failed: part of it may be gone.
            for (pa, bytes) in cacheable.runs.into_iter().flatten() {
                clean(pa, bytes);
            }
            unmapped?;
            rest = cacheable
                .rest
                .and_then(|first| AddrRange::from_bounds(first, part.last()));
        }
        Ok(())
    }

    /// `range`, with all of the blocks that extend beyond it.
    fn with_blocks<M: TableMemory>(
        &self,
        memory: &M,
        range: AddrRange<Ipa>,
    ) -> Result<AddrRange<Ipa>, Error> {
        let mut whole = range;
        for end in [range.first(), range.last()] {
            if let Some(leaf) = self.lookup(memory, end)? {
                let first = whole.first().min(leaf.range.first());
                let last = whole.last().max(leaf.range.last());
                whole = AddrRange::from_bounds(first, last).ok_or(Error::InputRange)?;
            }
        }
        Ok(whole)
    }
}
