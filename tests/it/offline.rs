//! What is done to the files of a member that does not run: hashed, verified, shown and made smaller; refused while it
//! runs, and left as they were by whatever only looks.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use lockstep::proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, HashKvRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest,
};
use lockstep::proto::raftpb::Entry;
use lockstep::server::disk::RealDisk;
use lockstep::wal;
use sha2::{Digest, Sha256};

use crate::snapshot::{State, fill};
use crate::util::client::Client;
use crate::util::oracle::Etcd;
use crate::util::process::{Cluster, Kind};

#[test]
fn a_stopped_member_is_looked_at_and_a_running_one_is_not() {
    let mut cluster = Cluster::start(Kind::Lockstepd, 1).expect("ours");
    let client = cluster.client(0);
    fill(&client, 2_000);
    let dir = cluster.members[0].data_dir.clone();
    let dir = dir.to_str().expect("a plain name");
    let db = Path::new(dir).join("member/snap/db");
    let file = db.to_str().expect("a plain name");
    for words in [&["hashkv", file][..], &["hashkv", "--data-dir", dir], &["verify", "--data-dir", dir]]
        .into_iter()
        .chain([&["log", "dump", "--data-dir", dir][..], &["defrag", "--data-dir", dir]])
    {
        let error = run("lockstepctl", words).expect_err("it runs");
        assert!(error.contains("is in use by a running server (pid "), "{words:?}: {error}");
    }
    let before = State::of(&client);
    // The store has what is older than its last commit; the rest is in the log.
    std::thread::sleep(Duration::from_millis(500));
    cluster.members[0].kill();

    let hash = run("lockstepctl", &["hashkv", "--data-dir", dir]).expect("a hash");
    let numbers: Vec<i64> = hash.trim().split(", ").map(|number| number.parse().expect("a number")).collect();
    let [newest, revision, _] = numbers[..] else { panic!("{hash}") };
    cluster.members[0].restart();
    let client = cluster.client(0);
    let hash_at = |revision| client.hash_kv(HashKvRequest { revision }).expect("a hash");
    assert_eq!(i64::from(hash_at(revision).hash), newest, "{hash}, and then {}", before.revision);
    let old = hash_at(revision - 5);
    cluster.members[0].kill();
    let files = files(Path::new(dir));
    let rev = (revision - 5).to_string();
    let json = run("lockstepctl", &["hashkv", "--data-dir", dir, "--rev", &rev, "-w", "json"]).expect("a hash");
    let (hash, compact) = (old.hash, old.compact_revision);
    assert_eq!(json, format!("{{\"hash\":{hash},\"hashRevision\":{rev},\"compactRevision\":{compact}}}\n"));
    let future = run("lockstepctl", &["hashkv", "--data-dir", dir, "--rev", "999999"]).expect_err("no revision yet");
    assert!(future.contains("future revision"), "{future}");
    let found = run("lockstepctl", &["verify", "--data-dir", dir]).expect("it is sound");
    assert!(found.contains(&format!(", compacted up to {compact}, ")), "{found}");
    run("lockstepctl", &["log", "dump", "--data-dir", dir]).expect("a log");
    assert!(self::files(Path::new(dir)) == files, "what only looks has changed something");

    let bytes = || fs::metadata(&db).expect("a store").len();
    let file = run("lockstepctl", &["hashkv", file]).expect("a store's file");
    assert_eq!(file, run("lockstepctl", &["hashkv", "--data-dir", dir]).expect("a hash"));
    let long = bytes();
    run("lockstepctl", &["defrag", "--data-dir", dir]).expect("a defragmentation");
    assert!(bytes() < long, "{long} bytes became {}", bytes());
    run("lockstepctl", &["verify", "--data-dir", dir]).expect("it is sound");
    cluster.members[0].restart();
    assert!(State::of(&cluster.client(0)) == before);

    // Bits that flip, in every part.
    cluster.members[0].terminate();
    let log =
        fs::read_dir(Path::new(dir).join("member/wal")).expect("a log").map(|entry| entry.expect("a file").path());
    let log = log.filter(|path| path.extension().is_some_and(|ext| ext == "seg")).min().expect("a segment");
    let flip_all = |file: &mut [u8], what: &[u8]| {
        let places: Vec<usize> = (0..file.len() - what.len()).filter(|at| file[*at..].starts_with(what)).collect();
        assert!(!places.is_empty());
        places.into_iter().for_each(|at| file[at] ^= 0x10);
    };
    for (path, what, expected) in [(&db, "key0000100", "is damaged"), (&log, "key0000100", "is damaged at offset")] {
        let whole = fs::read(path).expect("a file");
        let mut rotten = whole.clone();
        flip_all(&mut rotten, what.as_bytes());
        fs::write(path, rotten).expect("a file");
        for words in [&["verify"][..], &["defrag"]] {
            let error = run("lockstepctl", &[words, &["--data-dir", dir]].concat()).expect_err("rot");
            assert!(error.contains(expected), "{words:?}: {error}");
        }
        fs::write(path, whole).expect("a file");
    }
    for missing in ["/nowhere/at/all", "/tmp"] {
        let error = run("lockstepctl", &["verify", "--data-dir", missing]).expect_err("no directory");
        assert!(error.contains("is no data directory"), "{error}");
    }
}

