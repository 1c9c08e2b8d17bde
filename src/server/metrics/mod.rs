//! What this process counts, under etcd's names: dashboards and alerts of etcd read `/metrics` unchanged.
//!
//! Counters are relaxed atomics behind statics. What the member knows anyway (its leader, indices, sizes) is read when
//! somebody asks, and costs nothing until then. Only `server/` counts: the machines below know no metric.

mod page;

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lockstep_proto::mvccpb::KeyValue;
use lockstep_proto::schema::METHODS;
use parking_lot::RwLock;
use prometheus::core::Collector;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
    exponential_buckets,
};

use super::node::Node;
use super::peer;
use crate::member::apply::Change;
use crate::member::lease::Change as LeaseChange;

pub static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// See the fields' texts in [`Metrics::new`]: they are etcd's.
pub struct Metrics {
    registry: Registry,
    pub leader_changes: IntCounter,
    pub proposals_failed: IntCounter,
    pub proposals_pending: IntGauge,
    pub heartbeat_send_failures: IntCounter,
    pub slow_apply: IntCounter,
    learner_promotions: IntCounter,
    learner_promotions_failed: IntCounterVec,
    pub slow_read_indexes: IntCounter,
    pub read_indexes_failed: IntCounter,
    pub health_success: IntCounter,
    pub health_failures: IntCounter,
    pub wal_fsync_seconds: Histogram,
    pub wal_written_bytes: IntGauge,
    pub backend_commit_seconds: Histogram,
    pub defragment_seconds: Histogram,
    pub defragmenting: IntGauge,
    pub snapshot_seconds: Histogram,
    pub snapshot_save_seconds: Histogram,
    pub snapshot_applying: IntGauge,
    pub disk_full: IntGauge,
    pub store_file_bytes: IntGauge,
    pub backup_failures: IntCounter,
    pub backup_seconds: Histogram,
    pub backup_last_success_s: IntGauge,
    pub backup_last_bytes: IntGauge,
    pub backup_files: IntGauge,
    pub puts: IntCounter,
    pub deletes: IntCounter,
    ranges: IntCounter,
    /// The same under its older name.
    debug_ranges: IntCounter,
    pub txns: IntCounter,
    put_bytes: IntGauge,
    pub compacted_rows: IntCounter,
    compacted_last: IntGauge,
    compaction_millis: Histogram,
    compaction_pause_millis: [Histogram; 2],
    pub hash_seconds: Histogram,
    pub hash_kv_seconds: Histogram,
    lease_ttls: Histogram,
    pub grpc_received_bytes: IntCounter,
    pub grpc_sent_bytes: IntCounter,
    pub gateway_requests: IntCounter,
    methods: Vec<MethodMetrics>,
    handled: IntCounterVec,
    handling: HistogramVec,
    client_requests: IntCounterVec,
    /// Those of the client versions seen so far.
    clients: RwLock<Vec<ClientMetrics>>,
}

/// What clients of one version asked for.
struct ClientMetrics {
    version: Box<str>,
    unary: IntCounter,
    stream: IntCounter,
}

/// A client may call itself what it likes, but not make this process remember it for ever.
const MAX_CLIENT_VERSIONS: usize = 32;
const MAX_CLIENT_VERSION_BYTES: usize = 16;

