// SPDX-License-Identifier: GPL-2.0-only

//! Common: which VM runs under which VMID.
//!
//! There are 255 or 65535 VMIDs for any number of VMs, so they are handed out in generations. An *id* is a generation and a
//! VMID in one number; it is live as long as its generation is the current one. When a generation has no VMID left the
//! next one begins: all TLBs are emptied, and only the VMIDs that are in use on some CPU at that moment are taken over, so
//! that no guest has to be stopped. VMID 0 is the host's, and the id 0 nobody's.
//!
//! Source: Arm ARM DDI 0487 D8.16 (VMIDs); the scheme is that of `arch/arm64/mm/context.c` and `arch/arm64/kvm/vmid.c`
//! of Linux.

use core::{
    ops::DerefMut,
    sync::atomic::{
        AtomicU64,
        Ordering, //
    },
};

/// The current generation, which every entry of a guest looks at.
#[derive(Debug)]
pub struct Generation {
    // INVARIANT: 8 or 16.
    bits: u32,
    /// The generation in the bits above those of the VMID; never 0.
    current: AtomicU64,
}

impl Generation {
    /// The first one. `wide`: VMIDs have 16 bits, not 8.
    pub const fn new(wide: bool) -> Self {
        // INVARIANT: one of the two.
        let bits = if wide { 16 } else { 8 };
        Self {
            bits,
            current: AtomicU64::new(1u64.wrapping_shl(bits)),
        }
    }

    /// Number of VMIDs, the host's included.
    pub const fn vmids(&self) -> u64 {
        1u64.wrapping_shl(self.bits)
    }

    /// How many generations have begun after the first one.
    pub fn begun(&self) -> u64 {
        let current = self.current.load(Ordering::Relaxed);
        current.wrapping_shr(self.bits).wrapping_sub(1)
    }

    /// The VMID of `id`.
    pub const fn vmid(&self, id: u64) -> u16 {
        (id & self.vmids().wrapping_sub(1)) as u16
    }

    /// Whether `id` is of the current generation.
    pub fn is_live(&self, id: u64) -> bool {
        (id ^ self.current.load(Ordering::Relaxed)).wrapping_shr(self.bits) == 0
    }

    /// The entry of a VM with `id` on the CPU that `active` belongs to, in the common case: its VMID is live and stays so.
    ///
    /// `None` if it is not, or if a new generation begins just now: then [`Books::renew`] decides, under the lock.
    pub fn enter(&self, id: u64, active: &AtomicU64) -> Option<u16> {
        // A rollover takes `active` away and leaves 0. So either it sees what is written here and takes the VMID over, or
        // the exchange fails.
        let before = active.load(Ordering::Relaxed);
        let taken = before != 0
            && self.is_live(id)
            && active
                .compare_exchange(before, id, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        taken.then(|| self.vmid(id))
    }
}

/// Which VMIDs of the current generation are taken. Under one lock for the whole machine.
#[derive(Debug)]
pub struct Books<S> {
    /// One bit for each VMID.
    taken: S,
    /// For each CPU, the id that was taken over when the generation began; 0 if none was.
    reserved: S,
    /// Where to look for a free VMID first.
    next: u64,
    /// A generation has begun, and TLBs still have entries of the one before.
    owes_flush: bool,
}

impl<S: DerefMut<Target = [u64]>> Books<S> {
    /// Nothing is taken. `taken` has a bit, in words of 64, for each of [`Generation::vmids`], and `reserved` a word for
    /// each CPU, fewer than there are VMIDs. All are 0.
    pub fn new(taken: S, reserved: S) -> Self {
        Self {
            taken,
            reserved,
            next: 1,
            owes_flush: false,
        }
    }

    /// The id of a VM whose id was `old`, which is live for the CPUs of `active` from here on: the caller puts it in the
    /// place of its own CPU before it releases the lock.
    ///
    /// When a generation begins, `flush` empties the TLBs of all CPUs; false if it cannot. Nobody gets an id before it has
    /// done so once: each caller is asked in turn.
    ///
    /// `None` if that has not been done, or if there are more CPUs than VMIDs, which [`Self::new`] forbids.
    pub fn renew(
        &mut self,
        generation: &Generation,
        old: u64,
        active: &[AtomicU64],
        flush: impl Fn() -> bool,
    ) -> Option<u64> {
        if !self.pay(&flush) {
            return None;
        }
        if generation.is_live(old) {
            return Some(old);
        }
        if old != 0 {
            let same = generation.current.load(Ordering::Relaxed) | u64::from(generation.vmid(old));
            // Another CPU kept it running over the rollover: all of them must see the same id.
            if self.replace_reserved(old, same) || self.take(generation.vmid(old)) {
                return Some(same);
            }
        }
        if let Some(id) = self.take_free(generation) {
            return Some(id);
        }
        self.roll_over(generation, active);
        self.owes_flush = true;
        if !self.pay(&flush) {
            return None;
        }
        self.take_free(generation)
    }

