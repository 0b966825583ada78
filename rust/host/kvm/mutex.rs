// SPDX-License-Identifier: GPL-2.0-only

//! Host: ways to take a mutex that `kernel::sync` does not have.
//!
//! With lockdep these are macros around functions that take more arguments.
//!
//! Source: `include/linux/mutex.h` of Linux.

use core::ptr;

use kernel::{
    ffi::c_int,
    prelude::*,
    sync::{
        lock::{
            mutex::MutexBackend,
            Guard, //
        },
        Mutex, //
    },
};

use crate::bindings;

/// Waits for `mutex`.
///
/// # Errors
///
/// `EINTR` if the process is being killed.
pub(super) fn lock_killable<T>(mutex: &Mutex<T>) -> Result<Guard<'_, T, MutexBackend>> {
    // SAFETY: A `Mutex` is initialised.
    if unsafe { kernel_lock_killable(raw(mutex)) } != 0 {
        return Err(EINTR);
    }
    // SAFETY: It has just been taken.
    Ok(unsafe { Guard::new(mutex, ()) })
}

/// Takes `mutex` if it is free. The caller has `outer`, without which nobody holds more than one of its kind: lockdep keeps them as
/// one, for it has no room for as many as a VM can have.
pub(super) fn try_lock_under<'a, T, U>(
    mutex: &'a Mutex<T>,
    outer: &Guard<'_, U, MutexBackend>,
) -> Option<Guard<'a, T, MutexBackend>> {
    // SAFETY: Both are initialised, and `outer` is held.
    if unsafe { kernel_trylock(raw(mutex), raw(outer.lock_ref())) } == 0 {
        return None;
    }
    // SAFETY: It has just been taken.
    Some(unsafe { Guard::new(mutex, ()) })
}

/// A `Mutex` begins with the kernel's mutex (`Lock::from_raw` relies on the same).
fn raw<T>(mutex: &Mutex<T>) -> *mut bindings::mutex {
    ptr::from_ref(mutex).cast_mut().cast()
}

/// Not 0 if the process is being killed.
///
/// # Safety
///
/// `mutex` is initialised.
unsafe fn kernel_lock_killable(mutex: *mut bindings::mutex) -> c_int {
    #[cfg(not(CONFIG_DEBUG_LOCK_ALLOC))]
    // SAFETY: By the contract.
    return unsafe { bindings::mutex_lock_killable(mutex) };
    #[cfg(CONFIG_DEBUG_LOCK_ALLOC)]
    // SAFETY: By the contract; no outer lock.
    return unsafe { bindings::_mutex_lock_killable(mutex, 0, ptr::null_mut()) };
}

/// 0 if it is not free.
///
/// # Safety
///
/// Both are initialised, and `outer` is held.
unsafe fn kernel_trylock(mutex: *mut bindings::mutex, outer: *mut bindings::mutex) -> c_int {
    #[cfg(not(CONFIG_DEBUG_LOCK_ALLOC))]
    {
        let _ = outer;
        // SAFETY: By the contract.
        unsafe { bindings::mutex_trylock(mutex) }
    }
    #[cfg(CONFIG_DEBUG_LOCK_ALLOC)]
    // SAFETY: By the contract.
    unsafe {
        bindings::_mutex_trylock_nest_lock(mutex, &raw mut (*outer).dep_map)
    }
}
