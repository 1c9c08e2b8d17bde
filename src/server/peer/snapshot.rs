//! POST /raft/snapshot: a message and, behind it, the database that it speaks of, in one body as etcd has it.
//!
//! Both ends hold a few pieces at a time. Whoever gets no further for a while gives up, so that a peer that stands
//! still holds up neither the log, which is kept meanwhile, nor the next snapshot. Nothing is sent twice: raft hears
//! how it ended, and asks again.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use lockstep_proto::raftpb::Message;
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tracing::{info, warn};

use super::client::{RequestError, read_body, within};
use super::codec::decode_message;
use super::conn::connect;
use super::identity::hex;
use super::remote::Remote;
use super::{READ_TIMEOUT, Refusal, Shared};

/// The body of a snapshot in pieces; an error where it does not go on.
pub type Pieces = mpsc::Receiver<io::Result<Bytes>>;
/// The text says why it was not taken.
pub type Taking<'a> = Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>;

/// Snapshots that wait to be sent to one peer: raft waits for the end of one before it sends the next.
pub(super) const QUEUE_MESSAGES: usize = 1;
/// Without a piece for so long the other end stands still.
const STALL_LIMIT: Duration = Duration::from_secs(30);
/// Turning what was received into a store takes a while.
const ANSWER_LIMIT: Duration = Duration::from_secs(300);
const PIECES: usize = 8;

pub(super) fn start(shared: &Arc<Shared>, peer: &Arc<Remote>, mut queued: mpsc::Receiver<Message>) -> AbortHandle {
    let runtime = shared.runtime.clone();
    let (shared, peer) = (shared.clone(), peer.clone());
    let run = async move {
        while let Some(message) = queued.recv().await {
            let index = index_of(&message);
            let local = shared.identity.member();
            info!("local-member-id" = %local, "remote-peer-id" = %peer.hex(), index, "sending database snapshot");
            let transfer = peer.sends.begin();
            let sent = send(&shared, &peer, message).await;
            transfer.end(sent.is_ok());
            match &sent {
                Ok(bytes) => {
                    peer.counters.sent_bytes.fetch_add(*bytes, Ordering::Relaxed);
                    info!("remote-peer-id" = %peer.hex(), index, bytes, "sent database snapshot");
                }
                Err(error) => {
                    peer.counters.sent_failures.fetch_add(1, Ordering::Relaxed);
                    warn!("remote-peer-id" = %peer.hex(), index, %error, "failed to send database snapshot");
                    if matches!(error, RequestError::Removed) {
                        shared.handler.removed_from_cluster(peer.id());
                    }
                    shared.handler.unreachable(peer.id());
                }
            }
            shared.handler.snapshot_status(peer.id(), sent.is_ok());
        }
    };
    runtime.spawn(run).abort_handle()
}

fn index_of(message: &Message) -> u64 {
    message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref()).map_or(0, |meta| meta.index())
}

/// Returns how many bytes went over.
async fn send(shared: &Shared, peer: &Remote, message: Message) -> Result<u64, RequestError> {
    let gone = || RequestError::Dial(io::Error::other("the snapshot is not kept any more"));
    let pieces = shared.handler.open_snapshot(index_of(&message)).ok_or_else(gone)?;
    let url = peer.urls.pick().ok_or(RequestError::NoUrl)?;
    let sent = async {
        let conn = connect(&url).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(conn)).await?;
        let connection = tokio::spawn(async move { drop(connection.await) });
        let _closes = CloseOnDrop(connection.abort_handle());

        let message = message.encode_to_vec();
        let mut head = BytesMut::with_capacity(8 + message.len());
        head.extend_from_slice(&(message.len() as u64).to_be_bytes());
        head.extend_from_slice(&message);
        let (progress, mut moved) = watch::channel(0);
        let mut request = Request::new(PiecesBody { head: Some(head.freeze()), pieces, progress });
        *request.method_mut() = Method::POST;
        *request.uri_mut() = "/raft/snapshot".parse().unwrap_or_else(|_| unreachable!("our own path is valid"));
        *request.headers_mut() = shared.identity.headers();
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        let host = HeaderValue::from_str(url.host()).unwrap_or(HeaderValue::from_static("localhost"));
        request.headers_mut().insert(HOST, host);

        let mut answer = std::pin::pin!(sender.send_request(request));
        loop {
            tokio::select! {
                // Before all of it is sent: it is refused.
                early = &mut answer => {
                    let bytes = *moved.borrow();
                    return judge(early?, bytes).await;
                }
                more = timeout(STALL_LIMIT, moved.changed()) => match more {
                    Ok(Ok(())) => {}
                    // All of it is sent.
                    Ok(Err(_)) => break,
                    Err(_) => return Err(RequestError::TimedOut("the peer to take more of the snapshot")),
                },
            }
        }
        let limit = |_| RequestError::TimedOut("the answer to a snapshot");
        let response = timeout(ANSWER_LIMIT, answer).await.map_err(limit)??;
        let bytes = *moved.borrow();
        judge(response, bytes).await
    };
    sent.await.inspect_err(|_| peer.urls.unreachable(&url))
}

