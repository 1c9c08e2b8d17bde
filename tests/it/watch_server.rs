//! Watching over the wire: the same requests to a real etcd and to `lockstepd` are answered alike, and what only a
//! server can get wrong: leaders that are gone, stops, clients that do not read.
//!
//! `LOCKSTEP_WATCH_SEQUENCES` (4) says how many random sequences are compared. How revisions are batched into responses
//! may differ, and with it their headers; ids, events, their order, reasons and compact revisions may not.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lockstep::proto::etcdserverpb::watch_client::WatchClient;
use lockstep::proto::etcdserverpb::watch_create_request::FilterType;
use lockstep::proto::etcdserverpb::watch_request::RequestUnion;
use lockstep::proto::etcdserverpb::*;
use lockstep::proto::mvccpb::{Event, event::EventType};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use tonic::{Code, Status};

use crate::util::client::Client;
use crate::util::differences::reconcile;
use crate::util::generator::{self, Position};
use crate::util::oracle::Etcd;
use crate::util::process::{Cluster, Kind};
use crate::util::target::{Process, Request, Target};
use crate::util::watch::Watch;

const SOON: Duration = Duration::from_secs(10);
const QUIET: Duration = Duration::from_millis(300);

#[derive(Clone)]
enum Do {
    Watch(WatchCreateRequest),
    Cancel(i64),
    Progress,
    Put(&'static str, &'static str),
    PutLarge(&'static str, usize),
    Delete(&'static str, &'static str),
    Compact(i64),
    /// So many responses come; they are shown sorted, because etcd tells watchers of one revision in any order.
    Hear(usize),
}

use Do::*;

fn on(key: &str, end: &str) -> WatchCreateRequest {
    WatchCreateRequest { key: key.into(), range_end: end.into(), ..Default::default() }
}

fn from(start_revision: i64, request: WatchCreateRequest) -> WatchCreateRequest {
    WatchCreateRequest { start_revision, ..request }
}

fn id(watch_id: i64, request: WatchCreateRequest) -> WatchCreateRequest {
    WatchCreateRequest { watch_id, ..request }
}

fn prev(request: WatchCreateRequest) -> WatchCreateRequest {
    WatchCreateRequest { prev_kv: true, ..request }
}

fn without(filter: FilterType, request: WatchCreateRequest) -> WatchCreateRequest {
    WatchCreateRequest { filters: vec![filter as i32, 7], ..request }
}

/// Each on a server of its own, whose first revision is 1.
fn scenarios() -> Vec<(&'static str, Vec<Do>)> {
    vec![
        (
            "ids",
            vec![
                Watch(on("a", "")),
                Watch(id(1, on("a", ""))),
                Watch(on("a", "")),
                Watch(id(2, on("a", ""))),
                Watch(id(-3, on("a", ""))),
                Hear(5),
                Put("a", "1"),
                Hear(4),
                Cancel(2),
                Cancel(2),
                Cancel(99),
                Watch(on("a", "")),
                Hear(2),
                Put("a", "2"),
                Hear(4),
            ],
        ),
        (
            "ranges",
            vec![
                Watch(on("", "")),
                Watch(on("", "\0")),
                Watch(on("b", "\0")),
                Watch(on("b", "d")),
                Watch(on("d", "b")),
                Watch(on("b", "b")),
                Hear(6),
                Put("a", "1"),
                Hear(1),
                Put("b", "1"),
                Hear(3),
                Put("d", "1"),
                Hear(2),
                Put("\0", "1"),
                Hear(2),
                Delete("a", "c"),
                Hear(3),
            ],
        ),
        (
            "filters and previous values",
            vec![
                Watch(without(FilterType::Noput, on("a", "z"))),
                Watch(without(FilterType::Nodelete, on("a", "z"))),
                Watch(prev(on("a", "z"))),
                Hear(3),
                Put("a", "1"),
                Hear(2),
                Put("a", "2"),
                Hear(2),
                Put("b", "1"),
                Hear(2),
                Delete("a", "z"),
                Hear(2),
                Put("a", "3"),
                Hear(2),
            ],
        ),
        (
            "the past",
            vec![
                Put("a", "1"),
                Put("a", "2"),
                Put("b", "1"),
                Delete("a", ""),
                Put("a", "3"),
                Watch(prev(from(1, on("a", "")))),
                Hear(2),
                Watch(prev(from(3, on("a", "z")))),
                Hear(2),
                Watch(from(6, on("a", ""))),
                Hear(2),
                Watch(from(7, on("a", ""))),
                Watch(from(9, on("a", ""))),
                Hear(2),
                Put("a", "4"),
                Hear(4),
                Put("a", "5"),
                Hear(4),
                Put("a", "6"),
                Hear(5),
            ],
        ),
        (
            "compaction",
            vec![
                Put("a", "1"),
                Put("a", "2"),
                Put("a", "3"),
                Compact(4),
                Watch(from(2, on("a", ""))),
                Hear(2),
                Watch(from(3, on("x", ""))),
                Hear(2),
                Watch(prev(from(4, on("a", "")))),
                Hear(2),
                // The ids of the canceled are still taken.
                Watch(id(1, on("a", ""))),
                Watch(on("a", "")),
                Cancel(1),
                Hear(3),
                Put("a", "4"),
                Hear(2),
            ],
        ),
        (
            "progress",
            vec![
                Watch(on("a", "")),
                Hear(1),
                Put("b", "1"),
                Progress,
                Hear(1),
                Put("a", "1"),
                Hear(1),
                Progress,
                Hear(1),
            ],
        ),
        (
            "fragments",
            vec![
                PutLarge("a", 1_000_000),
                PutLarge("b", 1_000_000),
                PutLarge("c", 1_000_000),
                PutLarge("d", 1_000_000),
                PutLarge("e", 100_000),
                Watch(WatchCreateRequest { fragment: true, ..prev(on("a", "z")) }),
                Watch(prev(on("a", "z"))),
                Hear(2),
                Delete("a", "z"),
                Hear(5),
            ],
        ),
    ]
}

#[test]
fn scenarios_go_as_on_etcd() {
    for (name, steps) in scenarios() {
        let [etcd, ours] = [Kind::Etcd(Etcd::V35), Kind::Lockstepd].map(|kind| transcript(kind, &steps));
        let (Some(etcd), Some(ours)) = (etcd, ours) else { return };
        assert_eq!(ours, etcd, "{name}: ours on the left");
    }
}

fn transcript(kind: Kind, steps: &[Do]) -> Option<String> {
    let cluster = Cluster::start(kind, 1)?;
    let client = cluster.client(0);
    // Members write before they are ready, but no keys.
    let mut watch = self::Watch::open(&cluster.members[0].client_url());
    let mut text = String::new();
    for step in steps {
        match step.clone() {
            Watch(request) => watch.create(request),
            Cancel(watch_id) => watch.ask(RequestUnion::CancelRequest(WatchCancelRequest { watch_id })),
            Progress => watch.ask(RequestUnion::ProgressRequest(WatchProgressRequest {})),
            Put(key, value) => put(&client, key, value.as_bytes()),
            PutLarge(key, len) => put(&client, key, &vec![b'v'; len]),
            Delete(key, end) => {
                let copy = |text: &str| Bytes::copy_from_slice(text.as_bytes());
                let request = DeleteRangeRequest { key: copy(key), range_end: copy(end), prev_kv: false };
                client.delete_range(request).expect("it can be deleted");
            }
            Compact(revision) => {
                client.compact(CompactionRequest { revision, physical: true }).expect("it can be compacted");
            }
            Hear(count) => {
                let mut heard: Vec<String> = (0..count).map(|i| show(watch.next(SOON), i, count)).collect();
                heard.sort();
                let _ = writeln!(text, "{}", heard.join("\n"));
            }
        }
    }
    if let Some(more) = watch.next(QUIET) {
        let _ = writeln!(text, "too much: {more:?}");
    }
    Some(text)
}

fn put(client: &Client, key: &str, value: &[u8]) {
    let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value));
    client.put(PutRequest { key, value, ..Default::default() }).expect("it can be put");
}

