//! Leases: what every member knows of them, and the clock that only the leader runs.
//!
//! [`Table`] is replicated: which leases there are, how long they live, which keys hang on them. It belongs to the
//! apply machine, changes by log entries alone, and knows no time. [`Keeper`] is one member's own: it hears of every
//! [`Change`] of the table, and while its member leads it counts the time of each lease, answers renewals, and asks for
//! the revocation of what has expired. Expiry is decided by nobody else, and only ever takes effect as a log entry.

mod keeper;
mod table;

pub use keeper::{Counts, Effect, Keeper, Renewal, Settings, TimeToLive};
pub use table::{Change, MAX_TTL_S, Table};

/// The shortest TTL that is granted, in seconds: one and a half election time-outs, rounded up as etcd does. Raised by
/// the member that proposes the grant, so that what an entry does depends on no member's flags.
pub fn min_ttl_s(election_ticks: u64, heartbeat_ms: u64) -> i64 {
    let ms = (3 * election_ticks / 2).saturating_mul(heartbeat_ms);
    i64::try_from(ms.div_ceil(1000)).unwrap_or(MAX_TTL_S).clamp(1, MAX_TTL_S)
}
