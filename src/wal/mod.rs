//! The write-ahead log: what a member promised, on disk before it promises it.
//!
//! Segments of records over the `Disk` port; `docs/wal-format.md` draws them, `format` encodes them. One owner appends
//! and syncs ([`Wal`]), any thread reads old entries ([`Reader`]). Nothing here knows raft's rules, and nothing here
//! retries: after the first failed write or fsync the log refuses everything (a second fsync that succeeds proves
//! nothing about the pages the first one lost), and the member has to be started again.
//!
//! # Torn or rotten?
//!
//! A crash leaves of the bytes that were not yet synced any subset of sectors. Such a tail must be cut off, or a member
//! never starts again after a power cut. A bit that flips in what *was* synced must never be cut off: it may have been
//! acknowledged, and a majority may count on it. Both look the same at first: a record whose check value is wrong. The
//! rules:
//!
//! 1. **Only the last segment can be torn.** A segment is synced whole before its successor gets its name, and the
//!    successor's header says where it ended and with which chain. Anything else is rot, and refused.
//! 2. **In the last segment a mark decides.** After every successful sync a small record, a mark, goes behind the bytes
//!    that were synced: "everything below this offset was durable when this was written". It costs no fsync, the next
//!    one carries it. If a record does not verify and any mark for a later offset lies behind it, the record was
//!    durable: rot, and refused. A mark carries the chain it continues, so damage in front of it does not hide it.
//! 3. **Without such a mark the tail is cut.** Records behind the bad one without a mark prove nothing: they may be
//!    younger sectors of the same unsynced tail that happened to reach the disk first.
//! 4. **What is cut is wiped** before anything is appended, so it can never come back as the continuation of a later,
//!    equal record.
//! 5. **What is kept is synced** before `open` returns (after kill -9 it may be in the page cache only), having been
//!    written again first (a former process may have met an fsync error, after which the kernel calls lost pages
//!    clean).
//! 6. **A lost last segment is noticed**, since the segment before it ends with a note that its successor's name was
//!    durable.
//!
//! 7. **A sector that was never written as it is, is rot.** Each sector of 512 bytes ends with its own check value, and
//!    disks write sectors whole or not at all. So a crash leaves sectors that verify, older or newer ones, and a record
//!    that does not verify because of a sector that does not verify has rotted, whether a mark lies behind it or not.
//!
//! So a flipped bit in anything synced is refused, in the last record too, also when a power cut took the mark behind
//! it. What remains is a lost write in the newest sync *and* the loss of its mark: a sector that the disk reported as
//! written and that comes back as its former, valid self, or as zeros. No single machine can tell that from a torn tail
//! ("Protocol-Aware Recovery for Consensus-Based Storage", FAST '18, section 3.4). Two nets are behind it: the caller
//! refuses a log that ends before the store's consistent index, and `Recovered::repaired` says what was cut. The price:
//! a bit that flips in the unused rest of the sector where the log ends is refused, too.
//!
//! # Recycled segments
//!
//! A released segment becomes the next one without being zeroed. Its old records cannot be taken for new ones: the
//! sequence number is stamped into every record and, whole, part of every check value together with the offset, and the
//! first old record behind the new tail would have to continue the new chain.

mod cursor;
mod error;
mod format;
mod index;
mod recovery;
mod sectors;
mod segment;
mod writer;

pub use error::Error;
pub use format::{HEADER_BYTES, MAX_RECORD_BYTES, SnapshotMark, VERSION};
pub use index::Reader;
pub use recovery::Recovered;
pub use segment::Spare;
pub use writer::{Metadata, Options, Wal};
