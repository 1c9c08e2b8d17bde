//! The JSON gateway: `/v3/...` for every method of every service, as grpc-gateway 1 and Go's jsonpb answer in etcd 3.5.
//!
//! A request's JSON becomes the bytes of its message ([`decode`]), which go through the gRPC router as a client's would
//! ([`call`]); the answer's bytes become JSON ([`encode`]). What JSON and the messages have to do with each other is in
//! the tables of `lockstep_proto::schema`, so no service is known here: [`routes`] has a line for each path.

mod body;
mod call;
pub mod decode;
pub mod encode;
mod metadata;
mod print;
pub mod routes;
pub mod scan;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderName, HeaderValue, Method as HttpMethod, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use futures_util::{StreamExt, stream};
use lockstep_proto::schema::Method;
use prost::bytes::Bytes;
use tonic::{Code, Status};

use self::body::{Budget, Stop, Values};
use self::call::Unread;
use self::print::Printer;
use super::{after, plain};
use crate::server::metrics::METRICS;

/// Base64 and white space may double what a message takes.
const JSON_FACTOR: usize = 2;
/// An answer up to so many bytes is printed at once ...
const WHOLE_BYTES: u64 = 256 << 10;
/// ... and a longer one in pieces like this.
const PIECE_BYTES: usize = 64 << 10;

#[derive(Clone)]
struct Gateway {
    services: Router,
    /// Largest JSON value of a request.
    max_value_bytes: usize,
    bodies: Arc<Budget>,
}

/// `/v3/` and `/v3beta/`. `services` is the router that serves gRPC; it takes messages of `max_message_bytes`.
pub fn router(services: Router, max_message_bytes: usize) -> Router {
    let gateway = Gateway {
        services,
        max_value_bytes: max_message_bytes.saturating_mul(JSON_FACTOR),
        bodies: Budget::new(body::ALL_BODIES_BYTES),
    };
    Router::new()
        .route("/v3/", any(not_found))
        .route("/v3beta/", any(not_found))
        .route("/v3/{*path}", any(handle))
        .route("/v3beta/{*path}", any(handle))
        .with_state(gateway)
}

async fn not_found(request: Request) -> Response {
    after(request, plain(StatusCode::NOT_FOUND, "Not Found\n".to_owned())).await
}

async fn handle(State(gateway): State<Gateway>, Path(path): Path<String>, request: Request) -> Response {
    let Some((_, grpc_path)) = routes::ROUTES.iter().find(|(known, _)| *known == path) else {
        return not_found(request).await;
    };
    if request.method() != HttpMethod::POST {
        let refused = plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n".to_owned());
        return after(request, refused).await;
    }
    METRICS.gateway_requests.inc();
    let Some(method) = Method::find(grpc_path) else { return not_found(request).await };
    match gateway.answer(method, request).await {
        Ok(response) => response,
        Err(status) => refusal(&status),
    }
}

impl Gateway {
    async fn answer(&self, method: &'static Method, request: Request) -> Result<Response, Status> {
        let (head, body) = request.into_parts();
        let (metadata, limit) = metadata::of(&head.headers)?;
        let mut values = Values::new(body, method.input, self.max_value_bytes, self.bodies.clone());
        let first = match values.next().await {
            Ok(first) => Some(first),
            Err(Stop::End) => None,
            Err(Stop::Failed(status)) if method.client_streams || status.code() != Code::Unknown => return Err(status),
            Err(Stop::Failed(status)) => return Err(Status::invalid_argument(status.message())),
        };
        if !method.client_streams && !method.server_streams {
            drop(values);
            let calling = call::call_once(self.services.clone(), method, metadata, first.unwrap_or_default());
            return within(limit, async { answer_once(method, calling.await?).await }).await;
        }
        let calling = async {
            if method.client_streams {
                // As in etcd: a value that cannot be read ends the requests, not the answers.
                let open = first.is_some();
                let messages = stream::unfold((first, values), move |(first, mut values)| async move {
                    let message = match first {
                        Some(first) => first,
                        None if open => values.next().await.ok()?,
                        None => return None,
                    };
                    Some((message, (None, values)))
                });
                call::call(self.services.clone(), method, metadata, messages).await
            } else {
                drop(values);
                call::call(self.services.clone(), method, metadata, stream::iter([first.unwrap_or_default()])).await
            }
        };
        within(limit, async { answer_stream(method, calling.await?).await }).await
    }
}

