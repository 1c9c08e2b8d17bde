//! `KV.RangeStream`: a range as a stream of small answers, all of one revision, none of which is large.
//!
//! The first one has at most ten keys; the next ones twice or half as many, so that each comes near the size of the
//! largest request. Header, `more` and `count` are in the last one only, as etcd 3.7 has it. The next one is read when
//! the client has taken the one before.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use lockstep_proto::etcdserverpb as pb;
use lockstep_proto::mvccpb::KeyValue;
use prost::Message;
use tonic::Status;

use super::budget::Share;
use super::store_status;
use crate::member::apply::range::{self, Selection};
use crate::mvcc::View;
use crate::mvcc::read::Error;
use crate::server::apart::{Apart, apart};
use crate::server::node::Node;

const FIRST_CHUNK_KEYS: usize = 10;

/// See the head of this file.
pub struct RangeStream {
    /// `None` when all has been sent.
    next: Option<Apart<Step>>,
}

type Step = Result<(pb::RangeResponse, Option<Box<Chunks>>), Error>;

struct Chunks {
    node: Arc<Node>,
    view: Arc<View>,
    request: pb::RangeRequest,
    selection: Selection,
    at: usize,
    keys: usize,
    /// What the selection holds of the budget.
    _places: Share,
}

impl RangeStream {
    /// The selection is already made; `view` is the one that it was made of.
    pub fn new(
        node: Arc<Node>,
        view: Arc<View>,
        request: pb::RangeRequest,
        selection: Selection,
        places: Share,
    ) -> RangeStream {
        let chunks = Chunks { node, view, request, selection, at: 0, keys: FIRST_CHUNK_KEYS, _places: places };
        RangeStream { next: Some(start(Box::new(chunks))) }
    }
}

fn start(chunks: Box<Chunks>) -> Apart<Step> {
    apart(move || chunks.chunk())
}

impl Chunks {
    fn chunk(mut self: Box<Self>) -> Step {
        let rows = &self.selection.revisions[self.at..];
        let rows = &rows[..rows.len().min(self.keys)];
        let kvs = rows.iter().map(|revision| {
            let damaged = |e| Error::Storage(format!("the row of revision {} is no KeyValue: {e}", revision.main));
            range::with_selected(&self.view, &self.request, *revision, |row| KeyValue::decode(row).map_err(damaged))?
        });
        let mut chunk = pb::RangeResponse { kvs: kvs.collect::<Result<_, _>>()?, ..Default::default() };
        self.at += chunk.kvs.len();
        if self.at == self.selection.revisions.len() {
            chunk.header = self.node.header(self.selection.rev);
            chunk.more = self.selection.more;
            chunk.count = self.selection.count;
            return Ok((chunk, None));
        }
        let (size, target) = (chunk.encoded_len(), self.node.max_request_bytes);
        if size < target / 2 {
            self.keys *= 2;
        } else if size > target.saturating_mul(2) {
            self.keys = (self.keys / 2).max(1);
        }
        Ok((chunk, Some(self)))
    }
}

impl tokio_stream::Stream for RangeStream {
    type Item = Result<pb::RangeStreamResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(reading) = &mut self.next else { return Poll::Ready(None) };
        let read = ready!(Pin::new(reading).poll(cx));
        self.next = None;
        Poll::Ready(Some(match read {
            Ok(Ok((chunk, rest))) => {
                self.next = rest.map(start);
                Ok(pb::RangeStreamResponse { range_response: Some(chunk) })
            }
            Ok(Err(error)) => Err(store_status(error)),
            Err(lost) => Err(Status::internal(format!("the read was lost: {lost}"))),
        }))
    }
}
