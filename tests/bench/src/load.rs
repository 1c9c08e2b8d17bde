//! The load generator: N clients that each wait for their answer (closed loop), or requests at a fixed rate whatever
//! the server does (open loop), over a few connections.
//!
//! In the open loop a latency counts from the moment the request *should* have been sent, so a stalled server cannot
//! hide its stall. A run ends on time: requests that have no answer by then are counted, not waited for.

use crate::args::Args;
use crate::client::{self, FRAME_HEAD, Failure};
use crate::timer::Timer;
use crate::usage;
use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use hdrhistogram::Histogram;
use http::Request;
use lockstep_proto::etcdserverpb::{PutRequest, RangeRequest, StatusRequest, StatusResponse};
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// How long after the end of a run an answer may still come.
const GRACE: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    Put,
    Linearizable,
    Serializable,
}

impl Op {
    pub fn name(self) -> &'static str {
        match self {
            Op::Put => "put",
            Op::Linearizable => "linearizable",
            Op::Serializable => "serializable",
        }
    }
}

impl FromStr for Op {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ops = [Op::Put, Op::Linearizable, Op::Serializable];
        let found = ops.into_iter().find(|op| text.len() >= 3 && op.name().starts_with(text));
        found.ok_or_else(|| "an operation is put, linearizable or serializable".into())
    }
}

/// One run.
#[derive(Clone, Debug)]
pub struct Load {
    pub op: Op,
    pub endpoints: Vec<String>,
    pub clients: usize,
    pub conns: usize,
    pub threads: usize,
    /// Requests a second in the open loop; `None` is the closed loop.
    pub rate: Option<f64>,
    pub key_size: usize,
    pub value_size: usize,
    pub keys: u64,
    pub sequential: bool,
    pub seed: u64,
    pub warm_up: Duration,
    pub seconds: Duration,
    /// Stop after so many requests; everything counts then, there is no warm-up.
    pub total: Option<u64>,
}

impl Load {
    pub fn new(op: Op, endpoints: Vec<String>, clients: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, |n| n.get());
        Load {
            op,
            endpoints,
            clients,
            conns: clients.clamp(1, 8),
            threads: (cores / 2).clamp(1, 4),
            rate: None,
            key_size: 8,
            value_size: 256,
            keys: 10_000,
            sequential: false,
            seed: 1,
            warm_up: Duration::from_secs(1),
            seconds: Duration::from_secs(5),
            total: None,
        }
    }

    /// The run that writes every key once.
    pub fn fill(&self) -> Self {
        let clients = 100;
        let total = Some(self.keys);
        let seconds = Duration::from_secs(120);
        let warm_up = Duration::ZERO;
        Load { op: Op::Put, clients, conns: 4, sequential: true, total, seconds, warm_up, rate: None, ..self.clone() }
    }
}

/// What a run measured, inside its window.
pub struct Outcome {
    pub ops: u64,
    pub seconds: f64,
    /// Nanoseconds.
    pub latency: Histogram<u64>,
    pub errors: BTreeMap<String, u64>,
    /// Requests without an answer when the run ended.
    pub unfinished: u64,
    pub client_cpu_seconds: f64,
}

impl Outcome {
    pub fn ops_per_second(&self) -> f64 {
        self.ops as f64 / self.seconds
    }

    pub fn percentile_us(&self, percentile: f64) -> f64 {
        self.latency.value_at_percentile(percentile) as f64 / 1000.0
    }

    pub fn failed(&self) -> u64 {
        self.errors.values().sum::<u64>() + self.unfinished
    }

    pub fn to_json(&self) -> Value {
        let us = |p| round(self.percentile_us(p));
        json!({
            "ops": self.ops, "seconds": round(self.seconds), "ops_per_second": round(self.ops_per_second()),
            "mean_us": round(self.latency.mean() / 1000.0), "p50_us": us(50.0), "p90_us": us(90.0),
            "p99_us": us(99.0), "p999_us": us(99.9), "max_us": round(self.latency.max() as f64 / 1000.0),
            "client_cpu_us_per_request": round(self.client_cpu_seconds * 1e6 / self.ops.max(1) as f64),
            "errors": self.errors, "unfinished": self.unfinished,
        })
    }
}

