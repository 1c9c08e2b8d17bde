//! One member as synchronous state machines: `step(now, inputs) -> effects`.
//!
//! A member is two machines joined by a queue, because applying must never hold up ticks and heartbeats:
//! [`raft`] (consensus) takes messages, proposals, ticks and news of durability, and emits committed entries in order;
//! [`apply`] (the replicated store) consumes those. Conf changes and the applied index flow back as inputs. Beside
//! them, [`watch`] tells clients of what apply publishes. Production drives them from threads, the simulator from one
//! event loop; both run this very code.
//!
//! Nothing here may wait, spawn, read a clock, open a file or socket, or draw a random number that was not seeded.

pub mod apply;
pub mod boot;
pub mod check;
pub mod error;
mod intervals;
pub mod lease;
pub mod membership;
pub mod raft;
pub mod snapshot;
pub mod watch;
