//! Every flag of etcd 3.4 to 3.7, once: name, kind, default, whether it works here, and what it is for.
//!
//! Sections and rows are in the order of `--help`. A flag that comes to work changes its row here and is read in
//! `mod.rs`; nothing else needs to know. Defaults are 3.7's.

use super::flags::FlagDef;
use super::flags::Kind::{self, *};
use super::flags::Status::{self, *};

/// A heading of `--help` and the flags under it.
pub struct Section {
    pub title: &'static str,
    pub flags: &'static [FlagDef],
}

/// The definition of a flag, by the name it was written with.
pub fn find(name: &str) -> Option<FlagDef> {
    all().find(|def| def.name == name)
}

/// The names that a flag had while it was experimental.
pub fn former_names(name: &str) -> impl Iterator<Item = &'static str> {
    EXPERIMENTAL.iter().filter(move |(_, target)| *target == name).map(|(former, _)| *former)
}

/// Every flag, sorted by name: the order in which etcd reads the environment.
pub fn by_name() -> Vec<FlagDef> {
    let mut defs: Vec<FlagDef> = all().collect();
    defs.sort_by_key(|def| def.name);
    defs
}

fn all() -> impl Iterator<Item = FlagDef> {
    let experimental = EXPERIMENTAL.iter().filter_map(|(name, target)| {
        let def = SECTIONS.iter().flat_map(|s| s.flags).find(|def| def.name == *target)?;
        Some(FlagDef { name, ..*def })
    });
    let ignored = IGNORED.iter().map(|name| flag(name, Ignored, "", SafeNoOp, ""));
    SECTIONS.iter().flat_map(|s| s.flags).copied().chain(experimental).chain(ignored)
}

const fn flag(name: &'static str, kind: Kind, default: &'static str, status: Status, help: &'static str) -> FlagDef {
    FlagDef { name, kind, default, status, help }
}

