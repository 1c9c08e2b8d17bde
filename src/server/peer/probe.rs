//! Probing: every four seconds a small GET, to learn the round trip and how far the peer's clock is off. Only logs and
//! measures.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use tokio::time::sleep;
use tracing::warn;

use super::client::{RequestError, get};
use super::remote::Remote;
use super::{READ_TIMEOUT, Shared};
use crate::calendar::Civil;

/// Shorter than the read time-out, as in etcd.
const PROBE_INTERVAL: Duration = Duration::from_secs(4);
/// A clock that is off by more is worth a line.
const HIGH_DRIFT: Duration = Duration::from_secs(1);
/// A failing probe is logged when it begins to fail, and then so often.
const LOG_INTERVAL: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct Health {
    #[serde(rename = "OK")]
    ok: bool,
    #[serde(rename = "Now")]
    now: String,
}

/// The answer to a probe.
pub(super) fn answer() -> String {
    format!("{{\"OK\":true,\"Now\":\"{}\"}}\n", format_time(SystemTime::now()))
}

/// Runs until the peer is removed.
pub(super) async fn run(shared: Arc<Shared>, peer: Arc<Remote>) {
    let mut logged: Option<Instant> = None;
    loop {
        sleep(PROBE_INTERVAL).await;
        if shared.is_paused() {
            continue;
        }
        let started = Instant::now();
        let answer = match peer.urls.pick() {
            Some(url) => get(&url, "/raft/probing", READ_TIMEOUT).await,
            None => Err(RequestError::NoUrl),
        };
        let round_trip = started.elapsed();
        let health = answer.map_err(|e| e.to_string()).and_then(|(_, body)| {
            let health: Health = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
            if health.ok { Ok(health) } else { Err("the peer says that it is unhealthy".to_owned()) }
        });
        let quiet = logged.is_some_and(|at| at.elapsed() < LOG_INTERVAL);
        match health {
            Err(error) => {
                peer.counters.round_trip.store(0, Ordering::Relaxed);
                if !quiet {
                    warn!("remote-peer-id" = %peer.hex(), %error, "prober detected unhealthy status");
                    logged = Some(started);
                }
            }
            Ok(health) => {
                let micros = round_trip.as_micros().min(u64::MAX as u128 - 1) as u64;
                peer.counters.round_trip.store(micros + 1, Ordering::Relaxed);
                peer.round_trips.observe(round_trip.as_secs_f64());
                let drift = parse_time(&health.now).map(|now| apart(now, SystemTime::now()).saturating_sub(round_trip));
                match drift {
                    Some(drift) if drift > HIGH_DRIFT => {
                        if !quiet {
                            warn!(
                                "remote-peer-id" = %peer.hex(), "clock-drift" = ?drift, rtt = ?round_trip,
                                "prober found high clock drift"
                            );
                            logged = Some(started);
                        }
                    }
                    _ => logged = None,
                }
            }
        }
    }
}

fn apart(a: SystemTime, b: SystemTime) -> Duration {
    a.duration_since(b).unwrap_or_else(|e| e.duration())
}

/// RFC 3339 in UTC with nanoseconds, as Go writes a time.
fn format_time(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}.{:09}Z", Civil::of_unix(since.as_secs() as i64), since.subsec_nanos())
}

/// Reads what Go writes: any offset, any number of decimals. Sub-millisecond digits do not matter here.
fn parse_time(text: &str) -> Option<SystemTime> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let rest = text.get(19..)?;
    let zone_at = rest.find(['Z', '+', '-'])?;
    let (fraction, zone) = rest.split_at(zone_at);
    let millis =
        fraction.get(1..4.min(fraction.len())).map_or(Some(0), |digits| format!("{digits:0<3}").parse().ok())?;
    let offset_minutes = match zone.split_at_checked(1)? {
        ("Z", "") => 0,
        (sign, clock) => {
            let (hours, minutes) = clock.split_once(':')?;
            let minutes = i64::from(hours.parse::<i16>().ok()?) * 60 + i64::from(minutes.parse::<i16>().ok()?);
            if sign == "-" { -minutes } else { minutes }
        }
    };
    let seconds = Civil { year, month, day, hour, minute: minute - offset_minutes, second }.unix_s();
    UNIX_EPOCH.checked_add(Duration::from_millis(u64::try_from(seconds).ok()? * 1000 + millis))
}
