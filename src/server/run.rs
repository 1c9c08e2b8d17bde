//! The life of the process from a checked configuration to its last log line.
//!
//! So far: bind, bootstrap's checks, serve the HTTP faces of a member that has no leader, stop on SIGTERM or SIGINT.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::config::{Config, urls};
use super::http::{self, AlarmType, Answer, Health};
use super::listen::{self, Listener, ServeOptions, SocketOptions};
use super::log;

/// Runs a member until a signal stops it. The error says why it could not start.
pub fn run(config: Config) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|e| format!("cannot start worker threads: {e}"))?.block_on(serve(config))
}

async fn serve(config: Config) -> Result<(), String> {
    // First of all: from the first log line on, a signal means a clean stop.
    let signals = Signals::listen()?;
    let sockets = SocketOptions::from(&config);
    let (peer_urls, client_urls) = (urls::strings(&config.listen_peer_urls), urls::strings(&config.listen_client_urls));
    tracing::info!("listen-peer-urls" = ?log::json(&peer_urls), "configuring peer listeners");
    let peers = Listener::bind_all(&config.listen_peer_urls, sockets)?;
    tracing::info!("listen-client-urls" = ?log::json(&client_urls), "configuring client listeners");
    let clients = Listener::bind_all(&config.listen_client_urls, sockets)?;
    let options = ServeOptions::from(&config);
    let cluster = tokio::task::spawn_blocking({
        let config = config.clone();
        move || config.bootstrap()
    });
    let cluster = cluster.await.map_err(|e| format!("cannot check the initial cluster: {e}"))??;
    tracing::info!(
        "local-member-id" = format!("{:x}", cluster.local_id),
        "cluster-id" = format!("{:x}", cluster.cluster_id),
        "starting local member"
    );
    for listener in &peers {
        tracing::info!(address = listener.address(), "serving peer traffic");
    }
    for listener in &clients {
        let address = listener.address();
        tracing::info!(address, "serving client traffic insecurely; this is strongly discouraged!");
    }
    let limit = Duration::from_millis(5_000 + 2 * config.election_ms);
    let app = http::router(Arc::new(Leaderless), limit).fallback(http::fallback);
    let (stop, stopped) = watch::channel(false);
    let serving = tokio::spawn(async move {
        let peers = listen::serve(peers, app.clone(), options, stopped.clone());
        tokio::join!(listen::serve(clients, app, options, stopped), peers);
    });
    let name = signals.next().await;
    tracing::info!(signal = name, "received signal; shutting down");
    let _ = stop.send(true);
    serving.await.map_err(|e| format!("serving ended badly: {e}"))
}

/// The signals that ask for a stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Signals, String> {
        let on = |kind| signal(kind).map_err(|e| format!("cannot wait for signals: {e}"));
        Ok(Signals { terminate: on(SignalKind::terminate())?, interrupt: on(SignalKind::interrupt())? })
    }

    async fn next(mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "terminated",
            _ = self.interrupt.recv() => "interrupt",
        }
    }
}

/// A member before consensus: alive, and honest about what it cannot do.
struct Leaderless;

impl Health for Leaderless {
    fn has_leader(&self) -> bool {
        false
    }
    fn alarms(&self) -> Vec<(u64, AlarmType)> {
        Vec::new()
    }
    fn is_learner(&self) -> bool {
        false
    }
    fn cluster_version(&self) -> Option<String> {
        None
    }
    fn storage_version(&self) -> Option<String> {
        None
    }
    fn serializable_read(&self) -> Answer<'_> {
        Box::pin(async { Ok(()) })
    }
    fn linearizable_read(&self) -> Answer<'_> {
        Box::pin(async { Err("etcdserver: no leader".to_string()) })
    }
}
