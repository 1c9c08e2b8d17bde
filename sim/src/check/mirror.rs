//! What a member's write-ahead log must hold, from what it was told to write and what it was told is durable.
//!
//! Only terms are kept: where log matching holds ([`super::log_matching`] sees to that), index and term name an entry.
//! A mirror judges nothing but a boot: which logs a crash may leave behind.

use std::collections::VecDeque;

use lockstep::member::raft::Persist;
use lockstep_proto::raftpb::Entry;

/// The terms of a log's entries. What lies before the first of them was released, or is in a snapshot: the store has
/// it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    first: u64,
    terms: Vec<u64>,
}

/// One member's log: as it was told to write it, and as far as that is durable.
#[derive(Clone, Debug, Default)]
pub struct Mirror {
    told: Terms,
    durable: Terms,
    /// Persists that were not synced, oldest first: number, and how many of `unsynced` are theirs.
    persists: VecDeque<(u64, usize)>,
    /// What was not synced, in the order in which it is written.
    unsynced: VecDeque<Written>,
}

#[derive(Clone, Copy, Debug)]
enum Written {
    Entry {
        index: u64,
        term: u64,
    },
    /// The log starts anew behind this entry.
    Snapshot {
        index: u64,
    },
}

/// What is wrong with a log found at boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// The first entry that was synced and is not there, or is another.
    Lost { index: u64, term: u64 },
    /// Whatever was synced is there, and more than was ever written.
    Foreign { last: u64 },
}

impl Default for Terms {
    fn default() -> Terms {
        Terms { first: 1, terms: Vec::new() }
    }
}

impl Terms {
    /// A log that begins, or is to go on, at `first`.
    pub fn of(first: u64, log: &[Entry]) -> Terms {
        Terms { first, terms: log.iter().map(Entry::term).collect() }
    }

    pub fn first(&self) -> u64 {
        self.first
    }

    pub fn last(&self) -> u64 {
        self.first + self.terms.len() as u64 - 1
    }

    /// 0 before the very first entry, `None` outside of the log.
    pub fn term(&self, index: u64) -> Option<u64> {
        if index == 0 {
            return Some(0);
        }
        self.terms.get(usize::try_from(index.checked_sub(self.first)?).ok()?).copied()
    }

    /// Whether this entry is there, or was released.
    pub fn holds(&self, index: u64, term: u64) -> bool {
        index < self.first || self.term(index) == Some(term)
    }

    /// Writes an entry, and drops what it overwrites and all behind that. Entries that leave a gap are ignored.
    pub fn put(&mut self, index: u64, term: u64) {
        if (self.first..=self.last() + 1).contains(&index) {
            self.terms.truncate((index - self.first) as usize);
            self.terms.push(term);
        }
    }

    /// Starts anew behind an entry.
    pub fn restart_behind(&mut self, index: u64) {
        *self = Terms { first: index + 1, terms: Vec::new() };
    }

    fn write(&mut self, written: Written) {
        match written {
            Written::Entry { index, term } => self.put(index, term),
            Written::Snapshot { index } => self.restart_behind(index),
        }
    }

    fn agrees(&self, other: &Terms) -> bool {
        let from = self.first.max(other.first);
        self.last() == other.last() && (from..=self.last()).rev().all(|index| self.term(index) == other.term(index))
    }
}

impl Mirror {
    /// The log as the member was told to write it.
    pub fn told(&self) -> &Terms {
        &self.told
    }

    /// The part that a crash leaves.
    pub fn durable(&self) -> &Terms {
        &self.durable
    }

    pub fn persist(&mut self, persist: &Persist) {
        let snapshot = persist.snapshot.map(|mark| Written::Snapshot { index: mark.index });
        let entries = persist.entries.iter().map(|e| Written::Entry { index: e.index(), term: e.term() });
        let before = self.unsynced.len();
        for written in snapshot.into_iter().chain(entries) {
            self.told.write(written);
            self.unsynced.push_back(written);
        }
        self.persists.push_back((persist.number, self.unsynced.len() - before));
    }

    pub fn synced(&mut self, number: u64) {
        while let Some((_, count)) = self.persists.pop_front_if(|persist| persist.0 <= number) {
            for written in self.unsynced.drain(..count) {
                self.durable.write(written);
            }
        }
    }

    /// Goes over to the log of a new life; boot made all of it durable. The log must be what was synced, or that with
    /// the first so many of the entries that were still unsynced: the log is written in order.
    pub fn booted(&mut self, first: u64, log: &[Entry]) -> Result<(), Misfit> {
        let found = Terms::of(first, log);
        let outcome = self.fits(&found);
        self.durable = found.clone();
        self.told = found;
        self.persists.clear();
        self.unsynced.clear();
        outcome
    }

    fn fits(&self, found: &Terms) -> Result<(), Misfit> {
        let mut possible = self.durable.clone();
        // A member's first log is written by its boot.
        if possible.last() == 0 || possible.agrees(found) {
            return Ok(());
        }
        for written in &self.unsynced {
            possible.write(*written);
            if possible.agrees(found) {
                return Ok(());
            }
        }
        let lost = (found.first..=self.durable.last()).find(|index| {
            let term = self.durable.term(*index);
            term.is_some() && term != found.term(*index)
        });
        match lost {
            Some(index) => Err(Misfit::Lost { index, term: self.durable.term(index).unwrap_or(0) }),
            None => Err(Misfit::Foreign { last: found.last() }),
        }
    }
}
