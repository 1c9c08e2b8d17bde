//! What a member's write-ahead log must hold, from what it was told to write and what it was told is durable.
//!
//! Only terms are kept: where log matching holds ([`super::log_matching`] sees to that), index and term name an entry.
//! A mirror judges nothing but a boot: which logs a crash may leave behind.

use std::collections::VecDeque;

use lockstep::member::raft::Persist;
use lockstep_proto::raftpb::Entry;

/// The terms of a log's entries. What lies before the first of them was released: every member has it.
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
    /// Index and term of entries that were not synced, in the order in which they are written.
    unsynced: VecDeque<(u64, u64)>,
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
    pub fn of(log: &[Entry]) -> Terms {
        Terms { first: log.first().map_or(1, Entry::index), terms: log.iter().map(Entry::term).collect() }
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
        for entry in &persist.entries {
            self.told.put(entry.index(), entry.term());
            self.unsynced.push_back((entry.index(), entry.term()));
        }
        self.persists.push_back((persist.number, persist.entries.len()));
    }

    pub fn synced(&mut self, number: u64) {
        while let Some((_, count)) = self.persists.pop_front_if(|persist| persist.0 <= number) {
            for (index, term) in self.unsynced.drain(..count) {
                self.durable.put(index, term);
            }
        }
    }

    /// Goes over to the log of a new life; boot made all of it durable. The log must be what was synced, or that with
    /// the first so many of the entries that were still unsynced: the log is written in order.
    pub fn booted(&mut self, log: &[Entry]) -> Result<(), Misfit> {
        let found = Terms::of(log);
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
        for (index, term) in &self.unsynced {
            possible.put(*index, *term);
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