/// The counters of one gRPC method.
pub struct MethodMetrics {
    path: &'static str,
    /// Kind, service and name.
    labels: [&'static str; 3],
    pub started: IntCounter,
    pub received: IntCounter,
    pub sent: IntCounter,
    ok: IntCounter,
    handling: Histogram,
}

impl Metrics {
    fn new() -> Metrics {
        let mut make = Maker(Registry::new());
        let labels = ["grpc_type", "grpc_service", "grpc_method"];
        let vec = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), labels).expect("the name is well-formed")
        };
        let started = vec("grpc_server_started_total", "Total number of RPCs started on the server.", &labels);
        let received = vec(
            "grpc_server_msg_received_total",
            "Total number of RPC stream messages received on the server.",
            &labels,
        );
        let sent =
            vec("grpc_server_msg_sent_total", "Total number of gRPC stream messages sent by the server.", &labels);
        let handled = vec(
            "grpc_server_handled_total",
            "Total number of RPCs completed on the server, regardless of success or failure.",
            &["grpc_type", "grpc_service", "grpc_method", "grpc_code"],
        );
        let handling = HistogramOpts::new(
            "grpc_server_handling_seconds",
            "Histogram of response latency (seconds) of gRPC that had been application-level handled by the server.",
        );
        let handling = HistogramVec::new(handling, &labels).expect("the name is well-formed");
        let client_requests = vec(
            "etcd_server_client_requests_total",
            "The total number of client requests per client version.",
            &["type", "client_api_version"],
        );
        for vec in [&started, &received, &sent, &handled, &client_requests] {
            make.register(vec.clone());
        }
        let known = METHODS.iter().map(|method| (method.path, method.client_streams, method.server_streams));
        let methods = known.chain(HEALTH).map(|(path, client_streams, server_streams)| {
            let labels = labels_of(path, client_streams, server_streams);
            let [kind, service, name] = labels;
            MethodMetrics {
                path,
                labels,
                started: started.with_label_values(&labels),
                received: received.with_label_values(&labels),
                sent: sent.with_label_values(&labels),
                ok: handled.with_label_values(&[kind, service, name, "OK"]),
                handling: handling.with_label_values(&labels),
            }
        });
        let methods = methods.collect();
        let buckets = |first, count| exponential_buckets(first, 2.0, count).expect("they ascend");
        let disk_buckets = buckets(0.001, 14);
        Metrics {
            leader_changes: make.counter("etcd_server_leader_changes_seen_total", "The number of leader changes seen."),
            proposals_failed: make
                .counter("etcd_server_proposals_failed_total", "The total number of failed proposals seen."),
            proposals_pending: make
                .gauge("etcd_server_proposals_pending", "The current number of pending proposals to commit."),
            heartbeat_send_failures: make.counter(
                "etcd_server_heartbeat_send_failures_total",
                "The total number of leader heartbeat send failures (likely overloaded from slow disk).",
            ),
            learner_promotions: make.counter(
                "etcd_server_learner_promote_successes",
                "The total number of successful learner promotions while this member is leader.",
            ),
            learner_promotions_failed: make.counters(
                "etcd_server_learner_promote_failures",
                "The total number of failed learner promotions (likely learner not ready) while this member is leader.",
                &["Reason"],
            ),
            slow_apply: make.counter(
                "etcd_server_slow_apply_total",
                "The total number of slow apply requests (likely overloaded from slow disk).",
            ),
            slow_read_indexes: make.counter(
                "etcd_server_slow_read_indexes_total",
                "The total number of pending read indexes not in sync with leader's or timed out read index requests.",
            ),
            read_indexes_failed: make
                .counter("etcd_server_read_indexes_failed_total", "The total number of failed read indexes seen."),
            health_success: make.counter("etcd_server_health_success", "The total number of successful health checks"),
            health_failures: make.counter("etcd_server_health_failures", "The total number of failed health checks"),
            wal_fsync_seconds: make.histogram(
                "etcd_disk_wal_fsync_duration_seconds",
                "The latency distributions of fsync called by WAL.",
                disk_buckets.clone(),
            ),
            wal_written_bytes: make.gauge("etcd_disk_wal_write_bytes_total", "Total number of bytes written in WAL."),
            backend_commit_seconds: make.histogram(
                "etcd_disk_backend_commit_duration_seconds",
                "The latency distributions of commit called by backend.",
                disk_buckets,
            ),
            defragment_seconds: make.histogram(
                "etcd_disk_backend_defrag_duration_seconds",
                "The latency distribution of backend defragmentation.",
                exponential_buckets(0.1, 2.0, 13).expect("the buckets are well-formed"),
            ),
            defragmenting: make.gauge(
                "etcd_disk_defrag_inflight",
                "Whether or not defrag is active on the member. 1 means active, 0 means not.",
            ),
            snapshot_seconds: make.histogram(
                "etcd_disk_backend_snapshot_duration_seconds",
                "The latency distribution of backend snapshots.",
                buckets(0.01, 17),
            ),
            snapshot_save_seconds: make.histogram(
                "etcd_snap_db_save_total_duration_seconds",
                "The total latency distributions of v3 snapshot save",
                buckets(0.1, 10),
            ),
            snapshot_applying: make.gauge(
                "etcd_server_snapshot_apply_in_progress_total",
                "1 if the server is applying the incoming snapshot. 0 if none.",
            ),
            disk_full: make.gauge(
                "lockstep_disk_full",
                "Whether writes wait for space on the disk. 1 means they do, 0 means not.",
            ),
            backup_failures: make.counter("lockstep_backup_failures_total", "Backups that this member could not take."),
            backup_seconds: make.histogram(
                "lockstep_backup_duration_seconds",
                "How long this member's backups took, verifying included.",
                buckets(0.1, 16),
            ),
            backup_last_success_s: make.gauge(
                "lockstep_backup_last_success_timestamp_seconds",
                "When the newest backup in this member's folder was taken, in Unix time; 0 if there is none. Those \
                 dated ahead of now do not count.",
            ),
            backup_last_bytes: make.gauge("lockstep_backup_last_size_bytes", "The length of that backup."),
            backup_files: make.gauge("lockstep_backup_files", "How many backups of this cluster that folder has."),
            store_file_bytes: make
                .gauge("lockstep_store_file_bytes", "The length of the store's file: what it takes of the disk."),
            puts: make.counter("etcd_mvcc_put_total", "Total number of puts seen by this member."),
            deletes: make.counter("etcd_mvcc_delete_total", "Total number of deletes seen by this member."),
            ranges: make.counter("etcd_mvcc_range_total", "Total number of ranges seen by this member."),
            debug_ranges: make
                .counter("etcd_debugging_mvcc_range_total", "Total number of ranges seen by this member."),
            put_bytes: make.gauge(
                "etcd_debugging_mvcc_total_put_size_in_bytes",
                "The total size of put kv pairs seen by this member.",
            ),
            compacted_rows: make
                .counter("etcd_debugging_mvcc_db_compaction_keys_total", "Total number of db keys compacted."),
            compacted_last: make.gauge(
                "etcd_debugging_mvcc_db_compaction_last",
                "The unix time of the last db compaction. Resets to 0 on start.",
            ),
            compaction_millis: make.histogram(
                "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
                "Bucketed histogram of db compaction total duration.",
                buckets(100.0, 14),
            ),
            compaction_pause_millis: [
                make.histogram(
                    "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
                    "Bucketed histogram of db compaction pause duration.",
                    buckets(1.0, 13),
                ),
                make.histogram(
                    "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds",
                    "Bucketed histogram of index compaction pause duration.",
                    buckets(0.5, 14),
                ),
            ],
            hash_seconds: make.histogram(
                "etcd_mvcc_hash_duration_seconds",
                "The latency distribution of storage hash operation.",
                buckets(0.01, 15),
            ),
            hash_kv_seconds: make.histogram(
                "etcd_mvcc_hash_rev_duration_seconds",
                "The latency distribution of storage hash by revision operation.",
                buckets(0.01, 15),
            ),
            lease_ttls: make.histogram(
                "etcd_debugging_lease_ttl_total",
                "Bucketed histogram of lease TTLs.",
                buckets(1.0, 24),
            ),
            txns: make.counter("etcd_mvcc_txn_total", "Total number of txns seen by this member."),
            grpc_received_bytes: make.counter(
                "etcd_network_client_grpc_received_bytes_total",
                "The total number of bytes received from grpc clients.",
            ),
            grpc_sent_bytes: make.counter(
                "etcd_network_client_grpc_sent_bytes_total",
                "The total number of bytes sent to grpc clients.",
            ),
            gateway_requests: make.counter("lockstep_gateway_requests_total", "Requests answered by the JSON gateway."),
            methods,
            handled,
            handling,
            client_requests,
            clients: RwLock::default(),
            registry: make.0,
        }
    }

    /// `--metrics extensive`.
    pub fn be_extensive(&self) {
        // A second call finds it there already.
        let _ = self.registry.register(Box::new(self.handling.clone()));
    }

    pub fn method(&self, path: &str) -> Option<&MethodMetrics> {
        self.methods.iter().find(|method| method.path == path)
    }

    /// A call has ended.
    pub fn handled(&self, of: &MethodMetrics, code: tonic::Code, seconds: f64) {
        of.handling.observe(seconds);
        if code == tonic::Code::Ok {
            return of.ok.inc();
        }
        let [kind, service, name] = of.labels;
        self.handled.with_label_values(&[kind, service, name, &format!("{code:?}")]).inc();
    }

    /// What a step of apply changed.
    pub fn applied(&self, changes: &[Change]) {
        let (mut puts, mut deletes, mut txns, mut put_bytes) = (0, 0, 0, 0);
        for change in changes {
            for kv in &change.events {
                let KeyValue { key, value, version, .. } = kv;
                deletes += u64::from(*version == 0);
                put_bytes += if *version == 0 { 0 } else { key.len() + value.len() };
            }
            puts += change.events.len() as u64;
            txns += u64::from(change.events.len() > 1);
        }
        self.puts.inc_by(puts - deletes);
        self.put_bytes.add(put_bytes as i64);
        self.deletes.inc_by(deletes);
        self.txns.inc_by(txns);
    }

    pub fn ranged(&self) {
        self.ranges.inc();
        self.debug_ranges.inc();
    }

    pub fn leases_changed(&self, changes: &[LeaseChange]) {
        for change in changes {
            if let LeaseChange::Granted { ttl_s, .. } = change {
                self.lease_ttls.observe(*ttl_s as f64);
            }
        }
    }

    /// A step of compaction kept the thread that applies busy: it takes from the index, and from the store's rows.
    pub fn compaction_paused(&self, took: Duration) {
        for histogram in &self.compaction_pause_millis {
            histogram.observe(took.as_millis() as f64);
        }
    }

    pub fn compacted(&self, took: Duration) {
        self.compaction_millis.observe(took.as_millis() as f64);
        self.compacted_last.set(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as i64);
    }

    /// A call began, of a client that says which version it has.
    pub fn requested(&self, of: &MethodMetrics, version: Option<&str>) {
        let version = version.unwrap_or("unknown");
        let is_stream = of.labels[0] != UNARY;
        let count = |client: &ClientMetrics| if is_stream { client.stream.inc() } else { client.unary.inc() };
        if let Some(client) = self.clients.read().iter().find(|client| *client.version == *version) {
            return count(client);
        }
        let mut clients = self.clients.write();
        let is_plain = version.len() <= MAX_CLIENT_VERSION_BYTES && clients.len() < MAX_CLIENT_VERSIONS;
        let version = if is_plain { version } else { "unknown" };
        if let Some(client) = clients.iter().find(|client| *client.version == *version) {
            return count(client);
        }
        let counter = |kind| self.client_requests.with_label_values(&[kind, version]);
        clients.push(ClientMetrics { version: version.into(), unary: counter("unary"), stream: counter("stream") });
        clients.last().into_iter().for_each(count);
    }

    pub fn learner_promoted(&self) {
        self.learner_promotions.inc();
    }

    /// `reason` is one of the errors of a table.
    pub fn learner_not_promoted(&self, reason: &'static str) {
        self.learner_promotions_failed.with_label_values(&[reason]).inc();
    }

    /// The page, in Prometheus' text format.
    pub fn page(&self, node: &Node, transport: &peer::Transport) -> Vec<u8> {
        let mut families = self.registry.gather();
        families.extend(page::member(node));
        families.extend(page::peers(&format!("{:x}", node.member_id), &transport.reports()));
        families.extend(page::process());
        families.sort_by(|a, b| a.name().cmp(b.name()));
        let mut page = Vec::new();
        // It fails on families without a metric only, and there are none.
        let _ = TextEncoder::new().encode(&families, &mut page);
        page
    }
}

