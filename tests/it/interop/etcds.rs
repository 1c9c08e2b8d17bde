//! Real etcds, 3.4.23 and 3.5.1: what they save is read row for row, and they take what we write, check it, serve it
//! and go on writing into it.

use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use lockstep::interop::bbolt::{Db, PAGE_BYTES};
use lockstep::interop::etcd::{Etcd, KeyRow, key_of};
use lockstep::interop::snapshot::{self, Sealed};
use lockstep::mvcc::read::Revision;
use lockstep::proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, HashKvRequest, LeaseGrantRequest, LeaseLeasesRequest, PutRequest,
    RangeRequest, RequestOp, TxnRequest, request_op::Request,
};
use lockstep::proto::mvccpb::KeyValue;
use prost::Message;
use std::collections::BTreeMap;
use std::io::Write;

use super::{Buckets, read, write};
use crate::util::client::Client;
use crate::util::oracle;
use crate::util::process::{Cluster, Kind};

const EVERY_KEY: Bytes = Bytes::from_static(b"\0");

/// etcd's own check of a whole file: every page reached once or free, every key where it belongs.
pub fn checks(name: &str, file: &[u8]) {
    for release in [oracle::Etcd::V35, oracle::Etcd::V34] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("snapshot.db");
        std::fs::write(&path, file).expect("a file");
        if let Some(mut tool) = tool(release) {
            run(name, tool.args(["snapshot", "status"]).arg(&path));
        }
    }
}

#[test]
fn etcd_3_5_reads_ours_and_we_read_its() {
    both_ways(oracle::Etcd::V35);
}

#[test]
fn etcd_3_4_reads_ours_and_we_read_its() {
    both_ways(oracle::Etcd::V34);
}

fn both_ways(release: oracle::Etcd) {
    let Some(cluster) = Cluster::start(Kind::Etcd(release), 1) else { return };
    let client = cluster.client(0);
    let (compacted, states) = fill(&client);
    let hash = hash(&client);
    let (file, status) = save(release, &cluster);

    // Theirs, row for row.
    let database = snapshot::verify(&file, file.len() as u64).expect("etcd's snapshot");
    let etcd = Etcd::new(Db::open(file.clone(), database).expect("etcd's database")).expect("etcd's buckets");
    let rows: Vec<KeyRow> = etcd.key_rows().expect("rows").map(|row| row.expect("a row")).collect();
    assert_eq!(hash_of(&rows, compacted), hash);
    for (revision, expected) in &states {
        assert!(state_at(&rows, *revision) == *expected, "the keys at revision {revision}");
    }
    let progress = etcd.progress().expect("progress");
    assert_eq!(progress.finished_compaction.map(|revision| revision.main), Some(compacted));
    assert!(progress.consistent_index.is_some_and(|index| index > 50), "{progress:?}");
    if release == oracle::Etcd::V35 {
        assert!(progress.term.is_some_and(|term| term > 1) && progress.conf_state.is_some(), "{progress:?}");
    }
    let leases: Vec<i64> = etcd.leases().expect("leases").map(|lease| lease.expect("a lease").id).collect();
    assert_eq!(leases, leases_of(&client));
    let members: Vec<_> = etcd.members().expect("members").map(|member| member.expect("a member")).collect();
    assert_eq!(members.len(), 1);
    let json: serde_json::Value = serde_json::from_slice(&members[0].json).expect("JSON");
    assert_eq!((json["name"].as_str(), json["id"].as_u64()), (Some("m0"), Some(members[0].id)));
    assert_eq!(etcd.members_removed().expect("members").count() + etcd.alarms().expect("alarms").count(), 0);
    assert!(!etcd.auth().expect("auth").is_enabled);
    let version = if release == oracle::Etcd::V35 { "3.5.0" } else { "3.4.0" };
    assert_eq!(etcd.cluster_version().expect("cluster").as_deref(), Some(version.as_bytes()));

    // The same rows from our hand: etcd sees no difference, and works on.
    let mut buckets = read(file.slice(..database as usize)).expect("etcd's database");
    replace_rows(&mut buckets, &rows);
    let ours = write(&buckets, PAGE_BYTES);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("ours.db");
    let mut sealed = Sealed::new(Vec::new());
    sealed.write_all(&ours).expect("a vector takes all");
    std::fs::write(&path, sealed.finish().expect("a vector takes all")).expect("a file");
    let ours_status = status_of(release, &path);
    for field in ["hash", "revision", "totalKey"] {
        assert_eq!(ours_status[field], status[field], "{field} of snapshot status");
    }
    assert_eq!(ours_status["totalSize"].as_u64(), Some(ours.len() as u64));

    let Some(restored) = restore(release, &path) else { return };
    let client = restored.client(0);
    let newest = states.last().expect("states");
    assert!(range(&client, 0) == newest.1, "the keys of the restored member");
    assert_eq!(self::hash(&client), hash);
    assert_eq!(leases_of(&client), leases);

    let mut compacted = 0;
    for round in 0..3 {
        for key in 0..10 {
            put_many(&client, &format!("later{key}/{round}"), 100);
        }
        let everything = DeleteRangeRequest { key: "a".into(), range_end: "k".into(), ..Default::default() };
        client.delete_range(everything).expect("a deletion");
        compacted = compact(&client);
    }
    let defrag = etcdctl(release).expect("etcdctl").arg("--endpoints").arg(restored.endpoints()).arg("defrag").output();
    assert!(defrag.expect("etcdctl runs").status.success());
    let (file, _) = save(release, &restored);
    let database = snapshot::verify(&file, file.len() as u64).expect("etcd's snapshot");
    let etcd = Etcd::new(Db::open(file, database).expect("etcd's database")).expect("etcd's buckets");
    let rows: Vec<KeyRow> = etcd.key_rows().expect("rows").map(|row| row.expect("a row")).collect();
    assert_eq!(hash_of(&rows, compacted), self::hash(&client));
}

