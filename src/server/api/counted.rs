//! Counts every gRPC call on its way to the services: started, messages, bytes, how it ended and how long it took.
//!
//! It reads the five bytes in front of each message and changes nothing. The gateway's calls pass here as well.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use prometheus::IntCounter;
use prost::bytes::{Buf, Bytes};
use tokio::time::Sleep;
use tonic::{Code, Status};

use super::budget::{self, Unfinished};

use crate::server::metrics::{METRICS, MethodMetrics};

pub async fn count(request: Request, next: Next) -> Response {
    let Some(of) = METRICS.method(request.uri().path()) else { return next.run(request).await };
    of.started.inc();
    METRICS.requested(of, request.headers().get("client-api-version").and_then(|v| v.to_str().ok()));
    let call = Call { of, began: Instant::now(), code: None };
    let held = request.extensions().get::<Unfinished>().map(|of| Held { of: of.clone(), bytes: 0, idle: None });
    let request = request.map(|body| {
        let messages = Messages::new(&of.received, &METRICS.grpc_received_bytes);
        Body::new(Counted { body, messages, call: None, held })
    });
    let mut call = call;
    let response = next.run(request).await;
    // Refused before anything was answered: there is no body to tell.
    call.code = response.headers().get("grpc-status").map(|v| Code::from_bytes(v.as_bytes()));
    response.map(|body| {
        let messages = Messages::new(&of.sent, &METRICS.grpc_sent_bytes);
        Body::new(Counted { body, messages, call: Some(call), held: None })
    })
}

/// A call under way; whoever drops it without an end has gone away.
struct Call {
    of: &'static MethodMetrics,
    began: Instant,
    code: Option<Code>,
}

impl Drop for Call {
    fn drop(&mut self) {
        let code = self.code.unwrap_or(Code::Cancelled);
        METRICS.handled(self.of, code, self.began.elapsed().as_secs_f64());
    }
}

/// Finds the messages in the bytes of a gRPC body.
struct Messages {
    count: &'static IntCounter,
    bytes: &'static IntCounter,
    head: u8,
    length: u32,
    /// What has come of a message that is not whole yet.
    begun: usize,
}

const HEAD_BYTES: u8 = 5;

impl Messages {
    fn new(count: &'static IntCounter, bytes: &'static IntCounter) -> Messages {
        Messages { count, bytes, head: 0, length: 0, begun: 0 }
    }

    fn feed(&mut self, mut data: &[u8]) {
        while data.has_remaining() {
            if self.head < HEAD_BYTES {
                let byte = data.get_u8();
                // The first says whether the message is compressed.
                self.length = if self.head == 0 { 0 } else { self.length << 8 | u32::from(byte) };
                self.head += 1;
            } else {
                let taken = data.len().min(self.length as usize);
                data.advance(taken);
                self.length -= taken as u32;
                self.begun += taken;
                self.bytes.inc_by(taken as u64);
            }
            if self.head == HEAD_BYTES && self.length == 0 {
                self.head = 0;
                self.begun = 0;
                self.count.inc();
            }
        }
    }
}

struct Counted {
    body: Body,
    messages: Messages,
    call: Option<Call>,
    held: Option<Held>,
}

/// What a request's unfinished message holds.
struct Held {
    of: Unfinished,
    bytes: usize,
    idle: Option<Pin<Box<Sleep>>>,
}

/// A message of which nothing comes for so long is given up.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

impl Held {
    /// Something came, and now so much is unfinished.
    fn hold(&mut self, bytes: usize) -> Result<(), Status> {
        self.idle = None;
        if bytes < self.bytes {
            self.of.give_back(self.bytes - bytes);
        } else if bytes > self.bytes && !self.of.take(bytes - self.bytes) {
            return Err(budget::exhausted());
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Nothing came yet.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        if self.bytes == 0 {
            return Poll::Pending;
        }
        let idle = self.idle.get_or_insert_with(|| Box::pin(tokio::time::sleep(IDLE_LIMIT)));
        ready!(idle.as_mut().poll(cx));
        Poll::Ready(Status::deadline_exceeded("the rest of the message did not come"))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.of.give_back(self.bytes);
    }
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            let Some(held) = &mut self.held else { return Poll::Pending };
            return held.wait(cx).map(|given_up| Some(Err(axum::Error::new(given_up))));
        };
        if let Some(Ok(frame)) = &frame {
            if let Some(data) = frame.data_ref() {
                self.messages.feed(data);
                let begun = self.messages.begun;
                if let Some(held) = &mut self.held
                    && let Err(refusal) = held.hold(begun)
                {
                    return Poll::Ready(Some(Err(axum::Error::new(refusal))));
                }
            }
            if let (Some(call), Some(trailers)) = (&mut self.call, frame.trailers_ref()) {
                call.code = Status::from_header_map(trailers).map(|status| status.code());
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
