// SPDX-License-Identifier: GPL-2.0-only

//! What the program `compute` of the image must come to.

use super::image::MULTIPLIER;

/// Vector registers that are mixed as integers.
const VECTORS: u64 = 29;
/// Growth of the sequence of doubles.
const GROWTH: f64 = 3.9;
/// FPCR.FZ, which the program sets.
const FPCR_FZ: u64 = 1 << 24;

/// The state of the work, as the program has it in memory and registers.
#[derive(Clone, Debug)]
pub struct Compute {
    /// The words in memory.
    pub words: Vec<u64>,
    seed: u64,
    round: u64,
    sum: u64,
    /// Both halves of the vector registers.
    vectors: Vec<[u64; 2]>,
    double: f64,
}

impl Compute {
    /// Work on `count` words that begin at zero.
    pub fn new(count: usize, seed: u64) -> Self {
        Self {
            words: vec![0; count],
            seed,
            round: 0,
            sum: 0,
            vectors: (0..VECTORS).map(|n| [seed + 3 * n + 1; 2]).collect(),
            double: ((seed & 0xff) + 1) as f64 / 512.0,
        }
    }

    /// Does `count` rounds.
    pub fn rounds(&mut self, count: u64) {
        for _ in 0..count {
            let addend = self.seed.wrapping_add(self.round);
            for word in &mut self.words {
                *word = word.wrapping_mul(MULTIPLIER).wrapping_add(addend);
                self.sum = self.sum.wrapping_add(*word);
            }
            self.mix();
            self.double = (1.0 - self.double) * self.double * GROWTH;
            self.round += 1;
        }
    }

    fn mix(&mut self) {
        if let Some((first, others)) = self.vectors.split_first_mut() {
            for other in others {
                for (first, other) in first.iter_mut().zip(other) {
                    *first = first.wrapping_add(*other);
                    *other ^= *first;
                }
            }
        }
    }

    /// Result of the program after as many rounds.
    pub fn result(&self) -> u64 {
        let doubles = [1.0, self.double, GROWTH].map(f64::to_bits);
        let low = self.vectors.iter().map(|vector| vector[0]);
        let high = self.vectors.last().map_or(0, |vector| vector[1]);
        [self.sum, high, FPCR_FZ]
            .into_iter()
            .chain(doubles)
            .chain(low)
            .fold(0, u64::wrapping_add)
    }
}
