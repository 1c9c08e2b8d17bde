//! What is done to data directories while no member runs in them: restoring snapshots, taking over from etcd,
//! looking into them.
//!
//! ```text
//! backups.rs     scheduled backups in a folder
//! file.rs        a file as `interop/` reads one
//! directory.rs   a member's data directory in the making
//! restore.rs     a snapshot becomes one
//! import.rs      a stopped etcd's data directory becomes one
//! look.rs        one is opened, and nothing of it changed
//! maintain.rs    its store made smaller, hashed, verified
//! log_dump.rs    its log in words
//! ```
//!
//! It stands on the server's disk and on its reading of `--initial-cluster`, and says what it does through the events
//! it gives its caller; it prints nothing.

pub mod backups;
pub mod directory;
pub mod file;
pub mod import;
pub mod log_dump;
pub mod look;
pub mod maintain;
pub mod restore;

pub use file::Snapshot;
pub use restore::{Event, Request, restore};
