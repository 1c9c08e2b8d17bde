//! Keys that come and go: put, deleted, made again by whoever finds them gone.
//!
//! Good at finding: deletes that are lost or done twice (the delete says what it took away), generations of the key
//! index that are mixed up (a key made anew counts its version from 1), two clients that both made the key.

use super::{Keys, Kind, Recent, Work};
use crate::history::{Operation, Outcome};
use crate::random::Random;

pub const KIND: Kind = Kind { name: "deletes", make: |_| Box::new(Deletes::new()), weight: 6 };

const KEYS: u64 = 3;

#[derive(Debug)]
struct Deletes {
    keys: Keys,
    recent: Recent,
}

impl Deletes {
    fn new() -> Deletes {
        Deletes { keys: Keys::new("del"), recent: Recent::default() }
    }
}

impl Work for Deletes {
    fn next(&mut self, _client: u64, random: &mut Random, fresh: &mut dyn FnMut() -> String) -> Operation {
        let key = self.keys.name(random.below(KEYS));
        match random.below(100) {
            0..25 => Operation::Put { key, value: fresh() },
            25..50 => Operation::Delete { key },
            50..65 => Operation::Cas { key, old: None, new: fresh() },
            _ => Operation::Get { key: self.recent.pick(random).unwrap_or(key), serializable: false },
        }
    }

    fn learn(&mut self, _client: u64, operation: &Operation, outcome: &Outcome) {
        self.keys.learn(operation, outcome);
        self.recent.learn(operation, outcome);
    }
}
