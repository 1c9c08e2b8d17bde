//! etcd's `Range` on the read seam: what to ask of the store, and how its answer is filtered, sorted and cut.
//!
//! Pure: the caller decides what view is read and fills in the header's ids. The quirks are etcd 3.7's, and clients
//! depend on them:
//!
//! * the limit goes down to the store only when neither an order nor a filter needs all keys;
//! * a sort target without an order sorts ascending, but *after* that limited read;
//! * `count` is of all keys in the range, whatever the limit and the filters;
//! * `keys_only` is answered from the index, which knows no leases, except when values are what is sorted by.
//!
//! Keys that compare equal stay in key order, which etcd does not promise and Go's sort does only for a few keys.

use std::cmp::Ordering;

use bytes::Bytes;
use lockstep_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use lockstep_proto::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader};
use lockstep_proto::mvccpb::KeyValue;
use prost::Message;

use crate::mvcc::read::{Error, RangeOptions, Read, Revision};
use crate::mvcc::{View, header};

/// Answers a range. The header carries the revision of the reader, and nothing else yet.
pub fn range<R: Read + ?Sized>(reader: &R, req: &RangeRequest) -> Result<RangeResponse, Error> {
    let from_index = is_from_index(req);
    let options =
        RangeOptions { limit: store_limit(req), rev: req.revision, count_only: req.count_only, keys_only: from_index };
    let mut found = reader.range(&req.key, &req.range_end, options)?;

    if has_revision_filter(req) {
        found.kvs.retain(|kv| passes(req, kv));
    }
    sort(req, &mut found.kvs);

    let limit = limit(req);
    let more = limit.is_some_and(|limit| found.kvs.len() > limit);
    if let Some(limit) = limit {
        found.kvs.truncate(limit);
    }
    if req.keys_only {
        for kv in &mut found.kvs {
            kv.value = Bytes::new();
            if from_index {
                kv.lease = 0;
            }
        }
    }
    Ok(RangeResponse {
        header: Some(ResponseHeader { revision: found.rev, ..Default::default() }),
        kvs: found.kvs,
        more,
        count: found.count,
    })
}

/// A range before its values are read: where they are. For answers that may be too long to be held at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// The rows of the answer, in its order, cut to the limit.
    pub revisions: Vec<Revision>,
    pub more: bool,
    pub count: i64,
    /// The newest revision of the view.
    pub rev: i64,
}

/// Which rows [`range`] would answer with.
pub fn select(view: &View, req: &RangeRequest) -> Result<Selection, Error> {
    let want = if req.count_only { 0 } else { rows_wanted(req) };
    let (mut revisions, count) = view.locate(&req.key, &req.range_end, req.revision, want)?;
    let is_descending = req.sort_order == SortOrder::Descend as i32;
    match SortTarget::try_from(req.sort_target) {
        Ok(SortTarget::Key) if !has_revision_filter(req) => {
            if is_descending {
                revisions.reverse();
            }
        }
        target => revisions = sifted(view, req, target == Ok(SortTarget::Value), &revisions)?,
    }
    let limit = limit(req);
    let more = limit.is_some_and(|limit| revisions.len() > limit);
    if let Some(limit) = limit {
        revisions.truncate(limit);
    }
    Ok(Selection { revisions, more, count: count as i64, rev: view.rev() })
}

/// Answers a range whose rows take at most so many bytes; `None` where they take more.
pub fn short(view: &View, req: &RangeRequest, limit_bytes: usize) -> Result<Option<RangeResponse>, Error> {
    let Selection { revisions, more, count, rev } = select(view, req)?;
    let mut kvs = Vec::with_capacity(revisions.len().min(limit_bytes));
    let mut left = limit_bytes;
    for revision in revisions {
        let kv = with_selected(view, req, revision, |row| {
            left = left.checked_sub(row.len())?;
            Some(KeyValue::decode(row).map_err(|_| damaged(revision)))
        })?;
        match kv {
            Some(kv) => kvs.push(kv?),
            None => return Ok(None),
        }
    }
    Ok(Some(RangeResponse { header: Some(ResponseHeader { revision: rev, ..Default::default() }), kvs, more, count }))
}

/// One of the selected rows, as an answer holds it: a marshalled `KeyValue`.
pub fn with_selected<T>(
    view: &View,
    req: &RangeRequest,
    revision: Revision,
    f: impl FnOnce(&[u8]) -> T,
) -> Result<T, Error> {
    if !req.keys_only {
        return view.with_row(revision, f);
    }
    let stripped = view.with_row(revision, |row| described(row, revision))?;
    let mut kv = stripped?;
    if is_from_index(req) {
        kv.lease = 0;
    }
    Ok(f(&kv.encode_to_vec()))
}

