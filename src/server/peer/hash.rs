//! `GET /members/hashkv`: a member tells a peer the hash of its history. Bodies are etcd's JSON, both ways.
//!
//! A question is a few bytes; whatever else a peer sends is refused, and an answer is read up to a limit.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::Shared;
use super::client::{Link, RequestError, read_body, within};
use super::conn::PeerUrl;
use super::http::{Answer, collect};

pub(super) const PATH: &str = "/members/hashkv";
const MAX_REQUEST_BYTES: usize = 4 * 1024;

/// What a member says of its history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerHash {
    pub cluster_id: u64,
    pub member_id: u64,
    /// The newest revision that it has.
    pub revision: i64,
    pub raft_term: u64,
    pub hash: u32,
    pub compact_revision: i64,
    pub hash_revision: i64,
}

/// Why a peer has no hash for us.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    #[error("the peer has compacted that revision")]
    Compacted,
    #[error("the peer has not got that revision yet")]
    FutureRev,
    #[error("{0}")]
    Failed(String),
}

/// A future that a [`Handler`](super::Handler) hands out.
pub type HashFuture<'a> = Pin<Box<dyn Future<Output = Result<PeerHash, String>> + Send + 'a>>;

/// Go leaves out what is zero.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct Question {
    revision: i64,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct Told {
    header: Header,
    hash: u32,
    compact_revision: i64,
    hash_revision: i64,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct Header {
    cluster_id: u64,
    member_id: u64,
    revision: i64,
    raft_term: u64,
}

/// Answers a peer that asks.
pub(super) async fn serve(shared: &Arc<Shared>, request: Request<Incoming>) -> Response<Answer> {
    let Ok(body) = collect(request.into_body(), MAX_REQUEST_BYTES).await else {
        return Answer::refuse(StatusCode::BAD_REQUEST, "error reading body");
    };
    let Ok(question) = serde_json::from_slice::<Question>(&body) else {
        return Answer::refuse(StatusCode::BAD_REQUEST, "error unmarshalling request");
    };
    match shared.handler.hash_kv(question.revision).await {
        Ok(hash) => {
            let header = Header {
                cluster_id: hash.cluster_id,
                member_id: hash.member_id,
                revision: hash.revision,
                raft_term: hash.raft_term,
            };
            let PeerHash { hash, compact_revision, hash_revision, .. } = hash;
            let told = Told { header, hash, compact_revision, hash_revision };
            Answer::ok("application/json", serde_json::to_vec(&told).expect("numbers"))
        }
        Err(reason) => Answer::refuse(StatusCode::BAD_REQUEST, &reason),
    }
}

/// Asks the member with these peer URLs; the first that answers counts.
pub async fn get_hash_kv(urls: &[String], revision: i64, limit: Duration) -> Result<PeerHash, HashError> {
    let mut last = HashError::Failed("it has no peer URL".to_owned());
    for url in urls {
        match within(limit, "the hash", ask(url, revision)).await {
            Ok(told) => {
                return Ok(PeerHash {
                    cluster_id: told.header.cluster_id,
                    member_id: told.header.member_id,
                    revision: told.header.revision,
                    raft_term: told.header.raft_term,
                    hash: told.hash,
                    compact_revision: told.compact_revision,
                    hash_revision: told.hash_revision,
                });
            }
            Err(error) => {
                warn!(
                    "requested-revision" = revision, "remote-peer-endpoint" = %url, error = %error,
                    "failed hash kv request"
                );
                let text = error.to_string();
                last = match text {
                    _ if text.contains("required revision has been compacted") => HashError::Compacted,
                    _ if text.contains("required revision is a future revision") => HashError::FutureRev,
                    _ => HashError::Failed(text),
                };
            }
        }
    }
    Err(last)
}

async fn ask(url: &str, revision: i64) -> Result<Told, RequestError> {
    let mut link = Link::open(&url.parse::<PeerUrl>().map_err(|_| RequestError::NoUrl)?).await?;
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let question = Bytes::from(serde_json::to_vec(&Question { revision }).expect("a number"));
    let response = link.send(Method::GET, PATH, headers, question).await?;
    let status = response.status();
    let body = read_body(response).await?;
    if status != StatusCode::OK {
        return Err(RequestError::refused(status, &body));
    }
    serde_json::from_slice(&body)
        .map_err(|e| RequestError::Refused { status, body: format!("the answer cannot be read: {e}") })
}
