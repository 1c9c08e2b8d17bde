//! The same log makes the same state: at every applied index all members, in all their lives, have the same revision,
//! the same compaction and the same rows (etcd #13766, where members skipped entries after a crash, and each served its
//! own truth for weeks; the hash check of etcd's corruption alarm, at every index).
//!
//! Compares each published view when it is published, and each booted one: revision and compact revision at once; the
//! rows that are new in it a few revisions at a time, one digest a revision; and the HashKV of the whole store at
//! indexes divisible by [`HASH_EVERY`], taken by two members at each, a different pair at the next, so that all hang
//! together at two fifths of the price. Does not see the buckets beside the rows (members, conf state) before
//! [`super::hash_kv`] looks at rest, and skips what a damaged disk does not let it read.

use lockstep::mvcc::View;
use lockstep::mvcc::read::{Read, Revision};

use super::digest::Digest;
use super::{Checker, Objection, PerMember, Seen, object};

/// Views at indexes divisible by this are hashed whole.
const HASH_EVERY: u64 = 64;
/// Rows are read when so many revisions of them have come.
const ROWS_EVERY: i64 = 16;
/// So many revisions of a booted store are looked at again.
const ROWS_AT_BOOT: i64 = 128;

#[derive(Debug)]
pub struct AppliedHash {
    members: u64,
    /// By applied index, where anybody showed it.
    states: Vec<Option<State>>,
    /// By revision: the digest of its rows, and who had it first.
    rows: Vec<Option<(u64, u64)>>,
    /// The revision up to which each member's rows were looked at in this life.
    looked: PerMember<i64>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    member: u64,
    revision: i64,
    compacted: i64,
    hash: Option<(u32, u64)>,
}

impl AppliedHash {
    pub fn new(members: u64) -> AppliedHash {
        AppliedHash { members, states: Vec::new(), rows: Vec::new(), looked: PerMember::default() }
    }

    fn state(&mut self, member: u64, view: &View, hash_due: bool) -> Result<(), Objection> {
        let (index, revision, compacted) = (view.applied_index(), view.rev(), view.compact_rev());
        let at = index as usize;
        if self.states.len() <= at {
            self.states.resize(at + 1, None);
        }
        let state = self.states[at].get_or_insert(State { member, revision, compacted, hash: None });
        if (state.revision, state.compacted) != (revision, compacted) {
            let story = format!(
                "at index {index} member {member} is at revision {revision}, compacted {compacted}; member {} was at \
                 revision {}, compacted {}",
                state.member, state.revision, state.compacted
            );
            return object("different revisions at an index", story);
        }
        if !hash_due || !self.hashes(member, index) {
            return Ok(());
        }
        let Ok(found) = view.hash_kv(0) else { return Ok(()) };
        let state = self.states[at].as_mut().expect("just set");
        let (hash, other) = *state.hash.get_or_insert((found.hash, member));
        if hash != found.hash {
            let story = format!(
                "at index {index}, revision {revision}, the HashKV of member {member} is {:08x}, that of member \
                 {other} was {hash:08x}",
                found.hash
            );
            return object("different hashes at an index", story);
        }
        Ok(())
    }

    fn hashes(&self, member: u64, index: u64) -> bool {
        index > 0 && index.is_multiple_of(HASH_EVERY) && (member + index / HASH_EVERY) % self.members < 2
    }

    /// The rows from the last look on, when there are at least so many revisions of them.
    fn rows(&mut self, member: u64, view: &View, least: i64) -> Result<(), Objection> {
        let (from, upto) = ((*self.looked.of(member)).max(view.compact_rev()).max(1) + 1, view.rev());
        if upto + 1 - from < least.max(1) {
            return Ok(());
        }
        let Ok(rows) = view.rows(Revision { main: from, sub: 0 }, usize::MAX) else { return Ok(()) };
        *self.looked.of(member) = upto;
        let mut rows = rows.iter().peekable();
        for revision in from..=upto {
            let mut digest = Digest::new();
            while let Some(row) = rows.next_if(|row| row.revision.main <= revision) {
                digest = digest.number(row.revision.sub as u64).bytes(&row.value);
            }
            self.row(member, revision, digest.finish())?;
        }
        Ok(())
    }

    fn row(&mut self, member: u64, revision: i64, digest: u64) -> Result<(), Objection> {
        let at = revision as usize;
        if self.rows.len() <= at {
            self.rows.resize(at + 1, None);
        }
        let (known, other) = *self.rows[at].get_or_insert((digest, member));
        if known != digest {
            let story = format!("members {other} and {member} have different rows at revision {revision}");
            return object("different rows at a revision", story);
        }
        Ok(())
    }
}

impl Checker for AppliedHash {
    fn name(&self) -> &'static str {
        "applied-hash"
    }

    fn see(&mut self, _now_us: u64, seen: &Seen) -> Result<(), Objection> {
        match seen {
            Seen::Booted { member, view, .. } => {
                *self.looked.of(*member) = view.rev() - ROWS_AT_BOOT;
                self.state(*member, view, false)?;
                self.rows(*member, view, 1)
            }
            Seen::Published { member, view } => {
                self.state(*member, view, true)?;
                self.rows(*member, view, ROWS_EVERY)
            }
            Seen::AtRest { status, view } => {
                self.state(status.id, view, false)?;
                self.rows(status.id, view, 1)
            }
            _ => Ok(()),
        }
    }
}
