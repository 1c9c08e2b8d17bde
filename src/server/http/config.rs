//! `PUT /config/local/log` of etcd 3.4: changes the log's level while the server runs. etcd 3.5 dropped it; bodies,
//! codes and the names of levels are 3.4.23's.

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use serde_json::{Value, json};

use super::only;
use crate::server::log::{self, LogLevel};

/// Far more than any level's name takes.
const MAX_BODY_BYTES: usize = 64 << 10;

pub fn router() -> Router {
    Router::new().route("/config/local/log", any(change_level))
}

async fn change_level(request: Request) -> Response {
    if let Err(refused) = only(Method::PUT, request.method()) {
        return *refused;
    }
    let body = axum::body::to_bytes(request.into_body(), MAX_BODY_BYTES).await.unwrap_or_default();
    let Some(name) = level_name(&body) else { return refuse("Invalid json body") };
    let Some(level) = parse(&name) else { return refuse(&format!("Invalid log level {name}")) };
    log::set_level(level);
    StatusCode::NO_CONTENT.into_response()
}

/// As Go decodes `struct { Level string }`: the first value of the body, the field's name in any case.
fn level_name(body: &[u8]) -> Option<String> {
    let mut name = String::new();
    match serde_json::Deserializer::from_slice(body).into_iter::<Value>().next()?.ok()? {
        Value::Null => {}
        Value::Object(fields) => {
            for (_, value) in fields.into_iter().filter(|(field, _)| field.eq_ignore_ascii_case("level")) {
                match value {
                    Value::Null => {}
                    Value::String(text) => name = text,
                    _ => return None,
                }
            }
        }
        _ => return None,
    }
    Some(name)
}

/// The names are those of the logger that 3.4 had, our levels are zap's: the nearest that loses nothing.
fn parse(name: &str) -> Option<LogLevel> {
    Some(match name.to_ascii_uppercase().as_str() {
        "CRITICAL" | "C" => LogLevel::Panic,
        "ERROR" | "0" | "E" => LogLevel::Error,
        "WARNING" | "1" | "W" => LogLevel::Warn,
        "NOTICE" | "2" | "N" | "INFO" | "3" | "I" => LogLevel::Info,
        "DEBUG" | "4" | "D" | "TRACE" | "5" | "T" => LogLevel::Debug,
        _ => return None,
    })
}

fn refuse(message: &str) -> Response {
    // Go escapes what a browser could take for markup.
    let body = json!({ "message": message }).to_string();
    let body = body.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e");
    let mut response = (StatusCode::BAD_REQUEST, Body::from(body)).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
