//! A handful of hot keys that all clients put, get and delete at the same time.
//!
//! Good at finding: what only overlapping operations show: reads that go back behind what another client has already
//! seen, writes that take effect in another order than they were answered in, two leaders that both believe they serve
//! the key.

use super::{Keys, Kind, Recent, Work};
use crate::history::{Operation, Outcome};
use crate::random::Random;

pub const KIND: Kind = Kind { name: "shared", make: |_| Box::new(Shared::new()), weight: 10 };

const HOT: u64 = 3;

#[derive(Debug)]
struct Shared {
    keys: Keys,
    recent: Recent,
}

impl Shared {
    fn new() -> Shared {
        Shared { keys: Keys::new("hot"), recent: Recent::default() }
    }
}

impl Work for Shared {
    fn next(&mut self, _client: u64, random: &mut Random, fresh: &mut dyn FnMut() -> String) -> Operation {
        let any = self.keys.name(random.below(HOT));
        match random.below(100) {
            0..40 => Operation::Put { key: any, value: fresh() },
            40..47 => Operation::Delete { key: any },
            _ => Operation::Get { key: self.recent.pick(random).unwrap_or(any), serializable: false },
        }
    }

    fn learn(&mut self, _client: u64, operation: &Operation, outcome: &Outcome) {
        self.keys.learn(operation, outcome);
        self.recent.learn(operation, outcome);
    }
}
