//! The log of a stopped member as an operator reads it: who wrote it, how far it is committed, and every entry in
//! words. Entries come in pieces; no more than one piece is in memory.

use std::path::Path;

use bytes::Bytes;
use lockstep_proto::etcdserverpb::request_op::Request as Op;
use lockstep_proto::etcdserverpb::{
    DeleteRangeRequest, InternalRaftRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use lockstep_proto::raftpb::{ConfChange, Entry, EntryType};
use prost::Message;

use super::look::{Error, Stopped};
use crate::wal::Recovered;

const PIECE_BYTES: u64 = 4 << 20;

/// One entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub index: u64,
    pub term: u64,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// A new leader's first.
    Empty,
    Request {
        id: u64,
        request: Words,
    },
    ConfChange {
        method: &'static str,
        id: u64,
    },
    /// It cannot be read, and no member did anything for it.
    Unknown,
}

/// A request: its kind, and what it says.
#[derive(Clone, Debug, PartialEq)]
pub struct Words {
    pub kind: &'static str,
    pub fields: Vec<(&'static str, Value)>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Number(i64),
    Id(u64),
    Bytes(Bytes),
    Text(String),
    Requests(Vec<Words>),
}

/// Shows `head` the log, and `line` each entry from `start` on, until it says stop (`false`).
pub fn dump(
    data_dir: &Path,
    wal_dir: Option<&Path>,
    start: u64,
    head: impl FnOnce(&Recovered),
    mut line: impl FnMut(Line) -> bool,
) -> Result<(), Error> {
    let stopped = Stopped::open(data_dir, wal_dir)?;
    let (wal, recovered) = stopped.log()?;
    head(&recovered);
    let reader = wal.reader();
    let mut next = start.max(recovered.first_index);
    while next <= recovered.last_index {
        for entry in reader.read(next, recovered.last_index + 1, PIECE_BYTES)? {
            next = entry.index() + 1;
            if !line(line_of(&entry)) {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn line_of(entry: &Entry) -> Line {
    let data = entry.data.as_deref().unwrap_or_default();
    let what = match entry.r#type() {
        EntryType::EntryNormal if data.is_empty() => What::Empty,
        EntryType::EntryNormal => match InternalRaftRequest::decode(data) {
            Ok(request) => {
                let id = request.header.as_ref().map_or(0, |header| header.id).max(request.id);
                What::Request { id, request: words(&request) }
            }
            Err(_) => What::Unknown,
        },
        EntryType::EntryConfChange => match ConfChange::decode(data) {
            Ok(change) => What::ConfChange { method: change.r#type().as_str_name(), id: change.node_id() },
            Err(_) => What::Unknown,
        },
        EntryType::EntryConfChangeV2 => What::Unknown,
    };
    Line { index: entry.index(), term: entry.term(), what }
}

fn words(r: &InternalRaftRequest) -> Words {
    let lease = |id: i64| ("lease", Value::Id(id as u64));
    if let Some(range) = &r.range {
        range_words(range)
    } else if let Some(put) = &r.put {
        put_words(put)
    } else if let Some(delete) = &r.delete_range {
        delete_words(delete)
    } else if let Some(txn) = &r.txn {
        txn_words(txn)
    } else if let Some(compaction) = &r.compaction {
        let mut fields = vec![("revision", Value::Number(compaction.revision))];
        note(&mut fields, compaction.physical, "physical");
        Words { kind: "compaction", fields }
    } else if let Some(grant) = &r.lease_grant {
        Words { kind: "lease_grant", fields: vec![lease(grant.id), ("ttl_s", Value::Number(grant.ttl))] }
    } else if let Some(revoke) = &r.lease_revoke {
        Words { kind: "lease_revoke", fields: vec![lease(revoke.id)] }
    } else if let Some(checkpoint) = &r.lease_checkpoint {
        let one = |c: &lockstep_proto::etcdserverpb::LeaseCheckpoint| Words {
            kind: "checkpoint",
            fields: vec![lease(c.id), ("remaining_ttl_s", Value::Number(c.remaining_ttl))],
        };
        let all = checkpoint.checkpoints.iter().map(one).collect();
        Words { kind: "lease_checkpoint", fields: vec![("leases", Value::Requests(all))] }
    } else if let Some(alarm) = &r.alarm {
        let fields = vec![
            ("action", Value::Text(alarm.action().as_str_name().to_owned())),
            ("member", Value::Id(alarm.member_id)),
            ("alarm", Value::Text(alarm.alarm().as_str_name().to_owned())),
        ];
        Words { kind: "alarm", fields }
    } else if let Some(set) = &r.cluster_version_set {
        Words { kind: "cluster_version_set", fields: vec![("version", Value::Text(set.ver.clone()))] }
    } else if let Some(set) = &r.cluster_member_attr_set {
        let attributes = set.member_attributes.clone().unwrap_or_default();
        let fields = vec![
            ("member", Value::Id(set.member_id)),
            ("name", Value::Text(attributes.name)),
            ("client_urls", Value::Text(attributes.client_urls.join(","))),
        ];
        Words { kind: "cluster_member_attr_set", fields }
    } else {
        Words { kind: "other", fields: Vec::new() }
    }
}

fn put_words(put: &PutRequest) -> Words {
    let mut fields = vec![("key", Value::Bytes(put.key.clone())), ("value", Value::Bytes(put.value.clone()))];
    if put.lease != 0 {
        fields.push(("lease", Value::Id(put.lease as u64)));
    }
    note(&mut fields, put.ignore_value, "ignore_value");
    note(&mut fields, put.ignore_lease, "ignore_lease");
    Words { kind: "put", fields }
}

fn delete_words(delete: &DeleteRangeRequest) -> Words {
    Words { kind: "delete_range", fields: span(&delete.key, &delete.range_end) }
}

fn range_words(range: &RangeRequest) -> Words {
    let mut fields = span(&range.key, &range.range_end);
    for (name, number) in [("revision", range.revision), ("limit", range.limit)] {
        if number != 0 {
            fields.push((name, Value::Number(number)));
        }
    }
    Words { kind: "range", fields }
}

fn txn_words(txn: &TxnRequest) -> Words {
    let compares = txn.compare.iter().map(|compare| {
        let mut fields = vec![
            ("target", Value::Text(compare.target().as_str_name().to_owned())),
            ("result", Value::Text(compare.result().as_str_name().to_owned())),
        ];
        fields.extend(span(&compare.key, &compare.range_end));
        Words { kind: "compare", fields }
    });
    let fields = vec![
        ("compare", Value::Requests(compares.collect())),
        ("success", Value::Requests(ops(&txn.success))),
        ("failure", Value::Requests(ops(&txn.failure))),
    ];
    Words { kind: "txn", fields }
}

fn ops(ops: &[RequestOp]) -> Vec<Words> {
    let words = |op: &RequestOp| match op.request.as_ref()? {
        Op::RequestRange(range) => Some(range_words(range)),
        Op::RequestPut(put) => Some(put_words(put)),
        Op::RequestDeleteRange(delete) => Some(delete_words(delete)),
        Op::RequestTxn(txn) => Some(txn_words(txn)),
    };
    ops.iter().filter_map(words).collect()
}

fn span(key: &Bytes, end: &Bytes) -> Vec<(&'static str, Value)> {
    let mut fields = vec![("key", Value::Bytes(key.clone()))];
    if !end.is_empty() {
        fields.push(("range_end", Value::Bytes(end.clone())));
    }
    fields
}

fn note(fields: &mut Vec<(&'static str, Value)>, is_so: bool, name: &'static str) {
    if is_so {
        fields.push((name, Value::Number(1)));
    }
}
