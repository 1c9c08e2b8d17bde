//! Reads tell the truth: a linearizable one the newest (thesis, section 6.4; etcd #7331, #20418), a serializable one an
//! old one, but never one that was not.
//!
//! A quick look beside the search for a linearization, by revisions: whatever was acknowledged before an operation was
//! asked for bounds its answer's revision from below. And what a read found at its revision must fit the writes: each
//! value was asked for by somebody who was not told that it failed, no acknowledged write lies between it and the
//! read's revision, and a key that is not there was deleted, or never put. What a txn compared with, and what a delete
//! removed, are reads as of the revision before theirs. Reads are judged when they are answered and, since
//! acknowledgements may come later than what they acknowledge is read, once more when all is over.
//!
//! Does not see when within its time an unanswered write took effect: then any value of it is plausible.

use std::collections::BTreeMap;

use super::writes;
use super::{Checker, Objection, Seen, object_naming};
use crate::history::{Operation, Outcome};

const MADE_UP: &str = "value that nobody wrote";
/// No operation has this number.
const NOBODY: u64 = 0;

#[derive(Debug, Default)]
pub struct StaleReads {
    /// The newest revision that was acknowledged, and by which operation.
    acknowledged: (i64, u64),
    /// What it was when these were asked.
    floors: BTreeMap<u64, (i64, u64)>,
    keys: BTreeMap<String, Key>,
    reads: Vec<Found>,
}

/// The writes of one key.
#[derive(Debug, Default)]
struct Key {
    /// By what they write; `None` deletes. A plain workload writes a value once.
    asked: BTreeMap<Option<String>, Vec<(u64, Fate)>>,
    /// Revision -> value.
    done: BTreeMap<i64, Option<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Not answered, or with "unknown".
    Open,
    Done(i64),
    Failed,
}

/// What a read found of one key.
#[derive(Debug)]
struct Found {
    number: u64,
    member: u64,
    revision: i64,
    key: String,
    value: Option<String>,
}

impl StaleReads {
    pub fn new() -> StaleReads {
        StaleReads::default()
    }

    fn asked(&mut self, number: u64, operation: &Operation) {
        self.floors.entry(number).or_insert(self.acknowledged);
        for (key, value) in operation.writes() {
            let key = self.keys.entry(key.to_owned()).or_default();
            let writes = key.asked.entry(value.map(str::to_owned)).or_default();
            match writes.iter_mut().find(|(known, _)| *known == number) {
                None => writes.push((number, Fate::Open)),
                // Asked again after a refusal.
                Some(write) if write.1 == Fate::Failed => write.1 = Fate::Open,
                // Asked again without an answer: one of them stays open for ever.
                Some(_) => writes.push((NOBODY, Fate::Open)),
            }
        }
    }

    fn answered(
        &mut self,
        number: u64,
        member: u64,
        operation: &Operation,
        outcome: &Outcome,
    ) -> Result<(), Objection> {
        self.learn(number, operation, outcome);
        let floor = self.floors.remove(&number).unwrap_or_default();
        let Some(revision) = writes::revision(outcome) else { return Ok(()) };
        if !operation.is_serializable() {
            let (least, by) = floor;
            if revision < least {
                let story = format!(
                    "operation {number} ({operation}) at member {member} is answered as of revision {revision}, but \
                     {least} was acknowledged (to operation {by}) before it was asked"
                );
                let is_read = matches!(outcome, Outcome::Read { .. });
                let place = if is_read { "stale read" } else { "write into the past" };
                return object_naming(place, story, &[number, by]);
            }
            self.acknowledged = self.acknowledged.max((revision, number));
        }
        let (revision, found) = writes::observed(operation, outcome);
        if let Operation::Range { key, end, .. } = operation {
            let among = |key: &String| found.binary_search_by(|(found, _)| found.cmp(key)).is_ok();
            let known = self.keys.range(key.clone()..).map(|(key, _)| key).take_while(|known| *known < end);
            let missing: Vec<String> = known.filter(|key| !among(key)).cloned().collect();
            for key in missing {
                self.read(Found { number, member, revision, key, value: None })?;
            }
        }
        for (key, value) in found {
            self.read(Found { number, member, revision, key, value })?;
        }
        Ok(())
    }

    fn learn(&mut self, number: u64, operation: &Operation, outcome: &Outcome) {
        let made = writes::changed_at(operation, outcome);
        let fate = match (outcome, made) {
            (Outcome::Unknown { .. }, _) => return,
            (_, Some(revision)) => Fate::Done(revision),
            _ => Fate::Failed,
        };
        for (key, value) in operation.writes() {
            let value = value.map(str::to_owned);
            let key = self.keys.entry(key.to_owned()).or_default();
            let asked = key.asked.get_mut(&value).into_iter().flatten();
            for write in asked.filter(|(known, _)| *known == number) {
                write.1 = fate;
            }
            if let Some(revision) = made {
                key.done.insert(revision, value);
            }
        }
    }

    fn read(&mut self, found: Found) -> Result<(), Objection> {
        self.judge(&found)?;
        self.reads.push(found);
        Ok(())
    }

    fn judge(&self, found: &Found) -> Result<(), Objection> {
        let object = |place, why: &str| object_naming(place, found.story(why), &[found.number]);
        let Some(key) = self.keys.get(&found.key) else {
            return if found.value.is_none() { Ok(()) } else { object(MADE_UP, "nobody wrote that key") };
        };
        let last = key.done.range(..=found.revision).next_back();
        let asked = key.asked.get(&found.value).map_or(&[][..], Vec::as_slice);
        let is_open = asked.iter().any(|(_, fate)| *fate == Fate::Open);
        if last.is_some_and(|(_, value)| *value == found.value) || is_open {
            return Ok(());
        }
        match (&found.value, last) {
            (None, None) => Ok(()),
            (Some(_), _) if asked.is_empty() => object(MADE_UP, "nobody wrote that"),
            (Some(_), _) if asked.iter().all(|(_, fate)| *fate == Fate::Failed) => {
                object("value that was refused", "whoever asked for it was told that it was not done")
            }
            (Some(_), None) => object("value from the future", &format!("it was written later: {asked:?}")),
            (_, Some((revision, value))) => {
                let value = value.as_deref().unwrap_or("nothing");
                object("read contradicts the history", &format!("at revision {revision} it became {value}"))
            }
        }
    }
}

impl Found {
    fn story(&self, why: &str) -> String {
        format!(
            "operation {} at member {} finds {} to be {} as of revision {}, but {why}",
            self.number,
            self.member,
            self.key,
            self.value.as_deref().unwrap_or("nothing"),
            self.revision
        )
    }
}

impl Checker for StaleReads {
    fn name(&self) -> &'static str {
        "stale-reads"
    }

    fn see(&mut self, _now_us: u64, seen: &Seen) -> Result<(), Objection> {
        match seen {
            Seen::Asked { number, operation, .. } => {
                self.asked(*number, operation);
                Ok(())
            }
            Seen::Answered { number, member, operation, outcome, .. } => {
                self.answered(*number, *member, operation, outcome)
            }
            Seen::Over => self.reads.iter().try_for_each(|found| self.judge(found)),
            _ => Ok(()),
        }
    }
}
