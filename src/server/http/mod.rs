//! The HTTP faces of the client port that are not gRPC: the JSON gateway, metrics, health, version and debug pages.
//!
//! The member is seen through the [`Health`] trait only. The router of [`router`] sets no fallback, so that it merges
//! with tonic's; [`fallback`] is the one for the merged router.

pub mod access;
pub mod backups;
pub mod config;
pub mod debug;
pub mod gateway;
mod health;
pub mod metrics;
mod version;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

pub use crate::proto::etcdserverpb::AlarmType;

/// A future a [`Health`] hands out.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>;

/// What the health and version pages ask of a member.
pub trait Health: Send + Sync + 'static {
    fn has_leader(&self) -> bool;
    /// Raised alarms: member id and kind.
    fn alarms(&self) -> Vec<(u64, AlarmType)>;
    fn is_learner(&self) -> bool;
    /// `3.7.0`, or `None` before the cluster has agreed on one.
    fn cluster_version(&self) -> Option<String>;
    /// Version of the store's schema, or `None` before it is known.
    fn storage_version(&self) -> Option<String>;
    /// Where there is no space left for what must be written.
    fn full_disk(&self) -> Option<String>;
    /// Reads one key from this member's store; the error is what a client would be told.
    fn serializable_read(&self) -> Answer<'_>;
    /// The same, agreed on by a quorum.
    fn linearizable_read(&self) -> Answer<'_>;
}

/// `/health`, `/livez`, `/readyz` with their sub-paths, and `/version`. A read that takes longer than `request_limit`
/// (etcd: 5 s and twice the election timeout) has failed.
pub fn router(member: Arc<dyn Health>, request_limit: Duration) -> Router {
    health::router(member.clone(), request_limit).merge(version::router(member))
}

/// What passes `access` on its way to `pages`: everything but gRPC.
pub fn guarded(pages: Router, access: access::Access) -> Router {
    pages.layer(axum::middleware::from_fn_with_state(Arc::new(access), access::control))
}

/// What nobody else answers: an unknown gRPC service, or Go's 404 page.
pub async fn fallback(request: Request) -> Response {
    if !is_grpc(request.headers()) {
        return after(request, plain(StatusCode::NOT_FOUND, "404 page not found\n".to_string())).await;
    }
    let path = request.uri().path();
    let message = match path.strip_prefix('/').and_then(|p| p.rsplit_once('/')) {
        Some((service, _)) => format!("unknown service {service}"),
        None => format!("malformed method name: {path:?}"),
    };
    tonic::Status::unimplemented(message).into_http::<Body>().into_response()
}

fn is_grpc(headers: &axum::http::HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"application/grpc"))
}

/// `response`, once the rest of a small body was read: to close on what a client still sends may cost it the answer.
async fn after(request: Request, response: Response) -> Response {
    const MOST_BYTES: usize = 256 << 10;
    const LIMIT: Duration = Duration::from_secs(5);
    // A larger or slower one is cut off.
    let _ = tokio::time::timeout(LIMIT, axum::body::to_bytes(request.into_body(), MOST_BYTES)).await;
    response
}

/// A page as Go's `http.Error` and our checks send it.
fn plain(status: StatusCode, body: String) -> Response {
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// etcd's 405: a page has one method, and those for GET have not even HEAD.
fn only(wanted: Method, method: &Method) -> Result<(), Box<Response>> {
    if *method == wanted {
        return Ok(());
    }
    let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n".to_string());
    let name = HeaderValue::from_str(wanted.as_str()).expect("a method is a header value");
    response.headers_mut().insert(header::ALLOW, name);
    Err(Box::new(response))
}

/// The values of one query parameter, in order; a parameter that cannot be decoded counts as absent.
fn query_values(query: Option<&str>, name: &str) -> Vec<String> {
    let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    pairs.filter(|(key, _)| key == name).map(|(_, value)| value.into_owned()).collect()
}
