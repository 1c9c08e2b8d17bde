//! `POST /members/promote/ID`: a member asks the leader to promote a learner, for only the leader knows how far that
//! one is. Paths, status codes and texts are etcd's, both ways.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::Shared;
use super::client::{RequestError, post};
use super::conn::PeerUrl;
use super::http::{Answer, only, with_cluster_id};

pub(super) const PREFIX: &str = "/members/promote/";

/// What the leader says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PromoteAnswer {
    /// The members, as etcd's JSON has them.
    Members(Vec<u8>),
    NotFound,
    NotLearner,
    NotReady,
    /// It does not lead, or could not.
    Failed(String),
}

/// A future that a [`Handler`](super::Handler) hands out.
pub type PromoteFuture<'a> = Pin<Box<dyn Future<Output = PromoteAnswer> + Send + 'a>>;

const NOT_FOUND: &str = "membership: ID not found";
const NOT_LEARNER: &str = "membership: can only promote a learner member";
const NOT_READY: &str = "etcdserver: can only promote a learner member which is in sync with leader";

/// Answers a member that asks.
pub(super) async fn serve(shared: &Arc<Shared>, request: Request<Incoming>) -> Response<Answer> {
    if let Err(answer) = only(Method::POST, request.method()) {
        return *answer;
    }
    let id = request.uri().path().strip_prefix(PREFIX).unwrap_or_default();
    let answer = match id.parse().ok().filter(|_| !id.starts_with('+')) {
        None => Answer::say(StatusCode::NOT_FOUND, &format!("member {id} not found in cluster")),
        Some(id) => match shared.handler.promote(id).await {
            PromoteAnswer::Members(json) => Answer::ok("application/json", json),
            PromoteAnswer::NotFound => Answer::say(StatusCode::NOT_FOUND, NOT_FOUND),
            PromoteAnswer::NotLearner => Answer::say(StatusCode::PRECONDITION_FAILED, NOT_LEARNER),
            PromoteAnswer::NotReady => Answer::say(StatusCode::PRECONDITION_FAILED, NOT_READY),
            PromoteAnswer::Failed(error) => {
                tracing::warn!("member-id" = %format_args!("{id:x}"), %error, "failed to promote a member");
                let mut answer = Answer::ok("application/json", br#"{"message":"Internal Server Error"}"#.to_vec());
                *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                answer
            }
        },
    };
    with_cluster_id(shared, answer)
}

/// Asks the member at these URLs to promote a learner; the first that answers counts.
pub async fn promote(urls: &[String], id: u64, limit: Duration) -> PromoteAnswer {
    let mut last = "the leader has no peer URL".to_owned();
    for url in urls {
        let Ok(parsed) = url.parse::<PeerUrl>() else { continue };
        match post(&parsed, &format!("{PREFIX}{id}"), limit).await {
            Ok((status, body)) => {
                let says = |text: &str| body.starts_with(text.as_bytes());
                match status {
                    StatusCode::OK => return PromoteAnswer::Members(body.to_vec()),
                    StatusCode::NOT_FOUND if says(NOT_FOUND) => return PromoteAnswer::NotFound,
                    StatusCode::PRECONDITION_FAILED if says(NOT_READY) => return PromoteAnswer::NotReady,
                    StatusCode::PRECONDITION_FAILED if says(NOT_LEARNER) => return PromoteAnswer::NotLearner,
                    _ => last = RequestError::refused(status, &body).to_string(),
                }
            }
            Err(error) => last = error.to_string(),
        }
    }
    PromoteAnswer::Failed(last)
}
