//! Answers to `Range` that are too long to be held in memory: read from the view in pieces, as fast as the client takes
//! them.
//!
//! A unary answer is one message whose length comes first. So the rows are visited once: their bytes are kept, ready to
//! be sent, as long as the budget of all reads allows it, and beyond that only counted, to be read a second time when
//! the client has taken what is before them. A client that does not read holds what the budget gave it and one piece
//! besides, whatever it asked for. Nothing in here decides what the answer is: that is [`range::select`].

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;
use lockstep_proto::etcdserverpb as pb;
use parking_lot::Mutex;
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};
use tonic::Status;

use super::budget::{Budget, Share};
use super::store_status;
use crate::member::apply::range::{self, Selection};
use crate::mvcc::View;
use crate::mvcc::read::{Error, Revision};
use crate::server::apart::{Apart, apart};
use crate::server::node::Node;

/// What is read at a time, and what a client that reads nothing holds of the rest.
const PIECE_BYTES: usize = 256 << 10;
/// What one answer may keep of the budget of all.
const KEPT_BYTES: usize = 64 << 20;
/// A view pins pages of the store; one that is held longer than this is exchanged for a fresh one.
const VIEW_LIMIT: Duration = Duration::from_secs(30);
/// grpc-go sends nothing longer.
const MESSAGE_LIMIT_BYTES: u64 = i32::MAX as u64;
/// Field 2 of a `RangeResponse`, `kvs`.
const KVS_TAG: u8 = 0x12;

/// Rows still to be read.
struct Rest {
    node: Arc<Node>,
    view: Arc<View>,
    since: Instant,
    request: Arc<pb::RangeRequest>,
    revisions: Vec<Revision>,
    at: usize,
    /// What the revisions hold of the budget.
    _places: Share,
}

impl Rest {
    /// The next rows, marshalled as the answer's `kvs`; empty when there are none.
    fn piece(&mut self) -> Result<Bytes, Error> {
        if self.since.elapsed() > VIEW_LIMIT {
            // Every row is named by its revision. One that compaction has taken meanwhile ends the answer with an
            // error.
            self.view = self.node.local_view();
            self.since = Instant::now();
        }
        let mut piece = BytesMut::new();
        while piece.len() < PIECE_BYTES
            && let Some(revision) = self.revisions.get(self.at)
        {
            range::with_selected(&self.view, &self.request, *revision, |row| {
                if piece.capacity() == 0 {
                    let left = (self.revisions.len() - self.at).saturating_mul(row.len() + 8);
                    piece.reserve(left.min(PIECE_BYTES) + row.len());
                }
                piece.put_u8(KVS_TAG);
                encode_varint(row.len() as u64, &mut piece);
                piece.put_slice(row);
            })?;
            self.at += 1;
        }
        Ok(piece.freeze())
    }

    /// How long the rest is, marshalled.
    fn len(&self) -> Result<u64, Error> {
        let mut sum = 0;
        for revision in &self.revisions[self.at..] {
            sum += range::with_selected(&self.view, &self.request, *revision, |row| {
                1 + (encoded_len_varint(row.len() as u64) + row.len()) as u64
            })?;
        }
        Ok(sum)
    }
}

/// The body of an answer, in place of the one that tonic would make of a whole message.
pub struct LongAnswer {
    /// Ready to be sent.
    ready: VecDeque<Bytes>,
    later: Later,
    tail: Bytes,
}

/// What comes behind the pieces that are ready.
enum Later {
    Rows(Box<Rest>),
    Reading(Apart<(Box<Rest>, Result<Bytes, Error>)>),
    Trailers(Status),
    Nothing,
}

impl LongAnswer {
    /// Selects, with `places` for that, and keeps what it may. For a thread that may block.
    pub fn prepare(
        node: Arc<Node>,
        budget: &Budget,
        mut places: Share,
        view: Arc<View>,
        request: Arc<pb::RangeRequest>,
    ) -> Result<Result<LongAnswer, Status>, Error> {
        let Selection { revisions, more, count, rev } = range::select(&view, &request)?;
        places.keep_places(revisions.len());
        let head = pb::RangeResponse { header: node.header(rev), ..Default::default() }.encode_to_vec();
        let tail: Bytes = pb::RangeResponse { more, count, ..Default::default() }.encode_to_vec().into();
        let mut rest = Rest { node, view, since: Instant::now(), request, revisions, at: 0, _places: places };
        let (mut ready, mut kept) = (VecDeque::new(), 0);
        let mut len = (head.len() + tail.len()) as u64;
        while kept < KEPT_BYTES {
            let at = rest.at;
            let piece = rest.piece()?;
            if piece.is_empty() {
                break;
            }
            // Only now is it known what it takes.
            let Some(share) = budget.ready(piece.len()) else {
                rest.at = at;
                break;
            };
            kept += piece.len();
            ready.push_back(charged(piece, share));
        }
        len += kept as u64 + rest.len()?;
        let is_whole = rest.at == rest.revisions.len();
        if let Err(refusal) = check_length(len) {
            return Ok(Err(refusal));
        }
        let mut first = framed(len, head.len());
        first.put_slice(&head);
        ready.push_front(first.freeze());
        if is_whole {
            // h2 counts empty frames as an attack, and a tail without anything in it is empty.
            if !tail.is_empty() {
                ready.push_back(tail);
            }
            return Ok(Ok(LongAnswer { ready, later: Later::Trailers(Status::ok("")), tail: Bytes::new() }));
        }
        Ok(Ok(LongAnswer { ready, later: Later::Rows(Box::new(rest)), tail }))
    }

