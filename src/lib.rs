//! Lockstep: etcd's job as a deterministic, simulation-tested consensus engine.
//!
//! The direction of dependency is one way, top to bottom, and `tests/tidy.rs` enforces it:
//!
//! ```text
//! server/   ctl/      the asynchronous shells: sockets, files, clocks, threads
//! offline/            data directories of members that do not run; `ctl` asks for it
//! member/             one member as synchronous state machines: step(now, input) -> effects
//! interop/            etcd's files: its database, read and written
//! mvcc/               revisions, key index, views, the store on redb
//! wal/                the write-ahead log
//! ports/              Clock, Network, Disk: what a member asks of its world
//! ```
//!
//! Beside them stand [`calendar`], which any of them may ask for a date, and [`mutation`] and [`marks`], which the
//! simulator uses to test its own tests; without the feature `simulation` these two leave nothing in the program.

#[macro_use]
pub mod mutation;
#[macro_use]
pub mod marks;

pub mod calendar;
#[cfg(feature = "ctl")]
#[allow(clippy::disallowed_types, clippy::disallowed_methods)]
pub mod ctl;
pub mod interop;
pub mod member;
pub mod mvcc;
#[cfg(feature = "ctl")]
#[allow(clippy::disallowed_types, clippy::disallowed_methods)]
pub mod offline;
pub mod ports;
#[cfg(feature = "server")]
#[allow(clippy::disallowed_types, clippy::disallowed_methods)]
pub mod server;
pub mod wal;

pub use lockstep_proto as proto;

/// The etcd release whose API, errors and defaults this build answers with.
pub const ETCD_VERSION: &str = "3.7.1";
/// The cluster version a cluster of this build settles on.
pub const CLUSTER_VERSION: &str = "3.7.0";
/// Our own version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
