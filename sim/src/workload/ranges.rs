//! Range reads over a set of keys to which others add, from which they take away.
//!
//! Good at finding: answers that mix two revisions (a key of before and one of after), keys that a range misses or sees
//! although they are gone: overlays, tombstones and the key index under change, while batches go to the store.

use super::{Kind, MOST_OPEN, Work};
use crate::history::{Operation, Outcome};
use crate::random::Random;

pub const KIND: Kind = Kind { name: "ranges", make: |_| Box::new(Ranges::default()), weight: 4 };

const SET: u64 = 8;

#[derive(Debug, Default)]
struct Ranges {
    /// Which set it is, and how many writes of it are left open: all keys of a set are one to the search.
    set: u64,
    open: u64,
}

impl Ranges {
    /// For `SET`, what comes behind all of them.
    fn key(&self, number: u64) -> String {
        format!("ran{}.{number}", self.set)
    }
}

impl Work for Ranges {
    fn next(&mut self, _client: u64, random: &mut Random, fresh: &mut dyn FnMut() -> String) -> Operation {
        let key = self.key(random.below(SET));
        match random.below(100) {
            0..35 => Operation::Put { key, value: fresh() },
            35..55 => Operation::Delete { key },
            55..80 => Operation::Range { key: self.key(0), end: self.key(SET), serializable: false },
            _ => {
                let first = random.below(SET - 1);
                let (key, end) = (self.key(first), self.key(random.between(first + 1, SET)));
                Operation::Range { key, end, serializable: false }
            }
        }
    }

    fn learn(&mut self, _client: u64, operation: &Operation, outcome: &Outcome) {
        if matches!(outcome, Outcome::Unknown { .. }) && !operation.is_read() {
            self.open += 1;
            if self.open == 2 * MOST_OPEN {
                (self.set, self.open) = (self.set + 1, 0);
            }
        }
    }
}
