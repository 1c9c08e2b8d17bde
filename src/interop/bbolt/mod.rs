//! The file format of bbolt, etcd's storage engine: a copy-on-write B+ tree of buckets in one file.
//!
//! ```text
//! file    meta 0 | meta 1 | page 2 | page 3 ...        pages of one size; the newer valid meta counts
//!
//! page    u64 its own number | u16 kind | u16 count | u32 further pages that belong to it
//! meta    u32 magic | u32 version 2 | u32 page size | u32 0 | bucket of the buckets | u64 list of free pages
//!         | u64 pages in use | u64 transaction | u64 FNV-1a of all of it
//! branch  count x (u32 place of the key | u32 its length | u64 page)                     | keys
//! leaf    count x (u32 is a bucket | u32 place of the key | u32 its length | u32 value's) | keys and values
//! bucket  u64 root page, 0: the leaf follows | u64 sequence                              as a value of a leaf
//! ```
//!
//! Numbers are little-endian (bbolt writes the machine's own order; etcd is built for little-endian machines). A place
//! counts from the start of its element. Only the meta pages carry a check value: what became of a page of data can be
//! told only where it contradicts itself, and the SHA-256 of a snapshot is what finds the rest.

mod page;
mod plan;
mod read;
mod tree;
mod write;

pub use plan::{Layout, Plan};
pub use read::{Bucket, Db, Rows};
pub use write::Writer;

/// What etcd's pages measure nearly everywhere; a reader takes the size from the file.
pub const PAGE_BYTES: u32 = 4096;

/// Why a file cannot be read, or not written as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{doing} the etcd database: {source}")]
    Io { doing: &'static str, source: std::io::Error },
    #[error("not an etcd (bbolt) database: {0}")]
    NotBbolt(String),
    #[error("the etcd database has format {found}, this program knows format {}", page::VERSION)]
    Version { found: u32 },
    #[error("the etcd database is damaged: page {page}: {detail}; use another copy of it")]
    Damaged { page: u64, detail: String },
    /// The caller of the writer broke its rules: nothing that was written so far is of use.
    #[error("an etcd database cannot be written: {0}")]
    Unfit(String),
}

impl Error {
    fn damaged(page: u64, detail: impl Into<String>) -> Error {
        Error::Damaged { page, detail: detail.into() }
    }
}
