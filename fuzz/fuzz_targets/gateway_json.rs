//! Whatever a client sends as JSON to whichever path, the gateway takes it or refuses it; what it takes is a message
//! that prost reads, and what it prints of that message it takes again.
//!
//! The first byte picks the path, the second the way: the decoder alone, or the gateway's router, the body in pieces,
//! with a service behind it that answers with empty messages.
#![no_main]

use std::convert::Infallible;
use std::sync::LazyLock;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use libfuzzer_sys::fuzz_target;
use lockstep::server::http::gateway::{decode, encode, router, routes::ROUTES, scan};
use lockstep_fuzz::messages;
use lockstep_proto::schema::Method;
use tower::ServiceExt;

const MAX_MESSAGE_BYTES: usize = 1 << 15;

static RUNTIME: LazyLock<tokio::runtime::Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime"));

fuzz_target!(|data: &[u8]| {
    let [path, way, json @ ..] = data else { return };
    let (path, service) = ROUTES[usize::from(*path) % ROUTES.len()];
    let method = Method::find(service).expect("a path leads to a method");
    let is_taken = alone(method, json);
    if way & 1 == 1 {
        let is_whole = json.len() <= 2 * MAX_MESSAGE_BYTES && !method.client_streams;
        RUNTIME.block_on(routed(path, *way, json, is_taken.filter(|_| is_whole)));
    }
});

/// Whether the text is taken; `None` when it is not one value.
fn alone(method: &Method, json: &[u8]) -> Option<bool> {
    if scan::check(json).is_err() {
        assert!(serde_json::from_slice::<serde_json::Value>(json).is_err());
        return None;
    }
    let Ok(bytes) = decode::decode(method.input, json.trim_ascii()) else { return Some(false) };
    messages::decode(method.input.name, &bytes).expect("what is taken is a message");
    let mut printed = Vec::new();
    encode::encode(method.input, &bytes, &mut printed).expect("what was read can be printed");
    scan::check(&printed).expect("what is printed is JSON");
    assert_eq!(decode::decode(method.input, &printed).expect("and is read again"), bytes);
    Some(true)
}

async fn routed(path: &str, way: u8, json: &[u8], is_taken: Option<bool>) {
    let pieces: Vec<Result<Vec<u8>, Infallible>> =
        json.chunks(usize::from(way >> 2) * 8 + 1).map(|piece| Ok(piece.to_vec())).collect();
    let mut request = Request::post(format!("/v3/{path}"));
    if way & 2 == 2
        && let Ok(line) = HeaderValue::from_bytes(json.split(|b| *b == b'\n').next().unwrap_or_default())
    {
        request = request.header("grpc-metadata-x", line.clone()).header("grpc-timeout", line);
    }
    let request = request.body(Body::from_stream(tokio_stream::iter(pieces))).expect("a request");
    let services = Router::new().fallback(answer);
    let response = router(services, MAX_MESSAGE_BYTES).oneshot(request).await.expect("a router always answers");
    let status = response.status();
    let body = to_bytes(response.into_body(), usize::MAX).await.expect("an answer ends");
    for line in body.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        scan::check(line).expect("what is answered is JSON");
    }
    let expected = match is_taken {
        Some(true) if way & 2 == 0 => vec![StatusCode::OK],
        Some(false) => vec![StatusCode::BAD_REQUEST],
        _ => vec![
            StatusCode::OK,
            StatusCode::BAD_REQUEST,
            StatusCode::GATEWAY_TIMEOUT,
            StatusCode::INTERNAL_SERVER_ERROR,
            StatusCode::TOO_MANY_REQUESTS,
        ],
    };
    assert!(expected.contains(&status), "{status}: {}", body.escape_ascii());
}

/// Any service: reads the messages, and answers each with an empty one.
async fn answer(request: Request) -> Response {
    let method = Method::find(request.uri().path()).expect("a method is called");
    let body = to_bytes(request.into_body(), usize::MAX).await.expect("messages");
    let mut rest = &body[..];
    let mut answers = Vec::new();
    while let [0, a, b, c, d, more @ ..] = rest {
        let (message, after) = more.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
        messages::decode(method.input.name, message).expect("what is handed on is a message");
        answers.extend([0; 5]);
        rest = after;
    }
    assert!(rest.is_empty());
    let response = Response::builder().header("content-type", "application/grpc");
    response.body(Body::from(Bytes::from(answers))).expect("a response")
}
