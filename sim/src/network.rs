//! The simulated network: what becomes of a message.
//!
//! # Fault model
//!
//! A message is lost, arrives once after a delay, or arrives twice after two delays. Delays are drawn for each message,
//! so messages overtake each other; stragglers take up to seconds. Links are cut one way or both ways: what is sent, or
//! would arrive, while its link is cut is lost. A message belongs to the process it was sent to: the world drops what
//! arrives at a later one.

use std::collections::BTreeSet;

use crate::knobs::Knobs;
use crate::random::{Purpose, Random};

pub struct Network {
    random: Random,
    knobs: Knobs,
    cut: BTreeSet<(u64, u64)>,
    /// No more loss, no more stragglers.
    calm: bool,
}

impl Network {
    pub fn new(knobs: &Knobs) -> Network {
        let random = Random::new(knobs.seed, Purpose::Network);
        Network { random, knobs: knobs.clone(), cut: BTreeSet::new(), calm: false }
    }

    /// How long each copy takes; nothing when it is lost.
    pub fn delays_us(&mut self, link: (u64, u64)) -> Vec<u64> {
        let lost = self.random.permille(self.knobs.loss_permille) && !self.calm;
        if lost || self.is_cut(link) {
            return Vec::new();
        }
        let twice = self.random.permille(self.knobs.duplicate_permille) && !self.calm;
        let copies = if twice { 2 } else { 1 };
        (0..copies).map(|_| self.delay_us()).collect()
    }

    pub fn is_cut(&self, link: (u64, u64)) -> bool {
        self.cut.contains(&link)
    }

    /// Cuts what goes from one of `from` to one of `to`.
    pub fn cut(&mut self, from: &[u64], to: &[u64]) {
        self.cut.extend(from.iter().flat_map(|f| to.iter().map(move |t| (*f, *t))).filter(|(f, t)| f != t));
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    pub fn calm(&mut self) {
        self.heal();
        self.calm = true;
    }

    fn delay_us(&mut self) -> u64 {
        let mut delay = self.random.between(self.knobs.delay_least_us, self.knobs.delay_most_us);
        if self.random.permille(self.knobs.straggle_permille) && !self.calm {
            delay += self.random.below(self.knobs.straggle_most_us);
        }
        delay
    }
}
