//! What was acknowledged is on the disk: real processes whose fsync is slow or fails, whose disk is full, that are
//! killed at any moment.
//!
//! Written for any program that takes etcd's flags: `LOCKSTEP_DURABILITY_SERVER=PATH` runs the same tests against
//! another one. etcd 3.5.1 is a server that fails here: a sole member answers before its fsync (etcd #14370).

#[path = "durability/full_disk.rs"]
mod full_disk;
#[path = "durability/process.rs"]
mod process;

use lockstep::member::boot::WAL_DIR;
use lockstep::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use lockstep::proto::etcdserverpb::kv_client::KvClient;
use lockstep::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use lockstep::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, HashKvRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op,
};
use lockstep::server::disk::RealDisk;
use lockstep::wal::Wal;
use process::{Member, members, works};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

type Kv = KvClient<Channel>;

/// The server under test.
fn server() -> Option<PathBuf> {
    match std::env::var_os("LOCKSTEP_DURABILITY_SERVER") {
        Some(path) => Some(PathBuf::from(path)),
        None => Some(PathBuf::from(env!("CARGO_BIN_EXE_lockstepd"))),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

fn channel(endpoint: &str, timeout: Duration) -> Channel {
    let endpoint = Endpoint::from_shared(endpoint.to_string()).expect("a URL");
    endpoint.connect_timeout(Duration::from_secs(1)).timeout(timeout).connect_lazy()
}

async fn put(kv: &mut Kv, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Result<i64, Status> {
    let (key, value) = (key.into().into(), value.into().into());
    let answer = kv.put(PutRequest { key, value, ..Default::default() }).await?;
    Ok(answer.into_inner().header.expect("a header").revision)
}

/// Waits until the member answers a linearizable read.
async fn wait_up(member: &mut Member) -> Kv {
    let mut kv = KvClient::new(channel(&member.endpoint, Duration::from_secs(5)));
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        let Err(why) = kv.range(RangeRequest { key: "up".into(), ..Default::default() }).await else { return kv };
        if let Some(status) = member.ended(Duration::ZERO) {
            panic!("the server stopped while it started ({status}):\n{}", member.log_end());
        }
        assert!(Instant::now() < deadline, "{} is not up: {why}\n{}", member.endpoint, member.log_end());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Every key with the prefix, with its value and the revision that wrote it.
async fn read_all(kv: &mut Kv, prefix: &str) -> Result<BTreeMap<String, (Vec<u8>, i64)>, Status> {
    let mut all = BTreeMap::new();
    let mut key = prefix.as_bytes().to_vec();
    let mut range_end = key.clone();
    *range_end.last_mut().expect("a prefix") += 1;
    loop {
        let range = RangeRequest {
            key: key.clone().into(),
            range_end: range_end.clone().into(),
            limit: 5000,
            ..Default::default()
        };
        let answer = kv.range(range).await?.into_inner();
        for kv in &answer.kvs {
            let name = String::from_utf8(kv.key.to_vec()).expect("our keys are text");
            all.insert(name, (kv.value.to_vec(), kv.mod_revision));
        }
        let Some(last) = answer.kvs.last().filter(|_| answer.more) else { return Ok(all) };
        key = [&last.key[..], &[0]].concat();
    }
}

/// strace that lets the server be our own child (`-D`) and stops it at these system calls only.
fn strace(inject: &str) -> [&str; 10] {
    ["strace", "-D", "-f", "--seccomp-bpf", "-qqq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync", inject]
}

fn strace_works() -> bool {
    works(&["strace", "-D", "-f", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=fdatasync", "true"])
        || std::env::var_os("CI").is_some_and(|v| v == "true")
}

#[test]
fn no_write_of_a_sole_member_is_answered_before_its_fsync() {
    let Some(program) = server().filter(|_| strace_works()) else { return };
    const DELAY: Duration = Duration::from_millis(500);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut member = members(&program, 1, folder.path()).remove(0);
    member.start(&strace("--inject=fdatasync,fsync:delay_exit=500000"));
    runtime().block_on(async {
        let kv = wait_up(&mut member).await;
        type Write = fn(Kv, i64) -> std::pin::Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>;
        let put_one: Write = |mut kv, n| Box::pin(async move { put(&mut kv, format!("k{n}"), "v").await.map(drop) });
        let transact: Write = |mut kv, n| Box::pin(async move { kv.txn(txn(n)).await.map(drop) });
        let delete: Write = |mut kv, n| {
            let request = DeleteRangeRequest { key: format!("k{n}").into(), ..Default::default() };
            Box::pin(async move { kv.delete_range(request).await.map(drop) })
        };
        let table = [("put", put_one), ("txn", transact), ("delete", delete)];
        // More than once each, one after another and four at a time: a server may be early only sometimes.
        for round in 0..2 {
            for (name, write) in table {
                let start = Instant::now();
                write(kv.clone(), round).await.expect(name);
                assert!(start.elapsed() >= DELAY, "a {name} was answered after {:?}", start.elapsed());
            }
        }
        let at_once =
            (0..4).flat_map(|n| table.map(|(name, write)| (name, write(kv.clone(), n)))).map(|(name, done)| {
                tokio::spawn(async move {
                    let start = Instant::now();
                    done.await.expect(name);
                    (name, start.elapsed())
                })
            });
        for task in at_once.collect::<Vec<_>>() {
            let (name, took) = task.await.expect("the task");
            assert!(took >= DELAY, "a {name} among others was answered after {took:?}");
        }
    });
}

/// Writes in both branches, whatever has been there.
fn txn(n: i64) -> TxnRequest {
    let write = |value: String| {
        let put = PutRequest { key: format!("k{n}").into(), value: value.into(), ..Default::default() };
        RequestOp { request: Some(request_op::Request::RequestPut(put)) }
    };
    let compare = Compare {
        result: CompareResult::Greater.into(),
        target: CompareTarget::Version.into(),
        key: format!("k{n}").into(),
        target_union: Some(TargetUnion::Version(0)),
        ..Default::default()
    };
    TxnRequest { compare: vec![compare], success: vec![write("there".into())], failure: vec![write("new".into())] }
}

#[test]
fn after_a_failed_fsync_nothing_is_acknowledged() {
    let Some(program) = server().filter(|_| strace_works()) else { return };
    // strace counts each thread's own calls: the first lets the log thread start, the second lets more of them start.
    for inject in ["--inject=fdatasync,fsync:error=EIO:when=30+", "--inject=fdatasync,fsync:error=EIO:when=75+"] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut member = members(&program, 1, folder.path()).remove(0);
        member.start(&strace(inject));
        let acknowledged = runtime().block_on(write_until_it_breaks(&mut member, 100));
        let status = member.ended(Duration::from_secs(10));
        let status = status.unwrap_or_else(|| panic!("{inject}: the server goes on:\n{}", member.log_end()));
        assert!(!status.success(), "{inject}: the server ended as if nothing had happened");
        assert_explained(&member, "input/output error", "sync");
        check_after_restart(&mut member, &acknowledged);
    }
}

/// Puts, one after another, until one fails; then sees that none succeeds any more. Returns what was acknowledged: the
/// number in the key, and the revision.
async fn write_until_it_breaks(member: &mut Member, value_size: usize) -> Vec<i64> {
    let mut kv = wait_up(member).await;
    let mut acknowledged = Vec::new();
    loop {
        let value = vec![b'v'; value_size];
        match put(&mut kv, format!("k/{:06}", acknowledged.len()), value).await {
            Ok(revision) => acknowledged.push(revision),
            Err(_) => break,
        }
        assert!(acknowledged.len() < 5000, "5000 writes, and none of them failed");
    }
    assert!(!acknowledged.is_empty(), "not one write was acknowledged:\n{}", member.log_end());
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        let mut kv = KvClient::new(channel(&member.endpoint, Duration::from_millis(500)));
        let late = put(&mut kv, "late", "v").await;
        assert!(late.is_err(), "acknowledged after a failure:\n{}", member.log_end());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    acknowledged
}

/// One line of the log names the error and, if the server is ours, what was being done and to which file or folder too.
fn assert_explained(member: &Member, error: &str, doing: &str) {
    let log = member.log().to_lowercase();
    let folder = member.dir.display().to_string().to_lowercase();
    let mut wanted = vec![error];
    if member.program.ends_with("lockstepd") {
        wanted.extend([doing, &folder]);
    }
    let explained = log.lines().any(|line| wanted.iter().all(|word| line.contains(word)));
    assert!(explained, "no line of the log says {wanted:?}:\n{}", member.log_end());
}

fn check_after_restart(member: &mut Member, acknowledged: &[i64]) {
    member.start(&[]);
    runtime().block_on(async {
        let mut kv = wait_up(member).await;
        for (number, revision) in acknowledged.iter().enumerate() {
            let key = format!("k/{number:06}");
            let range = RangeRequest { key: key.clone().into(), ..Default::default() };
            let answer = kv.range(range).await.expect("read after the restart").into_inner();
            let found = answer.kvs.first().map(|kv| kv.mod_revision);
            assert_eq!(found, Some(*revision), "{key} was acknowledged:\n{}", member.log_end());
        }
    });
    member.kill();
}

/// What the writers know: acknowledged keys with their revisions. A write without an answer may be there or not.
#[derive(Default)]
struct Ledger {
    acknowledged: Mutex<BTreeMap<String, i64>>,
    paused: AtomicBool,
    stopped: AtomicBool,
    idle: [AtomicBool; WRITERS],
}

const WRITERS: usize = 6;

#[test]
fn a_killed_cluster_loses_nothing_acknowledged() {
    let Some(program) = server() else { return };
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let rounds = number("LOCKSTEP_KILL_ROUNDS").unwrap_or(5);
    let now = || std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_nanos() as u64;
    let seed = number("LOCKSTEP_KILL_SEED").unwrap_or_else(now);
    println!("LOCKSTEP_KILL_SEED={seed} LOCKSTEP_KILL_ROUNDS={rounds}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut cluster = members(&program, 3, folder.path());
    cluster.iter_mut().for_each(|member| member.start(&[]));
    let endpoints: Vec<_> = cluster.iter().map(|member| member.endpoint.clone()).collect();
    runtime().block_on(async {
        for member in &mut cluster {
            wait_up(member).await;
        }
        let ledger = Arc::new(Ledger::default());
        let writers: Vec<_> =
            (0..WRITERS).map(|writer| tokio::spawn(write(writer, endpoints.clone(), ledger.clone()))).collect();
        for round in 1..=rounds {
            tokio::time::sleep(Duration::from_millis(200 + random.next_u64() % 800)).await;
            let victims = victims(&mut random);
            for &victim in &victims {
                cluster[victim].kill();
            }
            tokio::time::sleep(Duration::from_millis(random.next_u64() % 1500)).await;
            for &victim in &victims {
                cluster[victim].start(&[]);
            }
            for member in &mut cluster {
                wait_up(member).await;
            }
            let acknowledged = check_cluster(&mut cluster, &ledger).await;
            println!("round {round}: killed {victims:?}, {acknowledged} acknowledged writes are there");
        }
        ledger.stopped.store(true, Ordering::SeqCst);
        for writer in writers {
            writer.await.expect("a writer");
        }
        assert!(ledger.acknowledged.lock().expect("the ledger").len() as u64 > 20 * rounds, "hardly any load");
    });
}

/// One member, two, or all of them.
fn victims(random: &mut ChaCha8Rng) -> Vec<usize> {
    let first = (random.next_u64() % 3) as usize;
    match random.next_u64() % 4 {
        0 | 1 => vec![first],
        2 => vec![first, (first + 1) % 3],
        _ => vec![0, 1, 2],
    }
}

/// Puts keys that nobody else puts, one after another, and goes to the next member when one fails.
async fn write(writer: usize, endpoints: Vec<String>, ledger: Arc<Ledger>) {
    let clients: Vec<_> =
        endpoints.iter().map(|endpoint| KvClient::new(channel(endpoint, Duration::from_secs(2)))).collect();
    let mut at = writer;
    for n in 0u64.. {
        while ledger.paused.load(Ordering::SeqCst) {
            ledger.idle[writer].store(true, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        ledger.idle[writer].store(false, Ordering::SeqCst);
        if ledger.stopped.load(Ordering::SeqCst) {
            return;
        }
        let key = format!("w/{writer}/{n:08}");
        match put(&mut clients[at % clients.len()].clone(), key.clone(), key.clone()).await {
            Ok(revision) => drop(ledger.acknowledged.lock().expect("the ledger").insert(key, revision)),
            Err(_) => {
                at += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Every acknowledged write is on every member with its revision, and the members' hashes agree. Returns how many.
async fn check_cluster(cluster: &mut [Member], ledger: &Ledger) -> usize {
    ledger.paused.store(true, Ordering::SeqCst);
    while !ledger.idle.iter().all(|idle| idle.load(Ordering::SeqCst)) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let acknowledged = ledger.acknowledged.lock().expect("the ledger").clone();
    let mut mark = KvClient::new(channel(&cluster[0].endpoint, Duration::from_secs(10)));
    let revision = put(&mut mark, "mark", "v").await.expect("a write while all members are up");
    let mut hashes = Vec::new();
    for member in cluster.iter() {
        let mut kv = KvClient::new(channel(&member.endpoint, Duration::from_secs(10)));
        let found = read_all(&mut kv, "w/").await.expect("a linearizable read");
        for (key, revision) in &acknowledged {
            let expected = (key.as_bytes().to_vec(), *revision);
            let end = || member.log_end();
            assert_eq!(found.get(key), Some(&expected), "{key} was acknowledged; {}:\n{}", member.endpoint, end());
        }
        let mut maintenance = MaintenanceClient::new(channel(&member.endpoint, Duration::from_secs(10)));
        let hash = maintenance.hash_kv(HashKvRequest { revision }).await.expect("HashKV").into_inner();
        hashes.push((hash.hash, hash.compact_revision));
    }
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "HashKV at revision {revision}: {hashes:?}");
    // The flags are only read here, while everybody is idle; a writer sets its own again when it goes on.
    ledger.idle.iter().for_each(|idle| idle.store(false, Ordering::SeqCst));
    ledger.paused.store(false, Ordering::SeqCst);
    acknowledged.len()
}

/// A first boot that crashes between the log's creation and its first entries leaves an empty log: the next boot knows
/// from the flags who founds the cluster, and finishes the work.
#[test]
fn a_first_boot_that_crashed_is_finished_by_the_next() {
    let Some(program) = server() else { return };
    let scratch = tempfile::tempdir().expect("a folder");
    let mut member = members(&program, 1, scratch.path()).remove(0);
    let runtime = runtime();
    member.start(&[]);
    runtime.block_on(wait_up(&mut member));
    member.kill();

    // What that crash leaves, for this very member.
    let open_disk = || Arc::new(RealDisk::new(&member.dir).expect("the data directory"));
    let (wal, _) = Wal::open(open_disk(), WAL_DIR, Default::default(), 0).expect("a whole log");
    let metadata = wal.metadata();
    drop(wal);
    std::fs::remove_dir_all(&member.dir).expect("nobody runs there");
    std::fs::create_dir_all(&member.dir).expect("a folder");
    drop(Wal::create(open_disk(), WAL_DIR, metadata, Default::default()).expect("a new log"));

    member.start(&[]);
    let mut kv = runtime.block_on(wait_up(&mut member));
    runtime.block_on(put(&mut kv, "k", "v")).expect("a member that works");
    member.kill();
}
