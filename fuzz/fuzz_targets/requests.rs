//! Every request message of every service, what peers ask about leases, and what the log carries: decoded, checked, and
//! carried out by a member's core, one after the other, on one store.
//!
//! The first byte says how the rest is read. Either each message is raw: a byte picks which, two bytes say how long it
//! is. Or the bytes are choices, of which well-formed requests on a few keys are made.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lockstep::member::apply::Response;
use lockstep::member::check;
use lockstep::member::lease::Table;
use lockstep::mvcc::read::Read;
use lockstep_fuzz::choices::Choices;
use lockstep_fuzz::member::Member;
use lockstep_fuzz::messages::{self, OF_PEERS};
use lockstep_proto::etcdserverpb::compare::TargetUnion;
use lockstep_proto::etcdserverpb::request_op::Request;
use lockstep_proto::etcdserverpb::*;
use lockstep_proto::raftpb::EntryType;
use lockstep_proto::schema::METHODS;
use prost::Message;

/// Requests of one input, at most.
const MAX_REQUESTS: usize = 64;
const MAX_NESTING: u8 = 3;

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let flags = choices.byte();
    let is_raw = flags & 1 == 0;
    // A disk of its own takes as much time as a hundred requests.
    let mut member = Member::new(flags & 14 == 14);
    for _ in 0..MAX_REQUESTS {
        if choices.is_empty() {
            break;
        }
        if is_raw {
            let which = usize::from(choices.byte());
            let bytes = choices.bytes();
            let name = match METHODS.get(which % (METHODS.len() + OF_PEERS.len())) {
                Some(method) => method.input.name,
                None => OF_PEERS[which % (METHODS.len() + OF_PEERS.len()) - METHODS.len()],
            };
            if let Some(bytes) = messages::decode(name, bytes) {
                carry_out(&mut member, name, &bytes);
            }
        } else {
            choose(&mut member, &mut choices);
        }
    }
    member.check();
});

/// What the member does with a message that was decoded.
fn carry_out(member: &mut Member, name: &str, bytes: &[u8]) {
    let (_, name) = name.split_once('.').expect("a package and a name");
    let request = match name {
        "RangeRequest" => return member.range(&read(bytes)),
        "TxnRequest" => return member.txn(read(bytes)),
        "PutRequest" => {
            let put: PutRequest = read(bytes);
            if check::put(&put).is_err() {
                return;
            }
            InternalRaftRequest { put: Some(put), ..Default::default() }
        }
        "DeleteRangeRequest" => {
            let delete: DeleteRangeRequest = read(bytes);
            if check::delete_range(&delete).is_err() {
                return;
            }
            InternalRaftRequest { delete_range: Some(delete), ..Default::default() }
        }
        "CompactionRequest" => InternalRaftRequest { compaction: Some(read(bytes)), ..Default::default() },
        "LeaseGrantRequest" => InternalRaftRequest { lease_grant: Some(read(bytes)), ..Default::default() },
        "LeaseRevokeRequest" => InternalRaftRequest { lease_revoke: Some(read(bytes)), ..Default::default() },
        "LeaseTimeToLiveRequest" => return member.lease_keys(read::<LeaseTimeToLiveRequest>(bytes).id),
        "HashKVRequest" => return drop(member.view.hash_kv(read::<HashKvRequest>(bytes).revision)),
        "HashRequest" => {
            member.view.hash().expect("the store can be read");
            return;
        }
        "Lease" => return drop(Table::load([bytes], Vec::new())),
        "InternalRaftRequest" => return member.apply(EntryType::EntryNormal, bytes),
        "ConfChange" => return member.apply(EntryType::EntryConfChange, bytes),
        _ => return,
    };
    member.propose(request);
}

fn read<M: Message + Default>(bytes: &[u8]) -> M {
    M::decode(bytes).expect("it was decoded before")
}

