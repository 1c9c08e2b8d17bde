//! [`Watchers`]: the machine itself. What is told to whom is put together in the files beside this one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use lockstep_proto::etcdserverpb::watch_create_request::FilterType;
use lockstep_proto::etcdserverpb::watch_request::RequestUnion;
use lockstep_proto::etcdserverpb::{WatchCreateRequest, WatchRequest};
use rand_chacha::ChaCha8Rng;
use rand_core::RngCore;
use slab::Slab;

use super::deliver::{Piece, Round, Wants};
use super::groups::{Groups, Keys};
use super::intervals::Range;
use super::response::{Response, What};
use crate::member::apply::Change;
use crate::member::error::EtcdError;
use crate::mvcc::View;
use crate::mvcc::read::{Error as StoreError, Read};
use crate::ports::clock::Instant;

/// Chosen by the host, and never twice.
pub type StreamId = u64;

/// What the machine is told. What is about a stream that is not open is ignored.
#[derive(Clone, Debug)]
pub enum Input {
    Open {
        stream: StreamId,
    },
    Close {
        stream: StreamId,
    },
    /// From a client. `newest` is the revision of the newest view that this member has published: a watcher from "now"
    /// hears of nothing up to it, even where this machine has not been told of it yet.
    Request {
        stream: StreamId,
        request: WatchRequest,
        newest: i64,
    },
    /// In the order of publishing. Some may be left out, or come without their changes: the watchers then catch up from
    /// a view, and miss nothing.
    Published {
        view: Arc<View>,
        changes: Arc<[Change]>,
    },
    /// These responses are no longer waiting to be sent; `charge` is the sum of theirs.
    Taken {
        stream: StreamId,
        charge: usize,
    },
    /// Do a piece of catching up, over the newest view.
    CatchUp(Arc<View>),
    /// Time has passed. Often enough is a tenth of the interval of progress notifications.
    Tick,
}

/// What the machine asks of its host, to be carried out in the order given.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    Send {
        stream: StreamId,
        response: Response,
    },
    /// There is catching up to do: send [`Input::CatchUp`] when others have had their turn. Never asked for twice
    /// before that.
    CatchUp,
    /// The history cannot be read: end the stream and say why. It is closed already.
    End {
        stream: StreamId,
        reason: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Between two progress notifications of an idle watcher; each stream adds up to a tenth.
    pub progress_interval_ms: u64,
    /// A response of more bytes is cut, where the watcher asked for fragments.
    pub fragment_bytes: usize,
    /// What may wait to be sent on one stream before its watchers fall behind.
    pub stream_bytes: usize,
    /// What may wait on all streams together. Where that is full, a stream gets more only when it has sent all it had.
    pub total_bytes: usize,
    /// What one piece of catching up reads, unless one revision alone has more.
    pub catch_up_rows: usize,
    pub catch_up_bytes: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            progress_interval_ms: 600_000,
            fragment_bytes: 2 << 20,
            stream_bytes: 1 << 20,
            total_bytes: 256 << 20,
            catch_up_rows: 512,
            catch_up_bytes: 512 << 10,
        }
    }
}

/// For metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub streams: usize,
    pub watchers: usize,
    /// Watchers that are catching up.
    pub behind: usize,
    /// What waits to be sent.
    pub queued_bytes: usize,
}

/// What every response counts for, besides its events. Those count once a stream, however many watchers share them.
const RESPONSE_CHARGE: usize = 64;
/// Stands for the watchers of a stream together, or for none.
const NO_WATCHER: i64 = -1;

/// See the head of this folder.
#[derive(Debug)]
pub struct Watchers {
    pub(super) options: Options,
    rng: ChaCha8Rng,
    /// Everything up to here has been given to all who are synced.
    pub(super) revision: i64,
    by_id: BTreeMap<StreamId, usize>,
    pub(super) streams: Slab<Stream>,
    pub(super) watchers: Slab<Watcher>,
    pub(super) groups: Groups,
    /// Those who are behind and whose stream has room: from which revision on, and who.
    pub(super) cursors: BTreeSet<(i64, usize)>,
    /// The last piece of catching up ended before this revision; the next one is for somebody else.
    pub(super) turn: i64,
    catch_up_asked: bool,
    /// Those who may not hear of progress before this revision is reached.
    early: BTreeSet<(i64, usize)>,
    /// Streams that have asked for progress up to what has not come yet.
    awaited: BTreeSet<usize>,
    /// When streams with watchers that want progress notifications are due.
    ticks: BTreeSet<(Instant, usize)>,
    pub(super) numbers: u64,
    behind: usize,
    queued: usize,
    effects: Vec<Effect>,
}

