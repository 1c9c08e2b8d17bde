//! Everything that distinguishes one simulated world from another, in one struct that is printed with every failure.
//!
//! Drawn from the seed (swarm testing: each run has its own mixture, so that rare combinations come up), or set by
//! hand.

use std::fmt;

use crate::random::{Purpose, Random};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Knobs {
    pub seed: u64,
    pub members: u64,
    /// Clients and faults stop here; the world then has [`Knobs::calm_ms`] to come to rest.
    pub busy_ms: u64,
    pub calm_ms: u64,

    pub delay_least_us: u64,
    pub delay_most_us: u64,
    /// Some messages take up to so much longer, and so are overtaken.
    pub straggle_most_us: u64,
    pub straggle_permille: u64,
    pub loss_permille: u64,
    pub duplicate_permille: u64,

    pub fsync_least_us: u64,
    pub fsync_most_us: u64,
    /// A stage of a member (consensus, log, apply, backend) begins within this time of having work.
    pub stage_most_us: u64,
    /// Some steps of apply take up to so much longer.
    pub apply_straggle_us: u64,
    pub store_commit_ms: u64,

    pub segment_bytes: u64,
    pub log_cache_bytes: u64,
    pub log_slack_entries: u64,

    /// How far a member's clock may go wrong.
    pub drift_permille: u64,

    pub clients: u64,
    pub think_most_ms: u64,
    pub request_timeout_ms: u64,

    /// Between two faults, on average; 0 for a world without.
    pub fault_every_ms: u64,
}

impl Knobs {
    pub fn draw(seed: u64) -> Knobs {
        let mut random = Random::new(seed, Purpose::Knobs);
        let r = &mut random;
        let delay_least_us = *r.pick(&[50, 200, 1_000, 5_000]);
        let request_timeout_ms = *r.pick(&[500, 2_000, 7_000]);
        let fsync_least_us = *r.pick(&[50, 500, 2_000]);
        Knobs {
            seed,
            members: *r.pick(&[1, 3, 3, 3, 3, 5]),
            busy_ms: r.between(15_000, 30_000),
            // Whoever lost an answer at the last moment has time to find out, and to do another write.
            calm_ms: 12_000 + request_timeout_ms,
            delay_least_us,
            delay_most_us: delay_least_us * r.between(1, 8),
            straggle_most_us: *r.pick(&[0, 20_000, 500_000, 3_000_000]) + 1,
            straggle_permille: *r.pick(&[0, 5, 20, 100]),
            loss_permille: *r.pick(&[0, 0, 5, 20, 100]),
            duplicate_permille: *r.pick(&[0, 5, 50, 200]),
            fsync_least_us,
            fsync_most_us: fsync_least_us * r.between(1, 20),
            stage_most_us: *r.pick(&[10, 100, 2_000]),
            apply_straggle_us: *r.pick(&[1, 1_000, 50_000, 500_000]),
            store_commit_ms: *r.pick(&[100, 300, 1_000, 5_000]),
            segment_bytes: *r.pick(&[4_096, 16_384, 65_536]),
            log_cache_bytes: *r.pick(&[1, 4_096, 1 << 20]),
            log_slack_entries: *r.pick(&[0, 1, 10, 100, 10_000]),
            drift_permille: *r.pick(&[0, 1, 50]),
            clients: r.between(1, 8),
            think_most_ms: *r.pick(&[40, 100, 300]),
            request_timeout_ms,
            fault_every_ms: *r.pick(&[0, 300, 1_000, 3_000]),
        }
    }
}

impl fmt::Display for Knobs {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self:#?}")
    }
}
