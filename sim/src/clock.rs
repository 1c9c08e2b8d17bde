//! The clock of one machine: what its member is told of the time, and how often it ticks.
//!
//! # Model
//!
//! The clock is monotonic, counts milliseconds and begins at a zero of its own. It keeps the world's virtual time until
//! faults bend it: a pace other than 1 in 1 ([`Clock::drift`]), an offset that is there for a while
//! ([`Clock::shift`]), a jump for good ([`Clock::jump`]). Several of each at a time add up, and each takes back what it
//! brought and nothing else. Whatever they do, readings never go back: a clock that is set behind stands still until it
//! has caught up, for that is all that the port's contract lets a member see.
//!
//! A reading depends on the time and on the faults before it, never on who read the clock, or how often.

use lockstep::ports::clock::Instant;

/// What a clock shows when the world begins: more than any fault sets one behind.
const START_US: i64 = 1_000_000_000_000;
/// A sum of drifts goes no further than these.
const SLOWEST_PERMILLE: i64 = 100;
const FASTEST_PERMILLE: i64 = 10_000;

/// See the head of this file.
#[derive(Clone, Debug)]
pub struct Clock {
    /// When the pace last changed, and what the clock would have shown then, had it no offset.
    since_us: u64,
    base_us: i64,
    drift_permille: i64,
    offset_us: i64,
    /// What it showed when it was last meddled with: it shows no less from then on.
    floor_us: i64,
}

impl Default for Clock {
    fn default() -> Clock {
        Clock::new()
    }
}

impl Clock {
    pub fn new() -> Clock {
        Clock { since_us: 0, base_us: START_US, drift_permille: 0, offset_us: 0, floor_us: 0 }
    }

    /// What it shows, as a member is told with its inputs.
    pub fn now(&self, now_us: u64) -> Instant {
        Instant(self.shown_us(now_us).max(0) as u64 / 1_000)
    }

    /// What this clock takes for `period_us`, in the world's time.
    pub fn tick_us(&self, period_us: u64) -> u64 {
        (period_us.saturating_mul(1_000) / self.pace_permille()).max(1)
    }

    /// 1000 is right, more is fast.
    pub fn pace_permille(&self) -> u64 {
        (1_000 + self.drift_permille).clamp(SLOWEST_PERMILLE, FASTEST_PERMILLE) as u64
    }

    /// By how much it is ahead, but for what its pace has brought; negative when it is behind.
    pub fn offset_ms(&self) -> i64 {
        self.offset_us / 1_000
    }

    /// Its pace changes by so much, up or down.
    pub fn drift(&mut self, now_us: u64, permille: i64) {
        self.hold_floor(now_us);
        self.base_us = self.unshifted_us(now_us);
        self.since_us = now_us;
        self.drift_permille += permille;
    }

    /// It is set ahead, or behind.
    pub fn shift(&mut self, now_us: u64, by_us: i64) {
        self.hold_floor(now_us);
        self.offset_us = self.offset_us.saturating_add(by_us);
    }

    /// It leaps ahead, for good.
    pub fn jump(&mut self, now_us: u64, by_us: u64) {
        self.hold_floor(now_us);
        self.base_us = self.base_us.saturating_add_unsigned(by_us);
    }

    fn hold_floor(&mut self, now_us: u64) {
        self.floor_us = self.shown_us(now_us);
    }

    fn shown_us(&self, now_us: u64) -> i64 {
        self.unshifted_us(now_us).saturating_add(self.offset_us).max(self.floor_us)
    }

    fn unshifted_us(&self, now_us: u64) -> i64 {
        let passed_us = now_us.saturating_sub(self.since_us).saturating_mul(self.pace_permille()) / 1_000;
        self.base_us.saturating_add_unsigned(passed_us)
    }
}
