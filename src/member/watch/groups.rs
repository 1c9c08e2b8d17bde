//! Groups: the watchers of the same key, or the same range, which hear of the same events.
//!
//! A group lists only those who are synced, so that a change costs nothing for those who are behind; it stays as long
//! as it has any watcher. Taking one out moves the last into its place, whatever the size.

use std::collections::BTreeMap;

use bytes::Bytes;
use slab::Slab;

use super::intervals::{Intervals, Range};

/// What a watcher watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    One(Bytes),
    Range(Range),
}

#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: Slab<Group>,
    ones: BTreeMap<Bytes, usize>,
    ranges: Intervals,
}

#[derive(Debug)]
struct Group {
    keys: Keys,
    watchers: usize,
    synced: Vec<usize>,
}

impl Groups {
    /// Counts a watcher in; returns the number of its group.
    pub fn join(&mut self, keys: Keys) -> usize {
        let known = match &keys {
            Keys::One(key) => self.ones.get(key).copied(),
            Keys::Range(range) => self.ranges.get(range),
        };
        let group = known.unwrap_or_else(|| {
            let group = self.groups.insert(Group { keys: keys.clone(), watchers: 0, synced: Vec::new() });
            match keys {
                Keys::One(key) => drop(self.ones.insert(key, group)),
                Keys::Range(range) => self.ranges.insert(range, group),
            }
            group
        });
        self.groups[group].watchers += 1;
        group
    }

    /// Counts a watcher out; it is not among the synced any more.
    pub fn leave(&mut self, group: usize) {
        self.groups[group].watchers -= 1;
        if self.groups[group].watchers > 0 {
            return;
        }
        let gone = self.groups.remove(group);
        assert!(gone.synced.is_empty(), "a group without watchers has none that are synced");
        match gone.keys {
            Keys::One(key) => drop(self.ones.remove(&key)),
            Keys::Range(range) => self.ranges.remove(&range),
        }
    }

    pub fn synced(&self, group: usize) -> &[usize] {
        &self.groups[group].synced
    }

    /// Returns the watcher's place among the synced.
    pub fn add_synced(&mut self, group: usize, watcher: usize) -> usize {
        let synced = &mut self.groups[group].synced;
        synced.push(watcher);
        synced.len() - 1
    }

    /// Takes the watcher at this place out; returns the one that has its place now.
    pub fn remove_synced(&mut self, group: usize, place: usize) -> Option<usize> {
        let synced = &mut self.groups[group].synced;
        synced.swap_remove(place);
        synced.get(place).copied()
    }

    /// Calls `f` with every group that watches this key.
    pub fn of_key(&self, key: &[u8], mut f: impl FnMut(usize)) {
        if let Some(group) = self.ones.get(key) {
            f(*group);
        }
        self.ranges.stab(key, &mut f);
    }
}
