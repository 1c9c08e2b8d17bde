//! Nothing that a client was told is done is ever lost (thesis, section 6.3; etcd #14370, a write acknowledged and gone
//! after a power cut; the Jepsen and LazyFS tests' question).
//!
//! On the way, by index: the newest entry that any client was answered from must be held durably by so many voters, in
//! logs or stores, that those without it are no majority, after every boot; and a member that had synced it must still
//! have it. By log matching that one entry speaks for all before it. At rest, by key: every acknowledged write that no
//! later revision overwrote is there, with its revision; a deletion stays one, unless a later write brought the key
//! back; and each row above the compaction is what was acknowledged at its revision.
//!
//! Sees a revision's index as that of the first view that showed it, which is that entry or one of the same step behind
//! it. Takes a key that is gone for deleted only where somebody asked for that and was not told that it failed.

use std::collections::{BTreeMap, BTreeSet};

use lockstep::mvcc::read::{Error, RangeOptions, Read, Revision};
use lockstep::mvcc::{Row, View};
use lockstep_proto::raftpb::Entry;

use super::mirror::Mirror;
use super::voters::Newest;
use super::writes;
use super::{Checker, Objection, PerMember, Seen, is_majority, object, object_naming};
use crate::history::{Operation, Outcome};

const LOST: &str = "acknowledged write lost";

#[derive(Debug)]
pub struct Durability {
    cluster: Newest,
    of: PerMember<Member>,
    /// Terms of committed entries, by index - 1.
    terms: Vec<u64>,
    /// Revision -> the applied index of the first view that showed it.
    shown_at: BTreeMap<i64, u64>,
    newest: Option<Answered>,
    /// What was done, by revision and key.
    writes: BTreeMap<(i64, String), Write>,
    /// Deletions that were asked for and not answered, by operation: they may come true at any time. One that was asked
    /// for again without an answer stays open (the number counts the attempts).
    open_deletes: BTreeMap<u64, (String, u64)>,
}

#[derive(Debug, Default)]
struct Member {
    mirror: Mirror,
    /// Everything up to here is in its store, durably, as of its last boot.
    stored: u64,
}

/// The newest entry that somebody was answered from.
#[derive(Clone, Debug)]
struct Answered {
    index: u64,
    term: u64,
    number: u64,
    told: String,
}

#[derive(Clone, Debug)]
struct Write {
    /// `None`: deleted.
    value: Option<String>,
    number: u64,
    client: u64,
}

impl Durability {
    pub fn new(members: u64) -> Durability {
        Durability {
            cluster: Newest::founded_by(members),
            of: PerMember::default(),
            terms: Vec::new(),
            shown_at: BTreeMap::new(),
            newest: None,
            writes: BTreeMap::new(),
            open_deletes: BTreeMap::new(),
        }
    }

    fn booted(&mut self, member: u64, first: u64, log: &[Entry], view: &View) -> Result<(), Objection> {
        let this = self.of.of(member);
        let newest = self.newest.clone();
        let had = newest.as_ref().is_some_and(|newest| this.holds(newest));
        // What is wrong with the log as a whole is for log matching to say.
        let _ = this.mirror.booted(first, log);
        this.stored = view.applied_index();
        let (first, stored) = (this.mirror.durable().first(), this.stored);
        if first > stored + 1 {
            let story =
                format!("member {member} boots with a store up to entry {stored}, and a log that begins at {first}");
            return object("hole between store and log", story);
        }
        let Some(newest) = newest else { return Ok(()) };
        let Answered { index, term, number, told } = &newest;
        if had && !self.of.of(member).holds(&newest) {
            let last = log.last().map_or(0, Entry::index);
            let story = format!(
                "member {member} had synced entry {term}/{index}, boots with a log up to {last} and a store up to \
                 {stored}, and has it no more; {told}"
            );
            return object_naming(LOST, story, &[*number]);
        }
        let holders: Vec<u64> = self.of.iter().filter(|of| of.1.holds(&newest)).map(|(id, _)| id).collect();
        // Who was never started has nothing; who is lost elects nobody.
        let Newest { voters, lost, .. } = &self.cluster;
        let voters: Vec<u64> = voters.iter().copied().collect();
        let others: Vec<u64> =
            voters.iter().copied().filter(|id| !holders.contains(id) && !lost.contains(id)).collect();
        if !is_majority(&others, &voters) {
            return Ok(());
        }
        let story =
            format!("after member {member} has booted, entry {term}/{index} is held by {holders:?} only; {told}");
        object_naming(LOST, story, &[*number])
    }

    fn answered(&mut self, number: u64, client: u64, operation: &Operation, outcome: &Outcome) {
        let attempts = self.open_deletes.get(&number).map_or(0, |(_, attempts)| *attempts);
        if attempts == 1 && !matches!(outcome, Outcome::Unknown { .. }) {
            self.open_deletes.remove(&number);
        }
        if let Some(revision) = writes::changed_at(operation, outcome) {
            for (key, value) in operation.writes() {
                let write = Write { value: value.map(str::to_owned), number, client };
                self.writes.insert((revision, key.to_owned()), write);
            }
        }
        let Outcome::Done { revision, .. } = outcome else { return };
        let shown = self.shown_at.range(revision..).next();
        let index = shown.map_or(0, |(_, index)| *index).min(self.terms.len() as u64);
        if index > self.newest.as_ref().map_or(0, |newest| newest.index) {
            let told = format!("operation {number} ({operation}) of client {client} was done at revision {revision}");
            self.newest = Some(Answered { index, term: self.terms[index as usize - 1], number, told });
        }
    }