/// One request or event.
fn choose(member: &mut Member, choices: &mut Choices<'_>) {
    let newest = member.view.rev();
    let request = match choices.below(16) {
        0..3 => InternalRaftRequest { put: Some(put(choices)), ..Default::default() },
        3 => InternalRaftRequest { delete_range: Some(delete_range(choices)), ..Default::default() },
        4..7 => return member.txn(txn(choices, newest, 0)),
        7..10 => return member.range(&range(choices, newest)),
        10 => {
            let revision = newest - i64::from(choices.below(8)) + 1;
            let compaction = Some(CompactionRequest { revision, physical: choices.one_in(2) });
            InternalRaftRequest { compaction, ..Default::default() }
        }
        11 => {
            let grant = LeaseGrantRequest { id: lease(choices), ttl: i64::from(choices.byte()) };
            InternalRaftRequest { lease_grant: Some(grant), ..Default::default() }
        }
        12 if choices.one_in(2) => {
            let checkpoint = LeaseCheckpoint { id: lease(choices), remaining_ttl: choices.number() };
            let lease_checkpoint = Some(LeaseCheckpointRequest { checkpoints: vec![checkpoint] });
            InternalRaftRequest { lease_checkpoint, ..Default::default() }
        }
        12 => {
            let revoke = LeaseRevokeRequest { id: lease(choices) };
            InternalRaftRequest { lease_revoke: Some(revoke), ..Default::default() }
        }
        13 => return member.commit(),
        14 => return member.compact_step(),
        _ if choices.one_in(8) => return member.restart(),
        _ => return member.lease_keys(lease(choices)),
    };
    let writes = request.put.is_some() || request.delete_range.is_some();
    let answer = member.propose(request);
    // A header has the revision that the write made, if it made one.
    match answer {
        Some(Ok(Response::Put(PutResponse { header, .. }))) => {
            assert_eq!(header.map(|h| h.revision), Some(newest + 1));
        }
        Some(Ok(Response::DeleteRange(DeleteRangeResponse { header, deleted, .. }))) => {
            assert_eq!(header.map(|h| h.revision), Some(newest + i64::from(deleted > 0)));
        }
        _ => assert!(member.view.rev() == newest || !writes),
    }
}

fn lease(choices: &mut Choices<'_>) -> i64 {
    i64::from(choices.below(4))
}

fn range_end(choices: &mut Choices<'_>) -> Vec<u8> {
    match choices.below(3) {
        0 => Vec::new(),
        1 => vec![0],
        _ => choices.key(),
    }
}

fn put(choices: &mut Choices<'_>) -> PutRequest {
    let mut put = PutRequest { key: choices.key().into(), ..Default::default() };
    let flags = choices.byte();
    put.ignore_value = flags & 3 == 3;
    put.ignore_lease = flags & 12 == 12;
    put.prev_kv = flags & 16 == 16;
    if flags & 32 == 32 && !put.ignore_lease {
        put.lease = lease(choices);
    }
    if !put.ignore_value {
        put.value = vec![b'v'; usize::from(choices.byte())].into();
    }
    put
}

fn delete_range(choices: &mut Choices<'_>) -> DeleteRangeRequest {
    let (key, range_end) = (choices.key().into(), range_end(choices).into());
    DeleteRangeRequest { key, range_end, prev_kv: choices.one_in(2) }
}

fn range(choices: &mut Choices<'_>, newest: i64) -> RangeRequest {
    let (key, range_end) = (choices.key().into(), range_end(choices).into());
    let mut range = RangeRequest { key, range_end, ..Default::default() };
    let flags = choices.byte();
    if flags & 1 == 1 {
        range.limit = i64::from(choices.byte() as i8);
    }
    if flags & 2 == 2 {
        range.revision = newest - i64::from(choices.below(8)) + 1;
    }
    if flags & 4 == 4 {
        (range.sort_order, range.sort_target) = (i32::from(choices.below(4)), i32::from(choices.below(6)));
    }
    (range.serializable, range.keys_only, range.count_only) = (flags & 8 == 8, flags & 16 == 16, flags & 32 == 32);
    if flags & 64 == 64 {
        let mut bound = || if choices.one_in(2) { newest - i64::from(choices.below(8)) } else { 0 };
        range.min_mod_revision = bound();
        range.max_mod_revision = bound();
        range.min_create_revision = bound();
        range.max_create_revision = bound();
    }
    range
}

fn txn(choices: &mut Choices<'_>, newest: i64, depth: u8) -> TxnRequest {
    let compare = (0..choices.below(3)).map(|_| compare(choices, newest)).collect();
    let mut branch = || (0..choices.below(4)).map(|_| op(choices, newest, depth)).collect();
    TxnRequest { compare, success: branch(), failure: branch() }
}

fn compare(choices: &mut Choices<'_>, newest: i64) -> Compare {
    let (key, range_end) = (choices.key().into(), range_end(choices).into());
    let number = newest - i64::from(choices.below(8));
    let operand = match choices.below(6) {
        0 => Some(TargetUnion::Version(number)),
        1 => Some(TargetUnion::CreateRevision(number)),
        2 => Some(TargetUnion::ModRevision(number)),
        3 => Some(TargetUnion::Lease(number)),
        4 => Some(TargetUnion::Value(vec![b'v'; usize::from(choices.byte())].into())),
        _ => None,
    };
    let (result, target) = (i32::from(choices.below(5)), i32::from(choices.below(6)));
    Compare { result, target, key, range_end, target_union: operand }
}

fn op(choices: &mut Choices<'_>, newest: i64, depth: u8) -> RequestOp {
    let request = match choices.below(5) {
        0 | 1 => Some(Request::RequestPut(put(choices))),
        2 => Some(Request::RequestRange(range(choices, newest))),
        3 => Some(Request::RequestDeleteRange(delete_range(choices))),
        _ if depth < MAX_NESTING => Some(Request::RequestTxn(txn(choices, newest, depth + 1))),
        _ => None,
    };
    RequestOp { request }
}
