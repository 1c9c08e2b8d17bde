//! Watching keys: who is told what of the changes that apply publishes.
//!
//! [`Watchers`] is one synchronous machine, as consensus and apply are: streams, their watchers, who is up to date and
//! who is behind. It reads no clock, waits for nobody and holds no view. Production keeps one on each thread that
//! serves clients, the simulator one a member. What is promised:
//!
//! * a watcher hears of every change of its keys from its first revision on, once, in order, all of one revision at a
//!   time (but for fragments, which it asked for); or it is told that it will hear no more;
//! * what waits to be sent on a stream is bounded. A stream that is full costs nobody else anything: its watchers fall
//!   behind, and catch up from a view when there is room again, a bounded piece at a time;
//! * the revision of a header never promises what the watcher has not been sent before.
//!
//! ```text
//!   Request ──▶ created ──▶ synced ◀──────────────┐          Published: events for those who are synced
//!                  │          │ stream is full,   │          CatchUp: a piece of history for those who are behind
//!                  │          ▼ or revisions missed          Taken: room in a stream
//!                  └──────▶ behind ──CatchUp──────┘
//!                             │ history is compacted
//!                             ▼
//!                         canceled, with the revision that is still there
//! ```

mod catch_up;
mod deliver;
mod groups;
mod intervals;
mod machine;
mod response;

pub use machine::{Effect, Input, Options, StreamId, Totals, Watchers};
pub use response::{Events, Response, What};
