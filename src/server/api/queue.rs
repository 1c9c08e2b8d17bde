//! The queue that locks and elections are: whoever wants what a name stands for puts a key below it, on a lease, and
//! the oldest key has it. etcd's client libraries do the same with the same keys, so both may stand in one queue.
//!
//! It asks the services in process, as a client would: the same checks, the same answers. Whoever waits watches the one
//! key before its own; there is no polling, and a release wakes one waiter. A waiter whose client hangs up leaves the
//! queue.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use lockstep_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use lockstep_proto::etcdserverpb::kv_server::Kv as _;
use lockstep_proto::etcdserverpb::lease_server::Lease as _;
use lockstep_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use lockstep_proto::etcdserverpb::request_op::Request as Op;
use lockstep_proto::etcdserverpb::response_op::Response as Answer;
use lockstep_proto::etcdserverpb::watch_request::RequestUnion;
use lockstep_proto::etcdserverpb::{self as pb, ResponseHeader, WatchCreateRequest, WatchRequest, WatchResponse};
use lockstep_proto::mvccpb::{KeyValue, event::EventType};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tonic::{Code, Request, Status};

use super::kv::Kv;
use super::lease::Lease;
use super::watch::WatchStream;
use crate::member::error::EtcdError;
use crate::server::node::Node;

/// Of the lease that is granted to whoever brings none.
const LEASE_TTL_S: i64 = 60;

/// What the two services ask.
#[derive(Clone)]
pub struct Queues {
    pub node: Arc<Node>,
    pub kv: Arc<Kv>,
    pub lease: Arc<Lease>,
}

/// A place in a queue.
pub struct Place {
    queues: Queues,
    prefix: Bytes,
    pub key: Bytes,
    /// The revision at which the key was created.
    pub revision: i64,
    /// Of the answer that gave the place.
    pub header: Option<ResponseHeader>,
    leaves: Leaves,
    runtime: Handle,
}

/// What becomes of the key when the place is dropped.
enum Leaves {
    Stays,
    /// The request that may create it is under way.
    IfCreated(JoinHandle<Result<pb::TxnResponse, Status>>),
    Goes,
}

