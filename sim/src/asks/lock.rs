//! Locks and elections, as client libraries make them from txns, leases and revisions. Whoever wants a lock or to be
//! elected enters a room by a key of its own, which hangs on its lease; who has been there longest holds the lock, or
//! leads; all others wait for those before them. What is done under the lock is fenced by the revision since which the
//! key has been there.
//!
//! ```text
//! enter lock/a 7                             a txn: if lock/a/7 does not exist then put it with the lease 7, else get
//! enter elect/a 7 2.4                        ... with this value
//! await lock/a 7                             a linearizable read of the room: is anybody there who came before?
//! fenced lock/a 7 2.5                        a txn: if lock/a/7 is still the one it entered by, put guard/lock/a 2.5
//! proclaim elect/a 7 2.6                     a txn: likewise, put elect/a/7
//! exit lock/a 7                              a txn: likewise, delete lock/a/7
//! observe elect/a                            a linearizable read: who leads?
//! ```

use std::collections::BTreeMap;
use std::fmt;

use lockstep::member::apply::Response;
use lockstep::mutation;
use lockstep::mvcc::View;
use lockstep::mvcc::read::{Error, RangeOptions, Read};
use lockstep_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, InternalRaftRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, compare,
    request_op, response_op,
};

use super::{Told, prefix_end};
use crate::fault::Words;
use crate::history::Outcome;

/// The revision since which a key has been there, as its client was told.
pub type Entries = BTreeMap<String, i64>;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LockAsk {
    Enter { room: String, lease: i64, value: String },
    Await { room: String, lease: i64 },
    Fenced { room: String, lease: i64, value: String },
    Proclaim { room: String, lease: i64, value: String },
    Exit { room: String, lease: i64 },
    Observe { room: String },
}

impl LockAsk {
    pub fn room(&self) -> &str {
        match self {
            LockAsk::Enter { room, .. }
            | LockAsk::Await { room, .. }
            | LockAsk::Fenced { room, .. }
            | LockAsk::Proclaim { room, .. }
            | LockAsk::Exit { room, .. }
            | LockAsk::Observe { room } => room,
        }
    }

    /// The client's own key in the room; none for who only looks on.
    pub fn key(&self) -> Option<String> {
        match self {
            LockAsk::Enter { room, lease, .. }
            | LockAsk::Await { room, lease }
            | LockAsk::Fenced { room, lease, .. }
            | LockAsk::Proclaim { room, lease, .. }
            | LockAsk::Exit { room, lease } => Some(key(room, *lease)),
            LockAsk::Observe { .. } => None,
        }
    }

    pub fn is_read(&self) -> bool {
        matches!(self, LockAsk::Await { .. } | LockAsk::Observe { .. })
    }

