//! Where watch streams meet what the member publishes: one [`Watching`] for each thread that serves clients.
//!
//! Apply sends one message a publish to those that have streams, and never waits. What a thread has not taken yet is
//! bounded: beyond that the messages are left out, and its watchers catch up from a view, as they do when a client is
//! slow. On the thread itself the machine ([`Watchers`]) is stepped under a lock that nobody else wants, by the streams
//! and by [`Watching::run`].

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Waker;
use std::time::Duration;

use lockstep_proto::etcdserverpb::WatchRequest;
use parking_lot::Mutex;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use tokio::sync::{Notify, mpsc};

use super::desk::Desk;
use super::host::RealClock;
use super::node::Node;
use crate::member::apply::Change;
use crate::member::error::EtcdError;
use crate::member::watch::{Effect, Input, Options, Response, StreamId, Totals, Watchers, What};
use crate::mvcc::View;
use crate::mvcc::read::Read;
use crate::ports::clock::{Clock, Instant};

/// How watching is set up, the same on every thread.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub options: Options,
    /// Of the jitter of progress notifications; each thread has a stream of its own.
    pub seed: u64,
    /// Streams that want a leader end when there has been none for so long.
    pub leaderless_ms: u64,
}

/// Changes that may wait for a thread before it is left to catch up.
const BACKLOG: usize = 10_000;
const TICK: Duration = Duration::from_millis(100);

/// See the head of this file.
pub struct Watching {
    state: Mutex<State>,
    is_subscribed: AtomicBool,
    published: mpsc::UnboundedSender<Published>,
    /// Changes on their way to this thread.
    backlog: AtomicUsize,
    /// Some were left out.
    has_missed: AtomicBool,
    /// There is catching up to do, or a first stream.
    work: Notify,
    clock: RealClock,
    leaderless_ms: u64,
}

struct State {
    watchers: Watchers,
    outboxes: HashMap<StreamId, Outbox>,
    opened: StreamId,
    is_catch_up_due: bool,
    leaderless_since: Option<Instant>,
    is_stopped: bool,
    sent_events: u64,
    pending_events: u64,
}

/// What is going on, for `/metrics`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Served {
    pub totals: Totals,
    /// Events handed to connections, each as often as it was sent.
    pub sent_events: u64,
    /// Events that wait for a connection to take them.
    pub pending_events: u64,
}

/// What a stream will be sent.
#[derive(Default)]
struct Outbox {
    responses: VecDeque<Response>,
    end: Option<End>,
    waker: Option<Waker>,
    wants_leader: bool,
    /// Events among the responses.
    events: u64,
}

/// Why a stream ends before its client wants it to.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    Refused(EtcdError),
    /// The store cannot be read.
    Failed(String),
}

struct Published {
    view: Arc<View>,
    changes: Arc<[Change]>,
}

/// The receiving end, for [`Watching::run`].
pub struct Inbox(mpsc::UnboundedReceiver<Published>);

/// What [`Watching::take`] found.
pub enum Taken {
    Some,
    /// Nothing yet: the waker is called when there is.
    Nothing,
    End(End),
}

impl Watching {
    pub fn new(number: usize, setup: Setup, clock: RealClock) -> (Arc<Watching>, Inbox) {
        let mut rng = ChaCha8Rng::seed_from_u64(setup.seed);
        rng.set_stream(number as u64);
        let (published, inbox) = mpsc::unbounded_channel();
        let state = State {
            watchers: Watchers::new(setup.options, rng),
            outboxes: HashMap::new(),
            opened: 0,
            is_catch_up_due: false,
            leaderless_since: None,
            is_stopped: false,
            sent_events: 0,
            pending_events: 0,
        };
        let watching = Watching {
            state: Mutex::new(state),
            is_subscribed: AtomicBool::new(false),
            published,
            backlog: AtomicUsize::new(0),
            has_missed: AtomicBool::new(false),
            work: Notify::new(),
            clock,
            leaderless_ms: setup.leaderless_ms,
        };
        (Arc::new(watching), Inbox(inbox))
    }

