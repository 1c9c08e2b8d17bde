//! What a member asks of another: one connection, one request at a time, every step with a time-out and every answer
//! with a limit.
//!
//! The public part is what bootstrap and the cluster-version monitor ask, outside of raft: who the members are, which
//! versions they run.

use std::future::Future;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tracing::warn;

use super::conn::{PeerUrl, connect};
use super::identity::{X_ETCD_CLUSTER_ID, parse_hex, text};

/// The largest answer to anything but a stream.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// The members of a running cluster, as one of them tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteCluster {
    pub cluster_id: u64,
    pub members: Vec<RemoteMember>,
}

/// A member as etcd's JSON has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RemoteMember {
    pub id: u64,
    #[serde(rename = "peerURLs", deserialize_with = "or_null")]
    pub peer_urls: Vec<String>,
    pub name: String,
    #[serde(rename = "clientURLs", deserialize_with = "or_null")]
    pub client_urls: Vec<String>,
    #[serde(rename = "isLearner")]
    pub is_learner: bool,
}

/// The versions a member runs: its own, and the cluster's ("not_decided" before there is one).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Versions {
    #[serde(rename = "etcdserver")]
    pub server: String,
    #[serde(rename = "etcdcluster")]
    pub cluster: String,
}

/// No peer gave a usable answer.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("could not retrieve {what} from the given URLs ({urls}): {last}; are these members running?")]
    NoAnswer { what: &'static str, urls: String, last: String },
    #[error("{url} answered with a cluster that has no members")]
    NoMembers { url: String },
}

/// Asks the peers at these URLs, one after the other, for the members of their cluster; the first usable answer counts.
/// `limit` is for each of them; etcd gives 10 s, and a second less than its election time-out where it only looks.
pub async fn get_cluster_from_peers(urls: &[String], limit: Duration) -> Result<RemoteCluster, ClusterError> {
    let (cluster, url) = ask(urls, "cluster information", "/members", limit, |headers, body| {
        let id = text(headers, &X_ETCD_CLUSTER_ID).and_then(parse_hex).ok_or("it named no cluster id")?;
        let members = serde_json::from_slice::<Option<Vec<RemoteMember>>>(body).map_err(|e| e.to_string())?;
        Ok(RemoteCluster { cluster_id: id, members: members.unwrap_or_default() })
    })
    .await?;
    if cluster.members.is_empty() {
        return Err(ClusterError::NoMembers { url });
    }
    Ok(cluster)
}

/// Asks a member, at any of its peer URLs, for the versions it runs.
pub async fn get_version(urls: &[String], limit: Duration) -> Result<Versions, ClusterError> {
    let parse = |_: &HeaderMap, body: &[u8]| serde_json::from_slice(body).map_err(|e| e.to_string());
    Ok(ask(urls, "the version", "/version", limit, parse).await?.0)
}

async fn ask<T>(
    urls: &[String],
    what: &'static str,
    path: &str,
    limit: Duration,
    parse: impl Fn(&HeaderMap, &[u8]) -> Result<T, String>,
) -> Result<(T, String), ClusterError> {
    let mut last = "there are no URLs".to_owned();
    for url in urls {
        let answer = async {
            let (headers, body) = get(&url.parse::<PeerUrl>().map_err(|e| e.to_string())?, path, limit)
                .await
                .map_err(|e| e.to_string())?;
            parse(&headers, &body)
        };
        match answer.await {
            Ok(answer) => return Ok((answer, url.clone())),
            Err(error) => {
                warn!(address = %format_args!("{url}{path}"), %error, "failed to get {what}");
                last = format!("{url}{path}: {error}");
            }
        }
    }
    Err(ClusterError::NoAnswer { what, urls: urls.join(","), last })
}

