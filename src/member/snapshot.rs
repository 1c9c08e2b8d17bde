//! Snapshots between members: a view of the store as an etcd database, and such a database as a store of ours.
//!
//! A member that lacks what the log has released is sent a [`write`]n view. It [`receive`]s it under a name of its own,
//! whole and durable, before consensus hears of it; consensus makes the log go on behind it, and only then it is
//! [`install`]ed. A crash anywhere in between leaves what `boot` puts in order: a store that the log says is the
//! member's, or a file that is of no use to anybody.

use std::io;
use std::sync::Arc;

use super::boot::{SNAP_DIR, STORE_PATH};
use super::membership::Membership;
use super::raft::SnapshotMeta;
use crate::interop::ReadAt;
use crate::mvcc::{self, Backend, Store, View};
use crate::ports::disk::Disk;

const SUFFIX: &str = ".snap.store";

/// Where the store of a received snapshot lies until it takes the store's place.
pub fn path(index: u64) -> String {
    format!("{SNAP_DIR}/{index:016x}{SUFFIX}")
}

/// Whether a name in [`SNAP_DIR`] is of a snapshot that was on its way.
pub fn is_unfinished(name: &str) -> bool {
    name.contains(".snap.")
}

/// Puts the store of a received snapshot in place. The log goes on behind it by now: if this is cut short, the next
/// boot does it.
pub fn put_in_place(disk: &dyn Disk, index: u64) -> io::Result<()> {
    disk.rename(&path(index), STORE_PATH)?;
    disk.sync_dir(SNAP_DIR)
}

/// [`put_in_place`] for a member that runs: whoever reads the former store goes on reading it.
pub fn install(disk: &Arc<dyn Disk>, index: u64, options: mvcc::Options) -> Result<(Store, Backend), mvcc::OpenError> {
    let io = |source| mvcc::OpenError::Io { path: path(index), doing: "installing", source };
    put_in_place(&**disk, index).map_err(io)?;
    sometimes!("received snapshot installed");
    Store::open(disk.clone(), STORE_PATH, options)
}

/// A received snapshot is of no use.
pub fn discard(disk: &dyn Disk, index: u64) -> io::Result<()> {
    disk.remove(&path(index))?;
    disk.sync_dir(SNAP_DIR)
}