    /// What goes through the log; `Err` when the client knows that it makes no sense.
    pub fn request(&self, entries: &Entries) -> Result<InternalRaftRequest, &'static str> {
        let own = self.key().unwrap_or_default();
        let known = entries.get(&own).copied();
        let since = known.ok_or("it has not entered");
        let txn = match self {
            LockAsk::Enter { lease, value, .. } => TxnRequest {
                compare: vec![created(&own, 0)],
                success: vec![put(&own, value, *lease)],
                failure: vec![get(&own)],
            },
            LockAsk::Fenced { room, value, .. } => {
                let held = vec![created(&own, since?)];
                let compare = if mutation!(LockNotFenced) { Vec::new() } else { held };
                TxnRequest { compare, success: vec![put(&guard(room), value, 0)], failure: Vec::new() }
            }
            LockAsk::Proclaim { lease, value, .. } => TxnRequest {
                compare: vec![created(&own, since?)],
                success: vec![put(&own, value, *lease)],
                failure: Vec::new(),
            },
            LockAsk::Exit { .. } => {
                TxnRequest { compare: vec![created(&own, since?)], success: vec![delete(&own)], failure: Vec::new() }
            }
            LockAsk::Await { .. } | LockAsk::Observe { .. } => panic!("{self} is a read"),
        };
        Ok(InternalRaftRequest { txn: Some(txn), ..Default::default() })
    }

    pub fn outcome(&self, response: &Response) -> Outcome {
        let Response::Txn(txn) = response else { panic!("{self} is answered {response:?}") };
        let revision = txn.header.as_ref().map_or(0, |header| header.revision);
        let told = match self {
            LockAsk::Enter { .. } if txn.succeeded => Told::Entered { create_revision: revision },
            LockAsk::Enter { .. } => match txn.responses.first().and_then(|op| op.response.as_ref()) {
                Some(response_op::Response::ResponseRange(range)) => {
                    let found = range.kvs.first().expect("the key exists, or the txn had succeeded");
                    Told::Entered { create_revision: found.create_revision }
                }
                _ => panic!("{self} is answered {txn:?}"),
            },
            _ => Told::Stamped(txn.succeeded),
        };
        Outcome::Told { revision, told }
    }

    pub fn read(&self, view: &View, entries: &Entries) -> Result<Outcome, Error> {
        let first = format!("{}/", self.room());
        let found = view.range(first.as_bytes(), prefix_end(&first).as_bytes(), RangeOptions::default())?;
        let oldest = found.kvs.iter().min_by_key(|kv| kv.create_revision);
        let told = match self.key() {
            None => Told::Leads(oldest.map(|kv| (text(&kv.key), text(&kv.value)))),
            Some(own) => {
                let since = entries.get(&own).copied();
                let is_there =
                    found.kvs.iter().any(|kv| *kv.key == *own.as_bytes() && Some(kv.create_revision) == since);
                match since {
                    // Whoever waited may have lost its lease meanwhile, and nobody is before who is not there.
                    _ if !is_there && !mutation!(LockNotRechecked) => Told::Ousted,
                    Some(since) if oldest.is_none_or(|oldest| oldest.create_revision >= since) => Told::Owns,
                    Some(_) => Told::Waits,
                    None => Told::Ousted,
                }
            }
        };
        Ok(Outcome::Told { revision: found.rev, told })
    }

    pub fn parse(verb: &str, words: &mut Words) -> Result<Option<LockAsk>, String> {
        if !matches!(verb, "enter" | "await" | "fenced" | "proclaim" | "exit" | "observe") {
            return Ok(None);
        }
        let room = word(words, "a room")?;
        if !room.starts_with("lock/") && !room.starts_with("elect/") {
            return Err(format!("{room:?} is no room: lock/NAME or elect/NAME"));
        }
        if verb == "observe" {
            return Ok(Some(LockAsk::Observe { room }));
        }
        let lease = super::lease::id(words)?;
        Ok(Some(match verb {
            "enter" => LockAsk::Enter { room, lease, value: words.try_word().unwrap_or_default().to_owned() },
            "await" => LockAsk::Await { room, lease },
            "fenced" => LockAsk::Fenced { room, lease, value: word(words, "a value")? },
            "proclaim" => LockAsk::Proclaim { room, lease, value: word(words, "a value")? },
            _ => LockAsk::Exit { room, lease },
        }))
    }
}

impl fmt::Display for LockAsk {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockAsk::Enter { room, lease, value } if value.is_empty() => write!(out, "enter {room} {lease}"),
            LockAsk::Enter { room, lease, value } => write!(out, "enter {room} {lease} {value}"),
            LockAsk::Await { room, lease } => write!(out, "await {room} {lease}"),
            LockAsk::Fenced { room, lease, value } => write!(out, "fenced {room} {lease} {value}"),
            LockAsk::Proclaim { room, lease, value } => write!(out, "proclaim {room} {lease} {value}"),
            LockAsk::Exit { room, lease } => write!(out, "exit {room} {lease}"),
            LockAsk::Observe { room } => write!(out, "observe {room}"),
        }
    }
}

/// The key by which a lease's client is in a room.
pub fn key(room: &str, lease: i64) -> String {
    format!("{room}/{lease}")
}

/// What the holders of a lock write.
pub fn guard(room: &str) -> String {
    format!("guard/{room}")
}

/// A word of a line, not absurdly long.
pub(super) fn word(words: &mut Words, what: &str) -> Result<String, String> {
    const LONGEST: usize = 4_096;
    let word = words.word(what)?;
    if word.len() > LONGEST {
        return Err(format!("{what} has at most {LONGEST} bytes here, this one has {}", word.len()));
    }
    Ok(word.to_owned())
}

fn created(key: &str, revision: i64) -> Compare {
    Compare {
        result: compare::CompareResult::Equal as i32,
        target: compare::CompareTarget::Create as i32,
        key: key.as_bytes().to_vec().into(),
        target_union: Some(compare::TargetUnion::CreateRevision(revision)),
        ..Default::default()
    }
}

fn put(key: &str, value: &str, lease: i64) -> RequestOp {
    let put = PutRequest {
        key: key.as_bytes().to_vec().into(),
        value: value.as_bytes().to_vec().into(),
        lease,
        ..Default::default()
    };
    RequestOp { request: Some(request_op::Request::RequestPut(put)) }
}

fn get(key: &str) -> RequestOp {
    let get = RangeRequest { key: key.as_bytes().to_vec().into(), ..Default::default() };
    RequestOp { request: Some(request_op::Request::RequestRange(get)) }
}

fn delete(key: &str) -> RequestOp {
    let delete = DeleteRangeRequest { key: key.as_bytes().to_vec().into(), ..Default::default() };
    RequestOp { request: Some(request_op::Request::RequestDeleteRange(delete)) }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
