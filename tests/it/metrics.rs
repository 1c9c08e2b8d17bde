//! `/metrics` beside that of a real etcd: what dashboards and alerts of etcd read has its names, types and labels, and
//! counts what happened.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;

use lockstep_proto::etcdserverpb as pb;

use crate::util::client::Client;
use crate::util::oracle::Etcd;
use crate::util::process::{Cluster, Kind, Port, http_get};

/// What the official dashboard, the alerts of etcd's mixin, and Prometheus' own process panels ask for.
const WANTED: &[&str] = &[
    "etcd_cluster_version",
    "etcd_debugging_lease_granted_total",
    "etcd_debugging_lease_renewed_total",
    "etcd_debugging_lease_revoked_total",
    "etcd_debugging_mvcc_compact_revision",
    "etcd_debugging_mvcc_current_revision",
    "etcd_debugging_mvcc_keys_total",
    "etcd_debugging_mvcc_slow_watcher_total",
    "etcd_debugging_mvcc_watch_stream_total",
    "etcd_debugging_mvcc_watcher_total",
    "etcd_debugging_server_lease_expired_total",
    "etcd_disk_backend_commit_duration_seconds",
    "etcd_disk_wal_fsync_duration_seconds",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_mvcc_db_total_size_in_use_in_bytes",
    "etcd_mvcc_delete_total",
    "etcd_mvcc_put_total",
    "etcd_mvcc_range_total",
    "etcd_mvcc_txn_total",
    "etcd_network_client_grpc_received_bytes_total",
    "etcd_network_client_grpc_sent_bytes_total",
    "etcd_server_has_leader",
    "etcd_server_heartbeat_send_failures_total",
    "etcd_server_id",
    "etcd_server_is_leader",
    "etcd_server_is_learner",
    "etcd_server_leader_changes_seen_total",
    "etcd_server_proposals_applied_total",
    "etcd_server_proposals_committed_total",
    "etcd_server_proposals_failed_total",
    "etcd_server_proposals_pending",
    "etcd_server_quota_backend_bytes",
    "etcd_server_read_indexes_failed_total",
    "etcd_server_slow_apply_total",
    "etcd_server_slow_read_indexes_total",
    "etcd_server_version",
    "grpc_server_handled_total",
    "grpc_server_msg_received_total",
    "grpc_server_msg_sent_total",
    "grpc_server_started_total",
    "os_fd_limit",
    "os_fd_used",
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_virtual_memory_bytes",
];

#[derive(Default)]
struct Page {
    /// Text and type, by name.
    families: BTreeMap<String, (String, String)>,
    /// By name and labels, labels in order.
    samples: BTreeMap<String, f64>,
}

impl Page {
    fn of(url: &str) -> Page {
        // HTTP/1.0, so that the page comes in one piece.
        let mut stream = TcpStream::connect(url.trim_start_matches("http://")).expect("the server accepts");
        write!(stream, "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("the request is sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("the answer is read");
        assert!(text.starts_with("HTTP/1.0 200"), "{text}");
        let mut page = Page::default();
        for line in text.lines().map(str::trim) {
            if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) {
                page.families.entry(name.to_owned()).or_default().0 = help.to_owned();
            } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' ')) {
                page.families.entry(name.to_owned()).or_default().1 = kind.to_owned();
            } else if let Some((sample, value)) = line.rsplit_once(' ')
                && let Ok(value) = value.parse()
            {
                page.samples.insert(sorted_labels(sample), value);
            }
        }
        page
    }

    fn value(&self, sample: &str) -> f64 {
        self.samples.get(&sorted_labels(sample)).copied().unwrap_or(f64::NAN)
    }

    /// The label names, and the buckets, that a family's samples have.
    fn shape(&self, family: &str) -> Vec<String> {
        let of = |sample: &&String| {
            let name = sample.split('{').next().unwrap_or_default();
            let tail = name.strip_prefix(family);
            tail.is_some_and(|tail| matches!(tail, "" | "_bucket" | "_sum" | "_count"))
        };
        let mut shape: Vec<String> = self.samples.keys().filter(of).map(|sample| names_of(sample)).collect();
        shape.dedup();
        shape.sort();
        shape.dedup();
        shape
    }
}

fn sorted_labels(sample: &str) -> String {
    let Some((name, labels)) = sample.split_once('{') else { return sample.to_owned() };
    let mut labels: Vec<&str> = labels.trim_end_matches('}').split(',').collect();
    labels.sort_unstable();
    format!("{name}{{{}}}", labels.join(","))
}

/// The sample without its labels' values, but for the bounds of buckets.
fn names_of(sample: &str) -> String {
    let Some((name, labels)) = sample.split_once('{') else { return sample.to_owned() };
    let labels = labels.trim_end_matches('}').split(',');
    let labels = labels.map(|l| if l.starts_with("le=") { l } else { l.split('=').next().unwrap_or_default() });
    format!("{name}{{{}}}", labels.collect::<Vec<_>>().join(","))
}

fn put(client: &Client, value: &str) {
    let request = pb::PutRequest { key: "key".into(), value: value.to_owned().into(), ..Default::default() };
    client.put(request).expect("a put");
}

#[test]
fn names_types_texts_and_buckets_are_etcds() {
    let Some(etcd) = Cluster::start_with(Kind::Etcd(Etcd::V35), 1, &["--metrics=extensive"]) else { return };
    let ours = Cluster::start_with(Kind::Lockstepd, 1, &["--metrics=extensive"]).expect("lockstepd is built");
    let pages = [&etcd, &ours].map(|cluster| {
        put(&cluster.client(0), "1");
        Page::of(&cluster.members[0].client_url())
    });
    let [theirs, ours] = &pages;
    for name in WANTED.iter().chain(&["grpc_server_handling_seconds"]) {
        assert!(theirs.families.contains_key(*name), "etcd has no {name}");
        assert_eq!(ours.families.get(*name), theirs.families.get(*name), "{name}: text and type");
        assert_eq!(ours.shape(name), theirs.shape(name), "{name}: labels and buckets");
    }
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
