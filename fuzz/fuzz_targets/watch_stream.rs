//! Watch streams, well-formed and raw, over a store that changes, is compacted and published late, or not at all.
//!
//! What a watcher hears is compared with a history that forgets nothing: in order, each event once, none left out,
//! no revision torn but in fragments, no progress ahead of events; and what waits to be sent is bounded and counted.
#![no_main]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use lockstep::member::apply::Change;
use lockstep::member::watch::{Effect, Input, Options, Response, Watchers, What};
use lockstep::mvcc::View;
use lockstep::mvcc::read::Read;
use lockstep::ports::clock::Instant;
use lockstep_fuzz::choices::Choices;
use lockstep_fuzz::member::{Member, is_within};
use lockstep_proto::etcdserverpb::request_op::Request;
use lockstep_proto::etcdserverpb::watch_create_request::FilterType;
use lockstep_proto::etcdserverpb::watch_request::RequestUnion;
use lockstep_proto::etcdserverpb::*;
use lockstep_proto::mvccpb::{Event, KeyValue, event::EventType};
use prost::Message;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

const MAX_STEPS: usize = 400;
const MAX_STREAMS: u64 = 4;
/// More than the events of any one revision, or of a piece of catching up, come to.
const LARGEST_BYTES: usize = 16 << 10;

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let options = Options {
        progress_interval_ms: 200,
        fragment_bytes: choices.one_of(&[100, 300, 2 << 20]),
        stream_bytes: choices.one_of(&[100, 1_000, 20_000]),
        total_bytes: choices.one_of(&[200, 10_000, 1 << 20]),
        catch_up_rows: choices.one_of(&[1, 3, 512]),
        catch_up_bytes: choices.one_of(&[50, 1_000]),
    };
    let mut world = World::new(options);
    for _ in 0..MAX_STEPS {
        if choices.is_empty() {
            break;
        }
        world.choose(&mut choices);
        world.check_budget();
    }
    world.settle();
});

struct World {
    member: Member,
    watchers: Watchers,
    options: Options,
    now: u64,
    /// Published, and not told to the watchers yet.
    late: VecDeque<(Arc<View>, Arc<[Change]>)>,
    history: Vec<KeyValue>,
    streams: BTreeMap<u64, Stream>,
    opened: u64,
    wants_catch_up: bool,
}

/// As its client sees it.
#[derive(Default)]
struct Stream {
    waiting: VecDeque<Response>,
    /// Requests for watchers that are not answered yet.
    creating: VecDeque<WatchCreateRequest>,
    clients: BTreeMap<i64, Client>,
}

struct Client {
    request: WatchCreateRequest,
    /// The first revision it may hear of.
    start: i64,
    /// Everything in the history before this place it has heard of, or does not want.
    place: usize,
    /// The last response was a fragment, and not the last one.
    within: bool,
    is_over: bool,
}

impl World {
    fn new(options: Options) -> World {
        let mut world = World {
            member: Member::new(false),
            watchers: Watchers::new(options, ChaCha8Rng::seed_from_u64(1)),
            options,
            now: 0,
            late: VecDeque::new(),
            history: Vec::new(),
            streams: BTreeMap::new(),
            opened: 0,
            wants_catch_up: false,
        };
        world.publish();
        world.tell();
        world
    }

    fn choose(&mut self, choices: &mut Choices<'_>) {
        self.now += u64::from(choices.below(32));
        match choices.below(24) {
            0..5 => {
                let put = PutRequest { value: value(choices), key: choices.key().into(), ..Default::default() };
                self.write(InternalRaftRequest { put: Some(put), ..Default::default() });
            }
            5 => {
                let (key, range_end) = (choices.key().into(), choices.key().into());
                let delete_range = Some(DeleteRangeRequest { key, range_end, prev_kv: false });
                self.write(InternalRaftRequest { delete_range, ..Default::default() });
            }
            6 => {
                let put = |key: u8| PutRequest { key: vec![key].into(), value: value(choices), ..Default::default() };
                let ops = b"abcd".map(put).map(|put| RequestOp { request: Some(Request::RequestPut(put)) });
                let txn = Some(TxnRequest { success: ops.into(), ..Default::default() });
                self.write(InternalRaftRequest { txn, ..Default::default() });
            }
            7 => {
                let revision = self.member.view.rev() - i64::from(choices.below(16));
                let compaction = Some(CompactionRequest { revision, physical: false });
                self.write(InternalRaftRequest { compaction, ..Default::default() });
            }
            8 => {
                self.member.compact_step();
                self.publish();
            }
            9..12 => self.tell(),
            // The next ones come with a gap before them.
            12 => drop(self.late.pop_front()),
            13 => {
                if let Some((_, changes)) = self.late.front_mut() {
                    *changes = Arc::default();
                }
            }
            14 if self.opened < MAX_STREAMS => self.open(),
            14 => {
                if let Some(stream) = self.stream(choices) {
                    self.streams.remove(&stream);
                    self.step(Input::Close { stream });
                }
            }
            15..19 => self.ask(choices),
            19 => drop(self.catch_up()),
            20 => self.step(Input::Tick),
            _ => {
                if let Some(stream) = self.stream(choices) {
                    self.take(stream, usize::from(choices.below(8)));
                }
            }
        }
    }

