//! The machine that tells of changes, on a real store: random clients against a history that forgets nothing, and the
//! cases that chance would take long to find.
//!
//! What is checked of every response is what a watch guarantees: ordered, unique, atomic, reliable, resumable,
//! bookmarkable; filters, previous values, fragments, and a bound on what waits to be sent.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use lockstep::member::apply::Change;
use lockstep::member::error::EtcdError;
use lockstep::member::watch::{Effect, Input, Options, Response, Watchers, What};
use lockstep::mvcc::read::{RangeOptions, Read, Write};
use lockstep::mvcc::{Backend, CompactProgress, Options as StoreOptions, Store, View};
use lockstep::ports::clock::Instant;
use lockstep::ports::disk::Disk;
use lockstep::proto::etcdserverpb::watch_create_request::FilterType;
use lockstep::proto::etcdserverpb::watch_request::RequestUnion;
use lockstep::proto::etcdserverpb::*;
use lockstep::proto::mvccpb::{Event, KeyValue, event::EventType};
use prost::Message;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use crate::util::small_disk::SmallDisk;

/// A store, its history, and a machine with streams whose clients take responses when the test says so.
struct World {
    store: Store,
    backend: Backend,
    view: Arc<View>,
    /// Every event since the beginning.
    history: Vec<KeyValue>,
    unpublished: Vec<Change>,
    watchers: Watchers,
    now: u64,
    streams: BTreeMap<u64, VecDeque<Response>>,
    opened: u64,
    wants_catch_up: bool,
}

impl World {
    fn new(options: Options) -> World {
        let disk: Arc<SmallDisk> = Arc::default();
        let (mut store, backend) = Store::open(
            disk as Arc<dyn Disk>,
            "member/snap/db",
            StoreOptions { cache_bytes: 1 << 20, ..StoreOptions::default() },
        )
        .expect("the store opens");
        let view = store.publish(1);
        let mut world = World {
            store,
            backend,
            view,
            history: Vec::new(),
            unpublished: Vec::new(),
            watchers: Watchers::new(options, ChaCha8Rng::seed_from_u64(1)),
            now: 0,
            streams: BTreeMap::new(),
            opened: 0,
            wants_catch_up: false,
        };
        world.step(Input::Published { view: world.view.clone(), changes: Arc::default() });
        world
    }

    fn step(&mut self, input: Input) {
        for effect in self.watchers.step(Instant(self.now), input) {
            match effect {
                Effect::Send { stream, response } => {
                    self.streams.get_mut(&stream).expect("the stream is open").push_back(response)
                }
                Effect::CatchUp => {
                    assert!(!self.wants_catch_up, "catching up is asked for once");
                    self.wants_catch_up = true;
                }
                Effect::End { reason, .. } => panic!("the store can be read: {reason}"),
            }
        }
    }

