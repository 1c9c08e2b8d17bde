//! `/debug/vars`, and `/debug/pprof/` with `--enable-pprof`.
//!
//! The command line and the CPU profile mean the same here as in Go. What shows Go's run time says that it does not
//! exist, with 501, rather than answer with an empty one.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use serde_json::json;

use super::{plain, query_values};
use crate::server::files;
use crate::server::node::Node;
use crate::server::profile::Sampling;

/// Profiles of Go's run time: nothing here is what they show.
const OF_GO: [&str; 8] = ["allocs", "block", "goroutine", "heap", "mutex", "symbol", "threadcreate", "trace"];
const INDEX: &str = "cmdline\nprofile?seconds=30\n";

/// Go's, unless told otherwise.
const DEFAULT_SECONDS: u64 = 30;
const MAX_SECONDS: u64 = 3600;

pub fn vars(node: Arc<Node>) -> Router {
    Router::new().route("/debug/vars", any(variables)).with_state(node)
}

pub fn pprof() -> Router {
    Router::new()
        .route("/debug/pprof", any(async || (StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, "/debug/pprof/")])))
        .route("/debug/pprof/", any(async || plain(StatusCode::OK, INDEX.to_owned())))
        .route("/debug/pprof/{profile}", any(profile))
}

/// The variables that etcd publishes, in expvar's form, and Go's `cmdline`; there is no `memstats` without Go.
async fn variables(State(node): State<Arc<Node>>) -> Response {
    let status = node.status();
    let id = |id: u64| format!("{id:x}");
    let state = if status.leader == node.member_id { "StateLeader" } else { "StateFollower" };
    let lines = [
        ("cmdline", json!(std::env::args().collect::<Vec<_>>())),
        ("file_descriptor_limit", json!(files::limit(libc::RLIMIT_NOFILE).unwrap_or_default())),
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

async fn profile(Path(profile): Path<String>, RawQuery(query): RawQuery) -> Response {
    match profile.as_str() {
        "cmdline" => plain(StatusCode::OK, std::env::args().collect::<Vec<_>>().join("\0")),
        "profile" => cpu_profile(query.as_deref()).await,
        known if OF_GO.contains(&known) => {
            let body =
                format!("{known}: not available: this server is not a Go program; there is /debug/pprof/profile\n");
            plain(StatusCode::NOT_IMPLEMENTED, body)
        }
        _ => refuse(StatusCode::NOT_FOUND, "Unknown profile"),
    }
}

/// Lasts as long as the client wants, and no longer than it waits.
async fn cpu_profile(query: Option<&str>) -> Response {
    let asked = query_values(query, "seconds").first().and_then(|text| text.parse::<i64>().ok());
    let seconds = asked.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0).unwrap_or(DEFAULT_SECONDS);
    if seconds > MAX_SECONDS {
        return refuse(StatusCode::BAD_REQUEST, &format!("profile duration exceeds {MAX_SECONDS} seconds"));
    }
    let length = Duration::from_secs(seconds);
    let sampling = match Sampling::start(length) {
        Ok(sampling) => sampling,
        Err(reason) => {
            let text = format!("Could not enable CPU profiling: {reason}");
            return refuse(StatusCode::INTERNAL_SERVER_ERROR, &text);
        }
    };
    tokio::time::sleep(length).await;
    match tokio::task::spawn_blocking(|| sampling.finish()).await {
        Ok(Ok(profile)) => {
            let headers = [
                (header::CONTENT_TYPE, "application/octet-stream"),
                (header::CONTENT_DISPOSITION, "attachment; filename=\"profile\""),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            ];
            (headers, profile).into_response()
        }
        Ok(Err(error)) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &format!("the profile was lost: {error}")),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &format!("the profile was lost: {error}")),
    }
}

fn refuse(status: StatusCode, text: &str) -> Response {
    let mut response = plain(status, format!("{text}\n"));
    response.headers_mut().insert("x-go-pprof", HeaderValue::from_static("1"));
    response
}
