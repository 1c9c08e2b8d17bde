//! One life of a server: bind, lock, boot, run, serve, and stop in order.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use super::backups::Backups;
use super::config::Config;
use super::config::urls::strings;
use super::disk::{DirLock, RealDisk};
use super::files::{self, Connections};
use super::host::{self, Host, Inbox, Mailbox, MemberParts, Pace, RealClock};
use super::http::access::Access;
use super::leases::Leases;
use super::listen::{self, Listener, ServeOptions, SocketOptions};
use super::log::{self, FATAL};
use super::metrics::METRICS;
use super::node::{self, Node};
use super::peer::RemoteMember;
use super::peers::{PeerHandler, REMOVED, ask_peers, follow_membership};
use super::reconfigure::Reconfigure;
use super::snapshots::Snapshots;
use super::workers::Workers;
use super::{api, attend, compactor, corruption, http, peer, space, watching};
use crate::member::apply::Effect;
use crate::member::boot::{self, Booted};
use crate::member::membership::Member;
use crate::member::raft::Input;
use crate::member::watch::Options as WatchOptions;
use crate::ports::dice::SeededDice;
use crate::ports::disk::Disk;
use crate::ports::network::Network;
use crate::{ETCD_VERSION, VERSION, mvcc, wal};

/// Time that a stop may take, handing leadership over included.
const STOP_LIMIT: Duration = Duration::from_millis(1_800);
/// How long there has been no space before a leader gives its place away.
const STEP_ASIDE_INTERVAL: Duration = Duration::from_secs(1);
/// The part of it for handing over.
const HANDOVER_LIMIT: Duration = Duration::from_millis(1_000);
/// What clients still under way get to finish.
const DRAIN_LIMIT: Duration = Duration::from_millis(300);
/// Entries kept in memory for followers that are a little behind.
const LOG_CACHE_BYTES: u64 = 64 << 20;
/// A removed member goes on for so long, as an etcd.
const LEAVE_DELAY: Duration = Duration::from_secs(1);
/// The members of a cluster that a member joins may take so long to say who they are.
const JOIN_LIMIT: Duration = Duration::from_secs(10);
/// A request waits this long, and two elections.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Elections without a leader after which streams that want one end.
const LEADERLESS_ELECTIONS: u64 = 3;

