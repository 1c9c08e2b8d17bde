//! Log matching (Raft, section 5.3): if two logs hold an entry with the same index and term, then they are the same up
//! to it. And what a crash may do to a log: take what was not synced, from its end on, and nothing else.
//!
//! Mirrors each member's log from what it hands to its write-ahead log and what it finds there when it boots. One table
//! for all members and lives says of each (index, term) what the entry was and which term came before; by induction
//! over the index that is log matching, at the price of a look-up an entry. Does not see entries that are released, or
//! in a snapshot: the log begins later, and what is not there is not compared.

use lockstep::member::raft::Persist;
use lockstep_proto::raftpb::Entry;

use super::digest::Digest;
use super::mirror::{Mirror, Misfit};
use super::{Checker, Objection, PerMember, Seen, object};

#[derive(Debug, Default)]
pub struct LogMatching {
    /// By index: each entry that anybody's log ever had there, one a term.
    entries: Vec<Vec<Version>>,
    mirrors: PerMember<Mirror>,
}

#[derive(Clone, Copy, Debug)]
struct Version {
    term: u64,
    digest: u64,
    /// Of the entry before, where somebody who had it was seen.
    term_before: Option<u64>,
    member: u64,
}

impl LogMatching {
    pub fn new() -> LogMatching {
        LogMatching::default()
    }

    fn persist(&mut self, member: u64, persist: &Persist) -> Result<(), Objection> {
        let mut before = persist.snapshot.map(|mark| (mark.index, mark.term));
        if let Some(first) = persist.entries.first().filter(|_| before.is_none()) {
            let told = self.mirrors.of(member).told();
            if first.index() < told.first() || first.index() > told.last() + 1 {
                let story = format!(
                    "member {member} writes entry {} to its log, which has {} to {}",
                    first.index(),
                    told.first(),
                    told.last()
                );
                return object("gap in the log", story);
            }
            before = told.term(first.index() - 1).map(|term| (first.index() - 1, term));
        }
        self.mirrors.of(member).persist(persist);
        self.compare(member, before, &persist.entries)
    }

    fn booted(&mut self, member: u64, first: u64, log: &[Entry], term: u64) -> Result<(), Objection> {
        // A crash has taken the term in which these were written, before anybody could hear of them.
        for versions in &mut self.entries {
            versions.retain(|version| version.member != member || version.term <= term);
        }
        match self.mirrors.of(member).booted(first, log) {
            Ok(()) => {}
            Err(Misfit::Lost { index, term }) => {
                let story = format!(
                    "member {member} boots, and entry {term}/{index}, which it had synced, is missing or another; its \
                     log ends at {}",
                    log.last().map_or(0, Entry::index)
                );
                return object("synced entry lost", story);
            }
            Err(Misfit::Foreign { last }) => {
                let story = format!("member {member} boots with a log that ends at {last}, as it was never written");
                return object("log that nobody wrote", story);
            }
        }
        let before = log.first().filter(|first| first.index() == 1).map(|_| (0, 0));
        self.compare(member, before, log)
    }

    /// `before`: index and term of the entry in front.
    fn compare(&mut self, member: u64, mut before: Option<(u64, u64)>, entries: &[Entry]) -> Result<(), Objection> {
        for entry in entries {
            let (index, term) = (entry.index(), entry.term());
            let term_before = before.map(|(_, term)| term);
            if before.is_some_and(|(at, _)| at + 1 != index) {
                return object("gap in the log", format!("member {member} has entry {index} behind {before:?}"));
            }
            if term_before.is_some_and(|before| before > term) {
                let story = format!("member {member} has entry {term}/{index} behind one of term {term_before:?}");
                return object("terms go back in a log", story);
            }
            before = Some((index, term));
            self.compare_one(Version { term, digest: digest(entry), term_before, member }, index)?;
        }
        Ok(())
    }

    fn compare_one(&mut self, found: Version, index: u64) -> Result<(), Objection> {
        let at = index as usize;
        if self.entries.len() <= at {
            self.entries.resize_with(at + 1, Vec::new);
        }
        let versions = &mut self.entries[at];
        let Some(known) = versions.iter_mut().find(|version| version.term == found.term) else {
            versions.push(found);
            return Ok(());
        };
        let (term, one, other) = (found.term, known.member, found.member);
        if known.digest != found.digest {
            let story = format!("members {one} and {other} have different entries {term}/{index}");
            return object("two entries of one index and term", story);
        }
        let both = known.term_before.zip(found.term_before);
        if let Some((before_one, before_other)) = both.filter(|(a, b)| a != b) {
            let story = format!(
                "members {one} and {other} both have entry {term}/{index}, but before it one has an entry of term \
                 {before_one}, the other of term {before_other}"
            );
            return object("logs differ before a common entry", story);
        }
        known.term_before = known.term_before.or(found.term_before);
        Ok(())
    }
}

impl Checker for LogMatching {
    fn name(&self) -> &'static str {
        "log-matching"
    }

    fn see(&mut self, _now_us: u64, seen: &Seen) -> Result<(), Objection> {
        match seen {
            Seen::Booted { member, first, log, hard_state, .. } => self.booted(*member, *first, log, hard_state.term()),
            Seen::Persist { member, persist } => self.persist(*member, persist),
            Seen::Synced { member, number } => {
                self.mirrors.of(*member).synced(*number);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// What an entry is, beside its place.
pub(super) fn digest(entry: &Entry) -> u64 {
    Digest::new().number(entry.r#type() as u64).bytes(entry.data()).finish()
}
