//! Snapshots, from a member to a file and back: through real etcds of two releases and us, with the commands that
//! operators type; what is refused, and what is left behind then.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use lockstep::interop::etcd;
use lockstep::offline::file::Snapshot;
use lockstep::proto::etcdserverpb::request_op::Request;
use lockstep::proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, HashKvRequest, LeaseGrantRequest, LeaseLeasesRequest,
    LeaseTimeToLiveRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use lockstep::proto::mvccpb::KeyValue;
use sha2::{Digest, Sha256};

use crate::util::client::Client;
use crate::util::oracle::Etcd;
use crate::util::process::{Cluster, Kind, http_get};

/// How many keys the long way has.
const KEYS: usize = 100_000;

#[test]
fn keys_leases_and_hashes_survive_the_way_through_etcds() {
    let stops = [Kind::Etcd(Etcd::V34), Kind::Lockstepd, Kind::Etcd(Etcd::V35), Kind::Lockstepd];
    let Some(mut cluster) = Cluster::start(stops[0], 1) else { return };
    fill(&cluster.client(0), KEYS);
    for (at, kind) in (1..).zip(stops.into_iter().skip(1)) {
        let before = State::of(&cluster.client(0));
        let file = save(&cluster);
        let Some(mut next) = Cluster::prepare(kind, 1, &[]) else { return };
        restore(&next, &file);
        next.members[0].spawn();
        next.members[0].wait_ready();
        let client = next.client(0);
        assert!(State::of(&client) == before, "stop {at}: {:?} after {:?}", kind, cluster.kind);
        // Each goes on from there.
        fill(&client, 100);
        assert!(State::of(&client).revision > before.revision);
        cluster = next;
    }
}

/// What must be the same on both sides.
#[derive(Debug, PartialEq)]
pub struct State {
    pub revision: i64,
    pub hash: u32,
    pub kvs: Vec<KeyValue>,
    /// Id, granted TTL, and how many keys.
    pub leases: Vec<(i64, i64, usize)>,
}

impl State {
    pub fn of(client: &Client) -> State {
        let all = RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
        let answer = client.range(all).expect("a range");
        let mut leases: Vec<_> = client
            .lease_leases(LeaseLeasesRequest {})
            .expect("leases")
            .leases
            .iter()
            .map(|lease| LeaseTimeToLiveRequest { id: lease.id, keys: true })
            .map(|request| client.lease_time_to_live(request).expect("a lease"))
            .map(|lease| (lease.id, lease.granted_ttl, lease.keys.len()))
            .collect();
        leases.sort_unstable();
        State {
            revision: answer.header.expect("a header").revision,
            hash: client.hash_kv(HashKvRequest { revision: 0 }).expect("a hash").hash,
            kvs: answer.kvs,
            leases,
        }
    }
}

/// Keys, some with leases, overwritten and deleted, compacted, and some after that.
pub fn fill(client: &Client, count: usize) {
    let put = |key: String, value: String, lease| {
        let put = PutRequest { key: key.into(), value: value.into(), lease, ..Default::default() };
        RequestOp { request: Some(Request::RequestPut(put)) }
    };
    let granted = client.lease_grant(LeaseGrantRequest { id: 0, ttl: 9_000 }).expect("a lease").id;
    for round in 0..2 {
        for batch in (0..count / (1 + round)).step_by(100) {
            let one = |at: usize| {
                put(format!("key{at:07}"), "v".repeat(at % 40), if at.is_multiple_of(10) { granted } else { 0 })
            };
            let success = (batch..batch + 100).map(one).collect();
            client.txn(TxnRequest { success, ..Default::default() }).expect("a txn");
        }
        let gone =
            DeleteRangeRequest { key: "key0000020".into(), range_end: "key0000040".into(), ..Default::default() };
        client.delete_range(gone).expect("a deletion");
        let revision = client.put(one_put("between")).expect("a put").header.expect("a header").revision;
        if round == 0 {
            client.compact(CompactionRequest { revision, physical: true }).expect("a compaction");
        }
    }
}

