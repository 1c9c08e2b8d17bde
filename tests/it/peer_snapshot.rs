//! Members that were away for longer than the log is kept: real processes, a real snapshot over the peer port.

use std::time::{Duration, Instant};

use lockstep::proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, HashKvRequest, HashKvResponse, LeaseGrantRequest, LeaseTimeToLiveRequest,
    PutRequest, RangeRequest, StatusRequest, WatchCreateRequest,
};

use crate::util::metrics::Page;
use crate::util::process::{Cluster, Kind};
use crate::util::watch::Watch;

const PATIENCE: Duration = Duration::from_secs(60);
const LEASE: i64 = 7;

fn start() -> Cluster {
    Cluster::start_with(Kind::Lockstepd, 3, &["--snapshot-count=100"]).expect("our own program is there")
}

/// Puts through a member, in spite of elections.
fn put(cluster: &Cluster, i: usize, key: String, value: String, lease: i64) {
    let deadline = Instant::now() + PATIENCE;
    let request = PutRequest { key: key.clone().into(), value: value.into(), lease, ..Default::default() };
    while let Err(why) = cluster.client(i).put(request.clone()) {
        assert!(Instant::now() < deadline, "{key} is not taken: {why}");
    }
}

fn until(what: &str, cluster: &Cluster, i: usize, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long for {what}:\n{}", cluster.members[i].log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn hash(cluster: &Cluster, i: usize) -> (u32, i64, i64) {
    let HashKvResponse { header, hash, compact_revision, .. } =
        cluster.client(i).hash_kv(HashKvRequest { revision: 0 }).expect("a hash");
    (hash, compact_revision, header.expect("a header").revision)
}

/// All three have the same, now or soon.
fn agree(cluster: &Cluster) {
    until("the same hash everywhere", cluster, 2, || {
        let hashes: Vec<_> = (0..3).map(|i| hash(cluster, i)).collect();
        hashes[0] == hashes[1] && hashes[1] == hashes[2]
    });
}

#[test]
fn a_member_that_was_away_gets_a_snapshot_and_goes_on() {
    let mut cluster = start();
    let value = |n: usize| format!("{n}{}", "v".repeat(1_000));
    (0..20).for_each(|n| put(&cluster, 0, format!("early{n:03}"), value(n), 0));
    agree(&cluster);
    cluster.members[2].kill();

    // What only a whole store can bring: rows that are gone, leases, a compaction.
    let client = cluster.client(0);
    // The third may have led.
    let grant = LeaseGrantRequest { ttl: 600, id: LEASE };
    until("a lease", &cluster, 0, || client.lease_grant(grant).is_ok());
    for n in 0..600 {
        put(&cluster, n % 2, format!("late{:03}", n % 300), value(n), if n % 10 == 0 { LEASE } else { 0 });
    }
    let gone = DeleteRangeRequest { key: "early".into(), range_end: "earlz".into(), ..Default::default() };
    let deleted = client.delete_range(gone).expect("a deletion");
    let revision = deleted.header.expect("a header").revision;
    client.compact(CompactionRequest { revision: revision - 100, physical: true }).expect("a compaction");
    put(&cluster, 0, "last".into(), "1".into(), 0);
    // The log is released when the store has committed, and when the third has not answered for an election or two.
    std::thread::sleep(Duration::from_secs(3));
    put(&cluster, 0, "last".into(), "2".into(), 0);
    std::thread::sleep(Duration::from_millis(500));

    cluster.members[2].restart();
    agree(&cluster);
    let log = cluster.members[2].log();
    assert!(log.contains("applied snapshot of the leader"), "{log}");
    let pages: Vec<Page> = cluster.members.iter().map(|member| Page::of(&member.client_url())).collect();
    let sum = |name: &str| pages.iter().map(|page| page.sum(name)).sum::<f64>();
    for name in [
        "etcd_network_snapshot_send_success",
        "etcd_network_snapshot_send_total_duration_seconds_count",
        "etcd_network_snapshot_receive_success",
        "etcd_disk_backend_snapshot_duration_seconds_count",
    ] {
        assert!(sum(name) >= 1.0, "{name}: {}", sum(name));
    }
    assert!(pages[2].value("etcd_snap_db_save_total_duration_seconds_count") >= 1.0);
    for name in ["etcd_network_snapshot_send_inflights_total", "etcd_server_snapshot_apply_in_progress_total"] {
        assert_eq!(sum(name), 0.0, "{name}");
    }
    let third = cluster.client(2);
    let everything = RangeRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        serializable: true,
        count_only: true,
        ..Default::default()
    };
    assert_eq!(third.range(everything.clone()).expect("a read").count, 301);
    let lease = third.lease_time_to_live(LeaseTimeToLiveRequest { id: LEASE, keys: true }).expect("a lease");
    assert_eq!((lease.granted_ttl, lease.keys.len()), (600, 30));

    // It takes part: with one of the others it is a majority, and it may lead.
    cluster.members[0].kill();
    (0..50).for_each(|n| put(&cluster, 1 + n % 2, format!("after{n:03}"), value(n), 0));
    cluster.members[2].restart();
    cluster.members[0].restart();
    agree(&cluster);
    assert_eq!(cluster.client(2).range(everything).expect("a read").count, 351);
}

/// Clients of the member that is brought up to date see nothing of it but that they are behind for a while.
#[test]
fn a_paused_member_takes_a_snapshot_while_it_serves() {
    let cluster = start();
    put(&cluster, 0, "a".into(), "1".into(), 0);
    agree(&cluster);
    let third = cluster.client(2);
    let leader = third.status(StatusRequest {}).expect("a status").leader;
    let is =
        |i: usize| cluster.client(i).status(StatusRequest {}).expect("a status").header.expect("a header").member_id;
    // Whoever does not lead.
    let away = (0..3).find(|i| is(*i) != leader).expect("two of three follow");
    let there = (0..3).find(|i| *i != away).expect("there are three");
    let mut watch = Watch::open(&cluster.members[away].client_url());
    let everything = WatchCreateRequest { key: "n".into(), range_end: "o".into(), ..Default::default() };
    watch.create(everything);
    assert!(watch.next(PATIENCE).expect("an answer").expect("a response").created);
    cluster.members[away].signal(libc::SIGSTOP);
    for n in 0..400 {
        put(&cluster, there, format!("n{n:03}"), "v".repeat(500), 0);
        if n == 300 {
            std::thread::sleep(Duration::from_secs(4));
        }
    }
    std::thread::sleep(Duration::from_millis(500));
    cluster.members[away].signal(libc::SIGCONT);
    let mut events = Vec::new();
    while events.len() < 400 {
        let response = watch.next(PATIENCE).expect("more events").expect("a response");
        let keys = response.events.into_iter().map(|event| event.kv.expect("a key").key);
        events.extend(keys.map(|key| String::from_utf8_lossy(&key).into_owned()));
    }
    let log = cluster.members[away].log();
    assert!(log.contains("applied snapshot of the leader"), "{log}");
    let expected: Vec<String> = (0..400).map(|n| format!("n{n:03}")).collect();
    assert_eq!(events, expected);
    agree(&cluster);
}
