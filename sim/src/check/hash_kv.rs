//! At rest all members hash alike: HashKV at the newest revision and at an older one, as etcd's corruption check asks
//! for it, and the hash of everything in the store, members and conf state included.
//!
//! Compares members that are at the same applied index; that they all are is [`super::progress`]'s to say. Sees only
//! the end of a run: on the way [`super::applied_hash`] looks.

use lockstep::mvcc::View;
use lockstep::mvcc::read::{Error, Read};

use super::{Checker, Objection, Seen, object};

#[derive(Debug, Default)]
pub struct HashKvAtRest {
    ends: Vec<End>,
}

#[derive(Clone, Debug, PartialEq)]
struct End {
    member: u64,
    applied: u64,
    revision: i64,
    compacted: i64,
    newest: Option<u32>,
    older: Option<u32>,
    whole: Option<u32>,
}

impl HashKvAtRest {
    pub fn new() -> HashKvAtRest {
        HashKvAtRest::default()
    }

    fn at_rest(&mut self, member: u64, view: &View) -> Result<(), Objection> {
        let (applied, revision, compacted) = (view.applied_index(), view.rev(), view.compact_rev());
        let between = (compacted.max(1) + revision) / 2;
        let unreadable = |what: &str, error: Error| match error {
            // A compaction came in between.
            Error::Overtaken | Error::Compacted => Ok(None),
            error => Err(Objection::new("store unreadable at rest", format!("member {member}: {what}: {error}"))),
        };
        let kv = |at| view.hash_kv(at).map(|hash| Some(hash.hash)).or_else(|error| unreadable("HashKV", error));
        let (newest, older) = (kv(0)?, kv(between)?);
        let whole = view.hash().map(Some).or_else(|error| unreadable("hash", error))?;
        let end = End { member, applied, revision, compacted, newest, older, whole };
        for other in self.ends.iter().filter(|other| other.applied == applied) {
            let both = [
                ("different hashes at rest", other.newest, newest),
                ("different hashes of the past", other.older, older),
                ("different hashes of the whole store", other.whole, whole),
            ];
            let differing = both.iter().find(|(_, a, b)| a.zip(*b).is_some_and(|(a, b)| a != b));
            if let Some((place, _, _)) = differing {
                let story = format!("members hash differently (older: at revision {between}): {other:x?} and {end:x?}");
                return object(place, story);
            }
        }
        self.ends.push(end);
        Ok(())
    }
}

impl Checker for HashKvAtRest {
    fn name(&self) -> &'static str {
        "hash-kv"
    }

    fn see(&mut self, _now_us: u64, seen: &Seen) -> Result<(), Objection> {
        match seen {
            Seen::AtRest { status, view } => self.at_rest(status.id, view),
            _ => Ok(()),
        }
    }
}