    fn write(&mut self, change: impl FnOnce(&mut lockstep::mvcc::WriteTxn<'_>)) {
        let mut txn = self.store.write();
        change(&mut txn);
        let events = txn.end();
        if let Some(first) = events.first() {
            self.history.extend(events.iter().cloned());
            self.unpublished.push(Change { revision: first.mod_revision, events });
        }
    }

    fn put(&mut self, key: &str, value: &str) {
        let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()));
        self.write(|w| {
            w.put(key, value, 0);
        });
    }

    fn delete(&mut self, key: &str, end: &str) {
        self.write(|w| {
            w.delete_range(key.as_bytes(), end.as_bytes());
        });
    }

    fn publish(&mut self) {
        let changes = std::mem::take(&mut self.unpublished).into();
        self.view = self.store.publish(1);
        self.step(Input::Published { view: self.view.clone(), changes });
    }

    fn publish_without_changes(&mut self) {
        self.unpublished.clear();
        self.view = self.store.publish(1);
        self.step(Input::Published { view: self.view.clone(), changes: Arc::default() });
    }

    fn compact(&mut self, revision: i64) {
        self.publish();
        if self.store.compact(revision).is_ok() {
            self.publish();
            while self.store.compact_step(10) == CompactProgress::More {}
            if let Some(batch) = self.store.seal() {
                self.store.committed(self.backend.commit(&batch).expect("the batch commits"));
            }
            self.publish();
        }
    }

    fn open(&mut self) -> u64 {
        self.opened += 1;
        self.streams.insert(self.opened, VecDeque::new());
        self.step(Input::Open { stream: self.opened });
        self.opened
    }

    fn ask(&mut self, stream: u64, request: RequestUnion) {
        let request = WatchRequest { request_union: Some(request) };
        self.step(Input::Request { stream, request, newest: self.view.rev() });
    }

    fn create(&mut self, stream: u64, request: WatchCreateRequest) {
        self.ask(stream, RequestUnion::CreateRequest(request));
    }

    fn catch_up(&mut self) -> bool {
        let wanted = std::mem::take(&mut self.wants_catch_up);
        if wanted {
            self.step(Input::CatchUp(self.view.clone()));
        }
        wanted
    }

    /// What the client takes now.
    fn take(&mut self, stream: u64, count: usize) -> Vec<Response> {
        let Some(queue) = self.streams.get_mut(&stream) else { return Vec::new() };
        let taken: Vec<Response> = queue.drain(..count.min(queue.len())).collect();
        let charge = taken.iter().map(|response| response.charge).sum();
        self.step(Input::Taken { stream, charge });
        taken
    }

    /// Everything there is for a stream, catching up included.
    fn drain(&mut self, stream: u64) -> Vec<Response> {
        let mut all = Vec::new();
        loop {
            let taken = self.take(stream, usize::MAX);
            let is_quiet = taken.is_empty();
            all.extend(taken);
            if !self.catch_up() && is_quiet {
                return all;
            }
        }
    }

    fn queued(&self, stream: u64) -> usize {
        self.streams[&stream].iter().map(|response| response.charge).sum()
    }
}

fn on(key: &str, end: &str) -> WatchCreateRequest {
    WatchCreateRequest { key: key.into(), range_end: end.into(), ..Default::default() }
}

fn from(start_revision: i64, request: WatchCreateRequest) -> WatchCreateRequest {
    WatchCreateRequest { start_revision, ..request }
}

/// A response in a few words.
fn show(response: &Response) -> String {
    let Response { watch_id, revision, what, .. } = response;
    match what {
        What::Created => format!("{watch_id} created @{revision}"),
        What::Refused(error) => format!("{watch_id} refused @{revision}: {error}"),
        What::Canceled => format!("{watch_id} canceled @{revision}"),
        What::Compacted(compacted) => format!("{watch_id} compacted {compacted} @{revision}"),
        What::Progress => format!("{watch_id} progress @{revision}"),
        What::Events { events, more } => {
            let events: Vec<String> = events.list().iter().map(show_event).collect();
            format!("{watch_id}{} @{revision}: {}", if *more { " more" } else { "" }, events.join(" "))
        }
    }
}

fn show_event(event: &Event) -> String {
    let kv = event.kv.as_ref().expect("an event has a key");
    let prev = event.prev_kv.as_ref().map_or(String::new(), |prev| format!("({})", prev.value.escape_ascii()));
    let what = if event.r#type == EventType::Delete as i32 { "-" } else { "=" };
    format!("{}{what}{}{prev}/{}", kv.key.escape_ascii(), kv.value.escape_ascii(), kv.mod_revision)
}

fn shown(responses: &[Response]) -> Vec<String> {
    responses.iter().map(show).collect()
}

#[track_caller]
fn check(world: &mut World, stream: u64, expected: &[&str]) {
    assert_eq!(shown(&world.drain(stream)), expected);
}