pub fn main(mut args: Args) -> Result<bool, String> {
    let endpoints = args.list("--endpoints", "127.0.0.1:2379")?;
    let mut load = Load::new(args.value("--op", Op::Put)?, endpoints, args.value("--clients", 100)?);
    load.rate = args.optional("--rate")?;
    load.conns = args.value("--conns", load.conns)?;
    load.threads = args.value("--threads", load.threads)?;
    load.key_size = args.value("--key-size", load.key_size)?;
    load.value_size = args.value("--value-size", load.value_size)?;
    load.keys = args.value("--keys", load.keys)?;
    load.sequential = args.flag("--sequential");
    load.seed = args.value("--seed", load.seed)?;
    load.warm_up = args.seconds("--warm-up", 1.0)?;
    load.total = args.optional("--total")?;
    load.seconds = args.seconds("--seconds", if load.total.is_some() { 600.0 } else { 5.0 })?;
    let (fill, leader) = (args.flag("--fill"), args.flag("--leader"));
    args.finish()?;
    if leader {
        load.endpoints = vec![find_leader(&load.endpoints)?];
    }
    if fill {
        run(&load.fill(), || ())?;
    }
    let (outcome, ..) = run(&load, || ())?;
    println!("{}", serde_json::to_string_pretty(&outcome.to_json()).expect("plain JSON"));
    Ok(outcome.ops > 0 && outcome.failed() == 0)
}

/// The endpoint whose member says that it leads.
pub fn find_leader(endpoints: &[String]) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|why| why.to_string())?;
    runtime.block_on(async {
        for endpoint in endpoints {
            let status: StatusResponse = client::unary(endpoint, client::STATUS, &StatusRequest {}).await?;
            if status.leader != 0 && status.header.is_some_and(|header| header.member_id == status.leader) {
                return Ok(endpoint.clone());
            }
        }
        Err(format!("none of {} leads; wait for an election", endpoints.join(",")))
    })
}

/// Runs a load. `sample` is called when the window opens and when it closes, and both results are handed back.
pub fn run<T>(load: &Load, sample: impl Fn() -> T) -> Result<(Outcome, T, T), String> {
    check(load)?;
    let threads = load.threads.min(load.conns);
    let next = Arc::new(AtomicU64::new(0));
    let (connected, ready) = mpsc::channel();
    let mut workers = Vec::new();
    for number in 0..threads {
        let (load, next, connected) = (load.clone(), next.clone(), connected.clone());
        let (go, start) = mpsc::channel::<Instant>();
        let run = move || worker(&load, number, threads, &next, &connected, &start);
        workers.push((std::thread::spawn(run), go));
    }
    drop(connected);
    for _ in 0..threads {
        ready.recv().map_err(|_| "a client thread stopped while it connected".to_string())??;
    }
    let start = Instant::now();
    for (_, go) in &workers {
        let _ = go.send(start);
    }
    let warm_up = if load.total.is_some() { Duration::ZERO } else { load.warm_up };
    std::thread::sleep((start + warm_up).saturating_duration_since(Instant::now()));
    let (first, own, opened) = (sample(), usage::own_cpu_seconds(), Instant::now());
    let deadline = opened + load.seconds;
    while Instant::now() < deadline && !(load.total.is_some() && workers.iter().all(|(t, _)| t.is_finished())) {
        let rest = deadline.saturating_duration_since(Instant::now());
        std::thread::sleep(if load.total.is_some() { rest.min(Duration::from_millis(2)) } else { rest });
    }
    let (last, own_after, seconds) = (sample(), usage::own_cpu_seconds(), opened.elapsed().as_secs_f64());
    let latency = histogram();
    let client_cpu_seconds = own_after - own;
    let mut outcome = Outcome { ops: 0, seconds, latency, errors: BTreeMap::new(), unfinished: 0, client_cpu_seconds };
    for (thread, _) in workers {
        let part = thread.join().map_err(|_| "a client thread panicked".to_string())?;
        outcome.ops += part.ops;
        outcome.unfinished += part.unfinished;
        outcome.latency.add(&part.latency).map_err(|why| why.to_string())?;
        for (text, count) in part.errors {
            *outcome.errors.entry(text).or_default() += count;
        }
    }
    Ok((outcome, first, last))
}

fn check(load: &Load) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("a load needs {what}"));
    if load.clients == 0 || load.conns == 0 || load.threads == 0 || load.keys == 0 {
        return wrong("clients, conns, threads and keys of at least 1");
    }
    if load.conns > 64 || load.endpoints.is_empty() {
        return wrong("an endpoint and at most 64 connections");
    }
    if !(4..=4096).contains(&load.key_size) || load.keys.ilog10() as usize >= load.key_size {
        return wrong("a key size of 4 to 4096 bytes that holds the number of keys in decimal");
    }
    if load.rate.is_some_and(|rate| !(rate.is_finite() && rate > 0.0)) {
        return wrong("a rate above 0");
    }
    Ok(())
}