/// A history with everything in it: many keys, large values, overwrites, deletions, leases, a compaction, and more
/// after it. Gives the revision of the compaction, and the keys at some revisions since.
fn fill(client: &Client) -> (i64, Vec<(i64, Vec<KeyValue>)>) {
    for batch in 0..40 {
        put_many(client, &format!("key{batch:03}"), 100);
    }
    for (key, len) in [("big", 700 << 10), ("big", 1 << 20), ("page", 4_096), ("empty", 0)] {
        put(client, key, len, 0);
    }
    for id in [7, 1 << 40, i64::MAX - 1] {
        let granted = client.lease_grant(LeaseGrantRequest { id, ttl: 3_600 }).expect("a lease").id;
        put(client, &format!("leased{id}"), 10, granted);
    }
    delete(client, "key010", "key012");
    put_many(client, "key011", 50);
    let compacted = compact(client);
    put_many(client, "key020", 100);
    delete(client, "key030", "key031");
    let between = range(client, 0);
    let revision = client.range(all(0)).expect("a range").header.expect("a header").revision;
    delete(client, "big", "");
    put(client, "empty", 3, 0);
    let newest = client.range(all(0)).expect("a range").header.expect("a header").revision;
    (compacted, vec![(compacted, range(client, compacted)), (revision, between), (newest, range(client, 0))])
}

/// Compacts all that there is but a little, and waits for the work to be done.
fn compact(client: &Client) -> i64 {
    let newest = client.range(all(0)).expect("a range").header.expect("a header").revision;
    // A release may or may not keep a deletion at the compaction itself: there is none.
    put(client, "before", 1, 0);
    client.compact(CompactionRequest { revision: newest + 1, physical: true }).expect("a compaction");
    newest + 1
}

fn put_many(client: &Client, prefix: &str, count: usize) {
    let put = |at: usize| {
        let (key, value) = (format!("{prefix}/{at}").into(), "v".repeat(at * 5).into());
        RequestOp { request: Some(Request::RequestPut(PutRequest { key, value, ..Default::default() })) }
    };
    client.txn(TxnRequest { success: (0..count).map(put).collect(), ..Default::default() }).expect("a txn");
}

fn put(client: &Client, key: &str, len: usize, lease: i64) {
    let (key, value) = (key.to_owned().into(), "v".repeat(len).into());
    client.put(PutRequest { key, value, lease, ..Default::default() }).expect("a put");
}

fn delete(client: &Client, key: &str, range_end: &str) {
    let (key, range_end) = (key.to_owned().into(), range_end.to_owned().into());
    client.delete_range(DeleteRangeRequest { key, range_end, ..Default::default() }).expect("a deletion");
}

fn all(revision: i64) -> RangeRequest {
    RangeRequest { key: EVERY_KEY, range_end: EVERY_KEY, revision, ..Default::default() }
}

