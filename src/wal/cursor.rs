//! Reads the records of one segment in order, through a bounded buffer.
//!
//! It knows the format and one file. It never writes, and says of bytes that do not verify only that they do not:
//! what that means is `recovery`'s business.

use super::error::Error;
use super::format::{HEADER_BYTES, Header, HeaderError, Kind, PREFIX_BYTES, Position, Prefix, VERSION, verify_record};
use super::sectors::Sectors;

const READ_AHEAD_BYTES: u64 = 256 << 10;

/// One verified record. The payload is borrowed from the cursor's buffer.
pub struct Record<'a> {
    pub kind: Kind,
    pub payload: &'a [u8],
    /// The place behind it.
    pub next: Position,
}

pub struct Cursor {
    file: Sectors,
    path: String,
    len: u64,
    /// The file's bytes from `start` on.
    buffer: Vec<u8>,
    start: u64,
    read_ahead: u64,
}

impl Cursor {
    pub fn new(file: Sectors, path: &str) -> Result<Cursor, Error> {
        let len = file.len().map_err(Error::io("measure", path))?;
        Ok(Cursor { file, path: path.to_owned(), len, buffer: Vec::new(), start: 0, read_ahead: READ_AHEAD_BYTES })
    }

    /// For short reads: how much to fetch at once.
    pub fn with_read_ahead(mut self, bytes: u64) -> Cursor {
        self.read_ahead = bytes.clamp(4096, READ_AHEAD_BYTES);
        self
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    /// `count` bytes at `offset`, or `None` when the file is shorter.
    pub fn bytes(&mut self, offset: u64, count: u64) -> Result<Option<&[u8]>, Error> {
        let Some(end) = offset.checked_add(count).filter(|end| *end <= self.len) else { return Ok(None) };
        if offset < self.start || end > self.start + self.buffer.len() as u64 {
            let stop = self.len.min(offset + count.max(self.read_ahead));
            self.buffer.resize((stop - offset) as usize, 0);
            self.start = offset;
            self.file.read_at(offset, &mut self.buffer).map_err(Error::io("read", &self.path))?;
        }
        let from = (offset - self.start) as usize;
        Ok(Some(&self.buffer[from..from + count as usize]))
    }

    /// The record at `at`, or `None` when what lies there was never written there after what lies before it.
    pub fn record(&mut self, at: Position) -> Result<Option<Record<'_>>, Error> {
        let Some(prefix) = self.bytes(at.offset, PREFIX_BYTES)? else { return Ok(None) };
        let Some(prefix) = Prefix::decode(prefix, at.sequence) else { return Ok(None) };
        let total = prefix.record_bytes();
        let Some(record) = self.bytes(at.offset, total)? else { return Ok(None) };
        let Some(chain) = verify_record(record, at.sequence, at.offset, at.chain) else { return Ok(None) };
        let payload = &record[PREFIX_BYTES as usize..(PREFIX_BYTES + prefix.payload) as usize];
        let next = Position { offset: at.offset + total, chain, ..at };
        Ok(Some(Record { kind: prefix.kind, payload, next }))
    }

    /// Where what lies at `at` has rotted: of the sectors that a record there takes, as far as it can be told, the
    /// first that was never written as it is.
    pub fn rotten(&mut self, at: Position) -> Result<Option<u64>, Error> {
        let prefix = self.bytes(at.offset, PREFIX_BYTES)?.and_then(|prefix| Prefix::decode(prefix, at.sequence));
        let end = at.offset + prefix.map_or(PREFIX_BYTES, |prefix| prefix.record_bytes());
        self.file.rotten(at.offset, end).map_err(Error::io("read", &self.path))
    }

    pub fn header(&mut self) -> Result<Header, Error> {
        let path = self.path.clone();
        let Some(bytes) = self.bytes(0, HEADER_BYTES)? else {
            return Err(Error::corrupt(&path, 0, "it is shorter than a segment's header"));
        };
        let bytes = bytes.try_into().expect("a header's length");
        Header::decode(bytes).map_err(|error| match error {
            HeaderError::Magic => {
                Error::NotOurs { file: path, what: "it does not begin as one (or its first sector is damaged)".into() }
            }
            HeaderError::Version(version) => Error::NewerFormat { file: path, version, known: VERSION },
            HeaderError::Older(version) => Error::OlderFormat { file: path, version, known: VERSION },
            HeaderError::Check => Error::corrupt(&path, 0, "the check value of its header is wrong"),
        })
    }
}
