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
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil_from_days(days as i64);
    let (hour, minute, second, nanos) = (seconds / 3600, seconds / 60 % 60, seconds % 60, since.subsec_nanos());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
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
            let minutes = hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?;
            if sign == "-" { -minutes } else { minutes }
        }
    };
    let days = days_from_civil(year, month, day);
    let seconds = days * 86_400 + hour * 3600 + (minute - offset_minutes) * 60 + second;
    UNIX_EPOCH.checked_add(Duration::from_millis(u64::try_from(seconds).ok()? * 1000 + millis))
}

/// The proleptic Gregorian calendar, counted in eras of 400 years that begin in March.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}
