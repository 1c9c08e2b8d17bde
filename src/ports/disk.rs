//! Files that survive a crash, and the exact promise of when they do.
//!
//! Paths are relative to the disk's root, with `/` between their parts, and never leave it. The contract, which
//! `tests/it/disk_contract.rs` runs against the real disk and the in-memory one:
//!
//! * A write is visible to every later read at once, and survives a crash only after [`DiskFile::sync_data`] on
//!   that file returned `Ok`. Until then a crash may keep it, lose it, or keep any part of it, sector by sector, in any
//!   order.
//! * A created, renamed or removed name survives a crash only after [`Disk::sync_dir`] on its directory returned `Ok`.
//! * After an `Err` from `sync_data` the file's unsynced bytes are unknown, now and for ever: a later `Ok` promises
//!   nothing about them. Whoever sees that error stops using the file.
//! * A file grown by `set_len` or `allocate` reads as zeros where nothing was written.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

/// How [`Disk::open`] treats a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// The file must exist; it can be read and written.
    Existing,
    /// The file must not exist; it is created empty with mode 0600.
    CreateNew,
    /// The file is created when it is missing.
    CreateOrExisting,
}

/// One open file. Every call takes offsets; there is no cursor, so a handle can be shared.
pub trait DiskFile: Send + Sync + Debug {
    fn len(&self) -> io::Result<u64>;
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Fills `out` whole, or fails with `UnexpectedEof`.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    /// Writes `data` whole, growing the file where needed.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Grows the file to at least `len` with real, zero-filled blocks, so that a later write there changes no metadata.
    /// `StorageFull` when the disk has no room.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Takes the room for `len` bytes from the disk and leaves the length as it is, as far as the file system can.
    /// `StorageFull` when the disk has no room.
    fn reserve(&self, len: u64) -> io::Result<()>;
    /// Returns only when every byte written before the call, and the length, would survive a crash.
    fn sync_data(&self) -> io::Result<()>;
    /// Begins to write out what was written, and waits for what the call before has begun: a later sync has less to
    /// do, and other files' syncs wait less behind it. Promises nothing.
    fn write_back(&self) {}
}

/// A directory tree. One process owns it (the lock is the host's business).
pub trait Disk: Send + Sync + Debug {
    fn open(&self, path: &str, how: Open) -> io::Result<Arc<dyn DiskFile>>;
    fn exists(&self, path: &str) -> io::Result<bool>;
    /// Creates the directory and its missing parents with mode 0700; an existing one is fine.
    fn create_dir_all(&self, path: &str) -> io::Result<()>;
    /// File and directory names directly below `path`, sorted.
    fn list(&self, path: &str) -> io::Result<Vec<String>>;
    /// Replaces `to` when it exists.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, path: &str) -> io::Result<()>;
    fn sync_dir(&self, path: &str) -> io::Result<()>;
}
