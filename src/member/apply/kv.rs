//! etcd's `Put` and `DeleteRange` on the write seam, alone and as part of a txn.
//!
//! Pure and synchronous: these know no clock, lease table or disk. A refusal leaves the transaction untouched. What is
//! wrong with a request by itself was found in [`crate::member::check`] before it was proposed, but nothing here
//! relies on that for safety: an entry may come from another implementation's log.

use lockstep_proto::etcdserverpb::{DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, ResponseHeader};
use lockstep_proto::mvccpb::KeyValue;

use crate::member::error::EtcdError;
use crate::mvcc::read::{self, RangeOptions, Read, Write};

/// Why a request on keys was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// A result like any other: the client is told, nothing changed, the member goes on.
    #[error(transparent)]
    Refused(#[from] EtcdError),
    /// Compaction overtook the view that was read: read again on a newer one.
    #[error("compaction overtook this read")]
    Overtaken,
    /// The store failed; the transaction may be half done, and the member must stop without committing it.
    #[error("the store cannot be read while applying a request: {0}; stop this member and check its disk")]
    Storage(String),
}

impl read::Overtaken for KvError {
    fn is_overtaken(&self) -> bool {
        matches!(self, KvError::Overtaken)
    }
}

impl From<read::Error> for KvError {
    fn from(error: read::Error) -> Self {
        match error {
            read::Error::Compacted => KvError::Refused(EtcdError::Compacted),
            read::Error::FutureRev => KvError::Refused(EtcdError::FutureRev),
            read::Error::Overtaken => KvError::Overtaken,
            read::Error::Storage(why) => KvError::Storage(why),
        }
    }
}

/// Puts one key. `lease_exists` answers for the leases of this member's replicated lease table.
///
/// The header of the response carries the put's revision.
pub fn put<W: Write + ?Sized>(
    w: &mut W,
    req: &PutRequest,
    lease_exists: &dyn Fn(i64) -> bool,
) -> Result<PutResponse, KvError> {
    check_lease(req, lease_exists)?;
    let previous = previous(w, req)?;
    if needs_previous(req) && previous.is_none() {
        return Err(EtcdError::KeyNotFound.into());
    }
    Ok(execute_put(w, req, previous))
}

/// Deletes what the range holds. The header of the response carries the newest revision after it, which is a new one
/// only if something was deleted (now, or earlier in the same txn).
pub fn delete_range<W: Write + ?Sized>(w: &mut W, req: &DeleteRangeRequest) -> Result<DeleteRangeResponse, KvError> {
    let prev_kvs = match req.prev_kv {
        true => w.range(&req.key, &req.range_end, RangeOptions::default())?.kvs,
        false => Vec::new(),
    };
    let deleted = w.delete_range(&req.key, &req.range_end);
    Ok(DeleteRangeResponse { header: Some(header(w.rev())), deleted, prev_kvs })
}

/// Refuses a put to a lease that is not there.
pub(super) fn check_lease(req: &PutRequest, lease_exists: &dyn Fn(i64) -> bool) -> Result<(), EtcdError> {
    if req.lease != 0 && !lease_exists(req.lease) { Err(EtcdError::LeaseNotFound) } else { Ok(()) }
}

/// Whether the put takes something from the key as it is, and so needs one.
pub(super) fn needs_previous(req: &PutRequest) -> bool {
    req.ignore_value || req.ignore_lease
}

/// The key as it is, when the put asks for it.
pub(super) fn previous<R: Read + ?Sized>(reader: &R, req: &PutRequest) -> Result<Option<KeyValue>, read::Error> {
    if !needs_previous(req) && !req.prev_kv {
        return Ok(None);
    }
    Ok(reader.range(&req.key, b"", RangeOptions::default())?.kvs.pop())
}

/// The put itself; whether it is allowed has been decided.
pub(super) fn execute_put<W: Write + ?Sized>(w: &mut W, req: &PutRequest, previous: Option<KeyValue>) -> PutResponse {
    let (mut value, mut lease) = (req.value.clone(), req.lease);
    if let Some(kv) = &previous {
        if req.ignore_value {
            value = kv.value.clone();
        }
        if req.ignore_lease {
            lease = kv.lease;
        }
    }
    let revision = w.put(req.key.clone(), value, lease);
    PutResponse { header: Some(header(revision)), prev_kv: previous.filter(|_| req.prev_kv) }
}

pub(super) fn header(revision: i64) -> ResponseHeader {
    ResponseHeader { revision, ..Default::default() }
}