/// The way out depends on what is left.
#[test]
fn a_store_that_is_missing() {
    let mut cluster = Cluster::start(Kind::Lockstepd, 1).expect("ours");
    fill(&cluster.client(0), 500);
    let before = State::of(&cluster.client(0));
    cluster.members[0].terminate();
    let dir = cluster.members[0].data_dir.clone();
    let store = dir.join("member/snap/db");
    fs::remove_file(&store).expect("a store");
    let later = cluster.dir().join("later");
    log_from(&later, 5);
    let nothing = cluster.dir().join("nothing");
    fs::create_dir_all(nothing.join("member")).expect("a folder");
    let damaged = cluster.dir().join("damaged");
    log_from(&damaged, 1);
    let segment = files(&damaged).into_keys().next().expect("a segment");
    fs::write(&segment, [7; 4096]).expect("a file");
    for (dir, expected) in [
        (
            &dir,
            "store member/snap/db is missing, and the log is there from its first entry on: a member that is started",
        ),
        (&later, "the write-ahead log begins after entry 4, but the store member/snap/db holds only what entry 0 did"),
        (
            &nothing,
            "there is neither a store member/snap/db nor a log: nothing ever ran here, or --wal-dir was another",
        ),
        (&damaged, segment.file_name().and_then(|name| name.to_str()).expect("a plain name")),
    ] {
        let files = files(dir);
        for command in ["verify", "defrag", "hashkv"] {
            let error = run("lockstepctl", &[command, "--data-dir", dir.to_str().expect("a plain name")]);
            let error = error.expect_err("there is no store");
            assert!(error.contains(expected), "{command}: {error}");
        }
        assert!(self::files(dir) == files, "what only looks has changed something");
    }
    // As it was told.
    cluster.members[0].restart();
    assert!(State::of(&cluster.client(0)) == before);
    assert!(store.exists());
}

/// The log of a member that was sent a snapshot of what was before `first`.
fn log_from(dir: &Path, first: u64) {
    fs::create_dir_all(dir.join("member/wal")).expect("a folder");
    let disk = Arc::new(RealDisk::new(dir).expect("a disk"));
    let metadata = wal::Metadata { member_id: 1, cluster_id: 2 };
    let mut log = wal::Wal::create(disk, "member/wal", metadata, wal::Options::default()).expect("a log");
    if first > 1 {
        log.append_snapshot(wal::SnapshotMark { index: first - 1, term: 1 }).expect("a mark");
    }
    let entry = Entry { r#type: Some(0), term: Some(1), index: Some(first), data: None };
    log.append(None, &[entry]).expect("an entry");
    log.sync().expect("a sync");
}

#[test]
fn the_log_in_words() {
    let mut cluster = Cluster::start(Kind::Lockstepd, 1).expect("ours");
    let client = cluster.client(0);
    let put = |client: &Client, key: &'static str, lease| {
        client.put(PutRequest { key: key.into(), value: "a\nvalue".into(), lease, ..Default::default() })
    };
    client.lease_grant(LeaseGrantRequest { id: 0x1a2b, ttl: 900 }).expect("a lease");
    put(&client, "k1", 0x1a2b).expect("a put");
    client.lease_revoke(LeaseRevokeRequest { id: 0x1a2b }).expect("a revocation");
    let (key, range_end) = ("a".into(), "z".into());
    client.delete_range(DeleteRangeRequest { key, range_end, prev_kv: false }).expect("a deletion");
    client.compact(CompactionRequest { revision: 2, physical: true }).expect("a compaction");
    fill(&client, 100);
    cluster.members[0].kill();
    let dir = cluster.members[0].data_dir.to_str().expect("a plain name").to_owned();
    let dump = |more: &[&str]| run("lockstepctl", &[&["log", "dump", "--data-dir", &dir], more].concat());
    let text = dump(&[]).expect("a log");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..3], ["Snapshot:", "empty", "WAL metadata:"]);
    assert!(lines[3].starts_with("nodeID=") && lines[3].contains(" commitIndex="), "{}", lines[3]);
    assert_eq!(lines[4], "WAL entries:");
    assert_eq!(lines[6], "term\t     index\ttype\tdata");
    assert!(lines[7].starts_with("   1\t         1\tconf\tmethod=ConfChangeAddNode id="), "{}", lines[7]);
    for words in [
        " put key=\"k1\" value=\"a\\nvalue\" lease=1a2b",
        " lease_grant lease=1a2b ttl_s=900",
        " lease_revoke lease=1a2b",
        " delete_range key=\"a\" range_end=\"z\"",
        " compaction revision=2 physical=1",
        " txn compare=[] success=[put key=\"key0000000\" value=\"\"",
        " cluster_member_attr_set member=",
    ] {
        assert_eq!(lines.iter().filter(|line| line.contains(words)).count(), 1 + usize::from(words.contains("txn")));
    }
    let last: u64 = lines[5].strip_prefix("lastIndex=").and_then(|last| last.parse().ok()).expect("an index");
    assert_eq!(lines.last(), Some(&&*format!("Entry types (Normal,ConfigChange) count is : {last}")));

    let some = dump(&["--entry-type", "IRRPut,ConfigChange", "-w", "json"]).expect("a log");
    let lines: Vec<serde_json::Value> = some.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(lines.iter().all(|line| line["type"] == "conf" || line["request"]["kind"] == "put"), "{some}");
    assert!(lines.iter().any(|line| line["request"]["key"] == "azE=" && line["request"]["lease"] == "1a2b"), "{some}");
    let from = dump(&["--start-index", &last.to_string(), "-w", "json"]).expect("a log");
    assert!(from.starts_with(&format!("{{\"term\":2,\"index\":{last},")) && from.lines().count() == 1, "{from}");
    let error = dump(&["--entry-type", "IRRput"]).expect_err("no such kind");
    assert!(error.contains("\"IRRput\" is not a valid entry-type"), "{error}");
}