#[derive(Debug)]
pub(super) struct Stream {
    id: StreamId,
    opened: Instant,
    interval_ms: u64,
    next_tick: Option<Instant>,
    next_id: i64,
    /// By the client's ids. One that compaction canceled keeps its id until the client cancels it too, as in etcd.
    watchers: BTreeMap<i64, usize>,
    queued: usize,
    /// The piece that was sent last: its events are counted.
    counted: u64,
    /// Behind, and waiting for room.
    stalled: BTreeSet<usize>,
    behind: usize,
    early: usize,
    /// Progress was asked for when this was the newest revision of all: nothing older is an answer.
    progress_asked: Option<i64>,
}

#[derive(Debug)]
pub(super) struct Watcher {
    pub stream: usize,
    id: i64,
    pub group: usize,
    pub state: State,
    /// It has heard of everything before this revision, or does not want to.
    pub next: i64,
    wants: Wants,
    /// Progress below this revision would send a client back to before its watcher began.
    progress_from: i64,
    progress_notify: bool,
    /// Nothing was sent since the last tick.
    is_idle: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Among its group's synced, at this place.
    Synced(usize),
    /// Among the cursors.
    Behind,
    /// Behind, and among its stream's stalled.
    Stalled,
    Compacted,
}

impl Watchers {
    /// `rng` is this machine's own, and decides nothing but the jitter of progress notifications.
    pub fn new(options: Options, rng: ChaCha8Rng) -> Watchers {
        Watchers {
            options,
            rng,
            revision: 0,
            by_id: BTreeMap::new(),
            streams: Slab::new(),
            watchers: Slab::new(),
            groups: Groups::default(),
            cursors: BTreeSet::new(),
            turn: 0,
            catch_up_asked: false,
            early: BTreeSet::new(),
            awaited: BTreeSet::new(),
            ticks: BTreeSet::new(),
            numbers: 0,
            behind: 0,
            queued: 0,
            effects: Vec::new(),
        }
    }

    /// Takes one input and returns what follows from it, in order.
    pub fn step(&mut self, now: Instant, input: Input) -> Vec<Effect> {
        match input {
            Input::Open { stream } => self.open(now, stream),
            Input::Close { stream } => self.close(stream),
            Input::Request { stream, request, newest } => {
                if let Some(stream) = self.by_id.get(&stream) {
                    self.request(now, *stream, request, newest.max(self.revision));
                }
            }
            Input::Published { view, changes } => {
                let published = self.published(&view, &changes);
                self.end_all_on_error(published);
            }
            Input::Taken { stream, charge } => self.taken(stream, charge),
            Input::CatchUp(view) => {
                self.catch_up_asked = false;
                let caught_up = self.catch_up(&view);
                self.end_all_on_error(caught_up);
                if self.cursors.first().is_some_and(|(next, _)| *next <= view.rev()) {
                    self.ask_for_catch_up();
                }
            }
            Input::Tick => self.tick(now),
        }
        std::mem::take(&mut self.effects)
    }

