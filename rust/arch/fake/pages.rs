// SPDX-License-Identifier: GPL-2.0-only

//! A map from page numbers, which need no strong hash.

use core::hash::{
    BuildHasherDefault,
    Hasher, //
};
use std::collections::HashMap;

/// A map from page numbers.
pub(super) type Pages<V> = HashMap<u64, V, BuildHasherDefault<Mix>>;

/// One multiplication: what it hashes is one number.
#[derive(Clone, Default)]
pub(super) struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64((*byte).into());
        }
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}
