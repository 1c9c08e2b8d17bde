//! The log as raft sees it: terms of all entries, and the newest entries themselves in bounded memory.
//!
//! Everything lies in the write-ahead log; this keeps what raft may ask for without waiting. Entries that are not yet
//! applied are always here. Older ones may have been evicted: when a lagging follower needs them, [`Log`] answers
//! "temporarily unavailable", records a [`Fetch`], and the host brings them from the write-ahead log.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use lockstep_proto::raftpb;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{Error, GetEntriesContext, RaftState, Result, Storage, StorageError};

use crate::wal::{self, SnapshotMark, Wal};

/// Entries `[low, high)` that the host must read from the write-ahead log and hand back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    pub id: u64,
    pub low: u64,
    pub high: u64,
    pub max_bytes: u64,
}

impl Fetch {
    /// What the host hands back. Nothing when the entries were overwritten or released since they were asked for: then
    /// nobody wants them any more, and it is no failure of the log.
    pub fn read_from(&self, wal: &Wal) -> std::result::Result<Vec<raftpb::Entry>, wal::Error> {
        match wal.read(self.low, self.high, self.max_bytes) {
            Err(wal::Error::Released { .. } | wal::Error::Unavailable { .. }) => {
                sometimes!("fetched entries were gone when the log came to read them");
                Ok(Vec::new())
            }
            read => read,
        }
    }
}

/// What raft-rs reads its log from.
pub struct Log {
    hard_state: HardState,
    conf_state: ConfState,
    /// Index and term of the entry before the first one kept anywhere.
    truncated: (u64, u64),
    /// (first index, term) of each run of entries of one term, ascending.
    runs: VecDeque<(u64, u64)>,
    last_index: u64,
    /// The newest entries, contiguous up to `last_index`.
    cache: VecDeque<Entry>,
    cache_bytes: u64,
    cache_limit_bytes: u64,
    fetching: RefCell<Fetching>,
    /// The snapshot that can be sent to who needs what was released.
    prepared: Option<SnapshotMetadata>,
    /// Raft asked for one, and there was none.
    wanted: Cell<bool>,
}

#[derive(Default)]
struct Fetching {
    next_id: u64,
    wanted: Vec<(Fetch, GetEntriesContext)>,
    /// Ids below this were given to the host.
    handed_out: u64,
    /// What the host brought, for the one call that asked for it.
    fetched: Vec<Entry>,
}

impl Log {
    /// `entries` are the newest ones, contiguous; everything from `first_index` on lies in the write-ahead log.
    pub fn new(
        hard_state: HardState,
        conf_state: ConfState,
        truncated: (u64, u64),
        runs: Vec<(u64, u64)>,
        last_index: u64,
        entries: Vec<Entry>,
        cache_limit_bytes: u64,
    ) -> Log {
        let mut log = Log {
            hard_state,
            conf_state,
            truncated,
            runs: runs.into(),
            last_index,
            cache: VecDeque::new(),
            cache_bytes: 0,
            cache_limit_bytes,
            fetching: RefCell::default(),
            prepared: None,
            wanted: Cell::default(),
        };
        for entry in entries {
            log.cache_bytes += cost(&entry);
            log.cache.push_back(entry);
        }
        assert!(log.cache.back().is_none_or(|e| e.index == last_index), "the cache ends where the log ends");
        log
    }

