//! One member as synchronous state machines: `step(now, input) -> effects`.
//!
//! No async, no threads, no clock, no files, no sockets, and no random numbers but the seeded ones handed in.

pub mod apply;
pub mod check;
pub mod error;
mod intervals;