#[test]
fn requests_and_their_answers() {
    let mut w = World::new(Options::default());
    for value in ["1", "2", "3"] {
        w.put("a", value);
    }
    w.publish();
    let s = w.open();
    let cancel = |watch_id| RequestUnion::CancelRequest(WatchCancelRequest { watch_id });
    let refuse = |error: EtcdError| format!("-1 refused @4: {error}");
    let cases: Vec<(RequestUnion, Vec<String>)> = vec![
        (RequestUnion::CreateRequest(on("a", "")), vec!["0 created @4".into()]),
        (RequestUnion::CreateRequest(WatchCreateRequest { watch_id: 1, ..on("", "\0") }), vec!["1 created @4".into()]),
        (RequestUnion::CreateRequest(on("b", "")), vec!["2 created @4".into()]),
        (
            RequestUnion::CreateRequest(WatchCreateRequest { watch_id: 2, ..on("b", "") }),
            vec![refuse(EtcdError::DuplicateWatchId)],
        ),
        (RequestUnion::CreateRequest(WatchCreateRequest { watch_id: -7, ..on("b", "") }), vec!["-7 created @4".into()]),
        (RequestUnion::CreateRequest(on("b", "b")), vec![refuse(EtcdError::EmptyWatcherRange)]),
        (RequestUnion::CreateRequest(on("b", "a")), vec![refuse(EtcdError::EmptyWatcherRange)]),
        (RequestUnion::CreateRequest(from(-1, on("a", ""))), vec![refuse(EtcdError::Compacted)]),
        (cancel(17), vec![]),
        (cancel(2), vec!["2 canceled @4".into()]),
        (cancel(2), vec![]),
        (RequestUnion::CreateRequest(on("c", "")), vec!["3 created @4".into()]),
        (RequestUnion::CreateRequest(from(3, on("a", ""))), vec!["4 created @4".into(), "4 @4: a=2/3 a=3/4".into()]),
        (RequestUnion::ProgressRequest(WatchProgressRequest {}), vec!["-1 progress @4".into()]),
    ];
    for (request, expected) in cases {
        w.ask(s, request.clone());
        assert_eq!(shown(&w.drain(s)), expected, "{request:?}");
    }
    w.put("a", "4");
    w.write(|t| {
        t.put(Bytes::from_static(b"b"), Bytes::new(), 0);
        t.put(Bytes::from_static(b"d"), Bytes::new(), 0);
    });
    w.publish();
    check(&mut w, s, &["0 @5: a=4/5", "4 @5: a=4/5", "1 @6: a=4/5 b=/6 d=/6", "-7 @6: b=/6"]);
}

#[test]
fn a_start_that_is_compacted_or_in_the_future() {
    let mut w = World::new(Options::default());
    for value in ["1", "2", "3"] {
        w.put("a", value);
    }
    w.delete("a", "");
    w.compact(5);
    let s = w.open();
    w.create(s, from(4, on("a", "")));
    check(&mut w, s, &["0 created @5", "0 compacted 5 @0"]);
    // A deletion at the compaction's own revision is still told (etcd #18089, #19179).
    w.create(s, from(5, on("a", "")));
    check(&mut w, s, &["1 created @5", "1 @5: a-/5"]);
    // The id stays taken until the client lets go of it.
    w.create(s, WatchCreateRequest { watch_id: 0, ..on("b", "") });
    check(&mut w, s, &["2 created @5"]);
    w.ask(s, RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 0 }));
    check(&mut w, s, &["0 canceled @5"]);
    // Nothing older than the start is told, and no progress either (etcd #20221).
    w.create(s, from(8, on("a", "")));
    w.ask(s, RequestUnion::ProgressRequest(WatchProgressRequest {}));
    check(&mut w, s, &["3 created @5"]);
    for value in ["6", "7"] {
        w.put("a", value);
    }
    w.publish();
    check(&mut w, s, &["1 @7: a=6/6 a=7/7"]);
    w.put("a", "8");
    w.publish();
    check(&mut w, s, &["1 @8: a=8/8", "3 @8: a=8/8", "-1 progress @8"]);
}

/// A client that has written asks how far its watchers are: the answer is not from before its write.
#[test]
fn progress_is_not_older_than_the_question() {
    let mut w = World::new(Options::default());
    let s = w.open();
    w.create(s, on("a", ""));
    check(&mut w, s, &["0 created @1"]);
    // Published, and on its way to this thread.
    w.put("a", "1");
    w.view = w.store.publish(1);
    w.ask(s, RequestUnion::ProgressRequest(WatchProgressRequest {}));
    check(&mut w, s, &[]);
    w.publish();
    check(&mut w, s, &["0 @2: a=1/2", "-1 progress @2"]);
}