    /// Empties the TLBs, if that is owed. False if it still is.
    fn pay(&mut self, flush: &impl Fn() -> bool) -> bool {
        if self.owes_flush {
            self.owes_flush = !flush();
        }
        !self.owes_flush
    }

    /// The VM of `id` is gone, and no TLB has anything of it.
    pub fn release(&mut self, generation: &Generation, id: u64) {
        if generation.is_live(id) {
            let (word, bit) = place(generation.vmid(id));
            if let Some(word) = self.taken.get_mut(word) {
                *word &= !bit;
            }
        }
    }

    /// Number of VMIDs that are taken, those taken over included.
    pub fn taken(&self) -> u64 {
        let bits = self.taken.iter().map(|word| u64::from(word.count_ones()));
        bits.fold(0, u64::wrapping_add)
    }

    /// Takes one VMID. False if it is taken already.
    fn take(&mut self, vmid: u16) -> bool {
        let (word, bit) = place(vmid);
        match self.taken.get_mut(word) {
            Some(word) if *word & bit == 0 => {
                *word |= bit;
                true
            }
            _ => false,
        }
    }

    /// Takes the next free VMID, and makes it an id.
    fn take_free(&mut self, generation: &Generation) -> Option<u64> {
        let all = generation.vmids();
        let free = (self.next..all)
            .chain(1..self.next)
            .find(|vmid| self.take(generation.vmid(*vmid)))?;
        self.next = match free.wrapping_add(1) {
            next if next < all => next,
            _ => 1,
        };
        Some(generation.current.load(Ordering::Relaxed) | free)
    }

    /// Begins a generation, with the VMIDs that are active now.
    fn roll_over(&mut self, generation: &Generation, active: &[AtomicU64]) {
        generation
            .current
            .fetch_add(generation.vmids(), Ordering::Relaxed);
        self.taken.fill(0);
        for (place, active) in active.iter().enumerate() {
            // 0 makes the next entry of that CPU come here. If it is 0 already, the CPU has not entered anything since the
            // last rollover, and may still run what was taken over then.
            let id = match active.swap(0, Ordering::Relaxed) {
                0 => self.reserved.get(place).copied().unwrap_or(0),
                id => id,
            };
            if id != 0 {
                self.take(generation.vmid(id));
            }
            if let Some(reserved) = self.reserved.get_mut(place) {
                *reserved = id;
            }
        }
    }

