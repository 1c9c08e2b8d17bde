//! `/metrics`, and the pages of `--listen-metrics-urls`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::any;

use crate::server::metrics::METRICS;
use crate::server::node::Node;
use crate::server::peer::Transport;

pub fn router(node: Arc<Node>, transport: Transport) -> Router {
    Router::new().route("/metrics", any(page)).with_state((node, transport))
}

async fn page(State((node, transport)): State<(Arc<Node>, Transport)>) -> Response {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], METRICS.page(&node, &transport)).into_response()
}
