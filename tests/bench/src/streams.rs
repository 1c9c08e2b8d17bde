//! What goes on over time: watches, keep-alives, grants, and ranges that are long. Two servers in turn, as `compare`
//! has them, a fresh member each time.
//!
//! One thread is the client of all streams. It decodes no event but counts them, so that the figure is the server's.
//! Every event that is owed is waited for: a server that is quick and short of events fails.

use crate::args::Args;
use crate::client::{self, Calls, frame};
use crate::compare::{Side, sides};
use crate::servers::Cluster;
use crate::usage;
use bytes::Bytes;
use hdrhistogram::Histogram;
use lockstep_proto::etcdserverpb::request_op::Request as Op;
use lockstep_proto::etcdserverpb::watch_request::RequestUnion;
use lockstep_proto::etcdserverpb::*;
use prost::Message;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::LocalSet;

/// What a scenario has to say about a server: what it is, in which unit, and how much.
pub type Figures = Vec<(&'static str, f64)>;

/// How long what is owed may take after the last write.
const OWED_WITHIN: Duration = Duration::from_secs(60);
const CONNECTIONS: usize = 10;
const STREAMS: usize = 10;
const RANGE_KEYS: usize = 100_000;
const RESTART_KEYS: usize = 1_000_000;
const FILL_CLIENTS: usize = 8;
/// Field 11 of a `WatchResponse`, `events`.
const EVENTS: u64 = 11;

struct Scenario {
    name: &'static str,
    run: fn(&mut Run) -> Result<Figures, String>,
}

const SCENARIOS: &[Scenario] = &[
    Scenario { name: "watch-1x10000", run: |run| fan_out(run, 1, 100) },
    Scenario { name: "watch-100x1000", run: |run| fan_out(run, 100, 10) },
    Scenario { name: "watch-latency", run: |run| latency(run) },
    Scenario { name: "keep-alive", run: |run| keep_alive(run) },
    Scenario { name: "grant", run: |run| grant(run) },
    Scenario { name: "range", run: |run| long_range(run) },
    Scenario { name: "restart", run: restart },
];

struct Run {
    cluster: Cluster,
    endpoint: String,
    seconds: Duration,
}

pub fn main(mut args: Args) -> Result<bool, String> {
    let sides = sides(&mut args)?;
    let rounds: usize = args.value("--rounds", 5)?;
    let seconds = args.seconds("--seconds", 3.0)?;
    let all = SCENARIOS.iter().map(|scenario| scenario.name).collect::<Vec<_>>().join(",");
    let only: Vec<String> = args.list("--only", &all)?;
    let dir = args.text("--dir")?.map_or_else(|| PathBuf::from("target/bench"), PathBuf::from);
    args.finish()?;
    if let Some(unknown) = only.iter().find(|name| SCENARIOS.iter().all(|scenario| scenario.name != **name)) {
        return Err(format!("--only {unknown}: there are {all}"));
    }
    let names: Vec<&str> = SCENARIOS
        .iter()
        .map(|scenario| scenario.name)
        .filter(|name| only.iter().any(|wanted| wanted == name))
        .collect();
    let (_, good) = in_turns(&sides, &names, rounds, |name, side| {
        let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name).expect("it is one of them");
        turn(scenario, side, &dir, seconds)
    });
    Ok(good)
}

/// A line of the table: medians of both servers.
pub struct Line {
    pub scenario: String,
    pub what: &'static str,
    pub a: f64,
    pub b: f64,
}

/// A B A B ..., scenario after scenario; prints the table while it goes on. False when something failed.
pub fn in_turns(
    sides: &[Side; 2],
    scenarios: &[&str],
    rounds: usize,
    turn: impl Fn(&str, &Side) -> Result<Figures, String>,
) -> (Vec<Line>, bool) {
    println!("| scenario | what | {} | {} | ratio |", sides[0].name, sides[1].name);
    println!("| --- | --- | ---: | ---: | ---: |");
    let (mut lines, mut good) = (Vec::new(), true);
    for &scenario in scenarios {
        let mut figures: [Vec<Figures>; 2] = [Vec::new(), Vec::new()];
        for round in 1..=rounds {
            for (side, of_side) in sides.iter().zip(&mut figures) {
                usage::progress(&format!("{scenario}: {}, round {round} of {rounds}", side.name));
                match turn(scenario, side) {
                    Ok(measured) => of_side.push(measured),
                    Err(why) => {
                        good = false;
                        println!("| {scenario} | failed | {}: {why} | | |", side.name);
                    }
                }
            }
        }
        usage::progress("");
        let [a, b] = &figures;
        let (Some(first), false) = (a.first(), b.is_empty()) else { continue };
        for (nth, &(what, _)) in first.iter().enumerate() {
            let median = |all: &[Figures]| {
                let mut values: Vec<f64> = all.iter().map(|figures| figures[nth].1).collect();
                values.sort_by(f64::total_cmp);
                values[values.len() / 2]
            };
            let (a, b) = (median(a), median(b));
            println!("| {scenario} | {what} | {a:.2} | {b:.2} | {:.2} |", b / a);
            lines.push(Line { scenario: scenario.to_owned(), what, a, b });
        }
    }
    (lines, good)
}