fn one_put(key: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: "a value".into(), ..Default::default() }
}

/// What the cluster's own tool saves; both releases of etcdctl take turns where it is ours.
fn save(cluster: &Cluster) -> PathBuf {
    let path = cluster.dir().join("saved.db");
    let program = match cluster.kind {
        Kind::Etcd(release) => release.program("etcdctl").expect("its server is there"),
        Kind::Lockstepd => lockstepctl(),
    };
    let endpoint = format!("--endpoints={}", cluster.members[0].client_url());
    ok(Command::new(program).env("ETCDCTL_API", "3").arg(endpoint).args(["snapshot", "save"]).arg(&path));
    let mode = |path: &Path| std::fs::metadata(path).expect("a file").permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert!(!path.with_extension("db.part").exists());
    path
}

/// Makes the data directory of the only member.
fn restore(cluster: &Cluster, file: &Path) {
    let member = &cluster.members[0];
    let mut command = match cluster.kind {
        Kind::Etcd(Etcd::V35) => Command::new(Etcd::V35.program("etcdutl").expect("its server is there")),
        Kind::Etcd(release) => Command::new(release.program("etcdctl").expect("its server is there")),
        Kind::Lockstepd => Command::new(lockstepctl()),
    };
    let peer = member.peer_url();
    command.env("ETCDCTL_API", "3").args(["snapshot", "restore"]).arg(file).arg("--data-dir").arg(&member.data_dir);
    command.args(["--name", &member.name, "--initial-cluster", &format!("{}={peer}", member.name)]);
    let said = ok(command.args(["--initial-advertise-peer-urls", &peer]));
    if cluster.kind == Kind::Lockstepd {
        let lines: Vec<serde_json::Value> =
            said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let messages: Vec<&str> = lines.iter().filter_map(|line| line["msg"].as_str()).collect();
        assert_eq!(messages, ["restoring snapshot", "added member", "restored snapshot"]);
        assert_eq!(lines[0]["data-dir"].as_str(), member.data_dir.to_str());
        assert_eq!(lines[1]["added-peer-peer-urls"][0].as_str(), Some(&*peer));
        modes(&member.data_dir);
    }
}

/// Folders are 0700 and files 0600, all the way down.
fn modes(path: &Path) {
    let found = std::fs::metadata(path).expect("it is there");
    let expected = if found.is_dir() { 0o700 } else { 0o600 };
    assert_eq!(found.permissions().mode() & 0o777, expected, "{}", path.display());
    if found.is_dir() {
        std::fs::read_dir(path).expect("a folder").for_each(|entry| modes(&entry.expect("an entry").path()));
    }
}

fn lockstepctl() -> PathBuf {
    env!("CARGO_BIN_EXE_lockstepctl").into()
}

/// What it says on standard error.
fn ok(command: &mut Command) -> String {
    let Output { status, stderr, .. } = command.output().expect("the program runs");
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert!(status.success(), "{command:?}: {said}");
    said
}

/// Blobs of 32 KiB, what is left of the database behind each, and its digest last.
#[test]
fn a_snapshot_comes_in_the_pieces_that_etcd_cuts() {
    for kind in [Kind::Lockstepd, Kind::Etcd(Etcd::V35)] {
        let Some(cluster) = Cluster::start(kind, 1) else { return };
        fill(&cluster.client(0), 3_000);
        let mut answers = cluster.client(0).snapshot().expect("a snapshot");
        let digest = answers.pop().expect("a digest");
        assert_eq!((digest.blob.len(), digest.remaining_bytes), (32, 0), "{kind:?}");
        let total: u64 = answers.iter().map(|answer| answer.blob.len() as u64).sum();
        let mut sent = 0;
        for (at, answer) in (1..).zip(&answers) {
            sent += answer.blob.len() as u64;
            assert_eq!(answer.remaining_bytes, total - sent, "{kind:?}");
            assert!(answer.blob.len() == 32 << 10 || at == answers.len(), "{kind:?}: piece {at}");
            assert!(answer.header.is_none());
        }
        assert!(total > 100_000 && total.is_multiple_of(4_096), "{total}");
        let whole: Vec<u8> = answers.iter().flat_map(|answer| answer.blob.to_vec()).collect();
        assert_eq!(Sha256::digest(&whole)[..], digest.blob[..], "{kind:?}");
    }
}

