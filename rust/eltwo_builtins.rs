// SPDX-License-Identifier: GPL-2.0-only

//! Memory functions for the EL2 image (domain: hyp).
//!
//! rustc turns moves of large values into calls of `memcpy`, `memmove`, `memset` and `memcmp`, and every `no_std` crate
//! is linked with a crate of the name `compiler_builtins`. This is both. It has to be a crate of its own:
//! `no_builtins` keeps LLVM from recognising the loops below and calling the functions from themselves.
//!
//! Arithmetic on floats and 128-bit division have no place at EL2: a use of them is an undefined symbol in the link.

#![feature(compiler_builtins)]
#![allow(internal_features)]
#![compiler_builtins]
#![no_builtins]
#![no_std]

const WORD_BYTES: usize = size_of::<u64>();

/// Tells whether both addresses are multiples of the word size.
fn word_aligned(a: usize, b: usize) -> bool {
    (a | b) & (WORD_BYTES - 1) == 0
}

/// Copies `len_bytes` bytes upwards; correct for overlapping areas if `dst` is below `src`.
///
/// # Safety
///
/// `src` must be valid for reads of `len_bytes` bytes, `dst` for writes.
unsafe fn copy_up(dst: *mut u8, src: *const u8, len_bytes: usize) {
    let mut done = 0usize;
    if word_aligned(dst as usize, src as usize) {
        while len_bytes.wrapping_sub(done) >= WORD_BYTES {
            // SAFETY: `done + WORD_BYTES <= len_bytes`, so both are in bounds by the contract of this function, and
            // both are word aligned as `done` is a multiple of the word size.
            unsafe {
                let word = src.wrapping_add(done).cast::<u64>().read();
                dst.wrapping_add(done).cast::<u64>().write(word);
            }
            done = done.wrapping_add(WORD_BYTES);
        }
    }
    while done < len_bytes {
        // SAFETY: `done < len_bytes`, so both are in bounds by the contract of this function.
        unsafe { dst.wrapping_add(done).write(src.wrapping_add(done).read()) };
        done = done.wrapping_add(1);
    }
}

/// Copies `len_bytes` bytes downwards; correct for overlapping areas if `dst` is above `src`.
///
/// # Safety
///
/// `src` must be valid for reads of `len_bytes` bytes, `dst` for writes.
unsafe fn copy_down(dst: *mut u8, src: *const u8, len_bytes: usize) {
    let mut left = len_bytes;
    if word_aligned(dst as usize, src as usize) && left & (WORD_BYTES - 1) == 0 {
        while left != 0 {
            left = left.wrapping_sub(WORD_BYTES);
            // SAFETY: `left + WORD_BYTES <= len_bytes`, so both are in bounds by the contract of this function, and
            // both are word aligned as `left` is a multiple of the word size.
            unsafe {
                let word = src.wrapping_add(left).cast::<u64>().read();
                dst.wrapping_add(left).cast::<u64>().write(word);
            }
        }
    }
    while left != 0 {
        left = left.wrapping_sub(1);
        // SAFETY: `left < len_bytes`, so both are in bounds by the contract of this function.
        unsafe { dst.wrapping_add(left).write(src.wrapping_add(left).read()) };
    }
}

/// C's `memcpy`.
///
/// # Safety
///
/// As in C: `src` valid for reads, `dst` for writes of `len_bytes` bytes, no overlap.
#[no_mangle]
pub unsafe extern "C" fn memcpy(dst: *mut u8, src: *const u8, len_bytes: usize) -> *mut u8 {
    // SAFETY: The caller's promise is that of `copy_up`.
    unsafe { copy_up(dst, src, len_bytes) };
    dst
}

/// C's `memmove`.
///
/// # Safety
///
/// As in C: `src` valid for reads, `dst` for writes of `len_bytes` bytes.
#[no_mangle]
pub unsafe extern "C" fn memmove(dst: *mut u8, src: *const u8, len_bytes: usize) -> *mut u8 {
    if (dst as usize) <= (src as usize) {
        // SAFETY: The caller's promise is that of `copy_up`.
        unsafe { copy_up(dst, src, len_bytes) };
    } else {
        // SAFETY: The caller's promise is that of `copy_down`.
        unsafe { copy_down(dst, src, len_bytes) };
    }
    dst
}

/// C's `memset`.
///
/// # Safety
///
/// As in C: `dst` valid for writes of `len_bytes` bytes.
#[no_mangle]
pub unsafe extern "C" fn memset(dst: *mut u8, value: i32, len_bytes: usize) -> *mut u8 {
    let byte = value as u8;
    let word = u64::from_ne_bytes([byte; WORD_BYTES]);
    let mut done = 0usize;
    if word_aligned(dst as usize, 0) {
        while len_bytes.wrapping_sub(done) >= WORD_BYTES {
            // SAFETY: `done + WORD_BYTES <= len_bytes`, so this is in bounds by the contract of this function, and
            // word aligned as `done` is a multiple of the word size.
            unsafe { dst.wrapping_add(done).cast::<u64>().write(word) };
            done = done.wrapping_add(WORD_BYTES);
        }
    }
    while done < len_bytes {
        // SAFETY: `done < len_bytes`, so this is in bounds by the contract of this function.
        unsafe { dst.wrapping_add(done).write(byte) };
        done = done.wrapping_add(1);
    }
    dst
}

/// C's `memcmp`.
///
/// # Safety
///
/// As in C: `a` and `b` valid for reads of `len_bytes` bytes.
#[no_mangle]
pub unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len_bytes: usize) -> i32 {
    let mut done = 0usize;
    while done < len_bytes {
        // SAFETY: `done < len_bytes`, so both are in bounds by the contract of this function.
        let (left, right) = unsafe { (a.wrapping_add(done).read(), b.wrapping_add(done).read()) };
        if left != right {
            return i32::from(left).wrapping_sub(i32::from(right));
        }
        done = done.wrapping_add(1);
    }
    0
}

/// `memcmp` for a caller that only asks for equality.
///
/// # Safety
///
/// As `memcmp`.
#[no_mangle]
pub unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len_bytes: usize) -> i32 {
    // SAFETY: The caller's promise is that of `memcmp`.
    unsafe { memcmp(a, b, len_bytes) }
}
