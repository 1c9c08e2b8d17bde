//! Two locks for which all clients queue, with writes that only the holder may do, fenced by its key's revision.
//!
//! Good at finding: two holders at a time where no lease has ended, a holder whose key is gone, a write of somebody who
//! was overtaken.

use super::sessions::Sessions;
use super::{Kind, Work};
use crate::history::{Operation, Outcome};
use crate::random::Random;

pub const KIND: Kind = Kind { name: "lock", make: |_| Box::new(Locks(Sessions::new("lock", 200_000))), weight: 4 };

#[derive(Debug)]
struct Locks(Sessions);

impl Work for Locks {
    fn next(&mut self, client: u64, random: &mut Random, fresh: &mut dyn FnMut() -> String) -> Operation {
        self.0.next(client, random, fresh)
    }

    fn learn(&mut self, client: u64, operation: &Operation, outcome: &Outcome) {
        self.0.learn(client, operation, outcome);
    }

    fn lost(&mut self, client: u64, lease: i64) {
        self.0.lost(client, lease);
    }
}
