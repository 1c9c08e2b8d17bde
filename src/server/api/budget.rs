//! What reads that are under way may hold, of all clients together, and what a request will have to hold.
//!
//! Three purses, so that none empties another: bytes of long ranges that are kept ready, which nobody waits for, as
//! what is not kept is read again later; bytes of answers that have to be held whole, those of txns and of deletions
//! that return what they deleted; and the places of rows that a range has selected. A request takes from a purse once,
//! before it begins, all that it needs there, and never waits for a purse that it holds a part of: so no two requests
//! wait for each other. Who waits longer than a request may take is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lockstep_proto::etcdserverpb::compare::CompareTarget;
use lockstep_proto::etcdserverpb::request_op::Request;
use lockstep_proto::etcdserverpb::{DeleteRangeRequest, RangeRequest, RequestOp, TxnRequest};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::member::apply::range;
use crate::member::error::EtcdError;
use crate::mvcc::View;
use crate::mvcc::read::Error;

/// Bytes of messages that clients have begun to send and not finished: those of one connection ...
const CONNECTION_UNFINISHED_BYTES: usize = 64 << 20;
/// ... and of all.
const ALL_UNFINISHED_BYTES: usize = 512 << 20;
/// What is counted at a time.
const UNIT_BYTES: u64 = 1 << 10;
/// Each purse.
const PURSE_BYTES: u64 = 256 << 20;
/// Less than this is not worth counting: a request itself costs as much.
pub const FREE_BYTES: u64 = 64 << 10;
/// The place of a row.
const PLACE_BYTES: u64 = 16;
/// A row that is sorted or filtered by what it says of itself.
const SIFTED_BYTES: u64 = 192;
/// An answer that is held whole is there twice: as a message, and marshalled.
const WHOLE_FACTOR: u64 = 2;
/// A read inside of a txn, beside its keys.
const OP_BYTES: u64 = 64;

/// See the head of this file.
pub struct Budget {
    ready: Arc<Semaphore>,
    whole: Arc<Semaphore>,
    places: Arc<Semaphore>,
    /// How long a request waits for its part.
    limit: Duration,
}

/// What the unfinished messages of a connection hold. Whoever would hold more is refused: to let him wait would keep
/// those waiting whose bytes come over the same connection.
#[derive(Clone)]
pub struct Unfinished(Arc<AtomicUsize>);

static ALL_UNFINISHED: AtomicUsize = AtomicUsize::new(0);

impl Unfinished {
    pub fn of_connection() -> Unfinished {
        Unfinished(Arc::default())
    }

    pub fn take(&self, bytes: usize) -> bool {
        let add = |to: &AtomicUsize, limit| {
            let add = |held: usize| held.checked_add(bytes).filter(|held| *held <= limit);
            to.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
        };
        if !add(&self.0, CONNECTION_UNFINISHED_BYTES) {
            return false;
        }
        let has_room = add(&ALL_UNFINISHED, ALL_UNFINISHED_BYTES);
        if !has_room {
            self.0.fetch_sub(bytes, Ordering::Relaxed);
        }
        has_room
    }

