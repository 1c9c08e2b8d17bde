//! A stopped etcd becomes one of ours: what it says after a restart, we say; what we would have to guess is refused.
//!
//! `import/logs.rs` has etcd's write-ahead log by itself, in every damage.

#[path = "import/logs.rs"]
mod logs;

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use lockstep::proto::etcdserverpb::{
    LeaseGrantRequest, LeaseRevokeRequest, Member, MemberAddRequest, MemberListRequest, MemberRemoveRequest,
    PutRequest, StatusRequest,
};

use crate::snapshot::{State, fill};
use crate::util::client::Client;
use crate::util::oracle::Etcd;
use crate::util::process::{Cluster, Kind};

/// Killed in the middle of its work, with and without a snapshot in its log, whole and with a torn end.
#[test]
fn an_etcd_that_was_killed_goes_on_here() {
    for (release, flags, is_torn) in [
        (Etcd::V34, &[][..], false),
        (Etcd::V34, &["--snapshot-count=1000"], true),
        (Etcd::V35, &[], true),
        (Etcd::V35, &["--snapshot-count=1000"], false),
    ] {
        let Some(mut cluster) = Cluster::start_with(Kind::Etcd(release), 1, flags) else { return };
        // A learner that comes and goes, and one that never starts.
        for url in ["http://127.0.0.1:1", "http://127.0.0.1:2"] {
            let add = MemberAddRequest { peer_ur_ls: vec![url.to_owned()], is_learner: true };
            let added = cluster.client(0).member_add(add).expect("a learner").member.expect("a member");
            // etcd's raft drops a change, without a word, that comes before it has heard of the one before.
            std::thread::sleep(Duration::from_millis(300));
            if url.ends_with('1') {
                cluster.client(0).member_remove(MemberRemoveRequest { id: added.id }).expect("a removal");
                std::thread::sleep(Duration::from_millis(300));
            }
        }
        let acknowledged = work_and_die(&mut cluster);
        let name = format!("{release:?} {flags:?}");
        change(&wal(&cluster.members[0].data_dir), |file| logs::append_put(file, "in the log only"));
        if is_torn {
            change(&wal(&cluster.members[0].data_dir), tear);
        }
        let copy = copied(&cluster, 0);
        let made = cluster.dir().join("made");
        let said = run(&copy, &made, &[]).expect(&name);
        assert_eq!(said.contains("in a write that a crash cut short"), is_torn, "{name}: {said}");

        cluster.members[0].restart();
        let client = cluster.client(0);
        let (before, ids) = (State::of(&client), ids(&client));
        let members = members(&client);
        assert_eq!(members.len(), 2, "{name}");
        assert!(before.revision > 5_000, "{name}: revision {}", before.revision);
        assert!(before.kvs.iter().any(|kv| kv.key == "in the log only"), "{name}");
        let member = &mut cluster.members[0];
        member.kill();
        member.become_one_of(Kind::Lockstepd, &made);
        member.restart();
        let client = cluster.client(0);
        let after = State::of(&client);
        let both = (before.revision, after.revision, before.hash, after.hash);
        assert!(after == before, "{name}: {both:?}, {:?} and {:?}", before.leases, after.leases);
        assert_eq!(self::ids(&client), ids, "{name}");
        assert_eq!(self::members(&client), members, "{name}");
        check_acknowledged(&after, &acknowledged);
        // It goes on, and over a restart.
        fill(&client, 300);
        let goes_on = State::of(&client);
        cluster.members[0].restart();
        assert!(State::of(&cluster.client(0)) == goes_on, "{name}");
    }
}

/// Every member by itself: they find each other again, and agree.
#[test]
fn a_cluster_goes_on_member_by_member() {
    for release in [Etcd::V34, Etcd::V35] {
        let Some(mut cluster) = Cluster::start_with(Kind::Etcd(release), 3, &["--snapshot-count=500"]) else { return };
        let acknowledged = work_and_die(&mut cluster);
        let before: Vec<PathBuf> = (0..3).map(|i| copied(&cluster, i)).collect();
        for kind in [cluster.kind, Kind::Lockstepd] {
            if kind == Kind::Lockstepd {
                for (member, from) in cluster.members.iter_mut().zip(&before) {
                    member.kill();
                    let made = from.with_extension("made");
                    run(from, &made, &[]).expect("an import");
                    member.become_one_of(kind, &made);
                }
            }
            cluster.members.iter_mut().for_each(|member| member.spawn());
            cluster.members.iter_mut().for_each(|member| member.wait_ready());
            let states: Vec<State> = (0..3).map(|i| State::of(&cluster.client(i))).collect();
            assert!(states.iter().all(|state| *state == states[0]), "{release:?}, {kind:?}");
            check_acknowledged(&states[0], &acknowledged);
        }
        fill(&cluster.client(1), 300);
        let hash = State::of(&cluster.client(1)).hash;
        assert!((0..3).all(|i| State::of(&cluster.client(i)).hash == hash), "{release:?}");
    }
}

