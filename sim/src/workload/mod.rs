//! What clients do, one file a kind of work. A kind draws the next operation of a client and learns from its outcome;
//! it judges nothing: that is for the checkers.
//!
//! Every value written in a run is written once (`<client>.<count>`), so that a read tells whose write it saw. Each
//! kind has keys of its own, told by their first letters. What bites is a read soon after a write of somebody else, at
//! another member: so reads go where something was last seen to change ([`Recent`]). What blinds the search for a
//! linearization is a key with many writes that nobody knows the end of: such a key is given up for a new one
//! ([`Keys`]).

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use crate::history::{Operation, Outcome};
use crate::random::Random;

pub mod bank;
pub mod cas;
pub mod compaction;
pub mod deletes;
pub mod lease;
pub mod ranges;
pub mod registers;
pub mod serializable;
pub mod sessions;
pub mod shared;
pub mod watch;

/// One kind of work: all clients share it, so it knows what any of them last learned.
pub trait Work: fmt::Debug {
    /// The next operation of this client. `fresh` makes a value that nobody wrote before.
    fn next(&mut self, client: u64, random: &mut Random, fresh: &mut dyn FnMut() -> String) -> Operation;

    /// What became of an operation that this work asked for.
    fn learn(&mut self, _client: u64, _operation: &Operation, _outcome: &Outcome) {}

    /// A watcher of this client has lost its stream, or history that it needed.
    fn broke(&mut self, _client: u64, _watcher: u64) {}

    /// A lease that this client kept alive is gone.
    fn lost(&mut self, _client: u64, _lease: i64) {}
}

pub struct Kind {
    pub name: &'static str,
    pub make: fn(clients: u64) -> Box<dyn Work>,
    /// How often it is chosen among those that the run has switched on.
    pub weight: u64,
}

/// All kinds of work.
pub const KINDS: &[Kind] = &[
    registers::KIND,
    shared::KIND,
    cas::KIND,
    bank::KIND,
    ranges::KIND,
    deletes::KIND,
    serializable::KIND,
    compaction::KIND,
    watch::KIND,
    lease::KIND,
    sessions::LOCK,
    sessions::ELECTION,
];

pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

/// So many writes of one key may be left open before it is given up: each doubles what a search has to try.
const MOST_OPEN: u64 = 4;
/// Changes remembered, newest first.
const RECENT: usize = 6;

/// Numbered keys of which each may be followed by a next generation: `hot2`, then `hot2.1`, ...
#[derive(Debug)]
pub(crate) struct Keys {
    prefix: &'static str,
    /// By number: generation, and writes of it that are left open.
    worn: BTreeMap<u64, (u64, u64)>,
}

impl Keys {
    pub(crate) fn new(prefix: &'static str) -> Keys {
        Keys { prefix, worn: BTreeMap::new() }
    }

    pub(crate) fn name(&self, number: u64) -> String {
        match self.worn.get(&number) {
            None | Some((0, _)) => format!("{}{number}", self.prefix),
            Some((generation, _)) => format!("{}{number}.{generation}", self.prefix),
        }
    }

    /// Counts the writes that are left open.
    pub(crate) fn learn(&mut self, operation: &Operation, outcome: &Outcome) {
        if !matches!(outcome, Outcome::Unknown { .. }) {
            return;
        }
        for (key, _) in operation.writes() {
            let rest = key.strip_prefix(self.prefix).unwrap_or_default();
            let Ok(number) = rest.split('.').next().unwrap_or_default().parse() else { continue };
            if self.name(number) != key {
                continue;
            }
            let (generation, open) = self.worn.entry(number).or_default();
            *open += 1;
            if *open == MOST_OPEN {
                (*generation, *open) = (*generation + 1, 0);
            }
        }
    }
}

/// The keys of which somebody has just learned something new.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    keys: VecDeque<String>,
    /// The newest value that was seen of each.
    values: BTreeMap<String, Option<String>>,
}

impl Recent {
    pub(crate) fn learn(&mut self, operation: &Operation, outcome: &Outcome) {
        match outcome {
            Outcome::Done { succeeded: true, .. } => {
                for (key, value) in operation.writes() {
                    self.note(key, value);
                }
            }
            Outcome::Done { found, .. } | Outcome::Read { found, .. } if !operation.is_serializable() => {
                for (key, value) in found {
                    self.note(key, value.as_deref());
                }
            }
            _ => {}
        }
    }

    /// The newest as often as all the others together.
    pub(crate) fn pick(&self, random: &mut Random) -> Option<String> {
        let newest = self.keys.front()?;
        if random.permille(500) {
            return Some(newest.clone());
        }
        self.keys.get(random.below(self.keys.len() as u64) as usize).cloned()
    }

    fn note(&mut self, key: &str, value: Option<&str>) {
        let value = value.map(str::to_owned);
        if self.values.get(key) == Some(&value) {
            return;
        }
        self.values.insert(key.to_owned(), value);
        self.keys.retain(|known| known != key);
        self.keys.push_front(key.to_owned());
        if self.keys.len() > RECENT
            && let Some(oldest) = self.keys.pop_back()
        {
            self.values.remove(&oldest);
        }
    }
}
