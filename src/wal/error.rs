//! What can go wrong with the log, and what the operator does next.
//!
//! Every message names the file or folder. Nothing here decides anything: which damage is repaired and which is refused
//! is `recovery`'s business.

use std::io;
use std::path::Path;

use super::sectors::place;

/// The one way out that works whatever broke: the other members still have the data.
const REBUILD: &str = "do not edit or delete single files; in a cluster remove this member, empty its data \
    directory and add it again; a single member is restored from a snapshot or from a backup of the directory";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "wal: cannot {doing} {path}: {source}; nothing was acknowledged, check the disk and start the member again"
    )]
    Io { doing: &'static str, path: String, source: io::Error },

    #[error(
        "wal: no space left on device for {dir} (to {doing} {path}); nothing more is acknowledged: free space on \
         that disk or give the member a larger one, then start it again"
    )]
    Full { dir: String, doing: &'static str, path: String, source: io::Error },

    #[error("wal: {file} is damaged at offset {offset}: {what}; it was durable once, so it is not cut off: {REBUILD}")]
    Corrupt { file: String, offset: u64, what: String },

    #[error("wal: segment {file} is missing ({why}); {REBUILD}")]
    MissingSegment { file: String, why: String },

    #[error(
        "wal: {file} has format version {version}, this program knows up to {known}; start the newer version again"
    )]
    NewerFormat { file: String, version: u32, known: u32 },

    #[error(
        "wal: {file} has format version {version}, this program reads {known} only; {REBUILD}, with a snapshot that \
         the older version took"
    )]
    OlderFormat { file: String, version: u32, known: u32 },

    #[error(
        "wal: {file} is not a segment of this program's log: {what}; point --data-dir or --wal-dir at the right place"
    )]
    NotOurs { file: String, what: String },

    #[error("wal: there is no log in {dir}; check --data-dir and --wal-dir")]
    NotFound { dir: String },

    #[error("wal: {dir} already holds a log; nothing was changed")]
    Exists { dir: String },

    #[error("wal: the log in {dir} failed before and takes nothing more until the member is started again: {first}")]
    Failed { dir: String, first: String },

    #[error("wal: entry {index} takes {bytes} bytes, more than the {limit} one record may hold")]
    TooLarge { index: u64, bytes: u64, limit: u64 },

    #[error("wal: cannot append entry {index} to a log of entries {first} to {last}: there would be a gap")]
    Gap { index: u64, first: u64, last: u64 },

    #[error("wal: entry {index} was released, the log begins at {first}")]
    Released { index: u64, first: u64 },

    #[error("wal: entry {index} is not there yet, the log ends at {last}")]
    Unavailable { index: u64, last: u64 },
}

impl Error {
    pub(super) fn io(doing: &'static str, path: &str) -> impl FnOnce(io::Error) -> Error {
        move |source| {
            let path = path.to_owned();
            if source.kind() == io::ErrorKind::StorageFull {
                let dir = Path::new(&path).parent().map(|dir| dir.display().to_string()).unwrap_or_default();
                return Error::Full { dir, doing, path, source };
            }
            Error::Io { doing, path, source }
        }
    }

    /// `offset` is of the plain run of bytes.
    pub(super) fn corrupt(file: &str, offset: u64, what: impl Into<String>) -> Error {
        Error::Corrupt { file: file.to_owned(), offset: place(offset), what: what.into() }
    }
}