/// A snapshot is of one moment, however much is written while it is taken.
#[test]
fn writes_go_on_while_a_snapshot_is_taken() {
    let Some(cluster) = Cluster::start(Kind::Lockstepd, 1) else { return };
    fill(&cluster.client(0), 5_000);
    let stop = AtomicBool::new(false);
    let (files, written) = std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let client = cluster.client(0);
            let mut written = 0;
            while !stop.load(Ordering::Relaxed) {
                // Both or neither.
                let put = |key: &str| RequestOp {
                    request: Some(Request::RequestPut(PutRequest {
                        value: written.to_string().into(),
                        ..one_put(key)
                    })),
                };
                let both = TxnRequest { success: vec![put("one"), put("other")], ..Default::default() };
                let revision = client.txn(both).expect("a txn").header.expect("a header").revision;
                written += 1;
                if written % 50 == 0 {
                    client.compact(CompactionRequest { revision, physical: false }).expect("a compaction");
                }
            }
            written
        });
        let client = cluster.client(0);
        let files: Vec<Vec<u8>> = (0..8)
            .map(|_| client.snapshot().expect("a snapshot").iter().flat_map(|answer| answer.blob.to_vec()).collect())
            .collect();
        stop.store(true, Ordering::Relaxed);
        (files, writing.join().expect("the writer"))
    });
    assert!(written > 50, "only {written} writes");
    for (at, file) in files.iter().enumerate() {
        let path = cluster.dir().join(format!("{at}.db"));
        std::fs::write(&path, file).expect("a file");
        let Some(mut next) = Cluster::prepare(Kind::Lockstepd, 1, &[]) else { return };
        restore(&next, &path);
        next.members[0].spawn();
        next.members[0].wait_ready();
        let range = |key: &'static str| {
            let request = RangeRequest { key: key.into(), ..Default::default() };
            next.client(0).range(request).expect("a range").kvs.first().map(|kv| (kv.mod_revision, kv.value.clone()))
        };
        assert_eq!(range("one"), range("other"), "snapshot {at}");
    }
}

#[test]
fn status_prints_what_etcdutl_prints() {
    for kind in [Kind::Lockstepd, Kind::Etcd(Etcd::V34), Kind::Etcd(Etcd::V35)] {
        let (Some(etcdutl), Some(cluster)) = (Etcd::V35.program("etcdutl"), Cluster::start(kind, 1)) else { return };
        fill(&cluster.client(0), 300);
        let file = save(&cluster);
        for format in ["simple", "table", "json", "fields", "protobuf"] {
            let run = |program: &Path| {
                let mut command = Command::new(program);
                let output = command.args(["snapshot", "status", "-w", format]).arg(&file).output().expect("it runs");
                (output.status.code(), output.stdout, output.stderr)
            };
            assert_eq!(run(&lockstepctl()), run(&etcdutl), "{kind:?} {format}");
        }
    }
}

