//! Clients that take turns in a room, as client libraries do it: a lease that is kept alive, a key of their own, the
//! wait for those who came before, then what only the first may do, fenced: two locks, and two elections in which all
//! stand, proclaim, resign, and look who leads.
//!
//! Some stop keeping their lease alive, and go on as if they had not noticed.
//!
//! Good at finding: two holders at a time where no lease has ended, a holder whose key is gone, a write or a
//! proclamation of somebody who was overtaken, a leader that is not the one who came first, observers who see who led
//! once.

use std::collections::BTreeMap;

use super::{Kind, Work};
use crate::asks::{LeaseAsk, LockAsk, Told};
use crate::history::{Operation, Outcome};
use crate::random::Random;

pub const LOCK: Kind = Kind { name: "lock", make: |_| Sessions::boxed("lock", 200_000), weight: 4 };
pub const ELECTION: Kind = Kind { name: "election", make: |_| Sessions::boxed("elect", 300_000), weight: 4 };

const ROOMS: u64 = 2;

#[derive(Debug)]
struct Sessions {
    kind: &'static str,
    /// No other work has leases from here on.
    first: i64,
    made: i64,
    of: BTreeMap<u64, Session>,
}

#[derive(Debug)]
struct Session {
    lease: i64,
    ttl_s: i64,
    room: String,
    stage: Stage,
    is_kept: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Granting,
    Granted,
    Outside,
    Waiting,
    Owner,
    Leaving,
}

impl Sessions {
    fn boxed(kind: &'static str, first: i64) -> Box<dyn Work> {
        Box::new(Sessions { kind, first, made: 0, of: BTreeMap::new() })
    }
}

impl Work for Sessions {
    fn next(&mut self, client: u64, random: &mut Random, fresh: &mut dyn FnMut() -> String) -> Operation {
        let is_election = self.kind == "elect";
        let any_room = format!("{}/{}", self.kind, random.below(ROOMS));
        if is_election && random.permille(200) {
            return Operation::Lock(LockAsk::Observe { room: any_room });
        }
        let Some(session) = self.of.get_mut(&client).filter(|session| session.stage != Stage::Granting) else {
            self.made += 1;
            let (lease, ttl_s) = (self.first + self.made, *random.pick(&[2, 3, 5]));
            let session = Session { lease, ttl_s, room: any_room, stage: Stage::Granting, is_kept: false };
            self.of.insert(client, session);
            return Operation::Lease(LeaseAsk::Grant { lease, ttl_s });
        };
        let (lease, room) = (session.lease, session.room.clone());
        let value = |fresh: &mut dyn FnMut() -> String| if is_election { fresh() } else { String::new() };
        match session.stage {
            Stage::Granting => unreachable!("filtered"),
            Stage::Granted => {
                (session.stage, session.is_kept) = (Stage::Outside, true);
                let every_us = session.ttl_s as u64 * 1_000_000 / 4;
                Operation::Lease(LeaseAsk::Keep { lease, every_us })
            }
            Stage::Outside => Operation::Lock(LockAsk::Enter { room, lease, value: value(fresh) }),
            Stage::Waiting => Operation::Lock(LockAsk::Await { room, lease }),
            Stage::Owner => match random.below(20) {
                0..12 if is_election => Operation::Lock(LockAsk::Proclaim { room, lease, value: fresh() }),
                0..12 => Operation::Lock(LockAsk::Fenced { room, lease, value: fresh() }),
                12..15 => Operation::Lock(LockAsk::Await { room, lease }),
                15..17 if session.is_kept => {
                    session.is_kept = false;
                    Operation::Lease(LeaseAsk::Leave { lease })
                }
                _ => {
                    session.stage = Stage::Leaving;
                    Operation::Lock(LockAsk::Exit { room, lease })
                }
            },
            Stage::Leaving => {
                self.of.remove(&client);
                Operation::Lease(LeaseAsk::Revoke { lease })
            }
        }
    }

    fn learn(&mut self, client: u64, operation: &Operation, outcome: &Outcome) {
        let Some(session) = self.of.get_mut(&client) else { return };
        let is_mine = match operation {
            Operation::Lease(ask) => ask.lease() == session.lease,
            Operation::Lock(ask) => ask.key() == Some(crate::asks::lock::key(&session.room, session.lease)),
            _ => false,
        };
        if !is_mine {
            return;
        }
        match (outcome, session.stage) {
            (Outcome::Told { told, .. }, stage) => match told {
                Told::Granted { .. } => session.stage = Stage::Granted,
                Told::Entered { .. } => session.stage = Stage::Waiting,
                Told::Owns => session.stage = Stage::Owner,
                Told::Ousted | Told::Stamped(false) => drop(self.of.remove(&client)),
                // Out again: as often as not it comes back.
                Told::Stamped(true) if stage == Stage::Leaving && session.lease % 2 == 0 && session.is_kept => {
                    session.stage = Stage::Outside;
                }
                _ => {}
            },
            (Outcome::Refused { .. }, _) => drop(self.of.remove(&client)),
            _ => {}
        }
    }

    fn lost(&mut self, client: u64, lease: i64) {
        // Every third does not look.
        if self.of.get(&client).is_some_and(|session| session.lease == lease && lease % 3 != 0) {
            self.of.remove(&client);
        }
    }
}
