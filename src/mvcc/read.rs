//! What a read of the store is: the seam between the requests of the API and the store that answers them.

use bytes::Bytes;
use lockstep_proto::mvccpb::KeyValue;

/// A position in the store's history: the transaction's revision, and the operation's place within it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    pub main: i64,
    pub sub: i64,
}

/// Why the store refuses a read or a compaction. The texts are etcd's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("mvcc: required revision has been compacted")]
    Compacted,
    #[error("mvcc: required revision is a future revision")]
    FutureRev,
    /// Compaction has passed this reader, which asked for the newest revision it sees: take a fresh view and ask again
    /// ([`read_newest`](super::read_newest) does).
    #[error("mvcc: the view is older than the last compaction, take a fresh one")]
    Overtaken,
    /// The disk or the file failed; the member must stop acknowledging.
    #[error("the store cannot be read: {0}")]
    Storage(String),
}

/// An error of a read that may say: take a fresh view and ask again.
pub trait Overtaken {
    fn is_overtaken(&self) -> bool;
}

impl Overtaken for Error {
    fn is_overtaken(&self) -> bool {
        matches!(self, Error::Overtaken)
    }
}

/// What to read of a range of keys.
#[derive(Clone, Copy, Debug, Default)]
pub struct RangeOptions {
    /// At most so many keys are returned; 0 means all. The count is of all keys in the range either way.
    pub limit: usize,
    /// The revision to read at; 0 or less means the newest this reader sees.
    pub rev: i64,
    /// Only count.
    pub count_only: bool,
    /// Values are left out (answered from the index alone).
    pub keys_only: bool,
}

/// The keys found, in key order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RangeResult {
    pub kvs: Vec<KeyValue>,
    /// All keys in the range at that revision, whatever the limit.
    pub count: i64,
    /// The newest revision this reader sees.
    pub rev: i64,
}

/// Something that reads the store at one revision: a view, or a write transaction that sees its own writes.
///
/// `end` is etcd's range end: empty means the one key, `\0` means every key from `key` on, anything else is exclusive.
pub trait Read {
    /// The newest revision this reader sees.
    fn rev(&self) -> i64;
    /// The revision up to which history has been compacted (-1 or 0 when never).
    fn compact_rev(&self) -> i64;
    fn range(&self, key: &[u8], end: &[u8], options: RangeOptions) -> Result<RangeResult, Error>;
}

/// A write transaction: all its changes share one main revision.
pub trait Write: Read {
    /// Returns the revision of the put. `lease` 0 means none.
    fn put(&mut self, key: Bytes, value: Bytes, lease: i64) -> i64;
    /// Deletes what the range holds, in key order; returns how many keys went.
    fn delete_range(&mut self, key: &[u8], end: &[u8]) -> i64;
    /// Whether anything changed: whether the store's revision moves when this ends.
    fn changed(&self) -> bool;
}
