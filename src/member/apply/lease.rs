//! etcd's `LeaseGrant`, `LeaseRevoke` and `LeaseCheckpoint` entries: the replicated table and the store, together.
//!
//! Pure and synchronous. A lease's row changes in the batch that holds the entry's other changes, so a crash finds both
//! or neither.

use lockstep_proto::etcdserverpb::{
    LeaseCheckpointRequest, LeaseGrantRequest, LeaseGrantResponse, LeaseRevokeRequest, LeaseRevokeResponse,
};

use super::kv::header;
use crate::member::error::EtcdError;
use crate::member::lease::Table;
use crate::mvcc::read::Write;
use crate::mvcc::{Bucket, Store, WriteTxn};

pub(super) fn grant(
    store: &mut Store,
    table: &mut Table,
    request: &LeaseGrantRequest,
) -> Result<LeaseGrantResponse, EtcdError> {
    let ttl = table.grant(request.id, request.ttl)?;
    keep_record(store, table, request.id);
    Ok(LeaseGrantResponse { header: Some(header(store.revision())), id: request.id, ttl, error: String::new() })
}

/// Deletes a lease's keys, in key order: the same on every member, and one revision for all.
pub(super) fn delete_keys(
    txn: &mut WriteTxn<'_>,
    table: &Table,
    request: &LeaseRevokeRequest,
) -> Result<(), EtcdError> {
    let keys = table.keys(request.id).ok_or(EtcdError::LeaseNotFound)?;
    for key in keys {
        txn.delete_range(&key, b"");
    }
    Ok(())
}

/// The rest of a revocation, once the keys are deleted.
pub(super) fn revoke(store: &mut Store, table: &mut Table, request: &LeaseRevokeRequest) -> LeaseRevokeResponse {
    let revoked = table.revoke(request.id);
    assert!(revoked, "the lease was there when its keys were deleted");
    store.bucket_delete(Bucket::Lease, &Table::record_key(request.id));
    LeaseRevokeResponse { header: Some(header(store.revision())) }
}

/// Leases that are gone by now are passed over.
pub(super) fn checkpoint(store: &mut Store, table: &mut Table, request: &LeaseCheckpointRequest) {
    for checkpoint in &request.checkpoints {
        if table.checkpoint(checkpoint.id, checkpoint.remaining_ttl) {
            keep_record(store, table, checkpoint.id);
        }
    }
}

fn keep_record(store: &mut Store, table: &Table, id: i64) {
    let (key, value) = table.record(id).expect("the lease has just been changed");
    store.bucket_put(Bucket::Lease, &key, &value);
}
