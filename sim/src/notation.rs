//! The trace's language: etcd's notation for messages and entries, one line each.
//!
//! `1->2 MsgApp Term:1 Log:1/11 Commit:11 Entries:[1/12 put a=1]`, as in the test data of etcd-io/raft; where that
//! prints bytes, this prints the request they are. Everything here is a pure function of what it prints: traces are
//! hashed.

use std::fmt::Write;

use lockstep::member::raft::{Persist, Role, Stamp, Status};
use lockstep_proto::etcdserverpb::{Compare, InternalRaftRequest, RequestOp, ResponseOp, request_op, response_op};
use lockstep_proto::raftpb::{ConfChange, Entry, EntryType, HardState, Message, MessageType};
use prost::Message as _;

use lockstep::member::apply::Response;
use lockstep::member::error::EtcdError;

/// Entries of a message printed one by one; of more, the ends and the count.
const ENTRIES_PRINTED: usize = 8;

pub fn message(m: &Message) -> String {
    let mut out = format!("{:x}->{:x} {} Term:{}", m.from(), m.to(), m.r#type().as_str_name(), m.term());
    if carries_log_position(m.r#type()) {
        push(&mut out, format_args!(" Log:{}/{}", m.log_term(), m.index()));
    } else if m.index() != 0 {
        push(&mut out, format_args!(" Index:{}", m.index()));
    }
    if m.reject() {
        push(&mut out, format_args!(" Rejected (Hint: {})", m.reject_hint()));
    }
    if m.commit() != 0 {
        push(&mut out, format_args!(" Commit:{}", m.commit()));
    }
    if let Some(meta) = m.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref()) {
        push(&mut out, format_args!(" Snapshot:{}/{}", meta.term(), meta.index()));
    }
    if let Some(context) = m.context.as_deref() {
        push(&mut out, format_args!(" Ctx:{}", stamp(context)));
    }
    match m.r#type() {
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp => {
            for entry in &m.entries {
                push(&mut out, format_args!(" Ctx:{}", stamp(entry.data())));
            }
        }
        _ if !m.entries.is_empty() => push(&mut out, format_args!(" Entries:[{}]", entries(&m.entries))),
        _ => {}
    }
    out
}

pub fn entries(entries: &[Entry]) -> String {
    let shown: Vec<String> = match entries {
        [first, .., last] if entries.len() > ENTRIES_PRINTED => {
            vec![entry(first), format!("({} more)", entries.len() - 2), entry(last)]
        }
        _ => entries.iter().map(entry).collect(),
    };
    shown.join(", ")
}

/// `term/index what`
pub fn entry(e: &Entry) -> String {
    format!("{}/{} {}", e.term(), e.index(), entry_data(e))
}

pub fn entry_data(e: &Entry) -> String {
    match e.r#type() {
        EntryType::EntryNormal if e.data().is_empty() => "empty".into(),
        EntryType::EntryNormal => InternalRaftRequest::decode(e.data()).map_or("unreadable".into(), |r| request(&r)),
        EntryType::EntryConfChange => ConfChange::decode(e.data()).map_or("unreadable".into(), |change| {
            let kind = change.r#type().as_str_name().trim_start_matches("ConfChange");
            format!("{kind} {:x}", change.node_id())
        }),
        EntryType::EntryConfChangeV2 => "conf change v2".into(),
    }
}

pub fn request(request: &InternalRaftRequest) -> String {
    if let Some(put) = &request.put {
        return format!("put {}={}", text(&put.key), text(&put.value));
    }
    if let Some(delete) = &request.delete_range {
        return format!("delete {}{}", text(&delete.key), range_end(&delete.range_end));
    }
    if let Some(txn) = &request.txn {
        let compares: Vec<String> = txn.compare.iter().map(compare).collect();
        return format!("txn if {} then {} else {}", compares.join(" and "), ops(&txn.success), ops(&txn.failure));
    }
    if let Some(compaction) = &request.compaction {
        return format!("compact {}{}", compaction.revision, if compaction.physical { " physical" } else { "" });
    }
    if let Some(range) = &request.range {
        return format!("range {}{}", text(&range.key), range_end(&range.range_end));
    }
    if let Some(grant) = &request.lease_grant {
        return format!("grant {} for {} s", grant.id, grant.ttl);
    }
    if let Some(revoke) = &request.lease_revoke {
        return format!("revoke {}", revoke.id);
    }
    if let Some(checkpoint) = &request.lease_checkpoint {
        let left = checkpoint.checkpoints.iter().map(|c| format!("{}:{}", c.id, c.remaining_ttl));
        return format!("checkpoint {}", left.collect::<Vec<_>>().join(" "));
    }
    "other request".into()
}

