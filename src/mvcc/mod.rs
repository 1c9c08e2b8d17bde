//! Revisions, the key index, views, and the store on redb.
//!
//! ```text
//! Store   the single writer: transactions, buckets, compaction; seals changes into batches  store.rs txn.rs compact.rs
//! View    what readers hold: one revision, immutable, on any thread                         view.rs hash.rs
//! Index   key -> generations of revisions, shared by both                                   index.rs key_index.rs
//! Overlay a batch's changes until redb has them, shared by both                             overlay.rs
//! Loader  a whole store written in one go                                                  bulk.rs
//! Backend redb over the Disk port: one durable transaction a batch                         backend.rs blocks.rs row.rs
//!         a new file for it, while it is in use                                             defrag.rs
//!         which keys a damaged page takes with it                                           lost.rs
//! ```
//!
//! A change is in memory at once, visible at the next `publish`, durable after `seal`, `commit`, `committed`. This
//! module names no file, thread or clock; leases, auth and membership are only buckets here.

mod backend;
mod blocks;
mod bulk;
mod compact;
mod defrag;
mod hash;
mod index;
mod key_index;
mod lost;
mod overlay;
pub mod read;
mod row;
mod store;
mod txn;
mod view;

pub use backend::{Backend, Batch, Committed, FORMAT, META_CONSISTENT_INDEX, META_TERM, OpenError};
pub use blocks::Poison;
pub use bulk::Loader;
pub use compact::CompactProgress;
pub use defrag::Reopened;
pub use hash::{HashKv, Survivors};
pub use overlay::{Bucket, BucketEntry};
pub use row::{Header, Row, Rows, header, is_tombstone, parse_row_key, row_key};
pub use store::{Options, Store};
pub use txn::WriteTxn;
pub use view::{View, read_newest};
