//! The test utilities that start real servers do what their users rely on: ports, kills, restarts on the same data.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use lockstep::proto::etcdserverpb::{MemberListRequest, PutRequest, RangeRequest, StatusRequest};

use crate::util::oracle::Etcd;
use crate::util::process::{Cluster, Kind, Port};

#[test]
fn a_cluster_survives_kill_pause_and_restart_of_its_members() {
    let Some(mut cluster) = Cluster::start(Kind::Etcd(Etcd::V35), 3) else { return };
    assert_eq!(cluster.endpoints().split(',').count(), 3);
    let client = cluster.client(0);
    assert_eq!(client.member_list(MemberListRequest::default()).expect("members").members.len(), 3);
    let put = |key: &'static str| {
        let request = PutRequest { key: key.into(), value: "v".into(), ..Default::default() };
        client.put(request).unwrap_or_else(|e| panic!("{key} is not taken: {e}"))
    };
    put("before");

    // A follower dies, misses a write, and has it again after its restart.
    let leader = client.status(StatusRequest {}).expect("status").leader;
    let follower = (1..3)
        .find(|i| {
            let status = cluster.client(*i).status(StatusRequest {}).expect("status");
            status.header.expect("a header").member_id != leader
        })
        .expect("two of three are followers");
    let (old_pid, urls) = (cluster.members[follower].pid(), cluster.endpoints());
    cluster.members[follower].kill();
    let first_log = cluster.members[follower].log();
    assert_eq!(cluster.members[follower].pid(), None);
    put("meanwhile");
    cluster.members[follower].restart();
    assert_ne!(cluster.members[follower].pid(), old_pid);
    assert_eq!(cluster.endpoints(), urls);
    let everything = RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
    let found = cluster.client(follower).range(everything).expect("a linearizable read");
    assert_eq!(found.count, 2);

    // A paused member is not a dead one.
    cluster.members[follower].signal(libc::SIGSTOP);
    put("paused");
    cluster.members[follower].signal(libc::SIGCONT);
    let status = cluster.members[follower].terminate();
    assert_eq!(cluster.members[follower].pid(), None, "ended with {status}");
    let log = cluster.members[follower].log();
    assert!(first_log.len() > 1000 && log.starts_with(&first_log), "the log of the first start is still there");
    assert!(log.len() > first_log.len() + 1000, "and that of the second follows it");
    assert!(cluster.members[follower].data_dir.join("member").is_dir());
}

/// Three members are killed, one loses its directory and comes back first, when no peer is there that could be asked
/// who it is. Once it rejoined without a word, and with a member that had missed writes it made a majority that had
/// them not.
#[test]
fn a_wiped_member_does_not_rejoin() {
    let Some(mut cluster) = Cluster::start(Kind::Lockstepd, 3) else { return };
    // A leader that was just killed takes puts with it: they are made again.
    let put = |cluster: &Cluster, i: usize, key: &'static str| {
        let deadline = Instant::now() + Duration::from_secs(20);
        let request = PutRequest { key: key.into(), value: "v".into(), ..Default::default() };
        while let Err(why) = cluster.client(i).put(request.clone()) {
            assert!(Instant::now() < deadline, "{key} is not taken: {why}");
        }
    };
    put(&cluster, 1, "seen by all");
    cluster.members[0].kill();
    put(&cluster, 1, "missed by the first");
    cluster.members[1].kill();
    cluster.members[2].kill();
    std::fs::remove_dir_all(&cluster.members[2].data_dir).expect("the directory goes");

    cluster.members[2].spawn();
    cluster.members[0].spawn();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !cluster.members[2].log().contains("has already been bootstrapped") {
        assert!(Instant::now() < deadline, "the wiped member says what is wrong: {}", cluster.members[2].log());
        std::thread::sleep(Duration::from_millis(50));
    }
    cluster.members[1].spawn();
    cluster.members[0].wait_ready();
    let everything = RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
    assert_eq!(cluster.client(0).range(everything).expect("a linearizable read").count, 2);
}

#[test]
fn reserved_ports_are_nobody_elses() {
    let start = Instant::now();
    let ports: Vec<Port> = (0..40).map(|_| Port::reserve()).collect();
    let numbers: BTreeSet<u16> = ports.iter().map(Port::number).collect();
    assert_eq!(numbers.len(), ports.len());
    assert!(start.elapsed() < Duration::from_secs(5));
}
