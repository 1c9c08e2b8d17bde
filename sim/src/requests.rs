//! What an operation is to a member: the request that goes through the log, the read of a view, the answer's meaning.
//!
//! The requests are etcd's own, as a client library sends them; nothing is added that the simulator could see by. An
//! answer that cannot belong to its request is a bug of the product and ends the run.

use lockstep::member::apply::Response;
use lockstep::member::error::{Code, EtcdError};
use lockstep::mvcc::View;
use lockstep::mvcc::read::{Error, RangeOptions, Read};
use lockstep_proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, InternalRaftRequest, PutRequest, RangeRequest, RequestOp,
    ResponseHeader, TxnRequest, TxnResponse, compare, request_op, response_op,
};
use lockstep_proto::mvccpb::KeyValue;

use crate::history::{Operation, Outcome};
use crate::lab;

impl Operation {
    /// What goes through the log for it; `None` for reads.
    pub fn request(&self) -> Option<InternalRaftRequest> {
        match self {
            Operation::Get { .. } | Operation::Range { .. } => None,
            Operation::Lease(ask) => ask.request(),
            // These want to know what their client knows.
            Operation::Watch(_) | Operation::Lock(_) => None,
            Operation::Put { key, value } => Some(lab::put(key, value)),
            Operation::Delete { key } => {
                let delete = DeleteRangeRequest { key: bytes(key), prev_kv: true, ..Default::default() };
                Some(InternalRaftRequest { delete_range: Some(delete), ..Default::default() })
            }
            Operation::Cas { key, old, new } => Some(txn([(key.as_str(), old.as_deref(), new.as_str())].into_iter())),
            Operation::Transfer { from, to } => {
                assert!(from.iter().map(|pair| &pair.0).eq(to.iter().map(|pair| &pair.0)), "{self}: other keys");
                let keys = from.iter().zip(to).map(|((key, old), (_, new))| (key.as_str(), old.as_deref(), &**new));
                Some(txn(keys))
            }
            Operation::Compact { revision } => {
                let compaction = CompactionRequest { revision: *revision, physical: false };
                Some(InternalRaftRequest { compaction: Some(compaction), ..Default::default() })
            }
        }
    }

    /// Carries a read out. [`Error::Overtaken`]: compaction has passed this view, a fresh one is needed.
    pub fn read(&self, view: &View) -> Result<Outcome, Error> {
        let (key, end) = match self {
            Operation::Get { key, .. } => (key, ""),
            Operation::Range { key, end, .. } => (key, end.as_str()),
            _ => panic!("{self} is no read"),
        };
        let result = view.range(key.as_bytes(), end.as_bytes(), RangeOptions::default())?;
        let mut found: Vec<_> = result.kvs.iter().map(|kv| (text(&kv.key), Some(text(&kv.value)))).collect();
        let mut versions: Vec<i64> = result.kvs.iter().map(|kv| kv.version).collect();
        if let (Operation::Get { key, .. }, true) = (self, found.is_empty()) {
            found.push((key.clone(), None));
            versions.push(0);
        }
        Ok(Outcome::Read { revision: result.rev, found, versions })
    }

    /// What the client knows after this answer to its [`Operation::request`].
    pub fn outcome(&self, result: &Result<Response, EtcdError>) -> Outcome {
        let response = match result {
            Ok(response) => response,
            Err(error) if leaves_it_open(*error) => return Outcome::Unknown { why: error.message().to_owned() },
            Err(error) => return Outcome::Refused { error: error.message().to_owned() },
        };
        match self {
            Operation::Lease(ask) => return ask.outcome(response),
            Operation::Lock(ask) => return ask.outcome(response),
            _ => {}
        }
        let (header, succeeded, found) = match (self, response) {
            (Operation::Put { .. }, Response::Put(put)) => (&put.header, true, Vec::new()),
            (Operation::Delete { key }, Response::DeleteRange(delete)) => {
                (&delete.header, true, vec![(key.clone(), value_of(&delete.prev_kvs))])
            }
            (Operation::Cas { .. } | Operation::Transfer { .. }, Response::Txn(txn)) => {
                (&txn.header, txn.succeeded, if txn.succeeded { Vec::new() } else { self.found_instead(txn) })
            }
            (Operation::Compact { .. }, Response::Compaction(compaction)) => (&compaction.header, true, Vec::new()),
            _ => panic!("{self} is answered {response:?}"),
        };
        Outcome::Done { revision: revision(header), succeeded, found }
    }

    /// What the else branch of a txn read, in the order of its keys.
    fn found_instead(&self, txn: &TxnResponse) -> Vec<(String, Option<String>)> {
        let keys = self.writes();
        assert_eq!(keys.len(), txn.responses.len(), "{self} is answered {txn:?}");
        let answers = txn.responses.iter().map(|op| match &op.response {
            Some(response_op::Response::ResponseRange(range)) => value_of(&range.kvs),
            _ => panic!("{self} is answered {txn:?}"),
        });
        keys.into_iter().map(|(key, _)| key.to_owned()).zip(answers).collect()
    }
}

/// Whether a request that was answered with this error may have been done all the same, or may yet be.
///
/// The code decides, as it does for real clients: what is unavailable, cancelled or timed out may lie in somebody's
/// log. All others are the request's own fault, found before it was proposed or when it was applied.
pub fn leaves_it_open(error: EtcdError) -> bool {
    match error.code() {
        Code::Canceled | Code::DeadlineExceeded | Code::Unavailable | Code::DataLoss => true,
        Code::ResourceExhausted => error == EtcdError::NoSpaceLeft,
        // A member that is too far behind says so in place of proposing.
        Code::Unknown => error != EtcdError::TooManyRequests,
        Code::InvalidArgument
        | Code::NotFound
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Unauthenticated => false,
    }
}

/// If all keys hold what is expected then put all, else get all.
fn txn<'a>(keys: impl Iterator<Item = (&'a str, Option<&'a str>, &'a str)>) -> InternalRaftRequest {
    let op = |request| RequestOp { request: Some(request) };
    let mut txn = TxnRequest::default();
    for (key, old, new) in keys {
        txn.compare.push(holds(key, old));
        let put = PutRequest { key: bytes(key), value: bytes(new), ..Default::default() };
        txn.success.push(op(request_op::Request::RequestPut(put)));
        let get = RangeRequest { key: bytes(key), ..Default::default() };
        txn.failure.push(op(request_op::Request::RequestRange(get)));
    }
    InternalRaftRequest { txn: Some(txn), ..Default::default() }
}

/// A key that does not exist has no value to compare, but a version of 0.
fn holds(key: &str, value: Option<&str>) -> Compare {
    let (target, operand) = match value {
        Some(value) => (compare::CompareTarget::Value, compare::TargetUnion::Value(bytes(value))),
        None => (compare::CompareTarget::Version, compare::TargetUnion::Version(0)),
    };
    Compare {
        result: compare::CompareResult::Equal as i32,
        target: target as i32,
        key: bytes(key),
        target_union: Some(operand),
        ..Default::default()
    }
}

fn value_of(kvs: &[KeyValue]) -> Option<String> {
    kvs.first().map(|kv| text(&kv.value))
}

fn revision(header: &Option<ResponseHeader>) -> i64 {
    header.as_ref().expect("every answer of the apply machine has a header").revision
}

fn bytes(text: &str) -> bytes::Bytes {
    text.as_bytes().to_vec().into()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
