// SPDX-License-Identifier: GPL-2.0-only

//! Host: the log of pages that a guest has written.

use core::sync::atomic::{
    AtomicU64,
    Ordering, //
};

use kernel::{
    prelude::*,
    sync::Arc, //
};

use crate::{
    common::slots::log_words,
    host::inject, //
};

/// One bit for each page of a slot, in words as user space gets them. Set by faults and cleared by ioctls, at any time.
pub(crate) struct DirtyLog {
    words: KVVec<AtomicU64>,
}

impl DirtyLog {
    /// A log of `pages` pages, all of them dirty or none.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new(pages: u64, all: bool) -> Result<Arc<Self>> {
        let count = usize::try_from(log_words(pages)).map_err(|_| ENOMEM)?;
        let flags = inject::account("a dirty log")?;
        let mut words = KVVec::with_capacity(count, flags)?;
        let last_bits = (pages % 64) as u32;
        for number in 0..count {
            let word = match (all, number + 1 == count, last_bits) {
                (false, ..) => 0,
                (true, true, 1..) => (1 << last_bits) - 1,
                (true, ..) => u64::MAX,
            };
            words.push(AtomicU64::new(word), flags)?;
        }
        let flags = inject::account("the head of a dirty log")?;
        Ok(Arc::new(Self { words }, flags)?)
    }

    /// Page `page` of the slot is dirty.
    pub(super) fn mark(&self, page: u64) {
        let word = usize::try_from(page / 64)
            .ok()
            .and_then(|word| self.words.get(word));
        let bit = 1 << (page % 64);
        // A page that is written again and again is marked already: no store then, so that the line stays shared.
        if let Some(word) = word.filter(|word| word.load(Ordering::Relaxed) & bit == 0) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// Number of words.
    pub(super) fn len(&self) -> usize {
        self.words.len()
    }

    /// Word `number` as it is.
    pub(super) fn get(&self, number: usize) -> u64 {
        self.words
            .get(number)
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Clears the bits of `mask` in word `number`, and returns those that were set.
    pub(super) fn take(&self, number: usize, mask: u64) -> u64 {
        match self.words.get(number) {
            Some(word) if word.load(Ordering::Relaxed) & mask != 0 => {
                word.fetch_and(!mask, Ordering::Relaxed) & mask
            }
            _ => 0,
        }
    }
}
