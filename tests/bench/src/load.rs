//! The load generator: N clients that each wait for their answer (closed loop), or requests at a fixed rate whatever
//! the server does (open loop), over a few connections.
//!
//! In the open loop a latency counts from the moment the request *should* have been sent, so a stalled server cannot
//! hide its stall. A run ends on time: requests that have no answer by then are counted, not waited for.

use crate::args::Args;
use crate::client::{self, FRAME_HEAD, Failure};
use crate::usage;
use crate::wire::{Conn, LONGEST_BODY};
use hdrhistogram::Histogram;
use lockstep_proto::etcdserverpb::{PutRequest, RangeRequest, StatusRequest, StatusResponse};
use serde_json::{Value, json};
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

const MOST_CONNS: usize = 64;
/// How long a client rests after a failure.
const REST: Duration = Duration::from_millis(10);
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
    let next = Arc::new(Counters::default());
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
    if load.key_size + load.value_size > LONGEST_BODY - 64 {
        return wrong("keys and values that fit one HTTP/2 frame, 16 KiB together");
    }
    if load.conns > MOST_CONNS || load.endpoints.is_empty() {
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

impl Part {
    fn record(&mut self, took: Duration, result: Result<(), Failure>) {
        match result {
            Ok(()) => {
                self.ops += 1;
                self.latency.saturating_record(took.as_nanos() as u64);
            }
            Err(why) => {
                // A server may put something new into each error; the list stays readable.
                let known = self.errors.contains_key(why.as_ref()) || self.errors.len() < 20;
                let text = if known { why.into_owned() } else { "other errors".into() };
                *self.errors.entry(text).or_default() += 1;
            }
        }
    }
}

fn worker(
    load: &Load,
    number: usize,
    threads: usize,
    next: &Arc<Counters>,
    connected: &mpsc::Sender<Result<(), String>>,
    start: &mpsc::Receiver<Instant>,
) -> Part {
    let part = Part { ops: 0, latency: histogram(), errors: BTreeMap::new(), unfinished: 0 };
    let mine = (number..load.conns).step_by(threads);
    let endpoints: Vec<_> = mine.map(|conn| load.endpoints[conn % load.endpoints.len()].clone()).collect();
    let lines: Result<Vec<_>, _> = endpoints.iter().map(|endpoint| Line::open(endpoint, path(load.op))).collect();
    let lines = match lines {
        Ok(lines) => lines,
        Err(why) => {
            let _ = connected.send(Err(why));
            return part;
        }
    };
    let _ = connected.send(Ok(()));
    let Ok(start) = start.recv() else { return part };
    let clients = load.clients / threads + usize::from(number < load.clients % threads);
    let warm_up = if load.total.is_some() { Duration::ZERO } else { load.warm_up };
    let pace = load.rate.map(|rate| Pace { start, each: threads as f64 / rate, first: number as f64 / rate, sent: 0 });
    Driver {
        window: (start + warm_up, start + warm_up + load.seconds),
        requests: Requests::new(load, number as u64, next.clone()),
        path: path(load.op),
        since: vec![start; clients],
        idle: (0..clients).rev().collect(),
        resting: VecDeque::new(),
        pace,
        lines,
        part,
    }
    .run()
}

/// A connection, and the clients that wait until it takes another request.
struct Line {
    endpoint: String,
    conn: Option<Conn>,
    queue: VecDeque<usize>,
}

impl Line {
    fn open(endpoint: &str, path: &str) -> Result<Line, String> {
        let conn = Some(Conn::open(endpoint, path)?);
        Ok(Line { endpoint: endpoint.to_string(), conn, queue: VecDeque::new() })
    }
}

/// When the open loop's requests are due.
struct Pace {
    start: Instant,
    each: f64,
    first: f64,
    sent: u64,
}

impl Pace {
    fn due(&self) -> Instant {
        self.start + Duration::from_secs_f64(self.first + self.sent as f64 * self.each)
    }
}

/// One thread's clients on its connections. A client is a number; it has one request at a time.
struct Driver {
    window: (Instant, Instant),
    requests: Requests,
    path: &'static str,
    lines: Vec<Line>,
    /// When each client's request counts as sent.
    since: Vec<Instant>,
    /// Clients without a request: in the closed loop only before the start and after the end.
    idle: Vec<usize>,
    /// Clients after a failure: a broken server must not turn them into a busy loop.
    resting: VecDeque<(Instant, usize)>,
    pace: Option<Pace>,
    part: Part,
}

impl Driver {
    fn run(mut self) -> Part {
        let mut events = Vec::new();
        if self.pace.is_none() {
            let clients = std::mem::take(&mut self.idle);
            let now = Instant::now();
            clients.into_iter().rev().for_each(|client| self.begin(client, now));
        }
        loop {
            let now = Instant::now();
            self.wake(now);
            let waiting = self.waiting();
            let idle = waiting == 0 && self.resting.is_empty();
            if now >= self.window.1 + GRACE || idle && (now >= self.window.1 || self.pace.is_none()) {
                self.part.unfinished = waiting;
                return self.part;
            }
            self.flush();
            let ready = self.wait(now);
            for line in (0..self.lines.len()).filter(|line| ready[*line].revents != 0) {
                let Some(conn) = &mut self.lines[line].conn else { continue };
                let received = conn.receive(&mut events);
                let now = Instant::now();
                for event in events.drain(..) {
                    let result = event.result.and_then(|length| self.requests.check(length));
                    self.finish(event.token, now, result);
                }
                if let Err(why) = received {
                    self.lose(line, &why);
                }
                self.release(line);
            }
        }
    }

    /// Starts what is due: rested clients, and the open loop's next requests.
    fn wake(&mut self, now: Instant) {
        while self.resting.front().is_some_and(|(until, _)| *until <= now) {
            let (_, client) = self.resting.pop_front().expect("there is a front");
            if self.pace.is_some() { self.idle.push(client) } else { self.begin(client, now) }
        }
        while let Some(pace) = &mut self.pace {
            let due = pace.due();
            if due > now || due >= self.window.1 {
                return;
            }
            let Some(client) = self.idle.pop() else { return };
            pace.sent += 1;
            self.begin(client, due);
        }
    }

    /// A client's next request, which counts from `since` on.
    fn begin(&mut self, client: usize, since: Instant) {
        if since >= self.window.1 || !self.requests.take() {
            return;
        }
        self.since[client] = since;
        let line = client % self.lines.len();
        self.lines[line].queue.push_back(client);
        self.release(line);
    }

    /// Hands waiting requests to a connection, as many as it takes.
    fn release(&mut self, line: usize) {
        let length = self.requests.length();
        let line = &mut self.lines[line];
        if let Some(conn) = &mut line.conn {
            while conn.can_send(length) {
                let Some(client) = line.queue.pop_front() else { return };
                conn.send(client, length, |out| self.requests.append(out));
            }
            return;
        }
        match Conn::open(&line.endpoint, self.path) {
            Ok(conn) => line.conn = Some(conn),
            Err(_) => {
                let now = Instant::now();
                for client in std::mem::take(&mut line.queue) {
                    self.finish(client, now, Err("cannot connect".into()));
                }
            }
        }
    }

    fn finish(&mut self, client: usize, now: Instant, result: Result<(), Failure>) {
        let good = result.is_ok();
        if now >= self.window.0 && now <= self.window.1 {
            self.part.record(now - self.since[client], result);
        }
        if !good {
            self.resting.push_back((now + REST, client));
        } else if self.pace.is_some() {
            self.idle.push(client);
        } else {
            self.begin(client, now);
        }
    }

    fn lose(&mut self, line: usize, why: &Failure) {
        let now = Instant::now();
        if let Some(mut conn) = self.lines[line].conn.take() {
            for client in conn.abandon() {
                self.finish(client, now, Err(why.clone()));
            }
        }
    }

    fn flush(&mut self) {
        for line in 0..self.lines.len() {
            if let Some(Err(why)) = self.lines[line].conn.as_mut().map(Conn::flush) {
                self.lose(line, &why);
            }
        }
    }

    fn waiting(&self) -> u64 {
        let active = |line: &Line| u64::from(line.conn.as_ref().map_or(0, Conn::active));
        self.lines.iter().map(|line| line.queue.len() as u64 + active(line)).sum()
    }

    /// Sleeps until a connection has news, or something is due; which connections have.
    fn wait(&self, now: Instant) -> [libc::pollfd; MOST_CONNS] {
        let mut until = if now < self.window.1 { self.window.1 } else { self.window.1 + GRACE };
        until = self.resting.front().map_or(until, |(rested, _)| until.min(*rested));
        if let Some(pace) = self.pace.as_ref().filter(|_| !self.idle.is_empty()) {
            until = until.min(pace.due());
        }
        let rest = until.saturating_duration_since(now);
        let timeout = libc::timespec { tv_sec: rest.as_secs() as i64, tv_nsec: i64::from(rest.subsec_nanos()) };
        let mut polled = [libc::pollfd { fd: -1, events: 0, revents: 0 }; MOST_CONNS];
        for (slot, line) in polled.iter_mut().zip(&self.lines) {
            if let Some(conn) = &line.conn {
                let write = if conn.wants_write() { libc::POLLOUT } else { 0 };
                *slot = libc::pollfd { fd: conn.fd(), events: libc::POLLIN | write, revents: 0 };
            }
        }
        // SAFETY: the array is as long as is said, the timeout is set, and there is no signal mask.
        unsafe { libc::ppoll(polled.as_mut_ptr(), self.lines.len() as libc::nfds_t, &timeout, std::ptr::null()) };
        polled
    }
}

/// What the threads of a run share: requests claimed of the total, and the next key in order.
#[derive(Default)]
struct Counters {
    issued: AtomicU64,
    written: AtomicU64,
}

/// Makes request bodies by patching the key's digits into an encoded template, and knows how long an answer must be.
struct Requests {
    template: Vec<u8>,
    key_at: usize,
    key_size: usize,
    keys: u64,
    sequential: bool,
    shortest_answer: usize,
    counters: Arc<Counters>,
    total: u64,
    random: Cell<u64>,
}

impl Requests {
    fn new(load: &Load, stream: u64, counters: Arc<Counters>) -> Self {
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
            counters,
            total: load.total.unwrap_or(u64::MAX),
            random,
        }
    }

    /// Claims one request; false when the total has been issued.
    fn take(&self) -> bool {
        self.total == u64::MAX || self.counters.issued.fetch_add(1, Ordering::Relaxed) < self.total
    }

    fn length(&self) -> usize {
        self.template.len()
    }

    /// Appends the next request's body.
    fn append(&self, out: &mut Vec<u8>) {
        let mut key = match self.sequential {
            true => self.counters.written.fetch_add(1, Ordering::Relaxed) % self.keys,
            false => step(&self.random) % self.keys,
        };
        let at = out.len() + self.key_at;
        out.extend_from_slice(&self.template);
        for digit in out[at..at + self.key_size].iter_mut().rev() {
            if key == 0 {
                break;
            }
            *digit = b'0' + (key % 10) as u8;
            key /= 10;
        }
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
