//! Linearizable reads: which of them wait for which round of read index.
//!
//! A read joins only a round issued **after** it arrived: an older round's index may miss a write that was acknowledged
//! in between. Raft drops a round in silence when it has no leader, or a leader that has not yet committed in its term;
//! so a round that takes too long is issued again, with a new stamp, and its old stamp is forgotten.

use std::collections::BTreeMap;

use crate::ports::clock::Instant;

/// A linearizable read that waits for an index. `expires`: nobody waits for it after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    pub id: u64,
    pub expires: Instant,
}

/// Rounds in flight at a time. More than one, so that a read waits for one round trip and not for two.
const ROUNDS: usize = 4;

#[derive(Debug, Default)]
pub struct Reads {
    /// Arrived, in no round yet.
    waiting: Vec<ReadRequest>,
    /// By the sequence of the round's stamp.
    rounds: BTreeMap<u64, Round>,
}

#[derive(Debug)]
struct Round {
    reads: Vec<ReadRequest>,
    age_ticks: u64,
}

impl Reads {
    pub fn push(&mut self, read: ReadRequest) {
        if mutation!(ReadJoinsRound)
            && let Some(mut round) = self.rounds.last_entry()
        {
            round.get_mut().reads.push(read);
            return;
        }
        sometimes!(!self.rounds.is_empty(), "read did not join the round under way");
        self.waiting.push(read);
    }

    /// Starts a round for everything that waits, if there is anything and room; `sequence` is its stamp's.
    pub fn start_round(&mut self, sequence: impl FnOnce() -> u64) -> Option<u64> {
        if self.waiting.is_empty() || self.rounds.len() >= ROUNDS {
            sometimes!(!self.waiting.is_empty(), "read waited because of too many rounds under way");
            return None;
        }
        let sequence = sequence();
        let reads = std::mem::take(&mut self.waiting);
        self.rounds.insert(sequence, Round { reads, age_ticks: 0 });
        Some(sequence)
    }

    /// The reads of a round that now has its index; empty for a round given up or already served.
    pub fn finish(&mut self, sequence: u64) -> Vec<ReadRequest> {
        self.rounds.remove(&sequence).map(|round| round.reads).unwrap_or_default()
    }

    /// Ages the rounds; those older than `patience_ticks` go back to waiting. Expired reads are forgotten.
    pub fn tick(&mut self, now: Instant, patience_ticks: u64) {
        for round in self.rounds.values_mut().filter(|_| !mutation!(ReadNeverRetried)) {
            round.age_ticks += 1;
        }
        let late: Vec<u64> =
            self.rounds.iter().filter(|(_, r)| r.age_ticks > patience_ticks).map(|(s, _)| *s).collect();
        sometimes!(!late.is_empty(), "read index retried after a time-out");
        for sequence in late {
            let reads = self.finish(sequence);
            self.waiting.extend(reads);
        }
        let waiting = self.waiting.len();
        self.waiting.retain(|read| read.expires > now);
        sometimes!(self.waiting.len() < waiting, "read expired before it had its index");
    }

    /// Gives every round up, because the leader that would have answered is gone.
    pub fn restart(&mut self) {
        if mutation!(ReadNeverRetried) {
            return;
        }
        sometimes!(!self.rounds.is_empty(), "read index retried after leader change");
        for (_, round) in std::mem::take(&mut self.rounds) {
            self.waiting.extend(round.reads);
        }
    }
}