#[test]
fn progress_is_told_to_the_idle_and_never_ahead_of_events() {
    let mut w = World::new(Options { progress_interval_ms: 1_000, stream_bytes: 100, ..Options::default() });
    let s = w.open();
    w.create(s, WatchCreateRequest { progress_notify: true, ..on("a", "") });
    w.create(s, on("b", ""));
    check(&mut w, s, &["0 created @1", "1 created @1"]);
    let tick = |w: &mut World, now: u64| {
        w.now = now;
        w.step(Input::Tick);
    };
    tick(&mut w, 900);
    check(&mut w, s, &[]);
    // An interval and at most a tenth.
    tick(&mut w, 1_101);
    check(&mut w, s, &["0 progress @1"]);
    w.put("a", "1");
    w.publish();
    check(&mut w, s, &["0 @2: a=1/2"]);
    // It has just heard something.
    tick(&mut w, 2_250);
    check(&mut w, s, &[]);
    tick(&mut w, 3_400);
    check(&mut w, s, &["0 progress @2"]);
    // Who is behind hears of no progress, and a request for it waits.
    for value in ["2", "3", "4"] {
        w.put("a", value);
        w.publish();
    }
    w.ask(s, RequestUnion::ProgressRequest(WatchProgressRequest {}));
    tick(&mut w, 4_700);
    tick(&mut w, 5_900);
    assert_eq!(shown(&w.take(s, 1)), ["0 @3: a=2/3"]);
    assert!(w.watchers.totals().behind > 0);
    let rest = shown(&w.drain(s));
    assert_eq!(rest.last().map(String::as_str), Some("-1 progress @5"), "{rest:?}");
    assert!(!rest.iter().any(|r| r.starts_with("0 progress")), "{rest:?}");
}

#[test]
fn fragments_are_below_the_limit_and_add_up() {
    let mut w = World::new(Options { fragment_bytes: 1_000, ..Options::default() });
    let s = w.open();
    w.create(s, WatchCreateRequest { fragment: true, ..on("k", "l") });
    w.create(s, on("k", "l"));
    w.drain(s);
    w.write(|t| {
        for i in 0..40 {
            t.put(Bytes::from(format!("k{i:02}")), Bytes::from(vec![b'v'; 100]), 0);
        }
    });
    w.publish();
    let responses = w.drain(s);
    let of = |id: i64| responses.iter().filter(move |r| r.watch_id == id);
    let whole: Vec<&Response> = of(1).collect();
    assert_eq!(whole.len(), 1, "who did not ask for fragments gets none");
    let parts: Vec<(usize, usize, bool)> = of(0)
        .map(|r| {
            let message =
                r.to_message(ResponseHeader { cluster_id: u64::MAX, member_id: u64::MAX, ..Default::default() });
            (message.events.len(), message.encoded_len(), message.fragment)
        })
        .collect();
    assert!(parts.iter().all(|(_, len, _)| *len < 1_000), "{parts:?}");
    assert_eq!(parts.iter().map(|part| part.0).sum::<usize>(), 40);
    assert!(parts.iter().rev().skip(1).all(|part| part.2) && !parts.last().expect("there are some").2, "{parts:?}");
    assert!(parts.len() < 8, "{parts:?}");
}

#[test]
fn ten_thousand_watchers_share_one_marshalled_change() {
    let mut w = World::new(Options::default());
    for _ in 0..100 {
        let s = w.open();
        for _ in 0..100 {
            w.create(s, on("a", ""));
        }
        w.drain(s);
    }
    w.put("a", "1");
    w.publish();
    let mut bytes: Vec<*const u8> = Vec::new();
    for s in 1..=100 {
        // The events count once a stream.
        assert!(w.queued(s) < 100 * 64 + 100, "{}", w.queued(s));
        for response in w.drain(s) {
            let What::Events { events, .. } = &response.what else { panic!("{response:?}") };
            bytes.push(events.encoded().as_ptr());
        }
    }
    assert_eq!(bytes.len(), 10_000);
    bytes.dedup();
    assert_eq!(bytes.len(), 1);
}

/// Who begins at the beginning of a long history does not hold up who is a little behind.
#[test]
fn catching_up_takes_turns() {
    let mut w = World::new(Options { catch_up_rows: 10, ..Options::default() });
    for i in 0..1_000 {
        w.put("a", &i.to_string());
    }
    w.publish();
    let (slow, quick) = (w.open(), w.open());
    w.create(slow, from(2, on("a", "")));
    w.create(quick, from(995, on("a", "")));
    for _ in 0..4 {
        w.catch_up();
    }
    let quick = w.take(quick, 100);
    assert_eq!(quick.len(), 2, "{:?}", shown(&quick));
    let all: Vec<i64> = w.drain(slow).iter().flat_map(revisions).collect();
    assert_eq!(all, (2..=1_001).collect::<Vec<i64>>());
}

