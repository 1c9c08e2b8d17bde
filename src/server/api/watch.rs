//! `etcdserverpb.Watch`: a stream of requests in, a stream of responses out, on the thread that holds the connection.
//!
//! One task does both: it is polled when the client has room for more, so a client that does not read does not get its
//! requests read either. Events go out as they were marshalled for the first watcher that was told of them; only the
//! header and the id are written for each.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BufMut;
use futures_util::Stream;
use futures_util::future::BoxFuture;
use lockstep_proto::etcdserverpb::{ResponseHeader, WatchRequest, WatchResponse};
use prost::Message;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};

use super::status;
use crate::member::watch::{self, StreamId, What};
use crate::server::node::Node;
use crate::server::watching::{End, Taken, Watching};

/// One response, before it is marshalled.
#[derive(Clone, Debug)]
pub struct Frame {
    header: ResponseHeader,
    response: watch::Response,
}

impl Frame {
    pub fn into_message(self) -> WatchResponse {
        self.response.to_message(self.header)
    }
}

/// Responses taken without looking for requests, when both are there.
const RESPONSES_IN_A_ROW: u32 = 64;

/// One client's stream: give it the requests, and it gives the responses. It goes on when the requests end, as in etcd;
/// it is over when it is dropped.
pub struct WatchStream<S> {
    node: Arc<Node>,
    watching: Arc<Watching>,
    id: StreamId,
    requests: Option<S>,
    ready: VecDeque<watch::Response>,
    /// The charge of what was handed on and not reported yet.
    taken: usize,
    in_a_row: u32,
    is_over: bool,
}

impl<S> WatchStream<S> {
    /// `wants_leader`: the client asked to be told when there is none.
    pub fn open(node: Arc<Node>, wants_leader: bool, requests: S) -> Result<WatchStream<S>, Status> {
        let watching = node.watching().clone();
        let id = watching.open(&node, wants_leader).map_err(status)?;
        Ok(WatchStream {
            node,
            watching,
            id,
            requests: Some(requests),
            ready: VecDeque::new(),
            taken: 0,
            in_a_row: 0,
            is_over: false,
        })
    }

    fn frame(&mut self, response: watch::Response) -> Frame {
        self.taken += response.charge;
        let (cluster_id, member_id) = (self.node.cluster_id, self.node.member_id);
        let raft_term = self.node.status().term;
        Frame { header: ResponseHeader { cluster_id, member_id, revision: response.revision, raft_term }, response }
    }
}

impl<S: Stream<Item = Result<WatchRequest, Status>> + Unpin> WatchStream<S> {
    /// Whether a request was there; an error ends the stream.
    fn poll_request(&mut self, cx: &mut Context<'_>) -> Result<bool, Status> {
        self.in_a_row = 0;
        let Some(requests) = &mut self.requests else { return Ok(false) };
        match Pin::new(requests).poll_next(cx) {
            Poll::Ready(Some(request)) => {
                self.watching.request(&self.node, self.id, request.map_err(super::as_grpc_go)?);
                Ok(true)
            }
            Poll::Ready(None) => {
                self.requests = None;
                Ok(false)
            }
            Poll::Pending => Ok(false),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, Status>> {
        loop {
            if self.in_a_row >= RESPONSES_IN_A_ROW {
                self.poll_request(cx)?;
            }
            if let Some(response) = self.ready.pop_front() {
                self.in_a_row += 1;
                return Poll::Ready(Ok(self.frame(response)));
            }
            let taken = std::mem::take(&mut self.taken);
            match self.watching.take(self.id, taken, &mut self.ready, cx.waker()) {
                Taken::Some => {}
                Taken::Nothing if self.poll_request(cx)? => {}
                Taken::Nothing => return Poll::Pending,
                Taken::End(End::Refused(error)) => return Poll::Ready(Err(status(error))),
                Taken::End(End::Failed(reason)) => return Poll::Ready(Err(Status::data_loss(reason))),
            }
        }
    }
}

impl<S: Stream<Item = Result<WatchRequest, Status>> + Unpin> Stream for WatchStream<S> {
    type Item = Result<Frame, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let polled = self.poll(cx);
        self.is_over = matches!(polled, Poll::Ready(Err(_)));
        polled.map(Some)
    }
}

impl<S> Drop for WatchStream<S> {
    fn drop(&mut self) {
        self.watching.close(self.id);
    }
}

/// The service. It is written by hand for the sake of its codec.
#[derive(Clone)]
pub struct WatchServer {
    pub node: Arc<Node>,
    pub max_request: usize,
}

impl NamedService for WatchServer {
    const NAME: &'static str = "etcdserverpb.Watch";
}

impl<B> tower::Service<http::Request<B>> for WatchServer
where
    B: hyper::body::Body + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        if request.uri().path() != "/etcdserverpb.Watch/Watch" {
            return Box::pin(ready(Ok(Status::unimplemented("").into_http())));
        }
        let mut grpc = Grpc::new(WatchCodec).max_decoding_message_size(self.max_request);
        let method = Method(self.node.clone());
        Box::pin(async move { Ok(grpc.streaming(method, request).await) })
    }
}

struct Method(Arc<Node>);

impl StreamingService<WatchRequest> for Method {
    type Response = Frame;
    type ResponseStream = WatchStream<Streaming<WatchRequest>>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<WatchRequest>>) -> Self::Future {
        ready(self.open(request).map(Response::new))
    }
}

impl Method {
    fn open(&self, request: Request<Streaming<WatchRequest>>) -> Result<WatchStream<Streaming<WatchRequest>>, Status> {
        self.0.admit(&request)?;
        let wants_leader = super::wants_leader(request.metadata());
        WatchStream::open(self.0.clone(), wants_leader, request.into_inner())
    }
}

/// Frames out, requests in.
struct WatchCodec;

impl Codec for WatchCodec {
    type Encode = Frame;
    type Decode = WatchRequest;
    type Encoder = FrameEncoder;
    type Decoder = RequestDecoder;

    fn encoder(&mut self) -> FrameEncoder {
        FrameEncoder
    }

    fn decoder(&mut self) -> RequestDecoder {
        RequestDecoder
    }
}

struct FrameEncoder;

/// Every stream has a buffer, and there may be many thousands.
const BUFFER_BYTES: usize = 512;
const FLUSH_BYTES: usize = 32 << 10;

impl Encoder for FrameEncoder {
    type Item = Frame;
    type Error = Status;

    fn encode(&mut self, frame: Frame, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let failed = |error: prost::EncodeError| Status::internal(error.to_string());
        let What::Events { events, .. } = &frame.response.what else {
            return frame.into_message().encode(into).map_err(failed);
        };
        let rest = frame.response.without_events(frame.header);
        into.reserve(rest.encoded_len() + events.encoded_len());
        rest.encode(into).map_err(failed)?;
        // What nobody else is told of needs no copy for others.
        match Arc::strong_count(events) {
            1 => events.message().encode(into).map_err(failed)?,
            _ => into.put_slice(events.encoded()),
        }
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, FLUSH_BYTES)
    }
}

struct RequestDecoder;

impl Decoder for RequestDecoder {
    type Item = WatchRequest;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<WatchRequest>, Status> {
        WatchRequest::decode(from).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
