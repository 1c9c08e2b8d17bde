//! What a peer may ask of us over HTTP/1.1, and how we say no: paths, methods, status codes and bodies are etcd's.
//!
//! A request is untrusted until its headers and its message were checked. Refusals close the connection; a peer that is
//! slow to send its headers or its body is cut off, and nobody else notices.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::codec::decode_message;
use super::conn::{Conn, Listener};
use super::identity::{
    X_ETCD_CLUSTER_ID, X_PEER_URLS, X_RAFT_TO, X_SERVER_FROM, X_SERVER_VERSION, hex, parse_hex, text,
};
use super::outbox::{StreamBody, StreamKind};
use super::snapshot::{self, Failure};
use super::{READ_TIMEOUT, Refusal, Shared, client, hash, lease, probe, promote};

const MAX_HEADERS: usize = 64;
const MAX_HEADER_BYTES: usize = 64 * 1024;
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Out of file descriptors, say: waiting is all one can do.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Answers peers until `shutdown`, or until the transport stops.
pub(super) async fn serve(shared: Arc<Shared>, listener: Listener, shutdown: impl Future<Output = ()>) {
    let mut stopped = shared.stopped.subscribe();
    let mut stop = pin!(async move {
        tokio::select! {
            _ = shutdown => {}
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
    });
    let slots = Arc::new(Semaphore::new(shared.max_connections));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stop => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((conn, remote)) => match slots.clone().try_acquire_owned() {
                    Ok(slot) => {
                        let shared = shared.clone();
                        connections.spawn(async move {
                            serve_connection(shared, conn, remote).await;
                            drop(slot);
                        });
                    }
                    Err(_) => warn!("remote-addr" = %remote, "rejected connection: too many are open"),
                },
                Err(error) => {
                    warn!(%error, "failed to accept a peer connection");
                    sleep(ACCEPT_RETRY).await;
                }
            },
        }
    }
    // Dropping the set ends every connection: a stream has no end of its own to wait for.
    connections.shutdown().await;
}