    /// An answer that is there as a message already; `share` is what it holds of the budget. For a thread that may
    /// block.
    pub fn whole<M: Message>(message: M, mut share: Share) -> Result<LongAnswer, Status> {
        let len = message.encoded_len();
        check_length(len as u64)?;
        let mut bytes = framed(len as u64, len);
        // It cannot fail: a `BytesMut` grows.
        let _ = message.encode(&mut bytes);
        drop(message);
        share.keep(bytes.len() as u64);
        let bytes = charged(bytes.freeze(), share);
        // hyper asks for the next piece when it has passed on the one before.
        let ready = (0..bytes.len()).step_by(PIECE_BYTES).map(|at| bytes.slice(at..bytes.len().min(at + PIECE_BYTES)));
        let ready = ready.collect();
        Ok(LongAnswer { ready, later: Later::Trailers(Status::ok("")), tail: Bytes::new() })
    }

    /// An empty message, with this answer for [`in_its_place`].
    pub fn in_place<M: Default>(self) -> tonic::Response<M> {
        let mut response = tonic::Response::new(M::default());
        response.extensions_mut().insert(InPlace(Arc::new(Mutex::new(Some(self)))));
        response
    }

    fn next_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        if let Some(piece) = self.ready.pop_front() {
            return Poll::Ready(Some(Frame::data(piece)));
        }
        loop {
            match std::mem::replace(&mut self.later, Later::Nothing) {
                Later::Rows(mut rest) => {
                    self.later = Later::Reading(apart(move || {
                        let piece = rest.piece();
                        (rest, piece)
                    }));
                }
                Later::Reading(mut reading) => {
                    let Poll::Ready(read) = Pin::new(&mut reading).poll(cx) else {
                        self.later = Later::Reading(reading);
                        return Poll::Pending;
                    };
                    match read {
                        Ok((_, Ok(piece))) if piece.is_empty() => {
                            self.later = Later::Trailers(Status::ok(""));
                            // What has more than a piece has a count.
                            return Poll::Ready(Some(Frame::data(std::mem::take(&mut self.tail))));
                        }
                        Ok((rest, Ok(piece))) => {
                            self.later = Later::Rows(rest);
                            return Poll::Ready(Some(Frame::data(piece)));
                        }
                        Ok((_, Err(error))) => self.later = Later::Trailers(store_status(error)),
                        Err(lost) => {
                            self.later = Later::Trailers(Status::internal(format!("the read was lost: {lost}")))
                        }
                    }
                }
                Later::Trailers(status) => {
                    let mut trailers = HeaderMap::new();
                    // It cannot fail: statuses here are plain text.
                    let _ = status.add_header(&mut trailers);
                    return Poll::Ready(Some(Frame::trailers(trailers)));
                }
                Later::Nothing => return Poll::Ready(None),
            }
        }
    }
}

/// Bytes that give back what they hold of the budget when they are gone.
fn charged(bytes: Bytes, share: Share) -> Bytes {
    struct Charged(Bytes, #[expect(dead_code)] Share);
    impl AsRef<[u8]> for Charged {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    Bytes::from_owner(Charged(bytes, share))
}

/// Refuses what is too long for a message, in grpc-go's words.
pub fn check_length(bytes: u64) -> Result<(), Status> {
    if bytes <= MESSAGE_LIMIT_BYTES {
        return Ok(());
    }
    let text = format!("trying to send message larger than max ({bytes} vs. {MESSAGE_LIMIT_BYTES})");
    Err(Status::resource_exhausted(text))
}

/// gRPC's frame: not compressed, and the length. With room for what is said next.
fn framed(len: u64, room: usize) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(5 + room);
    bytes.put_u8(0);
    // Checked: it is below 2^31.
    bytes.put_u32(len as u32);
    bytes
}

/// On its way through tonic.
#[derive(Clone)]
struct InPlace(Arc<Mutex<Option<LongAnswer>>>);

/// Gives a response the body that came with it.
pub fn in_its_place(mut response: Response) -> Response {
    if let Some(InPlace(answer)) = response.extensions_mut().remove()
        && let Some(answer) = answer.lock().take()
    {
        *response.body_mut() = Body::new(answer);
    }
    response
}

impl http_body::Body for LongAnswer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.get_mut().next_frame(cx).map(|frame| frame.map(Ok))
    }
}