fn range(client: &Client, revision: i64) -> Vec<KeyValue> {
    client.range(all(revision)).expect("a range").kvs
}

fn hash(client: &Client) -> u32 {
    client.hash_kv(HashKvRequest { revision: 0 }).expect("a hash").hash
}

fn leases_of(client: &Client) -> Vec<i64> {
    let leases = client.lease_leases(LeaseLeasesRequest {}).expect("leases").leases;
    let mut ids: Vec<i64> = leases.iter().map(|lease| lease.id).collect();
    ids.sort_unstable();
    ids
}

/// HashKV at the newest revision: of the rows up to the compaction only those count that are the newest of their key.
fn hash_of(rows: &[KeyRow], compacted: i64) -> u32 {
    let newest: BTreeMap<&[u8], Revision> = rows.iter().map(|row| (row.header().key, row.revision)).collect();
    let counts =
        |row: &&KeyRow| row.revision.main > compacted || !row.is_deletion && newest[row.header().key] == row.revision;
    rows.iter().filter(counts).fold(crc32c::crc32c(b"key"), |hash, row| {
        let hash = crc32c::crc32c_append(hash, &key_of(row.revision, row.is_deletion));
        crc32c::crc32c_append(hash, &row.value)
    })
}

fn state_at(rows: &[KeyRow], revision: i64) -> Vec<KeyValue> {
    let mut state = BTreeMap::new();
    for row in rows.iter().take_while(|row| row.revision.main <= revision) {
        let kv = KeyValue::decode(row.value.clone()).expect("a KeyValue");
        assert_eq!(row.header().key, kv.key);
        if row.is_deletion {
            state.remove(&kv.key);
        } else {
            state.insert(kv.key.clone(), kv);
        }
    }
    state.into_values().collect()
}

/// Puts the rows of keys back as they were taken apart.
fn replace_rows(buckets: &mut Buckets, rows: &[KeyRow]) {
    let (_, found) = buckets.iter_mut().find(|(name, _)| name == "key").expect("the bucket of rows");
    let made: Vec<_> = rows.iter().map(|row| (key_of(row.revision, row.is_deletion), row.value.clone())).collect();
    assert!(*found == made, "rows put together again");
    *found = made;
}

/// Saves a snapshot; gives it and what its status says.
fn save(release: oracle::Etcd, cluster: &Cluster) -> (Bytes, serde_json::Value) {
    let path = cluster.dir().join("saved.db");
    let mut etcdctl = etcdctl(release).expect("etcdctl");
    run("snapshot save", etcdctl.arg("--endpoints").arg(cluster.endpoints()).args(["snapshot", "save"]).arg(&path));
    let status = status_of(release, &path);
    (std::fs::read(&path).expect("a file").into(), status)
}

fn status_of(release: oracle::Etcd, path: &Path) -> serde_json::Value {
    let mut tool = tool(release).expect("the release's tool");
    let text = run("snapshot status", tool.args(["snapshot", "status", "-w", "json"]).arg(path));
    serde_json::from_str(&text).expect("JSON")
}

/// A member on what the release's tool makes of a snapshot.
fn restore(release: oracle::Etcd, path: &Path) -> Option<Cluster> {
    let mut cluster = Cluster::prepare(Kind::Etcd(release), 1, &[])?;
    let member = &cluster.members[0];
    let flags = [
        ("--data-dir", member.data_dir.to_str().expect("temporary folders have plain names").to_owned()),
        ("--name", "m0".to_owned()),
        ("--initial-cluster", format!("m0={}", member.peer_url())),
        ("--initial-advertise-peer-urls", member.peer_url()),
    ];
    let flags = flags.map(|(flag, value)| format!("{flag}={value}"));
    run("snapshot restore", tool(release)?.args(["snapshot", "restore"]).arg(path).args(flags));
    cluster.members[0].spawn();
    cluster.members[0].wait_ready();
    Some(cluster)
}

fn etcdctl(release: oracle::Etcd) -> Option<Command> {
    let mut command = Command::new(release.program("etcdctl")?);
    command.env("ETCDCTL_API", "3");
    Some(command)
}

/// The program that works on files.
fn tool(release: oracle::Etcd) -> Option<Command> {
    match release {
        oracle::Etcd::V34 => etcdctl(release),
        oracle::Etcd::V35 => release.program("etcdutl").map(Command::new),
    }
}

fn run(name: &str, command: &mut Command) -> String {
    let output = command.output().expect("the program runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {command:?}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
