//! Time as a member knows it.
//!
//! The contract: a member never asks what time it is. Whoever drives it reads a clock and hands the reading in with
//! each input; readings given to one member never go back. Production reads a monotonic clock, the simulator
//! its own virtual one, with an offset and a drift for each member.

/// Milliseconds on one member's monotonic clock. The zero is that clock's own and means nothing to anyone else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

impl Instant {
    pub fn saturating_since(self, earlier: Instant) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A monotonic clock.
pub trait Clock: Send + Sync {
    fn now(&self) -> Instant;
}
