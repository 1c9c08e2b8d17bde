//! A member's keeper of leases, driven as `server/leases.rs` drives it: apply tells it what became of leases, a thread
//! of its own looks at what expires, rounds of read index prove that its member leads.

use std::collections::{BTreeMap, BTreeSet};

use lockstep::member::lease::{Change, Effect, Keeper, Renewal, Settings, TimeToLive};
use lockstep::member::raft::Status;
use lockstep::ports::clock::Instant;

/// See the head of this file.
pub struct Keeping {
    keeper: Keeper,
    /// Rounds under way for it, by their reads, and the terms that they are to confirm.
    rounds: BTreeMap<u64, u64>,
    /// Terms that were confirmed, and not looked at yet.
    confirmed: BTreeSet<u64>,
    is_due: bool,
    /// Something was heard that those who wait want to know.
    has_news: bool,
}

impl Keeping {
    pub fn new(settings: Settings) -> Keeping {
        Keeping {
            keeper: Keeper::new(settings),
            rounds: BTreeMap::new(),
            confirmed: BTreeSet::new(),
            is_due: false,
            has_news: false,
        }
    }

    pub fn changed(&mut self, now: Instant, changes: &[Change]) {
        if !changes.is_empty() {
            self.keeper.changed(now, changes);
            (self.is_due, self.has_news) = (true, true);
        }
    }

    /// Whether its thread has something to do now.
    pub fn is_due(&self) -> bool {
        self.is_due
    }

    /// Its thread looks around; to be called often enough.
    pub fn beat(&mut self, now: Instant, status: &Status) {
        let is_news =
            self.keeper.leads() != (status.role == lockstep::member::raft::Role::Leader).then_some(status.term);
        self.is_due |= is_news || self.keeper.wake_at(now).is_some_and(|at| at <= now);
    }

    /// Its thread works: what follows is to be carried out.
    pub fn work(&mut self, now: Instant, status: &Status) -> Vec<Effect> {
        let led = self.keeper.leads();
        self.keeper.role(now, status.term, status.role);
        let mut effects = Vec::new();
        for term in std::mem::take(&mut self.confirmed) {
            effects.extend(self.keeper.confirmed(now, term));
        }
        effects.extend(self.keeper.work(now));
        self.has_news |= self.keeper.leads() != led;
        self.is_due = self.keeper.wake_at(now).is_some_and(|at| at <= now);
        effects
    }

    /// This read was issued to confirm a term.
    pub fn asked(&mut self, read: u64, term: u64) {
        self.rounds.insert(read, term);
    }

    /// Whether the read was the keeper's; `led` is the term that its round confirmed.
    pub fn answered(&mut self, read: u64, led: Option<u64>) -> bool {
        let Some(term) = self.rounds.remove(&read) else { return false };
        if led == Some(term) {
            self.confirmed.insert(term);
            self.is_due = true;
        }
        true
    }

    pub fn renew(&mut self, now: Instant, lease: i64, term: u64) -> Renewal {
        let renewal = self.keeper.renew(now, lease, term);
        self.is_due |= renewal == Renewal::Later;
        renewal
    }

    pub fn time_to_live(&mut self, now: Instant, lease: i64, term: u64) -> TimeToLive {
        self.keeper.time_to_live(now, lease, term)
    }

    /// Whether something was heard since the last call.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.has_news)
    }
}
