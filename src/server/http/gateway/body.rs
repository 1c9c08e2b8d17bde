//! A request's body, one JSON value after the other, under two limits: one for each value, and one for all bodies that
//! are under way at a time. What a client announces costs nothing; what it sends and does not finish is bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, HttpBody};
use lockstep_proto::schema::Message;
use prost::bytes::{Bytes, BytesMut};
use tokio_stream::StreamExt;
use tonic::Status;

use super::decode;
use super::scan::{Scanner, Step};

/// Bytes of unfinished bodies, of all connections together.
pub const ALL_BODIES_BYTES: usize = 256 << 20;
/// So much of a body costs nobody anything.
const FREE_BYTES: usize = 16 << 10;
/// A body that brings nothing for so long is given up.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// How much may be held, and how much is.
#[derive(Debug)]
pub struct Budget {
    left: AtomicUsize,
}

impl Budget {
    pub fn new(bytes: usize) -> Arc<Budget> {
        Arc::new(Budget { left: AtomicUsize::new(bytes) })
    }
}

/// What one body holds of the budget.
struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Share {
    fn grow_to(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes + FREE_BYTES);
        let taken = more == 0
            || self
                .budget
                .left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(more))
                .is_ok();
        if taken {
            self.bytes += more;
        }
        taken
    }

    fn give_back(&mut self) {
        self.budget.left.fetch_add(std::mem::take(&mut self.bytes), Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Why there is no next value.
pub enum Stop {
    /// The body ended; there is no more.
    End,
    Failed(Status),
}

/// Reads one value after the other.
pub struct Values {
    body: BodyDataStream,
    message: &'static Message,
    /// The largest value.
    limit: usize,
    /// What the body says of its own length.
    announced: Option<usize>,
    buffer: BytesMut,
    /// How much of the buffer was scanned.
    scanned: usize,
    scanner: Scanner,
    share: Share,
}

impl Values {
    pub fn new(body: Body, message: &'static Message, limit: usize, budget: Arc<Budget>) -> Values {
        let announced = body.size_hint().upper().and_then(|n| usize::try_from(n).ok());
        Values {
            body: body.into_data_stream(),
            message,
            limit,
            announced,
            buffer: BytesMut::new(),
            scanned: 0,
            scanner: Scanner::default(),
            share: Share { budget, bytes: 0 },
        }
    }

    /// The next value, as the bytes of its message. An error is in Go's words, without a code: what it means depends
    /// on the call.
    pub async fn next(&mut self) -> Result<Bytes, Stop> {
        loop {
            while let Some(&byte) = self.buffer.get(self.scanned) {
                match self.scanner.step(byte).map_err(|e| Stop::Failed(Status::unknown(e)))? {
                    Step::Before | Step::Inside => self.scanned += 1,
                    Step::Ends => {
                        self.scanned += 1;
                        return self.take();
                    }
                    Step::Ended => return self.take(),
                }
            }
            match tokio::time::timeout(IDLE_LIMIT, self.body.next()).await {
                Ok(Some(Ok(more))) => {
                    let size = self.buffer.len() + more.len();
                    if size > self.limit {
                        let size = self.announced.unwrap_or(size);
                        return Err(Stop::Failed(Status::resource_exhausted(format!(
                            "grpc: received message larger than max ({size} vs. {})",
                            self.limit
                        ))));
                    }
                    if !self.share.grow_to(size) {
                        return Err(Stop::Failed(crate::server::api::too_many_requests()));
                    }
                    self.buffer.extend_from_slice(&more);
                }
                Ok(None) => {
                    return match self.scanner.end() {
                        None => Err(Stop::End),
                        Some(true) => self.take(),
                        Some(false) => Err(Stop::Failed(Status::unknown("unexpected EOF"))),
                    };
                }
                // Whoever breaks off or falls silent reads no answer.
                Ok(Some(Err(_))) | Err(_) => return Err(Stop::Failed(Status::unknown("unexpected EOF"))),
            }
        }
    }

    fn take(&mut self) -> Result<Bytes, Stop> {
        let value = self.buffer.split_to(self.scanned);
        self.scanned = 0;
        self.scanner = Scanner::default();
        let decoded = decode::decode(self.message, value.trim_ascii());
        self.share.give_back();
        decoded.map(Bytes::from).map_err(|e| Stop::Failed(Status::unknown(e)))
    }
}
