//! Leases between members: a follower asks the leader to renew a lease (`POST /leases`), or what is left of one
//! (`POST /leases/internal`). Bodies, status codes and texts are etcd's, both ways.
//!
//! What may not happen here: an answer that waits longer than [`ANSWER_LIMIT`], a body beyond its limit, and a promise
//! by a member that does not lead; the last is the [`Handler`](super::Handler)'s to see to.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use lockstep_proto::etcdserverpb::{
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, ResponseHeader,
};
use lockstep_proto::leasepb::{LeaseInternalRequest, LeaseInternalResponse};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Shared;
use super::client::{Link, RequestError, read_body_up_to, within};
use super::conn::PeerUrl;
use super::http::{Answer, BodyError, collect};

pub(super) const RENEW_PATH: &str = "/leases";
pub(super) const INTERNAL_PATH: &str = "/leases/internal";

/// A request names a lease and little else.
const MAX_REQUEST_BYTES: usize = 64 * 1024;
/// An answer may list every key of a lease.
const MAX_ANSWER_BYTES: usize = 100 * 1024 * 1024;
/// What the member may take, as etcd gives it for what it must have applied.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// Connections to leaders at a time; more requests than that wait.
const CONNECTIONS: usize = 32;

/// What a peer asks of the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseQuestion {
    Renew { id: i64 },
    TimeToLive(LeaseTimeToLiveRequest),
}

/// What the member answers.
#[derive(Clone, Debug, PartialEq)]
pub enum LeaseAnswer {
    Renewed {
        ttl_s: i64,
    },
    TimeToLive(LeaseTimeToLiveResponse),
    NotFound,
    /// This member does not lead.
    NotPrimary,
    /// Not within the time it would have taken to be sure.
    NotReady,
}

/// A future that a [`Handler`](super::Handler) hands out.
pub type LeaseFuture<'a> = Pin<Box<dyn Future<Output = LeaseAnswer> + Send + 'a>>;

const NOT_FOUND: &str = "lease not found";
const NOT_PRIMARY: &str = "not a primary lessor";
const NOT_READY: &str = "waiting for node to catch up its applied index has timed out";

/// Answers a peer's question about a lease.
pub(super) async fn serve(shared: &Arc<Shared>, request: Request<Incoming>) -> Response<Answer> {
    if request.method() != Method::POST {
        return Answer::refuse(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    }
    let is_renewal = request.uri().path() == RENEW_PATH;
    let body = match collect(request.into_body(), MAX_REQUEST_BYTES).await {
        Ok(body) => body,
        Err(BodyError::TooLarge(_)) => {
            return Answer::refuse(StatusCode::PAYLOAD_TOO_LARGE, "request body too large");
        }
        Err(BodyError::Broken(_)) => return Answer::refuse(StatusCode::BAD_REQUEST, "error reading body"),
    };
    let question = match is_renewal {
        true => LeaseKeepAliveRequest::decode(body).ok().map(|r| LeaseQuestion::Renew { id: r.id }),
        // Where etcd's message names no request, its server stops; here it is as broken as any other.
        false => LeaseInternalRequest::decode(body)
            .ok()
            .and_then(|r| r.lease_time_to_live_request)
            .map(LeaseQuestion::TimeToLive),
    };
    let Some(question) = question else {
        return Answer::refuse(StatusCode::BAD_REQUEST, "error unmarshalling request");
    };
    let answer = timeout(ANSWER_LIMIT, shared.handler.lease(question)).await.unwrap_or(LeaseAnswer::NotReady);
    let body = match (question, answer) {
        (LeaseQuestion::Renew { id }, LeaseAnswer::Renewed { ttl_s: ttl }) => {
            LeaseKeepAliveResponse { header: None, id, ttl }.encode_to_vec()
        }
        (_, LeaseAnswer::TimeToLive(mut response)) => {
            response.header = Some(ResponseHeader::default());
            LeaseInternalResponse { lease_time_to_live_response: Some(response) }.encode_to_vec()
        }
        (_, LeaseAnswer::NotFound) => return Answer::say(StatusCode::NOT_FOUND, NOT_FOUND),
        (LeaseQuestion::Renew { .. }, LeaseAnswer::NotPrimary) => {
            return Answer::say(StatusCode::BAD_REQUEST, NOT_PRIMARY);
        }
        (_, LeaseAnswer::NotReady) => return Answer::say(StatusCode::REQUEST_TIMEOUT, NOT_READY),
        _ => return Answer::say(StatusCode::INTERNAL_SERVER_ERROR, NOT_PRIMARY),
    };
    Answer::ok("application/protobuf", body)
}

/// Asks leaders about leases, over connections that are used again. Cheap to clone.
#[derive(Clone)]
pub struct LeaseClient(Arc<Pool>);

struct Pool {
    idle: Mutex<BTreeMap<String, Vec<Link>>>,
    slots: Semaphore,
}

/// Why a leader gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    #[error("requested lease not found")]
    NotFound,
    #[error("{0}")]
    Failed(String),
}

