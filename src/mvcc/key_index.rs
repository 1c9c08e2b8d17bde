//! The revisions of one key: etcd's generations, in as few bytes as one revision deserves.
//!
//! A generation starts with a put on a key that does not exist and ends with a tombstone, so a flat list of marks says
//! all there is: `put put tombstone put` is a finished generation and a living one. Most keys have one revision only;
//! that one, and what the next put needs to know (creation and version), are inline, and everything older is behind one
//! pointer. Versions and creation revisions of older marks are not kept: the stored `KeyValue` says them.

use super::read::Revision;

/// One change of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    pub main: i64,
    sub: u32,
    pub tombstone: bool,
}

impl Mark {
    pub fn new(revision: Revision, tombstone: bool) -> Mark {
        let sub = u32::try_from(revision.sub).expect("a transaction has fewer than 2^32 operations");
        Mark { main: revision.main, sub, tombstone }
    }

    pub fn revision(self) -> Revision {
        Revision { main: self.main, sub: i64::from(self.sub) }
    }
}

/// All that is remembered of one key. Never empty: a key whose last mark goes leaves the index.
#[derive(Clone, Debug)]
pub struct KeyIndex {
    last: Mark,
    /// Main revision of the first put of the newest generation; 0 when compaction took it before the store was opened.
    created: i64,
    /// Puts in the newest generation, compacted ones included.
    version: i64,
    older: Option<Box<Older>>,
}

/// How far a compaction of one key came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compacted {
    Finished,
    /// There was more to drop than room for it.
    Unfinished,
    /// Nothing is left of the key.
    Gone,
}

/// Everything before the newest mark, oldest first.
#[derive(Clone, Debug)]
struct Older(Vec<Mark>);

impl KeyIndex {
    /// A key seen for the first time: by its first put, or by the oldest row that compaction left of it.
    pub fn new(mark: Mark, created: i64, version: i64) -> KeyIndex {
        KeyIndex { last: mark, created, version, older: None }
    }

    /// Adds a put and returns the creation revision and the version it has.
    pub fn put(&mut self, revision: Revision) -> (i64, i64) {
        if self.last.tombstone {
            self.created = revision.main;
            self.version = 0;
        }
        self.push(Mark::new(revision, false));
        self.version += 1;
        (self.created, self.version)
    }

    /// Ends the generation; `false` when the key does not exist.
    pub fn tombstone(&mut self, revision: Revision) -> bool {
        if self.last.tombstone {
            return false;
        }
        self.push(Mark::new(revision, true));
        true
    }

    /// Adds the next row found at opening; the row itself says what it was.
    pub fn restore(&mut self, mark: Mark, created: i64, version: i64) {
        self.push(mark);
        if !mark.tombstone {
            (self.created, self.version) = (created, version);
        }
    }

    pub fn is_live(&self) -> bool {
        !self.last.tombstone
    }

    /// The revision a reader at `at` finds: the newest with a main revision up to `at`, unless that is a tombstone.
    pub fn live_at(&self, at: i64) -> Option<Revision> {
        self.mark_at(at).filter(|m| !m.tombstone).map(Mark::revision)
    }

    /// The newest mark with a main revision up to `at`.
    pub fn mark_at(&self, at: i64) -> Option<Mark> {
        if self.last.main <= at {
            return Some(self.last);
        }
        let older = &self.older.as_ref()?.0;
        older[..older.partition_point(|m| m.main <= at)].last().copied()
    }

    /// Drops every mark up to `at` but the newest, and that one too when it is a tombstone older than `at`. (A
    /// tombstone *at* `at` stays, so that a watch from `at` sees it.) Drops the oldest first, and at most `room` of
    /// them.
    pub fn compact(&mut self, at: i64, room: usize, dropped: &mut Vec<Revision>) -> Compacted {
        let older = self.older.as_deref().map_or(&[][..], |older| &older.0);
        let upto = older.partition_point(|m| m.main <= at);
        let whole = self.last.main <= at;
        let newest = if whole { Some(self.last) } else { older[..upto].last().copied() };
        let stays = newest.is_some_and(|m| !m.tombstone || m.main == at && !mutation!(RevisionOfRowsAlone));
        let droppable = upto + usize::from(whole) - usize::from(stays);

        let cut = droppable.min(upto).min(room);
        if let Some(older) = &mut self.older {
            dropped.extend(older.0.drain(..cut).map(Mark::revision));
            match older.0.len() {
                0 => self.older = None,
                left if cut > left => older.0.shrink_to(left + 1),
                _ => {}
            }
        }
        if cut == droppable {
            return Compacted::Finished;
        }
        if cut == room {
            return Compacted::Unfinished;
        }
        dropped.push(self.last.revision());
        Compacted::Gone
    }

    /// Whether a compaction could ever drop something of it.
    pub fn is_single_put(&self) -> bool {
        self.older.is_none() && !self.last.tombstone
    }

    fn push(&mut self, mark: Mark) {
        assert!(mark.revision() > self.last.revision(), "revisions of a key ascend: {mark:?} after {:?}", self.last);
        let previous = std::mem::replace(&mut self.last, mark);
        self.older.get_or_insert_with(|| Box::new(Older(Vec::new()))).0.push(previous);
    }
}
