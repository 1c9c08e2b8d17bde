//! The differences between releases that are known, each with its reason; any other is a bug.
//!
//! A difference is a function that makes two answers equal where, and only where, it explains them. The same list is in
//! `docs/COMPATIBILITY.md` in words.

use bytes::Bytes;
use lockstep::member::error::EtcdError;
use lockstep::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use lockstep::proto::etcdserverpb::request_op::Request as Op;
use lockstep::proto::etcdserverpb::response_op::Response as OpResponse;
use lockstep::proto::etcdserverpb::{RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse};
use lockstep::proto::mvccpb::KeyValue;

use super::target::{Release, Reply, Request, Response, refused};

pub struct Difference {
    pub what: &'static str,
    pub reason: &'static str,
    applies: fn(older: Release, newer: Release) -> bool,
    reconcile: fn(&Request, older: &mut Reply, newer: &mut Reply),
}

pub const KNOWN: &[Difference] = &[
    Difference {
        what: "the order of keys that compare equal, and which of them a limit cuts off",
        reason: "Go's sort is not stable and changed between Go's releases; ours keeps key order",
        applies: |_, _| true,
        reconcile: |request, older, newer| ranges(request, older, newer, &mut ties),
    },
    Difference {
        what: "keys_only answers carry no lease",
        reason: "3.7 answers them from the index, which knows none",
        applies: |older, newer| older < Release::V37 && newer >= Release::V37,
        reconcile: |request, older, newer| ranges(request, older, newer, &mut leases_of_keys),
    },
    Difference {
        what: "an unknown sort order is refused",
        reason: "since 3.6; before, it left the keys unsorted, and an unknown target stopped the server",
        applies: |older, newer| older < Release::V37 && newer >= Release::V37,
        reconcile: |request, older, newer| {
            let odd = matches!(request, Request::Range(r) if SortOrder::try_from(r.sort_order).is_err());
            if odd && *newer == refused(EtcdError::InvalidSortOption) {
                older.clone_from(newer);
            }
        },
    },
    Difference {
        what: "HashKV at the compacted revision itself is answered",
        reason: "since 3.6; before, only revisions after it were",
        applies: |older, newer| older < Release::V37 && newer >= Release::V37,
        reconcile: |request, older, newer| {
            let (Request::HashKv(r), Ok(Response::HashKv(answer))) = (request, &*newer) else { return };
            if r.revision == answer.compact_revision && *older == refused(EtcdError::Compacted) {
                older.clone_from(newer);
            }
        },
    },
    Difference {
        what: "HashKV says which revision it hashed",
        reason: "the field is new in 3.6",
        applies: |older, newer| older < Release::V37 && newer >= Release::V37,
        reconcile: |_, older, newer| {
            if let (Ok(Response::HashKv(a)), Ok(Response::HashKv(b))) = (older, newer)
                && a.hash_revision == 0
            {
                a.hash_revision = b.hash_revision;
            }
        },
    },
    Difference {
        what: "which of two errors a txn reports",
        reason: "before 3.6 all puts were checked before all ranges, and a put's key before its lease",
        applies: |older, newer| older < Release::V37 && newer >= Release::V37,
        reconcile: |request, older, newer| {
            let at_apply =
                [EtcdError::LeaseNotFound, EtcdError::KeyNotFound, EtcdError::Compacted, EtcdError::FutureRev];
            let refused_at_apply = |reply: &Reply| at_apply.iter().any(|e| *reply == refused(*e));
            if matches!(request, Request::Txn(_)) && refused_at_apply(older) && refused_at_apply(newer) {
                older.clone_from(newer);
            }
        },
    },
];

/// Applies the known differences between the two releases until the answers are equal; returns those that it took.
pub fn reconcile(
    request: &Request,
    left: (Release, &mut Reply),
    right: (Release, &mut Reply),
) -> Vec<&'static Difference> {
    let (older, newer) = if left.0 <= right.0 { (left, right) } else { (right, left) };
    let mut taken = Vec::new();
    for difference in KNOWN {
        if !(difference.applies)(older.0, newer.0) || older.1 == newer.1 {
            continue;
        }
        let before = (older.1.clone(), newer.1.clone());
        (difference.reconcile)(request, older.1, newer.1);
        if before != (older.1.clone(), newer.1.clone()) {
            taken.push(difference);
        }
    }
    taken
}

