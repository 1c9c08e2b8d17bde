//! All randomness of a run: one 64-bit seed, one ChaCha8 stream for each purpose.
//!
//! Separate streams, so that one more draw for the network does not reshuffle the disks: what a change of the code does
//! to a run stays small, and shrinking works. Everything in integers: floats differ between build profiles.

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

/// What a stream is for. The numbers are part of what a seed means: never reuse one.
#[derive(Clone, Copy, Debug)]
pub enum Purpose {
    Knobs = 1,
    Network = 2,
    Disk = 3,
    Process = 4,
    Clock = 5,
    Workload = 6,
    Schedule = 7,
    Elections = 8,
}

#[derive(Clone, Debug)]
pub struct Random(ChaCha8Rng);

impl Random {
    pub fn new(seed: u64, purpose: Purpose) -> Random {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(purpose as u64);
        Random(rng)
    }

    /// From 0 up to, not including, `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "a choice among nothing");
        self.0.next_u64() % bound
    }

    /// Both ends included.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    pub fn permille(&mut self, probability: u64) -> bool {
        self.below(1_000) < probability
    }

    pub fn pick<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.below(among.len() as u64) as usize]
    }

    pub fn core(&mut self) -> &mut dyn RngCore {
        &mut self.0
    }
}