    /// Serves the streams of the calling thread, for ever.
    pub async fn run(self: Arc<Watching>, node: Arc<Node>, mut inbox: Inbox) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // In any order: who is behind has a turn however much is published.
            tokio::select! {
                published = inbox.0.recv() => match published {
                    Some(published) => self.take_published(published),
                    None => return,
                },
                _ = self.work.notified() => self.catch_up(&node),
                _ = tick.tick(), if self.is_subscribed() => self.tick(&node),
            }
        }
    }

    /// Opens a stream. Requests and responses go through the returned id until [`Watching::close`].
    pub fn open(&self, node: &Node, wants_leader: bool) -> Result<StreamId, EtcdError> {
        let mut state = self.state.lock();
        if state.is_stopped {
            return Err(EtcdError::Stopped);
        }
        let now = self.clock.now();
        if state.outboxes.is_empty() {
            let view = node.subscribe(self);
            state.leaderless_since = None;
            state.step(self, now, Input::Published { view, changes: Arc::default() });
            // For the tick to begin.
            self.work.notify_one();
        }
        state.opened += 1;
        let stream = state.opened;
        state.outboxes.insert(stream, Outbox { wants_leader, ..Outbox::default() });
        state.step(self, now, Input::Open { stream });
        Ok(stream)
    }

    pub fn close(&self, stream: StreamId) {
        let mut state = self.state.lock();
        let unsent = state.outboxes.remove(&stream).map_or(0, |outbox| outbox.events);
        state.pending_events -= unsent;
        state.step(self, self.clock.now(), Input::Close { stream });
        if state.outboxes.is_empty() {
            self.is_subscribed.store(false, Ordering::Relaxed);
        }
    }

    pub fn request(&self, node: &Node, stream: StreamId, request: WatchRequest) {
        let mut state = self.state.lock();
        let newest = node.local_view().rev();
        state.step(self, self.clock.now(), Input::Request { stream, request, newest });
    }

    /// Says that what was taken before, of this charge in all, has been sent, and takes everything that waits.
    pub fn take(&self, stream: StreamId, charge: usize, into: &mut VecDeque<Response>, waker: &Waker) -> Taken {
        let mut state = self.state.lock();
        if charge > 0 {
            state.step(self, self.clock.now(), Input::Taken { stream, charge });
        }
        let Some(outbox) = state.outboxes.get_mut(&stream) else { return Taken::End(End::Refused(EtcdError::Stopped)) };
        if let Some(end) = &outbox.end {
            return Taken::End(end.clone());
        }
        if outbox.responses.is_empty() {
            if !outbox.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
                outbox.waker = Some(waker.clone());
            }
            return Taken::Nothing;
        }
        std::mem::swap(&mut outbox.responses, into);
        let events = std::mem::take(&mut outbox.events);
        state.sent_events += events;
        state.pending_events -= events;
        Taken::Some
    }

    pub fn served(&self) -> Served {
        let state = self.state.lock();
        let State { sent_events, pending_events, .. } = *state;
        Served { totals: state.watchers.totals(), sent_events, pending_events }
    }

    /// Ends all streams; none is opened any more. From any thread.
    pub fn stop(&self) {
        let mut state = self.state.lock();
        state.is_stopped = true;
        for outbox in state.outboxes.values_mut() {
            outbox.end(End::Refused(EtcdError::Stopped));
        }
    }

    /// Called under the lock that publishing takes, so that no publish is missed in between.
    pub(super) fn subscribe(&self) {
        self.is_subscribed.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_subscribed(&self) -> bool {
        self.is_subscribed.load(Ordering::Relaxed)
    }

    /// From the apply thread.
    pub(super) fn publish(&self, view: Arc<View>, changes: Arc<[Change]>) {
        if self.backlog.load(Ordering::Relaxed) > BACKLOG {
            self.has_missed.store(true, Ordering::Relaxed);
            return;
        }
        self.backlog.fetch_add(changes.len(), Ordering::Relaxed);
        let _ = self.published.send(Published { view, changes });
    }

    fn take_published(&self, published: Published) {
        let Published { view, changes } = published;
        let mut state = self.state.lock();
        self.backlog.fetch_sub(changes.len(), Ordering::Relaxed);
        state.step(self, self.clock.now(), Input::Published { view, changes });
    }

    /// One piece; what else waits on this thread has its turn before the next.
    fn catch_up(&self, node: &Node) {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.is_catch_up_due) {
            state.step(self, self.clock.now(), Input::CatchUp(node.local_view()));
        }
    }

    fn tick(&self, node: &Node) {
        let mut state = self.state.lock();
        let now = self.clock.now();
        if self.has_missed.swap(false, Ordering::Relaxed) {
            state.step(self, now, Input::Published { view: node.local_view(), changes: Arc::default() });
        }
        state.step(self, now, Input::Tick);
        if node.status().leader != 0 {
            state.leaderless_since = None;
            return;
        }
        let since = *state.leaderless_since.get_or_insert(now);
        if now.saturating_since(since) >= self.leaderless_ms {
            for outbox in state.outboxes.values_mut().filter(|outbox| outbox.wants_leader) {
                outbox.end(End::Refused(EtcdError::NoLeader));
            }
        }
    }
}

impl State {
    fn step(&mut self, watching: &Watching, now: Instant, input: Input) {
        for effect in self.watchers.step(now, input) {
            match effect {
                Effect::Send { stream, response } => {
                    if let Some(outbox) = self.outboxes.get_mut(&stream) {
                        if let What::Events { events, .. } = &response.what {
                            let count = events.list().len() as u64;
                            outbox.events += count;
                            self.pending_events += count;
                        }
                        outbox.responses.push_back(response);
                        outbox.wake();
                    }
                }
                Effect::CatchUp => {
                    self.is_catch_up_due = true;
                    watching.work.notify_one();
                }
                Effect::End { stream, reason } => {
                    if let Some(outbox) = self.outboxes.get_mut(&stream) {
                        outbox.end(End::Failed(reason));
                    }
                }
            }
        }
    }
}

impl Outbox {
    fn end(&mut self, end: End) {
        self.end.get_or_insert(end);
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Node {
    /// Where a stream that is opened on the calling thread belongs.
    pub fn watching(&self) -> &Arc<Watching> {
        let here = Desk::here().map_or(0, |desk| desk.number());
        self.watching.get(here.saturating_sub(1)).unwrap_or(&self.watching[0])
    }

    /// All threads together.
    pub fn watch_totals(&self) -> Served {
        self.watching.iter().map(|watching| watching.served()).fold(Served::default(), |a, b| Served {
            totals: Totals {
                streams: a.totals.streams + b.totals.streams,
                watchers: a.totals.watchers + b.totals.watchers,
                behind: a.totals.behind + b.totals.behind,
                queued_bytes: a.totals.queued_bytes + b.totals.queued_bytes,
            },
            sent_events: a.sent_events + b.sent_events,
            pending_events: a.pending_events + b.pending_events,
        })
    }
}
