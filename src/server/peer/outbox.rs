//! The way out through a stream: a bounded queue, and the response body that drains it into the connection a peer
//! dialled.
//!
//! The body takes all that is queued at once and encodes it into one buffer, so that a burst of messages is one write.
//! There is no task in between: hyper polls the body, and the body is woken by the sender. A queue belongs to one
//! connection: when that is lost or replaced, what it still held is dropped, never carried over to the peer's next
//! incarnation.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::Frame;
use lockstep_proto::raftpb::Message;
use parking_lot::Mutex;
use tokio::time::{Interval, MissedTickBehavior, interval_at};
use tracing::{info, warn};

use super::codec::{Encoder, MsgAppV2Encoder, link_heartbeat};
use super::remote::Remote;
use super::{READ_TIMEOUT, Shared};

/// Messages a queue holds, as in etcd.
const QUEUE_MESSAGES: usize = 4096;
/// Bytes a queue holds, which etcd does not bound: one message always fits.
const QUEUE_BYTES: usize = 64 * 1024 * 1024;
/// A write is handed over when it has grown so large, so that the first bytes leave while the rest is encoded.
const WRITE_BYTES: usize = 256 * 1024;
/// Three chances to be heard within the reader's time-out.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(READ_TIMEOUT.as_millis() as u64 / 3);

/// The two streams of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamKind {
    MsgApp,
    Message,
}

impl StreamKind {
    pub const ALL: [StreamKind; 2] = [StreamKind::MsgApp, StreamKind::Message];

    /// The name in the URL.
    pub fn path(self) -> &'static str {
        match self {
            StreamKind::MsgApp => "msgapp",
            StreamKind::Message => "message",
        }
    }

    /// The name in the log.
    pub fn name(self) -> &'static str {
        match self {
            StreamKind::MsgApp => "stream MsgApp v2",
            StreamKind::Message => "stream Message",
        }
    }
}

/// The queue of one stream. Holds messages only while a connection is attached.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Counts the connections; the last one is the one that drains the queue.
    generation: u64,
    attached: bool,
    queue: VecDeque<Message>,
    bytes: usize,
    waker: Option<Waker>,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    Queued,
    Full,
    /// No connection: the message was left where it was.
    Detached,
}

struct Attached {
    generation: u64,
    /// There was a connection before.
    replaced: bool,
    /// Messages were queued for it.
    lost: bool,
}

impl Outbox {
    /// Takes a message into the queue; [`Outbox::wake`] sends it off.
    pub fn push(&self, message: &mut Message) -> Pushed {
        let bytes = weight(message);
        let mut state = self.state.lock();
        if !state.attached {
            return Pushed::Detached;
        }
        if state.queue.len() >= QUEUE_MESSAGES || (state.bytes + bytes > QUEUE_BYTES && !state.queue.is_empty()) {
            return Pushed::Full;
        }
        state.bytes += bytes;
        state.queue.push_back(std::mem::take(message));
        Pushed::Queued
    }

