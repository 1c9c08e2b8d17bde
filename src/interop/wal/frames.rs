//! One file of etcd's log: frames, and a record in each.
//!
//! ```text
//! u64, little-endian: the record's bytes in the low 56 bits; the highest bit says that there is padding, and the
//! three lowest of the upper byte how much, so that every frame begins at a multiple of eight. Zero ends the file.
//! ```
//!
//! A write that a crash cut short is told as etcd tells it: sectors of 512 bytes are written whole or not at all, so
//! one of the record's is still all zeros, or the file ends within it.

use std::ops::Range;

use bytes::Bytes;
use prost::Message;

use super::{Error, File, MAX_RECORD_BYTES};
use crate::interop::ReadAt;

pub const METADATA: i64 = 1;
pub const ENTRY: i64 = 2;
pub const STATE: i64 = 3;
pub const CRC: i64 = 4;
pub const SNAPSHOT: i64 = 5;

const SECTOR: u64 = 512;
const LENGTH_BYTES: u64 = 8;
const READ_AHEAD_BYTES: u64 = 256 << 10;

#[derive(Clone, PartialEq, Message)]
pub struct Record {
    #[prost(int64, tag = "1")]
    pub kind: i64,
    #[prost(uint32, tag = "2")]
    pub crc: u32,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub data: Option<Bytes>,
}

/// What lies at a place.
pub enum Next {
    Record {
        record: Record,
        /// The rolling value behind it.
        crc: u32,
    },
    End,
    Torn,
    Damaged(String),
}

/// Reads a file from its beginning, or from where a frame was seen.
pub struct Frames<'a, S> {
    file: &'a File<S>,
    offset: u64,
    /// The file's bytes from `start` on.
    buffer: Vec<u8>,
    start: u64,
    read_ahead: u64,
}

impl<'a, S: ReadAt> Frames<'a, S> {
    pub fn new(file: &'a File<S>) -> Frames<'a, S> {
        Frames { file, offset: 0, buffer: Vec::new(), start: 0, read_ahead: READ_AHEAD_BYTES }
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The record at this place, whose value has been compared before.
    pub fn at(mut self, offset: u64) -> Result<Next, Error> {
        self.offset = offset;
        self.read_ahead = 0;
        Ok(match self.frame()? {
            Ok((range, _)) => match Record::decode(self.slice(range)?) {
                Ok(record) => Next::Record { crc: record.crc, record },
                Err(error) => Next::Damaged(error.to_string()),
            },
            Err(next) => next,
        })
    }

    /// The next record; `crc` is the rolling value so far.
    pub fn next(&mut self, crc: u32) -> Result<Next, Error> {
        let (range, end) = match self.frame()? {
            Ok(found) => found,
            Err(next) => return Ok(next),
        };
        let wrong = match Record::decode(self.slice(range.clone())?) {
            Ok(record) => match check(&record, crc) {
                Ok(crc) => {
                    self.offset = end;
                    return Ok(Next::Record { record, crc });
                }
                Err(wrong) => wrong,
            },
            Err(error) => format!("it is no record: {error}"),
        };
        let is_torn = self.has_empty_sector(range.start..end)?;
        Ok(if is_torn { Next::Torn } else { Next::Damaged(wrong) })
    }

    /// Where the record of the frame here lies, and where the frame ends.
    fn frame(&mut self) -> Result<Result<(Range<u64>, u64), Next>, Error> {
        let begin = self.offset + LENGTH_BYTES;
        if self.offset == self.file.bytes {
            return Ok(Err(Next::End));
        }
        if begin > self.file.bytes {
            return Ok(Err(Next::Torn));
        }
        let length = self.slice(self.offset..begin)?;
        let length = u64::from_le_bytes(length.try_into().expect("eight bytes"));
        if length == 0 {
            return Ok(Err(Next::End));
        }
        let bytes = length & !(0xff << 56);
        let padding = if length >> 63 == 1 { (length >> 56) & 7 } else { 0 };
        if bytes > MAX_RECORD_BYTES {
            return Ok(Err(Next::Damaged(format!("a record of {bytes} bytes"))));
        }
        let end = begin + bytes + padding;
        Ok(if end > self.file.bytes { Err(Next::Torn) } else { Ok((begin..begin + bytes, end)) })
    }

    fn has_empty_sector(&mut self, frame: Range<u64>) -> Result<bool, Error> {
        let mut at = frame.start;
        while at < frame.end {
            let sector_end = (at / SECTOR + 1) * SECTOR;
            let piece = at..sector_end.min(frame.end);
            at = piece.end;
            if self.slice(piece)?.iter().all(|byte| *byte == 0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Bytes of the file, all of which are in it.
    fn slice(&mut self, range: Range<u64>) -> Result<&[u8], Error> {
        if range.start < self.start || range.end > self.start + self.buffer.len() as u64 {
            let wanted = (range.end - range.start).max(self.read_ahead).min(self.file.bytes - range.start);
            self.buffer.resize(wanted as usize, 0);
            self.start = range.start;
            let read = self.file.data.read_at(range.start, &mut self.buffer);
            read.map_err(|source| Error::Io { file: self.file.name.clone(), source })?;
        }
        let from = (range.start - self.start) as usize;
        Ok(&self.buffer[from..from + (range.end - range.start) as usize])
    }
}

/// The rolling value behind a record. One that names the value so far begins a file.
fn check(record: &Record, crc: u32) -> Result<u32, String> {
    if record.kind == CRC {
        return match crc == 0 || crc == record.crc {
            true => Ok(record.crc),
            false => Err("it does not continue what lies before it".to_owned()),
        };
    }
    let found = crc32c::crc32c_append(crc, record.data());
    if found == record.crc { Ok(found) } else { Err("a record's check value is wrong".to_owned()) }
}
