//! Alarms, and what they and the quota make of a request: etcd's quota applier, capped applier and corrupt applier.
//!
//! Alarms are replicated, so every member refuses the same requests. The quota is each member's own flag: it never
//! decides what an entry does, only how the request is answered and whether this member asks for its alarm.

use std::collections::BTreeSet;

use lockstep_proto::etcdserverpb::alarm_request::AlarmAction;
use lockstep_proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, InternalRaftRequest, PutRequest, RequestOp, TxnRequest,
    request_op,
};
use prost::Message;

use crate::member::error::EtcdError;
use crate::mvcc::read::Error as StoreError;
use crate::mvcc::{Bucket, Store};

/// etcd's estimates of what a key and a lease cost beside their bytes.
const KEY_OVERHEAD_BYTES: u64 = 256;
const LEASE_OVERHEAD_BYTES: u64 = 64;

/// The alarms that are raised, by kind and then by the member that they hang on.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    raised: BTreeSet<(i32, u64)>,
}

impl Alarms {
    pub fn load(store: &Store) -> Result<Alarms, StoreError> {
        let mut raised = BTreeSet::new();
        if mutation!(AlarmForgotten) {
            return Ok(Alarms { raised });
        }
        for (key, _) in store.bucket_scan(Bucket::Alarm)? {
            let alarm = AlarmMember::decode(&*key)
                .map_err(|e| StoreError::Storage(format!("an alarm cannot be read: {e}; restore the member")))?;
            raised.insert((alarm.alarm, alarm.member_id));
        }
        Ok(Alarms { raised })
    }

    pub fn is_raised(&self, kind: AlarmType) -> bool {
        self.raised.iter().any(|&(raised, _)| raised == kind as i32)
    }

    /// All of a kind; of every kind for `None`.
    pub fn list(&self, kind: i32) -> Vec<AlarmMember> {
        let wanted = |&&(raised, _): &&(i32, u64)| kind == AlarmType::None as i32 || raised == kind;
        self.raised.iter().filter(wanted).map(|&(alarm, member_id)| AlarmMember { member_id, alarm }).collect()
    }

    pub fn apply(&mut self, store: &mut Store, request: &AlarmRequest) -> AlarmResponse {
        let alarm = AlarmMember { member_id: request.member_id, alarm: request.alarm };
        // A kind that nobody knows is none.
        let is_known = AlarmType::try_from(request.alarm).is_ok_and(|kind| kind != AlarmType::None);
        let place = (alarm.alarm, alarm.member_id);
        let alarms = match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => self.list(request.alarm),
            Ok(AlarmAction::Activate) if is_known => {
                if self.raised.insert(place) {
                    store.bucket_put(Bucket::Alarm, &alarm.encode_to_vec(), b"");
                }
                vec![alarm]
            }
            Ok(AlarmAction::Deactivate) if self.raised.remove(&place) => {
                sometimes!("alarm disarmed");
                store.bucket_delete(Bucket::Alarm, &alarm.encode_to_vec());
                vec![alarm]
            }
            _ => Vec::new(),
        };
        AlarmResponse { header: None, alarms }
    }

    /// Why a request is refused while alarms are raised; `CORRUPT` comes before `NOSPACE`.
    pub fn refusal(&self, request: &InternalRaftRequest) -> Option<EtcdError> {
        if self.raised.is_empty() {
            return None;
        }
        let r = request;
        let reads = r.range.is_some();
        let writes = r.put.is_some() || r.txn.is_some() || r.lease_grant.is_some();
        let frees = r.delete_range.is_some() || r.compaction.is_some() || r.lease_revoke.is_some();
        if self.is_raised(AlarmType::Corrupt) && (reads || writes || frees) {
            return Some(EtcdError::Corrupt);
        }
        let is_refused = self.is_raised(AlarmType::Nospace) && cost_bytes(r) > 0;
        sometimes!(is_refused, "request refused for want of space");
        (is_refused && !mutation!(AlarmIgnored)).then_some(EtcdError::NoSpace)
    }
}

/// Whether a store of this size has room for a request, by a quota.
pub fn has_room(quota_bytes: Option<u64>, size_bytes: u64, request: &InternalRaftRequest) -> bool {
    let Some(quota_bytes) = quota_bytes else { return true };
    let cost = cost_bytes(request);
    cost == 0 || size_bytes + cost < quota_bytes
}

/// What a request is charged against the quota; nothing when it cannot make the store grow.
fn cost_bytes(request: &InternalRaftRequest) -> u64 {
    if let Some(put) = &request.put {
        return put_bytes(put);
    }
    if let Some(txn) = &request.txn {
        return txn_bytes(txn);
    }
    if request.lease_grant.is_some() { LEASE_OVERHEAD_BYTES } else { 0 }
}

fn put_bytes(put: &PutRequest) -> u64 {
    KEY_OVERHEAD_BYTES + (put.key.len() + put.value.len()) as u64
}

/// The costlier of its branches. As in etcd, the puts of a txn within it are not counted.
fn txn_bytes(txn: &TxnRequest) -> u64 {
    let bytes = |ops: &[RequestOp]| -> u64 {
        let puts = ops.iter().filter_map(|op| match &op.request {
            Some(request_op::Request::RequestPut(put)) => Some(put_bytes(put)),
            _ => None,
        });
        puts.sum()
    };
    bytes(&txn.success).max(bytes(&txn.failure))
}