#[rustfmt::skip]
pub const SECTIONS: &[Section] = &[
    Section { title: "Member", flags: &[
        flag("name", Text, "default", Works, "This member's name, as people read it."),
        flag("data-dir", Text, "", Works, "Folder that holds everything this member stores (default '${name}.etcd')."),
        flag("wal-dir", Text, "", Works, "A folder of its own for the write-ahead log."),
        flag("snapshot-count", Uint, "10000", Works, "Committed entries after which a snapshot is due."),
        flag("snapshot-catchup-entries", Uint, "5000", Works, "Entries kept after a snapshot for followers that lag."),
        flag("heartbeat-interval", Uint, "100", Works, "Milliseconds between two heartbeats of the leader."),
        flag("election-timeout", Uint, "1000", Works, "Milliseconds without a leader after which a member stands for election."),
        flag("initial-election-tick-advance", Bool, "true", SafeNoOp, "Shorten the wait for the first election after a start."),
        flag("listen-peer-urls", Urls, "http://localhost:2380", Works, "URLs to listen on for the other members, comma-separated."),
        flag("listen-client-urls", Urls, "http://localhost:2379", Works, "URLs to listen on for clients, comma-separated."),
        flag("listen-client-http-urls", Urls, "", NotYet(&[]), "URLs to serve HTTP on, apart from gRPC."),
        flag("max-snapshots", Uint, "5", SafeNoOp, "Snapshot files to keep (0: all)."),
        flag("max-wals", Uint, "5", SafeNoOp, "Log files to keep (0: all)."),
        flag("quota-backend-bytes", Int, "0", Works, "Bytes the store may take before it goes read-only (0: 2 GiB; less: no quota)."),
        flag("quota-auto-heal", Bool, "false", Works, "Out of space, forget history and disarm the alarm by itself (not of etcd)."),
        flag("backend-bbolt-freelist-type", OneOf(&["map", "array"]), "map", SafeNoOp, "How bbolt keeps its free pages; this store has no bbolt."),
        flag("backend-batch-interval", Duration, "0s", SafeNoOp, "Longest time before the store commits a batch (0: 100ms)."),
        flag("backend-batch-limit", Int, "0", SafeNoOp, "Most operations before the store commits a batch (0: 10000)."),
        flag("max-txn-ops", Uint, "128", Works, "Most operations in a transaction."),
        flag("max-request-bytes", Uint, "1572864", Works, "Largest request of a client, in bytes."),
        flag("max-concurrent-streams", Uint32, "4294967295", Works, "Most streams a client connection may have open."),
        flag("grpc-keepalive-min-time", Duration, "5s", Works, "Shortest time a client should leave between two pings."),
        flag("grpc-keepalive-interval", Duration, "2h", Works, "Idle time after which the server pings a client (0: 2h)."),
        flag("grpc-keepalive-timeout", Duration, "20s", Works, "How long an unanswered ping keeps the connection (0: 20s)."),
        flag("socket-reuse-port", Bool, "false", Works, "Set SO_REUSEPORT on listeners."),
        flag("socket-reuse-address", Bool, "false", Works, "Set SO_REUSEADDR on listeners."),
        flag("raft-read-timeout", Duration, "5s", SafeNoOp, "Read timeout of connections between members (at least 5s)."),
        flag("raft-write-timeout", Duration, "5s", SafeNoOp, "Write timeout of connections between members (at least 5s)."),
        flag("memory-mlock", Bool, "false", NotYet(&[]), "Lock the store's pages in memory."),
        flag("enable-grpc-gateway", Bool, "true", Works, "Serve the JSON gateway."),
        flag("feature-gates", Text, "", NotYet(&[]), "Features to switch, as 'Name=true|false' pairs."),
        flag("config-file", Text, "", NotYet(&[]), "Read the configuration from a YAML file, ignoring flags and variables."),
        flag("version", Bool, "false", Works, "Print the version and exit."),
    ] },
    Section { title: "Clustering", flags: &[
        flag("initial-advertise-peer-urls", Urls, "http://localhost:2380", Works, "URLs at which the other members reach this one."),
        flag("initial-cluster", Text, "default=http://localhost:2380", Works, "The members of a new cluster, as 'name=url' pairs."),
        flag("initial-cluster-state", OneOf(&["new", "existing"]), "new", Works, "'new' for a new cluster, 'existing' to join one."),
        flag("initial-cluster-token", Text, "etcd-cluster", Works, "Tells apart clusters that are bootstrapped with the same URLs."),
        flag("advertise-client-urls", Urls, "http://localhost:2379", Works, "URLs at which clients reach this member."),
        flag("discovery", Text, "", NotYet(&[]), "URL of a v2 discovery service."),
        flag("discovery-token", Text, "", NotYet(&[]), "v3 discovery: the cluster's token."),
        flag("discovery-endpoints", List, "", NotYet(&[]), "v3 discovery: endpoints of the discovery cluster."),
        flag("discovery-dial-timeout", Duration, "2s", SafeNoOp, "v3 discovery: time to connect."),
        flag("discovery-request-timeout", Duration, "5s", SafeNoOp, "v3 discovery: time for a request."),
        flag("discovery-keepalive-time", Duration, "2s", SafeNoOp, "v3 discovery: time between pings."),
        flag("discovery-keepalive-timeout", Duration, "6s", SafeNoOp, "v3 discovery: time an unanswered ping may take."),
        flag("discovery-insecure-transport", Bool, "true", SafeNoOp, "v3 discovery: connect without TLS."),
        flag("discovery-insecure-skip-tls-verify", Bool, "false", SafeNoOp, "v3 discovery: trust any certificate."),
        flag("discovery-cert", Text, "", SafeNoOp, "v3 discovery: client certificate."),
        flag("discovery-key", Text, "", SafeNoOp, "v3 discovery: client key."),
        flag("discovery-cacert", Text, "", SafeNoOp, "v3 discovery: certificates to trust."),
        flag("discovery-user", Text, "", SafeNoOp, "v3 discovery: 'name[:password]'."),
        flag("discovery-password", Text, "", SafeNoOp, "v3 discovery: password."),
        flag("discovery-fallback", OneOf(&["exit", "proxy"]), "exit", SafeNoOp, "What to do when discovery fails."),
        flag("discovery-proxy", Text, "", SafeNoOp, "HTTP proxy on the way to a discovery service."),
        flag("discovery-srv", Text, "", NotYet(&[]), "Domain whose SRV records name the members."),
        flag("discovery-srv-name", Text, "", NotYet(&[]), "Suffix of the SRV service name."),
        flag("strict-reconfig-check", Bool, "true", Works, "Refuse membership changes that would lose quorum."),
        flag("pre-vote", Bool, "true", Works, "Ask for votes without a new term first, so that a returning member disturbs nobody."),
        flag("max-learners", Int, "1", Works, "Most learners at a time."),
        flag("auto-promote-learners", Bool, "false", Works, "Lockstep only: the leader promotes a learner by itself once it has caught up."),
        flag("auto-compaction-retention", Text, "0", Works, "History to keep: a time, hours without a unit, or revisions (0: all)."),
        flag("auto-compaction-mode", Text, "periodic", Works, "'periodic' or 'revision'."),
        flag("downgrade-check-time", Duration, "5s", SafeNoOp, "Time between two checks of a downgrade."),
        flag("v2-deprecation", OneOf(&["not-yet", "write-only", "write-only-skip-check", "write-only-drop-data", "gone"]), "write-only", SafeNoOp, "Stage of v2's removal; there is no v2 store here."),
        flag("enable-v2", Bool, "false", NotYet(&[]), "Answer etcd's v2 API."),
        flag("next-cluster-version-compatible", Bool, "false", SafeNoOp, "etcd 3.4: let a 3.5 cluster read this member's data."),
    ] },
    Section { title: "Security", flags: &[
        flag("cert-file", Text, "", NotYet(&[]), "Certificate of the client port."),
        flag("key-file", Text, "", NotYet(&[]), "Key of the client port."),
        flag("client-cert-file", Text, "", NotYet(&[]), "Certificate this server shows when it is the client of its own client port."),
        flag("client-key-file", Text, "", NotYet(&[]), "Key for --client-cert-file."),
        flag("client-cert-auth", Bool, "false", NotYet(&[]), "Ask clients for a certificate."),
        flag("client-crl-file", Text, "", NotYet(&[]), "Revoked client certificates."),
        flag("client-cert-allowed-hostname", List, "", NotYet(&[]), "Host names a client certificate may carry."),
        flag("trusted-ca-file", Text, "", NotYet(&[]), "Authorities trusted on the client port."),
        flag("auto-tls", Bool, "false", NotYet(&[]), "Make certificates for the client port."),
        flag("peer-cert-file", Text, "", NotYet(&[]), "Certificate of the peer port."),
        flag("peer-key-file", Text, "", NotYet(&[]), "Key of the peer port."),
        flag("peer-client-cert-file", Text, "", NotYet(&[]), "Certificate this server shows to other members."),
        flag("peer-client-key-file", Text, "", NotYet(&[]), "Key for --peer-client-cert-file."),
        flag("peer-client-cert-auth", Bool, "false", NotYet(&[]), "Ask other members for a certificate."),
        flag("peer-trusted-ca-file", Text, "", NotYet(&[]), "Authorities trusted on the peer port."),
        flag("peer-cert-allowed-cn", List, "", NotYet(&[]), "Common names a member's certificate may carry."),
        flag("peer-cert-allowed-hostname", List, "", NotYet(&[]), "Host names a member's certificate may carry."),
        flag("peer-auto-tls", Bool, "false", NotYet(&[]), "Make certificates for the peer port."),
        flag("peer-crl-file", Text, "", NotYet(&[]), "Revoked certificates of members."),
        flag("peer-skip-client-san-verification", Bool, "false", NotYet(&[]), "Do not check the host names in a member's certificate."),
        flag("self-signed-cert-validity", Uint, "1", SafeNoOp, "Years that certificates made by this server are valid."),
        flag("cipher-suites", List, "", NotYet(&[]), "TLS cipher suites to offer."),
        flag("tls-min-version", OneOf(&["TLS1.2", "TLS1.3", ""]), "TLS1.2", NotYet(&[]), "Oldest TLS to speak."),
        flag("tls-max-version", OneOf(&["", "TLS1.2", "TLS1.3"]), "", NotYet(&[]), "Newest TLS to speak."),
        flag("cors", Origins, "*", Works, "Origins that browsers may call from."),
        flag("host-whitelist", List, "*", Works, "Host names accepted in HTTP requests without TLS."),
    ] },
    Section { title: "Auth", flags: &[
        flag("auth-token", Text, "simple", NotYet(&[]), "Kind of token: 'simple', or 'jwt' with its options."),
        flag("bcrypt-cost", Uint, "10", NotYet(&[]), "Cost of hashing a password (4 to 31)."),
        flag("auth-token-ttl", Uint, "300", NotYet(&[]), "Seconds a token lives."),
    ] },
    Section { title: "Profiling and monitoring", flags: &[
        flag("enable-pprof", Bool, "false", Works, "Serve profiles under /debug/pprof/."),
        flag("metrics", Text, "basic", Works, "'basic', or 'extensive' for histograms of every gRPC method."),
        flag("listen-metrics-urls", Urls, "", Works, "More URLs that serve metrics and health."),
        flag("enable-distributed-tracing", Bool, "false", NotYet(&[]), "Send traces by OpenTelemetry."),
        flag("distributed-tracing-address", Text, "localhost:4317", SafeNoOp, "Collector of traces."),
        flag("distributed-tracing-service-name", Text, "etcd", SafeNoOp, "Name of the traced service."),
        flag("distributed-tracing-instance-id", Text, "", SafeNoOp, "Id of the traced instance."),
        flag("distributed-tracing-sampling-rate", Int, "0", SafeNoOp, "Traces kept of a million."),
        flag("warning-apply-duration", Duration, "100ms", SafeNoOp, "Applying an entry for longer is worth a warning."),
        flag("warning-unary-request-duration", Duration, "300ms", SafeNoOp, "A request that takes longer is worth a warning."),
    ] },
    Section { title: "Logging", flags: &[
        flag("logger", Text, "zap", Works, "'zap', etcd's structured lines, is the only one."),
        flag("log-outputs", List, "default", Works, "'stderr', 'stdout', 'systemd/journal' or files, comma-separated; 'default' is stderr."),
        flag("log-level", Text, "info", Works, "debug, info, warn, error, panic or fatal."),
        flag("log-format", Text, "json", Works, "json or console."),
        flag("enable-log-rotation", Bool, "false", NotYet(&[]), "Rotate the log file."),
        flag("log-rotation-config-json", Text, "{\"maxsize\": 100, \"maxage\": 0, \"maxbackups\": 0, \"localtime\": false, \"compress\": false}", SafeNoOp, "How to rotate it."),
        flag("debug", Bool, "false", Removed("use --log-level=debug"), "etcd 3.4's --log-level=debug."),
        flag("log-package-levels", Text, "", Removed("use --log-level"), "etcd 3.4's levels by package."),
    ] },
    Section { title: "Store and checks", flags: &[
        flag("backup-dir", Text, "", Works, "Lockstep only: folder for backups that the leader takes by itself (none: no backups)."),
        flag("backup-interval", Duration, "24h0m0s", Works, "Lockstep only: time between two backups, at least 1s."),
        flag("backup-retention", Duration, "720h0m0s", Works, "Lockstep only: age at which backups go, once a newer one is verified (0: never)."),
        flag("corrupt-check-time", Duration, "0s", Works, "Time between two comparisons of all members' data (0: never)."),
        flag("initial-corrupt-check", Bool, "false", Works, "Compare with the other members before serving."),
        flag("experimental-compact-hash-check-enabled", Bool, "false", NotYet(&[]), "Compare hashes after compactions."),
        flag("compact-hash-check-time", Duration, "1m0s", SafeNoOp, "Time between two such comparisons."),
        flag("compaction-batch-limit", Int, "1000", SafeNoOp, "Most revisions removed in one step of a compaction."),
        flag("compaction-sleep-interval", Duration, "10ms", SafeNoOp, "Pause between two steps of a compaction."),
        flag("watch-progress-notify-interval", Duration, "10m0s", Works, "Time between progress notifications of an idle watch."),
        flag("bootstrap-defrag-threshold-megabytes", Uint, "0", NotYet(&[]), "Defragment at the start when it frees at least this much (0: never)."),
        flag("experimental-enable-lease-checkpoint", Bool, "false", SafeNoOp, "Share what is left of each lease's time with the followers: always done here."),
        flag("experimental-enable-lease-checkpoint-persist", Bool, "false", SafeNoOp, "Store what is left of each lease's time: always done here."),
        flag("experimental-stop-grpc-service-on-defrag", Bool, "false", NotYet(&[]), "Refuse requests while defragmenting."),
        flag("experimental-txn-mode-write-with-shared-buffer", Bool, "true", SafeNoOp, "An optimisation of etcd's store."),
    ] },
    Section { title: "v2 proxy", flags: &[
        flag("proxy", OneOf(&["off", "readonly", "on"]), "off", NotYet(&[]), "Be a proxy of etcd's v2 API."),
        flag("proxy-failure-wait", Uint, "5000", SafeNoOp, "Milliseconds a failed endpoint is left alone."),
        flag("proxy-refresh-interval", Uint, "30000", SafeNoOp, "Milliseconds between refreshes of the endpoints."),
        flag("proxy-dial-timeout", Uint, "1000", SafeNoOp, "Milliseconds to connect."),
        flag("proxy-write-timeout", Uint, "5000", SafeNoOp, "Milliseconds for a write."),
        flag("proxy-read-timeout", Uint, "0", SafeNoOp, "Milliseconds for a read."),
        flag("experimental-enable-v2v3", Text, "", NotYet(&[]), "Answer the v2 API from the v3 store, under this prefix."),
    ] },
    Section { title: "Unsafe", flags: &[
        flag("force-new-cluster", Bool, "false", Works, "Make a one-member cluster of this member's data."),
        flag("unsafe-no-fsync", Bool, "false", Works, "Never fsync: a crash loses data."),
    ] },
];

