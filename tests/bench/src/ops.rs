//! What an operator waits for: snapshots saved and restored, restarts, defragmentation while clients go on, and the
//! space that overwritten keys take. Two servers in turn, a fresh member each time, with values of 256 B.
//!
//! Each server is served by its own program for snapshots: etcdctl for etcd, lockstepctl for Lockstep. What is measured
//! during a defragmentation is offered at a fixed rate and counted from when it was due, so that a server that stops
//! for a while does not hide it by being asked less.

use crate::args::Args;
use crate::client::{self, Calls};
use crate::compare::{Side, sides};
use crate::servers::Cluster;
use crate::streams::{Figures, Line, fill, in_turns, on_this_thread};
use hdrhistogram::Histogram;
use lockstep_proto::etcdserverpb::*;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

const SCENARIOS: &[&str] = &["snapshot", "restart", "restart-x10", "defrag", "overwrite"];
const OVERWRITES: usize = 10;
/// More than ten generations of a million keys.
const QUOTA: &[&str] = &["--quota-backend-bytes", "17179869184"];
/// Between two puts, and between two reads.
const EVERY: Duration = Duration::from_millis(2);
/// A defragmentation may be over before a hundredth of its requests means anything.
const AT_LEAST: usize = 200;
const LOAD_KEYS: usize = 10_000;

struct Plan {
    keys: usize,
    seconds: Duration,
    dir: PathBuf,
}

pub fn main(mut args: Args) -> Result<bool, String> {
    let quick = args.flag("--quick");
    let sides = sides(&mut args)?;
    let rounds: usize = args.value("--rounds", if quick { 1 } else { 3 })?;
    let keys = args.value("--keys", if quick { 100_000 } else { 1_000_000 })?;
    let seconds = args.seconds("--seconds", if quick { 2.0 } else { 5.0 })?;
    let only: Vec<String> = args.list("--only", &SCENARIOS.join(","))?;
    let dir = args.text("--dir")?.map_or_else(|| PathBuf::from("target/bench"), PathBuf::from);
    args.finish()?;
    if let Some(unknown) = only.iter().find(|name| !SCENARIOS.contains(&name.as_str())) {
        return Err(format!("--only {unknown}: there are {}", SCENARIOS.join(",")));
    }
    std::fs::create_dir_all(&dir).map_err(|why| format!("create {}: {why}", dir.display()))?;
    // The programs for snapshots may run somewhere else.
    let dir = dir.canonicalize().map_err(|why| format!("find {}: {why}", dir.display()))?;
    let plan = Plan { keys, seconds, dir: dir.join(format!("ops-{}", std::process::id())) };
    let names: Vec<&str> = SCENARIOS.iter().copied().filter(|name| only.iter().any(|wanted| wanted == name)).collect();
    println!("{keys} keys of 256 B, medians of {rounds} rounds, interleaved.\n");
    let (lines, good) = in_turns(&sides, &names, rounds, |name, side| turn(&plan, name, side));
    Ok(floors(&lines) && good)
}

/// Says which floors are held.
fn floors(lines: &[Line]) -> bool {
    let find = |what: &str| lines.iter().find(|line| line.what == what);
    let mut held = true;
    let mut say = |is_held: bool, text: String| {
        held &= is_held;
        println!("{}: {text}", if is_held { "held" } else { "MISSED" });
    };
    println!();
    for what in ["save MB/s", "restore MB/s"] {
        if let Some(line) = find(what) {
            say(line.b >= line.a, format!("{what} at least the other's: {:.2} of it", line.b / line.a));
        }
    }
    for line in lines.iter().filter(|line| line.what == "restart s") {
        say(
            line.b <= line.a,
            format!("{} takes no longer than the other's: {:.2} of it", line.scenario, line.b / line.a),
        );
    }
    if let (Some(usual), Some(during)) = (find("put p99 ms, usual"), find("put p99 ms, during")) {
        let ratio = during.b / usual.b;
        say(ratio <= 2.0, format!("p99 of puts during a defragmentation at most twice the usual: {ratio:.2} times"));
    }
    held
}

