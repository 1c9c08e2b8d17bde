//! `check perf | datascale`: puts at a rate, or in a number, and what the cluster made of it.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lockstep_proto::etcdserverpb::{CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::widen;
use crate::ctl::client::{Client, Log, Settings, never, runtime};
use crate::ctl::dial::{Address, errno_text};
use crate::ctl::flags::{Flag, Flags, Kind, flag};
use crate::ctl::golang::quote;
use crate::ctl::progress::{Bar, REFRESH};
use crate::ctl::{Context, Failure, code, emit};

pub static PERF_FLAGS: &[Flag] = &[
    flag("load", Kind::Text, "s", "the load: s(small), m(medium), l(large), xl(xLarge)"),
    flag("prefix", Kind::Text, "/etcdctl-check-perf/", "what the written keys begin with"),
    flag("auto-compact", Kind::Bool, "false", "compact the store afterwards"),
    flag("auto-defrag", Kind::Bool, "false", "defragment the store afterwards"),
];
pub static DATASCALE_FLAGS: &[Flag] = &[
    flag("load", Kind::Text, "s", "the load: s(small), m(medium), l(large), xl(xLarge)"),
    flag("prefix", Kind::Text, "/etcdctl-check-datascale/", "what the written keys begin with"),
    flag("auto-compact", Kind::Bool, "false", "compact the store afterwards"),
    flag("auto-defrag", Kind::Bool, "false", "defragment the store afterwards"),
];
pub static DATASCALE_LONG: &str = "Of several endpoints, the first one's memory is looked at.
";

const PERF_SECONDS: u64 = 60;
const CLEANUP_LIMIT: Duration = Duration::from_secs(30);
const RESIDENT: &str = "process_resident_memory_bytes";

/// A load: how many writes (a second, or in all) from how many clients.
struct Load {
    puts: u64,
    clients: usize,
}

impl Load {
    /// The loads of `perf` and of `datascale`, small to extra large.
    fn of(flags: &Flags, puts: [u64; 4]) -> Result<Load, Failure> {
        let name = flags.text("load");
        let at = match name.as_str() {
            "s" | "small" => 0,
            "m" | "medium" => 1,
            "l" | "large" => 2,
            "xl" | "xLarge" => 3,
            _ => return Err(Failure::new(code::BAD_FEATURE, format!("unknown load option {name}"))),
        };
        Ok(Load { puts: puts[at], clients: [50, 200, 500, 1_000][at] })
    }
}

/// Who writes, and what came of it.
struct Writers {
    clients: Vec<Client>,
    prefix: Vec<u8>,
    key_bytes: usize,
    value_bytes: usize,
    random: AtomicU64,
    outcome: Mutex<Outcome>,
}

#[derive(Default)]
struct Outcome {
    took_s: Vec<f64>,
    errors: BTreeMap<String, u64>,
}

pub fn perf(context: &mut Context) -> Result<(), Failure> {
    let load = Load::of(&context.flags, [150, 1_000, 8_000, 15_000])?;
    let writers = Arc::new(Writers::open(context, load.clients, (256, 1_024))?);
    runtime().block_on(async {
        if writers.has_keys().await? {
            let prefix = writers.prefix_shown();
            let quoted = quote(&writers.prefix);
            let text = format!("prefix {quoted} has keys. Delete with 'etcdctl del --prefix {prefix}' first");
            return Err(Failure::new(code::INVALID_INPUT, text));
        }
        let start = Instant::now();
        let end = start + Duration::from_secs(PERF_SECONDS);
        write_at_rate(&writers, load.puts, end).await?;
        let took_s = start.elapsed().as_secs_f64();
        writers.clean_up(context.flags.bool("auto-compact")).await?;
        let defragmented = writers.defragment(context.flags.bool("auto-defrag")).await;
        report(&writers.outcome.lock(), took_s, load.puts)?;
        defragmented
    })
}