    /// Tells the connection that there is something to write.
    pub fn wake(&self) {
        let waker = {
            let mut state = self.state.lock();
            if state.queue.is_empty() { None } else { state.waker.take() }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Cuts the connection off, if there is one.
    pub fn close(&self) {
        let waker = self.state.lock().reset();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// A new connection takes over; the one before it, if there was one, ends.
    fn attach(&self) -> Attached {
        let mut state = self.state.lock();
        let (replaced, lost) = (state.attached, !state.queue.is_empty());
        let waker = state.reset();
        state.attached = true;
        let generation = state.generation;
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        Attached { generation, replaced, lost }
    }

    /// The connection is gone. `None` if it was no longer the current one, else whether messages were lost with it.
    fn detach(&self, generation: u64) -> Option<bool> {
        let mut state = self.state.lock();
        if state.generation != generation || !state.attached {
            return None;
        }
        let lost = !state.queue.is_empty();
        state.reset();
        Some(lost)
    }

    /// Moves all that is queued into `batch`. `Ready(false)` when the connection is no longer the current one.
    fn poll_take(&self, generation: u64, batch: &mut VecDeque<Message>, cx: &Context<'_>) -> Poll<bool> {
        let mut state = self.state.lock();
        if state.generation != generation || !state.attached {
            return Poll::Ready(false);
        }
        if state.queue.is_empty() {
            if state.waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
                state.waker = Some(cx.waker().clone());
            }
            return Poll::Pending;
        }
        std::mem::swap(batch, &mut state.queue);
        state.bytes = 0;
        Poll::Ready(true)
    }
}

impl State {
    /// Forgets the connection and its queue; the waker wakes it up to its end.
    fn reset(&mut self) -> Option<Waker> {
        self.generation += 1;
        self.attached = false;
        self.queue = VecDeque::new();
        self.bytes = 0;
        self.waker.take()
    }
}

/// The body of the response to a stream request: never ends by itself.
pub(super) struct StreamBody {
    shared: Arc<Shared>,
    peer: Arc<Remote>,
    kind: StreamKind,
    generation: u64,
    encoder: Encoder,
    heartbeat: Interval,
    batch: VecDeque<Message>,
    buffer: BytesMut,
}

impl StreamBody {
    /// Attaches a connection to the peer's queue.
    pub fn attach(shared: Arc<Shared>, peer: Arc<Remote>, kind: StreamKind) -> StreamBody {
        let Attached { generation, replaced, lost } = peer.outbox(kind).attach();
        let (local, remote) = (shared.identity.member(), peer.hex());
        if replaced {
            warn!(
                "stream-writer-type" = kind.name(), "local-member-id" = %local, "remote-peer-id" = %remote,
                "closed TCP streaming connection with remote peer"
            );
        }
        info!(
            "stream-writer-type" = kind.name(), "local-member-id" = %local, "remote-peer-id" = %remote,
            "established TCP streaming connection with remote peer"
        );
        if lost {
            peer.lost_messages(&shared);
        }
        peer.status.activate();
        let mut heartbeat = interval_at(tokio::time::Instant::now() + HEARTBEAT_INTERVAL, HEARTBEAT_INTERVAL);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let encoder = match kind {
            StreamKind::MsgApp => Encoder::MsgAppV2(MsgAppV2Encoder::default()),
            StreamKind::Message => Encoder::Message,
        };
        let (batch, buffer) = (VecDeque::new(), BytesMut::new());
        StreamBody { shared, peer, kind, generation, encoder, heartbeat, batch, buffer }
    }

    /// The next write, or `None` when the connection was replaced or the peer removed.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        if self.batch.is_empty() {
            let taken = self.peer.outbox(self.kind).poll_take(self.generation, &mut self.batch, cx);
            if taken == Poll::Ready(false) {
                return Poll::Ready(None);
            }
        }
        if Pin::new(&mut self.heartbeat).poll_tick(cx).is_ready() {
            self.encoder.encode(&link_heartbeat(), &mut self.buffer);
            // The tick is spent: ask for the next one, or nothing wakes this task for it.
            if Pin::new(&mut self.heartbeat).poll_tick(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        while self.buffer.len() < WRITE_BYTES {
            let Some(message) = self.batch.pop_front() else { break };
            self.encoder.encode(&message, &mut self.buffer);
        }
        if self.buffer.is_empty() {
            return Poll::Pending;
        }
        self.peer.counters.sent_bytes.fetch_add(self.buffer.len() as u64, Ordering::Relaxed);
        Poll::Ready(Some(Frame::data(self.buffer.split().freeze())))
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        let current = self.peer.outbox(self.kind).detach(self.generation);
        if current.is_some() {
            warn!(
                "stream-writer-type" = self.kind.name(), "local-member-id" = %self.shared.identity.member(),
                "remote-peer-id" = %self.peer.hex(), "lost TCP streaming connection with remote peer"
            );
            self.peer.status.deactivate(self.kind.name(), "write", "the connection was closed");
        }
        if current == Some(true) || !self.batch.is_empty() {
            self.peer.lost_messages(&self.shared);
        }
    }
}

/// About what a message costs in memory; exact sizes are worked out once, when it is encoded.
fn weight(message: &Message) -> usize {
    const FIXED: usize = 128;
    let entries: usize = message.entries.iter().map(|entry| FIXED + entry.data().len()).sum();
    FIXED + entries + message.context().len()
}