/// Runs a server until a signal ends it. The error says why it could not start, or go on.
pub fn run(config: Config) -> Result<(), String> {
    let cores = std::thread::available_parallelism().map_or(2, |n| n.get());
    let connections = files::connections()?;
    let (mailbox, inbox) = host::mailbox();
    let clock = RealClock::start();
    let workers = Workers::start(cores).map_err(|e| format!("starting the threads that serve clients: {e}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("starting the thread that serves peers: {e}"))?;
    let stopped = runtime.block_on(serve(config, Shell { workers, connections, mailbox, inbox, clock }));
    // What is left (connections that would not drain) does not hold up the stop.
    runtime.shutdown_background();
    match stopped? {
        Stopped::Signal(signal) => die_of(signal),
        // As an etcd: there is nothing to start again.
        Stopped::Removed => {}
    }
    Ok(())
}

/// What is there before the member is.
struct Shell {
    workers: Workers,
    connections: Connections,
    mailbox: Mailbox,
    inbox: Inbox,
    clock: RealClock,
}

/// What ended a server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stopped {
    Signal(i32),
    /// The member is no member any more.
    Removed,
}

/// Returns what ended it.
async fn serve(config: Config, shell: Shell) -> Result<Stopped, String> {
    let (workers, connections) = (shell.workers.clone(), shell.connections);
    let sockets = SocketOptions::from(&config);
    info!("listen-peer-urls" = ?log::json(&strings(&config.listen_peer_urls)), "configuring peer listeners");
    let peer_listeners = Listener::bind_all(&config.listen_peer_urls, sockets)?;
    info!("listen-client-urls" = ?log::json(&strings(&config.listen_client_urls)), "configuring client listeners");
    let client_listeners = Listener::bind_all(&config.listen_client_urls, sockets)?;
    let metrics_listeners = Listener::bind_all(&config.listen_metrics_urls, sockets)?;

    let Disks { data, wal, _lock } = open_disks(&config)?;
    let snapshots = Arc::new(Snapshots::new(data.clone(), mvcc::Options::default()));
    let (booted, remotes) = boot_member(&config, data, wal).await?;
    if config.initial_corrupt_check {
        check_initially(&config, &booted).await?;
    }
    let member = Running::start(&config, booted, remotes, snapshots, shell);
    let mut signals = Signals::listen()?;

    let peer_stop = member.node.watch_stopping();
    for listener in peer_listeners {
        info!(address = %listener.address(), "serving peer traffic");
        let (transport, mut stop) = (member.transport.clone(), peer_stop.clone());
        let (listener, file) = listener.into_peer();
        tokio::spawn(async move {
            transport.serve(listener, async move { drop(stop.wait_for(|s| *s).await) }).await;
            drop(file);
        });
    }
    let node = &member.node;
    // From here on, whatever the cluster is up to: a member that waits for the others can be watched.
    for listener in &metrics_listeners {
        info!(address = %listener.address(), "serving metrics");
    }
    let metrics = metrics_pages(&config, &member).fallback(http::fallback);
    let options = ServeOptions::new(&config, connections.metrics);
    let metrics = listen::serve(metrics_listeners, metrics, options, workers.clone(), peer_stop.clone());
    tokio::spawn(metrics);
    tokio::spawn(follow_membership(node.clone(), member.transport.clone()));
    tokio::spawn(attend::log_cluster_version(node.clone()));
    tokio::spawn(attend::decide_cluster_version(node.clone()));
    if config.auto_promote_learners {
        let reconfigure = member.reconfigure.clone();
        tokio::spawn(async move { reconfigure.promote_learners().await });
    }
    tokio::spawn(space::look_after(node.clone(), config.quota_auto_heal));
    tokio::spawn(step_aside(node.clone(), member.transport.clone()));
    if let Some(retention) = config.auto_compaction {
        tokio::spawn(compactor::run(node.clone(), retention));
    }
    if let Some(backups) = &member.backups {
        tokio::spawn(backups.clone().run());
    }
    if config.corrupt_check_ms > 0 {
        tokio::spawn(corruption::check_every(node.clone(), Duration::from_millis(config.corrupt_check_ms)));
    }

    // As in etcd, clients wait in the listeners' queues until the member is part of a cluster that works.
    let client_urls = strings(&config.advertise_client_urls);
    let leaver = node.clone();
    let removed = async move {
        leaver.removed().await;
        // Whoever asked for it is still to be answered.
        tokio::time::sleep(LEAVE_DELAY).await;
    };
    tokio::pin!(removed);
    let first = tokio::select! {
        _ = attend::publish(node, &config.name, &client_urls) => None,
        _ = &mut removed => Some(Stopped::Removed),
        signal = signals.next() => Some(Stopped::Signal(signal)),
    };
    let stopped = match first {
        Some(stopped) => {
            log_stop(stopped);
            signals.exit_at_second();
            stopped
        }
        None => {
            member.peers.is_known();
            info!("ready to serve client requests");
            for listener in &client_listeners {
                let address = listener.address();
                info!(%address, "serving client traffic insecurely; this is strongly discouraged!");
            }
            let (stop_clients, clients_stopping) = watch::channel(false);
            let app = client_faces(&config, &member);
            let options = ServeOptions { drain: DRAIN_LIMIT, ..ServeOptions::new(&config, connections.clients) };
            let clients = tokio::spawn(listen::serve(client_listeners, app, options, workers, clients_stopping));
            notify_init_daemon();
            let stopped = tokio::select! {
                _ = &mut removed => Stopped::Removed,
                signal = signals.next() => Stopped::Signal(signal),
            };
            log_stop(stopped);
            signals.exit_at_second();
            member.hand_over().await;
            stop_clients.send_replace(true);
            node.stop();
            let _ = tokio::time::timeout(DRAIN_LIMIT, clients).await;
            stopped
        }
    };
    member.stop().await;
    info!(name = %config.name, "data-dir" = %config.data_dir.display(), "closed etcd server");
    Ok(stopped)
}

/// Everything that the client port answers.
fn client_faces(config: &Config, member: &Running) -> Router {
    let node = &member.node;
    let services = api::router(node.clone(), member.reconfigure.clone(), config.max_txn_ops as usize);
    let mut pages = metrics_pages(config, member).merge(http::debug::vars(node.clone()));
    pages = pages.merge(http::config::router()).merge(http::backups::router(member.backups.clone()));
    if config.enable_pprof || config.log.level == log::LogLevel::Debug {
        pages = pages.merge(http::debug::pprof());
    }
    if config.enable_grpc_gateway {
        // With the words of gRPC for a service that is not there.
        let called = services.clone().fallback(http::fallback);
        pages = pages.merge(http::gateway::router(called, api::max_message_bytes(node)));
    }
    let access = Access { origins: config.cors.clone(), hosts: config.host_whitelist.clone() };
    let nobodys = http::guarded(Router::new().fallback(http::fallback), access.clone());
    services.merge(http::guarded(pages, access)).fallback_service(nobodys)
}

/// What the listeners of `--listen-metrics-urls` answer, too.
fn metrics_pages(config: &Config, member: &Running) -> Router {
    let Running { node, transport, .. } = member;
    if config.extensive_metrics {
        METRICS.be_extensive();
    }
    http::router(node.clone(), node.request_timeout).merge(http::metrics::router(node.clone(), transport.clone()))
}

/// The data directory, and the log's where it is another one.
struct Disks {
    data: Arc<dyn Disk>,
    wal: Arc<dyn Disk>,
    _lock: DirLock,
}

fn open_disks(config: &Config) -> Result<Disks, String> {
    let open = |path: &Path| -> Result<Arc<dyn Disk>, String> {
        let disk = RealDisk::new(path).map_err(|e| format!("cannot use the data directory {}: {e}", path.display()))?;
        Ok(Arc::new(disk))
    };
    let disk = open(&config.data_dir)?;
    let lock = DirLock::acquire(&config.member_dir()).map_err(|e| e.to_string())?;
    let wal_disk = match &config.wal_dir {
        Some(dir) => open(above(dir))?,
        None => disk.clone(),
    };
    Ok(Disks { data: disk, wal: wal_disk, _lock: lock })
}

/// The folder that `dir` is in; of a bare name that is the working directory, which `Path` calls "".
fn above(dir: &Path) -> &Path {
    match dir.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("/"),
    }
}