#[test]
fn what_cannot_be_restored_leaves_nothing_behind() {
    let Some(cluster) = Cluster::start(Kind::Lockstepd, 1) else { return };
    fill(&cluster.client(0), 200);
    let dir = cluster.dir();
    let good = std::fs::read(save(&cluster)).expect("a file");
    let file = |name: &str, bytes: &[u8]| {
        std::fs::write(dir.join(name), bytes).expect("a file");
        name.to_owned()
    };
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    let database = &good[..good.len() - 32];
    let mut broken = database.to_vec();
    broken[9 * 4_096..].fill(0xaa);
    std::fs::create_dir_all(dir.join("full/thing")).expect("a folder");
    let cases = [
        (file("flipped", &flipped), "", "expected sha256 ["),
        (file("bare", database), "", "snapshot missing hash but --skip-hash-check=false"),
        (file("broken", &broken), "--skip-hash-check", "the etcd database is damaged: page 1"),
        (file("short", &good[..good.len() / 2]), "--skip-hash-check", "the etcd database is damaged"),
        (file("text", b"no database"), "--skip-hash-check", "not an etcd (bbolt) database"),
        (file("good", &good), "--name other", "couldn't find local name \"other\" in the initial cluster"),
        ("good".into(), "--data-dir full", "data-dir \"full\" not empty or could not be read"),
        ("good".into(), "--wal-dir full", "wal-dir \"full\" exists"),
        ("good".into(), "--bump-revision 5", "--mark-compacted required if --revision-bump > 0"),
        ("good".into(), "--mark-compacted", "--mark-compacted required if --revision-bump > 0"),
        ("good".into(), "--bump-revision -5 --mark-compacted", "--bump-revision moves the revision ahead"),
        ("nowhere".into(), "", "open nowhere: no such file or directory"),
        ("full".into(), "", "it is not a file"),
    ];
    for (file, flags, expected) in cases {
        let mut command = Command::new(lockstepctl());
        command.current_dir(dir).args(["snapshot", "restore", &file, "--data-dir", "made"]);
        let output = command.args(flags.split_whitespace()).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(expected), "{file} {flags}: {said}");
        assert!(!dir.join("made").exists(), "{file} {flags}");
    }
}