/// One thread's share of an outcome.
struct Part {
    ops: u64,
    latency: Histogram<u64>,
    errors: BTreeMap<String, u64>,
    unfinished: u64,
}

fn worker(
    load: &Load,
    number: usize,
    threads: usize,
    next: &Arc<AtomicU64>,
    connected: &mpsc::Sender<Result<(), String>>,
    start: &mpsc::Receiver<Instant>,
) -> Part {
    let nothing = || Part { ops: 0, latency: histogram(), errors: BTreeMap::new(), unfinished: 0 };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(why) => {
            let _ = connected.send(Err(format!("start a client thread: {why}")));
            return nothing();
        }
    };
    let local = tokio::task::LocalSet::new();
    let part = local.block_on(&runtime, async {
        let mut lines = Vec::new();
        for conn in (number..load.conns).step_by(threads) {
            let endpoint = &load.endpoints[conn % load.endpoints.len()];
            match client::connect(endpoint).await {
                Ok(send) => lines.push(Line { send, head: Rc::new(client::head(endpoint, path(load.op))) }),
                Err(why) => {
                    let _ = connected.send(Err(why));
                    return nothing();
                }
            }
        }
        let _ = connected.send(Ok(()));
        let Ok(start) = start.recv() else { return nothing() };
        let warm_up = if load.total.is_some() { Duration::ZERO } else { load.warm_up };
        let state = Rc::new(State {
            start,
            window: (start + warm_up, start + warm_up + load.seconds),
            requests: Requests::new(load, number as u64, next.clone()),
            latency: RefCell::new(histogram()),
            ops: Cell::new(0),
            errors: RefCell::new(BTreeMap::new()),
        });
        let unfinished = match load.rate {
            None => closed(load, number, threads, &lines, &state).await,
            Some(rate) => open(load, rate, number, threads, &lines, &state).await,
        };
        let (latency, errors) = (state.latency.borrow().clone(), state.errors.borrow().clone());
        Part { ops: state.ops.get(), latency, errors, unfinished }
    });
    runtime.shutdown_background();
    part
}

/// A connection with the headers of its requests.
#[derive(Clone)]
struct Line {
    send: SendRequest<Bytes>,
    head: Rc<Request<()>>,
}

struct State {
    start: Instant,
    window: (Instant, Instant),
    requests: Requests,
    latency: RefCell<Histogram<u64>>,
    ops: Cell<u64>,
    errors: RefCell<BTreeMap<String, u64>>,
}

impl State {
    fn record(&self, since: Instant, result: Result<(), Failure>) {
        let now = Instant::now();
        if now < self.window.0 || now > self.window.1 {
            return;
        }
        match result {
            Ok(()) => {
                self.ops.set(self.ops.get() + 1);
                self.latency.borrow_mut().saturating_record((now - since).as_nanos() as u64);
            }
            Err(why) => {
                let mut errors = self.errors.borrow_mut();
                // A server may put something new into each error; the list stays readable.
                let known = errors.contains_key(why.as_ref()) || errors.len() < 20;
                let text = if known { why.into_owned() } else { "other errors".into() };
                *errors.entry(text).or_default() += 1;
            }
        }
    }

    async fn one(&self, line: &mut Line, since: Instant, body: Bytes) -> bool {
        let result = client::call(&mut line.send, &line.head, body).await;
        let result = result.and_then(|length| self.requests.check(length));
        let good = result.is_ok();
        self.record(since, result);
        good
    }
}

