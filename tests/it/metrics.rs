//! `/metrics` beside that of a real etcd: what dashboards and alerts of etcd read has its names, types and labels, and
//! counts what happened.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use lockstep_proto::etcdserverpb as pb;

use crate::util::client::Client;
use crate::util::metrics::Page;
use crate::util::oracle::Etcd;
use crate::util::process::{Cluster, Kind, Port, http_get};

/// What etcd 3.5.1 exports and this server does not: it shows Go, bbolt, the v2 store, a proxy, or what does not work
/// yet. docs/COMPATIBILITY.md says which is which.
const ABSENT: &[&str] = &[
    "etcd_debugging_auth_revision",
    "etcd_debugging_disk_backend_commit_rebalance_duration_seconds",
    "etcd_debugging_disk_backend_commit_spill_duration_seconds",
    "etcd_debugging_disk_backend_commit_write_duration_seconds",
    "etcd_debugging_snap_save_marshalling_duration_seconds",
    "etcd_debugging_snap_save_total_duration_seconds",
    "etcd_debugging_store_expires_total",
    "etcd_debugging_store_reads_total",
    "etcd_debugging_store_watch_requests_total",
    "etcd_debugging_store_watchers",
    "etcd_debugging_store_writes_total",
    "etcd_grpc_proxy_cache_hits_total",
    "etcd_grpc_proxy_cache_keys_total",
    "etcd_grpc_proxy_cache_misses_total",
    "etcd_grpc_proxy_events_coalescing_total",
    "etcd_grpc_proxy_watchers_coalescing_total",
    "etcd_mvcc_db_open_read_transactions",
    "etcd_server_apply_duration_seconds",
    "etcd_server_go_version",
    "etcd_snap_db_fsync_duration_seconds",
    "etcd_snap_fsync_duration_seconds",
];

/// Seen only where something went wrong.
const OF_FAILURES: &[&str] = &["etcd_network_disconnected_peers_total", "etcd_network_peer_sent_failures_total"];

/// Every name in the dashboard and the alerts of etcd's mixin, and of the peers' metrics beside them.
const DASHBOARDS: &[&str] = &[
    "etcd_disk_backend_commit_duration_seconds",
    "etcd_disk_wal_fsync_duration_seconds",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_mvcc_db_total_size_in_use_in_bytes",
    "etcd_network_active_peers",
    "etcd_network_client_grpc_received_bytes_total",
    "etcd_network_client_grpc_sent_bytes_total",
    "etcd_network_peer_received_bytes_total",
    "etcd_network_peer_received_failures_total",
    "etcd_network_peer_round_trip_time_seconds",
    "etcd_network_peer_sent_bytes_total",
    "etcd_network_peer_sent_failures_total",
    "etcd_server_has_leader",
    "etcd_server_leader_changes_seen_total",
    "etcd_server_proposals_applied_total",
    "etcd_server_proposals_committed_total",
    "etcd_server_proposals_failed_total",
    "etcd_server_proposals_pending",
    "etcd_server_quota_backend_bytes",
    "grpc_server_handled_total",
    "grpc_server_handling_seconds",
    "grpc_server_started_total",
    "process_resident_memory_bytes",
];

fn put(client: &Client, value: &str) {
    let request = pb::PutRequest { key: "key".into(), value: value.to_owned().into(), ..Default::default() };
    client.put(request).expect("a put");
}

