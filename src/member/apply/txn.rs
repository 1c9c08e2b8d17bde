//! etcd's `Txn` on the write seam: decide every branch, check the branches taken, and only then write.
//!
//! Three passes, as in etcd:
//!
//! 1. all compares, nested ones too, on the state *before* the txn, which gives the path of branches;
//! 2. the operations on that path are checked against the same state, so that a refused txn changes nothing;
//! 3. they are carried out in order, each seeing the writes of those before it.
//!
//! The second pass also refuses what would fail in the third: a put that takes the value or the lease of a key which an
//! earlier delete of the same txn removes. etcd lets it through ("all keys from k on" overlaps no put there) and
//! then stops every member, at each restart again.
//!
//! Recursion is bounded by the request's nesting, which [`crate::member::check`] and every decoder limit.

use lockstep_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use lockstep_proto::etcdserverpb::request_op::Request;
use lockstep_proto::etcdserverpb::response_op::Response;
use lockstep_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, ResponseHeader, ResponseOp, TxnRequest,
    TxnResponse,
};
use lockstep_proto::mvccpb::KeyValue;

use super::kv::{self, KvError};
use super::range;
use crate::member::error::EtcdError;
use crate::member::intervals::Intervals;
use crate::mvcc::read::{self, RangeOptions, Read, Write};

/// Carries out a txn, or refuses it and changes nothing.
///
/// `w` must be fresh: nothing written yet. The header of the response carries the newest revision after it; the
/// headers of ranges, puts and deletes inside carry theirs; that of a nested txn is present and empty.
pub fn txn<W: Write + ?Sized>(
    w: &mut W,
    req: &TxnRequest,
    lease_exists: &dyn Fn(i64) -> bool,
) -> Result<TxnResponse, KvError> {
    assert!(!w.changed(), "a txn begins on a fresh write transaction");
    let begin = w.rev();
    let path = decide(w, req)?;
    Check { reader: w, lease_exists, deleted: Intervals::default() }.branch(req, &mut path.iter())?;
    let mut response = execute(w, req, &mut path.iter())?;
    response.header = Some(kv::header(begin + i64::from(w.changed())));
    Ok(response)
}

/// Carries out a txn that [`is_readonly`] on a view. It needs no entry in the log.
pub fn txn_readonly<R: Read + ?Sized>(reader: &R, req: &TxnRequest) -> Result<TxnResponse, KvError> {
    let path = decide(reader, req)?;
    Check { reader, lease_exists: &|_| true, deleted: Intervals::default() }.branch(req, &mut path.iter())?;
    let mut responses = Vec::new();
    for op in branch(req, path[0]) {
        let Some(Request::RequestRange(r)) = &op.request else {
            unreachable!("a read-only txn holds ranges and nothing else");
        };
        responses.push(ResponseOp { response: Some(Response::ResponseRange(range::range(reader, r)?)) });
    }
    Ok(TxnResponse { header: Some(kv::header(reader.rev())), succeeded: path[0], responses })
}

/// Whether the txn holds ranges only. One with a nested txn does not count, whatever that one holds.
pub fn is_readonly(req: &TxnRequest) -> bool {
    all_ops(req).all(|op| matches!(op.request, Some(Request::RequestRange(_))))
}

/// Whether the txn holds serializable ranges only, and so may be answered from any member's own state.
pub fn is_serializable(req: &TxnRequest) -> bool {
    all_ops(req).all(|op| matches!(&op.request, Some(Request::RequestRange(r)) if r.serializable))
}

fn all_ops(req: &TxnRequest) -> impl Iterator<Item = &RequestOp> {
    req.success.iter().chain(&req.failure)
}

fn branch(req: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    if succeeded { &req.success } else { &req.failure }
}

/// Which branch each txn takes: the outer one first, then the nested ones of that branch in order, each with its own
/// before the next. Every later walk meets them in the same order.
fn decide<R: Read + ?Sized>(reader: &R, req: &TxnRequest) -> Result<Vec<bool>, read::Error> {
    fn walk<R: Read + ?Sized>(reader: &R, req: &TxnRequest, path: &mut Vec<bool>) -> Result<(), read::Error> {
        let mut succeeded = true;
        for c in &req.compare {
            if !holds(reader, c)? {
                succeeded = false;
                break;
            }
        }
        path.push(succeeded);
        for op in branch(req, succeeded) {
            if let Some(Request::RequestTxn(r)) = &op.request {
                walk(reader, r, path)?;
            }
        }
        Ok(())
    }
    let mut path = Vec::new();
    walk(reader, req, &mut path)?;
    Ok(path)
}

/// Whether a compare holds for every key in its range. Where there is none, no value compares, and every other target
/// is compared with zero.
fn holds<R: Read + ?Sized>(reader: &R, c: &Compare) -> Result<bool, read::Error> {
    let target = CompareTarget::try_from(c.target).ok();
    let from_index = matches!(target, Some(CompareTarget::Version | CompareTarget::Create | CompareTarget::Mod));
    let options = RangeOptions { keys_only: from_index, ..Default::default() };
    let kvs = match reader.range(&c.key, &c.range_end, options) {
        Ok(found) => found.kvs,
        Err(error @ read::Error::Storage(_)) => return Err(error),
        Err(_) => return Ok(false),
    };
    if kvs.is_empty() {
        return Ok(target != Some(CompareTarget::Value) && matches(c, target, &KeyValue::default()));
    }
    Ok(kvs.iter().all(|kv| matches(c, target, kv)))
}

