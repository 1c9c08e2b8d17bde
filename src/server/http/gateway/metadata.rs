//! Which of a request's headers become gRPC metadata, as grpc-gateway decides it.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use tonic::Status;
use tonic::metadata::MetadataMap;

/// Permanent headers of HTTP: they travel under a prefix.
const PERMANENT: [&str; 24] = [
    "accept",
    "accept-charset",
    "accept-language",
    "accept-ranges",
    "authorization",
    "cache-control",
    "content-type",
    "cookie",
    "date",
    "expect",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-schedule-tag-match",
    "if-unmodified-since",
    "max-forwards",
    "origin",
    "pragma",
    "referer",
    "user-agent",
    "via",
    "warning",
];

/// gRPC's own: no client may set them as metadata.
const RESERVED: [&str; 9] = [
    "content-type",
    "user-agent",
    "te",
    "host",
    "connection",
    "grpc-timeout",
    "grpc-encoding",
    "grpc-status",
    "grpc-message",
];

/// The metadata, and how long the call may take.
pub fn of(headers: &HeaderMap) -> Result<(MetadataMap, Option<Duration>), Status> {
    let limit = match headers.get("grpc-timeout").map(|v| v.to_str().unwrap_or_default()).filter(|v| !v.is_empty()) {
        Some(text) => {
            Some(duration(text).ok_or_else(|| Status::invalid_argument(format!("invalid grpc-timeout: {text}")))?)
        }
        None => None,
    };
    let mut out = HeaderMap::new();
    for (name, value) in headers {
        let name = name.as_str();
        if name == "authorization" {
            out.append(header::AUTHORIZATION, value.clone());
        }
        if PERMANENT.contains(&name) {
            if let Ok(name) = HeaderName::try_from(format!("grpcgateway-{name}")) {
                out.append(name, value.clone());
            }
        } else if let Some(inner) = name.strip_prefix("grpc-metadata-")
            && !RESERVED.contains(&inner)
            && let Ok(name) = HeaderName::try_from(inner)
        {
            out.append(name, value.clone());
        }
    }
    let host = headers.get("x-forwarded-host").or(headers.get(header::HOST));
    if let Some(host) = host {
        out.insert(HeaderName::from_static("x-forwarded-host"), HeaderValue::clone(host));
    }
    Ok((MetadataMap::from_headers(out), limit.filter(|limit| !limit.is_zero())))
}

/// A number and a unit, as gRPC writes time-outs.
fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number.saturating_mul(3_600)),
        "M" => Duration::from_secs(number.saturating_mul(60)),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}
