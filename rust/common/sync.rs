// SPDX-License-Identifier: GPL-2.0-only

//! Common: the lock of data that several CPUs change with interrupts masked: at EL2, and at EL1 where an entry to a guest needs it
//! (the VMIDs).
//!
//! A holder is never interrupted. At EL2 it can take an exception, though: then nobody releases the lock, and the host breaks it,
//! so that no CPU waits there for ever.

use core::{
    hint,
    sync::atomic::{
        AtomicU32,
        Ordering, //
    },
};

/// A ticket lock: first come, first served. Zero bytes are an unlocked one.
#[derive(Debug, Default)]
#[repr(C)]
pub struct TicketLock {
    next: AtomicU32,
    serving: AtomicU32,
    broken: AtomicU32,
}

impl TicketLock {
    /// An unlocked lock.
    pub const fn new() -> Self {
        Self {
            next: AtomicU32::new(0),
            serving: AtomicU32::new(0),
            broken: AtomicU32::new(0),
        }
    }

    /// Waits for the lock and holds it until the guard is dropped; `None` once it is broken.
    pub fn lock(&self) -> Option<TicketGuard<'_>> {
        let ticket = self.next.fetch_add(1, Ordering::Relaxed);
        // Acquire: what the previous holder wrote is seen from here on.
        while self.serving.load(Ordering::Acquire) != ticket {
            if self.is_broken() {
                return None;
            }
            hint::spin_loop();
        }
        (!self.is_broken()).then_some(TicketGuard { lock: self })
    }

    /// Makes every wait for the lock fail, now and later: its holder may never come back.
    pub fn break_up(&self) {
        self.broken.store(1, Ordering::Relaxed);
    }

    fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed) != 0
    }
}

/// Proof that a [`TicketLock`] is held.
#[derive(Debug)]
#[must_use]
pub struct TicketGuard<'a> {
    lock: &'a TicketLock,
}

impl Drop for TicketGuard<'_> {
    fn drop(&mut self) {
        // Release: the next holder sees what was written under the lock. Only the holder writes `serving`.
        let served = self.lock.serving.load(Ordering::Relaxed);
        self.lock
            .serving
            .store(served.wrapping_add(1), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        cell::UnsafeCell,
        thread, //
    };

    struct Shared {
        lock: TicketLock,
        value: UnsafeCell<u64>,
    }

    // SAFETY: `value` is only touched under `lock`.
    unsafe impl Sync for Shared {}

    impl Shared {
        fn add_one(&self) {
            let _guard = self.lock.lock();
            // SAFETY: The lock is held.
            unsafe { *self.value.get() += 1 };
        }
    }

    #[test]
    fn ticket_lock_two_threads_never_hold_it_together() {
        let shared = Shared {
            lock: TicketLock::new(),
            value: UnsafeCell::new(0),
        };
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        shared.add_one();
                    }
                });
            }
        });
        assert_eq!(shared.value.into_inner(), 4_000);
    }

    #[test]
    fn ticket_lock_broken_while_held_lets_the_waiter_go() {
        let lock = TicketLock::new();
        let held = lock.lock().unwrap();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| lock.lock().is_none());
            lock.break_up();
            assert!(waiter.join().unwrap());
        });
        drop(held);
        assert!(lock.lock().is_none());
    }
}