/// Puts at a rate until `end`, or until SIGINT.
async fn write_at_rate(writers: &Arc<Writers>, rate: u64, end: Instant) -> Result<(), Failure> {
    let bar = Arc::new(Bar::new(PERF_SECONDS));
    bar.draw();
    let seconds = bar.clone();
    let drawn = tokio::spawn(async move {
        let mut redraw = interval(REFRESH);
        redraw.tick().await;
        for _ in 0..PERF_SECONDS {
            let second = sleep_until(Instant::now() + Duration::from_secs(1));
            tokio::pin!(second);
            loop {
                tokio::select! {
                    () = &mut second => break,
                    _ = redraw.tick() => seconds.draw(),
                }
            }
            seconds.add_one();
        }
        seconds.finish();
    });
    let (over, is_over) = watch::channel(false);
    // One ticket a put; a client that is slow does not make up for what it missed.
    let (tickets, queue) = tokio::sync::mpsc::channel::<()>(writers.clients.len());
    let queue = Arc::new(tokio::sync::Mutex::new(queue));
    let mut tasks = JoinSet::new();
    for at in 0..writers.clients.len() {
        let (writers, queue) = (writers.clone(), queue.clone());
        tasks.spawn(async move {
            loop {
                if queue.lock().await.recv().await.is_none() {
                    return;
                }
                writers.put(at).await;
            }
        });
    }
    let mut ended = is_over.clone();
    let mut pace = interval(Duration::from_nanos(1_000_000_000 / rate));
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let pacing = tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = pace.tick() => if tickets.send(()).await.is_err() { return },
                () = sleep_until(end) => return,
                _ = ended.changed() => return,
            }
        }
    });
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|why| Failure::new(code::ERROR, why.to_string()))?;
    let interrupted = tokio::select! {
        _ = pacing => false,
        _ = interrupt.recv() => true,
    };
    over.send_replace(true);
    while tasks.join_next().await.is_some() {}
    if interrupted {
        drawn.abort();
    } else {
        let _ = drawn.await;
    }
    Ok(())
}

fn report(outcome: &Outcome, took_s: f64, rate: u64) -> Result<(), Failure> {
    let mut well = outcome.errors.is_empty();
    let mut lines = errors(outcome);
    let mut judge = |good: bool, pass: String, fail: String| {
        well &= good;
        lines.push_str(if good { &pass } else { &fail });
        lines.push('\n');
    };
    let count = outcome.took_s.len() as f64;
    let rps = count / took_s;
    let writes = rps as u64 + 1;
    judge(
        rps / rate as f64 > 0.9,
        format!("PASS: Throughput is {writes} writes/s"),
        format!("FAIL: Throughput too low: {writes} writes/s"),
    );
    let slowest = outcome.took_s.iter().copied().fold(0.0, f64::max);
    judge(
        slowest <= 0.5,
        format!("PASS: Slowest request took {slowest:.6}s"),
        format!("Slowest request took too long: {slowest:.6}s"),
    );
    let average = outcome.took_s.iter().sum::<f64>() / count;
    let deviation = (outcome.took_s.iter().map(|took| (took - average).powi(2)).sum::<f64>() / count).sqrt();
    let is_even = deviation.is_nan() || deviation <= 0.1;
    judge(is_even, format!("PASS: Stddev is {deviation:.6}s"), format!("Stddev too high: {deviation:.6}s"));
    lines.push_str(if well { "PASS\n" } else { "FAIL\n" });
    emit(lines.as_bytes());
    if well { Ok(()) } else { Err(Failure::silent(code::ERROR)) }
}

fn errors(outcome: &Outcome) -> String {
    if outcome.errors.is_empty() {
        return String::new();
    }
    let lines = outcome.errors.iter().map(|(why, count)| format!("FAIL: ERROR({why}) -> {count}\n"));
    "FAIL: too many errors\n".to_string() + &lines.collect::<String>()
}

