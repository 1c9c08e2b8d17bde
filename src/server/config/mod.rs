//! What a start asks for: flags and `ETCD_*` variables in, a checked [`Config`] out, in etcd's words where it is
//! refused.
//!
//! Reading is separate from doing: nothing here opens a socket, makes a folder or prints. The two looks at the world
//! are the host's own address (for `0.0.0.0` with default advertised URLs) and, in [`Config::bootstrap`], name
//! resolution.

pub mod cluster;
pub mod defs;
pub mod flags;
pub mod help;
pub mod urls;
mod validate;
pub mod value;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

pub use cluster::{Bootstrap, BootstrapMember};
pub use flags::{FlagSet, Note, Stop};
pub use urls::{Scheme, Url};

use super::backups::Schedule;
use super::compactor::Retention;
use super::log::LogConfig;
use super::peer::RemoteCluster;

const DEFAULT_NAME: &str = "default";
const DEFAULT_INITIAL_CLUSTER: &str = "default=http://localhost:2380";

/// Beyond it a single request holds up everybody else for too long.
pub const RECOMMENDED_REQUEST_BYTES: u64 = 10 * 1024 * 1024;

const DEFAULT_PROGRESS_INTERVAL_MS: u64 = 10 * 60 * 1000;
const MIN_PROGRESS_INTERVAL_MS: u64 = 100;

/// A start that passed every check that needs no socket and no file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub name: String,
    pub data_dir: PathBuf,
    /// `--wal-dir`; see [`Config::wal_path`].
    pub wal_dir: Option<PathBuf>,
    pub listen_client_urls: Vec<Url>,
    pub advertise_client_urls: Vec<Url>,
    pub listen_peer_urls: Vec<Url>,
    pub initial_advertise_peer_urls: Vec<Url>,
    /// As written; parsed by [`Config::bootstrap`], because a member that already has a log ignores it.
    pub initial_cluster: String,
    pub initial_cluster_token: String,
    /// `--initial-cluster-state=existing`: this member was added to a cluster that is there.
    pub joins: bool,
    pub strict_reconfig_check: bool,
    pub max_learners: u64,
    pub auto_promote_learners: bool,
    pub force_new_cluster: bool,
    pub heartbeat_ms: u64,
    pub election_ms: u64,
    pub snapshot_count: u64,
    pub snapshot_catchup_entries: u64,
    pub max_request_bytes: u64,
    pub max_txn_ops: u64,
    pub max_concurrent_streams: u32,
    /// 0: never ping.
    pub grpc_keepalive_min_time_ms: u64,
    pub grpc_keepalive_interval_ms: u64,
    pub grpc_keepalive_timeout_ms: u64,
    pub watch_progress_interval_ms: u64,
    pub socket_reuse_port: bool,
    pub enable_grpc_gateway: bool,
    pub enable_pprof: bool,
    /// `--metrics extensive`.
    pub extensive_metrics: bool,
    pub listen_metrics_urls: Vec<Url>,
    /// Origins that browsers may call from.
    pub cors: BTreeSet<String>,
    /// Names under which HTTP requests may ask for this server.
    pub host_whitelist: BTreeSet<String>,
    pub pre_vote: bool,
    /// As given: 0 is the default, less than that is none.
    pub quota_backend_bytes: i64,
    pub quota_auto_heal: bool,
    pub auto_compaction: Option<Retention>,
    pub initial_corrupt_check: bool,
    /// 0: never.
    pub corrupt_check_ms: u64,
    /// `--backup-dir` and what goes with it.
    pub backups: Option<Schedule>,
    pub unsafe_no_fsync: bool,
    pub log: LogConfig,
}

/// A configuration, and what is to be logged about how it came to be.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    pub notes: Vec<Note>,
}

/// No configuration: why, and what was noticed before.
#[derive(Clone, Debug)]
pub struct Failed {
    pub stop: Stop,
    pub notes: Vec<Note>,
}

/// Reads a command line (without the program's name) and an environment.
pub fn load(args: &[String], env: &[(String, String)]) -> Result<Loaded, Box<Failed>> {
    let mut notes = Vec::new();
    match read(args, env, &mut notes) {
        Ok(config) => Ok(Loaded { config, notes }),
        Err(stop) => Err(Box::new(Failed { stop, notes })),
    }
}