/// The member, and those who told it of the cluster that it joins.
async fn boot_member(
    config: &Config,
    disk: Arc<dyn Disk>,
    wal_disk: Arc<dyn Disk>,
) -> Result<(Booted, Vec<RemoteMember>), String> {
    let wal_dir = match &config.wal_dir {
        Some(dir) => {
            dir.file_name().map(|name| name.to_string_lossy().into_owned()).ok_or("--wal-dir names no directory")?
        }
        None => boot::WAL_DIR.to_owned(),
    };
    let is_new = !wal::Wal::exists(&*wal_disk, &wal_dir).map_err(|e| e.to_string())?;
    let mut boot_config = boot::Config {
        member_id: 0,
        cluster_id: 0,
        founders: Vec::new(),
        joins: false,
        force_new_cluster: config.force_new_cluster,
        wal_dir,
        wal: wal::Options { sync: !config.unsafe_no_fsync, ..Default::default() },
        store: mvcc::Options::default(),
        raft: boot::RaftConfig {
            election_ticks: (config.election_ms / config.heartbeat_ms) as usize,
            heartbeat_ticks: 1,
            pre_vote: config.pre_vote,
            check_quorum: true,
            log_cache_bytes: LOG_CACHE_BYTES,
            log_slack_entries: config.snapshot_count.clamp(1, 100_000),
            log_catch_up_entries: config.snapshot_catchup_entries.min(100_000),
            dice: Arc::new(SeededDice::new(random_seed())),
        },
    };
    let mut remotes = Vec::new();
    if is_new {
        remotes = name_cluster(config, &mut boot_config).await?;
    }
    let path = format!("{}/{}", disk_root(config), boot::STORE_PATH);
    let started = Instant::now();
    let mut booted = boot_apart(&disk, &wal_disk, &boot_config).await?;
    if matches!(booted, Err(boot::Error::Unfounded)) {
        // The first boot crashed when the log was there and nothing was in it.
        remotes = name_cluster(config, &mut boot_config).await?;
        booted = boot_apart(&disk, &wal_disk, &boot_config).await?;
    }
    let booted = booted.map_err(|e| e.to_string())?;
    info!(path = %path, took = ?started.elapsed(), "opened backend db");
    if let Some(repaired) = &booted.repaired {
        warn!(repaired = %repaired, "repaired the torn tail of the write-ahead log");
    }
    let status = booted.consensus.status();
    info!(
        "local-member-id" = %hex(booted.member_id),
        "cluster-id" = %hex(booted.cluster_id),
        "is-new" = booted.is_new,
        "boot-epoch" = booted.epoch,
        "raft-term" = status.term,
        "commit-index" = status.commit,
        "lockstep-version" = VERSION,
        "etcd-version" = ETCD_VERSION,
        "starting local member"
    );
    Ok((booted, remotes))
}

