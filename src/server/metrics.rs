//! What this process counts, under etcd's names: dashboards and alerts of etcd read `/metrics` unchanged.
//!
//! Counters are relaxed atomics behind statics. What the member knows anyway (its leader, indices, sizes) is read when
//! somebody asks, and costs nothing until then. Only `server/` counts: the machines below know no metric.

use std::sync::LazyLock;

use lockstep_proto::mvccpb::KeyValue;
use lockstep_proto::schema::{METHODS, Method};
use prometheus::core::Collector;
use prometheus::{
    Counter, Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
    Registry, TextEncoder, exponential_buckets,
};

use super::files;
use super::node::Node;
use crate::member::apply::Change;
use crate::mvcc::read::Read;
use crate::{CLUSTER_VERSION, ETCD_VERSION, VERSION};

pub static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// What `--quota-backend-bytes=0` means.
const DEFAULT_QUOTA_BYTES: f64 = 2_147_483_648.0;

/// See the fields' texts in [`Metrics::new`]: they are etcd's.
pub struct Metrics {
    registry: Registry,
    pub leader_changes: IntCounter,
    pub proposals_failed: IntCounter,
    pub proposals_pending: IntGauge,
    pub heartbeat_send_failures: IntCounter,
    pub slow_apply: IntCounter,
    pub slow_read_indexes: IntCounter,
    pub read_indexes_failed: IntCounter,
    pub health_success: IntCounter,
    pub health_failures: IntCounter,
    pub wal_fsync_seconds: Histogram,
    pub backend_commit_seconds: Histogram,
    pub puts: IntCounter,
    pub deletes: IntCounter,
    pub ranges: IntCounter,
    pub txns: IntCounter,
    pub grpc_received_bytes: IntCounter,
    pub grpc_sent_bytes: IntCounter,
    pub gateway_requests: IntCounter,
    methods: Vec<MethodMetrics>,
    handled: IntCounterVec,
    handling: HistogramVec,
}