fn read(args: &[String], env: &[(String, String)], notes: &mut Vec<Note>) -> Result<Config, Stop> {
    if let Some(command @ ("gateway" | "grpc-proxy")) = args.first().map(String::as_str) {
        return Err(Stop::Refused(format!("\"{command}\" is not supported yet")));
    }
    let mut flags = FlagSet::parse(args)?;
    if flags.bool("version") {
        return Err(Stop::Version);
    }
    // A configuration file replaces flags and variables, so nothing after this line may be judged when there is one.
    let file = env.iter().find(|(key, value)| key == "ETCD_CONFIG_FILE" && !value.is_empty());
    if !flags.text("config-file").is_empty() || file.is_some() {
        return Err(Stop::Refused("\"--config-file\" is not supported yet: use flags or ETCD_* variables".to_string()));
    }
    notes.extend(flags.merge_env(env)?);
    notes.extend(flags.check_supported()?);
    let mut config = typed(&flags).map_err(Stop::Refused)?;
    validate::check(&flags, &config).map_err(Stop::Refused)?;
    notes.extend(cluster::fill_defaults(&mut config));
    if config.data_dir.as_os_str().is_empty() {
        let dir = format!("{}.etcd", config.name);
        config.data_dir = PathBuf::from(&dir);
        notes.push(Note::DataDirDefault(dir));
    }
    validate::backup_dir(&config).map_err(Stop::Refused)?;
    if config.max_request_bytes > RECOMMENDED_REQUEST_BYTES {
        notes.push(Note::LargeRequests(config.max_request_bytes));
    }
    Ok(config)
}

/// Every text has passed its flag's own check; what fails here are the logging flags, which have words of their own.
fn typed(flags: &FlagSet) -> Result<Config, String> {
    let path = |name: &str| PathBuf::from(flags.text(name));
    let list = |name: &str| -> Result<Vec<Url>, String> {
        match urls::parse_list(flags.text(name))? {
            // As etcd: an empty value means the default.
            empty if empty.is_empty() => urls::parse_list(defs::find(name).map_or("", |def| def.default)),
            list => Ok(list),
        }
    };
    let listens_where_told = flags.is_set("listen-client-urls");
    Ok(Config {
        log: validate::logging(flags)?,
        name: flags.text("name").to_string(),
        data_dir: path("data-dir"),
        wal_dir: Some(path("wal-dir")).filter(|p| !p.as_os_str().is_empty()),
        listen_client_urls: list("listen-client-urls")?,
        advertise_client_urls: if listens_where_told && !flags.is_set("advertise-client-urls") {
            Vec::new()
        } else {
            list("advertise-client-urls")?
        },
        listen_peer_urls: list("listen-peer-urls")?,
        initial_advertise_peer_urls: list("initial-advertise-peer-urls")?,
        initial_cluster: flags.text("initial-cluster").to_string(),
        initial_cluster_token: flags.text("initial-cluster-token").to_string(),
        joins: flags.text("initial-cluster-state") == "existing",
        strict_reconfig_check: flags.bool("strict-reconfig-check"),
        max_learners: flags.u64("max-learners"),
        auto_promote_learners: flags.bool("auto-promote-learners"),
        force_new_cluster: flags.bool("force-new-cluster"),
        heartbeat_ms: flags.u64("heartbeat-interval"),
        election_ms: flags.u64("election-timeout"),
        snapshot_count: flags.u64("snapshot-count"),
        snapshot_catchup_entries: flags.u64("snapshot-catchup-entries"),
        max_request_bytes: flags.u64("max-request-bytes"),
        max_txn_ops: flags.u64("max-txn-ops"),
        // As in gRPC: none at all would be of no use.
        max_concurrent_streams: match u32::try_from(flags.u64("max-concurrent-streams")) {
            Ok(0) | Err(_) => u32::MAX,
            Ok(most) => most,
        },
        grpc_keepalive_min_time_ms: flags.duration_ms("grpc-keepalive-min-time"),
        grpc_keepalive_interval_ms: flags.duration_ms("grpc-keepalive-interval"),
        grpc_keepalive_timeout_ms: flags.duration_ms("grpc-keepalive-timeout"),
        watch_progress_interval_ms: watch_progress_interval_ms(flags),
        socket_reuse_port: flags.bool("socket-reuse-port"),
        enable_grpc_gateway: flags.bool("enable-grpc-gateway"),
        enable_pprof: flags.bool("enable-pprof"),
        extensive_metrics: flags.text("metrics") == "extensive",
        listen_metrics_urls: urls::parse_list(flags.text("listen-metrics-urls"))?,
        cors: match flags.text("cors") {
            "*" => BTreeSet::from(["*".to_owned()]),
            origins => urls::strings(&urls::parse_list(origins)?).into_iter().collect(),
        },
        host_whitelist: flags.list("host-whitelist").into_iter().collect(),
        pre_vote: flags.bool("pre-vote"),
        quota_backend_bytes: value::parse_i64(flags.text("quota-backend-bytes")).unwrap_or_default(),
        quota_auto_heal: flags.bool("quota-auto-heal"),
        auto_compaction: auto_compaction(flags)?,
        initial_corrupt_check: flags.bool("initial-corrupt-check"),
        corrupt_check_ms: flags.duration_ms("corrupt-check-time"),
        backups: Some(path("backup-dir")).filter(|dir| !dir.as_os_str().is_empty()).map(|dir| Schedule {
            dir,
            interval: Duration::from_millis(flags.duration_ms("backup-interval")),
            retention: Duration::from_millis(flags.duration_ms("backup-retention")),
        }),
        unsafe_no_fsync: flags.bool("unsafe-no-fsync"),
    })
}

