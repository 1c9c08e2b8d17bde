//! `make-mirror` between real servers: the same keys as etcdctl's mirror leaves, a transaction for a transaction, and
//! nothing lost when either side goes away for a while.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::util::oracle::Etcd;
use crate::util::process::{Cluster, Kind};

/// A mirror that runs, killed when dropped.
struct Mirror(Child);

impl Mirror {
    fn start(program: &Path, args: &[&str]) -> Mirror {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Mirror(command.spawn().unwrap())
    }

    /// Waits for its end: the exit code and standard error.
    fn end(mut self) -> (Option<i32>, String) {
        let mut told = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut told).unwrap();
        (self.0.wait().unwrap().code(), told)
    }

    fn signal(&self, signal: i32) {
        // SAFETY: kill(2) touches no memory of ours; the child has not been waited for, so the id is still its own.
        assert_eq!(unsafe { libc::kill(self.0.id() as libc::pid_t, signal) }, 0);
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn lockstepctl() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_lockstepctl"))
}

fn run(endpoint: &str, args: &[&str], stdin: &str) -> String {
    let mut command = Command::new(lockstepctl());
    command.arg(format!("--endpoints={endpoint}")).args(args).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Every key (in base64) with its value, version and lease.
fn keys(endpoint: &str) -> Vec<(String, String, i64, i64)> {
    let answer: Value = serde_json::from_str(&run(endpoint, &["get", "", "--from-key", "-w", "json"], "")).unwrap();
    let text = |kv: &Value, name: &str| kv[name].as_str().unwrap_or_default().to_string();
    let number = |kv: &Value, name: &str| kv[name].as_i64().unwrap_or_default();
    let kvs = answer["kvs"].as_array().cloned().unwrap_or_default();
    kvs.iter().map(|kv| (text(kv, "key"), text(kv, "value"), number(kv, "version"), number(kv, "lease"))).collect()
}

/// Waits until a key is there with that value.
fn wait_for(endpoint: &str, key: &str, value: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while run(endpoint, &["get", key, "--print-value-only"], "").trim() != value {
        assert!(Instant::now() < deadline, "{key} does not come to {endpoint}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn txn(endpoint: &str, requests: &str) {
    run(endpoint, &["txn"], &format!("\n{}\n\n\n", requests.trim_end()));
}

/// Puts `count` keys, a hundred in a transaction.
fn fill(endpoint: &str, prefix: &str, count: usize) {
    for hundred in (0..count).collect::<Vec<_>>().chunks(100) {
        txn(endpoint, &hundred.iter().map(|at| format!("put {prefix}{at:04} before\n")).collect::<String>());
    }
}

/// Both programs mirror the same source at the same time, to a destination each.
#[test]
fn a_mirror_is_what_etcdctl_makes_it() {
    let Some(etcdctl) = Etcd::V35.program("etcdctl") else { return };
    let cases: [(Kind, &[&str]); 4] = [
        (Kind::Etcd(Etcd::V35), &[]),
        (Kind::Etcd(Etcd::V35), &["--prefix", "k/"]),
        (Kind::Lockstepd, &["--prefix", "k/", "--dest-prefix", "elsewhere/"]),
        (Kind::Lockstepd, &["--prefix", "k/", "--no-dest-prefix"]),
    ];
    std::thread::scope(|scope| {
        for (kind, flags) in cases {
            let etcdctl = &etcdctl;
            scope.spawn(move || mirror_both_ways(etcdctl, kind, flags));
        }
    });
}

fn mirror_both_ways(etcdctl: &Path, kind: Kind, flags: &[&str]) {
    // etcdctl waits for the disk 1,100 times.
    let servers: Vec<Cluster> = (0..3).filter_map(|_| Cluster::start_with(kind, 1, &["--unsafe-no-fsync"])).collect();
    let [source, theirs, ours] = [0, 1, 2].map(|at| servers[at].members[0].client_url());
    let granted = run(&source, &["lease", "grant", "600"], "");
    let lease = granted.split(' ').nth(1).unwrap();
    fill(&source, "k/", 1_100);
    run(&source, &["put", "k/leased", "x", "--lease", lease], "");
    run(&source, &["put", "not of the prefix", "x"], "");
    let mirrors = [(etcdctl, &theirs), (&lockstepctl(), &ours)].map(|(program, destination)| {
        let endpoints = format!("--endpoints={source}");
        let args = [&["make-mirror", endpoints.as_str()][..], flags, &[destination.as_str()]].concat();
        Mirror::start(program, &args)
    });
    let renamed = |key: &str| match flags {
        [_, prefix, "--no-dest-prefix"] => key.strip_prefix(prefix).unwrap().to_string(),
        [_, prefix, _, other] => key.replacen(prefix, other, 1),
        _ => key.to_string(),
    };
    [&theirs, &ours].iter().for_each(|destination| wait_for(destination, &renamed("k/leased"), "x"));
    txn(&source, "put k/0001 after\nput k/new \"in one\"\ndel k/0002\nput elsewhere x");
    run(&source, &["del", "k/001", "--prefix"], "");
    run(&source, &["put", "k/0003", "again", "--lease", lease], "");
    run(&source, &["lease", "revoke", lease], "");
    run(&source, &["put", "k/last", "done"], "");
    [&theirs, &ours].iter().for_each(|destination| wait_for(destination, &renamed("k/last"), "done"));
    assert_eq!(keys(&ours), keys(&theirs), "{flags:?}");
    drop(mirrors);
}

/// A revision of the source is one of the destination, unless it has more operations than one transaction may.
#[test]
fn a_transaction_stays_one() {
    for (most, revisions) in [("128", 1), ("3", 2), ("2", 3), ("1", 5)] {
        let servers = [(); 2].map(|()| Cluster::start(Kind::Lockstepd, 1).unwrap());
        let [source, destination] = servers.each_ref().map(|server| server.members[0].client_url());
        let endpoints = format!("--endpoints={source}");
        let args = ["make-mirror", &endpoints, "--rev", "2", "--max-txn-ops", most, &destination];
        run(&source, &["put", "first", "1"], "");
        let _mirror = Mirror::start(&lockstepctl(), &args);
        wait_for(&destination, "first", "1");
        txn(&source, "put a 1\nput b 2\nput c 3\nput d 4\ndel first");
        run(&source, &["put", "last", "1"], "");
        wait_for(&destination, "last", "1");
        let status = run(&destination, &["get", "last", "-w", "fields"], "");
        // The first revision is 1; then `first`, the transaction, `last`.
        assert!(status.contains(&format!("\"ModRevision\" : {}\n", 3 + revisions)), "--max-txn-ops {most}: {status}");
    }
}

/// Either side is killed under load, and comes back; a mirror that was ended goes on where it says.
#[test]
fn a_mirror_goes_on_after_a_break() {
    let mut servers = [(); 2].map(|()| Cluster::start(Kind::Lockstepd, 1).unwrap());
    let [source, destination] = servers.each_ref().map(|server| server.members[0].client_url());
    let endpoints = format!("--endpoints={source}");
    let start = |extra: &[&str]| {
        let args = [&["make-mirror", endpoints.as_str(), destination.as_str()][..], extra].concat();
        Mirror::start(&lockstepctl(), &args)
    };
    fill(&source, "old/", 2_500);
    let mirror = start(&[]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut at = 0;
            while !over.load(Ordering::Relaxed) {
                // A put that fails while the source is away is made again, or not: the mirror shows what there is.
                let put = ["put", &format!("k/{}", at % 50), &at.to_string()].map(str::to_string);
                let mut command = Command::new(lockstepctl());
                command.arg(&endpoints).arg("--command-timeout=500ms").args(put);
                let _ = command.stdin(Stdio::null()).output().unwrap();
                at += 1;
            }
        });
        for round in 0..2 {
            for side in [1, 0] {
                std::thread::sleep(Duration::from_millis(300));
                servers[side].members[0].kill();
                std::thread::sleep(Duration::from_millis(if round == 0 { 100 } else { 1_500 }));
                servers[side].members[0].restart();
            }
        }
        over.store(true, Ordering::Relaxed);
        writer.join().unwrap();
    });
    run(&source, &["put", "mark", "1"], "");
    wait_for(&destination, "mark", "1");
    let versionless =
        |endpoint: &str| keys(endpoint).into_iter().map(|(key, value, ..)| (key, value)).collect::<Vec<_>>();
    assert_eq!(versionless(&source), versionless(&destination));

    mirror.signal(libc::SIGINT);
    let (code, told) = mirror.end();
    let rev = told.rsplit_once("--rev=").map(|(_, rest)| rest.split(' ').next().unwrap().to_string());
    let rev = rev.unwrap_or_else(|| panic!("it does not say where to go on: {told}"));
    assert_eq!(code, None, "{told}");
    run(&source, &["del", "old/", "--prefix"], "");
    run(&source, &["put", "mark", "2"], "");
    let mirror = start(&["--rev", &rev]);
    wait_for(&destination, "mark", "2");
    assert_eq!(versionless(&source), versionless(&destination));

    // What is not there any more cannot be gone on from.
    drop(mirror);
    let header = run(&source, &["put", "mark", "3", "-w", "fields"], "");
    let newest = header.split("\"Revision\" : ").nth(1).unwrap().lines().next().unwrap();
    run(&source, &["compaction", newest], "");
    let (code, told) = start(&["--rev", &rev]).end();
    assert_eq!(code, Some(1), "{told}");
    assert!(told.ends_with("Error: etcdserver: mvcc: required revision has been compacted\n"), "{told}");
}

/// A refusal that would come again ends it; the count comes every 30 seconds, as etcdctl's does.
#[test]
fn a_mirror_counts_and_ends_with_a_refusal() {
    let small = Cluster::start_with(Kind::Lockstepd, 1, &["--max-request-bytes=1024"]).unwrap();
    let servers = [(); 2].map(|()| Cluster::start(Kind::Lockstepd, 1).unwrap());
    let [source, destination] = servers.each_ref().map(|server| server.members[0].client_url());
    let endpoints = format!("--endpoints={source}");
    fill(&source, "k/", 7);
    let mut counting = Mirror::start(&lockstepctl(), &["make-mirror", &endpoints, &destination]);
    run(&source, &["put", "big"], &"x".repeat(2_000));
    let (code, told) =
        Mirror::start(&lockstepctl(), &["make-mirror", &endpoints, &small.members[0].client_url()]).end();
    assert_eq!(code, Some(1), "{told}");
    assert!(told.ends_with("Error: etcdserver: request is too large\n"), "{told}");
    let mut line = String::new();
    BufReader::new(counting.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "8\n");
}
