//! etcd's write-ahead log, read to its end and trusted in nothing: which entries there are, what is committed, which
//! snapshots it goes on from.
//!
//! ```text
//! frames.rs    one file: frames and records, and where a torn write ended it
//! request.rs   what the entries of older releases mean to this one
//! ```
//!
//! Files come in the order of their sequence numbers. A rolling CRC-32C over the data of all records runs through them;
//! each file begins with its value so far. Only the last file may end in the middle of a record: a crash leaves such a
//! write, and it was never acknowledged. Any other damage is refused. Of the entries only their places are held.

mod frames;
pub mod request;

use lockstep_proto::raftpb::{ConfState, Entry, EntryType, HardState};
use prost::Message;

use super::ReadAt;
use frames::{Frames, Next, Record};

/// More than etcd writes as one record; what would be longer is damage.
pub const MAX_RECORD_BYTES: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading {file}: {source}")]
    Io { file: String, source: std::io::Error },
    #[error(
        "{file} is damaged at offset {offset}: {what}; nothing behind it can be trusted, and some of it may have been \
         acknowledged: take another member's directory, or restore from a snapshot"
    )]
    Damaged { file: String, offset: u64, what: String },
    #[error("the write-ahead log has no file {sequence:016x}-*.wal between others; bring all of it")]
    FileMissing { sequence: u64 },
    #[error("there is no write-ahead log (*.wal): it lies elsewhere, or the directory is none of a member that ran")]
    Empty,
    #[error("the write-ahead log does not hold entry {index}: it holds {first} to {last}")]
    NoEntry { index: u64, first: u64, last: u64 },
}

/// One file of a log.
#[derive(Debug)]
pub struct File<S> {
    /// What an error calls it.
    pub name: String,
    pub sequence: u64,
    pub bytes: u64,
    pub data: S,
}

/// A snapshot that the log was cut at, or goes on from.
#[derive(Clone, PartialEq, Message)]
pub struct Mark {
    #[prost(uint64, tag = "1")]
    pub index: u64,
    #[prost(uint64, tag = "2")]
    pub term: u64,
    #[prost(message, optional, tag = "3")]
    pub conf_state: Option<ConfState>,
}

/// Whose log it is.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Metadata {
    #[prost(uint64, tag = "1")]
    pub member_id: u64,
    #[prost(uint64, tag = "2")]
    pub cluster_id: u64,
}

/// An entry is read again from its place when it is asked for.
#[derive(Clone, Copy, Debug)]
struct Place {
    file: u32,
    offset: u64,
}

/// See the head of this file.
#[derive(Debug)]
pub struct Log<S> {
    files: Vec<File<S>>,
    metadata: Metadata,
    hard_state: HardState,
    /// In the order of the log.
    marks: Vec<Mark>,
    /// The index of the first place.
    first: u64,
    places: Vec<Place>,
    torn: Option<String>,
}

impl<S: ReadAt> Log<S> {
    pub fn read(files: Vec<File<S>>) -> Result<Log<S>, Error> {
        if files.is_empty() {
            return Err(Error::Empty);
        }
        if let Some(pair) = files.windows(2).find(|pair| pair[0].sequence.checked_add(1) != Some(pair[1].sequence)) {
            return Err(Error::FileMissing { sequence: pair[0].sequence.saturating_add(1) });
        }
        let mut replay = Replay::default();
        for (at, file) in files.iter().enumerate() {
            replay.file(at as u32, file, at + 1 == files.len())?;
        }
        let Replay { metadata, hard_state, marks, first, places, torn, .. } = replay;
        let metadata = metadata.ok_or_else(|| damaged(&files[0], 0, "it does not say whose log it is"))?;
        Ok(Log { files, metadata, hard_state, marks, first, places, torn })
    }

    pub fn metadata(&self) -> Metadata {
        self.metadata
    }

    /// The last one.
    pub fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    pub fn marks(&self) -> &[Mark] {
        &self.marks
    }

    pub fn first_index(&self) -> u64 {
        self.first
    }

    pub fn last_index(&self) -> u64 {
        (self.first + self.places.len() as u64).saturating_sub(1)
    }

    /// What was left out at the end, in words.
    pub fn torn(&self) -> Option<&str> {
        self.torn.as_deref()
    }