/// N clients, each with one request outstanding; returns how many were still waiting at the end.
async fn closed(load: &Load, number: usize, threads: usize, lines: &[Line], state: &Rc<State>) -> u64 {
    let mut clients = JoinSet::new();
    for client in (number..load.clients).step_by(threads) {
        let (mut line, state) = (lines[client / threads % lines.len()].clone(), state.clone());
        clients.spawn_local(async move {
            while Instant::now() < state.window.1 {
                let Some(body) = state.requests.next() else { return };
                if !state.one(&mut line, Instant::now(), body).await {
                    // A broken server must not turn the client into a busy loop.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        });
    }
    drain(clients, state).await
}

/// Requests at `rate` a second over all threads, each sent when it is due.
async fn open(load: &Load, rate: f64, number: usize, threads: usize, lines: &[Line], state: &Rc<State>) -> u64 {
    let Ok(mut timer) = Timer::new() else { return 0 };
    let outstanding = Arc::new(Semaphore::new(load.clients.div_ceil(threads)));
    let mut requests = JoinSet::new();
    for sent in 0u64.. {
        let due = state.start + Duration::from_secs_f64((sent * threads as u64 + number as u64) as f64 / rate);
        if due >= state.window.1 {
            break;
        }
        timer.wait_until(due).await;
        let permit = tokio::time::timeout_at(state.window.1.into(), outstanding.clone().acquire_owned()).await;
        let (Ok(Ok(permit)), Some(body)) = (permit, state.requests.next()) else { break };
        let (mut line, state) = (lines[sent as usize % lines.len()].clone(), state.clone());
        requests.spawn_local(async move {
            state.one(&mut line, due, body).await;
            drop(permit);
        });
        while requests.try_join_next().is_some() {}
    }
    drain(requests, state).await
}

/// Waits for the tasks until a little after the window; returns how many had to be left.
async fn drain(mut tasks: JoinSet<()>, state: &State) -> u64 {
    let limit = state.window.1 + GRACE;
    while let Ok(Some(_)) = tokio::time::timeout_at(limit.into(), tasks.join_next()).await {}
    tasks.len() as u64
}

/// Makes request bodies by patching the key's digits into an encoded template, and knows how long an answer must be.
struct Requests {
    template: Vec<u8>,
    key_at: usize,
    key_size: usize,
    keys: u64,
    sequential: bool,
    shortest_answer: usize,
    issued: Arc<AtomicU64>,
    total: u64,
    random: Cell<u64>,
}

impl Requests {
    fn new(load: &Load, stream: u64, issued: Arc<AtomicU64>) -> Self {
        let key = vec![b'0'; load.key_size];
        let random = Cell::new(load.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(stream * 2 + 1));
        let value: Vec<u8> = (0..load.value_size).map(|_| b'a' + (step(&random) % 26) as u8).collect();
        let (template, shortest_answer) = match load.op {
            Op::Put => {
                let put = PutRequest { key: key.into(), value: value.into(), ..Default::default() };
                (client::frame(&put), FRAME_HEAD)
            }
            Op::Linearizable | Op::Serializable => {
                let serializable = load.op == Op::Serializable;
                let range = RangeRequest { key: key.into(), serializable, ..Default::default() };
                (client::frame(&range), FRAME_HEAD + load.key_size + load.value_size)
            }
        };
        // Field 1 of both messages: its tag, its length in one or two bytes, the key.
        let key_at = FRAME_HEAD + 1 + if load.key_size < 128 { 1 } else { 2 };
        Requests {
            template: template.to_vec(),
            key_at,
            key_size: load.key_size,
            keys: load.keys,
            sequential: load.sequential,
            shortest_answer,
            issued,
            total: load.total.unwrap_or(u64::MAX),
            random,
        }
    }

    /// The next request's body; `None` when the total has been issued.
    fn next(&self) -> Option<Bytes> {
        let mut key = if self.sequential || self.total != u64::MAX {
            let number = self.issued.fetch_add(1, Ordering::Relaxed);
            if number >= self.total {
                return None;
            }
            number % self.keys
        } else {
            0
        };
        if !self.sequential {
            key = step(&self.random) % self.keys;
        }
        let mut body = BytesMut::from(&self.template[..]);
        for digit in body[self.key_at..self.key_at + self.key_size].iter_mut().rev() {
            if key == 0 {
                break;
            }
            *digit = b'0' + (key % 10) as u8;
            key /= 10;
        }
        Some(body.freeze())
    }

    /// A read of a key that is there cannot be shorter than its value.
    fn check(&self, length: usize) -> Result<(), Failure> {
        if length < self.shortest_answer {
            return Err("the answer carries no value (was the key space filled?)".into());
        }
        Ok(())
    }
}

fn path(op: Op) -> &'static str {
    match op {
        Op::Put => client::PUT,
        Op::Linearizable | Op::Serializable => client::RANGE,
    }
}

/// Nanoseconds up to ten minutes, three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(100, 600_000_000_000, 3).expect("the bounds are in order")
}

/// splitmix64: cheap, and the same keys for the same seed.
fn step(state: &Cell<u64>) -> u64 {
    state.set(state.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
    let mut x = state.get();
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