    pub fn give_back(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
        ALL_UNFINISHED.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A part of a purse, given back when it is dropped.
#[derive(Debug, Default)]
pub struct Share(Option<OwnedSemaphorePermit>);

impl Budget {
    pub fn new(limit: Duration) -> Arc<Budget> {
        let purse = || Arc::new(Semaphore::new(units(PURSE_BYTES) as usize));
        Arc::new(Budget { ready: purse(), whole: purse(), places: purse(), limit })
    }

    /// For bytes of a long range, if there is room.
    pub fn ready(&self, bytes: usize) -> Option<Share> {
        Some(Share(Some(self.ready.clone().try_acquire_many_owned(units(bytes as u64)).ok()?)))
    }

    /// For an answer of so many bytes. One that is longer than the purse has it for itself.
    pub async fn whole(&self, bytes: u64) -> Result<Share, Status> {
        self.wait(&self.whole, bytes.saturating_mul(WHOLE_FACTOR)).await
    }

    /// For what selecting the rows of a range takes, as [`selecting_bytes`] has it.
    pub async fn places(&self, bytes: u64) -> Result<Share, Status> {
        self.wait(&self.places, bytes).await
    }

    async fn wait(&self, purse: &Arc<Semaphore>, bytes: u64) -> Result<Share, Status> {
        if bytes <= FREE_BYTES {
            return Ok(Share(None));
        }
        // First come, first served: who needs much is not passed by all who need little.
        let part = tokio::time::timeout(self.limit, purse.clone().acquire_many_owned(units(bytes)));
        match part.await {
            // The purses are never closed.
            Ok(part) => Ok(Share(part.ok())),
            Err(_) => Err(exhausted()),
        }
    }
}

impl Share {
    /// Gives back what the places of these rows do not need.
    pub fn keep_places(&mut self, rows: usize) {
        self.keep(rows as u64 * PLACE_BYTES);
    }

    /// Gives back what is beyond so many bytes.
    pub fn keep(&mut self, bytes: u64) {
        if let Some(part) = &mut self.0 {
            drop(part.split(part.num_permits().saturating_sub(units(bytes) as usize)));
        }
    }

    pub fn is_free(&self) -> bool {
        self.0.is_none()
    }
}

/// The refusal of whoever would hold too much.
pub fn exhausted() -> Status {
    Status::resource_exhausted(EtcdError::TooManyRequests.message())
}

fn units(bytes: u64) -> u32 {
    // The largest purse is far below 2^32 units.
    bytes.min(PURSE_BYTES).div_ceil(UNIT_BYTES) as u32
}

/// What selecting the rows of a range will hold while it works.
pub fn selecting_bytes(view: &View, req: &RangeRequest) -> Result<u64, Error> {
    if req.count_only || req.range_end.is_empty() {
        return Ok(0);
    }
    let (_, count) = view.locate(&req.key, &req.range_end, req.revision, 0)?;
    let rows = count.min(range::rows_wanted(req)) as u64;
    if range::is_in_store_order(req) {
        return Ok(rows * PLACE_BYTES);
    }
    let values = if range::is_sorted_by_value(req) { rows_bytes(view, req)? } else { 0 };
    Ok(rows * SIFTED_BYTES + values)
}

/// Whether a txn may have to hold so much that it is worth [`txn_bytes`]. The common ones read one key.
pub fn txn_may_be_long(req: &TxnRequest) -> bool {
    fn reads(ops: &[RequestOp]) -> usize {
        ops.iter().fold(0, |sum, op| {
            sum.saturating_add(match &op.request {
                Some(Request::RequestRange(r)) if r.count_only => 0,
                Some(Request::RequestRange(r)) if r.range_end.is_empty() => 1,
                Some(Request::RequestPut(r)) => usize::from(r.prev_kv),
                Some(Request::RequestDeleteRange(r)) if !r.prev_kv => 0,
                Some(Request::RequestDeleteRange(r)) if r.range_end.is_empty() => 1,
                None => 0,
                Some(_) => usize::MAX,
            })
        })
    }
    req.compare.iter().any(|c| !c.range_end.is_empty()) || reads(&req.success) > 1 || reads(&req.failure) > 1
}

/// The most that carrying out a txn may hold of keys and values, whichever way its compares go; as of this view.
pub fn txn_bytes(view: &View, req: &TxnRequest) -> Result<u64, Error> {
    let mut compared = 0;
    for c in req.compare.iter().filter(|c| !c.range_end.is_empty()) {
        let from_index = [CompareTarget::Version, CompareTarget::Create, CompareTarget::Mod].map(|t| t as i32);
        let keys_only = from_index.contains(&c.target);
        let read = RangeRequest { key: c.key.clone(), range_end: c.range_end.clone(), keys_only, ..Default::default() };
        compared = compared.max(rows_bytes(view, &read)?);
    }
    let branch = |ops: &[RequestOp]| {
        let mut sum = 0u64;
        for op in ops {
            let bytes = match &op.request {
                Some(Request::RequestRange(r)) if r.count_only => 0,
                Some(Request::RequestRange(r)) => rows_bytes(view, r)?,
                Some(Request::RequestPut(r)) if r.prev_kv => {
                    rows_bytes(view, &RangeRequest { key: r.key.clone(), ..Default::default() })?
                }
                Some(Request::RequestDeleteRange(r)) => delete_bytes(view, r)?,
                Some(Request::RequestTxn(r)) => txn_bytes(view, r)?,
                Some(Request::RequestPut(_)) | None => 0,
            };
            sum = sum.saturating_add(bytes + OP_BYTES);
        }
        Ok::<u64, Error>(sum)
    };
    Ok(branch(&req.success)?.max(branch(&req.failure)?).max(compared))
}

/// What a deletion will answer with.
pub fn delete_bytes(view: &View, req: &DeleteRangeRequest) -> Result<u64, Error> {
    if !req.prev_kv {
        return Ok(0);
    }
    rows_bytes(view, &RangeRequest { key: req.key.clone(), range_end: req.range_end.clone(), ..Default::default() })
}

/// The rows that a range reads, marshalled.
fn rows_bytes(view: &View, req: &RangeRequest) -> Result<u64, Error> {
    let (revisions, _) = view.locate(&req.key, &req.range_end, req.revision, range::rows_wanted(req))?;
    let mut sum = 0;
    for revision in revisions {
        sum += view.with_row(revision, |row| row.len())? as u64;
    }
    Ok(sum)
}