#[test]
fn a_restore_that_was_cut_short_does_not_start() {
    let Some(mut cluster) = Cluster::prepare(Kind::Lockstepd, 1, &[]) else { return };
    std::fs::create_dir_all(cluster.members[0].data_dir.join("member.restoring/snap")).expect("a folder");
    let member = &mut cluster.members[0];
    member.spawn();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !member.log().contains("restoring a snapshot into it was cut short") {
        assert!(std::time::Instant::now() < deadline, "{}", member.log());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn a_bumped_revision_is_never_seen_twice() {
    let Some(cluster) = Cluster::start(Kind::Lockstepd, 1) else { return };
    fill(&cluster.client(0), 200);
    let before = State::of(&cluster.client(0));
    let file = save(&cluster);
    let Some(mut next) = Cluster::prepare(Kind::Lockstepd, 1, &[]) else { return };
    let member = &mut next.members[0];
    let peer = member.peer_url();
    let mut command = Command::new(lockstepctl());
    command.args(["snapshot", "restore", "--bump-revision", "1000000", "--mark-compacted"]).arg(&file);
    command.arg("--initial-memory-map-size=4096");
    command.args(["--name", "m0", "--initial-cluster", &format!("m0={peer}"), "--initial-advertise-peer-urls", &peer]);
    let wal = member.data_dir.with_extension("wal");
    ok(command.arg("--data-dir").arg(&member.data_dir).arg("--wal-dir").arg(&wal));
    member.args_mut().push(format!("--wal-dir={}", wal.display()));
    member.spawn();
    member.wait_ready();
    let client = next.client(0);
    let after = State::of(&client);
    assert_eq!(after.revision, before.revision + 1_000_000);
    assert!(after.kvs == before.kvs && after.leases == before.leases);
    let old = RangeRequest { key: "key0000050".into(), revision: before.revision, ..Default::default() };
    let refused = client.range(old).expect_err("a revision of the old cluster");
    assert_eq!(refused.message(), "etcdserver: mvcc: required revision has been compacted");
    let put = client.put(one_put("next")).expect("a put").header.expect("a header").revision;
    assert_eq!(put, after.revision + 1);
}

/// etcd 3.6 does not start where the database names a cluster's version above its own.
#[test]
fn a_snapshot_names_no_version_of_the_cluster() {
    let Some(cluster) = Cluster::start(Kind::Lockstepd, 1) else { return };
    let version = || http_get(&cluster.members[0].client_url(), "/version").map_or(String::new(), |(_, text)| text);
    while !version().contains("\"etcdcluster\":\"3.7.0\"") {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let saved = Snapshot::open(&save(&cluster), "open").expect("a file");
    let etcd = etcd::Etcd::new(saved.database().expect("a database")).expect("etcd's");
    assert_eq!((etcd.members().expect("members").count(), etcd.cluster_version().expect("readable")), (1, None));
}

#[test]
fn a_whole_cluster_is_restored_at_once() {
    let Some(cluster) = Cluster::start(Kind::Lockstepd, 1) else { return };
    fill(&cluster.client(0), 500);
    let before = State::of(&cluster.client(0));
    let file = save(&cluster);
    let Some(mut next) = Cluster::prepare(Kind::Lockstepd, 3, &[]) else { return };
    let initial: Vec<String> = next.members.iter().map(|m| format!("{}={}", m.name, m.peer_url())).collect();
    let output = next.dir().join("out");
    let run = || {
        let mut command = Command::new(lockstepctl());
        command.args(["cluster", "restore"]).arg(&file).arg("--output").arg(&output);
        command.args(["--initial-cluster", &initial.join(","), "--initial-cluster-token", "again"]);
        command.output().expect("it runs")
    };
    let made = run();
    let said = String::from_utf8_lossy(&made.stdout).into_owned();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let expected = format!("revision {}, hash {}", before.revision, before.hash);
    assert_eq!(said.lines().filter(|line| line.ends_with(&expected)).count(), 3, "{said}");
    assert!(said.ends_with("3 members restored, all alike\n"), "{said}");
    // Not again over what is there, and what is there stays.
    let again = run();
    assert!(!again.status.success() && output.join("m0/member/wal").is_dir());
    for member in &mut next.members {
        let dir = output.join(&member.name);
        member.args_mut().push(format!("--data-dir={}", dir.display()));
        member.spawn();
    }
    next.members.iter_mut().for_each(|member| member.wait_ready());
    for i in 0..3 {
        assert!(State::of(&next.client(i)) == before, "member {i}");
    }
    next.client(1).put(one_put("next")).expect("a put");
    // The log of one that lost its store does not make it again: it starts no empty one.
    next.members[2].kill();
    std::fs::remove_file(output.join("m2/member/snap/db")).expect("the store");
    next.members[2].spawn();
    assert!(!next.members[2].wait_end().success());
    let expected = "but the store member/snap/db holds only what entry 0 did: it was lost, ";
    assert!(next.members[2].log().contains(expected), "{}", next.members[2].log());
}

/// What was restored is in nobody's log: whoever was not there is sent it with a snapshot, be it a member that joins or
/// a founder that began with nothing.
#[test]
fn whoever_comes_to_a_restored_cluster_has_all_of_it() {
    let Some(cluster) = Cluster::start(Kind::Lockstepd, 1) else { return };
    fill(&cluster.client(0), 500);
    let before = State::of(&cluster.client(0));
    let file = save(&cluster);
    for founders in [1, 3] {
        let Some(mut next) = Cluster::prepare(Kind::Lockstepd, founders, &[]) else { return };
        let initial: Vec<String> = next.members.iter().map(|m| format!("{}={}", m.name, m.peer_url())).collect();
        let output = next.dir().join("out");
        let mut command = Command::new(lockstepctl());
        command.args(["cluster", "restore"]).arg(&file).arg("--output").arg(&output);
        let token = next.dir().file_name().expect("its members' token");
        ok(command.args(["--initial-cluster", &initial.join(","), "--initial-cluster-token"]).arg(token));
        // The last of three founders gets no directory.
        for member in next.members.iter_mut().take(2) {
            let dir = output.join(&member.name);
            member.args_mut().push(format!("--data-dir={}", dir.display()));
        }
        next.members.iter_mut().for_each(|member| member.spawn());
        next.members.iter_mut().for_each(|member| member.wait_ready());
        let of: Vec<usize> = (0..founders).collect();
        let newcomer = crate::membership::add(&mut next, 0, &of, false);
        for i in [&of[..], &[newcomer]].concat() {
            assert!(State::of(&next.client(i)) == before, "member {i} of {founders} founders");
        }
        next.members[newcomer].kill();
        next.members[newcomer].restart();
        assert!(State::of(&next.client(newcomer)) == before, "{founders} founders");
    }
}
