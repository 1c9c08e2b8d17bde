//! A member's watch machine, driven as `server/watching.rs` drives it: on a thread of its own, by messages of apply
//! that may pile up, and be left out when they do.
//!
//! Decides nothing but what production decides: when to be told of publishes at all, how many may wait, and that each
//! piece of catching up is over the newest view.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use lockstep::member::apply::Change;
use lockstep::member::watch::{Effect, Input, Options, Response, StreamId, Totals, Watchers};
use lockstep::mvcc::View;
use lockstep::ports::clock::Instant;
use lockstep::sometimes;
use lockstep_proto::etcdserverpb::WatchRequest;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

/// Changes that may wait before publishes are left out. Production has a thousand times as many.
const BACKLOG: usize = 16;

/// What goes out to clients.
#[derive(Debug)]
pub enum Told {
    Response {
        stream: StreamId,
        response: Response,
    },
    /// The store could not be read, and the stream is closed.
    End {
        stream: StreamId,
        reason: String,
    },
}

/// See the head of this file.
pub struct Watching {
    watchers: Watchers,
    streams: BTreeSet<StreamId>,
    published: VecDeque<(Arc<View>, Arc<[Change]>)>,
    backlog: usize,
    has_missed: bool,
    is_catch_up_due: bool,
    told: Vec<Told>,
}

impl Watching {
    pub fn new(options: Options, member: u64) -> Watching {
        Watching {
            watchers: Watchers::new(options, ChaCha8Rng::seed_from_u64(member)),
            streams: BTreeSet::new(),
            published: VecDeque::new(),
            backlog: 0,
            has_missed: false,
            is_catch_up_due: false,
            told: Vec::new(),
        }
    }

    /// From apply, which does not wait.
    pub fn publish(&mut self, view: &Arc<View>, changes: &Arc<[Change]>) {
        if self.streams.is_empty() {
            return;
        }
        if self.backlog > BACKLOG {
            sometimes!("publish left out because a watching thread was behind");
            self.has_missed = true;
            return;
        }
        self.backlog += changes.len();
        self.published.push_back((view.clone(), changes.clone()));
    }

    /// Publishes that wait, and whether there is a piece of catching up to do.
    pub fn waiting(&self) -> (usize, bool) {
        (self.published.len(), self.is_catch_up_due)
    }

    pub fn has_streams(&self) -> bool {
        !self.streams.is_empty()
    }

    pub fn totals(&self) -> Totals {
        self.watchers.totals()
    }

    pub fn open(&mut self, now: Instant, stream: StreamId, newest: &Arc<View>) {
        if self.streams.is_empty() {
            self.step(now, Input::Published { view: newest.clone(), changes: Arc::default() });
        }
        self.streams.insert(stream);
        self.step(now, Input::Open { stream });
    }

    pub fn close(&mut self, now: Instant, stream: StreamId) {
        self.streams.remove(&stream);
        self.step(now, Input::Close { stream });
    }

    pub fn request(&mut self, now: Instant, stream: StreamId, request: WatchRequest, newest: i64) {
        self.step(now, Input::Request { stream, request, newest });
    }

    pub fn taken(&mut self, now: Instant, stream: StreamId, charge: usize) {
        self.step(now, Input::Taken { stream, charge });
    }

    /// Takes this many publishes, then does one piece of catching up.
    pub fn work(&mut self, now: Instant, count: usize, newest: &Arc<View>) {
        for _ in 0..count {
            let Some((view, changes)) = self.published.pop_front() else { break };
            self.backlog -= changes.len();
            self.step(now, Input::Published { view, changes });
        }
        if std::mem::take(&mut self.is_catch_up_due) {
            self.step(now, Input::CatchUp(newest.clone()));
        }
    }

    pub fn tick(&mut self, now: Instant, newest: &Arc<View>) {
        if std::mem::take(&mut self.has_missed) {
            self.step(now, Input::Published { view: newest.clone(), changes: Arc::default() });
        }
        self.step(now, Input::Tick);
    }

    /// What was told since the last call, in order.
    pub fn take_told(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.told)
    }

    fn step(&mut self, now: Instant, input: Input) {
        for effect in self.watchers.step(now, input) {
            match effect {
                Effect::Send { stream, response } => self.told.push(Told::Response { stream, response }),
                Effect::CatchUp => self.is_catch_up_due = true,
                Effect::End { stream, reason } => {
                    self.streams.remove(&stream);
                    self.told.push(Told::End { stream, reason });
                }
            }
        }
    }
}