async fn judge(response: Response<Incoming>, bytes: u64) -> Result<u64, RequestError> {
    let status = response.status();
    let text = within(READ_TIMEOUT, "the rest of the answer", read_body(response)).await?;
    if status == StatusCode::NO_CONTENT { Ok(bytes) } else { Err(RequestError::refused(status, &text)) }
}

struct CloseOnDrop(AbortHandle);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The head, then the pieces as they come; `progress` counts the bytes that were taken.
struct PiecesBody {
    head: Option<Bytes>,
    pieces: Pieces,
    progress: watch::Sender<u64>,
}

impl Body for PiecesBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let piece = match self.head.take() {
            Some(head) => head,
            None => match ready!(self.pieces.poll_recv(cx)) {
                Some(Ok(piece)) => piece,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            },
        };
        self.progress.send_modify(|bytes| *bytes += piece.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

/// Why a snapshot was not taken: what the peer is told, and what our log says.
pub(super) type Failure = (StatusCode, &'static str, String);

/// Takes a snapshot from the body of a request whose headers were checked.
pub(super) async fn receive(shared: &Shared, body: Incoming) -> Result<(), Failure> {
    let broken = |cause: String| (StatusCode::BAD_REQUEST, "error reading raft message", cause);
    let mut body = Incomer { body, rest: Bytes::new() };
    let length = body.take(8).await.map_err(broken)?.get_u64();
    let length = usize::try_from(length).ok().filter(|length| *length <= shared.max_message_bytes);
    let length = length.ok_or_else(|| broken("the message is over the limit".to_owned()))?;
    let message = body.take(length).await.map_err(broken)?;
    let message = decode_message(message, shared.max_message_bytes)
        .map_err(|e| (StatusCode::BAD_REQUEST, "error unmarshalling raft message", e.to_string()))?;
    let from = format!("a {} from {}", message.r#type().as_str_name(), hex(message.from()));
    let (status, reason) = match shared.check(&message) {
        Err(Refusal::Snapshot) => (StatusCode::OK, ""),
        Err(Refusal::Removed) => (StatusCode::FORBIDDEN, "cannot process message from removed member"),
        Err(Refusal::NotForUs) => (StatusCode::FORBIDDEN, "cannot process message to mismatch member"),
        Err(Refusal::Unknown) => (StatusCode::NOT_FOUND, "error sender not found"),
        Ok(()) | Err(_) => (StatusCode::BAD_REQUEST, "wrong raft message type"),
    };
    if status != StatusCode::OK {
        return Err((status, reason, from));
    }
    if shared.is_paused() {
        return Err((StatusCode::SERVICE_UNAVAILABLE, "paused", from));
    }
    let peer = shared.peer(message.from());
    let index = index_of(&message);
    let local = shared.identity.member();
    info!("local-member-id" = %local, "remote-snapshot-sender-id" = %hex(message.from()), index, "receiving snapshot");
    let transfer = peer.as_ref().map(|peer| peer.receives.begin());
    let (pieces, taken) = mpsc::channel(PIECES);
    let (bytes, took) = tokio::join!(body.forward(pieces), shared.handler.snapshot(message, taken));
    if let Some(peer) = &peer {
        peer.counters.received_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
    if let Some(transfer) = transfer {
        transfer.end(took.is_ok());
    }
    took.map_err(|cause| {
        if let Some(peer) = &peer {
            peer.counters.received_failures.fetch_add(1, Ordering::Relaxed);
        }
        (StatusCode::INTERNAL_SERVER_ERROR, "error processing snapshot", cause)
    })
}

/// A body that is taken in parts.
struct Incomer {
    body: Incoming,
    rest: Bytes,
}

impl Incomer {
    /// The next piece, as long as it comes; `None` at the end.
    async fn piece(&mut self) -> Result<Option<Bytes>, String> {
        if !self.rest.is_empty() {
            return Ok(Some(std::mem::take(&mut self.rest)));
        }
        loop {
            let frame = timeout(STALL_LIMIT, self.body.frame()).await;
            match frame.map_err(|_| format!("nothing came for {} s", STALL_LIMIT.as_secs()))? {
                None => return Ok(None),
                Some(Err(error)) => return Err(super::client::chain(&error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    async fn take(&mut self, count: usize) -> Result<Bytes, String> {
        let mut taken = BytesMut::new();
        while taken.len() < count {
            let mut piece = self.piece().await?.ok_or("it ends too early")?;
            taken.extend_from_slice(&piece.split_to(piece.len().min(count - taken.len())));
            self.rest = piece;
        }
        Ok(taken.freeze())
    }

    /// Hands on what comes, as fast as it is taken. Returns how much that was.
    async fn forward(mut self, pieces: mpsc::Sender<io::Result<Bytes>>) -> u64 {
        let mut bytes = 0;
        loop {
            let piece = match self.piece().await {
                Ok(Some(piece)) => piece,
                Ok(None) => return bytes,
                Err(cause) => {
                    let _ = pieces.send(Err(io::Error::other(cause))).await;
                    return bytes;
                }
            };
            bytes += piece.len() as u64;
            if pieces.send(Ok(piece)).await.is_err() {
                return bytes;
            }
        }
    }
}