fn turn(scenario: &Scenario, side: &Side, dir: &Path, seconds: Duration) -> Result<Figures, String> {
    let cluster = Cluster::start(&side.program, 1, 0, &dir.join(format!("streams-{}", std::process::id())))?;
    let endpoint = cluster.endpoints().remove(0);
    let mut run = Run { cluster, endpoint, seconds };
    let figures = (scenario.run)(&mut run)?;
    run.cluster.check()?;
    Ok(figures)
}

/// All of a scenario's client, on this thread.
pub fn on_this_thread<T>(client: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|why| why.to_string())?;
    LocalSet::new().block_on(&runtime, client)
}

/// What the watchers have been told so far.
#[derive(Default)]
struct Told {
    created: usize,
    events: usize,
    /// Of the first event of a message, from the write's sending on.
    latency_us: Option<Histogram<u64>>,
    broken: Option<String>,
}

/// `CONNECTIONS` times `STREAMS` streams with `watchers` each, all on the keys that begin with `w`.
async fn watch(run: &Run, watchers: usize, told: &Rc<RefCell<Told>>) -> Result<(), String> {
    for _ in 0..CONNECTIONS {
        let calls = Calls::open(&run.endpoint).await?;
        for _ in 0..STREAMS {
            let create = WatchCreateRequest { key: b"w".to_vec(), range_end: b"x".to_vec(), ..Default::default() };
            let create = frame(&WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }).freeze();
            let requests: Vec<u8> = std::iter::repeat_n(&create[..], watchers).flatten().copied().collect();
            let mut stream = calls.stream(client::WATCH).await?;
            stream.send(requests.into(), false)?;
            let told = told.clone();
            tokio::task::spawn_local(async move {
                let ended = loop {
                    match stream.message().await {
                        Ok(Some(message)) => count(&message, &mut told.borrow_mut()),
                        Ok(None) => break "a stream ended".to_owned(),
                        Err(why) => break why,
                    }
                };
                told.borrow_mut().broken = Some(ended);
            });
        }
    }
    let wanted = CONNECTIONS * STREAMS * watchers;
    until(told, "the watchers to be created", |told| told.created == wanted).await
}

fn count(message: &[u8], told: &mut Told) {
    let mut rest = message;
    let before = told.events;
    let mut is_created = false;
    while let Ok((field, wire_type)) = prost::encoding::decode_key(&mut rest) {
        if field == 3 {
            is_created = true;
        }
        if u64::from(field) == EVENTS {
            told.events += 1;
            if told.events == before + 1
                && let Some(histogram) = &mut told.latency_us
            {
                let mut event = rest;
                let length = prost::encoding::decode_varint(&mut event).unwrap_or(0) as usize;
                let event = lockstep_proto::mvccpb::Event::decode(&event[..length.min(event.len())]);
                let sent =
                    event.ok().and_then(|event| Some(u64::from_le_bytes(event.kv?.value.get(..8)?.try_into().ok()?)));
                if let Some(sent) = sent {
                    let _ = histogram.record(now_us().saturating_sub(sent).max(1));
                }
            }
        }
        let context = prost::encoding::DecodeContext::default();
        if prost::encoding::skip_field(wire_type, field, &mut rest, context).is_err() {
            told.broken = Some("a response that is no WatchResponse".to_owned());
            return;
        }
    }
    told.created += usize::from(is_created);
}

fn now_us() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_micros() as u64
}

