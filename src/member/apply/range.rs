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

use crate::mvcc::read::{Error, RangeOptions, Read};

/// Answers a range. The header carries the revision of the reader, and nothing else yet.
pub fn range<R: Read + ?Sized>(reader: &R, req: &RangeRequest) -> Result<RangeResponse, Error> {
    let by_value = req.sort_target == SortTarget::Value as i32;
    let from_index = req.keys_only && !by_value;
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

/// Whether the answer is in the order in which the store reads: by key, ascending.
pub fn is_default_order(req: &RangeRequest) -> bool {
    req.sort_order == SortOrder::None as i32
        || (req.sort_target == SortTarget::Key as i32 && req.sort_order == SortOrder::Ascend as i32)
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