pub fn datascale(context: &mut Context) -> Result<(), Failure> {
    let load = Load::of(&context.flags, [10_000, 100_000, 1_000_000, 3_000_000])?;
    let writers = Arc::new(Writers::open(context, load.clients, (512, 512))?);
    let endpoint = context.flags.list("endpoints").into_iter().next().unwrap_or_default();
    runtime().block_on(async {
        if writers.has_keys().await? {
            let prefix = writers.prefix_shown();
            let quoted = quote(&writers.prefix);
            let text = format!("prefix {quoted} has keys. Delete with etcdctl del --prefix {prefix} first");
            return Err(Failure::new(code::INVALID_INPUT, text));
        }
        let before = memory(&endpoint, "before").await?;
        let (puts, clients) = (load.puts, load.clients);
        emit(
            format!(
                "Start data scale check for work load [{puts} key-value pairs, 1024 bytes per key-value, {clients} \
                 concurrent clients].\n"
            )
            .as_bytes(),
        );
        write_all(&writers, puts).await;
        let after = memory(&endpoint, "after").await?;
        writers.clean_up(context.flags.bool("auto-compact")).await?;
        let defragmented = writers.defragment(context.flags.bool("auto-defrag")).await;
        let outcome = writers.outcome.lock();
        if !outcome.errors.is_empty() {
            emit(errors(&outcome).as_bytes());
            return Err(Failure::silent(code::ERROR));
        }
        let used_mb = (after - before) / (1024.0 * 1024.0);
        emit(format!("PASS: Approximate system memory used : {used_mb:.2} MB.\n").as_bytes());
        defragmented
    })
}

async fn write_all(writers: &Arc<Writers>, puts: u64) {
    let bar = Arc::new(Bar::new(puts));
    bar.draw();
    let left = Arc::new(AtomicU64::new(puts));
    let mut tasks = JoinSet::new();
    for at in 0..writers.clients.len() {
        let (writers, bar, left) = (writers.clone(), bar.clone(), left.clone());
        tasks.spawn(async move {
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                writers.put(at).await;
                bar.add_one();
            }
        });
    }
    let mut redraw = interval(REFRESH);
    redraw.tick().await;
    loop {
        tokio::select! {
            task = tasks.join_next() => if task.is_none() { break },
            _ = redraw.tick() => bar.draw(),
        }
    }
    bar.finish();
}

/// How much memory the server has, by its own account.
async fn memory(endpoint: &str, when: &str) -> Result<f64, Failure> {
    let found = match metrics(endpoint).await {
        Ok(text) => {
            let value = text.lines().find_map(|line| line.strip_prefix(RESIDENT)).map(str::trim).unwrap_or_default();
            if value.is_empty() {
                Err(format!("could not find: {RESIDENT}"))
            } else {
                let quoted = quote(value.as_bytes());
                value
                    .parse::<f64>()
                    .map_err(|_| format!("parse error: strconv.ParseFloat: parsing {quoted}: invalid syntax"))
            }
        }
        Err(why) => Err(format!("fetch error: {why}")),
    };
    match found {
        Ok(bytes) if bytes != 0.0 => Ok(bytes),
        found => {
            let why = found.err().map(|why| why + "\n").unwrap_or_default();
            emit(format!("{why}FAIL: Could not read {RESIDENT} {when} the put operations.\n").as_bytes());
            Err(Failure::silent(code::ERROR))
        }
    }
}