/// A revision that is larger than a piece, and than what a stream may hold, still comes in one.
#[test]
fn a_large_revision_is_one_response() {
    let mut w = World::new(Options { catch_up_rows: 3, catch_up_bytes: 50, stream_bytes: 100, ..Options::default() });
    w.put("a", "1");
    w.write(|t| {
        for i in 0..100 {
            t.put(Bytes::from(format!("k{i:02}")), Bytes::from_static(b"v"), 0);
        }
    });
    w.put("a", "2");
    w.publish();
    let s = w.open();
    w.create(s, from(2, on("", "\0")));
    let counts: Vec<usize> = w.drain(s).iter().map(|r| revisions(r).len()).filter(|n| *n > 0).collect();
    assert_eq!(counts.iter().sum::<usize>(), 102);
    assert!(counts.iter().any(|n| *n >= 100), "{counts:?}");
}

fn revisions(response: &Response) -> Vec<i64> {
    let What::Events { events, .. } = &response.what else { return Vec::new() };
    events.list().iter().map(|event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision)).collect()
}

/// One watcher of the random test, as its client sees it.
struct Client {
    request: WatchCreateRequest,
    /// The first revision it may hear of.
    start: i64,
    /// Events of the history it has heard of, or does not want: everything before this place.
    place: usize,
    within: bool,
    is_over: bool,
}

impl Client {
    fn wants(&self, kv: &KeyValue) -> bool {
        let WatchCreateRequest { key, range_end, filters, .. } = &self.request;
        let begin: &[u8] = if key.is_empty() { b"\0" } else { key };
        let in_range = match &**range_end {
            b"" => *kv.key == *begin,
            b"\0" => *kv.key >= *begin,
            end => *kv.key >= *begin && *kv.key < *end,
        };
        let filter = if kv.version == 0 { FilterType::Nodelete } else { FilterType::Noput };
        kv.mod_revision >= self.start && in_range && !filters.contains(&(filter as i32))
    }

    /// The next event it has to hear of.
    fn next<'a>(&mut self, history: &'a [KeyValue]) -> Option<&'a KeyValue> {
        while history.get(self.place).is_some_and(|kv| !self.wants(kv)) {
            self.place += 1;
        }
        history.get(self.place)
    }
}

