//! Dice: the only randomness a member has, for its election time-outs.
//!
//! The contract: whoever drives a member hands the dice in, and every roll is theirs: production rolls a seeded stream,
//! the simulator draws from its run's seed, or plays back what was rolled before.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

pub trait Dice: Send + Sync + fmt::Debug {
    /// A number below `sides`, for this member.
    fn roll(&self, member: u64, sides: u64) -> u64;
}

/// One ChaCha8 stream a member, which goes on from one life to the next.
#[derive(Debug)]
pub struct SeededDice {
    seed: u64,
    streams: Mutex<BTreeMap<u64, ChaCha8Rng>>,
}

impl SeededDice {
    pub fn new(seed: u64) -> SeededDice {
        SeededDice { seed, streams: Mutex::default() }
    }
}

impl Dice for SeededDice {
    fn roll(&self, member: u64, sides: u64) -> u64 {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let stream = streams.entry(member).or_insert_with(|| {
            let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
            rng.set_stream(member);
            rng
        });
        stream.next_u64() % sides
    }
}
