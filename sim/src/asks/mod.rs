//! What clients ask for besides reading and writing keys: watches, leases, and the locks and elections made of them.
//!
//! Each file has the words of scenario lines, what they are to a member, and what an answer means to the client.
//! [`Told`] is what a client learns from any of them. Checkers of keys pass over them: what they write has keys of its
//! own (`held.*`, `lock/*`, `elect/*`, `guard/*`).

pub mod lease;
pub mod lock;
pub mod watch;

use std::fmt;

pub use lease::LeaseAsk;
pub use lock::LockAsk;
pub use watch::{WatchAsk, WatchSpec};

/// Keys that only these operations write. Leases delete some of them without being asked.
pub const KEYS: &[&str] = &["held", "lock/", "elect/", "guard/"];

/// What a client learns from an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Nothing yet: what comes of it comes on a stream.
    Sent,
    Granted {
        ttl_s: i64,
    },
    Revoked,
    Attached,
    /// What is left of a lease; below 0 when there is no such lease.
    Left {
        ttl_s: i64,
    },
    /// In a room: its own key is there, since this revision.
    Entered {
        create_revision: i64,
    },
    /// Somebody was there before.
    Waits,
    /// Nobody is there who came before: the lock is held, the election won.
    Owns,
    /// Its own key is gone.
    Ousted,
    /// Whether a write that was bound to its own key was done.
    Stamped(bool),
    /// Who leads an election: the key, and what it proclaims.
    Leads(Option<(String, String)>),
}

impl fmt::Display for Told {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Told::Sent => write!(out, "sent"),
            Told::Granted { ttl_s } => write!(out, "granted {ttl_s} s"),
            Told::Revoked => write!(out, "revoked"),
            Told::Attached => write!(out, "attached"),
            Told::Left { ttl_s } => write!(out, "left {ttl_s} s"),
            Told::Entered { create_revision } => write!(out, "entered since:{create_revision}"),
            Told::Waits => write!(out, "waits"),
            Told::Owns => write!(out, "owns"),
            Told::Ousted => write!(out, "ousted"),
            Told::Stamped(done) => write!(out, "{}", if *done { "stamped" } else { "fenced off" }),
            Told::Leads(Some((key, value))) => write!(out, "leader {key}={value}"),
            Told::Leads(None) => write!(out, "no leader"),
        }
    }
}

/// A range of keys as requests have it: what ends before the first key that does not begin so.
pub fn prefix_end(prefix: &str) -> String {
    let mut end = prefix.as_bytes().to_vec();
    match end.last_mut() {
        Some(last) if *last < 0x7f => *last += 1,
        _ => end = vec![0x7f],
    }
    String::from_utf8(end).expect("still ASCII")
}