/// The counters of one gRPC method.
pub struct MethodMetrics {
    pub method: &'static Method,
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
        for vec in [&started, &received, &sent, &handled] {
            make.register(vec.clone());
        }
        let methods = METHODS.iter().map(|method| {
            let (kind, service, name) = names(method);
            let of = [kind, service, name];
            MethodMetrics {
                method,
                started: started.with_label_values(&of),
                received: received.with_label_values(&of),
                sent: sent.with_label_values(&of),
                ok: handled.with_label_values(&[kind, service, name, "OK"]),
                handling: handling.with_label_values(&of),
            }
        });
        let methods = methods.collect();
        let disk_buckets = exponential_buckets(0.001, 2.0, 14).expect("they ascend");
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
            backend_commit_seconds: make.histogram(
                "etcd_disk_backend_commit_duration_seconds",
                "The latency distributions of commit called by backend.",
                disk_buckets,
            ),
            puts: make.counter("etcd_mvcc_put_total", "Total number of puts seen by this member."),
            deletes: make.counter("etcd_mvcc_delete_total", "Total number of deletes seen by this member."),
            ranges: make.counter("etcd_mvcc_range_total", "Total number of ranges seen by this member."),
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
            registry: make.0,
        }
    }

    /// `--metrics extensive`.
    pub fn be_extensive(&self) {
        // A second call finds it there already.
        let _ = self.registry.register(Box::new(self.handling.clone()));
    }

    pub fn method(&self, path: &str) -> Option<&MethodMetrics> {
        self.methods.iter().find(|m| m.method.path == path)
    }

    /// A call has ended.
    pub fn handled(&self, of: &MethodMetrics, code: tonic::Code, seconds: f64) {
        of.handling.observe(seconds);
        if code == tonic::Code::Ok {
            return of.ok.inc();
        }
        let (kind, service, name) = names(of.method);
        self.handled.with_label_values(&[kind, service, name, &format!("{code:?}")]).inc();
    }

    /// What a step of apply changed.
    pub fn applied(&self, changes: &[Change]) {
        let (mut puts, mut deletes, mut txns) = (0, 0, 0);
        for change in changes {
            let deleted = change.events.iter().filter(|kv: &&KeyValue| kv.version == 0).count() as u64;
            deletes += deleted;
            puts += change.events.len() as u64 - deleted;
            txns += u64::from(change.events.len() > 1);
        }
        self.puts.inc_by(puts);
        self.deletes.inc_by(deletes);
        self.txns.inc_by(txns);
    }

    /// The page, in Prometheus' text format.
    pub fn page(&self, node: &Node) -> Vec<u8> {
        let mut families = self.registry.gather();
        families.extend(member(node));
        families.extend(process());
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

/// Kind, service and name of a method, as go-grpc-prometheus labels them.
fn names(method: &'static Method) -> (&'static str, &'static str, &'static str) {
    let kind = match (method.client_streams, method.server_streams) {
        (false, false) => "unary",
        (false, true) => "server_stream",
        (true, false) => "client_stream",
        (true, true) => "bidi_stream",
    };
    let (service, name) = method.path.trim_start_matches('/').split_once('/').unwrap_or_default();
    (kind, service, name)
}

type Families = Vec<prometheus::proto::MetricFamily>;

fn gauge(name: &str, help: &str, value: f64, label: Option<(&str, &str)>) -> Families {
    let mut opts = Opts::new(name, help);
    if let Some((name, value)) = label {
        opts = opts.const_label(name, value);
    }
    let gauge = Gauge::with_opts(opts).expect("the name is well-formed");
    gauge.set(value);
    gauge.collect()
}

fn counter(name: &str, help: &str, value: f64) -> Families {
    let counter = Counter::new(name, help).expect("the name is well-formed");
    counter.inc_by(value);
    counter.collect()
}

/// What the member says of itself now.
fn member(node: &Node) -> Families {
    let status = node.status();
    let view = node.local_view();
    let membership = node.membership();
    let is_learner = membership.member(node.member_id).is_some_and(|m| m.is_learner);
    let flag = |on: bool| if on { 1.0 } else { 0.0 };
    let id = format!("{:x}", node.member_id);
    let cluster_version = membership.version().unwrap_or(CLUSTER_VERSION);
    let cluster_version = cluster_version.rsplit_once('.').map_or(cluster_version, |(minor, _)| minor);
    let plain = [
        (
            "etcd_server_has_leader",
            "Whether or not a leader exists. 1 is existence, 0 is not.",
            flag(status.leader != 0),
        ),
        (
            "etcd_server_is_leader",
            "Whether or not this member is a leader. 1 if is, 0 otherwise.",
            flag(status.leader == node.member_id),
        ),
        ("etcd_server_is_learner", "Whether or not this member is a learner. 1 if is, 0 otherwise.", flag(is_learner)),
        (
            "etcd_server_proposals_committed_total",
            "The total number of consensus proposals committed.",
            status.commit as f64,
        ),
        (
            "etcd_server_proposals_applied_total",
            "The total number of consensus proposals applied.",
            view.applied_index() as f64,
        ),
        ("etcd_server_quota_backend_bytes", "Current backend storage quota size in bytes.", DEFAULT_QUOTA_BYTES),
        (
            "etcd_mvcc_db_total_size_in_bytes",
            "Total size of the underlying database physically allocated in bytes.",
            view.size_bytes() as f64,
        ),
        (
            "etcd_mvcc_db_total_size_in_use_in_bytes",
            "Total size of the underlying database logically in use in bytes.",
            view.size_in_use_bytes() as f64,
        ),
        ("etcd_debugging_mvcc_current_revision", "The current revision of store.", view.rev() as f64),
        (
            "etcd_debugging_mvcc_compact_revision",
            "The revision of the last compaction in store.",
            view.compact_rev() as f64,
        ),
        ("etcd_debugging_mvcc_keys_total", "Total number of keys.", view.key_count() as f64),
        ("lockstep_raft_term", "The current term.", status.term as f64),
    ];
    let watching = node.watch_totals();
    let (leases, happened) = node.leases.counts();
    let now = [
        ("etcd_debugging_mvcc_watch_stream_total", "Total number of watch streams.", watching.streams),
        ("etcd_debugging_mvcc_watcher_total", "Total number of watchers.", watching.watchers),
        ("etcd_debugging_mvcc_slow_watcher_total", "Total number of unsynced slow watchers.", watching.behind),
        ("lockstep_watch_queued_bytes", "Bytes of events that wait to be sent.", watching.queued_bytes),
        ("lockstep_leases", "Leases that exist.", leases),
    ];
    let counted = [
        ("etcd_debugging_lease_granted_total", "The total number of granted leases.", happened.granted),
        ("etcd_debugging_lease_revoked_total", "The total number of revoked leases.", happened.revoked),
        ("etcd_debugging_lease_renewed_total", "The number of renewed leases seen by the leader.", happened.renewed),
        ("etcd_debugging_server_lease_expired_total", "The total number of expired leases.", happened.expired),
    ];
    let labelled = [
        (
            "etcd_cluster_version",
            "Which version is running. 1 for 'cluster_version' label with current cluster version",
            ("cluster_version", cluster_version),
        ),
        (
            "etcd_server_id",
            "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID.",
            ("server_id", id.as_str()),
        ),
        (
            "etcd_server_version",
            "Which version is running. 1 for 'server_version' label with current version.",
            ("server_version", ETCD_VERSION),
        ),
        ("lockstep_version", "Which version of Lockstep is running.", ("version", VERSION)),
    ];
    let plain = plain.iter().flat_map(|(name, help, value)| gauge(name, help, *value, None));
    let now = now.iter().flat_map(|(name, help, value)| gauge(name, help, *value as f64, None));
    let counted = counted.iter().flat_map(|(name, help, value)| counter(name, help, *value as f64));
    plain
        .chain(now)
        .chain(counted)
        .chain(labelled.iter().flat_map(|(name, help, label)| gauge(name, help, 1.0, Some(*label))))
        .collect()
}

/// What the system says of this process; what it does not say is left out.
fn process() -> Families {
    let mut all = Vec::new();
    let mut add = |name: &str, help: &str, value: Option<f64>| {
        all.extend(value.map(|value| gauge(name, help, value, None)).unwrap_or_default());
    };
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name may hold anything; the fields follow its last bracket, beginning with the third.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or(Vec::new(), |(_, rest)| rest.split_whitespace().collect());
    let field = |number: usize| fields.get(number - 3).and_then(|f| f.parse::<f64>().ok());
    // SAFETY: sysconf only reads.
    let (ticks, page) = unsafe { (libc::sysconf(libc::_SC_CLK_TCK) as f64, libc::sysconf(libc::_SC_PAGESIZE) as f64) };
    let resident = field(24).map(|pages| pages * page);
    add("process_resident_memory_bytes", "Resident memory size in bytes.", resident);
    add("process_virtual_memory_bytes", "Virtual memory size in bytes.", field(23));
    let boot = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot = boot.lines().find_map(|l| l.strip_prefix("btime ")?.trim().parse::<f64>().ok());
    let start = boot.zip(field(22)).map(|(boot, since)| boot + since / ticks);
    add("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", start);
    let open = std::fs::read_dir("/proc/self/fd").ok().map(|dir| dir.count() as f64);
    add("process_open_fds", "Number of open file descriptors.", open);
    add("os_fd_used", "The number of used file descriptors.", open);
    let most = files::limit().ok().map(|limit| limit as f64);
    add("process_max_fds", "Maximum number of open file descriptors.", most);
    add("os_fd_limit", "The file descriptor limit.", most);
    let cpu = field(14).zip(field(15)).map(|(user, system)| (user + system) / ticks);
    if let Some(cpu) = cpu {
        all.extend(counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", cpu));
    }
    all
}