fn show(response: Option<Result<WatchResponse, Status>>, i: usize, count: usize) -> String {
    let r = match response {
        Some(Ok(response)) => response,
        other => return format!("response {i} of {count} is {other:?}"),
    };
    let header = r.header.expect("a response has a header");
    assert!(header.cluster_id != 0 && header.member_id != 0 && header.raft_term != 0, "{header:?}");
    let events: Vec<String> = r.events.iter().map(show_event).collect();
    let flags = [(r.created, "created"), (r.canceled, "canceled"), (r.fragment, "fragment")];
    let flags: Vec<&str> = flags.into_iter().filter(|(on, _)| *on).map(|(_, name)| name).collect();
    let (id, revision) = (r.watch_id, header.revision);
    format!("{id} @{revision} {flags:?} {} {:?} {}", r.compact_revision, r.cancel_reason, events.join(" "))
}

fn show_event(event: &Event) -> String {
    let kv = event.kv.as_ref().expect("an event has a key");
    let short = |value: &Bytes| match value.len() {
        0..50 => value.escape_ascii().to_string(),
        len => format!("<{len}>"),
    };
    let prev = event.prev_kv.as_ref().map_or(String::new(), |p| format!("({},{})", short(&p.value), p.mod_revision));
    let what = if event.r#type == EventType::Delete as i32 { "-" } else { "=" };
    let (key, value) = (kv.key.escape_ascii(), short(&kv.value));
    format!("{key}{what}{value}{prev}/{},{},{},{}", kv.create_revision, kv.mod_revision, kv.version, kv.lease)
}

