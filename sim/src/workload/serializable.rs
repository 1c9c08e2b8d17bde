//! Serializable gets and ranges on any member, beside the puts that make them differ.
//!
//! Good at finding: members that show what was never committed, or take back what they have shown: a serializable read
//! may be old, but it is some state the cluster was in, and one member never goes backwards within its life. Works on
//! members that are cut off, too, when nothing linearizable does.

use super::{Keys, Kind, Work};
use crate::history::{Operation, Outcome};
use crate::random::Random;

pub const KIND: Kind = Kind { name: "serializable", make: |_| Box::new(Serializable::new()), weight: 6 };

const KEYS: u64 = 4;

#[derive(Debug)]
struct Serializable {
    keys: Keys,
}

impl Serializable {
    fn new() -> Serializable {
        Serializable { keys: Keys::new("ser") }
    }
}

impl Work for Serializable {
    fn next(&mut self, _client: u64, random: &mut Random, fresh: &mut dyn FnMut() -> String) -> Operation {
        let key = self.keys.name(random.below(KEYS));
        match random.below(100) {
            0..30 => Operation::Put { key, value: fresh() },
            30..35 => Operation::Delete { key },
            35..75 => Operation::Get { key, serializable: true },
            // All of them, those of older generations too.
            _ => Operation::Range { key: "ser".into(), end: "ses".into(), serializable: true },
        }
    }

    fn learn(&mut self, _client: u64, operation: &Operation, outcome: &Outcome) {
        self.keys.learn(operation, outcome);
    }
}
