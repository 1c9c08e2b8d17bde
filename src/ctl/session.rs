//! Leases that are kept alive as etcd's Go client does it: a request every third of the TTL, on a stream that is opened
//! again on another endpoint when it breaks, until the lease is gone or nobody has confirmed it for its TTL.

use std::time::Duration;

use lockstep_proto::etcdserverpb::lease_client::LeaseClient;
use lockstep_proto::etcdserverpb::{LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Request, Status, Streaming};

use super::client::{Client, never, stream_error};
use super::watch::require_leader;

/// Of a session whose command asks for none.
pub const TTL_DEFAULT_S: i64 = 60;
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// A lease of this command's own.
#[derive(Debug)]
pub struct Session {
    pub lease: i64,
    kept: UnboundedReceiver<LeaseKeepAliveResponse>,
}

impl Session {
    pub async fn open(client: &Client, ttl_s: i64) -> Result<Session, String> {
        let ttl_s = if ttl_s > 0 { ttl_s } else { TTL_DEFAULT_S };
        let lease = client.lease_grant_until(never(), ttl_s).await?.id;
        Ok(Session { lease, kept: keep_alive(client, lease) })
    }

    /// Returns when the lease is gone.
    pub async fn expired(&mut self) {
        while self.kept.recv().await.is_some() {}
    }
}

/// Keeps a lease alive; the answers end when the lease has, or may have. Has to be called inside the runtime.
pub fn keep_alive(client: &Client, id: i64) -> UnboundedReceiver<LeaseKeepAliveResponse> {
    let (answers, kept) = mpsc::unbounded_channel();
    let client = client.clone();
    tokio::spawn(async move {
        let first_limit =
            client.settings.dialing.timeout.map_or(Duration::from_secs(5), |t| t + Duration::from_secs(1));
        let mut keeper = Keeper { client, id, answers, deadline: Instant::now() + first_limit };
        loop {
            let over = timeout_at(keeper.deadline, keeper.opened()).await;
            let stream = match over {
                Err(_) => return,
                Ok(Ok(stream)) => stream,
                Ok(Err(status)) => {
                    keeper.client.look_at(status);
                    sleep(RETRY_PAUSE).await;
                    continue;
                }
            };
            match keeper.keep(stream).await {
                Some(status) => drop(keeper.client.look_at(status)),
                None => return,
            }
            sleep(RETRY_PAUSE).await;
        }
    });
    kept
}

/// One confirmation of a lease. The error is the final text.
pub async fn keep_alive_once(client: &Client, id: i64, deadline: Instant) -> Result<LeaseKeepAliveResponse, String> {
    loop {
        let attempt = async {
            let (up, mut stream) = open(client, id).await?;
            let answer = stream.message().await?.ok_or_else(|| Status::unavailable("the stream ended"));
            drop(up);
            answer
        };
        let Ok(answer) = timeout_at(deadline, attempt).await else { return Err("context deadline exceeded".into()) };
        match answer.map_err(|status| client.look_at(status)) {
            Ok(answer) if answer.ttl <= 0 => return Err("etcdserver: requested lease not found".into()),
            Ok(answer) => return Ok(answer),
            Err(status) if matches!(status.code(), Code::Unavailable | Code::Internal) => sleep(RETRY_PAUSE).await,
            Err(status) => return Err(stream_error(&status)),
        }
    }
}

type Opened = (UnboundedSender<LeaseKeepAliveRequest>, Streaming<LeaseKeepAliveResponse>);

/// A stream with the first request on it.
async fn open(client: &Client, id: i64) -> Result<Opened, Status> {
    let (up, requests) = mpsc::unbounded_channel();
    let _ = up.send(LeaseKeepAliveRequest { id });
    let mut request = Request::new(UnboundedReceiverStream::new(requests));
    require_leader(&mut request);
    let stream = LeaseClient::new(client.connection().await).lease_keep_alive(request).await?.into_inner();
    Ok((up, stream))
}

struct Keeper {
    client: Client,
    id: i64,
    answers: UnboundedSender<LeaseKeepAliveResponse>,
    /// When the lease may be gone.
    deadline: Instant,
}

impl Keeper {
    async fn opened(&self) -> Result<Opened, Status> {
        open(&self.client, self.id).await
    }

    /// Until the stream breaks, with why; `None` when there is nothing left to keep.
    async fn keep(&mut self, (up, mut stream): Opened) -> Option<Status> {
        // Of the request after the one that is under way.
        let mut next = never();
        loop {
            tokio::select! {
                answer = stream.message() => {
                    let answer = match answer {
                        Ok(Some(answer)) => answer,
                        Ok(None) => return Some(Status::unavailable("the stream ended")),
                        Err(status) => return Some(status),
                    };
                    if answer.ttl <= 0 {
                        return None;
                    }
                    let ttl = Duration::from_secs(answer.ttl as u64);
                    let now = Instant::now();
                    next = now.checked_add(ttl / 3).unwrap_or_else(never);
                    self.deadline = now.checked_add(ttl).unwrap_or_else(never);
                    if self.answers.send(answer).is_err() {
                        return None;
                    }
                }
                () = sleep_until(next) => {
                    next = never();
                    let _ = up.send(LeaseKeepAliveRequest { id: self.id });
                }
                () = sleep_until(self.deadline) => return None,
                () = self.answers.closed() => return None,
            }
        }
    }
}