/// What one server told on its streams: by stream and watcher, one line for each event and each other response.
#[derive(Default)]
struct Told {
    streams: Vec<Watch>,
    lines: BTreeMap<(usize, i64), Vec<String>>,
}

impl Told {
    /// Takes what is there.
    fn listen(&mut self) {
        for (stream, watch) in self.streams.iter_mut().enumerate() {
            while let Some(response) = watch.next(Duration::from_millis(2)) {
                let r = response.unwrap_or_else(|status| panic!("the stream ended: {status}"));
                let lines = self.lines.entry((stream, r.watch_id)).or_default();
                if r.events.is_empty() {
                    let header = r.header.map_or(0, |header| header.revision);
                    lines.push(format!(
                        "{} {} @{header} {} {}",
                        r.created, r.canceled, r.compact_revision, r.cancel_reason
                    ));
                }
                lines.extend(r.events.iter().map(show_event));
            }
        }
    }
}

/// Generated writes and compactions, with watchers of all kinds that come and go.
#[test]
fn random_watchers_hear_the_same_from_etcd() {
    let sequences = std::env::var("LOCKSTEP_WATCH_SEQUENCES").map_or(4, |n| n.parse().expect("a number"));
    let start = |kind| Process::start(kind);
    let (Some(mut etcd), Some(mut ours)) = (start(Kind::Etcd(Etcd::V35)), start(Kind::Lockstepd)) else { return };
    let mut events = 0;
    for sequence in 0..sequences {
        events += compare_sequence(&mut etcd, &mut ours, sequence);
    }
    assert!(events > 100 * sequences, "only {events} events were told");
}

fn compare_sequence(etcd: &mut Process, ours: &mut Process, sequence: u64) -> u64 {
    let mut rng = ChaCha8Rng::seed_from_u64(sequence);
    let mut told = [Told::default(), Told::default()];
    let urls = [&*etcd, &*ours].map(|process| process.cluster.members[0].client_url());
    for (told, url) in told.iter_mut().zip(&urls) {
        told.streams = (0..3).map(|_| self::Watch::open(url)).collect();
    }
    let all = Bytes::from_static(b"\0");
    let clear = Request::DeleteRange(DeleteRangeRequest { key: all.clone(), range_end: all, prev_kv: false });
    let mut at = Position::default();
    for step in 0..150 {
        let request = if step == 0 { clear.clone() } else { generator::request(1_000, sequence, step, at) };
        if matches!(request, Request::Compact(_)) {
            // Who is told before and who after a compaction is a matter of time.
            settle(&mut told, sequence, step, Duration::from_millis(20));
        }
        if !matches!(request, Request::HashKv(_) | Request::Range(_)) {
            let (left, right) = (etcd.call(&request), ours.call(&request));
            let (mut l, mut r) = (left.clone(), right);
            reconcile(&request, (etcd.release(), &mut l), (ours.release(), &mut r));
            assert_eq!(l, r, "sequence {sequence}, step {step}: {request:?}");
            if let Ok(response) = left {
                at.rev = response.header().revision;
                if let Request::Compact(compaction) = &request {
                    at.compact_rev = compaction.revision;
                }
            }
        }
        if rng.next_u32() % 6 == 0 {
            let stream = rng.next_u32() as usize % 3;
            let request = watch_request(&mut rng, at);
            told.iter().for_each(|told| told.streams[stream].ask(request.clone()));
            // etcd looks for those who are behind every 100 ms.
            settle(&mut told, sequence, step, Duration::from_millis(130));
        }
    }
    settle(&mut told, sequence, 150, Duration::from_millis(130));
    told[0].lines.values().map(|lines| lines.len() as u64).sum()
}

