//! `/version`: clients gate features on it, so it says etcd's versions, not ours.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use serde::Serialize;

use super::{Health, only};
use crate::ETCD_VERSION;

#[derive(Serialize)]
struct Versions {
    etcdserver: &'static str,
    etcdcluster: String,
    storage: String,
}

pub(super) fn router(member: Arc<dyn Health>) -> Router {
    Router::new().route("/version", any(version)).with_state(member)
}

async fn version(State(member): State<Arc<dyn Health>>, method: Method) -> Response {
    if let Err(refused) = only(Method::GET, &method) {
        return *refused;
    }
    let versions = Versions {
        etcdserver: ETCD_VERSION,
        etcdcluster: member.cluster_version().unwrap_or_else(|| "not_decided".to_string()),
        storage: member.storage_version().unwrap_or_else(|| "unknown".to_string()),
    };
    let body = serde_json::to_string(&versions).unwrap_or_default();
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