    /// The revision up to which those who are synced have been told everything.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    pub fn totals(&self) -> Totals {
        Totals {
            streams: self.streams.len(),
            watchers: self.watchers.len(),
            behind: self.behind,
            queued_bytes: self.queued,
        }
    }

    fn open(&mut self, now: Instant, id: StreamId) {
        let interval_ms = self.options.progress_interval_ms.max(1);
        let jitter_ms = self.rng.next_u64() % (interval_ms / 10).max(1);
        let stream = self.streams.insert(Stream {
            id,
            opened: now,
            interval_ms: interval_ms + jitter_ms,
            next_tick: None,
            next_id: 0,
            watchers: BTreeMap::new(),
            queued: 0,
            counted: 0,
            stalled: BTreeSet::new(),
            behind: 0,
            early: 0,
            progress_asked: None,
        });
        let before = self.by_id.insert(id, stream);
        assert!(before.is_none(), "stream {id} is opened once");
    }

    fn close(&mut self, id: StreamId) {
        let Some(index) = self.by_id.remove(&id) else { return };
        while let Some((_, watcher)) = self.streams[index].watchers.pop_first() {
            self.remove(watcher);
        }
        let stream = self.streams.remove(index);
        self.awaited.remove(&index);
        self.queued -= stream.queued;
        if let Some(due) = stream.next_tick {
            self.ticks.remove(&(due, index));
        }
    }

    fn request(&mut self, now: Instant, stream: usize, request: WatchRequest, newest: i64) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => match self.create(now, stream, create, newest) {
                Ok(id) => {
                    self.send(stream, id, newest, What::Created);
                    self.ask_for_catch_up();
                }
                Err(error) => self.send(stream, NO_WATCHER, newest, What::Refused(error)),
            },
            Some(RequestUnion::CancelRequest(cancel)) => {
                if let Some(watcher) = self.streams[stream].watchers.remove(&cancel.watch_id) {
                    self.remove(watcher);
                    self.send(stream, cancel.watch_id, newest, What::Canceled);
                    self.answer_progress(stream);
                }
            }
            Some(RequestUnion::ProgressRequest(_)) => {
                self.streams[stream].progress_asked = Some(newest);
                if newest > self.revision {
                    sometimes!("progress waited for what was published already");
                    self.awaited.insert(stream);
                }
                self.answer_progress(stream);
            }
            None => {}
        }
    }

    /// Adds a watcher, without an announcement yet, and returns its id.
    fn create(
        &mut self,
        now: Instant,
        stream: usize,
        request: WatchCreateRequest,
        newest: i64,
    ) -> Result<i64, EtcdError> {
        if request.start_revision < 0 {
            return Err(EtcdError::Compacted);
        }
        let keys = keys(&request)?;
        let id = self.streams[stream].take_id(request.watch_id)?;
        let begins_now =
            request.start_revision == 0 || mutation!(FutureWatchBeginsNow) && request.start_revision > newest;
        let next = if begins_now { newest + 1 } else { request.start_revision };
        let filters = |filter: FilterType| request.filters.contains(&(filter as i32));
        let watcher = Watcher {
            stream,
            id,
            group: self.groups.join(keys),
            state: State::Compacted,
            next,
            wants: Wants {
                no_put: filters(FilterType::Noput),
                no_delete: filters(FilterType::Nodelete),
                prev_kv: request.prev_kv,
                fragment: request.fragment,
            },
            progress_from: request.start_revision.max(newest),
            progress_notify: request.progress_notify,
            is_idle: true,
        };
        let progress_from = watcher.progress_from;
        let watcher = self.watchers.insert(watcher);
        self.streams[stream].watchers.insert(id, watcher);
        if next > self.revision {
            self.sync(watcher);
        } else {
            self.fall_behind(watcher, next);
        }
        if progress_from > self.revision {
            self.early.insert((progress_from, watcher));
            self.streams[stream].early += 1;
        }
        if request.progress_notify && self.streams[stream].next_tick.is_none() {
            let due = self.streams[stream].tick_after(now);
            self.ticks.insert((due, stream));
        }
        Ok(id)
    }

    /// Forgets a watcher, which is not in its stream's list any more.
    fn remove(&mut self, index: usize) {
        self.unlist(index);
        let watcher = self.watchers.remove(index);
        if self.early.remove(&(watcher.progress_from, index)) {
            self.streams[watcher.stream].early -= 1;
        }
        if watcher.state != State::Compacted {
            self.groups.leave(watcher.group);
        }
    }

    fn published(&mut self, view: &View, changes: &[Change]) -> Result<(), StoreError> {
        let newest = view.rev();
        if newest <= self.revision {
            return Ok(());
        }
        let known = changes.partition_point(|change| change.revision <= self.revision);
        let changes = &changes[known..];
        if changes.len() as i64 == newest - self.revision {
            self.deliver(view, changes)?;
        } else {
            self.fall_behind_all(newest);
        }
        self.revision = newest;
        while let Some(&(_, watcher)) = self.early.first().filter(|(from, _)| *from <= newest) {
            self.early.pop_first();
            let stream = self.watchers[watcher].stream;
            self.streams[stream].early -= 1;
            self.answer_progress(stream);
        }
        for stream in std::mem::take(&mut self.awaited) {
            self.answer_progress(stream);
        }
        self.ask_for_catch_up();
        Ok(())
    }

    /// Gives the synced what has just changed.
    fn deliver(&mut self, view: &View, changes: &[Change]) -> Result<(), StoreError> {
        if self.watchers.is_empty() {
            return Ok(());
        }
        let events = changes.iter().flat_map(|change| change.events.iter().cloned());
        let mut round = Round::new(view, events, &self.groups, self.options.fragment_bytes, self.numbers);
        let mut slow = Vec::new();
        for group in round.groups() {
            for place in 0..self.groups.synced(group).len() {
                let watcher = self.groups.synced(group)[place];
                if let Some(next) = self.give(&mut round, watcher, None)? {
                    slow.push((watcher, next));
                }
            }
        }
        self.numbers = round.numbers();
        for (watcher, next) in slow {
            if mutation!(SlowStreamLosesEvents) {
                continue;
            }
            sometimes!("watcher fell behind because its stream was full");
            self.fall_behind(watcher, next);
        }
        Ok(())
    }

    /// Revisions up to `newest` come without their changes.
    fn fall_behind_all(&mut self, newest: i64) {
        let from = self.revision + 1;
        let synced: Vec<usize> =
            self.watchers.iter().filter(|(_, w)| matches!(w.state, State::Synced(_))).map(|(i, _)| i).collect();
        for watcher in synced {
            let next = self.watchers[watcher].next.max(from);
            if next <= newest {
                self.fall_behind(watcher, next);
            }
        }
    }

    /// Gives a watcher what a round has for it. `upto` is what it has heard of after that, if that is known to be more
    /// than the last event. Returns from where on its stream had no room.
    pub(super) fn give(
        &mut self,
        round: &mut Round<'_>,
        watcher: usize,
        upto: Option<i64>,
    ) -> Result<Option<i64>, StoreError> {
        let w = &self.watchers[watcher];
        let (stream, id) = (w.stream, w.id);
        let from = if mutation!(WatchGoesBack) { 0 } else { w.next };
        let pieces = round.pieces(w.group, w.wants, from)?;
        let mut is_within = false;
        for (i, piece) in pieces.iter().enumerate() {
            if !is_within && !self.has_room(stream) {
                return Ok(Some(piece.first));
            }
            is_within = piece.more;
            let is_last = i + 1 == pieces.len();
            let revision = upto.filter(|_| is_last).unwrap_or(piece.last);
            self.send_events(stream, id, revision, piece);
            self.watchers[watcher].is_idle = false;
        }
        Ok(None)
    }

    fn taken(&mut self, id: StreamId, charge: usize) {
        let Some(&index) = self.by_id.get(&id) else { return };
        let stream = &mut self.streams[index];
        assert!(charge <= stream.queued, "what is taken from stream {id} was sent on it");
        stream.queued -= charge;
        self.queued -= charge;
        if stream.stalled.is_empty() || stream.queued > self.options.stream_bytes / 2 || !self.has_room(index) {
            return;
        }
        for watcher in std::mem::take(&mut self.streams[index].stalled) {
            let w = &mut self.watchers[watcher];
            w.state = State::Behind;
            self.cursors.insert((w.next, watcher));
        }
        self.ask_for_catch_up();
    }

    fn tick(&mut self, now: Instant) {
        while let Some(&(due, stream)) = self.ticks.first().filter(|(due, _)| *due <= now) {
            self.ticks.remove(&(due, stream));
            let next = self.streams[stream].tick_after(now);
            self.ticks.insert((next, stream));
            let watchers: Vec<usize> = self.streams[stream].watchers.values().copied().collect();
            for watcher in watchers {
                let w = &mut self.watchers[watcher];
                let is_synced =
                    matches!(w.state, State::Synced(_)) && w.progress_from <= self.revision || mutation!(ProgressAhead);
                let was_idle = std::mem::replace(&mut w.is_idle, true);
                if w.progress_notify && was_idle && is_synced {
                    let id = w.id;
                    if self.has_room(stream) {
                        self.send(stream, id, self.revision, What::Progress);
                    }
                }
            }
        }
    }

    /// Answers a request for progress as soon as all watchers of the stream are synced.
    pub(super) fn answer_progress(&mut self, stream: usize) {
        let s = &mut self.streams[stream];
        let is_up_to_date = s.behind == 0 && s.early == 0 || mutation!(ProgressAhead);
        if is_up_to_date && s.progress_asked.is_some_and(|asked| asked <= self.revision) {
            s.progress_asked = None;
            self.send(stream, NO_WATCHER, self.revision, What::Progress);
        } else {
            sometimes!(s.progress_asked.is_some(), "progress waited for watchers that were behind");
        }
    }

    pub(super) fn has_room(&self, stream: usize) -> bool {
        let queued = self.streams[stream].queued;
        queued == 0 || queued < self.options.stream_bytes && self.queued < self.options.total_bytes
    }

    pub(super) fn ask_for_catch_up(&mut self) {
        if !self.catch_up_asked && !self.cursors.is_empty() {
            self.catch_up_asked = true;
            self.effects.push(Effect::CatchUp);
        }
    }

    /// Lists a watcher that is on no list as synced.
    pub(super) fn sync(&mut self, watcher: usize) {
        let w = &mut self.watchers[watcher];
        w.state = State::Synced(self.groups.add_synced(w.group, watcher));
    }

    /// Lists a watcher as behind, from the revision `next` on.
    pub(super) fn fall_behind(&mut self, watcher: usize, next: i64) {
        self.unlist(watcher);
        let stream = self.watchers[watcher].stream;
        let has_room = self.has_room(stream);
        let w = &mut self.watchers[watcher];
        w.next = next;
        if has_room {
            w.state = State::Behind;
            self.cursors.insert((next, watcher));
        } else {
            w.state = State::Stalled;
            self.streams[stream].stalled.insert(watcher);
        }
        self.streams[stream].behind += 1;
        self.behind += 1;
    }

    /// Takes a watcher from the list that it is on. Until it is on another one, its state is `Compacted`, unless it
    /// was synced: that one is to be put elsewhere at once, or removed.
    pub(super) fn unlist(&mut self, watcher: usize) {
        let Watcher { stream, group, state, next, .. } = self.watchers[watcher];
        match state {
            State::Synced(place) => {
                if let Some(moved) = self.groups.remove_synced(group, place) {
                    self.watchers[moved].state = State::Synced(place);
                }
                return;
            }
            State::Behind => drop(self.cursors.remove(&(next, watcher))),
            State::Stalled => drop(self.streams[stream].stalled.remove(&watcher)),
            State::Compacted => return,
        }
        self.streams[stream].behind -= 1;
        self.behind -= 1;
    }

    /// History before `compact_revision` is gone, and the watcher needs it.
    pub(super) fn cancel_compacted(&mut self, watcher: usize, compact_revision: i64) {
        self.unlist(watcher);
        let w = &mut self.watchers[watcher];
        w.state = State::Compacted;
        let (stream, group, id) = (w.stream, w.group, w.id);
        if self.early.remove(&(w.progress_from, watcher)) {
            self.streams[stream].early -= 1;
        }
        self.groups.leave(group);
        // The header's revision is 0, as etcd's is.
        self.send(stream, id, 0, What::Compacted(compact_revision));
        self.answer_progress(stream);
    }

    fn send(&mut self, stream: usize, watch_id: i64, revision: i64, what: What) {
        self.send_charged(stream, watch_id, revision, what, RESPONSE_CHARGE);
    }

    fn send_events(&mut self, stream: usize, watch_id: i64, revision: i64, piece: &Piece) {
        let is_counted = std::mem::replace(&mut self.streams[stream].counted, piece.number) == piece.number;
        let charge = RESPONSE_CHARGE + if is_counted { 0 } else { piece.events.encoded_len() };
        let what = What::Events { events: piece.events.clone(), more: piece.more };
        self.send_charged(stream, watch_id, revision, what, charge);
    }

    fn send_charged(&mut self, stream: usize, watch_id: i64, revision: i64, what: What, charge: usize) {
        let s = &mut self.streams[stream];
        s.queued += charge;
        self.queued += charge;
        let response = Response { watch_id, revision, what, charge };
        self.effects.push(Effect::Send { stream: s.id, response });
    }

    /// A store that cannot be read is no reason to leave events out.
    fn end_all_on_error(&mut self, result: Result<(), StoreError>) {
        let Err(error) = result else { return };
        for id in self.by_id.keys().copied().collect::<Vec<_>>() {
            self.close(id);
            self.effects.push(Effect::End { stream: id, reason: error.to_string() });
        }
    }
}