async fn serve_connection(shared: Arc<Shared>, conn: Conn, remote: String) {
    let served_before = AtomicBool::new(false);
    let service = service_fn(|request| {
        served_before.store(true, Ordering::Relaxed);
        let (shared, remote) = (shared.clone(), remote.clone());
        async move { Ok::<_, Infallible>(route(shared, request, &remote).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(conn), service)
        .await;
    if let Err(error) = served {
        // A peer that went away, or kept an idle connection for too long, is no news; nobody's client is.
        let error_text = client::chain(&error);
        if error.is_parse() || (error.is_timeout() && !served_before.load(Ordering::Relaxed)) {
            let local = shared.identity.member();
            warn!("local-member-id" = %local, "remote-addr" = %remote, error = %error_text, "rejected connection");
        } else {
            debug!("remote-addr" = %remote, error = %error_text, "peer connection closed");
        }
    }
}

async fn route(shared: Arc<Shared>, request: Request<Incoming>, remote: &str) -> Response<Answer> {
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/raft" => pipeline(&shared, request, remote).await,
        lease::RENEW_PATH | lease::INTERNAL_PATH => lease::serve(&shared, request).await,
        "/raft/probing" => Answer::ok("text/plain; charset=utf-8", probe::answer().into_bytes()),
        "/raft/snapshot" => snapshot(&shared, request, remote).await,
        "/members" => match only(Method::GET, request.method()) {
            Err(answer) => *answer,
            Ok(()) => with_cluster_id(&shared, Answer::ok("application/json", shared.handler.members_json())),
        },
        path if path.starts_with(promote::PREFIX) => promote::serve(&shared, request).await,
        hash::PATH => match only(Method::GET, request.method()) {
            Err(answer) => *answer,
            Ok(()) => with_cluster_id(&shared, hash::serve(&shared, request).await),
        },
        "/version" => match only(Method::GET, request.method()) {
            Err(answer) => *answer,
            Ok(()) => Answer::ok("application/json", shared.handler.version_json()),
        },
        _ => match path.strip_prefix("/raft/stream/") {
            Some(stream) => serve_stream(shared, &request, stream, remote),
            None => Answer::refuse(StatusCode::NOT_FOUND, "404 page not found"),
        },
    }
}

/// POST /raft: one message.
async fn pipeline(shared: &Arc<Shared>, request: Request<Incoming>, remote: &str) -> Response<Answer> {
    take_message(shared, request, remote, async |shared, body| receive(shared, body).await).await
}

/// A POST whose body is a message for raft, as `receive` reads it.
async fn take_message(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    remote: &str,
    receive: impl AsyncFnOnce(&Shared, Incoming) -> Result<(), Failure>,
) -> Response<Answer> {
    if let Err(answer) = only(Method::POST, request.method()) {
        return *answer;
    }
    let answer = match checked(shared, request.headers(), remote) {
        Err(answer) => *answer,
        Ok(()) => {
            add_remote(shared, text(request.headers(), &X_SERVER_FROM), request.headers());
            match receive(shared, request.into_body()).await {
                Ok(()) => {
                    let mut answer = Response::new(Answer::Full(Bytes::new()));
                    *answer.status_mut() = StatusCode::NO_CONTENT;
                    answer
                }
                Err((status, reason, cause)) => {
                    warn!(
                        "local-member-id" = %shared.identity.member(), "remote-addr" = %remote, error = %cause,
                        "{reason}"
                    );
                    Answer::refuse(status, reason)
                }
            }
        }
    };
    with_cluster_id(shared, answer)
}

async fn receive(shared: &Shared, body: Incoming) -> Result<(), Failure> {
    let bytes = collect(body, shared.max_message_bytes)
        .await
        .map_err(|cause| (StatusCode::BAD_REQUEST, "error reading raft message", cause.to_string()))?;
    let length = bytes.len() as u64;
    let message = decode_message(bytes, shared.max_message_bytes)
        .map_err(|e| (StatusCode::BAD_REQUEST, "error unmarshalling raft message", e.to_string()))?;
    let from = format!("a {} from {}", message.r#type().as_str_name(), hex(message.from()));
    let peer = shared.peer(message.from());
    shared.check(&message).map_err(|refusal| {
        if let Some(peer) = &peer {
            peer.counters.received_failures.fetch_add(1, Ordering::Relaxed);
        }
        match refusal {
            Refusal::Removed => (StatusCode::FORBIDDEN, "cannot process message from removed member", from.clone()),
            Refusal::NotForUs => (StatusCode::FORBIDDEN, "cannot process message to mismatch member", from.clone()),
            // Not 403: to etcd that means that the sender was removed, and it stops for good.
            Refusal::Unknown => (StatusCode::NOT_FOUND, "error sender not found", from.clone()),

            other => (StatusCode::BAD_REQUEST, "error processing raft message", format!("{from}: {other}")),
        }
    })?;
    if let Some(peer) = &peer {
        peer.counters.received_bytes.fetch_add(length, Ordering::Relaxed);
    }
    if !shared.is_paused() {
        shared.handler.message(message);
    }
    Ok(())
}

/// POST /raft/snapshot: a message and its database.
async fn snapshot(shared: &Arc<Shared>, request: Request<Incoming>, remote: &str) -> Response<Answer> {
    take_message(shared, request, remote, async |shared, body| snapshot::receive(shared, body).await).await
}

/// GET /raft/stream/{msgapp,message}/{from}: the answer is the stream we write into.
fn serve_stream(shared: Arc<Shared>, request: &Request<Incoming>, path: &str, remote: &str) -> Response<Answer> {
    if let Err(answer) = only(Method::GET, request.method()) {
        return *answer;
    }
    let mut answer = match open_stream(&shared, request.headers(), path, remote) {
        Ok(stream) => Response::new(Answer::Stream(Box::new(stream))),
        Err(answer) => *answer,
    };
    answer.headers_mut().insert(X_SERVER_VERSION, shared.identity.server_version.clone());
    with_cluster_id(&shared, answer)
}

fn open_stream(
    shared: &Arc<Shared>,
    headers: &HeaderMap,
    path: &str,
    remote: &str,
) -> Result<StreamBody, Box<Response<Answer>>> {
    let refuse = |status, reason: &'static str, said: &str| {
        warn!(
            "local-member-id" = %shared.identity.member(), "remote-addr" = %remote,
            "remote-peer-id-from" = %said.escape_debug(), error = reason, "rejected stream from remote peer"
        );
        Box::new(Answer::refuse(status, reason))
    };
    checked(shared, headers, remote)?;
    let (kind, from) = path.split_once('/').unwrap_or((path, ""));
    let kind = StreamKind::ALL.into_iter().find(|k| k.path() == kind && !from.contains('/'));
    let kind = kind.ok_or_else(|| refuse(StatusCode::NOT_FOUND, "invalid path", from))?;
    let id = parse_hex(from).ok_or_else(|| refuse(StatusCode::NOT_FOUND, "invalid from", from))?;
    if shared.handler.is_removed(id) {
        return Err(refuse(StatusCode::GONE, "removed member", from));
    }
    let Some(peer) = shared.peer(id).filter(|peer| peer.has_streams()) else {
        // We may only be behind: a member that we will learn of from the log. It is answered, but gets no stream yet.
        add_remote(shared, Some(from), headers);
        return Err(refuse(StatusCode::NOT_FOUND, "error sender not found", from));
    };
    if text(headers, &X_RAFT_TO) != Some(&shared.identity.member()) {
        return Err(refuse(StatusCode::PRECONDITION_FAILED, "to field mismatch", from));
    }
    Ok(StreamBody::attach(shared.clone(), peer, kind))
}

/// A member of our cluster that is not in our membership yet has said where it can be reached.
fn add_remote(shared: &Arc<Shared>, from: Option<&str>, headers: &HeaderMap) {
    let (Some(id), Some(urls)) = (from.and_then(parse_hex), text(headers, &X_PEER_URLS)) else { return };
    if shared.peer(id).is_none() && !shared.handler.is_removed(id) {
        shared.add(id, urls.split(',').map(str::to_owned).collect(), false);
    }
}

/// Versions and cluster id, or etcd's 412.
fn checked(shared: &Shared, headers: &HeaderMap, remote: &str) -> Result<(), Box<Response<Answer>>> {
    shared.identity.check(headers).map_err(|error| {
        warn!(
            "local-member-id" = %shared.identity.member(),
            "local-member-cluster-id" = %hex(shared.identity.cluster_id),
            "remote-addr" = %remote,
            "remote-peer-server-name" = %text(headers, &X_SERVER_FROM).unwrap_or_default().escape_debug(),
            "remote-peer-server-version" = %text(headers, &X_SERVER_VERSION).unwrap_or_default().escape_debug(),
            "remote-peer-cluster-id" = %text(headers, &X_ETCD_CLUSTER_ID).unwrap_or_default().escape_debug(),
            %error, "rejected request from remote peer"
        );
        Box::new(Answer::refuse(StatusCode::PRECONDITION_FAILED, &error.to_string()))
    })
}

pub(super) fn only(allowed: Method, method: &Method) -> Result<(), Box<Response<Answer>>> {
    if *method == allowed {
        return Ok(());
    }
    let mut answer = Answer::refuse(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    let name = HeaderValue::from_str(allowed.as_str()).unwrap_or_else(|_| unreachable!("a method is a header value"));
    answer.headers_mut().insert(ALLOW, name);
    Err(Box::new(answer))
}

pub(super) fn with_cluster_id(shared: &Shared, mut answer: Response<Answer>) -> Response<Answer> {
    if answer.status() != StatusCode::METHOD_NOT_ALLOWED {
        answer.headers_mut().insert(X_ETCD_CLUSTER_ID, shared.identity.cluster());
    }
    answer
}

/// Why a body was not read to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("{0}")]
    TooLarge(String),
    #[error("{0}")]
    Broken(String),
}

/// Reads a body of up to `limit` bytes from a peer that keeps sending.
pub(super) async fn collect(mut body: Incoming, limit: usize) -> Result<Bytes, BodyError> {
    if body.size_hint().lower() > limit as u64 {
        let said = body.size_hint().lower();
        return Err(BodyError::TooLarge(format!("{said} bytes are over the limit of {limit}")));
    }
    let mut bytes = BytesMut::new();
    loop {
        let data = match timeout(READ_TIMEOUT, body.frame()).await {
            Err(_) => return Err(BodyError::Broken(format!("nothing came for {READ_TIMEOUT:?}"))),
            Ok(None) => return Ok(bytes.freeze()),
            Ok(Some(Err(error))) => return Err(BodyError::Broken(client::chain(&error))),
            Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
        };
        if bytes.len() + data.len() > limit {
            return Err(BodyError::TooLarge(format!("more than the limit of {limit} bytes came")));
        }
        bytes.extend_from_slice(&data);
    }
}

/// The body of an answer: all at once, or a stream.
pub(super) enum Answer {
    Full(Bytes),
    Stream(Box<StreamBody>),
}

impl Answer {
    pub(super) fn ok(content_type: &'static str, body: Vec<u8>) -> Response<Answer> {
        let mut answer = Response::new(Answer::Full(body.into()));
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        answer
    }

    /// As Go's http.Error writes it.
    pub(super) fn say(status: StatusCode, reason: &str) -> Response<Answer> {
        let mut answer = Answer::ok("text/plain; charset=utf-8", format!("{reason}\n").into_bytes());
        *answer.status_mut() = status;
        answer.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        answer
    }

    /// The same, and the connection closes.
    pub(super) fn refuse(status: StatusCode, reason: &str) -> Response<Answer> {
        let mut answer = Answer::say(status, reason);
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        answer
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Answer::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Answer::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Answer::Stream(stream) => stream.poll_next(cx).map(|frame| frame.map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Answer::Full(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Answer::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Answer::Stream(_) => SizeHint::default(),
        }
    }
}