/// Who the members are, this one among them: of the cluster that is founded, or of the one that this member joins.
async fn name_cluster(config: &Config, boot_config: &mut boot::Config) -> Result<Vec<RemoteMember>, String> {
    if !config.joins {
        return name_founders(config, boot_config).await.map(|()| Vec::new());
    }
    let urls = config.peers_to_ask()?;
    let existing = peer::get_cluster_from_peers(&urls, JOIN_LIMIT).await.map_err(|error| {
        tracing::debug!(%error, "no member says who is in the cluster");
        "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs"
            .to_owned()
    })?;
    let (asked, of) = (config.clone(), existing.clone());
    let joined = tokio::task::spawn_blocking(move || asked.join(&of)).await;
    boot_config.member_id = joined.map_err(|e| e.to_string())??;
    boot_config.cluster_id = existing.cluster_id;
    boot_config.joins = true;
    let others: Vec<RemoteMember> = existing.members.into_iter().filter(|m| m.id != boot_config.member_id).collect();
    attend::check_versions(&others).await?;
    // One that ran before has promised what it does not remember.
    let known = others.iter().map(|m| Member { id: m.id, peer_urls: m.peer_urls.clone(), ..Default::default() });
    ask_peers(boot_config.member_id, boot_config.cluster_id, known.collect::<Vec<_>>().iter()).await?;
    Ok(others)
}

/// Works out who founds the cluster, from the flags.
async fn name_founders(config: &Config, boot_config: &mut boot::Config) -> Result<(), String> {
    let config = config.clone();
    let founding = tokio::task::spawn_blocking(move || config.bootstrap()).await.map_err(|e| e.to_string())??;
    let founders = founding.members.iter().map(|m| Member {
        id: m.id,
        name: m.name.clone(),
        peer_urls: m.peer_urls.clone(),
        ..Default::default()
    });
    boot_config.member_id = founding.local_id;
    boot_config.cluster_id = founding.cluster_id;
    boot_config.founders = founders.collect();
    // Here where a peer can be asked already; the peers' messages are held back until one was (see `peers`).
    ask_peers(boot_config.member_id, boot_config.cluster_id, boot_config.founders.iter()).await?;
    Ok(())
}

/// Whether this member agrees with the others, before it takes part.
async fn check_initially(config: &Config, booted: &Booted) -> Result<(), String> {
    let (view, membership) = (booted.applier.view(), booted.applier.membership());
    corruption::check_initially(view, membership, booted.member_id, request_timeout(config)).await
}

fn request_timeout(config: &Config) -> Duration {
    REQUEST_TIMEOUT + Duration::from_millis(2 * config.election_ms)
}

/// On a thread that may block.
async fn boot_apart(
    disk: &Arc<dyn Disk>,
    wal_disk: &Arc<dyn Disk>,
    config: &boot::Config,
) -> Result<Result<Booted, boot::Error>, String> {
    let (disk, wal_disk, config) = (disk.clone(), wal_disk.clone(), config.clone());
    tokio::task::spawn_blocking(move || boot::boot(disk, wal_disk, &config))
        .await
        .map_err(|e| format!("booting the member: {e}"))
}

