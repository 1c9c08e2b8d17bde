//! The streams we dial: keeps one GET open to the peer, decodes what it writes, hands it to the member.
//!
//! A stream that breaks, falls silent or sends what it should not is closed with a line in the log and dialled anew,
//! ten times a second at most. Nothing a peer sends can do more than that to us.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use super::client::{Link, RequestError, chain, read_body, within};
use super::codec::{DecodeError, Decoder, MessageDecoder, MsgAppV2Decoder, is_link_heartbeat};
use super::identity::{X_RAFT_TO, hex_value};
use super::outbox::StreamKind;
use super::remote::Remote;
use super::{READ_TIMEOUT, Refusal, Shared};

/// Ten dials a second, as etcd.
const REDIAL_INTERVAL: Duration = Duration::from_millis(100);

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("EOF")]
    Closed,
    #[error("read: nothing came for {READ_TIMEOUT:?}")]
    Silent,
    #[error("read: {0}")]
    Read(String),
    #[error("decode: {0}")]
    Decode(#[from] DecodeError),
    #[error("{0}")]
    Refused(#[from] Refusal),
}

/// Runs until the peer is removed.
pub(super) async fn run(shared: Arc<Shared>, peer: Arc<Remote>, kind: StreamKind) {
    let (local, remote) = (shared.identity.member(), peer.hex());
    info!(
        "stream-reader-type" = kind.name(), "local-member-id" = %local, "remote-peer-id" = %remote,
        "started stream reader with remote peer"
    );
    let mut refused = String::new();
    loop {
        let dialled = Instant::now();
        match dial(&shared, &peer, kind).await {
            Ok((_link, body)) => {
                refused.clear();
                peer.status.activate();
                info!(
                    "stream-reader-type" = kind.name(), "local-member-id" = %local, "remote-peer-id" = %remote,
                    "established TCP streaming connection with remote peer"
                );
                let lost = read(&shared, &peer, kind, body).await;
                warn!(
                    "stream-reader-type" = kind.name(), "local-member-id" = %local, "remote-peer-id" = %remote,
                    error = %lost, "lost TCP streaming connection with remote peer"
                );
                if !matches!(lost, Lost::Closed) {
                    peer.status.deactivate(kind.name(), "read", &lost.to_string());
                }
            }
            Err(failure) => {
                let reason = failure.to_string();
                peer.status.deactivate(kind.name(), "dial", &reason);
                // Ten times a second the same refusal: said once.
                if let RequestError::Incompatible(_) | RequestError::Refused { .. } | RequestError::Removed = failure
                    && reason != refused
                {
                    warn!(
                        "stream-reader-type" = kind.name(), "local-member-id" = %local, "remote-peer-id" = %remote,
                        error = %reason, "request sent was ignored by remote peer"
                    );
                    if let RequestError::Removed = failure {
                        shared.handler.removed_from_cluster(peer.id());
                    }
                    refused = reason;
                }
            }
        }
        sleep_until(dialled + REDIAL_INTERVAL).await;
    }
}

/// Opens the stream. The connection lives as long as the link.
async fn dial(shared: &Shared, peer: &Remote, kind: StreamKind) -> Result<(Link, Incoming), RequestError> {
    let url = peer.urls.pick().ok_or(RequestError::NoUrl)?;
    let opened = within(READ_TIMEOUT, "the answer to a dial", async {
        let mut link = Link::open(&url).await?;
        let mut headers = shared.identity.headers();
        headers.insert(X_RAFT_TO, hex_value(peer.id()));
        let path = format!("/raft/stream/{}/{}", kind.path(), shared.identity.member());
        let response = link.send(Method::GET, &path, headers, Default::default()).await?;
        let status = response.status();
        if status != StatusCode::OK {
            return Err(RequestError::refused(status, &read_body(response).await?));
        }
        Ok((link, response.into_body()))
    });
    opened.await.inspect_err(|_| peer.urls.unreachable(&url))
}

/// Reads to the end, which is always some kind of failure.
async fn read(shared: &Shared, peer: &Remote, kind: StreamKind, mut body: Incoming) -> Lost {
    let limit = shared.max_message_bytes;
    let mut decoder = match kind {
        StreamKind::MsgApp => Decoder::MsgAppV2(MsgAppV2Decoder::new(shared.identity.member_id, peer.id(), limit)),
        StreamKind::Message => Decoder::Message(MessageDecoder::new(limit)),
    };
    let mut buffer = BytesMut::new();
    loop {
        let data = match timeout(READ_TIMEOUT, body.frame()).await {
            Err(_) => return Lost::Silent,
            Ok(None) => return Lost::Closed,
            Ok(Some(Err(error))) => return Lost::Read(chain(&error)),
            Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
        };
        peer.counters.received_bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        buffer.extend_from_slice(&data);
        let mut batch = Vec::new();
        let end = loop {
            match decoder.decode(&mut buffer) {
                Ok(None) => break None,
                Ok(Some(message)) if is_link_heartbeat(&message) => {}
                Ok(Some(message)) => match shared.check(&message) {
                    Ok(()) => batch.push(message),
                    Err(refusal) => break Some(Lost::Refused(refusal)),
                },
                Err(error) => break Some(Lost::Decode(error)),
            }
        };
        if !batch.is_empty() && !shared.is_paused() {
            shared.handler.messages(batch);
        }
        if let Some(lost) = end {
            peer.counters.received_failures.fetch_add(1, Ordering::Relaxed);
            return lost;
        }
    }
}