    /// Appends entries that raft handed out, dropping what they overwrite.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(first.index <= self.last_index + 1, "raft left a gap: {} after {}", first.index, self.last_index);
        assert!(first.index > self.truncated.0, "raft rewrote a released entry: {}", first.index);
        if first.index <= self.last_index {
            sometimes!("follower truncated a conflicting suffix");
            while self.cache.back().is_some_and(|e| e.index >= first.index) {
                let gone = self.cache.pop_back().expect("checked");
                self.cache_bytes -= cost(&gone);
            }
            while self.runs.back().is_some_and(|run| run.0 >= first.index) {
                self.runs.pop_back();
            }
        }
        for entry in entries {
            if self.runs.back().is_none_or(|run| run.1 != entry.term) {
                self.runs.push_back((entry.index, entry.term));
            }
            self.cache_bytes += cost(entry);
            self.cache.push_back(entry.clone());
        }
        self.last_index = entries.last().expect("not empty").index;
    }

    /// Frees memory down to the limit, keeping every entry above `applied`.
    pub fn evict(&mut self, applied: u64) {
        while self.cache_bytes > self.cache_limit_bytes && self.cache.front().is_some_and(|e| e.index <= applied) {
            let gone = self.cache.pop_front().expect("checked");
            self.cache_bytes -= cost(&gone);
            sometimes!("entry evicted from memory");
        }
    }

    /// Forgets every entry up to `index`: no member needs it.
    pub fn release(&mut self, index: u64) {
        if index <= self.truncated.0 {
            return;
        }
        assert!(index <= self.last_index, "released beyond the log");
        let term = self.term(index).expect("inside the log");
        while self.cache.front().is_some_and(|e| e.index <= index) {
            let gone = self.cache.pop_front().expect("checked");
            self.cache_bytes -= cost(&gone);
        }
        while self.runs.len() > 1 && self.runs[1].0 <= index + 1 {
            self.runs.pop_front();
        }
        self.truncated = (index, term);
    }

    /// Everything is in a snapshot: the log goes on behind it.
    pub fn restart_behind(&mut self, mark: SnapshotMark) {
        self.truncated = (mark.index, mark.term);
        self.last_index = mark.index;
        self.runs.clear();
        self.cache.clear();
        self.cache_bytes = 0;
        self.prepared = None;
    }

    pub fn prepare(&mut self, snapshot: SnapshotMetadata) {
        if snapshot.index >= self.truncated.0 {
            self.prepared = Some(snapshot);
        }
    }

    /// The index of the snapshot that can be sent.
    pub fn prepared(&self) -> Option<u64> {
        self.prepared.as_ref().map(|snapshot| snapshot.index)
    }

    pub fn drop_prepared(&mut self) {
        self.prepared = None;
    }

    /// Whether raft has asked for a snapshot in vain since the last call.
    pub fn take_wanted(&mut self) -> bool {
        self.wanted.take()
    }

    pub fn last(&self) -> u64 {
        self.last_index
    }

    pub fn released(&self) -> u64 {
        self.truncated.0
    }

    /// The fetches that came up since the last call.
    pub fn take_fetches(&mut self) -> Vec<Fetch> {
        let fetching = self.fetching.get_mut();
        let new = fetching.wanted.iter().filter(|(f, _)| f.id >= fetching.handed_out).map(|(f, _)| f.clone()).collect();
        fetching.handed_out = fetching.next_id;
        new
    }

    /// Makes fetched entries readable and returns the context to retry with; `None` when nobody asked (any more).
    pub fn fetched(&mut self, id: u64, entries: Vec<Entry>) -> Option<GetEntriesContext> {
        let fetching = self.fetching.get_mut();
        let at = fetching.wanted.iter().position(|(f, _)| f.id == id)?;
        fetching.fetched = entries;
        Some(fetching.wanted.remove(at).1)
    }

    pub fn drop_fetched(&mut self) {
        self.fetching.get_mut().fetched = Vec::new();
    }

    fn cached(&self, low: u64, high: u64, max_bytes: u64) -> Vec<Entry> {
        let first = self.cache.front().expect("not empty").index;
        let from = (low - first) as usize;
        limit(self.cache.range(from..(high - first) as usize), max_bytes)
    }
}

impl Storage for Log {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        let max_bytes = max_size.into().unwrap_or(u64::MAX);
        assert!(high <= self.last_index + 1, "entries [{low}, {high}) beyond {}", self.last_index);
        if low <= self.truncated.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        if low >= high {
            return Ok(Vec::new());
        }
        if self.cache.front().is_some_and(|e| e.index <= low) {
            return Ok(self.cached(low, high, max_bytes));
        }
        let mut fetching = self.fetching.borrow_mut();
        if fetching.fetched.first().is_some_and(|e| e.index <= low)
            && fetching.fetched.last().is_some_and(|e| e.index >= low)
        {
            let from = (low - fetching.fetched[0].index) as usize;
            let to = fetching.fetched.len().min(from + (high - low) as usize);
            return Ok(limit(fetching.fetched[from..to].iter(), max_bytes));
        }
        assert!(context.can_async(), "raft needs entry {low} at once, but it was evicted");
        if fetching.wanted.iter().all(|(f, _)| f.low != low) {
            sometimes!("lagging follower's entries fetched from the log");
            let id = fetching.next_id;
            fetching.next_id += 1;
            fetching.wanted.push((Fetch { id, low, high, max_bytes }, context));
        }
        Err(Error::Store(StorageError::LogTemporarilyUnavailable))
    }

    fn term(&self, index: u64) -> Result<u64> {
        if index == self.truncated.0 {
            return Ok(self.truncated.1);
        }
        if index < self.truncated.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        if index > self.last_index {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let after = self.runs.partition_point(|run| run.0 <= index);
        Ok(self.runs[after - 1].1)
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.truncated.0 + 1)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last_index)
    }

    fn snapshot(&self, request_index: u64, to: u64) -> Result<Snapshot> {
        // Who was added since is not in it, and would refuse it for ever.
        let knows = |conf: &ConfState| conf.voters.contains(&to) || conf.learners.contains(&to);
        let names = |conf: &ConfState| knows(conf) || mutation!(SnapshotWithoutReceiver);
        let prepared = self.prepared.as_ref().filter(|prepared| prepared.index >= request_index);
        sometimes!(prepared.is_some_and(|p| !names(p.get_conf_state())), "kept snapshot did not name its receiver");
        let Some(metadata) = prepared.filter(|prepared| names(prepared.get_conf_state())) else {
            self.wanted.set(true);
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        };
        let mut snapshot = Snapshot::default();
        snapshot.set_metadata(metadata.clone());
        Ok(snapshot)
    }
}

fn cost(entry: &Entry) -> u64 {
    // What an entry takes beside its data: the struct in the deque.
    entry.data.len() as u64 + 128
}

/// At least one entry, then as many as fit.
fn limit<'a>(entries: impl Iterator<Item = &'a Entry>, max_bytes: u64) -> Vec<Entry> {
    let mut bytes = 0;
    let mut out = Vec::new();
    for entry in entries {
        bytes += entry.data.len() as u64 + 16;
        if bytes > max_bytes && !out.is_empty() {
            break;
        }
        out.push(entry.clone());
    }
    out
}