/// An operand of another kind than the target counts as zero or empty; an unknown target compares equal, and an
/// unknown result always holds. All of that is etcd's.
fn matches(c: &Compare, target: Option<CompareTarget>, kv: &KeyValue) -> bool {
    use TargetUnion as Operand;
    let operand = c.target_union.as_ref();
    let number = |of: fn(&Operand) -> Option<i64>| operand.and_then(of).unwrap_or(0);
    let order = match target {
        Some(CompareTarget::Version) => {
            kv.version.cmp(&number(|o| if let Operand::Version(v) = o { Some(*v) } else { None }))
        }
        Some(CompareTarget::Create) => {
            kv.create_revision.cmp(&number(|o| if let Operand::CreateRevision(v) = o { Some(*v) } else { None }))
        }
        Some(CompareTarget::Mod) => {
            kv.mod_revision.cmp(&number(|o| if let Operand::ModRevision(v) = o { Some(*v) } else { None }))
        }
        Some(CompareTarget::Lease) => {
            kv.lease.cmp(&number(|o| if let Operand::Lease(v) = o { Some(*v) } else { None }))
        }
        Some(CompareTarget::Value) => {
            let value = if let Some(Operand::Value(v)) = operand { v.as_ref() } else { b"" };
            kv.value.as_ref().cmp(value)
        }
        None => std::cmp::Ordering::Equal,
    };
    match CompareResult::try_from(c.result) {
        Ok(CompareResult::Equal) => order.is_eq(),
        Ok(CompareResult::NotEqual) => order.is_ne(),
        Ok(CompareResult::Greater) => order.is_gt(),
        Ok(CompareResult::Less) => order.is_lt(),
        Err(_) => true,
    }
}

/// The second pass.
struct Check<'a, R: ?Sized> {
    reader: &'a R,
    lease_exists: &'a dyn Fn(i64) -> bool,
    /// What the operations before the one that is looked at will have deleted. Nothing comes back: a txn puts a key
    /// once.
    deleted: Intervals,
}

impl<R: Read + ?Sized> Check<'_, R> {
    fn branch(&mut self, req: &TxnRequest, path: &mut std::slice::Iter<'_, bool>) -> Result<(), KvError> {
        let succeeded = *path.next().expect("the path names every txn on it");
        for op in branch(req, succeeded) {
            match &op.request {
                Some(Request::RequestRange(r)) => self.range(r)?,
                Some(Request::RequestPut(r)) => self.put(r)?,
                Some(Request::RequestDeleteRange(r)) => self.delete(r),
                Some(Request::RequestTxn(r)) => self.branch(r, path)?,
                None => {}
            }
        }
        Ok(())
    }

    /// Unlike a range on its own, one in a txn may not name a revision below zero once it lies before the compaction.
    fn range(&self, req: &RangeRequest) -> Result<(), KvError> {
        if req.revision > self.reader.rev() {
            return Err(EtcdError::FutureRev.into());
        }
        if req.revision != 0 && req.revision < self.reader.compact_rev() {
            return Err(EtcdError::Compacted.into());
        }
        Ok(())
    }

    fn put(&mut self, req: &PutRequest) -> Result<(), KvError> {
        kv::check_lease(req, self.lease_exists)?;
        if kv::needs_previous(req) && (kv::previous(self.reader, req)?.is_none() || self.deleted.contains(&req.key)) {
            return Err(EtcdError::KeyNotFound.into());
        }
        Ok(())
    }

    fn delete(&mut self, req: &DeleteRangeRequest) {
        match req.range_end.as_ref() {
            b"" => self.deleted.add_key(&req.key),
            b"\0" => self.deleted.add(req.key.clone(), None),
            _ => self.deleted.add(req.key.clone(), Some(req.range_end.clone())),
        }
    }
}

/// The third pass. Nothing in it can be refused any more.
fn execute<W: Write + ?Sized>(
    w: &mut W,
    req: &TxnRequest,
    path: &mut std::slice::Iter<'_, bool>,
) -> Result<TxnResponse, KvError> {
    let succeeded = *path.next().expect("the path names every txn on it");
    let ops = branch(req, succeeded);
    let mut responses = Vec::with_capacity(ops.len());
    for op in ops {
        let response = match &op.request {
            Some(Request::RequestRange(r)) => Some(Response::ResponseRange(range::range(w, r)?)),
            Some(Request::RequestPut(r)) => {
                let previous = kv::previous(w, r)?;
                Some(Response::ResponsePut(kv::execute_put(w, r, previous)))
            }
            Some(Request::RequestDeleteRange(r)) => Some(Response::ResponseDeleteRange(kv::delete_range(w, r)?)),
            Some(Request::RequestTxn(r)) => Some(Response::ResponseTxn(execute(w, r, path)?)),
            None => None,
        };
        responses.push(ResponseOp { response });
    }
    Ok(TxnResponse { header: Some(ResponseHeader::default()), succeeded, responses })
}
