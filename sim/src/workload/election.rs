//! Two elections in which all clients stand, proclaim and resign, and look who leads.
//!
//! Good at finding: a leader that is not the one who came first, proclamations of somebody who was overtaken, observers
//! who see who led once.

use super::sessions::Sessions;
use super::{Kind, Work};
use crate::history::{Operation, Outcome};
use crate::random::Random;

pub const KIND: Kind =
    Kind { name: "election", make: |_| Box::new(Elections(Sessions::new("elect", 300_000))), weight: 4 };

#[derive(Debug)]
struct Elections(Sessions);

impl Work for Elections {
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