    fn at_rest(&self, member: u64, view: &View) -> Result<(), Objection> {
        let compacted = view.compact_rev().max(1);
        let everything = at_hand(member, view.range(b"\0", b"\0", RangeOptions::default()))?;
        let rows = at_hand(member, view.rows(Revision { main: compacted + 1, sub: 0 }, usize::MAX))?;
        let (Some(everything), Some(rows)) = (everything, rows) else { return Ok(()) };
        let held: BTreeMap<&[u8], i64> = everything.kvs.iter().map(|kv| (&*kv.key, kv.mod_revision)).collect();

        let may_be_gone: BTreeSet<&String> = self.open_deletes.values().map(|(key, _)| key).collect();
        let mut judged = BTreeSet::new();
        for ((revision, key), write) in self.writes.iter().rev() {
            if !judged.insert(key) {
                continue;
            }
            let found = held.get(key.as_bytes()).copied();
            let kept = match (found, &write.value) {
                (Some(found), Some(_)) => found >= *revision,
                // Brought back by a later write.
                (Some(found), None) => found > *revision,
                (None, Some(_)) => may_be_gone.contains(key),
                (None, None) => true,
            };
            if !kept {
                let found = found.map_or("is not there".to_owned(), |found| format!("has mod revision {found}"));
                let story = format!("at rest {key} {found} at member {member}; {}", write.story(*revision, key));
                return object_naming(LOST, story, &[write.number]);
            }
        }
        self.compare_rows(member, compacted, &rows)
    }

    /// What was acknowledged above the compaction is in the rows, each at its revision.
    fn compare_rows(&self, member: u64, compacted: i64, rows: &[Row]) -> Result<(), Objection> {
        for ((revision, key), write) in self.writes.range((compacted + 1, String::new())..) {
            let from = rows.partition_point(|row| row.revision.main < *revision);
            let same = rows[from..].iter().take_while(|row| row.revision.main == *revision);
            let found = same.filter_map(|row| row.decode().ok().map(|kv| (kv, row.is_tombstone())));
            let is_it = |(kv, is_tombstone): (lockstep_proto::mvccpb::KeyValue, bool)| {
                *kv.key == *key.as_bytes()
                    && match &write.value {
                        Some(value) => !is_tombstone && *kv.value == *value.as_bytes(),
                        None => is_tombstone,
                    }
            };
            if !found.into_iter().any(is_it) {
                let story = format!(
                    "at rest the rows of revision {revision} at member {member} do not hold it; {}",
                    write.story(*revision, key)
                );
                return object_naming(LOST, story, &[write.number]);
            }
        }
        Ok(())
    }
}

impl Member {
    fn holds(&self, entry: &Answered) -> bool {
        let log = self.mirror.durable();
        self.stored >= entry.index || (log.last() > 0 && log.holds(entry.index, entry.term))
    }
}

impl Write {
    fn story(&self, revision: i64, key: &str) -> String {
        let what = self.value.as_ref().map_or(format!("delete {key}"), |value| format!("put {key} {value}"));
        format!("operation {} of client {} ({what}) was done at revision {revision}", self.number, self.client)
    }
}

impl Checker for Durability {
    fn name(&self) -> &'static str {
        "durability"
    }

    fn see(&mut self, _now_us: u64, seen: &Seen) -> Result<(), Objection> {
        self.cluster.see(seen);
        match seen {
            Seen::Booted { member, first, log, view, .. } => return self.booted(*member, *first, log, view),
            Seen::Persist { member, persist } => self.of.of(*member).mirror.persist(persist),
            Seen::Synced { member, number } => self.of.of(*member).mirror.synced(*number),
            Seen::Committed { entries, .. } => {
                let known = self.terms.len() as u64;
                self.terms.extend(entries.iter().filter(|entry| entry.index() > known).map(Entry::term));
            }
            Seen::Published { view, .. } => {
                let newest = self.shown_at.last_key_value().map_or(0, |(revision, _)| *revision);
                if view.rev() > newest {
                    self.shown_at.insert(view.rev(), view.applied_index());
                }
            }
            Seen::Asked { number, operation: Operation::Delete { key }, .. } => {
                self.open_deletes.entry(*number).or_insert_with(|| (key.clone(), 0)).1 += 1;
            }
            Seen::Answered { number, client, operation, outcome, .. } => {
                self.answered(*number, *client, operation, outcome);
            }
            Seen::AtRest { status, view } => return self.at_rest(status.id, view),
            _ => {}
        }
        Ok(())
    }
}

/// `None` when a compaction came in between.
fn at_hand<T>(member: u64, read: Result<T, Error>) -> Result<Option<T>, Objection> {
    match read {
        Ok(found) => Ok(Some(found)),
        Err(Error::Overtaken | Error::Compacted) => Ok(None),
        Err(error) => Err(Objection::new("store unreadable at rest", format!("member {member}: {error}"))),
    }
}