struct Maker(Registry);

impl Maker {
    fn register(&mut self, collector: impl Collector + 'static) {
        self.0.register(Box::new(collector)).expect("no name is there twice");
    }

    fn counter(&mut self, name: &str, help: &str) -> IntCounter {
        let counter = IntCounter::new(name, help).expect("the name is well-formed");
        self.register(counter.clone());
        counter
    }

    fn counters(&mut self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        let counters = IntCounterVec::new(Opts::new(name, help), labels).expect("the name is well-formed");
        self.register(counters.clone());
        counters
    }

    fn gauge(&mut self, name: &str, help: &str) -> IntGauge {
        let gauge = IntGauge::new(name, help).expect("the name is well-formed");
        self.register(gauge.clone());
        gauge
    }

    fn histogram(&mut self, name: &str, help: &str, buckets: Vec<f64>) -> Histogram {
        let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets));
        let histogram = histogram.expect("the name is well-formed");
        self.register(histogram.clone());
        histogram
    }
}

/// Paths of the service that is not etcd's own, and whether the client and the server stream.
const HEALTH: [(&str, bool, bool); 2] =
    [("/grpc.health.v1.Health/Check", false, false), ("/grpc.health.v1.Health/Watch", false, true)];

const UNARY: &str = "unary";

/// Kind, service and name of a method, as go-grpc-prometheus labels them.
fn labels_of(path: &'static str, client_streams: bool, server_streams: bool) -> [&'static str; 3] {
    let kind = match (client_streams, server_streams) {
        (false, false) => UNARY,
        (false, true) => "server_stream",
        (true, false) => "client_stream",
        (true, true) => "bidi_stream",
    };
    let (service, name) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
    [kind, service, name]
}
