//! A database in four numbers, as `snapshot status` of etcd 3.5 counts them: every row of every bucket, read once.

use super::ReadAt;
use super::bbolt::{self, Db};
use super::etcd::KEY;
use crate::mvcc::parse_row_key;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// CRC-32C of the buckets' names, keys and values.
    pub hash: u32,
    pub revision: i64,
    pub total_keys: u64,
    /// Of the database, without the digest behind it.
    pub total_bytes: u64,
}

/// Reads the whole database, and trusts nothing of it.
pub fn status<S: ReadAt>(db: &Db<S>) -> Result<Status, bbolt::Error> {
    let mut status = Status { total_bytes: db.bytes(), ..Status::default() };
    let mut add = |bytes: &[u8]| status.hash = crc32c::crc32c_append(status.hash, bytes);
    for (name, bucket) in db.buckets()? {
        add(&name);
        for row in bucket.rows() {
            let (key, value) = row?;
            add(&key);
            add(&value);
            status.total_keys += 1;
            if &*name == KEY.as_bytes() {
                // Behind the revision of a deletion stands a mark.
                let place = key.get(..17).and_then(parse_row_key);
                status.revision = place.map_or(status.revision, |revision| revision.main);
            }
        }
    }
    Ok(status)
}