/// Waits until both have told the same, and some time at least.
fn settle(told: &mut [Told; 2], sequence: u64, step: u64, least: Duration) {
    let start = Instant::now();
    loop {
        told.iter_mut().for_each(Told::listen);
        let is_equal = told[0].lines == told[1].lines;
        if is_equal && start.elapsed() >= least {
            return;
        }
        if start.elapsed() > SOON {
            let differing = told[0].lines.iter().find(|(place, lines)| told[1].lines.get(place) != Some(lines));
            let place = differing.map(|(place, _)| *place).or(told[1].lines.keys().next_back().copied());
            let of = |told: &Told| place.and_then(|place| told.lines.get(&place)).map(|lines| lines.join("\n"));
            let (etcd, ours) = (of(&told[0]).unwrap_or_default(), of(&told[1]).unwrap_or_default());
            panic!("sequence {sequence}, step {step}, (stream, id) {place:?}:\netcd:\n{etcd}\nours:\n{ours}");
        }
    }
}

fn watch_request(rng: &mut ChaCha8Rng, at: Position) -> RequestUnion {
    let mut below = |n: u32| rng.next_u32() % n;
    if below(4) == 0 {
        return RequestUnion::CancelRequest(WatchCancelRequest { watch_id: i64::from(below(6)) });
    }
    let key = ["a", "a0", "aa", "ab", "b", "c", "k", ""][below(8) as usize];
    let end = ["", "", "b", "c", "\0", "\0", "a"][below(7) as usize];
    let start_revision = match below(8) {
        0..3 => 0,
        3 => at.rev + 1 + i64::from(below(5)),
        // At the compaction's own revision etcd 3.5.1 has lost the deletions.
        4 if at.compact_rev > 1 => at.compact_rev - 1,
        _ => (at.rev - i64::from(below(30))).max(at.compact_rev + 1).max(1),
    };
    let filters = [vec![], vec![], vec![FilterType::Noput as i32], vec![FilterType::Nodelete as i32]];
    RequestUnion::CreateRequest(WatchCreateRequest {
        start_revision,
        filters: filters[below(4) as usize].clone(),
        prev_kv: below(2) == 0,
        fragment: below(4) == 0,
        watch_id: if below(4) == 0 { i64::from(below(6)) } else { 0 },
        ..on(key, end)
    })
}

/// A stream that wants a leader ends soon after there is none; one that does not goes on.
#[test]
fn streams_that_want_a_leader_end_without_one() {
    let mut cluster = Cluster::start(Kind::Lockstepd, 3).expect("lockstepd is here");
    let url = cluster.members[0].client_url();
    let [mut wants, mut patient] = [true, false].map(|wants_leader| self::Watch::open_with(&url, wants_leader));
    for watch in [&mut wants, &mut patient] {
        watch.create(on("a", ""));
        assert!(watch.next(SOON).expect("a response").expect("it is created").created);
    }
    cluster.members[1].kill();
    cluster.members[2].kill();
    let end = wants.next(Duration::from_secs(20)).expect("it ends").expect_err("there is no leader");
    assert_eq!((end.code(), end.message()), (Code::Unavailable, "etcdserver: no leader"));
    assert!(patient.next(QUIET).is_none());
    let refused = self::Watch::open_with(&url, true).next(SOON).expect("it ends").expect_err("there is no leader");
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "etcdserver: no leader"));
}

#[test]
fn a_stop_ends_streams_at_once() {
    let mut cluster = Cluster::start(Kind::Lockstepd, 1).expect("lockstepd is here");
    let mut watch = self::Watch::open(&cluster.members[0].client_url());
    watch.create(on("a", ""));
    assert!(watch.next(SOON).expect("a response").expect("it is created").created);
    let start = Instant::now();
    cluster.members[0].terminate();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    let end = watch.next(SOON).expect("it ends").expect_err("the server stopped");
    // What a client library takes for a reason to go to another member.
    assert_eq!(end.code(), Code::Unavailable, "{end}");
}

/// The end of the requests is not the end of the watch; etcd's gateway relies on it.
#[test]
fn a_stream_whose_requests_have_ended_goes_on() {
    for kind in [Kind::Etcd(Etcd::V35), Kind::Lockstepd] {
        let Some(cluster) = Cluster::start(kind, 1) else { continue };
        let mut watch = self::Watch::open(&cluster.members[0].client_url());
        watch.create(on("a", ""));
        watch.end_requests();
        assert!(watch.next(SOON).expect("a response").expect("it is created").created);
        put(&cluster.client(0), "a", b"1");
        assert_eq!(watch.next(SOON).expect("a response").expect("an event").events.len(), 1, "{kind:?}");
    }
}

