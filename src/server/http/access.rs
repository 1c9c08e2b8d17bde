//! What every HTTP request passes before it reaches a page: whom it says it talks to (`--host-whitelist`,
//! CVE-2018-5702), from where a browser sends it (`--cors`), and whether its path is in order. gRPC passes by.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::{after, is_grpc, plain};

/// `--cors` and `--host-whitelist`. Empty, or with a `*` among them, they let everybody in.
#[derive(Clone, Debug, Default)]
pub struct Access {
    pub origins: BTreeSet<String>,
    pub hosts: BTreeSet<String>,
}

pub(super) async fn control(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    if let Some(fault) = host_fault(&request) {
        let mut refused = (StatusCode::BAD_REQUEST, format!("400 Bad Request: {fault}")).into_response();
        // As Go, which has not looked at the rest.
        refused.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        return after(request, refused).await;
    }
    if is_grpc(request.headers()) {
        return next.run(request).await;
    }
    let host = host_name(&request);
    if !allows(&access.hosts, &host) {
        tracing::warn!(host = host.as_str(), "rejecting HTTP request to prevent DNS rebinding attacks");
        let refused = plain(StatusCode::MISDIRECTED_REQUEST, format!("{}\n", refusal(&host)));
        return after(request, refused).await;
    }
    let origin = access.origin(request.headers());
    let mut response = if request.method() == Method::OPTIONS {
        after(request, StatusCode::OK.into_response()).await
    } else if let Some(to) = tidy_path(request.uri().path()) {
        let moved = moved(request.method(), &to, request.uri().query());
        after(request, moved).await
    } else {
        next.run(request).await
    };
    if let Some(origin) = origin {
        let headers = response.headers_mut();
        let methods = HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE");
        headers.append(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        headers.append(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let allowed = HeaderValue::from_static("accept, content-type, authorization");
        headers.append(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    }
    response
}

impl Access {
    /// What the answer tells the browser, or nothing.
    fn origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        if allows(&self.origins, "*") {
            return Some(HeaderValue::from_static("*"));
        }
        let origin = headers.get(header::ORIGIN).cloned().unwrap_or(HeaderValue::from_static(""));
        allows(&self.origins, origin.to_str().ok()?).then_some(origin)
    }
}

fn allows(list: &BTreeSet<String>, who: &str) -> bool {
    list.is_empty() || list.contains("*") || list.contains(who)
}

/// What is wrong with the `Host` of an HTTP/1 request, in Go's words.
fn host_fault(request: &Request) -> Option<&'static str> {
    if !matches!(request.version(), Version::HTTP_10 | Version::HTTP_11) {
        return None;
    }
    let is_needed = request.version() == Version::HTTP_11 && request.method() != Method::CONNECT;
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) => is_needed.then_some("missing required Host header"),
        (Some(_), Some(_)) => Some("too many Host headers"),
        (Some(host), None) => {
            let is_sound = |b: &u8| b.is_ascii_alphanumeric() || b"!$%&'()*+,-.:;=[]_~".contains(b);
            (!host.as_bytes().iter().all(is_sound)).then_some("malformed Host header")
        }
    }
}

/// The host a request names, without a port.
fn host_name(request: &Request) -> String {
    let named = request.headers().get(header::HOST).and_then(|v| v.to_str().ok());
    let host = named.or(request.uri().authority().map(|a| a.as_str())).unwrap_or_default();
    without_port(host).to_owned()
}

/// As Go takes an address apart: at its last colon, whatever follows, and not at all if that leaves nonsense.
fn without_port(host: &str) -> &str {
    let Some((name, port)) = host.rsplit_once(':') else { return host };
    let bracketed = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let is_odd = |c: char| matches!(c, '[' | ']') || (c == ':' && bracketed.is_none());
    let bare = bracketed.unwrap_or(name);
    if bare.contains(is_odd) || port.contains(['[', ']']) { host } else { bare }
}

fn refusal(host: &str) -> String {
    format!(
        "\netcd received your request, but the Host header was unrecognized.\n\n\
         To fix this, choose one of the following options:\n\
         - Enable TLS, then any HTTPS request will be allowed.\n\
         - Add the hostname you want to use to the whitelist in settings.\n  \
         - e.g. etcd --host-whitelist {host:?}\n\n\
         This requirement has been added to help prevent \"DNS Rebinding\" attacks (CVE-2018-5702).\n"
    )
}

/// Where Go's router sends a path with empty or dotted parts, or the gateway's bare prefix.
fn tidy_path(path: &str) -> Option<String> {
    if path == "/v3" || path == "/v3beta" {
        return Some("/v3/".to_owned());
    }
    if !path.starts_with('/') || !(path.contains("//") || path.contains("/.")) {
        return None;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let mut tidy = format!("/{}", parts.join("/"));
    if path.ends_with('/') && !parts.is_empty() {
        tidy.push('/');
    }
    (tidy != path).then_some(tidy)
}

fn moved(method: &Method, to: &str, query: Option<&str>) -> Response {
    let to = query.map_or_else(|| to.to_owned(), |query| format!("{to}?{query}"));
    let mut response = StatusCode::MOVED_PERMANENTLY.into_response();
    if matches!(*method, Method::GET | Method::HEAD) {
        let escaped = to.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;");
        *response.body_mut() = Body::from(format!("<a href=\"{escaped}\">Moved Permanently</a>.\n\n"));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    }
    if let Ok(to) = HeaderValue::from_str(&to) {
        response.headers_mut().insert(header::LOCATION, to);
    }
    response
}