/// A snapshot hashes as the member that it is of; by etcdutl's name it is etcdutl.
#[test]
fn snapshots_and_etcdutl() {
    let utl = tempfile::tempdir().expect("a folder");
    let name = utl.path().join("etcdutl");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_lockstepctl"), &name).expect("a link");
    let utl = name.to_str().expect("a plain name").to_owned();
    for kind in [Kind::Lockstepd, Kind::Etcd(Etcd::V34), Kind::Etcd(Etcd::V35)] {
        let Some(cluster) = Cluster::start(kind, 1) else { return };
        fill(&cluster.client(0), 1_000);
        let State { hash, revision, .. } = State::of(&cluster.client(0));
        let file = cluster.dir().join("saved.db");
        let file = file.to_str().expect("a plain name");
        run(&utl, &["snapshot", "save", file, "--endpoints", &cluster.members[0].client_url()]).expect("a snapshot");
        let found = run(&utl, &["hashkv", file, "-w", "fields"]).expect("a hash");
        assert!(
            found.starts_with(&format!("\"Hash\" : {hash}\n\"Hash revision\" : {revision}\n")),
            "{kind:?}: {found}"
        );
        let table = run(&utl, &["hashkv", file, "-w", "table"]).expect("a hash");
        assert!(
            table.contains("|    HASH    | HASH REVISION | COMPACT REVISION |") || table.contains("HASH"),
            "{table}"
        );
        let Some(theirs) = Etcd::V35.program("etcdutl") else { return };
        let theirs = theirs.to_str().expect("a plain name").to_owned();
        let made = cluster.dir().join("made");
        for words in [
            &["snapshot", "status", file][..],
            &["snapshot", "status", file, "-w", "table"],
            &["snapshot", "status", file, "-w", "json"],
            &["snapshot", "status", file, "-w", "fields"],
            &["snapshot", "status"],
        ] {
            assert_eq!(run(&utl, words), run(&theirs, words), "{kind:?}: {words:?}");
        }
        run(&utl, &["snapshot", "restore", file, "--data-dir", made.to_str().expect("a name")]).expect("a restore");
        let hash_of_made = run(&utl, &["hashkv", "--data-dir", made.to_str().expect("a name")]).expect("a hash");
        assert!(hash_of_made.starts_with(&format!("{hash}, {revision}, ")), "{kind:?}: {hash_of_made}");
    }
    assert_eq!(run(&utl, &["version"]).expect("a version"), "etcdutl version: 3.7.1\nAPI version: 3.7\n");
    let error = run(&utl, &["defrag"]).expect_err("it asks no server");
    assert!(error.contains("required flag(s) \"data-dir\" not set"), "{error}");
    let error = run(&utl, &["put", "a", "b"]).expect_err("it asks no server");
    assert!(error.contains("unknown command \"put\" for \"etcdutl\""), "{error}");
}

/// What it prints, or what it says when it fails.
fn run(program: &str, words: &[&str]) -> Result<String, String> {
    let program = if program == "lockstepctl" { env!("CARGO_BIN_EXE_lockstepctl") } else { program };
    let Output { status, stdout, stderr } = Command::new(program).args(words).output().expect("the program runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    if status.success() { Ok(text(stdout)) } else { Err(text(stderr)) }
}

/// Every file, and what is in it.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let digest = Sha256::digest(fs::read(&path).expect("a file"));
            found.insert(path, digest.to_vec());
        }
    }
    found
}