type OnRange<'a> = &'a mut dyn FnMut(&RangeRequest, &mut RangeResponse, &mut RangeResponse);

/// Visits every range in two answers, those in txns too.
fn ranges(request: &Request, older: &mut Reply, newer: &mut Reply, visit: OnRange<'_>) {
    match (request, older, newer) {
        (Request::Range(r), Ok(Response::Range(a)), Ok(Response::Range(b))) => visit(r, a, b),
        (Request::Txn(r), Ok(Response::Txn(a)), Ok(Response::Txn(b))) => txn_ranges(r, a, b, visit),
        _ => {}
    }
}

fn txn_ranges(request: &TxnRequest, older: &mut TxnResponse, newer: &mut TxnResponse, visit: OnRange<'_>) {
    if older.succeeded != newer.succeeded {
        return;
    }
    let ops: &[RequestOp] = if older.succeeded { &request.success } else { &request.failure };
    for ((op, a), b) in ops.iter().zip(&mut older.responses).zip(&mut newer.responses) {
        match (&op.request, &mut a.response, &mut b.response) {
            (Some(Op::RequestRange(r)), Some(OpResponse::ResponseRange(a)), Some(OpResponse::ResponseRange(b))) => {
                visit(r, a, b);
            }
            (Some(Op::RequestTxn(r)), Some(OpResponse::ResponseTxn(a)), Some(OpResponse::ResponseTxn(b))) => {
                txn_ranges(r, a, b, visit);
            }
            _ => {}
        }
    }
}

fn leases_of_keys(request: &RangeRequest, older: &mut RangeResponse, _: &mut RangeResponse) {
    if request.keys_only && request.sort_target != SortTarget::Value as i32 {
        older.kvs.iter_mut().for_each(|kv| kv.lease = 0);
    }
}

/// Brings keys that compare equal into key order in both; those that a limit could have exchanged are blanked.
fn ties(request: &RangeRequest, older: &mut RangeResponse, newer: &mut RangeResponse) {
    let Ok(target) = SortTarget::try_from(request.sort_target) else { return };
    if target == SortTarget::Key {
        return;
    }
    let values_hidden = request.keys_only && target == SortTarget::Value;
    let sort_key = |kv: &KeyValue| match target {
        SortTarget::Key => Bytes::new(),
        SortTarget::Version => Bytes::copy_from_slice(&kv.version.to_be_bytes()),
        SortTarget::Create => Bytes::copy_from_slice(&kv.create_revision.to_be_bytes()),
        SortTarget::Mod => Bytes::copy_from_slice(&kv.mod_revision.to_be_bytes()),
        SortTarget::Value => kv.value.clone(),
    };
    // With an order, or a filter, the cut comes after the sort, so the last group may hold any of its equals.
    let cut = older.more
        && (request.sort_order != SortOrder::None as i32
            || lockstep::member::apply::range::has_revision_filter(request));
    for response in [older, newer] {
        let groups = response.kvs.chunk_by_mut(|a, b| values_hidden || sort_key(a) == sort_key(b));
        let mut last = None;
        for group in groups {
            group.sort_by(|a, b| a.key.cmp(&b.key));
            last = Some(group);
        }
        if cut && let Some(group) = last {
            for kv in group {
                let blank = KeyValue::default();
                *kv = match target {
                    SortTarget::Key => blank,
                    SortTarget::Version => KeyValue { version: kv.version, ..blank },
                    SortTarget::Create => KeyValue { create_revision: kv.create_revision, ..blank },
                    SortTarget::Mod => KeyValue { mod_revision: kv.mod_revision, ..blank },
                    SortTarget::Value => KeyValue { value: kv.value.clone(), ..blank },
                };
            }
        }
    }
}
