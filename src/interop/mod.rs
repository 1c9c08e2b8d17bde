//! etcd's files: its database (bbolt), the snapshot that is such a database and a digest, and what etcd keeps in it.
//!
//! ```text
//! etcd.rs        etcd's buckets over a database: rows of revisions, leases, members, progress
//! restore.rs     what of a snapshot a new cluster begins with
//! status.rs      a database in four numbers
//! backup.rs      the snapshots that a server takes by itself: names, age, proof
//! snapshot.rs    a database and the SHA-256 of it: sealed while it is written, verified as it is read
//! bbolt/         the file itself: a reader that trusts nothing, a writer that never goes back
//! wal/           etcd's log: entries, and what they mean here
//! raft_snapshot.rs   where that log was cut, and the members as of then
//! ```
//!
//! All of it is synchronous and knows no file: bytes come through [`ReadAt`] and leave through `std::io::Write`, in
//! the order they stand in the file, so that either end may be a disk, a network stream or a test.

pub mod backup;
pub mod bbolt;
pub mod etcd;
pub mod raft_snapshot;
pub mod restore;
pub mod snapshot;
pub mod status;
pub mod store;
pub mod wal;

use std::io;

use bytes::Bytes;

/// Bytes that can be read in any order.
pub trait ReadAt {
    /// Fills `out` whole, or fails with `UnexpectedEof`.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        (**self).read_at(offset, out)
    }
}

impl ReadAt for Bytes {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).ok();
        let found = start.and_then(|start| self.get(start..start.checked_add(out.len())?));
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}