/// What a client is told.
pub fn reply(result: &Result<Response, EtcdError>) -> String {
    let (name, header) = match result {
        Err(error) => return format!("error {:?}", error.message()),
        Ok(Response::Range(r)) => ("range".to_owned(), &r.header),
        Ok(Response::Put(r)) => ("put".to_owned(), &r.header),
        Ok(Response::DeleteRange(r)) => (format!("deleted:{}", r.deleted), &r.header),
        Ok(Response::Txn(r)) => {
            let responses: Vec<&str> = r.responses.iter().map(response_name).collect();
            (format!("txn succeeded:{} [{}]", r.succeeded, responses.join(" ")), &r.header)
        }
        Ok(Response::Compaction(r)) => ("compacted".to_owned(), &r.header),
        Ok(_) => return "done".into(),
    };
    format!("{name} rev:{}", header.as_ref().map_or(0, |h| h.revision))
}

pub fn hard_state(state: &HardState) -> String {
    format!("Term:{} Vote:{:x} Commit:{}", state.term(), state.vote(), state.commit())
}

pub fn persist(persist: &Persist) -> String {
    let mut out = format!("#{} {}", persist.number, hard_state(&persist.hard_state));
    if let Some(mark) = persist.snapshot {
        push(&mut out, format_args!(" Snapshot:{}/{}", mark.term, mark.index));
    }
    if !persist.entries.is_empty() {
        push(&mut out, format_args!(" Entries:[{}]", entries(&persist.entries)));
    }
    out
}

pub fn role(role: Role) -> &'static str {
    match role {
        Role::Follower => "StateFollower",
        Role::PreCandidate => "StatePreCandidate",
        Role::Candidate => "StateCandidate",
        Role::Leader => "StateLeader",
    }
}

pub fn status(s: &Status) -> String {
    format!(
        "{:x}: {} Term:{} Vote:{:x} Lead:{:x} Commit:{} Applied:{} Last:{}",
        s.id,
        role(s.role),
        s.term,
        s.vote,
        s.leader,
        s.commit,
        s.applied,
        s.last_index
    )
}

/// Printable bytes as they are, long ones cut.
pub fn text(bytes: &[u8]) -> String {
    const SHOWN: usize = 16;
    if bytes.len() > SHOWN {
        return format!("{}..({} bytes)", bytes[..SHOWN].escape_ascii(), bytes.len());
    }
    bytes.escape_ascii().to_string()
}

fn carries_log_position(kind: MessageType) -> bool {
    use MessageType as T;
    matches!(kind, T::MsgApp | T::MsgAppResp | T::MsgVote | T::MsgPreVote)
}

/// `member.epoch.sequence`
fn stamp(bytes: &[u8]) -> String {
    match Stamp::decode(bytes) {
        Some(stamp) => format!("{:x}.{}.{}", stamp.member, stamp.epoch, stamp.sequence),
        None => text(bytes),
    }
}

fn range_end(end: &[u8]) -> String {
    if end.is_empty() { String::new() } else { format!("..{}", text(end)) }
}

fn compare(c: &Compare) -> String {
    use lockstep_proto::etcdserverpb::compare::TargetUnion as U;
    let (target, value) = match &c.target_union {
        Some(U::Version(v)) => ("version", v.to_string()),
        Some(U::CreateRevision(v)) => ("create", v.to_string()),
        Some(U::ModRevision(v)) => ("mod", v.to_string()),
        Some(U::Value(v)) => ("value", text(v)),
        Some(U::Lease(v)) => ("lease", v.to_string()),
        None => ("nothing", String::new()),
    };
    let sign = ["==", ">", "<", "!="].get(c.result as usize).unwrap_or(&"?");
    format!("{target}({}){sign}{value}", text(&c.key))
}

fn ops(ops: &[RequestOp]) -> String {
    let named = ops.iter().map(|op| match &op.request {
        Some(request_op::Request::RequestPut(put)) => format!("put {}={}", text(&put.key), text(&put.value)),
        Some(request_op::Request::RequestDeleteRange(d)) => {
            format!("delete {}{}", text(&d.key), range_end(&d.range_end))
        }
        Some(request_op::Request::RequestRange(r)) => format!("range {}{}", text(&r.key), range_end(&r.range_end)),
        Some(request_op::Request::RequestTxn(_)) => "txn".into(),
        None => "nothing".into(),
    });
    format!("[{}]", named.collect::<Vec<_>>().join("; "))
}

fn response_name(op: &ResponseOp) -> &'static str {
    match &op.response {
        Some(response_op::Response::ResponsePut(_)) => "put",
        Some(response_op::Response::ResponseRange(_)) => "range",
        Some(response_op::Response::ResponseDeleteRange(_)) => "delete",
        Some(response_op::Response::ResponseTxn(_)) => "txn",
        None => "nothing",
    }
}

fn push(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments).expect("a string takes everything");
}