async fn within(
    limit: Option<Duration>,
    answer: impl Future<Output = Result<Response, Status>>,
) -> Result<Response, Status> {
    let Some(limit) = limit else { return answer.await };
    let late = || Status::deadline_exceeded("context deadline exceeded");
    tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| Err(late()))
}

/// An answer of one message: printed at once, or, where it is long, as fast as the client takes it.
async fn answer_once(method: &'static Method, answer: Unread) -> Result<Response, Status> {
    let mut json = Vec::new();
    if answer.length <= WHOLE_BYTES {
        encode::encode(method.output, &answer.whole().await?, &mut json).ok_or_else(|| unreadable(method))?;
        return Ok(answered(json.into()));
    }
    let printer = Printer::new(method.output, answer.length, &mut json);
    let pieces = stream::try_unfold((printer, answer, json), move |(mut printer, mut answer, mut json)| async move {
        while json.len() < PIECE_BYTES {
            let Some(read) = answer.next().await? else { break };
            // Other requests of this thread go on meanwhile.
            let printing = tokio::task::spawn_blocking(move || {
                let printed = printer.feed(&read, &mut json);
                (printed, printer, json)
            });
            let printed;
            (printed, printer, json) =
                printing.await.map_err(|e| Status::internal(format!("the answer was lost: {e}")))?;
            printed.ok_or_else(|| unreadable(method))?;
        }
        if json.is_empty() {
            // A client must not take the part for the whole.
            return if printer.is_done() { Ok(None) } else { Err(unreadable(method)) };
        }
        Ok::<_, Status>(Some((Bytes::from(json), (printer, answer, Vec::new()))))
    });
    Ok(answered(Body::from_stream(pieces)))
}

fn unreadable(method: &Method) -> Status {
    Status::internal(format!("the answer of {} cannot be read", method.path))
}

/// The head waits for the first message, as in etcd: until then an error has a status of its own.
async fn answer_stream(method: &'static Method, answers: tonic::Streaming<Bytes>) -> Result<Response, Status> {
    let mut chunks = Box::pin(answers.map(move |answer| match answer {
        Ok(message) => chunk(method, &message),
        Err(status) => Err(status),
    }));
    let first = chunks.next().await;
    let is_empty = first.is_none();
    let code = match &first {
        Some(Err(status)) => http_code(status.code()),
        _ => StatusCode::OK,
    };
    let rest = stream::iter(first)
        .chain(chunks)
        .map(|chunk| Ok::<_, std::convert::Infallible>(chunk.unwrap_or_else(|status| stream_error(&status))));
    let mut response = answered(Body::from_stream(rest));
    *response.status_mut() = code;
    if is_empty {
        // An end without a message has no head of its own.
        response.headers_mut().remove(GRPC_TYPE);
    }
    Ok(response)
}

fn chunk(method: &Method, message: &[u8]) -> Result<Bytes, Status> {
    let mut json = b"{\"result\":".to_vec();
    encode::encode(method.output, message, &mut json)
        .ok_or_else(|| Status::internal(format!("an answer of {} cannot be read", method.path)))?;
    json.extend_from_slice(b"}\n");
    Ok(json.into())
}

const GRPC_TYPE: HeaderName = HeaderName::from_static("grpc-metadata-content-type");

fn answered(body: Body) -> Response {
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(GRPC_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn refusal(status: &Status) -> Response {
    let mut body = b"{\"error\":".to_vec();
    encode::string(status.message(), &mut body);
    body.extend_from_slice(format!(",\"code\":{},\"message\":", status.code() as i32).as_bytes());
    encode::string(status.message(), &mut body);
    body.push(b'}');
    let mut response = (http_code(status.code()), body).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn stream_error(status: &Status) -> Bytes {
    let http = http_code(status.code());
    let mut body = format!("{{\"error\":{{\"grpc_code\":{},\"http_code\":{},", status.code() as i32, http.as_u16());
    body.push_str("\"message\":");
    let mut body = body.into_bytes();
    encode::string(status.message(), &mut body);
    body.extend_from_slice(b",\"http_status\":");
    encode::string(http.canonical_reason().unwrap_or_default(), &mut body);
    body.extend_from_slice(b"}}");
    body.into()
}

/// What grpc-gateway makes of gRPC's codes.
fn http_code(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Cancelled => StatusCode::REQUEST_TIMEOUT,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// As `%q` of the Go that etcd 3.5.1 was built with writes a string.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0b' => out.push_str("\\v"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..' ' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            '\u{7f}'..='\u{a0}' | '\u{ad}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
