//! `/lockstep/backups`: GET lists the scheduled backups of this member's folder, POST takes one now.
//!
//! It is what `lockstepctl backups` asks; etcd has nothing like it. Every answer is JSON, errors as `{"error": …}`.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use serde_json::{Value, json};

use super::only;
use crate::server::backups::{Backup, Backups, Error};

type Asked = State<Option<Arc<Backups>>>;

/// `None` when this member takes none.
pub fn router(backups: Option<Arc<Backups>>) -> Router {
    Router::new().route("/lockstep/backups", any(answer)).with_state(backups)
}

async fn answer(State(backups): Asked, request: Request) -> Response {
    let takes = *request.method() == Method::POST;
    if !takes && let Err(refused) = only(Method::GET, request.method()) {
        return *refused;
    }
    let Some(backups) = backups else {
        let text = "this member takes no backups: it runs without --backup-dir";
        return page(StatusCode::NOT_FOUND, json!({ "error": text }));
    };
    // Once it is begun it is finished, whether the client waits or not.
    let work = move || {
        if takes {
            backups.take_asked().map(|taken| shown(&taken))
        } else {
            backups.list().map(|list| list.iter().map(shown).collect())
        }
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => page(StatusCode::OK, value),
        Ok(Err(error)) => {
            let status = match error {
                Error::NotLeader(_) => StatusCode::MISDIRECTED_REQUEST,
                Error::Busy(_) => StatusCode::CONFLICT,
                Error::TooSoon { .. } => StatusCode::TOO_MANY_REQUESTS,
                Error::NoRoom { .. } => StatusCode::INSUFFICIENT_STORAGE,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            page(status, json!({ "error": error.to_string() }))
        }
        Err(error) => page(StatusCode::INTERNAL_SERVER_ERROR, json!({ "error": error.to_string() })),
    }
}

fn shown((backup, bytes): &(Backup, u64)) -> Value {
    json!({ "name": backup.to_string(), "taken": backup.taken(), "revision": backup.revision, "bytes": bytes })
}

fn page(status: StatusCode, body: Value) -> Response {
    let mut response = (status, format!("{body}\n")).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
