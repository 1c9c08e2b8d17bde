//! Mutual exclusion, with fencing (Jepsen's etcd 3.4.3: locks that were no locks once a lease had ended).
//!
//! Whoever is told that it holds a lock, or has won an election, is in the room as of that revision, and nobody there
//! came before it. So two hold it at a time only if the key of the first is gone, by its own wish or because its lease
//! ended. What a holder writes, fenced by the revision since which its key is there, is written while it holds the
//! lock, and never after a write of somebody who came later. Who is told who leads is told the truth of that revision.
//!
//! Sees the rows of revisions, not what clients believe in between: fencing is there because they may believe it
//! longer.

use std::collections::BTreeMap;

use lockstep::sometimes;
use lockstep_proto::mvccpb::KeyValue;

use super::{Checker, Objection, Seen, object_naming};
use crate::asks::Told;
use crate::asks::lock::{LockAsk, guard};
use crate::history::{Operation, Outcome};

#[derive(Debug, Default)]
pub struct Locks {
    rooms: BTreeMap<String, Room>,
    /// Fenced writes that were asked for, by room and value: the operation and its key.
    fenced: BTreeMap<(String, String), (u64, String)>,
    last: i64,
    /// Some revisions were compacted before anybody showed them: nothing can be said any more.
    is_blind: bool,
}

#[derive(Debug, Default)]
struct Room {
    stays: Vec<Stay>,
    /// The entry of the newest fenced write.
    newest: i64,
}

/// A key in a room, from one revision to before another.
#[derive(Debug)]
struct Stay {
    key: String,
    from: i64,
    to: i64,
    values: Vec<(i64, String)>,
}

impl Stay {
    fn is_there(&self, revision: i64) -> bool {
        self.from <= revision && revision < self.to
    }
}

impl Room {
    fn there(&self, revision: i64) -> impl Iterator<Item = &Stay> {
        // The newest are at the end, and few are there at a time.
        self.stays.iter().filter(move |stay| stay.is_there(revision))
    }

    fn first(&self, revision: i64) -> Option<&Stay> {
        self.there(revision).min_by_key(|stay| stay.from)
    }
}

impl Locks {
    fn made(&mut self, revision: i64, events: &[KeyValue]) -> Result<(), Objection> {
        self.is_blind |= revision > self.last + 1 && self.last > 0;
        self.last = revision;
        for kv in events {
            let key = String::from_utf8_lossy(&kv.key).into_owned();
            if let Some(room) = key.strip_prefix("guard/") {
                self.written(revision, room, &String::from_utf8_lossy(&kv.value))?;
            } else if key.starts_with("lock/") || key.starts_with("elect/") {
                let name = key.rsplit_once('/').map_or("", |(room, _)| room).to_owned();
                let room = self.rooms.entry(name).or_default();
                let value = String::from_utf8_lossy(&kv.value).into_owned();
                match room.stays.iter_mut().rfind(|stay| stay.key == key && stay.to == i64::MAX) {
                    Some(stay) if kv.version == 0 => stay.to = revision,
                    Some(stay) => stay.values.push((revision, value)),
                    None if kv.version == 0 => {}
                    None => {
                        let values = vec![(revision, value)];
                        room.stays.push(Stay { key, from: revision, to: i64::MAX, values });
                    }
                }
            }
        }
        Ok(())
    }

    /// A fenced write was done.
    fn written(&mut self, revision: i64, name: &str, value: &str) -> Result<(), Objection> {
        let Some((number, own)) = self.fenced.get(&(name.to_owned(), value.to_owned())) else { return Ok(()) };
        if self.is_blind {
            return Ok(());
        }
        let room = self.rooms.entry(name.to_owned()).or_default();
        let stays = |stay: &&Stay| stay.key == *own;
        let Some(from) = room.there(revision).find(stays).map(|stay| stay.from) else {
            let when = match room.stays.iter().rfind(|stay| stay.key == *own) {
                Some(stay) => format!("was there from {} to {}", stay.from, stay.to),
                None => "was never there".to_owned(),
            };
            let later = room.there(revision).map(|stay| stay.key.clone()).collect::<Vec<_>>().join(" ");
            let story = format!(
                "operation {number} has written {} at revision {revision} under {own}, which {when}; there is: {later}",
                guard(name)
            );
            return object_naming("fenced write of who has no lock", story, &[*number]);
        };
        if from < room.newest {
            let story = format!(
                "operation {number} has written {} at revision {revision} under {own}, there since {from}; somebody \
                 who came at {} has written before",
                guard(name),
                room.newest
            );
            return object_naming("fenced write of who was overtaken", story, &[*number]);
        }
        room.newest = from;
        Ok(())
    }

    fn told(&self, number: u64, ask: &LockAsk, revision: i64, told: &Told) -> Result<(), Objection> {
        if self.is_blind {
            return Ok(());
        }
        let none = Room::default();
        let room = self.rooms.get(ask.room()).unwrap_or(&none);
        let first = room.first(revision);
        let own = ask.key().unwrap_or_default();
        let described =
            |stay: Option<&Stay>| stay.map_or("nobody".to_owned(), |stay| format!("{} since {}", stay.key, stay.from));
        match told {
            Told::Owns => {
                sometimes!(room.stays.iter().any(|stay| stay.key != own && stay.to <= revision), "lock changed hands");
                let is_there = room.there(revision).any(|stay| stay.key == own);
                if is_there && first.is_some_and(|stay| stay.key == own) {
                    return Ok(());
                }
                let story = format!(
                    "operation {number} ({ask}) is told at revision {revision} that it is its turn; it is {}",
                    described(first)
                );
                object_naming(if is_there { "two holders" } else { "holder without a key" }, story, &[number])
            }
            Told::Waits if first.is_none_or(|stay| stay.key == own) => {
                let story = format!("operation {number} ({ask}) is told at revision {revision} to wait");
                object_naming("wait for nobody", story, &[number])
            }
            Told::Leads(leader) => {
                let value_at = |stay: &Stay| stay.values.iter().rfind(|value| value.0 <= revision).map(|v| v.1.clone());
                let right = first.map(|stay| (stay.key.clone(), value_at(stay).unwrap_or_default()));
                if *leader == right {
                    return Ok(());
                }
                let story = format!(
                    "operation {number} ({ask}) is told at revision {revision} that {leader:?} leads; it is {right:?}"
                );
                object_naming("not who leads", story, &[number])
            }
            _ => Ok(()),
        }
    }
}

impl Checker for Locks {
    fn name(&self) -> &'static str {
        "locks"
    }

    fn see(&mut self, _now_us: u64, seen: &Seen) -> Result<(), Objection> {
        match seen {
            Seen::Made { revision, events } => self.made(*revision, events),
            Seen::Asked { number, operation: Operation::Lock(ask), .. } => {
                if let (LockAsk::Fenced { room, value, .. }, Some(key)) = (ask, ask.key()) {
                    self.fenced.insert((room.clone(), value.clone()), (*number, key));
                }
                Ok(())
            }
            Seen::Answered {
                number,
                operation: Operation::Lock(ask),
                outcome: Outcome::Told { revision, told },
                ..
            } => self.told(*number, ask, *revision, told),
            _ => Ok(()),
        }
    }
}