fn watch_setup(config: &Config, booted: &Booted) -> watching::Setup {
    watching::Setup {
        options: WatchOptions {
            progress_interval_ms: config.watch_progress_interval_ms,
            fragment_bytes: (config.max_request_bytes as usize).saturating_add(api::GRPC_OVERHEAD_BYTES),
            ..WatchOptions::default()
        },
        // Another one in each life of each member.
        seed: booted.member_id ^ booted.epoch,
        leaderless_ms: LEADERLESS_ELECTIONS * config.election_ms,
    }
}

/// The member's threads, and what they are reached by.
struct Running {
    node: Arc<Node>,
    transport: peer::Transport,
    peers: Arc<PeerHandler>,
    reconfigure: Arc<Reconfigure>,
    backups: Option<Arc<Backups>>,
    host: Host,
}

impl Running {
    fn start(
        config: &Config,
        mut booted: Booted,
        remotes: Vec<RemoteMember>,
        snapshots: Arc<Snapshots>,
        shell: Shell,
    ) -> Running {
        let Shell { workers, connections, mailbox, inbox, clock } = shell;
        space::log_quota(config.quota_backend_bytes);
        booted.applier.set_quota(space::quota(config.quota_backend_bytes));
        let first = booted.applier.start();
        let view =
            first.iter().find_map(|e| if let Effect::Publish { view, .. } = e { Some(view.clone()) } else { None });
        let (watching, watch_inboxes) = workers.open_watching(watch_setup(config, &booted), clock);
        let node = Arc::new(Node::new(node::Parts {
            member_id: booted.member_id,
            cluster_id: booted.cluster_id,
            epoch: booted.epoch,
            max_request_bytes: config.max_request_bytes as usize,
            request_timeout: request_timeout(config),
            leaderless: Duration::from_millis(LEADERLESS_ELECTIONS * config.election_ms),
            mailbox: mailbox.clone(),
            leases: Leases::new(config.election_ms, config.heartbeat_ms),
            quota: config.quota_backend_bytes,
            clock,
            desks: workers.open_desks(&mailbox, clock),
            watching,
            view: view.expect("a member begins by publishing a view"),
            membership: booted.applier.membership().clone(),
            status: booted.consensus.status(),
        }));
        workers.serve_watching(&node, watch_inboxes);
        // The founding is term 1, without a vote; whoever has heard of an election is beyond it.
        let status = booted.consensus.status();
        let took_part = status.term > 1 || status.vote != 0 || !remotes.is_empty();
        let handler = Arc::new(PeerHandler::new(mailbox, snapshots.clone(), took_part));
        handler.set_node(node.clone());
        let transport = peer::Transport::new(
            peer::Config {
                member_id: booted.member_id,
                cluster_id: booted.cluster_id,
                server_version: ETCD_VERSION.to_owned(),
                min_cluster_version: "3.0.0".to_owned(),
                peer_urls: strings(&config.initial_advertise_peer_urls),
                max_message_bytes: peer::DEFAULT_MAX_MESSAGE_BYTES,
                max_connections: connections.peers,
            },
            handler.clone(),
        );
        for remote in remotes {
            transport.add_remote(remote.id, remote.peer_urls);
        }
        let reconfigure = Arc::new(Reconfigure {
            node: node.clone(),
            transport: transport.clone(),
            strict: config.strict_reconfig_check,
            max_learners: config.max_learners,
        });
        handler.set_reconfigure(reconfigure.clone());
        let network: Arc<dyn Network> = Arc::new(transport.clone());
        let pace = Pace {
            tick: Duration::from_millis(config.heartbeat_ms),
            commit: Duration::from_millis(100),
            compact: Duration::from_millis(10),
        };
        let data_dir = disk_root(config);
        let fatal: host::Fatal = Arc::new(move |reason| {
            tracing::error!(
                target: FATAL,
                { "data-dir" = data_dir, reason },
                "the member stops: it cannot keep what it has promised"
            );
            std::process::exit(1);
        });
        let parts = MemberParts::new(booted, first);
        let host = Host::start(parts, inbox, node.clone(), network, snapshots, clock, pace, fatal);
        let backups = config.backups.clone().map(|schedule| Arc::new(Backups::new(node.clone(), schedule)));
        Running { node, transport, peers: handler, reconfigure, backups, host }
    }

