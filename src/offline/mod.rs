//! What is done to data directories while no member runs in them: restoring snapshots.
//!
//! ```text
//! backups.rs   scheduled backups in a folder
//! file.rs      a file as `interop/` reads one
//! restore.rs   a snapshot becomes a member's data directory
//! ```
//!
//! It stands on the server's disk and on its reading of `--initial-cluster`, and says what it does through the events
//! it gives its caller; it prints nothing.

pub mod backups;
pub mod file;
pub mod restore;

pub use file::Snapshot;
pub use restore::{Event, Request, restore};