    pub fn entry(&self, index: u64) -> Result<Entry, Error> {
        let none = || Error::NoEntry { index, first: self.first, last: self.last_index() };
        let at = index.checked_sub(self.first).and_then(|at| usize::try_from(at).ok()).ok_or_else(none)?;
        let place = self.places.get(at).ok_or_else(none)?;
        let file = &self.files[place.file as usize];
        let changed = || damaged(file, place.offset, "it changed while it was read");
        let Next::Record { record, .. } = Frames::new(file).at(place.offset)? else { return Err(changed()) };
        Entry::decode(record.data()).ok().filter(|entry| entry.index() == index).ok_or_else(changed)
    }
}

fn damaged<S>(file: &File<S>, offset: u64, what: impl Into<String>) -> Error {
    Error::Damaged { file: file.name.clone(), offset, what: what.into() }
}

/// The log as far as it has been read.
#[derive(Default)]
struct Replay {
    /// Over the data of all records; etcd compares nothing before the first value that a file names.
    crc: u32,
    metadata: Option<Metadata>,
    hard_state: HardState,
    marks: Vec<Mark>,
    first: u64,
    places: Vec<Place>,
    torn: Option<String>,
}

impl Replay {
    fn file<S: ReadAt>(&mut self, at: u32, file: &File<S>, is_last: bool) -> Result<(), Error> {
        let mut frames = Frames::new(file);
        loop {
            let offset = frames.offset();
            match frames.next(self.crc)? {
                Next::End => return Ok(()),
                Next::Record { record, crc } => {
                    self.crc = crc;
                    let place = Place { file: at, offset };
                    self.record(&record, place).map_err(|what| damaged(file, offset, what))?;
                }
                Next::Torn if is_last => {
                    self.torn =
                        Some(format!("{} ends at offset {offset} in a write that a crash cut short", file.name));
                    return Ok(());
                }
                Next::Torn => return Err(damaged(file, offset, "a record is incomplete, and another file follows")),
                Next::Damaged(what) => return Err(damaged(file, offset, what)),
            }
        }
    }

    fn record(&mut self, record: &Record, place: Place) -> Result<(), String> {
        let data = record.data();
        match record.kind {
            frames::METADATA => {
                let metadata = Metadata::decode(data).map_err(|e| format!("it does not say whose log it is: {e}"))?;
                if self.metadata.is_some_and(|before| before != metadata) {
                    return Err("it is another member's log from here on".to_owned());
                }
                self.metadata = Some(metadata);
            }
            frames::ENTRY => {
                let entry = Entry::decode(data).map_err(|e| format!("it is no entry: {e}"))?;
                self.entry(&entry, place)?;
            }
            frames::STATE => {
                let state = HardState::decode(data).map_err(|e| format!("it is no hard state: {e}"))?;
                // The check value does not cover the kind, and an entry reads as a hard state.
                if state.encoded_len() != data.len() {
                    return Err("it is no hard state".to_owned());
                }
                self.hard_state = state;
            }
            frames::CRC => {}
            frames::SNAPSHOT => {
                let mark = Mark::decode(data).map_err(|e| format!("it is no snapshot's mark: {e}"))?;
                // A snapshot from elsewhere: what was here before it counts no more.
                if mark.index >= self.first + self.places.len() as u64 {
                    self.first = mark.index.checked_add(1).ok_or("a snapshot at the last index there is")?;
                    self.places.clear();
                }
                self.marks.push(mark);
            }
            other => return Err(format!("there is no record of kind {other}")),
        }
        Ok(())
    }

    /// An entry takes the place of the one that had its index, and of all that followed that.
    fn entry(&mut self, entry: &Entry, place: Place) -> Result<(), String> {
        let index = entry.index();
        if index == 0 || index == u64::MAX || EntryType::try_from(entry.r#type.unwrap_or_default()).is_err() {
            return Err(format!("an entry of index {index} and kind {}", entry.r#type.unwrap_or_default()));
        }
        if self.first == 0 || index < self.first {
            self.first = index;
            self.places.clear();
        }
        let at = (index - self.first) as usize;
        if at > self.places.len() {
            let last = self.first + self.places.len() as u64 - 1;
            return Err(format!("entry {index} follows entry {last}"));
        }
        self.places.truncate(at);
        self.places.push(place);
        Ok(())
    }
}
