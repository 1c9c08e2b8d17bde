//! `/debug/vars`, and `/debug/pprof/` with `--enable-pprof`.
//!
//! Go's profiles have no counterpart here, so each of them says that it does not exist, with 501, rather than answer
//! with an empty one: the command line is all that means the same.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use serde_json::json;

use super::plain;
use crate::server::files;
use crate::server::node::Node;

const PROFILES: [&str; 8] = ["allocs", "block", "goroutine", "heap", "mutex", "profile", "threadcreate", "trace"];

pub fn vars(node: Arc<Node>) -> Router {
    Router::new().route("/debug/vars", any(variables)).with_state(node)
}

pub fn pprof() -> Router {
    Router::new()
        .route("/debug/pprof/", any(async || plain(StatusCode::OK, "cmdline\n".to_owned())))
        .route("/debug/pprof/{profile}", any(profile))
}

/// The variables that etcd publishes, in expvar's form, and Go's `cmdline`; there is no `memstats` without Go.
async fn variables(State(node): State<Arc<Node>>) -> Response {
    let status = node.status();
    let id = |id: u64| format!("{id:x}");
    let state = if status.leader == node.member_id { "StateLeader" } else { "StateFollower" };
    let lines = [
        ("cmdline", json!(std::env::args().collect::<Vec<_>>())),
        ("file_descriptor_limit", json!(files::limit().unwrap_or_default())),
        (
            "raft.status",
            json!({
                "id": id(node.member_id), "term": status.term, "vote": id(status.vote), "commit": status.commit,
                "lead": id(status.leader), "raftState": state, "applied": status.applied,
                "leadtransferee": id(status.transferee),
            }),
        ),
    ];
    let lines: Vec<String> = lines.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
    let body = format!("{{\n{}\n}}\n", lines.join(",\n"));
    ([(header::CONTENT_TYPE, "application/json; charset=utf-8")], body).into_response()
}

async fn profile(Path(profile): Path<String>) -> Response {
    match profile.as_str() {
        "cmdline" => plain(StatusCode::OK, std::env::args().collect::<Vec<_>>().join("\0")),
        known if PROFILES.contains(&known) => {
            let body = format!("{known}: not available: this server is not a Go program; use perf\n");
            plain(StatusCode::NOT_IMPLEMENTED, body)
        }
        _ => plain(StatusCode::NOT_FOUND, "404 page not found\n".to_owned()),
    }
}
