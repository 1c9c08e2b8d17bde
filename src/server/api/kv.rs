//! `etcdserverpb.KV`: reads from a view, writes through the log.

use std::sync::Arc;

use lockstep_proto::etcdserverpb::{self as pb, InternalRaftRequest, kv_server};
use parking_lot::Mutex;
use prost::Message;
use tonic::{Request, Response, Status};

use super::budget::{self, Budget, Share};
use super::long::{self, LongAnswer};
use super::range_stream::RangeStream;
use super::{status, store_status};
use crate::member::apply::{Response as Applied, kv, range, txn};
use crate::member::check;
use crate::mvcc::read::{Error as StoreError, Overtaken};
use crate::mvcc::{View, read_newest};
use crate::server::apart::apart;
use crate::server::metrics::METRICS;
use crate::server::node::{Consistency, Node};

pub struct Kv {
    pub node: Arc<Node>,
    pub max_txn_ops: usize,
    /// What long answers may hold.
    pub budget: Arc<Budget>,
}

/// A read of so few keys is done at once, on the thread that serves the connection ...
const SHORT_RANGE_KEYS: i64 = 1_000;
/// ... if there is no more to be read.
const SHORT_RANGE_BYTES: usize = 256 << 10;

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl kv_server::Kv for Kv {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Answer<pb::RangeResponse> {
        match request.get_ref().serializable {
            true => self.node.admit_at_learner(&request)?,
            false => self.node.admit(&request)?,
        }
        let takes_body = takes_body(&request);
        let request = request.into_inner();
        check::range(&request).map_err(status)?;
        let view = self.view(request.serializable).await?;
        METRICS.ranged();
        let is_short = request.range_end.is_empty() || (1..=SHORT_RANGE_KEYS).contains(&request.limit);
        let is_plain = range::is_default_order(&request) && !range::has_revision_filter(&request);
        let mut short = None;
        if is_short && is_plain {
            let read = |view: &Arc<View>| range::short(view, &request, SHORT_RANGE_BYTES);
            short = read_from(&self.node, view.clone(), read).map_err(store_status)?;
        }
        let mut response = match short {
            Some(response) => response,
            None if takes_body => return self.long(view, request).await,
            // Whoever asks in process asks for little.
            None => {
                let read = move |view: &Arc<View>| range::short(view, &request, usize::MAX);
                self.read_apart(view, read).await?.map_err(store_status)?.unwrap_or_default()
            }
        };
        self.node.fill(&mut response.header);
        Ok(Response::new(response))
    }

    type RangeStreamStream = RangeStream;

    async fn range_stream(&self, request: Request<pb::RangeRequest>) -> Answer<RangeStream> {
        self.node.admit(&request)?;
        let request = request.into_inner();
        check::range_stream(&request).map_err(status)?;
        let view = self.view(request.serializable).await?;
        let mut places = self.places(&view, &request).await?;
        let select = {
            let request = request.clone();
            move |view: &Arc<View>| Ok((range::select(view, &request)?, view.clone()))
        };
        let (selection, view) = self.read_apart(view, select).await?.map_err(store_status)?;
        places.keep_places(selection.revisions.len());
        Ok(Response::new(RangeStream::new(self.node.clone(), view, request, selection, places)))
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Answer<pb::PutResponse> {
        self.node.admit(&request)?;
        let put = request.into_inner();
        check::put(&put).map_err(status)?;
        let request = InternalRaftRequest { put: Some(put), ..Default::default() };
        self.node.check_room(&request).await.map_err(status)?;
        match self.propose(request).await? {
            Applied::Put(mut response) => {
                self.node.fill(&mut response.header);
                Ok(Response::new(response))
            }
            other => Err(unexpected(other)),
        }
    }

    async fn delete_range(&self, request: Request<pb::DeleteRangeRequest>) -> Answer<pb::DeleteRangeResponse> {
        self.node.admit(&request)?;
        let takes_body = takes_body(&request);
        let delete_range = request.into_inner();
        check::delete_range(&delete_range).map_err(status)?;
        let mut share = Share::default();
        if delete_range.prev_kv && !delete_range.range_end.is_empty() {
            let request = delete_range.clone();
            share = self.whole(move |view| budget::delete_bytes(view, &request)).await?;
        }
        let request = InternalRaftRequest { delete_range: Some(delete_range), ..Default::default() };
        match self.propose(request).await? {
            Applied::DeleteRange(mut response) => {
                self.node.fill(&mut response.header);
                answer_whole(response, share, takes_body).await
            }
            other => Err(unexpected(other)),
        }
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Answer<pb::TxnResponse> {
        self.node.admit(&request)?;
        let takes_body = takes_body(&request);
        let request = request.into_inner();
        check::txn(&request, self.max_txn_ops).map_err(status)?;
        let mut share = Share::default();
        if budget::txn_may_be_long(&request) {
            let request = request.clone();
            share = self.whole(move |view| budget::txn_bytes(view, &request)).await?;
        }
        let mut response = if txn::is_readonly(&request) {
            let view = self.view(txn::is_serializable(&request)).await?;
            self.read_apart(view, move |view| txn::txn_readonly(&**view, &request)).await?.map_err(kv_status)?
        } else {
            let request = InternalRaftRequest { txn: Some(request), ..Default::default() };
            self.node.check_room(&request).await.map_err(status)?;
            match self.propose(request).await? {
                Applied::Txn(response) => response,
                other => return Err(unexpected(other)),
            }
        };
        self.node.fill(&mut response.header);
        answer_whole(response, share, takes_body).await
    }

    async fn compact(&self, request: Request<pb::CompactionRequest>) -> Answer<pb::CompactionResponse> {
        self.node.admit(&request)?;
        let compaction = Some(request.into_inner());
        match self.propose(InternalRaftRequest { compaction, ..Default::default() }).await? {
            Applied::Compaction(mut response) => {
                self.node.fill(&mut response.header);
                Ok(Response::new(response))
            }
            other => Err(unexpected(other)),
        }
    }
}

impl Kv {
    /// An answer that is sent in pieces.
    async fn long(&self, view: Arc<View>, request: pb::RangeRequest) -> Answer<pb::RangeResponse> {
        let places = self.places(&view, &request).await?;
        let (node, budget, request) = (self.node.clone(), self.budget.clone(), Arc::new(request));
        let places = Mutex::new(Some(places));
        let prepare = move |view: &Arc<View>| {
            // A second attempt has what the first one left.
            let places = places.lock().take().unwrap_or_default();
            LongAnswer::prepare(node.clone(), &budget, places, view.clone(), request.clone())
        };
        Ok(self.read_apart(view, prepare).await?.map_err(store_status)??.in_place())
    }

    /// The part of the budget that selecting a range's rows takes.
    async fn places(&self, view: &Arc<View>, request: &pb::RangeRequest) -> Result<Share, Status> {
        let request = request.clone();
        let weigh = move |view: &Arc<View>| budget::selecting_bytes(view, &request);
        // What cannot be weighed is refused by who reads it.
        let bytes = self.read_apart(view.clone(), weigh).await?.unwrap_or(0);
        self.budget.places(bytes).await
    }

    /// The part of the budget that an answer takes which has to be held whole: as of now, and it may yet grow a
    /// little.
    async fn whole(
        &self,
        weigh: impl Fn(&Arc<View>) -> Result<u64, StoreError> + Send + 'static,
    ) -> Result<Share, Status> {
        // As above.
        let bytes = self.read_apart(self.node.local_view(), weigh).await?.unwrap_or(0);
        long::check_length(bytes)?;
        self.budget.whole(bytes).await
    }

    /// For reads that may be long: other requests of this thread go on meanwhile.
    async fn read_apart<T: Send + 'static, E: Overtaken + Send + 'static>(
        &self,
        view: Arc<View>,
        read: impl Fn(&Arc<View>) -> Result<T, E> + Send + 'static,
    ) -> Result<Result<T, E>, Status> {
        let node = self.node.clone();
        let reading = apart(move || read_from(&node, view, read));
        reading.await.map_err(|e| Status::internal(format!("the read was lost: {e}")))
    }

    async fn view(&self, serializable: bool) -> Result<Arc<View>, Status> {
        let consistency = if serializable { Consistency::Serializable } else { Consistency::Linearizable };
        self.node.view(consistency).await.map_err(status)
    }

    async fn propose(&self, request: InternalRaftRequest) -> Result<Applied, Status> {
        self.node.propose(request).await.map_err(status)
    }
}

/// Only gRPC, and the JSON gateway, have a body to put in the message's place; services that ask in process want the
/// message.
fn takes_body<T>(request: &Request<T>) -> bool {
    request.metadata().contains_key(http::header::CONTENT_TYPE.as_str())
}

/// An answer that was made whole, and what it holds of the budget.
async fn answer_whole<M: Message + Default + Clone + Send + Sync + 'static>(
    response: M,
    share: Share,
    takes_body: bool,
) -> Answer<M> {
    if share.is_free() || !takes_body {
        return Ok(Response::new(response));
    }
    let marshalled = apart(move || LongAnswer::whole(response, share)).await;
    Ok(marshalled.map_err(|e| Status::internal(format!("the answer was lost: {e}")))??.in_place())
}

/// Reads on `view`, or on a newer one whenever compaction overtakes the read.
fn read_from<T, E: Overtaken>(node: &Node, view: Arc<View>, read: impl Fn(&Arc<View>) -> Result<T, E>) -> Result<T, E> {
    let mut first = Some(view);
    read_newest(|| first.take().unwrap_or_else(|| node.local_view()), read)
}

fn kv_status(error: kv::KvError) -> Status {
    match error {
        kv::KvError::Refused(error) => status(error),
        kv::KvError::Overtaken => store_status(StoreError::Overtaken),
        kv::KvError::Storage(error) => store_status(StoreError::Storage(error)),
    }
}

/// The log answered another request: a bug, and the member says so rather than inventing an answer.
pub(super) fn unexpected(response: Applied) -> Status {
    Status::internal(format!("the log answered with {response:?}"))
}