fn turn(plan: &Plan, name: &str, side: &Side) -> Result<Figures, String> {
    let mut cluster = Cluster::start_with(&side.program, 1, 0, &plan.dir, QUOTA)?;
    let endpoint = cluster.endpoints().remove(0);
    let figures = match name {
        "snapshot" => snapshot(plan, side, &endpoint, &cluster),
        "restart" => restart(plan, &endpoint, &mut cluster, 1),
        "restart-x10" => restart(plan, &endpoint, &mut cluster, OVERWRITES),
        "defrag" => on_this_thread(defragmentation(plan, &endpoint)),
        _ => on_this_thread(overwrite(plan, &endpoint, &cluster)),
    }?;
    cluster.check()?;
    Ok(figures)
}

fn snapshot(plan: &Plan, side: &Side, endpoint: &str, cluster: &Cluster) -> Result<Figures, String> {
    on_this_thread(async { fill(&Calls::open(endpoint).await?, plan.keys, 0).await })?;
    let (file, restored) = (cluster.dir().join("saved.db"), cluster.dir().join("restored.etcd"));
    let (file_name, restored_name) = (file.display().to_string(), restored.display().to_string());
    let before = cluster.memory_mib().0;
    let save = ctl(side, &["--endpoints", endpoint, "snapshot", "save", &file_name])?;
    let after = cluster.memory_mib().1;
    let megabytes = std::fs::metadata(&file).map_err(|why| format!("{file_name}: {why}"))?.len() as f64 / 1e6;
    let restore = ctl(side, &["snapshot", "restore", &file_name, "--data-dir", &restored_name])?;
    Ok(vec![
        ("snapshot MB", megabytes),
        ("save MB/s", megabytes / save.as_secs_f64()),
        ("restore MB/s", megabytes / restore.as_secs_f64()),
        ("server RSS MiB, before the save", before),
        ("server RSS MiB, highest", after),
    ])
}

