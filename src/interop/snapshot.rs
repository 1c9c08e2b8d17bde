//! A snapshot file: a database, and behind it the SHA-256 of all its bytes.
//!
//! The length tells whether the digest is there: a database has whole pages, so a file of 32 bytes more than a multiple
//! of 512 has one. A database that was copied from a data directory has none. Only the digest finds a flipped bit in
//! the data, so whoever reads a snapshot verifies it first, in one pass that holds a piece of it.

use std::fmt;
use std::io;

use sha2::{Digest, Sha256};

use super::ReadAt;

pub const DIGEST_BYTES: usize = 32;
/// Every page size is a multiple of it.
const SECTOR: u64 = 512;
const PIECE: usize = 64 << 10;

/// Why a snapshot is not taken for one. The texts are those of etcd's restore.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("snapshot missing hash but --skip-hash-check=false")]
    Missing,
    #[error("expected sha256 {expected}, got {found}")]
    Mismatch { expected: Sum, found: Sum },
    #[error("reading the snapshot: {0}")]
    Io(#[from] io::Error),
}

/// A SHA-256, printed as etcd prints one: the bytes in decimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sum(pub [u8; DIGEST_BYTES]);

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: Vec<String> = self.0.iter().map(u8::to_string).collect();
        write!(f, "[{}]", bytes.join(" "))
    }
}

/// Passes a database on and digests it on its way.
pub struct Sealed<W> {
    out: W,
    digest: Sha256,
    bytes: u64,
}

impl<W: io::Write> Sealed<W> {
    pub fn new(out: W) -> Sealed<W> {
        Sealed { out, digest: Sha256::new(), bytes: 0 }
    }

    /// Writes the digest behind the database, and gives back where both went.
    pub fn finish(mut self) -> io::Result<W> {
        assert!(self.bytes.is_multiple_of(SECTOR), "a database of {} bytes has no whole pages", self.bytes);
        self.out.write_all(&self.digest.finalize())?;
        Ok(self.out)
    }
}

impl<W: io::Write> io::Write for Sealed<W> {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let taken = self.out.write(piece)?;
        self.digest.update(&piece[..taken]);
        self.bytes += taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The length of the database in a file of so many bytes, and whether a digest follows it.
pub fn database_bytes(bytes: u64) -> (u64, bool) {
    match bytes % SECTOR == DIGEST_BYTES as u64 {
        true => (bytes - DIGEST_BYTES as u64, true),
        false => (bytes, false),
    }
}

/// Reads a whole snapshot of `bytes` bytes, and compares its digest; gives the length of the database in it.
pub fn verify(source: &impl ReadAt, bytes: u64) -> Result<u64, Error> {
    let (database, true) = database_bytes(bytes) else { return Err(Error::Missing) };
    let mut digest = Sha256::new();
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < database {
        let len = (database - at).min(PIECE as u64) as usize;
        source.read_at(at, &mut piece[..len])?;
        digest.update(&piece[..len]);
        at += len as u64;
    }
    let mut expected = [0; DIGEST_BYTES];
    source.read_at(database, &mut expected)?;
    let (expected, found) = (Sum(expected), Sum(digest.finalize().into()));
    if expected == found { Ok(database) } else { Err(Error::Mismatch { expected, found }) }
}
