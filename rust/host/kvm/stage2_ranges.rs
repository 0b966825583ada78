// SPDX-License-Identifier: GPL-2.0-only

//! Host: long ranges of a guest's memory, cut into what can be done with the lock held, and short ones, put together.

use crate::common::{
    addr::{
        AddrRange,
        Ipa, //
    },
    slots::GfnRange,
};

/// Runs of pages that are collected before they are changed.
const RUNS: usize = 32;

/// Ranges of leaves, neighbours taken together, as many as there is room for.
pub(super) struct Runs {
    ranges: [Option<AddrRange<Ipa>>; RUNS],
    count: usize,
    /// The first one that there was no room for.
    pub(super) rest: Option<Ipa>,
}

impl Runs {
    pub(super) const fn new() -> Self {
        Self {
            ranges: [None; RUNS],
            count: 0,
            rest: None,
        }
    }

    /// Not to be called any more when [`Self::rest`] is set.
    pub(super) fn add(&mut self, range: AddrRange<Ipa>) {
        if let Some(last) = self
            .count
            .checked_sub(1)
            .and_then(|last| self.ranges.get_mut(last))
        {
            let joined = last
                .filter(|last| last.end() == Some(range.first()))
                .and_then(|last| AddrRange::from_bounds(last.first(), range.last()));
            if joined.is_some() {
                *last = joined;
                return;
            }
        }
        match self.ranges.get_mut(self.count) {
            Some(place) => {
                *place = Some(range);
                self.count += 1;
            }
            None => self.rest = Some(range.first()),
        }
    }

    pub(super) fn found(&self) -> impl Iterator<Item = &AddrRange<Ipa>> {
        self.ranges.iter().flatten()
    }
}

/// `gfns` in pieces of `pages` pages, each aligned to its size but for the ends.
pub(super) fn pieces_of(gfns: GfnRange, pages: u64) -> impl Iterator<Item = GfnRange> {
    let mut next = gfns.first();
    core::iter::from_fn(move || {
        let end = ((next / pages + 1) * pages).min(gfns.end());
        let piece = GfnRange::new(next, end.checked_sub(next)?)?;
        next = end;
        Some(piece)
    })
}