    /// A leader gives its place to the peer that has been connected the longest, so that nobody waits for an election.
    async fn hand_over(&self) {
        let local = self.node.member_id;
        if self.node.status().leader != local {
            return;
        }
        let Some(to) = heir(&self.node, &self.transport) else {
            info!("local-member-id" = %hex(local), "skipped leadership transfer: no other voting member is connected");
            return;
        };
        info!("local-member-id" = %hex(local), "transferee-member-id" = %hex(to), "leadership transfer starting");
        self.node.mailbox.consensus(Input::Transfer(to));
        let mut leader = self.node.watch_leader();
        let moved = tokio::time::timeout(HANDOVER_LIMIT, leader.wait_for(|id| *id != local && *id != 0)).await;
        match moved {
            Ok(_) => info!("local-member-id" = %hex(local), "leadership transfer finished"),
            Err(_) => warn!("local-member-id" = %hex(local), "leadership transfer took too long; stopping without it"),
        }
    }

    async fn stop(self) {
        self.node.stop();
        let host = self.host;
        let threads = tokio::task::spawn_blocking(move || host.stop());
        if tokio::time::timeout(STOP_LIMIT, threads).await.is_err() {
            warn!("the member's threads did not stop in time; what they had not finished is in the write-ahead log");
        }
        self.transport.stop();
    }
}

/// The peer that has been connected the longest.
fn heir(node: &Node, transport: &peer::Transport) -> Option<u64> {
    let membership = node.membership();
    let voters = membership.members().filter(|m| m.id != node.member_id && !m.is_learner);
    voters.filter_map(|m| Some((transport.active_since(m.id)?, m.id))).min().map(|(_, id)| id)
}

/// A leader that cannot write for lack of space lets another one lead.
async fn step_aside(node: Arc<Node>, transport: peer::Transport) {
    let mut stopping = node.watch_stopping();
    loop {
        tokio::select! {
            _ = tokio::time::sleep(STEP_ASIDE_INTERVAL) => {}
            _ = stopping.changed() => return,
        }
        let lacks = node.room.lacking().is_some_and(|(lasting, _)| lasting >= STEP_ASIDE_INTERVAL);
        if lacks
            && node.status().leader == node.member_id
            && let Some(to) = heir(&node, &transport)
        {
            info!("transferee-member-id" = %hex(to), "no space left to lead: leadership transfer starting");
            node.mailbox.consensus(Input::Transfer(to));
        }
    }
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> Result<Signals, String> {
        let on = |kind| signal(kind).map_err(|e| format!("listening for signals: {e}"));
        Ok(Signals { terminate: on(SignalKind::terminate())?, interrupt: on(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.terminate.recv() => libc::SIGTERM,
            _ = self.interrupt.recv() => libc::SIGINT,
        }
    }

    /// Whoever asks twice does not want to wait.
    fn exit_at_second(mut self) {
        tokio::spawn(async move {
            let signal = self.next().await;
            std::process::exit(128 + signal);
        });
    }
}

/// Whoever started this process learns from its status which signal ended it, as of an etcd. An init process just
/// exits.
fn die_of(signal: i32) {
    if std::process::id() == 1 {
        return;
    }
    // SAFETY: both calls are safe at any time; the process ends in the second.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

fn log_stop(stopped: Stopped) {
    let signal = match stopped {
        Stopped::Signal(signal) => signal,
        Stopped::Removed => {
            warn!(error = REMOVED, "server error");
            warn!("data-dir used by this member must be removed");
            return;
        }
    };
    let name = if signal == libc::SIGINT { "interrupt" } else { "terminated" };
    info!(signal = %name, "received signal; shutting down");
}

/// Tells systemd (`Type=notify`) that the server is up.
fn notify_init_daemon() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    info!("notifying init daemon");
    match notify(&path) {
        Ok(()) => info!("successfully notified init daemon"),
        Err(error) => warn!(error = %error, "failed to notify init daemon"),
    }
}

fn notify(path: &std::ffi::OsStr) -> std::io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address)?;
    Ok(())
}

/// Election time-outs of two members must not be drawn alike.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

fn disk_root(config: &Config) -> String {
    config.data_dir.display().to_string()
}

fn hex(id: u64) -> String {
    format!("{id:x}")
}
