// SPDX-License-Identifier: GPL-2.0-only

//! What the walker needs from the TLBs: when a barrier or an invalidation is due, and of what.
//!
//! Domain: common. The walker says *what* is stale; how an invalidation is made of instructions is in [`super::tlb`].
//!
//! When a flush is needed, and which:
//!
//! | change of an entry | call | why |
//! |---|---|---|
//! | invalid to valid | [`Maintenance::publish`] | An invalid entry is never cached, so there is nothing to invalidate; but the store must be seen by the table walkers before the new translation is used. |
//! | valid to invalid, leaf | [`Maintenance::invalidate`] of [`Stale::Leaves`] | Any TLB may hold it, also one of a CPU that never used it: speculation loads it. |
//! | valid to invalid, table | [`Maintenance::invalidate`] of [`Stale::Table`] | Walk caches may hold the table's address; its memory may be reused only after that is gone. |
//! | permissions only | [`Maintenance::invalidate`] of [`Stale::Leaves`] | No break is needed, but until it completes each CPU uses the old or the new ones. |
//! | bits that hardware ignores only | none | What a TLB has cached is no different: see [`super::Format::needs_flush`]. |
//! | anything else | break (store 0, invalidate), then make (store, publish) | Two entries of different size, address or memory type for one address must never exist at the same time. |
//!
//! All is broadcast to the Inner Shareable domain, even for what only one CPU uses.

use crate::common::addr::AddrRange;

use super::geometry::Level;

/// What may be cached although the table no longer says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stale {
    /// Leaves of this level, all over the range. The tables that lead to them stay.
    Leaves(Level),
    /// One table entry of this level that covers the range. Its table has no valid entry, and all invalidations of
    /// what it once had are complete.
    Table(Level),
    /// One table entry of this level that covers the range, with anything below it.
    Subtree(Level),
}

/// Keeps TLBs and table walkers in step with the tables. `A` is the input address of the table.
pub trait Maintenance<A> {
    /// Makes all entries written so far, invalid before, usable by every CPU, and by this one at once.
    fn publish(&self);

    /// Makes all entries written so far visible to the table walkers, then removes what is `stale` in `range` from
    /// every TLB and walk cache, and returns once that is complete on all CPUs.
    fn invalidate(&self, range: AddrRange<A>, stale: Stale);
}

/// For tables that no TTBR leads to yet, or any more: nothing can be stale.
///
/// Whoever makes the table live issues a DSB after the last change and before the write of the TTBR.
#[derive(Clone, Copy, Debug, Default)]
pub struct NotLive;

impl<A> Maintenance<A> for NotLive {
    fn publish(&self) {}

    fn invalidate(&self, _range: AddrRange<A>, _stale: Stale) {}
}
