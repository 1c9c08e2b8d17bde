//! The checks across flags, in etcd's order and words.

use super::flags::FlagSet;
use super::{Config, urls, value};
use crate::server::log::{LogConfig, LogOutput};

const MAX_ELECTION_MS: u64 = 50_000;

/// The logging flags; etcd judges them before all others.
pub fn logging(flags: &FlagSet) -> Result<LogConfig, String> {
    match flags.text("logger") {
        "zap" => {}
        "capnslog" => return Err("--logger=capnslog is removed in v3.5".to_string()),
        other => return Err(format!("unknown logger option {other:?}")),
    }
    let names = flags.list("log-outputs");
    if names.len() > 1 && names.iter().any(|n| n == "default") {
        return Err("multi logoutput for \"default\" is not supported yet".to_string());
    }
    if names.len() > 1 && names.iter().any(|n| n == "systemd/journal") {
        return Err(format!(
            "running with systemd/journal but other '--log-outputs' values ({names:?}) are configured; name one of them"
        ));
    }
    let outputs = names.into_iter().map(|name| match name.as_str() {
        // Under systemd stderr is the journal already.
        "default" | "stderr" => LogOutput::Stderr,
        "stdout" => LogOutput::Stdout,
        "systemd/journal" => LogOutput::Journal,
        _ => LogOutput::File(name),
    });
    Ok(LogConfig {
        outputs: outputs.collect(),
        level: flags.text("log-level").parse()?,
        format: flags.text("log-format").parse()?,
    })
}

/// Everything else that needs no look at the world.
pub fn check(flags: &FlagSet, config: &Config) -> Result<(), String> {
    urls::check_bind(&config.listen_peer_urls)?;
    urls::check_bind(&config.listen_client_urls)?;
    urls::check_bind(&config.listen_metrics_urls)?;
    let advertised = [
        ("initial-advertise-peer-urls", &config.initial_advertise_peer_urls),
        ("advertise-client-urls", &config.advertise_client_urls),
    ];
    for (flag, list) in advertised {
        urls::check_host(list)
            .map_err(|e| format!("--{flag} {:?} must be \"host:port\" ({e})", urls::strings(list).join(",")))?;
    }
    let (heartbeat, election) = (config.heartbeat_ms, config.election_ms);
    if heartbeat == 0 {
        return Err(format!("--heartbeat-interval must be >0 (set to {heartbeat}ms)"));
    }
    if election == 0 {
        return Err(format!("--election-timeout must be >0 (set to {election}ms)"));
    }
    if heartbeat.saturating_mul(5) > election {
        return Err(format!(
            "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]"
        ));
    }
    if election > MAX_ELECTION_MS {
        return Err(format!(
            "--election-timeout[{election}ms] is too long, and should be set less than {MAX_ELECTION_MS}ms"
        ));
    }
    if config.advertise_client_urls.is_empty() {
        return Err("--advertise-client-urls is required when --listen-client-urls is set explicitly".to_string());
    }
    backups(flags)?;
    match flags.text("auto-compaction-mode") {
        "" | "periodic" | "revision" => {}
        other => return Err(format!("unknown auto-compaction-mode {other:?}")),
    }
    if let Some(url) = config.listen_client_urls.iter().find(|u| u.is_tls()) {
        return Err(format!(
            "TLS key/cert (--cert-file, --key-file) must be provided for client url {url} with HTTPS scheme"
        ));
    }
    if let Some(url) = config.listen_metrics_urls.iter().find(|u| u.is_tls()) {
        return Err(format!(
            "TLS key/cert (--cert-file, --key-file) must be provided for metrics url {url} with HTTPS scheme"
        ));
    }
    match config.listen_peer_urls.iter().find(|u| u.is_tls()) {
        Some(url) => {
            Err(format!("cannot listen on TLS for {}: KeyFile and CertFile are not presented", url.authority()))
        }
        None => Ok(()),
    }
}

/// Backups in the member's own folder would be lost with it, and are in its way.
pub fn backup_dir(config: &Config) -> Result<(), String> {
    match &config.backups {
        Some(schedule) if schedule.dir.starts_with(&config.data_dir) => Err(format!(
            "--backup-dir {} lies within the data directory, and would be lost with it; name one outside \
             of {}, best on another disk",
            schedule.dir.display(),
            config.data_dir.display()
        )),
        _ => Ok(()),
    }
}

fn backups(flags: &FlagSet) -> Result<(), String> {
    const LEAST_INTERVAL_NS: i64 = 1_000_000_000;
    for name in ["backup-interval", "backup-retention"] {
        if flags.text("backup-dir").is_empty() && flags.is_set(name) {
            return Err(format!("--{name} needs --backup-dir, the folder that backups go to"));
        }
    }
    let ns = |name| value::parse_duration_ns(flags.text(name)).unwrap_or_default();
    if ns("backup-interval") < LEAST_INTERVAL_NS {
        let given = flags.text("backup-interval");
        return Err(format!("--backup-interval must be at least 1s (set to {given}); no backups: no --backup-dir"));
    }
    if ns("backup-retention") < 0 {
        let given = flags.text("backup-retention");
        return Err(format!("--backup-retention must not be negative (set to {given}); 0 keeps all"));
    }
    Ok(())
}