impl Stream {
    /// The id of a new watcher: the one the client chose, or the next that is free.
    fn take_id(&mut self, chosen: i64) -> Result<i64, EtcdError> {
        if chosen != 0 {
            let is_taken = self.watchers.contains_key(&chosen);
            return if is_taken { Err(EtcdError::DuplicateWatchId) } else { Ok(chosen) };
        }
        while self.watchers.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        Ok(self.next_id - 1)
    }

    /// Ticks come at whole intervals since the stream was opened.
    fn tick_after(&mut self, now: Instant) -> Instant {
        let passed = now.saturating_since(self.opened) / self.interval_ms;
        let due = Instant(self.opened.0 + (passed + 1) * self.interval_ms);
        self.next_tick = Some(due);
        due
    }
}

/// The keys asked for. They are copied: the request may be a part of something much larger.
fn keys(request: &WatchCreateRequest) -> Result<Keys, EtcdError> {
    let copy = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
    let begin = if request.key.is_empty() { Bytes::from_static(b"\0") } else { copy(&request.key) };
    match &*request.range_end {
        b"" => Ok(Keys::One(begin)),
        b"\0" => Ok(Keys::Range(Range { begin, end: None })),
        end if *begin >= *end => Err(EtcdError::EmptyWatcherRange),
        end => Ok(Keys::Range(Range { begin, end: Some(copy(end)) })),
    }
}
