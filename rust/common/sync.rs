// SPDX-License-Identifier: GPL-2.0-only

//! Common: the lock of data that several CPUs change at EL2.
//!
//! The host takes it too, but only while no CPU is at EL2 with us (load and unload), so neither side ever waits for a
//! holder that was interrupted: at EL2 interrupts are masked, and the host's use has no contender.

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
}

impl TicketLock {
    /// An unlocked lock.
    pub const fn new() -> Self {
        Self {
            next: AtomicU32::new(0),
            serving: AtomicU32::new(0),
        }
    }

    /// Waits for the lock and holds it until the guard is dropped.
    pub fn lock(&self) -> TicketGuard<'_> {
        let ticket = self.next.fetch_add(1, Ordering::Relaxed);
        // Acquire: what the previous holder wrote is seen from here on.
        while self.serving.load(Ordering::Acquire) != ticket {
            hint::spin_loop();
        }
        TicketGuard { lock: self }
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
}