impl Default for LeaseClient {
    fn default() -> LeaseClient {
        LeaseClient(Arc::new(Pool { idle: Mutex::default(), slots: Semaphore::new(CONNECTIONS) }))
    }
}

impl LeaseClient {
    /// Renews a lease at the member with these peer URLs; its new TTL.
    pub async fn renew(&self, urls: &[String], id: i64, limit: Duration) -> Result<i64, LeaseError> {
        let request = LeaseKeepAliveRequest { id }.encode_to_vec();
        let body = self.ask(urls, RENEW_PATH, request, limit).await?;
        match LeaseKeepAliveResponse::decode(body) {
            Ok(response) if response.id == id => Ok(response.ttl),
            Ok(_) => Err(LeaseError::Failed("the answer is about another lease".to_owned())),
            Err(error) => Err(LeaseError::Failed(error.to_string())),
        }
    }

    /// Asks the member with these peer URLs what is left of a lease.
    pub async fn time_to_live(
        &self,
        urls: &[String],
        request: LeaseTimeToLiveRequest,
        limit: Duration,
    ) -> Result<LeaseTimeToLiveResponse, LeaseError> {
        let body = LeaseInternalRequest { lease_time_to_live_request: Some(request) }.encode_to_vec();
        let body = self.ask(urls, INTERNAL_PATH, body, limit).await?;
        let response = LeaseInternalResponse::decode(body).map_err(|e| LeaseError::Failed(e.to_string()))?;
        match response.lease_time_to_live_response {
            Some(response) if response.id == request.id => Ok(response),
            _ => Err(LeaseError::Failed("the answer is about another lease".to_owned())),
        }
    }

    /// The first of the URLs that gives a usable answer counts.
    async fn ask(
        &self,
        urls: &[String],
        path: &'static str,
        body: Vec<u8>,
        limit: Duration,
    ) -> Result<Bytes, LeaseError> {
        let body = Bytes::from(body);
        let mut last = "the leader has no peer URL".to_owned();
        for url in urls {
            match within(limit, "the answer about a lease", self.post(url, path, body.clone())).await {
                Ok((StatusCode::OK, answer)) => return Ok(answer),
                Ok((StatusCode::NOT_FOUND, text)) if text.starts_with(NOT_FOUND.as_bytes()) => {
                    return Err(LeaseError::NotFound);
                }
                Ok((status, text)) => last = RequestError::refused(status, &text).to_string(),
                Err(error) => last = error.to_string(),
            }
        }
        Err(LeaseError::Failed(last))
    }

    async fn post(&self, url: &str, path: &'static str, body: Bytes) -> Result<(StatusCode, Bytes), RequestError> {
        let _slot = self.0.slots.acquire().await.map_err(|_| RequestError::NoUrl)?;
        let mut link = match self.idle(url).await {
            Some(link) => link,
            None => Link::open(&url.parse::<PeerUrl>().map_err(|_| RequestError::NoUrl)?).await?,
        };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/protobuf"));
        let response = link.send(Method::POST, path, headers, body).await?;
        let status = response.status();
        let answer = read_body_up_to(response, MAX_ANSWER_BYTES).await?;
        let mut idle = self.0.idle.lock();
        // The leader's URL of a while ago is nobody's business any more.
        idle.retain(|known, _| known == url);
        idle.entry(url.to_owned()).or_default().push(link);
        Ok((status, answer))
    }

    /// A connection whose peer has not closed it.
    async fn idle(&self, url: &str) -> Option<Link> {
        loop {
            let mut link = self.0.idle.lock().get_mut(url)?.pop()?;
            if link.is_usable().await {
                return Some(link);
            }
        }
    }
}
