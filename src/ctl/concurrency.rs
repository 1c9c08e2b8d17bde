//! Locks and elections as etcd's clients agree on them: everybody who wants one puts a key below its name, on a lease,
//! and the oldest key has it. Whoever waits watches the key before its own.

use bytes::Bytes;
use lockstep_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use lockstep_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use lockstep_proto::etcdserverpb::request_op::Request;
use lockstep_proto::etcdserverpb::response_op::Response;
use lockstep_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, RequestOp, ResponseHeader, TxnRequest,
    TxnResponse, WatchCreateRequest,
};
use lockstep_proto::mvccpb::{KeyValue, event::EventType};
use tokio::sync::mpsc::UnboundedSender;

use super::client::{Client, never};
use super::commands::prefix_end;
use super::watch::{Watched, Watches};

/// A place in the queue for a lock or an office.
#[derive(Debug)]
pub struct Place {
    client: Client,
    watches: Watches,
    prefix: Vec<u8>,
    lease: i64,
    pub key: Vec<u8>,
    /// The revision at which the key was created.
    revision: i64,
}

impl Place {
    /// Has to be called inside the runtime.
    pub fn new(client: &Client, name: &[u8], lease: i64) -> Place {
        let prefix = [name, b"/"].concat();
        let key = [&prefix, format!("{lease:x}").as_bytes()].concat();
        Place { client: client.clone(), watches: Watches::of(client), prefix, lease, key, revision: 0 }
    }

    /// Waits until the lock is held; returns the revision that says so.
    pub async fn lock(&mut self) -> Result<i64, String> {
        let owner = Request::RequestRange(first_created(&self.prefix));
        let response = self.enter(Bytes::new(), Some(owner)).await?;
        let oldest = pair_of(response.responses.get(1));
        if oldest.is_none_or(|kv| kv.create_revision == self.revision) {
            return Ok(revision_of(&response.header));
        }
        self.wait_for_older().await?;
        // The lease may have gone in the meantime, and the key with it.
        let own = self.client.range_until(never(), at(&self.key)).await?;
        if own.kvs.is_empty() {
            return Err("mutex: session is expired".into());
        }
        Ok(revision_of(&own.header))
    }

    /// Waits until elected.
    pub async fn campaign(&mut self, value: &[u8]) -> Result<(), String> {
        let response = self.enter(Bytes::copy_from_slice(value), None).await?;
        if !response.succeeded && pair_of(response.responses.first()).is_some_and(|kv| kv.value != value) {
            self.proclaim(value).await?;
        }
        self.wait_for_older().await
    }

    /// Gives up the lock.
    pub async fn unlock(&self) -> Result<(), String> {
        let request = DeleteRangeRequest { key: self.key.clone().into(), ..Default::default() };
        self.client.delete_range_until(never(), request).await.map(drop)
    }

    /// Gives up the office, if this key still is what got it.
    pub async fn resign(&self) -> Result<(), String> {
        let delete = DeleteRangeRequest { key: self.key.clone().into(), ..Default::default() };
        let success = vec![op(Request::RequestDeleteRange(delete))];
        let request = TxnRequest { compare: vec![created_at(&self.key, self.revision)], success, failure: Vec::new() };
        self.client.txn_until(never(), request).await.map(drop)
    }

    async fn proclaim(&self, value: &[u8]) -> Result<(), String> {
        let success = vec![self.put(Bytes::copy_from_slice(value))];
        let request = TxnRequest { compare: vec![created_at(&self.key, self.revision)], success, failure: Vec::new() };
        let response = self.client.txn_until(never(), request).await?;
        if response.succeeded { Ok(()) } else { Err("election: not leader".into()) }
    }

    /// Puts the key, or finds the one this lease has put before.
    async fn enter(&mut self, value: Bytes, and: Option<Request>) -> Result<TxnResponse, String> {
        let and: Vec<RequestOp> = and.into_iter().map(op).collect();
        let get = op(Request::RequestRange(at(&self.key)));
        let request = TxnRequest {
            compare: vec![created_at(&self.key, 0)],
            success: [vec![self.put(value)], and.clone()].concat(),
            failure: [vec![get], and].concat(),
        };
        let response = self.client.txn_until(never(), request).await?;
        let own = pair_of(response.responses.first()).filter(|_| !response.succeeded);
        self.revision = own.map_or(revision_of(&response.header), |kv| kv.create_revision);
        Ok(response)
    }