/// GETs a path over a connection of its own; the answer must be a 200.
pub(super) async fn get(url: &PeerUrl, path: &str, limit: Duration) -> Result<(HeaderMap, Bytes), RequestError> {
    within(limit, "the answer", async {
        let mut link = Link::open(url).await?;
        let response = link.send(Method::GET, path, HeaderMap::new(), Bytes::new()).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = read_body(response).await?;
        if status != StatusCode::OK {
            return Err(RequestError::refused(status, &body));
        }
        Ok((headers, body))
    })
    .await
}

/// POSTs nothing to a path over a connection of its own; any answer will do.
pub(super) async fn post(url: &PeerUrl, path: &str, limit: Duration) -> Result<(StatusCode, Bytes), RequestError> {
    within(limit, "the answer", async {
        let mut link = Link::open(url).await?;
        let response = link.send(Method::POST, path, HeaderMap::new(), Bytes::new()).await?;
        let status = response.status();
        Ok((status, read_body(response).await?))
    })
    .await
}

/// Why a request to a peer came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error("the peer has no URL that can be dialled")]
    NoUrl,
    #[error(transparent)]
    Dial(#[from] io::Error),
    #[error("{}", chain(.0))]
    Http(#[from] hyper::Error),
    #[error("timed out waiting for {0}")]
    TimedOut(&'static str),
    #[error("the answer is over the limit of {0} bytes")]
    TooLarge(usize),
    /// 412 with these bodies is how a peer says that it is none of ours.
    #[error("{0}")]
    Incompatible(String),
    #[error("the member has been permanently removed from the cluster")]
    Removed,
    #[error("unexpected http status {status}: {body}")]
    Refused { status: StatusCode, body: String },
}

impl RequestError {
    pub fn refused(status: StatusCode, body: &[u8]) -> RequestError {
        const SHOWN: usize = 256;
        let body = String::from_utf8_lossy(&body[..body.len().min(SHOWN)]).trim_end().to_owned();
        match status {
            StatusCode::GONE => RequestError::Removed,
            StatusCode::PRECONDITION_FAILED => RequestError::Incompatible(body),
            _ => RequestError::Refused { status, body },
        }
    }
}

/// A connection to a peer that we dialled. Closes when dropped.
pub(super) struct Link {
    host: http::HeaderValue,
    sender: SendRequest<Full<Bytes>>,
    driver: AbortHandle,
}

impl Link {
    pub async fn open(url: &PeerUrl) -> Result<Link, RequestError> {
        let conn = connect(url).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(conn)).await?;
        // Errors of the connection come out of the request or the body that was under way.
        let driver = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        let host = http::HeaderValue::from_str(url.host()).unwrap_or(http::HeaderValue::from_static("localhost"));
        Ok(Link { host, sender, driver })
    }

    /// Whether another request can be sent: waits for the end of the last one, and is false when the peer has closed.
    pub async fn is_usable(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Sends one request and waits for the head of its answer.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, RequestError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().unwrap_or_else(|_| unreachable!("our own paths are valid"));
        *request.headers_mut() = headers;
        request.headers_mut().insert(http::header::HOST, self.host.clone());
        Ok(self.sender.send_request(request).await?)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Reads a short answer to its end.
pub(super) async fn read_body(response: Response<Incoming>) -> Result<Bytes, RequestError> {
    read_body_up_to(response, MAX_ANSWER_BYTES).await
}

/// Reads an answer to its end, which is near enough.
pub(super) async fn read_body_up_to(response: Response<Incoming>, limit: usize) -> Result<Bytes, RequestError> {
    let mut body = response.into_body();
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            return Err(RequestError::TooLarge(limit));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

pub(super) async fn within<T>(
    limit: Duration,
    what: &'static str,
    work: impl Future<Output = Result<T, RequestError>>,
) -> Result<T, RequestError> {
    timeout(limit, work).await.unwrap_or(Err(RequestError::TimedOut(what)))
}

/// An error with its causes: hyper's own text is only the outermost.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// Go writes an empty list as `null`.
fn or_null<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