/// The page of metrics of one endpoint, by the plainest HTTP there is.
async fn metrics(endpoint: &str) -> Result<String, String> {
    let Address::Tcp(address) = Address::of(endpoint) else { return Err("no TCP endpoint".into()) };
    let fetch = async {
        let mut stream = tokio::net::TcpStream::connect(&address).await?;
        stream.write_all(format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    let text = fetch.await.map_err(|why| {
        format!("Get \"http://{address}/metrics\": dial tcp {address}: connect: {}", errno_text(&why))
    })?;
    Ok(text.split_once("\r\n\r\n").map(|(_, body)| body.to_string()).unwrap_or_default())
}

impl Writers {
    /// `sizes`: of a key without its prefix, and of a value.
    fn open(context: &mut Context, clients: usize, sizes: (usize, usize)) -> Result<Writers, Failure> {
        let settings = Settings::read(context)?;
        let endpoints = settings.endpoints.clone();
        // A connection each, spread over the endpoints.
        let client = |at: usize| {
            let mut own = endpoints.clone();
            own.rotate_left(at.checked_rem(endpoints.len()).unwrap_or_default());
            own.truncate(1);
            Client::with(&settings, own, Log::Iso)
        };
        Ok(Writers {
            clients: (0..clients).map(client).collect::<Result<_, _>>()?,
            prefix: context.flags.bytes("prefix").to_vec(),
            key_bytes: sizes.0,
            value_bytes: sizes.1,
            random: AtomicU64::new(RandomState::new().build_hasher().finish()),
            outcome: Mutex::default(),
        })
    }

    fn prefix_shown(&self) -> String {
        String::from_utf8_lossy(&self.prefix).into_owned()
    }

    async fn has_keys(&self) -> Result<bool, Failure> {
        let (key, range_end) = widen(&self.prefix, None, true, false);
        let request = RangeRequest { key, range_end, limit: 1, ..Default::default() };
        let deadline = Instant::now() + Duration::from_secs(PERF_SECONDS);
        let response = self.clients[0].range_until(deadline, request).await;
        response.map(|response| !response.kvs.is_empty()).map_err(|why| Failure::new(code::ERROR, why))
    }

    /// One put of a random key, as client number `at`.
    async fn put(&self, at: usize) {
        let mut key = self.prefix.clone();
        key.extend(self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).to_le_bytes());
        key.resize(self.prefix.len() + self.key_bytes, 0);
        let request = PutRequest { key: key.into(), value: vec![0; self.value_bytes].into(), ..Default::default() };
        let start = Instant::now();
        let answer = self.clients[at].put_until(never(), request).await;
        let took_s = start.elapsed().as_secs_f64();
        let mut outcome = self.outcome.lock();
        match answer {
            Ok(_) => outcome.took_s.push(took_s),
            Err(why) => *outcome.errors.entry(why).or_default() += 1,
        }
    }

    /// Deletes what was written.
    async fn clean_up(&self, compact: bool) -> Result<(), Failure> {
        let (key, range_end) = widen(&self.prefix, None, true, false);
        let deadline = Instant::now() + CLEANUP_LIMIT;
        let request = DeleteRangeRequest { key, range_end, prev_kv: false };
        let response = match self.clients[0].delete_range_until(deadline, request).await {
            Ok(response) => response,
            Err(why) => {
                emit(format!("FAIL: Cleanup failed during key deletion: ERROR({why})\n").as_bytes());
                return Ok(());
            }
        };
        if compact {
            let revision = response.header.unwrap_or_default().revision;
            emit(format!("Compacting with revision {revision}\n").as_bytes());
            let deadline = Instant::now() + CLEANUP_LIMIT;
            let request = CompactionRequest { revision, physical: true };
            let compacted = self.clients[0].compact_until(deadline, request).await;
            compacted.map_err(|why| Failure::new(code::ERROR, why))?;
            emit(format!("Compacted with revision {revision}\n").as_bytes());
        }
        Ok(())
    }

    async fn defragment(&self, is_wanted: bool) -> Result<(), Failure> {
        if !is_wanted {
            return Ok(());
        }
        for endpoint in &self.clients[0].settings.endpoints {
            let quoted = quote(endpoint.as_bytes());
            emit(format!("Defragmenting {quoted}\n").as_bytes());
            let deadline = Instant::now() + CLEANUP_LIMIT;
            let done = self.clients[0].defragment_until(deadline, endpoint).await;
            if let Err(why) = done {
                // The verdict is about the writes, and comes all the same.
                emit(format!("FAIL: {quoted} was not defragmented: ERROR({why})\n").as_bytes());
                return Err(Failure::silent(code::ERROR));
            }
            emit(format!("Defragmented {quoted}\n").as_bytes());
        }
        Ok(())
    }
}
