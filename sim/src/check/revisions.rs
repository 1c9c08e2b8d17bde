//! Revisions only go forward, and mean one thing (etcd's KV API guarantees; etcd #17780, where a member that crashed
//! during a compaction came back with a smaller revision than it had reported).
//!
//! What is promised: a client that stays with a member sees header revisions that never go back while that member
//! lives; two writes that were done have two revisions; nobody is told of a revision before the member has applied it
//! (a reply before apply); and a store that boots is at the revision that was reached at its applied index, not below.
//! A booted store may well be behind what the member had *shown*: it catches up from the log.
//!
//! Sees headers of answers and the revisions of views. Does not see `mod_revision`s: outcomes carry none; that a read's
//! values fit its revision is checked by [`super::stale_reads`], that rows are in their places by
//! [`super::applied_hash`].

use std::collections::BTreeMap;

use lockstep::mvcc::View;
use lockstep::mvcc::read::Read;

use super::writes;
use super::{Checker, Objection, PerMember, Seen, object, object_naming};
use crate::history::{Operation, Outcome};

#[derive(Debug, Default)]
pub struct Revisions {
    /// Revision -> the operation that made it.
    made_by: BTreeMap<i64, u64>,
    /// (member, client) -> the newest revision it was told there, in this life.
    told: BTreeMap<(u64, u64), i64>,
    /// Applied index -> the revision there, wherever it moved.
    at_index: BTreeMap<u64, i64>,
    of: PerMember<Shown>,
}

/// What a member shows to readers.
#[derive(Clone, Copy, Debug)]
struct Shown {
    applied: u64,
    revision: i64,
    compacted: i64,
    /// In all its lives.
    newest_revision: i64,
}

impl Default for Shown {
    fn default() -> Shown {
        // Before the first compaction a store says -1.
        Shown { applied: 0, revision: 0, compacted: -1, newest_revision: 0 }
    }
}

impl Revisions {
    pub fn new() -> Revisions {
        Revisions::default()
    }

    fn booted(&mut self, member: u64, view: &View) -> Result<(), Objection> {
        self.told.retain(|(at, _), _| *at != member);
        let (applied, revision) = (view.applied_index(), view.rev());
        let this = self.of.of(member);
        let newest_revision = this.newest_revision.max(revision);
        *this = Shown { applied, revision, compacted: view.compact_rev(), newest_revision };
        match self.at_index.range(..=applied).next_back() {
            Some((index, known)) if revision < *known => {
                let story = format!(
                    "member {member} boots with a store that has applied up to {applied} and is at revision \
                     {revision}, but at index {index} the revision was already {known}"
                );
                object("revision went back over a restart", story)
            }
            _ => Ok(()),
        }
    }

    fn published(&mut self, member: u64, view: &View) -> Result<(), Objection> {
        let this = self.of.of(member);
        let (applied, revision, compacted) = (view.applied_index(), view.rev(), view.compact_rev());
        if applied < this.applied || revision < this.revision || compacted < this.compacted {
            let story = format!(
                "member {member} shows index {applied}, revision {revision}, compacted {compacted}, after {this:?}"
            );
            return object("revision went back", story);
        }
        if revision != this.revision {
            self.at_index.entry(applied).or_insert(revision);
        }
        let newest_revision = this.newest_revision.max(revision);
        *this = Shown { applied, revision, compacted, newest_revision };
        Ok(())
    }

    fn answered(
        &mut self,
        number: u64,
        client: u64,
        member: u64,
        operation: &Operation,
        outcome: &Outcome,
    ) -> Result<(), Objection> {
        let Some(revision) = writes::revision(outcome) else { return Ok(()) };
        let shown = self.of.of(member).newest_revision;
        if revision > shown {
            let story = format!(
                "operation {number} ({operation}) of client {client} is answered with revision {revision} by member \
                 {member}, which has shown nothing newer than {shown}"
            );
            return object_naming("answered before it was applied", story, &[number]);
        }
        let told = self.told.entry((member, client)).or_insert(revision);
        if revision < *told {
            let story = format!(
                "operation {number} ({operation}) of client {client} is answered with revision {revision} by member \
                 {member}, which had told it {told}"
            );
            return object_naming("a client's revision went back", story, &[number]);
        }
        *told = revision;
        if let Some(made) = writes::changed_at(operation, outcome)
            && let Some(other) = self.made_by.insert(made, number)
        {
            let story = format!("operations {other} and {number} ({operation}) were both done at revision {made}");
            return object_naming("two writes at one revision", story, &[other, number]);
        }
        Ok(())
    }
}

impl Checker for Revisions {
    fn name(&self) -> &'static str {
        "revisions"
    }

    fn see(&mut self, _now_us: u64, seen: &Seen) -> Result<(), Objection> {
        match seen {
            Seen::Booted { member, view, .. } => self.booted(*member, view),
            Seen::Published { member, view } => self.published(*member, view),
            Seen::Answered { number, client, member, operation, outcome } => {
                self.answered(*number, *client, *member, operation, outcome)
            }
            _ => Ok(()),
        }
    }
}
