//! Two keys with a long history, and now and then somebody who compacts it: at the newest revision known, or before.
//!
//! Good at finding: compaction that takes away what is still current, that differs between members (its hash does
//! then), that a crash leaves half done, that overtakes a reader without telling it, or after which nothing says any
//! more how far the revision had come.

use super::{Keys, Kind, Work};
use crate::history::{Operation, Outcome};
use crate::random::Random;

pub const KIND: Kind = Kind { name: "compaction", make: |_| Box::new(Compaction::new()), weight: 3 };

const KEYS: u64 = 2;
const FARTHEST_BEHIND: u64 = 60;

#[derive(Debug)]
struct Compaction {
    keys: Keys,
    newest: i64,
}

impl Compaction {
    fn new() -> Compaction {
        Compaction { keys: Keys::new("old"), newest: 0 }
    }
}

impl Work for Compaction {
    fn next(&mut self, _client: u64, random: &mut Random, fresh: &mut dyn FnMut() -> String) -> Operation {
        let key = self.keys.name(random.below(KEYS));
        match random.below(100) {
            0..50 => Operation::Put { key, value: fresh() },
            50..60 => Operation::Delete { key },
            60..85 => Operation::Get { key, serializable: false },
            _ => {
                let behind = if random.below(4) == 0 { 0 } else { random.below(FARTHEST_BEHIND) as i64 };
                match self.newest - behind {
                    revision @ 1.. => Operation::Compact { revision },
                    _ => Operation::Put { key, value: fresh() },
                }
            }
        }
    }

    fn learn(&mut self, _client: u64, operation: &Operation, outcome: &Outcome) {
        self.keys.learn(operation, outcome);
        if let Outcome::Done { revision, .. } | Outcome::Read { revision, .. } = outcome {
            self.newest = self.newest.max(*revision);
        }
    }
}