/// Runs the program that is etcdctl for this server; how long it took.
fn ctl(side: &Side, args: &[&str]) -> Result<Duration, String> {
    let name = if side.program.ends_with("lockstepd") { "lockstepctl" } else { "etcdctl" };
    let program = side.program.with_file_name(name);
    let start = Instant::now();
    let mut command = Command::new(&program);
    command.args(args).env("ETCDCTL_API", "3").stdin(Stdio::null());
    let output = command.output().map_err(|why| format!("start {}: {why}", program.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{name} {}: {}", args.join(" "), said.lines().last().unwrap_or_default()));
    }
    Ok(start.elapsed())
}

/// From the start of the process until a linearizable read is answered.
fn restart(plan: &Plan, endpoint: &str, cluster: &mut Cluster, generations: usize) -> Result<Figures, String> {
    on_this_thread(async {
        let calls = Calls::open(endpoint).await?;
        for generation in 0..generations {
            fill(&calls, plan.keys, generation).await?;
        }
        Ok(())
    })?;
    let took = cluster.restart()?;
    let (now, highest) = cluster.memory_mib();
    Ok(vec![("restart s", took.as_secs_f64()), ("RSS MiB after it", now), ("RSS MiB, highest", highest)])
}

/// Half of what the file holds is garbage when the defragmentation begins.
async fn defragmentation(plan: &Plan, endpoint: &str) -> Result<Figures, String> {
    let calls = Calls::open(endpoint).await?;
    fill(&calls, plan.keys, 0).await?;
    fill(&calls, plan.keys, 1).await?;
    compact(&calls).await?;
    let usual = offer(&calls, async |_| tokio::time::sleep(plan.seconds).await).await?;
    let before = status(&calls).await?;
    // Not on the connection of those whose time is taken.
    let apart = Calls::open(endpoint).await?;
    let took = Rc::new(RefCell::new(Ok(Duration::ZERO)));
    let during = offer(&calls, async |told: &Told| {
        let start = Instant::now();
        let done = apart.unary::<DefragmentResponse>(client::DEFRAGMENT, &DefragmentRequest {}).await;
        *took.borrow_mut() = done.map(|_| start.elapsed());
        while told.puts.borrow().len() < AT_LEAST as u64 && start.elapsed() < Duration::from_secs(5) {
            tokio::time::sleep(EVERY).await;
        }
    })
    .await?;
    let took = took.borrow().clone()?;
    let after = status(&calls).await?;
    let ms = |histogram: &RefCell<Histogram<u64>>, quantile: f64| {
        histogram.borrow().value_at_quantile(quantile) as f64 / 1000.0
    };
    Ok(vec![
        ("file MB before", before.db_size as f64 / 1e6),
        ("file MB after", after.db_size as f64 / 1e6),
        ("defragmentation s", took.as_secs_f64()),
        ("put p99 ms, usual", ms(&usual.puts, 0.99)),
        ("put p99 ms, during", ms(&during.puts, 0.99)),
        ("put longest ms, during", ms(&during.puts, 1.0)),
        ("read p99 ms, usual", ms(&usual.reads, 0.99)),
        ("read p99 ms, during", ms(&during.reads, 0.99)),
        ("read longest ms, during", ms(&during.reads, 1.0)),
    ])
}

/// Latencies in microseconds, from when a request was due.
struct Told {
    puts: RefCell<Histogram<u64>>,
    reads: RefCell<Histogram<u64>>,
    broken: RefCell<Option<String>>,
}

/// Puts and linearizable reads at a fixed rate for as long as `period` takes; all of them are waited for.
async fn offer(calls: &Calls, period: impl AsyncFnOnce(&Told)) -> Result<Told, String> {
    let histogram = || RefCell::new(Histogram::new(3).expect("three digits"));
    let told = Rc::new(Told { puts: histogram(), reads: histogram(), broken: RefCell::default() });
    let over = Rc::new(RefCell::new(false));
    let (calls, of_all, is_over) = (calls.clone(), told.clone(), over.clone());
    let offering = tokio::task::spawn_local(async move {
        let (mut due, mut waiting, mut nth) = (Instant::now(), Vec::new(), 0);
        while !*is_over.borrow() {
            tokio::time::sleep_until(due.into()).await;
            for is_put in [true, false] {
                let (calls, told) = (calls.clone(), of_all.clone());
                waiting.push(tokio::task::spawn_local(async move {
                    let key = format!("k{:08}", nth % LOAD_KEYS).into_bytes();
                    let done = if is_put {
                        let put = PutRequest { key: key.into(), value: vec![7; 256].into(), ..Default::default() };
                        calls.unary::<PutResponse>(client::PUT, &put).await.map(drop)
                    } else {
                        let range = RangeRequest { key: key.into(), ..Default::default() };
                        calls.unary::<RangeResponse>(client::RANGE, &range).await.map(drop)
                    };
                    let histogram = if is_put { &told.puts } else { &told.reads };
                    let _ = histogram.borrow_mut().record((due.elapsed().as_micros() as u64).max(1));
                    if let Err(why) = done {
                        told.broken.borrow_mut().get_or_insert(why);
                    }
                }));
            }
            nth += 1;
            due += EVERY;
        }
        for one in waiting {
            let _ = one.await;
        }
    });
    period(&told).await;
    *over.borrow_mut() = true;
    offering.await.map_err(|why| why.to_string())?;
    if let Some(why) = told.broken.borrow_mut().take() {
        return Err(why);
    }
    Rc::try_unwrap(told).map_err(|_| "somebody still counts".to_owned())
}

/// Every key ten times over, compacted after each time, as etcd's automatic compaction would.
async fn overwrite(plan: &Plan, endpoint: &str, cluster: &Cluster) -> Result<Figures, String> {
    let calls = Calls::open(endpoint).await?;
    for generation in 0..=OVERWRITES {
        fill(&calls, plan.keys, generation).await?;
        compact(&calls).await?;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = status(&calls).await?;
    let directory_before = directory_bytes(cluster.dir());
    calls.unary::<DefragmentResponse>(client::DEFRAGMENT, &DefragmentRequest {}).await?;
    let after = status(&calls).await?;
    Ok(vec![
        ("file MB", before.db_size as f64 / 1e6),
        ("file MB in use", before.db_size_in_use as f64 / 1e6),
        ("directory MB, log and all", directory_before as f64 / 1e6),
        ("file MB after defrag", after.db_size as f64 / 1e6),
        ("directory MB after defrag", directory_bytes(cluster.dir()) as f64 / 1e6),
    ])
}

async fn status(calls: &Calls) -> Result<StatusResponse, String> {
    calls.unary(client::STATUS, &StatusRequest {}).await
}

/// Everything but the newest of each key; returns when the space is free.
async fn compact(calls: &Calls) -> Result<(), String> {
    let revision = status(calls).await?.header.ok_or("a status without a header")?.revision;
    calls.unary::<CompactionResponse>(client::COMPACT, &CompactionRequest { revision, physical: true }).await.map(drop)
}

fn directory_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(about) if about.is_dir() => directory_bytes(&entry.path()),
        Ok(about) => about.len(),
        Err(_) => 0,
    };
    entries.map(bytes).sum()
}
