//! What a member checks of a client's request on keys before it proposes or reads: shape, size, duplicates.
//!
//! Everything here looks at the request alone, never at the store, so every member gives the same answer. The order of
//! the checks is etcd's, because it decides which of two errors a client sees.

use std::collections::BTreeSet;

use lockstep_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use lockstep_proto::etcdserverpb::request_op::Request;
use lockstep_proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};

use super::error::EtcdError;
use super::intervals::Intervals;

/// How deep txns may be nested. A decoder gives up at 100 nested messages, two a level; an entry of the log wraps the
/// request once more, and what was accepted must always be decodable again.
pub const MAX_TXN_DEPTH: usize = 40;

/// Checks a range.
pub fn range(req: &RangeRequest) -> Result<(), EtcdError> {
    key(&req.key)?;
    if SortOrder::try_from(req.sort_order).is_err() || SortTarget::try_from(req.sort_target).is_err() {
        return Err(EtcdError::InvalidSortOption);
    }
    Ok(())
}

/// Checks a range whose answer is streamed: only key order can be streamed, and unfiltered.
pub fn range_stream(req: &RangeRequest) -> Result<(), EtcdError> {
    range(req)?;
    if !super::apply::range::is_default_order(req) {
        return Err(EtcdError::RangeStreamSort);
    }
    if super::apply::range::has_revision_filter(req) {
        return Err(EtcdError::RangeStreamFilter);
    }
    Ok(())
}

/// Checks a put.
pub fn put(req: &PutRequest) -> Result<(), EtcdError> {
    key(&req.key)?;
    if req.ignore_value && !req.value.is_empty() {
        return Err(EtcdError::ValueProvided);
    }
    if req.ignore_lease && req.lease != 0 {
        return Err(EtcdError::LeaseProvided);
    }
    Ok(())
}

/// Checks a delete.
pub fn delete_range(req: &DeleteRangeRequest) -> Result<(), EtcdError> {
    key(&req.key)
}

/// Checks a txn: each part, the number of operations, and that no branch writes a key twice.
///
/// `max_txn_ops` is the budget of the outermost level; each level leaves its nested ones what it did not use.
pub fn txn(req: &TxnRequest, max_txn_ops: usize) -> Result<(), EtcdError> {
    parts(req, max_txn_ops, MAX_TXN_DEPTH)?;
    // Only now that the number of operations is known to be bounded.
    writes(&req.success)?;
    writes(&req.failure)?;
    Ok(())
}

/// Checks the length of a proposal, as it goes into the log.
pub fn proposal_size(encoded_len: usize, max_request_bytes: usize) -> Result<(), EtcdError> {
    if encoded_len > max_request_bytes { Err(EtcdError::RequestTooLarge) } else { Ok(()) }
}

fn key(key: &[u8]) -> Result<(), EtcdError> {
    if key.is_empty() { Err(EtcdError::EmptyKey) } else { Ok(()) }
}

fn parts(req: &TxnRequest, budget: usize, depth: usize) -> Result<(), EtcdError> {
    let ops = req.compare.len().max(req.success.len()).max(req.failure.len());
    if ops > budget || depth == 0 {
        return Err(EtcdError::TooManyOps);
    }
    for compare in &req.compare {
        key(&compare.key)?;
    }
    for op in req.success.iter().chain(&req.failure) {
        match &op.request {
            Some(Request::RequestRange(r)) => range(r)?,
            Some(Request::RequestPut(r)) => put(r)?,
            Some(Request::RequestDeleteRange(r)) => delete_range(r)?,
            Some(Request::RequestTxn(r)) => parts(r, budget - ops, depth - 1)?,
            None => return Err(EtcdError::KeyNotFound),
        }
    }
    Ok(())
}

/// What a list of operations may write, whichever way its nested txns go.
#[derive(Default)]
struct Writes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Intervals,
}

/// Collects the writes of one branch, and refuses those that overlap.
///
/// The order is etcd's: this level's deletes, then the nested txns in turn, then this level's puts. So a nested put is
/// compared with the deletes of the txns before it, and not with those after it.
fn writes(ops: &[RequestOp]) -> Result<Writes<'_>, EtcdError> {
    let mut all = Writes::default();
    for op in ops {
        match &op.request {
            Some(Request::RequestDeleteRange(r)) if r.range_end.is_empty() => all.deletes.add_key(&r.key),
            // The end is taken literally, as etcd does here: `\0` is before every key instead of after, and so a delete
            // of all keys from one on overlaps no put.
            Some(Request::RequestDeleteRange(r)) => all.deletes.add(r.key.clone(), Some(r.range_end.clone())),
            _ => {}
        }
    }
    for op in ops {
        let Some(Request::RequestTxn(r)) = &op.request else { continue };
        let then = writes(&r.success)?;
        let otherwise = writes(&r.failure)?;
        for put in &then.puts {
            all.add_put(put)?;
        }
        for put in &otherwise.puts {
            // Only one of the two branches runs: a key may be in both.
            if then.puts.contains(put) {
                continue;
            }
            all.add_put(put)?;
        }
        all.deletes.merge(then.deletes);
        all.deletes.merge(otherwise.deletes);
    }
    for op in ops {
        if let Some(Request::RequestPut(r)) = &op.request {
            all.add_put(&r.key)?;
        }
    }
    Ok(all)
}

impl<'a> Writes<'a> {
    fn add_put(&mut self, key: &'a [u8]) -> Result<(), EtcdError> {
        if self.deletes.contains(key) || !self.puts.insert(key) {
            return Err(EtcdError::DuplicateKey);
        }
        Ok(())
    }
}
