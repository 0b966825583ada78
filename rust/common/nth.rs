// SPDX-License-Identifier: GPL-2.0-only

//! Common: which of the steps that may fail is the one that fails on request.
//!
//! Steps are counted as they are taken, whatever they are. Whoever makes the first one fail, then the second one, and so on
//! until nothing fails any more, has seen every step fail, those that were added yesterday too.

use core::sync::atomic::{
    AtomicU32,
    Ordering, //
};

/// Counts steps, and has one of them fail. Any number of CPUs may take steps at a time: one fails all the same.
#[derive(Debug, Default)]
pub struct NthFailure {
    /// The number of the step that fails; 0: steps are not counted.
    nth: AtomicU32,
    taken: AtomicU32,
}

impl NthFailure {
    /// Has a step fail that nobody ever reaches: steps are counted only.
    pub const COUNT_ONLY: u32 = u32::MAX;

    /// Nothing fails.
    pub const fn off() -> Self {
        Self {
            nth: AtomicU32::new(0),
            taken: AtomicU32::new(0),
        }
    }

    /// From now on step number `nth`, the next one being 1, fails; 0 for none.
    ///
    /// Steps that are under way may be counted or not.
    pub fn arm(&self, nth: u32) {
        self.nth.store(0, Ordering::Relaxed);
        self.taken.store(0, Ordering::Relaxed);
        self.nth.store(nth, Ordering::Release);
    }

    /// The step that fails, as it was asked for.
    pub fn nth(&self) -> u32 {
        self.nth.load(Ordering::Relaxed)
    }

    /// How many steps were taken since.
    pub fn taken(&self) -> u32 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Takes a step. True if this is the one that fails.
    #[inline]
    pub fn fails(&self) -> bool {
        // Acquire: the count has been started anew before.
        let nth = self.nth.load(Ordering::Acquire);
        nth != 0 && self.taken.fetch_add(1, Ordering::Relaxed).wrapping_add(1) == nth
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn nth_step_fails_and_no_other() {
        let failure = NthFailure::off();
        assert!((0..10).all(|_| !failure.fails()));
        assert_eq!(failure.taken(), 0, "off: nothing is counted");
        for nth in 1..10 {
            failure.arm(nth);
            let failed: Vec<u32> = (1..20).filter(|_| failure.fails()).collect();
            assert_eq!(failed, [nth]);
            assert_eq!((failure.nth(), failure.taken()), (nth, 19));
        }
        failure.arm(0);
        assert!((0..10).all(|_| !failure.fails()));
    }

    #[test]
    fn nth_step_fails_once_among_threads() {
        let failure = NthFailure::off();
        failure.arm(700);
        let failed: usize = thread::scope(|scope| {
            let take = || (0..250).filter(|_| failure.fails()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!((failed, failure.taken()), (1, 1000));
        failure.arm(NthFailure::COUNT_ONLY);
        assert!((0..10).all(|_| !failure.fails()));
        assert_eq!(failure.taken(), 10);
    }
}
