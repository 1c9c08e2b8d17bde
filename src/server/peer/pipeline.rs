//! The pipeline: raft messages by POST while no stream is attached. Four connections a peer, so that one large message
//! does not hold up the rest. Nothing is ever sent twice: what failed is reported, and raft sends anew.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, StatusCode};
use lockstep_proto::raftpb::Message;
use prost::Message as _;
use tokio::sync::{Mutex, mpsc};
use tokio::task::AbortHandle;
use tracing::{error, info};

use super::client::{Link, RequestError, read_body, within};
use super::remote::Remote;
use super::{READ_TIMEOUT, Shared};

/// Messages that wait for a connection, as in etcd.
pub(super) const QUEUE_MESSAGES: usize = 64;
const CONNECTIONS: usize = 4;

pub(super) fn start(shared: &Arc<Shared>, peer: &Arc<Remote>, queued: mpsc::Receiver<Message>) -> Vec<AbortHandle> {
    let queued = Arc::new(Mutex::new(queued));
    info!(
        "local-member-id" = %shared.identity.member(), "remote-peer-id" = %peer.hex(),
        "started HTTP pipelining with remote peer"
    );
    let worker = |_| shared.runtime.spawn(run(shared.clone(), peer.clone(), queued.clone())).abort_handle();
    (0..CONNECTIONS).map(worker).collect()
}

async fn run(shared: Arc<Shared>, peer: Arc<Remote>, queued: Arc<Mutex<mpsc::Receiver<Message>>>) {
    let mut link = None;
    loop {
        let Some(message) = queued.lock().await.recv().await else { return };
        let body = Bytes::from(message.encode_to_vec());
        let length = body.len() as u64;
        match within(READ_TIMEOUT, "the answer to a POST", post(&shared, &peer, &mut link, body)).await {
            Ok(()) => {
                peer.counters.sent_bytes.fetch_add(length, Ordering::Relaxed);
                peer.status.activate();
            }
            Err(failure) => {
                link = None;
                failed(&shared, &peer, &failure);
                // What else was queued was meant for the process that is not there: it goes the same way.
                // Whoever holds the lock waits for a message, so there is none.
                if let (RequestError::Dial(_) | RequestError::NoUrl, Ok(mut queued)) = (&failure, queued.try_lock()) {
                    while queued.try_recv().is_ok() {
                        peer.counters.sent_failures.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
    }
}

async fn post(shared: &Shared, peer: &Remote, link: &mut Option<Link>, body: Bytes) -> Result<(), RequestError> {
    let url = peer.urls.pick().ok_or(RequestError::NoUrl)?;
    let sent = async {
        // A connection the peer has closed in the meantime costs nothing but a new one.
        let usable = match link {
            Some(open) => open.is_usable().await,
            None => false,
        };
        if !usable {
            *link = Some(Link::open(&url).await?);
        }
        let open = link.as_mut().unwrap_or_else(|| unreachable!("opened above"));
        let mut headers = shared.identity.headers();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/protobuf"));
        let response = open.send(Method::POST, "/raft", headers, body).await?;
        let status = response.status();
        let text = read_body(response).await?;
        match status {
            StatusCode::NO_CONTENT => Ok(()),
            StatusCode::FORBIDDEN if text.starts_with(b"cannot process message from removed member") => {
                Err(RequestError::Removed)
            }
            _ => Err(RequestError::refused(status, &text)),
        }
    };
    sent.await.inspect_err(|_| peer.urls.unreachable(&url))
}

fn failed(shared: &Shared, peer: &Remote, failure: &RequestError) {
    let was_active = peer.status.since().is_some();
    peer.status.deactivate("pipeline", "write", &failure.to_string());
    peer.counters.sent_failures.fetch_add(1, Ordering::Relaxed);
    match failure {
        RequestError::Incompatible(reason) if was_active => error!(
            "local-member-id" = %shared.identity.member(), "remote-peer-id" = %peer.hex(), error = %reason,
            "request sent was ignored by peer"
        ),
        RequestError::Removed => shared.handler.removed_from_cluster(peer.id()),
        _ => {}
    }
    shared.handler.unreachable(peer.id());
}
