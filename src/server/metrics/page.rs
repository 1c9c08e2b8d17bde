//! The part of `/metrics` that nobody counts: what the member, its peers and the system say when the page is asked for.

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, Histogram, IntCounterVec, IntGaugeVec, Opts};

use crate::mvcc::read::Read;
use crate::server::files;
use crate::server::node::Node;
use crate::server::peer::{PeerReport, TransferReport};
use crate::server::space::quota_as_told;
use crate::{CLUSTER_VERSION, ETCD_VERSION, VERSION};

pub type Families = Vec<MetricFamily>;

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
pub fn member(node: &Node) -> Families {
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
        (
            "etcd_server_quota_backend_bytes",
            "Current backend storage quota size in bytes.",
            quota_as_told(node.quota) as f64,
        ),
        (
            "lockstep_quota_used_ratio",
            "The part of the quota that the store has used; above 0.8 it is time to make room.",
            node.quota_bytes().map_or(0.0, |quota| view.size_bytes() as f64 / quota.max(1) as f64),
        ),
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
    let served = node.watch_totals();
    let watching = served.totals;
    let (leases, happened) = node.leases.counts();
    let now = [
        ("etcd_debugging_mvcc_watch_stream_total", "Total number of watch streams.", watching.streams),
        ("etcd_debugging_mvcc_watcher_total", "Total number of watchers.", watching.watchers),
        ("etcd_debugging_mvcc_slow_watcher_total", "Total number of unsynced slow watchers.", watching.behind),
        (
            "etcd_debugging_mvcc_pending_events_total",
            "Total number of pending events to be sent.",
            served.pending_events as usize,
        ),
        ("lockstep_watch_queued_bytes", "Bytes of events that wait to be sent.", watching.queued_bytes),
        ("lockstep_leases", "Leases that exist.", leases),
    ];
    let counted = [
        ("etcd_debugging_mvcc_events_total", "Total number of events sent by this member.", served.sent_events),
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

/// What has gone to and come from each peer. Without peers there is none of it, as in etcd.
pub fn peers(local: &str, reports: &[PeerReport]) -> Families {
    let counters = |name: &str, help: &str, label: &str, value: fn(&PeerReport) -> u64| {
        let vec = IntCounterVec::new(Opts::new(name, help), &[label]).expect("the name is well-formed");
        reports.iter().for_each(|report| vec.with_label_values(&[&report.id]).inc_by(value(report)));
        vec.collect()
    };
    let active = Opts::new("etcd_network_active_peers", "The current number of active peer connections.");
    let active = IntGaugeVec::new(active, &["Local", "Remote"]).expect("the name is well-formed");
    let lost = Opts::new("etcd_network_disconnected_peers_total", "The total number of disconnected peers.");
    let lost = IntCounterVec::new(lost, &["Local", "Remote"]).expect("the name is well-formed");
    for report in reports {
        active.with_label_values(&[local, &report.id]).set(report.is_active.into());
        lost.with_label_values(&[local, &report.id]).inc_by(report.disconnected);
    }
    // Of each peer there is one of its own.
    let histogram = |of: fn(&PeerReport) -> Option<&Histogram>| {
        let mut whole: Option<MetricFamily> = None;
        for mut family in reports.iter().filter_map(of).flat_map(Collector::collect) {
            match &mut whole {
                Some(all) => all.mut_metric().extend(family.take_metric()),
                None => whole = Some(family),
            }
        }
        whole
    };
    let transfers = |what: &str, label: &str, of: fn(&PeerReport) -> &TransferReport| {
        let vec = |name: &str, help: &str| {
            let opts = Opts::new(format!("etcd_network_snapshot_{what}_{name}"), format!("Total number of {help}"));
            IntGaugeVec::new(opts, &[label]).expect("the name is well-formed")
        };
        let under_way = vec("inflights_total", &format!("inflight snapshot {what}s"));
        let counter = |name: &str, help: &str, value: fn(&TransferReport) -> u64| {
            let opts = Opts::new(format!("etcd_network_snapshot_{what}_{name}"), format!("Total number of {help}"));
            let vec = IntCounterVec::new(opts, &[label]).expect("the name is well-formed");
            for report in reports.iter().filter(|report| of(report).is_any()) {
                vec.with_label_values(&[&report.id]).inc_by(value(of(report)));
            }
            vec.collect()
        };
        for report in reports.iter().filter(|report| of(report).is_any()) {
            under_way.with_label_values(&[&report.id]).set(of(report).under_way as i64);
        }
        [
            under_way.collect(),
            counter("success", &format!("successful snapshot {what}s"), |t| t.seconds.get_sample_count()),
            counter("failures", &format!("snapshot {what} failures"), |t| t.failed),
        ]
    };
    let families = [
        active.collect(),
        lost.collect(),
        counters("etcd_network_peer_sent_bytes_total", "The total number of bytes sent to peers.", "To", |r| {
            r.stats.sent_bytes
        }),
        counters(
            "etcd_network_peer_received_bytes_total",
            "The total number of bytes received from peers.",
            "From",
            |r| r.stats.received_bytes,
        ),
        counters("etcd_network_peer_sent_failures_total", "The total number of send failures from peers.", "To", |r| {
            r.stats.sent_failures
        }),
        counters(
            "etcd_network_peer_received_failures_total",
            "The total number of receive failures from peers.",
            "From",
            |r| r.stats.received_failures,
        ),
    ];
    let snapshots = [transfers("send", "To", |r| &r.sends), transfers("receive", "From", |r| &r.receives)];
    let histograms =
        [histogram(|r| Some(&r.round_trips)), histogram(|r| r.sends.any()), histogram(|r| r.receives.any())];
    let families = families.into_iter().chain(snapshots.into_iter().flatten()).flatten();
    families.chain(histograms.into_iter().flatten()).filter(|family| !family.get_metric().is_empty()).collect()
}

/// What the system says of this process; what it does not say is left out.
pub fn process() -> Families {
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
    let limit = |of| files::limit(of).ok().map(|limit| limit as f64);
    let (most, most_memory) = (limit(libc::RLIMIT_NOFILE), limit(libc::RLIMIT_AS));
    add("process_virtual_memory_max_bytes", "Maximum amount of virtual memory available in bytes.", most_memory);
    add("process_max_fds", "Maximum number of open file descriptors.", most);
    add("os_fd_limit", "The file descriptor limit.", most);
    let cpu = field(14).zip(field(15)).map(|(user, system)| (user + system) / ticks);
    if let Some(cpu) = cpu {
        all.extend(counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", cpu));
    }
    all
}