    /// Makes every CPU that took `old` over know it as `new`. False if none did.
    fn replace_reserved(&mut self, old: u64, new: u64) -> bool {
        let mut found = false;
        for reserved in self.reserved.iter_mut().filter(|id| **id == old) {
            *reserved = new;
            found = true;
        }
        found
    }
}

/// The word and the bit of a VMID.
const fn place(vmid: u16) -> (usize, u64) {
    (
        (vmid as usize).wrapping_shr(6),
        1u64.wrapping_shl(vmid as u32 & 63),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        cell::Cell,
        collections::HashMap, //
    };

    struct World {
        generation: Generation,
        books: Books<Vec<u64>>,
        active: Vec<AtomicU64>,
        flushes: Cell<u32>,
        can_flush: bool,
    }

    impl World {
        fn new(cpus: usize, wide: bool) -> Self {
            let generation = Generation::new(wide);
            let words = generation.vmids() as usize / 64;
            Self {
                books: Books::new(vec![0; words], vec![0; cpus]),
                active: (0..cpus).map(|_| AtomicU64::new(0)).collect(),
                generation,
                flushes: Cell::new(0),
                can_flush: true,
            }
        }

        /// An entry as the host makes it. Returns the VMID.
        fn enter(&mut self, id: &mut u64, cpu: usize) -> u16 {
            self.try_to_enter(id, cpu).unwrap()
        }

        fn try_to_enter(&mut self, id: &mut u64, cpu: usize) -> Option<u16> {
            if let Some(vmid) = self.generation.enter(*id, &self.active[cpu]) {
                return Some(vmid);
            }
            let flush = || {
                self.flushes
                    .set(self.flushes.get() + u32::from(self.can_flush));
                self.can_flush
            };
            *id = self
                .books
                .renew(&self.generation, *id, &self.active, flush)?;
            self.active[cpu].store(*id, Ordering::Relaxed);
            Some(self.generation.vmid(*id))
        }
    }

    #[test]
    fn first_entry_gets_a_vmid_that_is_not_the_hosts() {
        let mut world = World::new(2, false);
        let (mut a, mut b) = (0, 0);
        assert_eq!(world.enter(&mut a, 0), 1);
        assert_eq!(world.enter(&mut b, 1), 2);
        assert_eq!(world.enter(&mut a, 1), 1, "the same on every CPU");
        assert_eq!(world.flushes.get(), 0);
    }

    #[test]
    fn live_id_is_entered_without_the_books() {
        let mut world = World::new(1, false);
        let mut id = 0;
        world.enter(&mut id, 0);
        assert_eq!(
            world.generation.enter(id, &world.active[0]),
            Some(world.generation.vmid(id))
        );
    }

    #[test]
    fn rollover_flushes_once_and_keeps_what_runs() {
        let mut world = World::new(2, false);
        let mut running = 0;
        let vmid = world.enter(&mut running, 1);
        let mut others = vec![0; 255];
        for id in &mut others {
            world.enter(id, 0);
        }
        assert_eq!(world.flushes.get(), 1);
        assert_eq!(world.generation.begun(), 1);
        // CPU 1 has not left the guest: nobody else may have got its VMID in the new generation.
        let of_new_generation: Vec<u16> = others
            .iter()
            .filter(|id| world.generation.is_live(**id))
            .map(|id| world.generation.vmid(*id))
            .collect();
        assert!(!of_new_generation.is_empty());
        assert!(!of_new_generation.contains(&vmid));
        assert_eq!(
            world.enter(&mut running, 1),
            vmid,
            "it keeps it at its next entry"
        );
        assert_eq!(world.enter(&mut running, 0), vmid);
        assert_eq!(world.flushes.get(), 1);
    }

    #[test]
    fn stale_id_is_not_entered_without_the_books() {
        let mut world = World::new(1, false);
        let mut old = 0;
        world.enter(&mut old, 0);
        for _ in 0..256 {
            world.enter(&mut 0, 0);
        }
        assert!(world.flushes.get() >= 1);
        assert_eq!(world.generation.enter(old, &world.active[0]), None);
    }

    #[test]
    fn nobody_is_entered_before_the_flush_of_a_rollover_is_done() {
        let mut world = World::new(2, false);
        let mut running = 0;
        let vmid = world.enter(&mut running, 1);
        for _ in 0..254 {
            world.enter(&mut 0, 0);
        }
        world.can_flush = false;
        let mut late = 0;
        // Not the one that has no VMID, not the one that keeps its own, and not in the second attempt either.
        for _ in 0..2 {
            assert_eq!(world.try_to_enter(&mut late, 0), None);
            assert_eq!(world.try_to_enter(&mut running, 1), None);
        }
        assert_eq!((world.generation.begun(), world.flushes.get()), (1, 0));
        world.can_flush = true;
        assert_eq!(world.enter(&mut running, 1), vmid);
        assert_eq!(world.flushes.get(), 1);
        assert_ne!(world.enter(&mut late, 0), vmid);
        // Theirs, and the one that ran last on CPU 0: none was lost in the attempts.
        assert_eq!(world.books.taken(), 3);
        assert_eq!(world.flushes.get(), 1);
    }

    #[test]
    fn two_rollovers_without_an_entry_keep_the_vmid_reserved() {
        let mut world = World::new(2, false);
        let mut running = 0;
        let vmid = world.enter(&mut running, 1);
        let mut seen = Vec::new();
        for _ in 0..700 {
            let mut id = 0;
            seen.push(world.enter(&mut id, 0));
        }
        assert!(world.flushes.get() >= 2);
        assert!(!seen.contains(&vmid));
    }

    #[test]
    fn released_vmid_is_found_again_without_a_rollover() {
        let mut world = World::new(1, false);
        for _ in 0..10_000 {
            let mut id = 0;
            world.enter(&mut id, 0);
            world.books.release(&world.generation, id);
        }
        assert_eq!(world.flushes.get(), 0);
        assert_eq!(world.books.taken(), 0);
    }

    /// Against a model: at no time do two VMs have one VMID, unless all TLBs were emptied in between.
    #[test]
    fn no_vmid_has_two_owners_between_flushes() {
        for (cpus, vms, wide) in [(1, 300, false), (4, 600, false), (3, 70_000, true)] {
            let mut world = World::new(cpus, wide);
            let mut ids = vec![0u64; vms];
            let mut running = vec![None; cpus];
            let mut owners: HashMap<u16, usize> = HashMap::new();
            let mut state = 0x9e37_79b9_7f4a_7c15u64;
            for _ in 0..200_000 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let vm = state as usize % vms;
                let cpu = (state >> 40) as usize % cpus;
                let flushes = world.flushes.get();
                let vmid = world.enter(&mut ids[vm], cpu);
                running[cpu] = Some((vm, vmid));
                if world.flushes.get() != flushes {
                    // What runs goes on under its VMID, and may fill TLBs again at once.
                    owners = running
                        .iter()
                        .flatten()
                        .map(|(vm, id)| (*id, *vm))
                        .collect();
                }
                assert_ne!(vmid, 0);
                assert_eq!(*owners.entry(vmid).or_insert(vm), vm);
            }
        }
    }
}