struct Random {
    rng: ChaCha8Rng,
    clients: BTreeMap<(u64, i64), Client>,
    /// Requests that wait for their answer, by stream.
    creating: BTreeMap<u64, VecDeque<WatchCreateRequest>>,
    compactions: Vec<i64>,
    heard: BTreeMap<&'static str, usize>,
}

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.rng.next_u64() % n
    }

    fn key(&mut self) -> String {
        let len = 1 + self.below(3);
        (0..len).map(|_| char::from(b'a' + self.below(3) as u8)).collect()
    }

    fn request(&mut self, w: &World) -> WatchCreateRequest {
        let key = if self.below(20) == 0 { String::new() } else { self.key() };
        let end = match self.below(4) {
            0 => "\0".to_owned(),
            1 => self.key(),
            _ => String::new(),
        };
        let newest = w.view.rev();
        let start_revision = match self.below(4) {
            0 => 0,
            1 => newest + 1 + self.below(20) as i64,
            _ => (newest - self.below(60) as i64).max(1),
        };
        let filters = match self.below(6) {
            0 => vec![FilterType::Noput as i32],
            1 => vec![FilterType::Nodelete as i32],
            _ => Vec::new(),
        };
        WatchCreateRequest {
            start_revision,
            filters,
            progress_notify: self.below(2) == 0,
            prev_kv: self.below(3) == 0,
            fragment: self.below(4) == 0,
            ..on(&key, &end)
        }
    }

    fn hear(&mut self, w: &World, stream: u64, response: Response) {
        let kind = match &response.what {
            What::Created => "created",
            What::Refused(_) => "refused",
            What::Canceled => "canceled",
            What::Compacted(_) => "compacted",
            What::Progress if response.watch_id == -1 => "progress of all",
            What::Progress => "progress",
            What::Events { .. } => "events",
        };
        *self.heard.entry(kind).or_default() += 1;
        let place = (stream, response.watch_id);
        match &response.what {
            What::Created => {
                let request = self.creating.get_mut(&stream).and_then(VecDeque::pop_front).expect("it was asked for");
                let start = if request.start_revision == 0 { response.revision + 1 } else { request.start_revision };
                let client = Client { request, start, place: 0, within: false, is_over: false };
                let before = self.clients.insert(place, client);
                assert!(before.is_none(), "ids are unique");
            }
            What::Refused(_) => {
                let request = self.creating.get_mut(&stream).and_then(VecDeque::pop_front).expect("it was asked for");
                assert!(!request.range_end.is_empty() && request.range_end <= request.key, "{request:?}");
            }
            What::Canceled => drop(self.clients.remove(&place).expect("it was there")),
            What::Compacted(revision) => {
                let client = self.clients.get_mut(&place).expect("it was there");
                assert!(self.compactions.contains(revision) && client.start < *revision);
                client.is_over = true;
            }
            What::Progress if response.watch_id == -1 => {
                for (_, client) in self.clients.iter_mut().filter(|((s, _), c)| *s == stream && !c.is_over) {
                    let next = client.next(&w.history).map(|kv| kv.mod_revision);
                    assert!(next.is_none_or(|next| next > response.revision), "progress is ahead of events");
                }
            }
            What::Progress => {
                let client = self.clients.get_mut(&place).expect("it was there");
                assert!(!client.is_over && client.request.progress_notify && response.revision + 1 >= client.start);
                let next = client.next(&w.history).map(|kv| kv.mod_revision);
                assert!(next.is_none_or(|next| next > response.revision), "progress is ahead of events");
            }
            What::Events { events, more } => {
                let client = self.clients.get_mut(&place).expect("it was created before");
                assert!(!client.is_over && !events.list().is_empty());
                let mut last = 0;
                for event in events.list() {
                    let next = client.next(&w.history).expect("there is such an event");
                    let kv = event.kv.as_ref().expect("an event has a key");
                    assert_eq!(kv, next, "events come in order, each once, none left out");
                    assert_eq!(event.r#type == EventType::Delete as i32, kv.version == 0);
                    check_prev(w, &client.request, event);
                    last = kv.mod_revision;
                    client.place += 1;
                }
                client.within = *more;
                assert!(!more || client.request.fragment);
                let next = client.next(&w.history).map(|kv| kv.mod_revision);
                assert!(*more || next.is_none_or(|next| next > last), "a revision is told in one");
                assert!(*more || next.is_none_or(|next| next > response.revision), "the header promises too much");
                assert!(response.revision >= last);
            }
        }
    }
}

/// The value before is that of the history, or was compacted when it was looked for.
fn check_prev(w: &World, request: &WatchCreateRequest, event: &Event) {
    let kv = event.kv.as_ref().expect("an event has a key");
    let before = w.history.iter().rev().find(|old| old.key == kv.key && old.mod_revision < kv.mod_revision);
    let is_create = kv.version != 0 && kv.create_revision == kv.mod_revision;
    let before = before.filter(|old| request.prev_kv && old.version != 0 && !is_create);
    match &event.prev_kv {
        Some(prev) => assert_eq!(Some(prev), before),
        None => assert!(before.is_none() || kv.mod_revision - 1 < w.store.compact_revision()),
    }
}

