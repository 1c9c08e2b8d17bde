//! `/health`, `/livez` and `/readyz`: what load balancers, kubelets and operators probe.
//!
//! A page names its checks in one list; the page, its sub-paths, `?exclude=` and `?verbose` all come from that list.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use serde::Serialize;

use super::{AlarmType, Answer, Health, only, plain, query_values};
use crate::server::log;
use crate::server::metrics::METRICS;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

use Check::{DataCorruption, LinearizableRead, NonLearner, SerializableRead};

const LIVEZ: &[Check] = &[SerializableRead];
const READYZ: &[Check] = &[DataCorruption, SerializableRead, LinearizableRead, NonLearner];

#[derive(Clone)]
struct Probed {
    member: Arc<dyn Health>,
    request_limit: Duration,
}

/// The body of `/health`.
#[derive(Serialize)]
struct HealthPage {
    health: &'static str,
    reason: String,
}

pub(super) fn router(member: Arc<dyn Health>, request_limit: Duration) -> Router {
    let mut router = Router::new().route("/health", any(health));
    for (path, checks) in [("/livez", LIVEZ), ("/readyz", READYZ)] {
        let page = move |State(probed), method: Method, RawQuery(query)| {
            checks_page(path.to_string(), checks, probed, method, query, true)
        };
        router = router.route(path, any(page));
        for (at, check) in checks.iter().enumerate() {
            let path = format!("{path}/{}", check.name());
            let name = path.clone();
            let page = move |State(probed), method: Method, RawQuery(query)| {
                checks_page(name.clone(), &checks[at..=at], probed, method, query, false)
            };
            router = router.route(&path, any(page));
        }
    }
    router.with_state(Probed { member, request_limit })
}

async fn health(State(probed): State<Probed>, method: Method, RawQuery(query): RawQuery) -> Response {
    if let Err(refused) = only(Method::GET, &method) {
        return *refused;
    }
    let excluded = query_values(query.as_deref(), "exclude");
    let serializable = query_values(query.as_deref(), "serializable").first().is_some_and(|v| v == "true");
    let outcome = probed.health(&excluded, serializable).await;
    let counter = if outcome.is_ok() { &METRICS.health_success } else { &METRICS.health_failures };
    counter.inc();
    let page = match &outcome {
        Ok(()) => HealthPage { health: "true", reason: String::new() },
        Err(reason) => HealthPage { health: "false", reason: reason.clone() },
    };
    let body = serde_json::to_string(&page).unwrap_or_default();
    match outcome {
        // No type of its own in etcd either: Go guesses this one from the text.
        Ok(()) => (StatusCode::OK, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response(),
        Err(_) => {
            tracing::warn!(output = body.as_str(), "status-code" = 503, "/health error");
            plain(StatusCode::SERVICE_UNAVAILABLE, format!("{body}\n"))
        }
    }
}

async fn checks_page(
    path: String,
    checks: &'static [Check],
    probed: Probed,
    method: Method,
    query: Option<String>,
    excludable: bool,
) -> Response {
    if let Err(refused) = only(Method::GET, &method) {
        return *refused;
    }
    let mut excluded = if excludable { query_values(query.as_deref(), "exclude") } else { Vec::new() };
    excluded.retain(|name| !name.is_empty());
    let mut report = String::new();
    let mut failed = false;
    for check in checks.iter().filter(|c| !excluded.iter().any(|name| name == c.name())) {
        match probed.run(*check).await {
            Ok(()) => report.push_str(&format!("[+]{} ok\n", check.name())),
            Err(e) => {
                failed = true;
                report.push_str(&format!("[-]{} failed: {e}\n", check.name()));
            }
        }
    }
    excluded.retain(|name| !checks.iter().any(|c| c.name() == name));
    if !excluded.is_empty() {
        let missing = log::json(&excluded);
        tracing::warn!("missing-health-checks" = ?missing, "some health checks cannot be excluded");
    }
    if failed {
        tracing::error!(path, reason = report.as_str(), "status-code" = 503, "Health check error");
        return plain(StatusCode::SERVICE_UNAVAILABLE, format!("{report}\n"));
    }
    let verbose = query.is_some_and(|q| url::form_urlencoded::parse(q.as_bytes()).any(|(key, _)| key == "verbose"));
    plain(StatusCode::OK, if verbose { format!("{report}ok\n") } else { "ok\n".to_string() })
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            DataCorruption => "data_corruption",
            SerializableRead => "serializable_read",
            LinearizableRead => "linearizable_read",
            NonLearner => "non_learner",
        }
    }
}

impl Probed {
    /// `/health`'s three checks, in order: alarms, leader, a read.
    async fn health(&self, excluded: &[String], serializable: bool) -> Result<(), String> {
        for (_, alarm) in self.member.alarms() {
            if excluded.iter().any(|name| name == alarm.as_str_name()) {
                continue;
            }
            return Err(match alarm {
                AlarmType::Nospace => "ALARM NOSPACE".to_string(),
                AlarmType::Corrupt => "ALARM CORRUPT".to_string(),
                AlarmType::None => "ALARM UNKNOWN".to_string(),
            });
        }
        // Not etcd's, which is gone by then.
        if let Some(place) = self.member.full_disk() {
            return Err(format!("NO SPACE LEFT ON DISK: {place}"));
        }
        if !serializable && !self.member.has_leader() {
            return Err("RAFT NO LEADER".to_string());
        }
        let read = if serializable { self.member.serializable_read() } else { self.member.linearizable_read() };
        self.limited(read).await.map_err(|e| format!("RANGE ERROR:{e}"))
    }

    async fn run(&self, check: Check) -> Result<(), String> {
        match check {
            DataCorruption if self.member.alarms().iter().any(|(_, kind)| *kind == AlarmType::Corrupt) => {
                Err("alarm activated: CORRUPT".to_string())
            }
            NonLearner if self.member.is_learner() => Err("not supported for learner".to_string()),
            DataCorruption | NonLearner => Ok(()),
            SerializableRead => self.limited(self.member.serializable_read()).await,
            LinearizableRead => self.limited(self.member.linearizable_read()).await,
        }
    }

    async fn limited(&self, read: Answer<'_>) -> Result<(), String> {
        match tokio::time::timeout(self.request_limit, read).await {
            Ok(outcome) => outcome,
            Err(_) => Err("etcdserver: request timed out".to_string()),
        }
    }
}
