//! A key for each client, which it alone puts, and a few that all put; everybody reads everything, at every member.
//!
//! Good at finding: lost acknowledged writes (who wrote last is known), puts applied twice (the version counts one
//! writer's puts), and stale reads: most reads go to the key that somebody else has just changed.

use super::{Keys, Kind, Recent, Work};
use crate::history::{Operation, Outcome};
use crate::random::Random;

pub const KIND: Kind = Kind { name: "registers", make: |clients| Box::new(Registers::new(clients)), weight: 10 };

const SHARED: u64 = 2;

#[derive(Debug)]
struct Registers {
    clients: u64,
    own: Keys,
    shared: Keys,
    recent: Recent,
}

impl Registers {
    fn new(clients: u64) -> Registers {
        Registers { clients, own: Keys::new("own"), shared: Keys::new("reg"), recent: Recent::default() }
    }
}

impl Work for Registers {
    fn next(&mut self, client: u64, random: &mut Random, fresh: &mut dyn FnMut() -> String) -> Operation {
        match random.below(100) {
            0..40 => Operation::Put { key: self.own.name(client), value: fresh() },
            40..50 => Operation::Put { key: self.shared.name(random.below(SHARED)), value: fresh() },
            50..90 => {
                let newest = self.recent.pick(random);
                Operation::Get { key: newest.unwrap_or_else(|| self.own.name(client)), serializable: false }
            }
            _ => Operation::Get { key: self.own.name(random.between(1, self.clients)), serializable: false },
        }
    }

    fn learn(&mut self, _client: u64, operation: &Operation, outcome: &Outcome) {
        self.own.learn(operation, outcome);
        self.shared.learn(operation, outcome);
        self.recent.learn(operation, outcome);
    }
}