impl Queues {
    pub async fn get(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, Status> {
        Ok(self.kv.range(Request::new(request)).await?.into_inner())
    }

    pub async fn txn(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, Status> {
        Ok(self.kv.txn(Request::new(request)).await?.into_inner())
    }

    pub async fn delete(&self, key: Bytes) -> Result<pb::DeleteRangeResponse, Status> {
        let request = pb::DeleteRangeRequest { key, ..Default::default() };
        Ok(self.kv.delete_range(Request::new(request)).await?.into_inner())
    }

    /// The lease to stand in a queue with.
    pub async fn lease(&self, lease: i64) -> Result<i64, Status> {
        if lease != 0 {
            return Ok(lease);
        }
        let request = pb::LeaseGrantRequest { ttl: LEASE_TTL_S, id: 0 };
        Ok(self.lease.lease_grant(Request::new(request)).await?.into_inner().id)
    }

    /// What happens to a key, or to a range, from a revision on.
    pub fn watch(
        &self,
        key: Bytes,
        range_end: Bytes,
        start_revision: i64,
    ) -> Result<impl Stream<Item = Result<WatchResponse, Status>> + use<>, Status> {
        let create =
            WatchCreateRequest { key: key.into(), range_end: range_end.into(), start_revision, ..Default::default() };
        let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let requests = futures_util::stream::iter([Ok(request)]);
        let frames = WatchStream::open(self.node.clone(), false, requests)?;
        Ok(frames.map(|frame| Ok(frame?.into_message())))
    }

    /// Puts a key for this lease, or finds the one that it has put before. Then `also` is asked.
    pub async fn enter(
        &self,
        name: &[u8],
        lease: i64,
        value: Bytes,
        also: Option<pb::RangeRequest>,
    ) -> Result<(Place, pb::TxnResponse), Status> {
        let prefix = prefix_of(name);
        let key: Bytes = [&prefix, hex(lease).as_bytes()].concat().into();
        let also: Vec<pb::RequestOp> = also.into_iter().map(|range| op(Op::RequestRange(range))).collect();
        let put = pb::PutRequest { key: key.clone(), value, lease, ..Default::default() };
        let get = pb::RangeRequest { key: key.clone(), ..Default::default() };
        let request = pb::TxnRequest {
            compare: vec![created_at(&key, 0)],
            success: [vec![op(Op::RequestPut(put))], also.clone()].concat(),
            failure: [vec![op(Op::RequestRange(get))], also].concat(),
        };
        let queues = self.clone();
        let entering = tokio::spawn(async move { queues.txn(request).await });
        let mut place = Place {
            queues: self.clone(),
            prefix,
            key,
            revision: 0,
            header: None,
            leaves: Leaves::IfCreated(entering),
            runtime: Handle::current(),
        };
        let Leaves::IfCreated(entering) = &mut place.leaves else { unreachable!("it was just set") };
        let entered = entering.await.unwrap_or_else(|why| Err(Status::internal(why.to_string())));
        place.leaves = Leaves::Stays;
        let response = entered?;
        let own = first_pair(response.responses.first()).filter(|_| !response.succeeded);
        place.header = response.header;
        place.revision = own.map_or(revision_of(&response.header), |kv| kv.create_revision);
        Ok((place, response))
    }
}

impl Place {
    /// Returns when no key is older. From now on the place leaves the queue when it is dropped, unless it is kept.
    pub async fn wait(&mut self) -> Result<(), Status> {
        self.leaves = Leaves::Goes;
        self.wait_for_older().await
    }

    /// The client has what it waited for.
    pub fn keep(&mut self) {
        self.leaves = Leaves::Stays;
    }

    async fn wait_for_older(&self) -> Result<(), Status> {
        loop {
            let request = pb::RangeRequest {
                max_create_revision: self.revision - 1,
                sort_order: SortOrder::Descend.into(),
                ..first_created(&self.prefix)
            };
            let response = self.queues.get(request).await?;
            let Some(before) = response.kvs.first() else { return Ok(()) };
            let watched = self.queues.watch(before.key.clone(), Bytes::new(), revision_of(&response.header))?;
            let mut watched = std::pin::pin!(watched);
            loop {
                let Some(response) = watched.next().await.transpose()? else {
                    return Err(super::status(EtcdError::Stopped));
                };
                let deleted = response.events.iter().any(|event| event.r#type() == EventType::Delete);
                // History that is gone is no reason to give up: the key is looked for again.
                if deleted || response.canceled {
                    break;
                }
            }
        }
    }

    /// Deletes the key, if it still is the one this place got.
    pub async fn leave(&mut self) {
        self.leaves = Leaves::Goes;
        if leave(&self.queues, self.key.clone(), self.revision).await.is_ok() {
            self.leaves = Leaves::Stays;
        }
    }
}

/// Deletes `key` if it was created at `revision`.
pub async fn leave(queues: &Queues, key: Bytes, revision: i64) -> Result<pb::TxnResponse, Status> {
    let compare = vec![created_at(&key, revision)];
    let delete = pb::DeleteRangeRequest { key, ..Default::default() };
    queues.txn(pb::TxnRequest { compare, success: vec![op(Op::RequestDeleteRange(delete))], failure: Vec::new() }).await
}

impl Drop for Place {
    fn drop(&mut self) {
        let (queues, key, revision) = (self.queues.clone(), self.key.clone(), self.revision);
        match std::mem::replace(&mut self.leaves, Leaves::Stays) {
            Leaves::Stays => {}
            Leaves::Goes => drop(self.runtime.spawn(async move { leave(&queues, key, revision).await })),
            Leaves::IfCreated(entering) => drop(self.runtime.spawn(async move {
                if let Ok(Ok(response)) = entering.await
                    && response.succeeded
                {
                    let _ = leave(&queues, key, revision_of(&response.header)).await;
                }
            })),
        }
    }
}

/// The oldest key below a name.
pub fn first_created(prefix: &Bytes) -> pb::RangeRequest {
    pb::RangeRequest {
        key: prefix.clone(),
        range_end: prefix_end(prefix),
        limit: 1,
        sort_order: SortOrder::Ascend.into(),
        sort_target: SortTarget::Create.into(),
        ..Default::default()
    }
}

/// Where the keys of a name begin.
pub fn prefix_of(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// And where they end: the prefix ends with a slash, so there always is a byte to count up.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let (slash, name) = prefix.split_last().expect("a prefix ends with a slash");
    [name, &[slash + 1]].concat().into()
}

pub fn created_at(key: &Bytes, revision: i64) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key.clone(),
        range_end: Bytes::new(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
    }
}

pub fn op(request: Op) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

/// The first pair of a range inside a txn.
pub fn first_pair(answer: Option<&pb::ResponseOp>) -> Option<&KeyValue> {
    match answer?.response.as_ref()? {
        Answer::ResponseRange(range) => range.kvs.first(),
        _ => None,
    }
}

pub fn revision_of(header: &Option<ResponseHeader>) -> i64 {
    header.unwrap_or_default().revision
}

/// etcd's two services are clients inside of the server, and what a client is told loses its code there.
pub fn without_code(status: Status) -> Status {
    Status::new(Code::Unknown, status.message())
}

/// Go's `%x` of a signed number.
fn hex(id: i64) -> String {
    let sign = if id < 0 { "-" } else { "" };
    format!("{sign}{:x}", id.unsigned_abs())
}

/// A stream of answers that a task writes.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