/// Filters and sorts by what the rows say besides their values, which are held only where they are what is sorted by.
fn sifted(view: &View, req: &RangeRequest, by_value: bool, located: &[Revision]) -> Result<Vec<Revision>, Error> {
    let mut kvs = Vec::with_capacity(located.len());
    for (nth, revision) in located.iter().enumerate() {
        let mut kv = view.with_row(*revision, |row| {
            if by_value { KeyValue::decode(row).map_err(|_| damaged(*revision)) } else { described(row, *revision) }
        })??;
        if passes(req, &kv) {
            // They are in key order: their places stand for their keys, and name the rows again.
            kv.key = Bytes::copy_from_slice(&(nth as u64).to_be_bytes());
            kvs.push(kv);
        }
    }
    sort(req, &mut kvs);
    let place = |kv: &KeyValue| u64::from_be_bytes(kv.key[..].try_into().expect("written above"));
    Ok(kvs.iter().map(|kv| located[place(kv) as usize]).collect())
}

fn described(row: &[u8], revision: Revision) -> Result<KeyValue, Error> {
    let found = header(row).ok_or_else(|| damaged(revision))?;
    Ok(KeyValue {
        key: Bytes::copy_from_slice(found.key),
        create_revision: found.create_revision,
        mod_revision: found.mod_revision,
        version: found.version,
        lease: found.lease,
        value: Bytes::new(),
    })
}

fn damaged(revision: Revision) -> Error {
    Error::Storage(format!("the row of revision {}.{} is no KeyValue", revision.main, revision.sub))
}

fn is_from_index(req: &RangeRequest) -> bool {
    req.keys_only && req.sort_target != SortTarget::Value as i32
}

/// Whether the answer is in the order in which the store reads: by key, ascending.
pub fn is_default_order(req: &RangeRequest) -> bool {
    req.sort_order == SortOrder::None as i32
        || (req.sort_target == SortTarget::Key as i32 && req.sort_order == SortOrder::Ascend as i32)
}

/// Whether nothing but their places has to be known of the rows to answer.
pub fn is_in_store_order(req: &RangeRequest) -> bool {
    req.sort_target == SortTarget::Key as i32 && !has_revision_filter(req)
}

/// Whether values have to be compared to answer.
pub fn is_sorted_by_value(req: &RangeRequest) -> bool {
    req.sort_target == SortTarget::Value as i32
}

/// How many rows of the store are read to answer, at most.
pub fn rows_wanted(req: &RangeRequest) -> usize {
    match store_limit(req) {
        0 => usize::MAX,
        limit => limit,
    }
}

/// Whether only keys of certain revisions are asked for.
pub fn has_revision_filter(req: &RangeRequest) -> bool {
    [req.min_mod_revision, req.max_mod_revision, req.min_create_revision, req.max_create_revision] != [0; 4]
}

/// The request's limit; none when it is zero or negative.
fn limit(req: &RangeRequest) -> Option<usize> {
    if req.limit <= 0 { None } else { Some(usize::try_from(req.limit).unwrap_or(usize::MAX)) }
}

/// What the store is asked for: one key more than the limit, which is how `more` is known; 0 for all.
fn store_limit(req: &RangeRequest) -> usize {
    match limit(req) {
        Some(limit) if is_default_order(req) && !has_revision_filter(req) => limit.saturating_add(1),
        _ => 0,
    }
}

/// Bounds of zero are no bounds; negative ones are.
fn passes(req: &RangeRequest, kv: &KeyValue) -> bool {
    let at_least = |bound: i64, rev: i64| bound == 0 || rev >= bound;
    let at_most = |bound: i64, rev: i64| bound == 0 || rev <= bound;
    at_most(req.max_mod_revision, kv.mod_revision)
        && at_least(req.min_mod_revision, kv.mod_revision)
        && at_most(req.max_create_revision, kv.create_revision)
        && at_least(req.min_create_revision, kv.create_revision)
}

/// Targets and orders nobody knows are refused before a request gets here; an entry that carries one all the same is
/// answered unsorted by every member.
fn sort(req: &RangeRequest, kvs: &mut [KeyValue]) {
    let Ok(target) = SortTarget::try_from(req.sort_target) else { return };
    let order = match SortOrder::try_from(req.sort_order) {
        Ok(SortOrder::None) if target != SortTarget::Key => SortOrder::Ascend,
        Ok(order) => order,
        Err(_) => return,
    };
    let compare = |a: &KeyValue, b: &KeyValue| by(target, a, b);
    match order {
        SortOrder::None => {}
        SortOrder::Ascend => kvs.sort_by(compare),
        SortOrder::Descend => kvs.sort_by(|a, b| compare(b, a)),
    }
}

fn by(target: SortTarget, a: &KeyValue, b: &KeyValue) -> Ordering {
    match target {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value.cmp(&b.value),
    }
}