    fn stream(&self, choices: &mut Choices<'_>) -> Option<u64> {
        let open: Vec<u64> = self.streams.keys().copied().collect();
        (!open.is_empty()).then(|| choices.one_of(&open))
    }

    fn write(&mut self, request: InternalRaftRequest) {
        self.member.propose(request);
        self.publish();
    }

    fn publish(&mut self) {
        for (view, changes) in self.member.published.drain(..) {
            self.history.extend(changes.iter().flat_map(|change| change.events.iter().cloned()));
            self.late.push_back((view, changes));
        }
    }

    fn tell(&mut self) {
        if let Some((view, changes)) = self.late.pop_front() {
            self.step(Input::Published { view, changes });
        }
    }

    fn open(&mut self) {
        self.opened += 1;
        self.streams.insert(self.opened, Stream::default());
        self.step(Input::Open { stream: self.opened });
    }

    fn ask(&mut self, choices: &mut Choices<'_>) {
        let Some(stream) = self.stream(choices) else { return self.open() };
        let newest = self.member.view.rev();
        let union = match choices.below(8) {
            0 => match WatchRequest::decode(choices.bytes()) {
                Ok(WatchRequest { request_union }) => request_union,
                Err(_) => return,
            },
            1 => Some(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: i64::from(choices.below(8)) })),
            2 => Some(RequestUnion::ProgressRequest(WatchProgressRequest {})),
            _ => Some(RequestUnion::CreateRequest(create(choices, newest))),
        };
        if let Some(RequestUnion::CreateRequest(create)) = &union {
            self.streams.get_mut(&stream).expect("it is open").creating.push_back(create.clone());
        }
        self.step(Input::Request { stream, request: WatchRequest { request_union: union }, newest });
    }

    fn catch_up(&mut self) -> bool {
        let wanted = std::mem::take(&mut self.wants_catch_up);
        if wanted {
            self.step(Input::CatchUp(self.member.view.clone()));
        }
        wanted
    }

    fn take(&mut self, stream: u64, count: usize) -> usize {
        let waiting = &mut self.streams.get_mut(&stream).expect("it is open").waiting;
        let taken: Vec<Response> = waiting.drain(..count.min(waiting.len())).collect();
        for response in &taken {
            self.hear(stream, response);
        }
        let charge = taken.iter().map(|response| response.charge).sum();
        self.step(Input::Taken { stream, charge });
        taken.len()
    }

    fn step(&mut self, input: Input) {
        for effect in self.watchers.step(Instant(self.now), input) {
            match effect {
                Effect::Send { stream, response } => {
                    self.streams.get_mut(&stream).expect("it is open").waiting.push_back(response);
                }
                Effect::CatchUp => {
                    assert!(!self.wants_catch_up, "catching up is asked for once");
                    self.wants_catch_up = true;
                }
                Effect::End { reason, .. } => panic!("the store can be read: {reason}"),
            }
        }
    }

    fn check_budget(&self) {
        let charge = |stream: &Stream| stream.waiting.iter().map(|r| r.charge).sum::<usize>();
        assert_eq!(self.watchers.totals().queued_bytes, self.streams.values().map(charge).sum::<usize>());
        for stream in self.streams.values() {
            let is_events = |r: &&Response| matches!(r.what, What::Events { .. });
            let events: usize = stream.waiting.iter().filter(is_events).map(|r| r.charge).sum();
            assert!(events < self.options.stream_bytes + LARGEST_BYTES, "what waits on a stream is bounded");
        }
    }

    /// In the end everybody has heard of everything.
    fn settle(&mut self) {
        while !self.late.is_empty() {
            self.tell();
        }
        // The machine is told of the newest view, whatever was left out.
        self.step(Input::Published { view: self.member.view.clone(), changes: Arc::default() });
        loop {
            let mut is_quiet = !self.catch_up();
            for stream in self.streams.keys().copied().collect::<Vec<_>>() {
                is_quiet &= self.take(stream, usize::MAX) == 0;
            }
            if is_quiet {
                break;
            }
        }
        assert_eq!(self.watchers.totals().behind, 0);
        for stream in self.streams.values_mut() {
            assert!(stream.creating.is_empty(), "every request is answered");
            for client in stream.clients.values_mut().filter(|client| !client.is_over) {
                assert_eq!((client.next(&self.history), client.within), (None, false), "nothing is left out");
            }
        }
    }

    fn hear(&mut self, stream: u64, response: &Response) {
        let World { member, history, streams, .. } = self;
        let Stream { creating, clients, .. } = streams.get_mut(&stream).expect("it is open");
        let message = response.to_message(ResponseHeader::default());
        assert_eq!(WatchResponse::decode(&*message.encode_to_vec()), Ok(message));
        let id = response.watch_id;
        match &response.what {
            What::Created => {
                let request = creating.pop_front().expect("it was asked for");
                assert!(request.watch_id == 0 || request.watch_id == id, "an id that was chosen is kept");
                let start = if request.start_revision == 0 { response.revision + 1 } else { request.start_revision };
                let client = Client { request, start, place: 0, within: false, is_over: false };
                assert!(clients.insert(id, client).is_none(), "ids are unique");
            }
            What::Refused(_) => {
                let request = creating.pop_front().expect("it was asked for");
                let is_taken = request.watch_id != 0 && clients.contains_key(&request.watch_id);
                let begin: &[u8] = if request.key.is_empty() { b"\0" } else { &request.key };
                let is_empty = !matches!(&*request.range_end, b"" | b"\0") && *begin >= *request.range_end;
                assert!(is_taken || is_empty || request.start_revision < 0, "{request:?}");
            }
            What::Canceled => drop(clients.remove(&id).expect("it was there")),
            What::Compacted(revision) => {
                let client = clients.get_mut(&id).expect("it was there");
                assert!(client.start < *revision && *revision <= member.view.compact_rev());
                client.is_over = true;
            }
            What::Progress => {
                // Whoever chooses -1 cannot tell its own from that of all.
                let of_all = id == -1 && !clients.contains_key(&-1);
                for (_, client) in clients.iter_mut().filter(|(other, c)| (of_all || **other == id) && !c.is_over) {
                    assert!(of_all || id == -1 || client.request.progress_notify);
                    assert!(response.revision + 1 >= client.start);
                    assert!(client.has_heard_upto(response.revision, history), "progress is ahead of events");
                }
            }
            What::Events { events, more } => {
                let client = clients.get_mut(&id).expect("it was created before");
                assert!(!client.is_over && !events.list().is_empty());
                let mut last = 0;
                for event in events.list() {
                    let next = client.next(history).expect("there is such an event");
                    assert_eq!(event.kv.as_ref(), Some(next), "in order, each once, none left out");
                    last = next.mod_revision;
                    check_event(member, history, &client.request, event);
                    client.place += 1;
                }
                client.within = *more;
                assert!(!more || client.request.fragment);
                assert!(*more || client.has_heard_upto(response.revision.max(last), history), "a revision is torn");
                assert!(response.revision >= last);
            }
        }
    }
}