    fn put(&self, value: Bytes) -> RequestOp {
        let key = self.key.clone().into();
        op(Request::RequestPut(PutRequest { key, value, lease: self.lease, ..Default::default() }))
    }

    /// Returns when no key is older.
    async fn wait_for_older(&self) -> Result<(), String> {
        loop {
            let request = RangeRequest {
                max_create_revision: self.revision - 1,
                sort_order: SortOrder::Descend.into(),
                ..first_created(&self.prefix)
            };
            let response = self.client.range_until(never(), request).await?;
            let Some(before) = response.kvs.first() else { return Ok(()) };
            let start_revision = revision_of(&response.header);
            let request = WatchCreateRequest { key: before.key.to_vec(), start_revision, ..Default::default() };
            let mut watched = self.watches.watch(request);
            loop {
                let Some(watched) = watched.recv().await else { return Err("lost watcher waiting for delete".into()) };
                if let Some(why) = watched.error {
                    return Err(why);
                }
                if watched.events.iter().any(|event| event.r#type() == EventType::Delete) {
                    break;
                }
            }
        }
    }
}

/// Sends the leader of an election whenever it is another one or says something else; ends when the watch is lost.
pub async fn observe(client: &Client, name: &[u8], out: UnboundedSender<RangeResponse>) {
    let watches = Watches::of(client);
    let prefix = [name, b"/"].concat();
    loop {
        let Ok(response) = client.range_until(never(), first_created(&prefix)).await else { return };
        let mut header = response.header.unwrap_or_default();
        // Go's client tells these again with every later change of this leader.
        let RangeResponse { count, more, .. } = response;
        let leader = match response.kvs.into_iter().next() {
            Some(kv) => kv,
            None => {
                let request = WatchCreateRequest {
                    key: prefix.clone(),
                    range_end: prefix_end(&prefix).into(),
                    start_revision: header.revision,
                    ..Default::default()
                };
                let mut watched = watches.watch(request);
                loop {
                    let Some(watched) = watched.recv().await.filter(|watched| watched.error.is_none()) else { return };
                    let put = watched.events.iter().find(|event| event.r#type() == EventType::Put);
                    if let Some(kv) = put.and_then(|event| event.kv.clone()) {
                        header = ResponseHeader { revision: kv.mod_revision, ..watched.header };
                        break kv;
                    }
                }
            }
        };
        let (key, start_revision) = (leader.key.clone(), header.revision + 1);
        if out.send(found(header, leader)).is_err() {
            return;
        }
        let mut watched = watches.watch(WatchCreateRequest { key: key.into(), start_revision, ..Default::default() });
        'leading: loop {
            let Some(Watched { header, events, error: None, .. }) = watched.recv().await else { return };
            for event in events {
                if event.r#type() == EventType::Delete {
                    break 'leading;
                }
                let Some(kv) = event.kv else { continue };
                if out.send(RangeResponse { count, more, ..found(header, kv) }).is_err() {
                    return;
                }
            }
        }
    }
}

/// The answer of a `get` that shows this pair.
fn found(header: ResponseHeader, kv: KeyValue) -> RangeResponse {
    RangeResponse { header: Some(header), kvs: vec![kv], ..Default::default() }
}

fn first_created(prefix: &[u8]) -> RangeRequest {
    RangeRequest {
        key: Bytes::copy_from_slice(prefix),
        range_end: prefix_end(prefix),
        limit: 1,
        sort_order: SortOrder::Ascend.into(),
        sort_target: SortTarget::Create.into(),
        ..Default::default()
    }
}

fn at(key: &[u8]) -> RangeRequest {
    RangeRequest { key: Bytes::copy_from_slice(key), ..Default::default() }
}

fn created_at(key: &[u8], revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: Bytes::copy_from_slice(key),
        range_end: Bytes::new(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
    }
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn pair_of(answer: Option<&lockstep_proto::etcdserverpb::ResponseOp>) -> Option<&KeyValue> {
    match answer?.response.as_ref()? {
        Response::ResponseRange(range) => range.kvs.first(),
        _ => None,
    }
}

fn revision_of(header: &Option<ResponseHeader>) -> i64 {
    header.unwrap_or_default().revision
}