fn play(seed: u64, steps: u64, heard: &mut BTreeMap<&'static str, usize>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let options = Options {
        progress_interval_ms: 200,
        fragment_bytes: 200 + (rng.next_u64() % 400) as usize,
        stream_bytes: [100, 1_000, 20_000][(rng.next_u64() % 3) as usize],
        total_bytes: [1_000, 10_000, 1 << 20][(rng.next_u64() % 3) as usize],
        catch_up_rows: 1 + (rng.next_u64() % 10) as usize,
        catch_up_bytes: 50 + (rng.next_u64() % 500) as usize,
    };
    let mut w = World::new(options);
    let mut r = Random {
        rng,
        clients: BTreeMap::new(),
        creating: BTreeMap::new(),
        compactions: Vec::new(),
        heard: BTreeMap::new(),
    };
    for _ in 0..steps {
        w.now += r.below(20);
        let streams: Vec<u64> = w.streams.keys().copied().collect();
        let stream = if streams.is_empty() { 0 } else { streams[r.below(streams.len() as u64) as usize] };
        match r.below(100) {
            0..25 => {
                let (key, value) = (r.key(), "v".repeat(r.below(60) as usize));
                w.put(&key, &value);
            }
            25..32 => {
                let (key, end) = (r.key(), r.key());
                w.delete(&key, &end);
            }
            32..36 => {
                let keys: BTreeSet<String> = (0..r.below(12)).map(|_| r.key()).collect();
                w.write(|t| {
                    for key in &keys {
                        t.put(Bytes::copy_from_slice(key.as_bytes()), Bytes::from_static(b"txn"), 0);
                    }
                });
            }
            36..60 => w.publish(),
            60 => w.publish_without_changes(),
            61 => {
                let revision = w.store.revision() - r.below(40) as i64;
                w.compact(revision);
                r.compactions.push(revision);
            }
            62..65 if streams.len() < 6 => drop(w.open()),
            65 if streams.len() > 3 => {
                w.streams.remove(&stream);
                w.step(Input::Close { stream });
                r.clients.retain(|(s, _), _| *s != stream);
                r.creating.remove(&stream);
            }
            66..72 if stream != 0 => {
                let request = r.request(&w);
                r.creating.entry(stream).or_default().push_back(request.clone());
                w.create(stream, request);
            }
            72..74 if stream != 0 => {
                let watch_id = r.below(8) as i64;
                w.ask(stream, RequestUnion::CancelRequest(WatchCancelRequest { watch_id }));
            }
            74 if stream != 0 => w.ask(stream, RequestUnion::ProgressRequest(WatchProgressRequest {})),
            75..85 => drop(w.catch_up()),
            85..88 => w.step(Input::Tick),
            _ if stream != 0 => {
                let count = r.below(6) as usize;
                for response in w.take(stream, count) {
                    r.hear(&w, stream, response);
                }
            }
            _ => {}
        }
        let largest = 16 << 10;
        let queued: usize = w.streams.keys().map(|s| w.queued(*s)).sum();
        assert_eq!(w.watchers.totals().queued_bytes, queued, "what waits is counted");
        for s in w.streams.keys() {
            assert!(w.queued(*s) < options.stream_bytes + largest, "what waits on a stream is bounded");
        }
    }
    w.publish();
    for stream in w.streams.keys().copied().collect::<Vec<_>>() {
        for response in w.drain(stream) {
            r.hear(&w, stream, response);
        }
    }
    assert_eq!(w.watchers.totals().behind, 0);
    for ((stream, id), client) in r.clients.iter_mut().filter(|(_, client)| !client.is_over) {
        assert!(!client.within);
        let missing = client.next(&w.history);
        assert_eq!(missing, None, "stream {stream}, watcher {id}: reliable means that nothing is left out");
    }
    for (kind, count) in r.heard {
        *heard.entry(kind).or_default() += count;
    }
}

#[test]
fn random_clients_hear_what_they_were_promised() {
    let seeds = std::env::var("LOCKSTEP_WATCH_SEEDS").map_or(60, |n| n.parse().expect("a number"));
    let mut heard = BTreeMap::new();
    for seed in 0..seeds {
        let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play(seed, 1_500, &mut heard)));
        assert!(played.is_ok(), "seed {seed}");
    }
    println!("{heard:?}");
    for kind in ["created", "refused", "canceled", "compacted", "progress of all", "progress", "events"] {
        assert!(heard.get(kind).is_some_and(|count| *count > 20), "{kind} is too rare: {heard:?}");
    }
}

/// What a view can still say is read at the revision before; this keeps the model of `check_prev` honest.
#[test]
fn previous_values_come_from_the_view() {
    let mut w = World::new(Options::default());
    let s = w.open();
    w.create(s, WatchCreateRequest { prev_kv: true, ..on("a", "") });
    w.drain(s);
    w.put("a", "1");
    w.put("a", "2");
    w.delete("a", "");
    w.publish();
    check(&mut w, s, &["0 @4: a=1/2 a=2(1)/3 a-(2)/4"]);
    w.put("a", "3");
    w.put("a", "4");
    w.compact(6);
    check(&mut w, s, &["0 @6: a=3/5 a=4(3)/6"]);
    assert_eq!(w.view.range(b"a", b"", RangeOptions { rev: 5, ..Default::default() }).map(|r| r.count).ok(), None);
    // One that comes late does not get what is compacted.
    w.create(s, WatchCreateRequest { prev_kv: true, ..from(6, on("a", "")) });
    check(&mut w, s, &["1 created @6", "1 @6: a=4/6"]);
}
