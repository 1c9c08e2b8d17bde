//! Chains of compare-and-swap: each link names the value it replaces, so the chain says its own order.
//!
//! Good at finding: proposals applied twice or out of order (a link that succeeds twice, or on a value long gone), and
//! lost writes (a chain that forks). A swap that fails is a read through the log, which no stale member can answer.

use std::collections::BTreeMap;

use super::{Keys, Kind, Work};
use crate::history::{Operation, Outcome};
use crate::random::Random;

pub const KIND: Kind = Kind { name: "cas", make: |_| Box::new(Swaps::new()), weight: 6 };

const CHAINS: u64 = 3;

#[derive(Debug)]
struct Swaps {
    keys: Keys,
    /// What anybody last knew of a key, and the revision at which it was so.
    newest: BTreeMap<String, (i64, Option<String>)>,
    /// What this client itself last knew: mostly older.
    own: BTreeMap<(u64, String), Option<String>>,
}

impl Swaps {
    fn new() -> Swaps {
        Swaps { keys: Keys::new("cas"), newest: BTreeMap::new(), own: BTreeMap::new() }
    }

    fn note(&mut self, client: u64, key: &str, revision: i64, value: Option<String>) {
        self.own.insert((client, key.to_owned()), value.clone());
        let newest = self.newest.entry(key.to_owned()).or_default();
        if revision >= newest.0 {
            *newest = (revision, value);
        }
    }
}

impl Work for Swaps {
    fn next(&mut self, client: u64, random: &mut Random, fresh: &mut dyn FnMut() -> String) -> Operation {
        let key = self.keys.name(random.below(CHAINS));
        let old = match random.below(100) {
            0..60 => self.newest.get(&key).and_then(|(_, value)| value.clone()),
            60..75 => self.own.get(&(client, key.clone())).cloned().flatten(),
            _ => return Operation::Get { key, serializable: false },
        };
        Operation::Cas { key, old, new: fresh() }
    }

    fn learn(&mut self, client: u64, operation: &Operation, outcome: &Outcome) {
        self.keys.learn(operation, outcome);
        match outcome {
            Outcome::Done { revision, succeeded: true, .. } => {
                for (key, value) in operation.writes() {
                    self.note(client, key, *revision, value.map(str::to_owned));
                }
            }
            Outcome::Done { revision, found, .. } | Outcome::Read { revision, found, .. } => {
                for (key, value) in found {
                    self.note(client, key, *revision, value.clone());
                }
            }
            Outcome::Told { .. } | Outcome::Refused { .. } | Outcome::Unknown { .. } => {}
        }
    }
}
