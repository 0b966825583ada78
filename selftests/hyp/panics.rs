// SPDX-License-Identifier: GPL-2.0-only

//! One function that can panic, in each of the ways that `cfg(way)` names, to be linked into the EL2 image: that must fail.
//!
//! `way="none"` has the same shape and cannot panic: that must link.

#![no_std]
#![allow(missing_docs)]

/// The linker is told to keep this.
#[no_mangle]
pub extern "C" fn eltwo_probe(first: u64, second: u64) -> u64 {
    let words = [second; 8];
    let wanted = (first < 8).then_some(second);
    #[cfg(way = "none")]
    return words
        .get(first as usize)
        .copied()
        .unwrap_or(0)
        .wrapping_add(wanted.unwrap_or(1));
    #[cfg(way = "panic")]
    if wanted.is_none() {
        panic!("{first} {}", words[0]);
    }
    #[cfg(way = "assert")]
    assert!(wanted.is_some() && words[1] != 0);
    #[cfg(way = "index")]
    return words[first as usize] ^ wanted.unwrap_or(1);
    #[cfg(way = "slice")]
    return words[first as usize..].len() as u64 ^ wanted.unwrap_or(1);
    #[cfg(way = "unwrap")]
    return words[0] ^ wanted.unwrap();
    #[cfg(way = "expect")]
    return words[0] ^ wanted.ok_or(first).expect("small");
    #[cfg(way = "overflow")]
    return words[0] + wanted.unwrap_or(1);
    #[cfg(way = "divide")]
    return words[0] / wanted.unwrap_or(1);
    #[cfg(way = "unreachable")]
    if wanted.is_none() {
        unreachable!("{}", words[0]);
    }
    #[cfg(any(way = "panic", way = "assert", way = "unreachable"))]
    return first;
}