/// Waits for what a page shows to become so.
fn wait_for(url: &str, what: &str, is_so: impl Fn(&Page) -> bool) -> Page {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let page = Page::of(url);
        if is_so(&page) {
            return page;
        }
        assert!(Instant::now() < deadline, "{url} never showed {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Three members, some traffic, and one of them goes away.
#[test]
fn a_cluster_exports_what_etcd_does() {
    let flags = ["--metrics=extensive"];
    let Some(etcd) = Cluster::start_with(Kind::Etcd(Etcd::V35), 3, &flags) else { return };
    let ours = Cluster::start_with(Kind::Lockstepd, 3, &flags).expect("lockstepd is built");
    let pages = [etcd, ours].map(|mut cluster| {
        let client = cluster.client(0);
        for value in 0..10 {
            put(&client, &value.to_string());
        }
        client.compact(pb::CompactionRequest { revision: 8, physical: true }).expect("a compaction");
        client.hash_kv(pb::HashKvRequest::default()).expect("a hash");
        client.lease_grant(pb::LeaseGrantRequest { ttl: 100, id: 7 }).expect("a lease");
        let url = cluster.members[0].client_url();
        let status = client.status(pb::StatusRequest::default()).expect("a status");
        let local = status.header.expect("a header").member_id;
        let members = client.member_list(pb::MemberListRequest::default()).expect("a list").members;
        let gone = members.iter().position(|m| m.name == "m2").expect("it is listed");
        let others: Vec<String> = members.iter().filter(|m| m.id != local).map(|m| format!("{:x}", m.id)).collect();
        let gone = format!("{:x}", members[gone].id);
        let local = format!("{local:x}");
        let active = |peer: &str| format!("etcd_network_active_peers{{Local=\"{local}\",Remote=\"{peer}\"}}");
        let count = |peer: &str| format!("etcd_network_peer_round_trip_time_seconds_count{{To=\"{peer}\"}}");
        // Probes go out every four seconds.
        let before = wait_for(&url, "probes", |page| others.iter().all(|peer| page.value(&count(peer)) > 0.0));
        for peer in &others {
            assert_eq!(before.value(&active(peer)), 1.0, "{peer}");
        }
        let traffic = |page: &Page, name: &str| page.sum(name);
        let (sent, received) = ("etcd_network_peer_sent_bytes_total", "etcd_network_peer_received_bytes_total");
        assert!(traffic(&before, sent) > 0.0 && traffic(&before, received) > 0.0);
        for value in 0..10 {
            put(&client, &"x".repeat(1000 + value));
        }
        let after = wait_for(&url, "traffic", |page| {
            traffic(page, sent) > traffic(&before, sent) && traffic(page, received) > traffic(&before, received)
        });
        // The leader sends each put twice, a follower at most one to the leader: either way a member sees 10 kB.
        let grew =
            traffic(&after, sent) + traffic(&after, received) - traffic(&before, sent) - traffic(&before, received);
        assert!(grew > 10_000.0, "{grew} bytes for ten puts of 1 kB");
        cluster.members[2].kill();
        let lost = format!("etcd_network_disconnected_peers_total{{Local=\"{local}\",Remote=\"{gone}\"}}");
        wait_for(&url, "the loss of a peer", |page| page.value(&active(&gone)) == 0.0 && page.value(&lost) >= 1.0);
        // Whoever leads now has something to send to it.
        let urls: Vec<String> = cluster.members[..2].iter().map(|member| member.client_url()).collect();
        let deadline = Instant::now() + Duration::from_secs(20);
        let leader = loop {
            let leads = |url: &&String| Page::of(url).sum("etcd_network_peer_sent_failures_total") > 0.0;
            if let Some(url) = urls.iter().find(leads) {
                break url;
            }
            assert!(Instant::now() < deadline, "nobody counts failures");
            let more = pb::PutRequest { key: "more".into(), ..Default::default() };
            let _ = client.put(more);
        };
        // So that its page tells of clients, too.
        put(&Client::connect(leader), "last");
        let page = Page::of(leader);
        (page, cluster)
    });
    let [(theirs, _), (ours, _)] = &pages;
    let mut differences = Vec::new();
    for (name, family) in theirs.families.iter().filter(|(name, _)| !is_of_go(name)) {
        if ABSENT.contains(&name.as_str()) {
            assert!(!ours.families.contains_key(name), "{name} is there: take it off the list");
        } else if ours.families.get(name) != Some(family) || ours.shape(name) != theirs.shape(name) {
            let shapes = [ours.shape(name), theirs.shape(name)];
            differences.push(format!("{name}: {:?} and {family:?}, {shapes:?}", ours.families.get(name)));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    for name in DASHBOARDS {
        assert!(ours.families.contains_key(*name), "{name}");
    }
    for name in ABSENT.iter().chain(OF_FAILURES) {
        assert!(theirs.families.contains_key(*name), "etcd has no {name}");
    }
    for method in theirs.samples.keys().filter(|sample| sample.starts_with("grpc_server_started_total")) {
        assert!(ours.samples.contains_key(method), "{method}");
    }
}

fn is_of_go(name: &str) -> bool {
    name.starts_with("go_") || name.starts_with("promhttp_")
}

/// The same requests, counted alike.
#[test]
fn counters_count_as_etcds() {
    let Some(etcd) = Cluster::start(Kind::Etcd(Etcd::V35), 1) else { return };
    let ours = Cluster::start(Kind::Lockstepd, 1).expect("lockstepd is built");
    let compacted = "etcd_debugging_mvcc_db_compaction_keys_total";
    let ended = "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds_count";
    let pages = [etcd, ours].map(|cluster| {
        let client = cluster.client(0);
        let url = cluster.members[0].client_url();
        let before = Page::of(&url);
        for at in 0..50 {
            put(&client, &at.to_string());
        }
        client.delete_range(pb::DeleteRangeRequest { key: "key".into(), ..Default::default() }).expect("a deletion");
        put(&client, "last");
        for _ in 0..3 {
            client.range(pb::RangeRequest { key: "key".into(), ..Default::default() }).expect("a read");
        }
        for (id, ttl) in [(1, 100), (2, 3000), (3, 100_000)] {
            client.lease_grant(pb::LeaseGrantRequest { id, ttl }).expect("a lease");
        }
        client.lease_revoke(pb::LeaseRevokeRequest { id: 1 }).expect("it is revoked");
        client.hash(pb::HashRequest::default()).expect("a hash");
        client.hash_kv(pb::HashKvRequest::default()).expect("a hash");
        client.compact(pb::CompactionRequest { revision: 53, physical: true }).expect("a compaction");
        let after = wait_for(&url, "the compaction", |page| {
            page.value(compacted) > before.value(compacted) && page.value(ended) > before.value(ended)
        });
        (before, after)
    });
    let [theirs, ours] = &pages;
    let mut differences = Vec::new();
    for sample in [
        compacted,
        ended,
        "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds_count",
        "etcd_debugging_mvcc_total_put_size_in_bytes",
        "etcd_mvcc_put_total",
        "etcd_mvcc_delete_total",
        "etcd_debugging_lease_granted_total",
        "etcd_debugging_lease_revoked_total",
        "etcd_debugging_lease_ttl_total_count",
        "etcd_debugging_lease_ttl_total_sum",
        "etcd_debugging_lease_ttl_total_bucket{le=\"4096\"}",
        "etcd_mvcc_hash_duration_seconds_count",
        "etcd_mvcc_hash_rev_duration_seconds_count",
        "etcd_server_client_requests_total{client_api_version=\"unknown\",type=\"unary\"}",
    ] {
        let grew = |(before, after): &(Page, Page)| after.value(sample) - before.samples.get(sample).unwrap_or(&0.0);
        let [theirs, ours] = [grew(theirs), grew(ours)];
        if ours != theirs || ours <= 0.0 {
            differences.push(format!("{sample}: {ours}, etcd: {theirs}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    // etcd counts one of its own for each compaction.
    for sample in ["etcd_debugging_mvcc_range_total", "etcd_mvcc_range_total"] {
        assert_eq!(ours.1.value(sample) - ours.0.value(sample), 3.0, "{sample}");
    }
    let written = "etcd_disk_wal_write_bytes_total";
    assert!(ours.1.value(written) > ours.0.value(written));
    let last = |(_, after): &(Page, Page)| after.value("etcd_debugging_mvcc_db_compaction_last");
    assert!((last(ours) - last(theirs)).abs() < 60.0, "{} and {}", last(ours), last(theirs));
}

#[test]
fn events_are_counted_and_versions_of_clients_are_bounded() {
    let cluster = Cluster::start(Kind::Lockstepd, 1).expect("lockstepd is built");
    let url = cluster.members[0].client_url();
    let mut watch = TcpStream::connect(url.trim_start_matches("http://")).expect("the server accepts");
    let body = r#"{"create_request":{"key":"a2V5"}}"#;
    write!(watch, "POST /v3/watch HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut lines = BufReader::new(watch).lines();
    assert!(lines.any(|line| line.expect("the stream goes on").contains("created")));
    for at in 0..5 {
        put(&cluster.client(0), &at.to_string());
        assert!(lines.any(|line| line.expect("the stream goes on").contains("events")));
    }
    let page = Page::of(&url);
    assert_eq!(page.value("etcd_debugging_mvcc_events_total"), 5.0);
    assert_eq!(page.value("etcd_debugging_mvcc_pending_events_total"), 0.0);
    // A flood of names is one name.
    for at in 0..100 {
        let mut stream = TcpStream::connect(url.trim_start_matches("http://")).expect("the server accepts");
        let head = "POST /v3/kv/range HTTP/1.0\r\nHost: x\r\nContent-Length: 14\r\n";
        write!(stream, "{head}Grpc-Metadata-Client-Api-Version: {at}\r\n\r\n{{\"key\":\"a2V5\"}}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains(" 200 "), "{answer}");
    }
    let page = Page::of(&url);
    let versions = page.samples.keys().filter(|sample| sample.starts_with("etcd_server_client_requests_total"));
    assert!((2..=2 * 33).contains(&versions.count()));
    assert!(page.sum("etcd_server_client_requests_total") >= 106.0);
}

#[test]
fn what_happens_is_counted() {
    let metrics = Port::reserve();
    let flag = format!("--listen-metrics-urls={}", metrics.url());
    let cluster = Cluster::start_with(Kind::Lockstepd, 1, &[&flag]).expect("lockstepd is built");
    let url = cluster.members[0].client_url();
    let before = Page::of(&url);
    let client = cluster.client(0);
    for at in 0..5 {
        put(&client, &at.to_string());
    }
    client.range(pb::RangeRequest { key: "key".into(), ..Default::default() }).expect("a read");
    for _ in 0..2 {
        client.delete_range(pb::DeleteRangeRequest { key: "key".into(), ..Default::default() }).expect("a deletion");
    }
    let after = Page::of(&metrics.url());
    let grew = |sample: &str| after.value(sample) - before.value(sample);
    let of = |name: &str, method: &str, more: &str| {
        format!("{name}{{{more}grpc_method=\"{method}\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"}}")
    };
    for (sample, by) in [
        ("etcd_mvcc_put_total".to_owned(), 5.0),
        ("etcd_mvcc_delete_total".to_owned(), 1.0),
        ("etcd_mvcc_range_total".to_owned(), 1.0),
        ("etcd_debugging_mvcc_current_revision".to_owned(), 6.0),
        (of("grpc_server_started_total", "Put", ""), 5.0),
        (of("grpc_server_msg_received_total", "Put", ""), 5.0),
        (of("grpc_server_msg_sent_total", "Put", ""), 5.0),
        (of("grpc_server_handled_total", "Put", "grpc_code=\"OK\","), 5.0),
        (of("grpc_server_started_total", "DeleteRange", ""), 2.0),
    ] {
        assert_eq!(grew(&sample), by, "{sample}");
    }
    // The member proposes something itself now and then.
    assert!(grew("etcd_server_proposals_applied_total") >= 7.0);
    assert!(grew("etcd_network_client_grpc_received_bytes_total") >= 5.0 * 8.0);
    assert!(grew("etcd_disk_wal_fsync_duration_seconds_count") >= 7.0);
    for (sample, value) in [
        ("etcd_server_has_leader", 1.0),
        ("etcd_server_is_leader", 1.0),
        ("etcd_server_proposals_pending", 0.0),
        ("etcd_server_version{server_version=\"3.7.1\"}", 1.0),
    ] {
        assert_eq!(after.value(sample), value, "{sample}");
    }
    assert!(after.value("process_resident_memory_bytes") > 1e6);
    // The metrics' own listener has health, and nothing else.
    assert_eq!(http_get(&metrics.url(), "/health").map(|(status, _)| status), Some(200));
    assert_eq!(http_get(&metrics.url(), "/debug/vars").map(|(status, _)| status), Some(404));
    assert_eq!(http_get(&url, "/debug/vars").map(|(status, _)| status), Some(200));
}
