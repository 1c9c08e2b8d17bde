//! What must hold in every world, one file each. A checker watches and never touches; its `Err` says what was broken
//! and by whom.
//!
//! The world shows everything that happens to all checkers, in the order in which it happens ([`Seen`]). A checker that
//! objects ends the run; its name and the first words of its objection are the failure's signature, by which failures
//! are grouped and shrunk.

use std::sync::Arc;

use lockstep::member::raft::{Persist, Status};
use lockstep::mvcc::View;
use lockstep_proto::raftpb::{Entry, HardState};

use crate::history::{Operation, Outcome};

/// One thing that happened.
pub enum Seen<'a> {
    /// A member's life began. `log` is what its write-ahead log holds, `view` what its store holds.
    Booted { member: u64, log: &'a [Entry], hard_state: HardState, view: &'a View },
    /// The process is gone, by a crash of the machine, a kill or its own decision.
    Ended { member: u64 },
    /// A member's consensus took a step.
    Stepped { status: &'a Status },
    /// Handed to the log; durable at the earliest with [`Seen::Synced`].
    Persist { member: u64, persist: &'a Persist },
    /// The log is durable up to the persist of this number.
    Synced { member: u64, number: u64 },
    /// Committed, in order, for the apply machine.
    Committed { member: u64, entries: &'a [Entry] },
    /// The view that readers of this member get from now on.
    Published { member: u64, view: &'a Arc<View> },
    /// A client asked a member for this; `number` counts the operations of the run.
    Asked { number: u64, client: u64, member: u64, operation: &'a Operation },
    /// ... and was answered, or lost patience ([`Outcome::Unknown`]), or was told that it was not done.
    Answered { number: u64, client: u64, member: u64, operation: &'a Operation, outcome: &'a Outcome },
    /// The safety phase is over. These members are healthy and connected from now on, the others dead or cut off.
    Core { members: &'a [u64], clients: &'a [u64] },
    /// The liveness phase is over: everything heals, everyone runs.
    Healed,
    /// All members have come to rest, and are shown one after the other.
    AtRest { status: &'a Status, view: &'a Arc<View> },
    /// Nothing more will come.
    Over,
}

/// Watches a run.
pub trait Checker {
    /// As `--json` and the kill table print it.
    fn name(&self) -> &'static str;

    fn see(&mut self, now_us: u64, seen: &Seen) -> Result<(), Objection>;
}

/// What a checker found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    /// A few words that are the same whenever the same thing is broken: "stale read", "two leaders in a term".
    pub place: &'static str,
    /// The whole story, with numbers.
    pub story: String,
    /// It could not be decided within the budget: the run counts as "unknown", not as failed.
    pub undecided: bool,
}

impl Objection {
    pub fn new(place: &'static str, story: String) -> Objection {
        Objection { place, story, undecided: false }
    }
}
