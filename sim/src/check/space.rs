//! While an alarm says that there is no space, nothing that needs space is done, and everything that frees some is
//! (etcd's capped applier; the runbook's order: compact, disarm).
//!
//! The log says between which indexes the alarm is raised. A put, a txn with puts or a grant of a lease that is
//! committed there must be refused; what was told to be refused for want of space must have been committed there. Knows
//! writes by their values, each of which is written once but for what a client asked for again. A request that exceeds
//! the quota comes before its alarm: it is done, and its answer leaves that open.

use std::collections::BTreeSet;

use lockstep::member::error::EtcdError;
use lockstep_proto::etcdserverpb::{InternalRaftRequest, RequestOp, TxnRequest, request_op};
use lockstep_proto::raftpb::{Entry, EntryType};
use prost::Message;

use super::alarms::Alarms;
use super::{Checker, Objection, Seen, object_naming};
use crate::asks::LeaseAsk;
use crate::history::{Operation, Outcome};

#[derive(Debug, Default)]
pub struct Space {
    /// Looked at up to this index.
    looked: u64,
    alarms: Alarms,
    /// Values that were to be written while there was none, and while there was one.
    written: BTreeSet<Vec<u8>>,
    refused: BTreeSet<Vec<u8>>,
    /// Leases, likewise.
    granted: BTreeSet<i64>,
    not_granted: BTreeSet<i64>,
}

impl Space {
    pub fn new() -> Space {
        Space::default()
    }

    fn committed(&mut self, entry: &Entry) {
        if entry.index() <= self.looked {
            return;
        }
        self.looked = entry.index();
        let Some(data) = entry.data.as_ref().filter(|_| entry.r#type() == EntryType::EntryNormal) else { return };
        let Ok(request) = InternalRaftRequest::decode(data.clone()) else { return };
        if let Some(alarm) = &request.alarm {
            self.alarms.committed(alarm);
        }
        let kept = if self.alarms.has_space() { &mut self.written } else { &mut self.refused };
        if let Some(put) = request.put {
            kept.insert(put.value.to_vec());
        }
        if let Some(txn) = request.txn {
            kept.extend(values(&txn));
        }
        if let Some(grant) = request.lease_grant {
            let leases = if self.alarms.has_space() { &mut self.granted } else { &mut self.not_granted };
            leases.insert(grant.id);
        }
    }

    fn answered(&self, number: u64, operation: &Operation, outcome: &Outcome) -> Result<(), Objection> {
        let mut values: Vec<&[u8]> =
            operation.writes().iter().filter_map(|(_, value)| value.map(str::as_bytes)).collect();
        let mut granted = None;
        match operation {
            Operation::Lease(LeaseAsk::Grant { lease, .. }) => granted = Some(lease),
            Operation::Lease(LeaseAsk::Attach { value, .. }) => values.push(value.as_bytes()),
            _ => {}
        }
        match outcome {
            Outcome::Done { .. } | Outcome::Told { .. } => {
                let is_refused = |value: &&[u8]| self.refused.contains(*value) && !self.written.contains(*value);
                let is_not_granted = |lease: &i64| self.not_granted.contains(lease) && !self.granted.contains(lease);
                if !values.iter().any(is_refused) && !granted.is_some_and(is_not_granted) {
                    return Ok(());
                }
                object_naming(
                    "done without space",
                    format!("operation {number} ({operation}) is done, while an alarm says that there is no space"),
                    &[number],
                )
            }
            Outcome::Refused { error } if error == EtcdError::NoSpace.message() => {
                let is_rightly = values.iter().any(|value| self.refused.contains(*value));
                if is_rightly || matches!(operation, Operation::Lease(_) | Operation::Lock(_)) {
                    return Ok(());
                }
                object_naming(
                    "refused in spite of space",
                    format!(
                        "operation {number} ({operation}) is refused for want of space, and there is no alarm for it"
                    ),
                    &[number],
                )
            }
            _ => Ok(()),
        }
    }
}

impl Checker for Space {
    fn name(&self) -> &'static str {
        "space"
    }

    fn see(&mut self, _now_us: u64, seen: &Seen) -> Result<(), Objection> {
        match seen {
            Seen::Committed { entries, .. } => entries.iter().for_each(|entry| self.committed(entry)),
            Seen::Answered { number, operation, outcome, .. } => return self.answered(*number, operation, outcome),
            _ => {}
        }
        Ok(())
    }
}

fn values(txn: &TxnRequest) -> impl Iterator<Item = Vec<u8>> {
    let value = |op: &RequestOp| match &op.request {
        Some(request_op::Request::RequestPut(put)) => Some(put.value.to_vec()),
        _ => None,
    };
    txn.success.iter().chain(&txn.failure).filter_map(value)
}