#[test]
fn what_cannot_be_taken_over_is_refused() {
    let Some(mut etcd) = Cluster::start_with(Kind::Etcd(Etcd::V34), 1, &["--enable-v2"]) else { return };
    fill(&etcd.client(0), 200);
    let dir = etcd.members[0].data_dir.clone();
    let made = etcd.dir().join("made");
    let refused = |from: &Path, made: &Path, more: &[&str], expected: &str| {
        let error = run(from, made, more).expect_err(expected);
        assert!(error.contains(expected), "{error:?} has no {expected:?}");
        assert!(!made.exists() || fs::read_dir(made).is_ok_and(|names| names.count() == 1), "{expected}");
    };
    refused(&dir, &made, &[], "is in use: stop the etcd");
    let hash = lockstepctl(&["hashkv".as_ref(), dir.join("member/snap/db").as_os_str()]).expect_err("it runs");
    assert!(hash.contains("member/snap/db is in use: stop the etcd"), "{hash}");
    let mut ours = Cluster::start(Kind::Lockstepd, 1).expect("ours");
    ours.members[0].terminate();
    let founded = &ours.members[0].data_dir;
    refused(founded, &made, &[], "holds a log of lockstepd");
    let found = lockstepctl(&["verify".as_ref(), "--data-dir".as_ref(), founded.as_os_str()]).expect("it is sound");
    assert!(found.contains("revision 1, never compacted, 0 keys"), "{found}");
    refused(&dir.join("member"), &made, &[], "there is no ");
    let within = dir.join("member/new");
    refused(&dir, &within, &[], "which is etcd's and only read: name a directory outside of it");
    refused(&dir, &made, &["--wal-dir", &within.join("wal").display().to_string()], "wal-dir");
    assert!(!within.exists());

    // What only the v2 API shows, in the log's tail and then in the snapshot.
    assert!(put_v2(&etcd.members[0].client_url()).starts_with("HTTP/1.1 201"));
    etcd.members[0].kill();
    let whole = copied(&etcd, 0);
    refused(&whole, &made, &[], "PUT /1/old: keys of the v2 API are not supported");
    let left = etcd.dir().join("left");
    run(&whole, &left, &["--ignore-v2-keys"]).expect("without them");
    refused(&whole, &left, &["--ignore-v2-keys"], "not empty");
    let found = lockstepctl(&["verify".as_ref(), "--data-dir".as_ref(), left.as_os_str()]).expect("it is sound");
    assert!(found.contains("revision 8, compacted up to 5, 201 keys"), "{found}");

    let broken = |name: &str, change: &dyn Fn(&Path)| {
        let copy = etcd.dir().join(name);
        copy_dir(&whole, &copy);
        change(&copy);
        copy
    };
    type Change = fn(&Path);
    let cases: &[(&str, Change, &str)] = &[
        ("no-db", |dir| fs::remove_file(dir.join("member/snap/db")).expect("it is there"), "there is no "),
        ("no-log", |dir| fs::remove_file(wal(dir)).expect("it is there"), "there is no write-ahead log"),
        ("no-folder", |dir| fs::remove_dir_all(dir.join("member/wal")).expect("it is there"), "no such file"),
        ("flipped", |dir| change(&wal(dir), |file| file[2_000] ^= 4), "is damaged at offset"),
        ("a-bad-db", |dir| fs::write(dir.join("member/snap/db"), [7; 9_000]).expect("a file"), "database"),
        ("short", |dir| truncate(&wal(dir), 5_000), "its end was lost"),
    ];
    for (name, change, expected) in cases {
        refused(&broken(name, change), &made, &["--ignore-v2-keys"], expected);
    }

    let Some(auth) = Cluster::start(Kind::Etcd(Etcd::V35), 1) else { return };
    let etcdctl = Etcd::V35.program("etcdctl").expect("its server is there");
    for words in [&["user", "add", "root:secret"][..], &["user", "grant-role", "root", "root"], &["auth", "enable"]] {
        let endpoint = format!("--endpoints={}", auth.members[0].client_url());
        let done = Command::new(&etcdctl).arg(endpoint).args(words).output().expect("etcdctl");
        assert!(done.status.success(), "{words:?}: {done:?}");
    }
    let mut auth = auth;
    auth.members[0].kill();
    refused(&auth.members[0].data_dir, &made, &[], "`etcdctl auth disable`");
    auth.members[0].restart();
    auth.members[0].terminate();
    let said = "member/snap/db: authentication is enabled; users and roles are not supported yet: ";
    refused(&auth.members[0].data_dir, &made, &[], said);
    let database = auth.members[0].data_dir.join("member/snap/db");
    for words in [&["snapshot", "restore", "--data-dir"][..], &["cluster", "restore", "--output"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lockstepctl"));
        command.args(words).args([&made, &database]).args(["--skip-hash-check", "--initial-cluster"]);
        let done = command.arg("default=http://localhost:2380").output().expect("the program runs");
        let error = String::from_utf8_lossy(&done.stderr);
        assert!(!done.status.success() && error.contains(said), "{words:?}: {error}");
        assert!(!made.exists() || fs::read_dir(&made).is_ok_and(|names| names.count() == 0), "{words:?}");
    }
}

const WRITERS: usize = 4;
const KEYS: i64 = 500;

/// Keys, leases, a compaction; and death while several clients write. The last write of each that was answered.
fn work_and_die(cluster: &mut Cluster) -> Vec<i64> {
    let client = cluster.client(0);
    fill(&client, 2_000);
    for at in 0..20 {
        let id = client.lease_grant(LeaseGrantRequest { id: 1_000 + at, ttl: 9_000 }).expect("a lease").id;
        client.put(put(&format!("leased{at}"), "v", id)).expect("a put");
        if at % 3 == 0 {
            client.lease_revoke(LeaseRevokeRequest { id }).expect("a revocation");
        }
    }
    let written = AtomicUsize::new(0);
    let acknowledged: Vec<AtomicI64> = (0..WRITERS).map(|_| AtomicI64::new(-1)).collect();
    std::thread::scope(|scope| {
        for (writer, last) in acknowledged.iter().enumerate() {
            let (client, written) = (cluster.client(0), &written);
            scope.spawn(move || {
                for at in 0.. {
                    let key = format!("writer{writer}/{}", at % KEYS);
                    if client.put(put(&key, &at.to_string(), 0)).is_err() {
                        return;
                    }
                    last.store(at, Ordering::Relaxed);
                    written.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        while written.load(Ordering::Relaxed) < 5_000 {
            std::thread::sleep(Duration::from_millis(5));
        }
        for i in (0..cluster.members.len()).rev() {
            cluster.members[i].kill();
        }
    });
    acknowledged.iter().map(|last| last.load(Ordering::Relaxed)).collect()
}

fn check_acknowledged(state: &State, acknowledged: &[i64]) {
    for (writer, last) in acknowledged.iter().enumerate() {
        let key = format!("writer{writer}/{}", last % KEYS);
        let found = state.kvs.iter().find(|kv| kv.key == key.as_bytes()).expect("a key that was written");
        let value: i64 = std::str::from_utf8(&found.value).expect("text").parse().expect("a number");
        assert!(value >= *last, "{key} is {value}, and {last} was acknowledged");
    }
}

/// A key of the v2 API; the first line of the answer.
fn put_v2(url: &str) -> String {
    let host = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).expect("a member");
    let kind = "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 7\r\nConnection: close";
    write!(stream, "PUT /v2/keys/old HTTP/1.1\r\nHost: {host}\r\n{kind}\r\n\r\nvalue=v").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

fn put(key: &str, value: &str, lease: i64) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), lease, ..Default::default() }
}

fn members(client: &Client) -> Vec<Member> {
    let mut members = client.member_list(MemberListRequest { linearizable: true }).expect("a list").members;
    members.sort_by_key(|member| member.id);
    members
}

fn ids(client: &Client) -> (u64, u64) {
    let header = client.status(StatusRequest {}).expect("a status").header.expect("a header");
    (header.cluster_id, header.member_id)
}

fn run(from: &Path, made: &Path, more: &[&str]) -> Result<String, String> {
    let words = ["import".as_ref(), "--from-etcd".as_ref(), from.as_os_str(), "--data-dir".as_ref(), made.as_os_str()];
    lockstepctl(&words.into_iter().chain(more.iter().map(OsStr::new)).collect::<Vec<_>>())
}

/// What it says on both outputs.
fn lockstepctl(words: &[&OsStr]) -> Result<String, String> {
    let done = Command::new(env!("CARGO_BIN_EXE_lockstepctl")).args(words).output().expect("the program runs");
    let said = [done.stdout, done.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    if done.status.success() { Ok(said) } else { Err(said) }
}

/// A copy of a dead member's directory.
fn copied(cluster: &Cluster, i: usize) -> PathBuf {
    let to = cluster.dir().join(format!("copy{i}"));
    copy_dir(&cluster.members[i].data_dir, &to);
    to
}

fn copy_dir(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp");
    assert!(copied.success(), "{} to {}", from.display(), to.display());
}

/// The last file of the log.
fn wal(dir: &Path) -> PathBuf {
    let names = fs::read_dir(dir.join("member/wal")).expect("a log");
    let paths = names.map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.extension().is_some_and(|ext| ext == "wal")).max().expect("a file")
}

/// Puts the beginning of a record behind the last: what a crash leaves of a write.
fn tear(file: &mut Vec<u8>) {
    let end = logs::end_of(file);
    file.resize(file.len().max(end + 8_192), 0);
    file[end..end + 8].copy_from_slice(&4_000u64.to_le_bytes());
    file[end + 8..end + 1_000].fill(0x5a);
}

fn change(path: &Path, with: impl FnOnce(&mut Vec<u8>)) {
    let mut file = fs::read(path).expect("a file");
    with(&mut file);
    fs::write(path, file).expect("a file");
}

fn truncate(path: &Path, bytes: u64) {
    fs::OpenOptions::new().write(true).open(path).expect("a file").set_len(bytes).expect("a shorter file");
}