impl Client {
    fn wants(&self, kv: &KeyValue) -> bool {
        let WatchCreateRequest { key, range_end, filters, .. } = &self.request;
        let begin: &[u8] = if key.is_empty() { b"\0" } else { key };
        let filter = if kv.version == 0 { FilterType::Nodelete } else { FilterType::Noput };
        kv.mod_revision >= self.start && is_within(&kv.key, begin, range_end) && !filters.contains(&(filter as i32))
    }

    /// The next event it has to hear of.
    fn next<'a>(&mut self, history: &'a [KeyValue]) -> Option<&'a KeyValue> {
        while history.get(self.place).is_some_and(|kv| !self.wants(kv)) {
            self.place += 1;
        }
        history.get(self.place)
    }

    fn has_heard_upto(&mut self, revision: i64, history: &[KeyValue]) -> bool {
        self.next(history).is_none_or(|next| next.mod_revision > revision)
    }
}

/// The value before is that of the history, or was compacted when it was looked for.
fn check_event(member: &Member, history: &[KeyValue], request: &WatchCreateRequest, event: &Event) {
    let kv = event.kv.as_ref().expect("an event has a key");
    assert_eq!(event.r#type == EventType::Delete as i32, kv.version == 0);
    let before = history.iter().rev().find(|old| old.key == kv.key && old.mod_revision < kv.mod_revision);
    let is_create = kv.version != 0 && kv.create_revision == kv.mod_revision;
    let before = before.filter(|old| request.prev_kv && old.version != 0 && !is_create);
    match &event.prev_kv {
        Some(prev) => assert_eq!(Some(prev), before),
        None => assert!(before.is_none() || kv.mod_revision - 1 < member.view.compact_rev()),
    }
}

fn value(choices: &mut Choices<'_>) -> bytes::Bytes {
    vec![b'v'; usize::from(choices.below(64))].into()
}

fn create(choices: &mut Choices<'_>, newest: i64) -> WatchCreateRequest {
    let mut create = WatchCreateRequest { key: choices.key().into(), ..Default::default() };
    let flags = choices.byte();
    create.range_end = match flags & 3 {
        0 => Default::default(),
        1 => vec![0].into(),
        _ => choices.key().into(),
    };
    (create.progress_notify, create.prev_kv, create.fragment) = (flags & 4 == 4, flags & 8 == 8, flags & 16 == 16);
    if flags & 32 == 32 {
        create.filters.push(i32::from(choices.below(3)));
    }
    if flags & 64 == 64 {
        create.start_revision = newest - i64::from(choices.below(32)) + 4;
    }
    if flags & 128 == 128 {
        create.watch_id = i64::from(choices.below(8)) - 2;
    }
    create
}