/// As etcd: nothing, or less, means the default, and the shortest interval is 100 ms.
fn watch_progress_interval_ms(flags: &FlagSet) -> u64 {
    match flags.duration_ms("watch-progress-notify-interval") {
        0 => DEFAULT_PROGRESS_INTERVAL_MS,
        interval => interval.max(MIN_PROGRESS_INTERVAL_MS),
    }
}

/// With a duration, as Go says it.
fn what_is_wrong(text: &str) -> &'static str {
    let number = text.strip_prefix(['-', '+']).unwrap_or(text);
    let is_number = number.bytes().all(|b| b.is_ascii_digit() || b == b'.') && number.matches('.').count() < 2;
    if is_number && number.bytes().any(|b| b.is_ascii_digit()) { "missing unit in" } else { "invalid" }
}

/// Hours without a unit, revisions in the other mode; a duration counts its nanoseconds as revisions there, as in etcd.
/// An empty mode never compacts, and takes no duration.
fn auto_compaction(flags: &FlagSet) -> Result<Option<Retention>, String> {
    const HOUR_NS: i64 = 3_600_000_000_000;
    let text = flags.text("auto-compaction-retention");
    let mode = flags.text("auto-compaction-mode");
    let is_periodic = mode == "periodic";
    let amount = match text.parse::<i64>() {
        Ok(number) if number >= 0 && is_periodic => number.saturating_mul(HOUR_NS),
        Ok(number) if number >= 0 && mode.is_empty() => 0,
        Ok(number) if number >= 0 => number,
        _ if text.is_empty() => 0,
        _ => value::parse_duration_ns(text).map_err(|_| {
            format!("error parsing CompactionRetention: time: {} duration {text:?}", what_is_wrong(text))
        })?,
    };
    if mode.is_empty() && amount != 0 {
        return Err("unsupported compaction mode ".to_owned());
    }
    Ok(match u64::try_from(amount) {
        Ok(0) | Err(_) => None,
        Ok(ns) if is_periodic => Some(Retention::Periodic(Duration::from_nanos(ns))),
        Ok(_) => Some(Retention::Revisions(amount)),
    })
}

impl Config {
    /// `<data-dir>/member`.
    pub fn member_dir(&self) -> PathBuf {
        self.data_dir.join("member")
    }

    /// Where the log is: `--wal-dir`, or `<data-dir>/member/wal`.
    pub fn wal_path(&self) -> PathBuf {
        self.wal_dir.clone().unwrap_or_else(|| self.member_dir().join("wal"))
    }

    /// `<data-dir>/member/snap`.
    pub fn snap_dir(&self) -> PathBuf {
        self.member_dir().join("snap")
    }

    /// `<data-dir>/member/snap/db`.
    pub fn db_path(&self) -> PathBuf {
        self.snap_dir().join("db")
    }

    /// The members that `--initial-cluster` bootstraps and their ids, after etcd's checks: this member is one of them,
    /// with the URLs it advertises, and no URL is there twice. Only for a member that has no log yet.
    ///
    /// Blocks: names that differ are resolved, for up to 30 seconds.
    pub fn bootstrap(&self) -> Result<Bootstrap, String> {
        cluster::bootstrap(self)
    }

    /// The peer URLs of the other members of `--initial-cluster`, of whom a member that joins asks who they are.
    pub fn peers_to_ask(&self) -> Result<Vec<String>, String> {
        cluster::peers_to_ask(self)
    }

    /// The id that the members of the running cluster have for this one. They must be those of `--initial-cluster`.
    ///
    /// Blocks, as [`Config::bootstrap`].
    pub fn join(&self, existing: &RemoteCluster) -> Result<u64, String> {
        cluster::join(self, existing)
    }
}