#[test]
fn progress_comes_at_the_interval_that_was_set() {
    for flag in ["--experimental-watch-progress-notify-interval=300ms", "--watch-progress-notify-interval=300ms"] {
        let cluster = Cluster::start_with(Kind::Lockstepd, 1, &[flag]).expect("lockstepd is here");
        let mut watch = self::Watch::open(&cluster.members[0].client_url());
        watch.create(WatchCreateRequest { progress_notify: true, ..on("a", "") });
        watch.next(SOON).expect("a response").expect("it is created");
        let start = Instant::now();
        for _ in 0..3 {
            let response = watch.next(SOON).expect("a response").expect("it goes on");
            assert!(response.events.is_empty() && response.watch_id == 0, "{response:?}");
            assert_eq!(response.header.map(|header| header.revision), Some(1));
        }
        let took = start.elapsed();
        assert!((Duration::from_millis(700)..Duration::from_millis(2_000)).contains(&took), "{took:?}");
    }
}

/// Two thousand streams on ten connections, with ten watchers each: everybody hears everything, once.
#[test]
fn thousands_of_streams_hear_every_change() {
    const STREAMS: usize = 200;
    const CHANNELS: usize = 10;
    const WATCHERS: usize = 10;
    const PUTS: usize = 5;
    let cluster = Cluster::start(Kind::Lockstepd, 1).expect("lockstepd is here");
    let url = cluster.members[0].client_url();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let (ready, mut is_ready) = tokio::sync::mpsc::unbounded_channel();
    let mut tasks = Vec::new();
    for _ in 0..CHANNELS {
        let endpoint = tonic::transport::Endpoint::from_shared(url.clone()).expect("a URL");
        let channel = runtime.block_on(async { endpoint.connect_lazy() });
        for _ in 0..STREAMS {
            let (channel, ready) = (channel.clone(), ready.clone());
            tasks.push(runtime.spawn(async move {
                let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(on("a", "b"))) };
                let requests = tokio_stream::iter(vec![create; WATCHERS]);
                let mut stream = WatchClient::new(channel).watch(requests).await.expect("it opens").into_inner();
                let mut heard: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
                let mut created = 0;
                while created < WATCHERS || heard.values().any(|revisions| revisions.len() < PUTS) {
                    let response = stream.message().await.expect("it goes on").expect("it goes on");
                    if response.created {
                        created += 1;
                        heard.insert(response.watch_id, Vec::new());
                        if created == WATCHERS {
                            let _ = ready.send(());
                        }
                    }
                    let revisions = response.events.iter().filter_map(|event| Some(event.kv.as_ref()?.mod_revision));
                    heard.get_mut(&response.watch_id).expect("it was created before").extend(revisions);
                }
                heard
            }));
        }
    }
    for _ in 0..STREAMS * CHANNELS {
        runtime.block_on(is_ready.recv()).expect("all are created");
    }
    let client = cluster.client(0);
    (0..PUTS).for_each(|_| put(&client, "a", b"1"));
    for task in tasks {
        let heard = runtime.block_on(task).expect("it hears everything");
        assert_eq!(heard.len(), WATCHERS);
        assert!(heard.values().all(|revisions| *revisions == (2..2 + PUTS as i64).collect::<Vec<_>>()), "{heard:?}");
    }
}

/// A client that does not read costs bounded memory and nobody's time, and misses nothing.
#[test]
fn a_slow_client_holds_nobody_up_and_misses_nothing() {
    const PUTS: usize = 600;
    const LEN: usize = 200_000;
    let cluster = Cluster::start(Kind::Lockstepd, 1).expect("lockstepd is here");
    let url = cluster.members[0].client_url();
    let [mut slow, mut quick] = [0, 1].map(|_| self::Watch::open(&url));
    for watch in [&mut slow, &mut quick] {
        watch.create(on("a", ""));
        assert!(watch.next(SOON).expect("a response").expect("it is created").created);
    }
    let client = cluster.client(0);
    let value = vec![b'v'; LEN];
    for i in 0..PUTS {
        put(&client, "a", &value);
        let response = quick.next(SOON).expect("a response").expect("it goes on");
        assert_eq!(response.events.len(), 1, "put {i}");
    }
    let mut heard = Vec::new();
    while heard.len() < PUTS {
        let response = slow.next(SOON).expect("nothing is left out").expect("it goes on");
        heard.extend(response.events.into_iter().filter_map(|event| event.kv).map(|kv| kv.mod_revision));
    }
    assert_eq!(heard, (2..2 + PUTS as i64).collect::<Vec<_>>());
}