async fn until(told: &Rc<RefCell<Told>>, what: &str, done: impl Fn(&Told) -> bool) -> Result<(), String> {
    let deadline = Instant::now() + OWED_WITHIN;
    loop {
        {
            let told = told.borrow();
            if let Some(why) = &told.broken {
                return Err(why.clone());
            }
            if done(&told) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("waited 60 s for {what}: {} events, {} watchers", told.events, told.created));
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Puts in a closed loop until the time is over; how many were acknowledged.
async fn put(calls: Calls, key: String, until: Instant, pause: Option<Duration>) -> Result<usize, String> {
    let mut count = 0;
    while Instant::now() < until {
        let mut value = vec![0; 256];
        value[..8].copy_from_slice(&now_us().to_le_bytes());
        let put = PutRequest { key: key.clone().into(), value: value.into(), ..Default::default() };
        calls.unary::<PutResponse>(client::PUT, &put).await?;
        count += 1;
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
    }
    Ok(count)
}

fn fan_out(run: &Run, writers: usize, watchers: usize) -> Result<Figures, String> {
    on_this_thread(async {
        let told = Rc::new(RefCell::new(Told::default()));
        watch(run, watchers, &told).await?;
        let (cpu, start) = (run.cluster.cpu_seconds(), Instant::now());
        let mut writing = Vec::new();
        for writer in 0..writers {
            let calls = Calls::open(&run.endpoint).await?;
            writing.push(tokio::task::spawn_local(put(calls, format!("w{writer}"), start + run.seconds, None)));
        }
        let mut puts = 0;
        for writer in writing {
            puts += writer.await.map_err(|why| why.to_string())??;
        }
        let owed = puts * CONNECTIONS * STREAMS * watchers;
        until(&told, "the events that are owed", |told| told.events >= owed).await?;
        let seconds = start.elapsed().as_secs_f64();
        let cpu = run.cluster.cpu_seconds() - cpu;
        if told.borrow().events != owed {
            return Err(format!("{owed} events were owed, and {} came", told.borrow().events));
        }
        Ok(vec![
            ("events/s", owed as f64 / seconds),
            ("server CPU us an event", cpu * 1e6 / owed as f64),
            ("puts/s", puts as f64 / run.seconds.as_secs_f64()),
            ("RSS MiB, highest", run.cluster.memory_mib().1),
        ])
    })
}

/// 100 puts a second, 1,000 watchers: from the sending of a put to its event.
fn latency(run: &Run) -> Result<Figures, String> {
    on_this_thread(async {
        let told = Rc::new(RefCell::new(Told::default()));
        watch(run, 10, &told).await?;
        told.borrow_mut().latency_us = Some(Histogram::new(3).expect("three digits"));
        let calls = Calls::open(&run.endpoint).await?;
        let puts = put(calls, "w".to_owned(), Instant::now() + run.seconds, Some(Duration::from_millis(10))).await?;
        let owed = puts * CONNECTIONS * STREAMS * 10;
        until(&told, "the events that are owed", |told| told.events >= owed).await?;
        let told = told.borrow();
        let histogram = told.latency_us.as_ref().expect("it was put there");
        let us = |quantile: f64| histogram.value_at_quantile(quantile) as f64;
        Ok(vec![("p50 us", us(0.5)), ("p99 us", us(0.99))])
    })
}

/// 100 streams, each with a lease of its own that it keeps alive in a closed loop.
fn keep_alive(run: &Run) -> Result<Figures, String> {
    on_this_thread(async {
        let calls = Calls::open(&run.endpoint).await?;
        let mut streams = Vec::new();
        for _ in 0..100 {
            let granted: LeaseGrantResponse =
                calls.unary(client::GRANT, &LeaseGrantRequest { ttl: 600, id: 0 }).await?;
            streams.push((granted.id, calls.stream(client::KEEP_ALIVE).await?));
        }
        let (cpu, start) = (run.cluster.cpu_seconds(), Instant::now());
        let end = start + run.seconds;
        let keeping = streams.into_iter().map(|(id, mut stream)| {
            tokio::task::spawn_local(async move {
                let request = frame(&LeaseKeepAliveRequest { id }).freeze();
                let mut count = 0usize;
                while Instant::now() < end {
                    stream.send(request.clone(), false)?;
                    let answer = stream.message().await?.ok_or("a stream of keep-alives ended")?;
                    let answer = LeaseKeepAliveResponse::decode(&answer[..]).map_err(|why| why.to_string())?;
                    if answer.ttl <= 0 {
                        return Err("a lease that was kept alive is gone".to_owned());
                    }
                    count += 1;
                }
                Ok::<_, String>(count)
            })
        });
        let mut count = 0;
        for stream in keeping.collect::<Vec<_>>() {
            count += stream.await.map_err(|why| why.to_string())??;
        }
        let cpu = run.cluster.cpu_seconds() - cpu;
        let seconds = start.elapsed().as_secs_f64();
        Ok(vec![("keep-alives/s", count as f64 / seconds), ("server CPU us each", cpu * 1e6 / count as f64)])
    })
}

fn grant(run: &Run) -> Result<Figures, String> {
    on_this_thread(async {
        let (cpu, start) = (run.cluster.cpu_seconds(), Instant::now());
        let end = start + run.seconds;
        let mut granting = Vec::new();
        for _ in 0..10 {
            let calls = Calls::open(&run.endpoint).await?;
            for _ in 0..10 {
                let calls = calls.clone();
                granting.push(tokio::task::spawn_local(async move {
                    let mut count = 0usize;
                    while Instant::now() < end {
                        let request = LeaseGrantRequest { ttl: 600, id: 0 };
                        calls.unary::<LeaseGrantResponse>(client::GRANT, &request).await?;
                        count += 1;
                    }
                    Ok::<_, String>(count)
                }));
            }
        }
        let mut count = 0;
        for client in granting {
            count += client.await.map_err(|why| why.to_string())??;
        }
        let cpu = run.cluster.cpu_seconds() - cpu;
        let seconds = start.elapsed().as_secs_f64();
        Ok(vec![("grants/s", count as f64 / seconds), ("server CPU us each", cpu * 1e6 / count as f64)])
    })
}

/// All of 100,000 keys of 256 B, again and again.
fn long_range(run: &Run) -> Result<Figures, String> {
    on_this_thread(async {
        let calls = Calls::open(&run.endpoint).await?;
        fill(&calls, RANGE_KEYS, 0).await?;
        let before = run.cluster.memory_mib().0;
        let (cpu, start) = (run.cluster.cpu_seconds(), Instant::now());
        let mut count = 0;
        while start.elapsed() < run.seconds {
            let request = RangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
            let mut stream = calls.stream(client::RANGE).await?;
            stream.send(frame(&request).freeze(), true)?;
            let answer = stream.message().await?.ok_or("no answer to a long range")?;
            if answer.len() < RANGE_KEYS * 256 {
                return Err(format!("an answer of {} bytes", answer.len()));
            }
            count += 1;
        }
        let seconds = start.elapsed().as_secs_f64();
        let cpu = run.cluster.cpu_seconds() - cpu;
        let keys = (count * RANGE_KEYS) as f64;
        Ok(vec![
            ("keys/s", keys / seconds),
            ("server CPU us a key", cpu * 1e6 / keys),
            ("RSS MiB before", before),
            ("RSS MiB, highest", run.cluster.memory_mib().1),
        ])
    })
}

/// Puts `keys` keys of 256 B, a hundred a txn; the values of each generation are others.
pub async fn fill(calls: &Calls, keys: usize, generation: usize) -> Result<(), String> {
    let filling = (0..FILL_CLIENTS).map(|client| {
        let calls = calls.clone();
        tokio::task::spawn_local(async move {
            for first in (client * 100..keys).step_by(FILL_CLIENTS * 100) {
                let put = |nth: usize| {
                    let put = PutRequest {
                        key: format!("k{nth:08}").into(),
                        value: Bytes::from(vec![(nth + generation) as u8; 256]),
                        ..Default::default()
                    };
                    RequestOp { request: Some(Op::RequestPut(put)) }
                };
                let txn =
                    TxnRequest { success: (first..keys.min(first + 100)).map(put).collect(), ..Default::default() };
                calls.unary::<TxnResponse>(client::TXN, &txn).await?;
            }
            Ok::<_, String>(())
        })
    });
    for client in filling.collect::<Vec<_>>() {
        client.await.map_err(|why| why.to_string())??;
    }
    Ok(())
}

/// Stopped with 1,000,000 keys, and started again: until a linearizable read is answered.
fn restart(run: &mut Run) -> Result<Figures, String> {
    on_this_thread(async { fill(&Calls::open(&run.endpoint).await?, RESTART_KEYS, 0).await })?;
    let filled = run.cluster.memory_mib().1;
    let took = run.cluster.restart()?;
    let (after, highest) = run.cluster.memory_mib();
    Ok(vec![
        ("RSS MiB, highest, with 1,000,000 keys", filled),
        ("restart s", took.as_secs_f64()),
        ("RSS MiB after the restart", after),
        ("RSS MiB, highest of the restart", highest),
    ])
}