/// What 3.4 to 3.6 called some of them.
#[rustfmt::skip]
const EXPERIMENTAL: &[(&str, &str)] = &[
    ("experimental-backend-bbolt-freelist-type", "backend-bbolt-freelist-type"),
    ("experimental-bootstrap-defrag-threshold-megabytes", "bootstrap-defrag-threshold-megabytes"),
    ("experimental-compact-hash-check-time", "compact-hash-check-time"),
    ("experimental-compaction-batch-limit", "compaction-batch-limit"),
    ("experimental-compaction-sleep-interval", "compaction-sleep-interval"),
    ("experimental-corrupt-check-time", "corrupt-check-time"),
    ("experimental-distributed-tracing-address", "distributed-tracing-address"),
    ("experimental-distributed-tracing-instance-id", "distributed-tracing-instance-id"),
    ("experimental-distributed-tracing-sampling-rate", "distributed-tracing-sampling-rate"),
    ("experimental-distributed-tracing-service-name", "distributed-tracing-service-name"),
    ("experimental-downgrade-check-time", "downgrade-check-time"),
    ("experimental-enable-distributed-tracing", "enable-distributed-tracing"),
    ("experimental-initial-corrupt-check", "initial-corrupt-check"),
    ("experimental-max-learners", "max-learners"),
    ("experimental-memory-mlock", "memory-mlock"),
    ("experimental-peer-skip-client-san-verification", "peer-skip-client-san-verification"),
    ("experimental-snapshot-catch-up-entries", "snapshot-catchup-entries"),
    ("experimental-snapshot-catchup-entries", "snapshot-catchup-entries"),
    ("experimental-warning-apply-duration", "warning-apply-duration"),
    ("experimental-warning-unary-request-duration", "warning-unary-request-duration"),
    ("experimental-watch-progress-notify-interval", "watch-progress-notify-interval"),
];

/// Flags of etcd 0.x and 2.x that every etcd still accepts.
const IGNORED: &[&str] = &[
    "cluster-active-size",
    "cluster-remove-delay",
    "cluster-sync-interval",
    "config",
    "force",
    "max-result-buffer",
    "max-retry-attempts",
    "peer-heartbeat-interval",
    "peer-election-timeout",
    "retry-interval",
    "snapshot",
    "v",
    "vv",
];
