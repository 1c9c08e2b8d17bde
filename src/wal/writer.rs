//! The writing end: one owner, one reusable buffer, one `write_at` for a batch, and no way on after a failure.
//!
//! It never reads what it wrote (that is `Reader`'s business) and never decides about damage (that is `recovery`'s).

use std::sync::Arc;

use lockstep_proto::raftpb::{Entry, HardState};
use parking_lot::RwLock;
use prost::Message;

use super::error::Error;
use super::format::{
    HEADER_BYTES, Header, Kind, MAX_RECORD_BYTES, Position, RESERVE_BYTES, SnapshotMark, State, encode_mark,
    encode_record, encode_words, record_bytes, u32_at,
};
use super::index::{Index, Reader, Segment};
use super::sectors::{Sectors, file_bytes};
use super::segment::{Builder, Listing, Preparation, SPARES, Spare, join, segment_name, spare_name};
use crate::ports::disk::Disk;

const STATE_RECORD_BYTES: u64 = 64;
/// A buffer that one huge batch left behind is not kept for ever.
const BUFFER_KEPT_BYTES: usize = 4 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// A segment's size; one whose first batch needs more is larger.
    pub segment_bytes: u64,
    /// False is `--unsafe-no-fsync`: a crash of the machine may lose anything, or leave a log that is refused.
    pub sync: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { segment_bytes: 64 << 20, sync: true }
    }
}

/// Whose log it is; the caller compares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    pub member_id: u64,
    pub cluster_id: u64,
}

/// The log of one member. See the module for what it promises.
#[derive(Debug)]
pub struct Wal {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: String,
    pub(super) options: Options,
    pub(super) metadata: Metadata,
    pub(super) state: State,
    pub(super) index: Arc<RwLock<Index>>,
    pub(super) file: Sectors,
    pub(super) path: String,
    /// The present segment's size.
    pub(super) size: u64,
    /// Where the next record goes.
    pub(super) at: Position,
    /// `at.offset` when the last sync began: all below is durable.
    pub(super) synced: u64,
    /// `at.offset` when there was nothing left to sync but the mark.
    pub(super) clean: u64,
    pub(super) spares: Vec<String>,
    pub(super) preparation: Arc<Preparation>,
    pub(super) buffer: Vec<u8>,
    /// Bytes written since the log was opened.
    pub(super) written: u64,
    pub(super) failed: Option<String>,
}

impl Wal {
    /// Makes a new, empty log. It is there whole, durably, or not at all.
    pub fn create(disk: Arc<dyn Disk>, dir: &str, metadata: Metadata, options: Options) -> Result<Wal, Error> {
        disk.create_dir_all(dir).map_err(Error::io("create", dir))?;
        let listing = Listing::of(&*disk, dir)?;
        if !listing.sequences.is_empty() || listing.foreign.is_some() {
            return Err(Error::Exists { dir: dir.to_owned() });
        }
        let header = Header {
            sequence: 1,
            member_id: metadata.member_id,
            cluster_id: metadata.cluster_id,
            first_index: 1,
            previous_end: 0,
            previous_chain: 0,
            state: State::default(),
        };
        let bytes = options.segment_bytes.max(file_bytes(HEADER_BYTES + RESERVE_BYTES));
        let builder = Builder { disk: &*disk, dir, bytes, sync: options.sync };
        let file = builder.build(&header, None)?;
        if options.sync {
            // The folders on the way may be new as well.
            for (end, _) in dir.match_indices('/').chain([(0, "")]) {
                disk.sync_dir(&dir[..end]).map_err(Error::io("fsync", dir))?;
            }
        }
        let path = join(dir, &segment_name(1));
        let size = file.len().map_err(Error::io("measure", &path))?;
        let mut index = Index::new(1);
        index.segments.insert(1, Segment { file: file.clone(), path: path.clone() });
        Ok(Wal {
            dir: dir.to_owned(),
            options,
            metadata,
            state: State::default(),
            index: Arc::new(RwLock::new(index)),
            file,
            path,
            size,
            at: first_position(&header),
            synced: HEADER_BYTES,
            clean: HEADER_BYTES,
            spares: listing.spares,
            preparation: Arc::default(),
            buffer: Vec::new(),
            written: 0,
            failed: None,
            disk,
        })
    }

    pub fn exists(disk: &dyn Disk, dir: &str) -> Result<bool, Error> {
        let listing = Listing::of(disk, dir)?;
        Ok(!listing.sequences.is_empty() || listing.foreign.is_some())
    }

    pub fn metadata(&self) -> Metadata {
        self.metadata
    }

    pub fn hard_state(&self) -> HardState {
        self.state.hard_state()
    }

    pub fn epoch(&self) -> u64 {
        self.state.epoch
    }

    /// The index of the oldest entry that can be read; `last_index() + 1` when there is none.
    pub fn first_index(&self) -> u64 {
        self.index.read().first
    }

    pub fn last_index(&self) -> u64 {
        self.index.read().last
    }

    /// How many bytes of records were written since the log was opened.
    pub fn written_bytes(&self) -> u64 {
        self.written
    }

    /// Appends in one write, in this order: the entries, the hard state. Entries follow each other without a gap; the
    /// first may be one the log has already: it and all behind it are replaced. Durable only after [`Wal::sync`].
    pub fn append(&mut self, hard_state: Option<&HardState>, entries: &[Entry]) -> Result<(), Error> {
        self.check_usable()?;
        let entries = if mutation!(ConflictingSuffixKept) {
            &entries[entries.partition_point(|entry| entry.index() <= self.last_index())..]
        } else {
            entries
        };
        let need = self.check_entries(entries)?;
        let mut state = self.state;
        if let Some(hard_state) = hard_state {
            state.set_hard_state(hard_state);
        }
        if entries.is_empty() && state == self.state {
            return Ok(());
        }
        self.make_room(need + STATE_RECORD_BYTES)?;
        let mut at = self.at;
        self.buffer.clear();
        for entry in entries {
            encode_record(&mut self.buffer, &mut at, Kind::Entry, entry.encoded_len(), |out| entry.encode_raw(out));
        }
        if state != self.state {
            encode_words(&mut self.buffer, &mut at, Kind::HardState, &[state.term, state.vote, state.commit]);
        }
        let mut offset = self.at.offset;
        self.write(at)?;
        self.state = state;
        let mut index = self.index.write();
        let overwrites = entries.first().is_some_and(|entry| entry.index() <= index.last);
        sometimes!(overwrites, "conflicting suffix overwritten in the log");
        for entry in entries {
            index.push(entry.index(), at.sequence, offset);
            offset += record_bytes(entry.encoded_len() as u64);
        }
        Ok(())
    }

    /// Records that the member was started for the `epoch`th time.
    pub fn append_epoch(&mut self, epoch: u64) -> Result<(), Error> {
        let state = State { epoch, ..self.state };
        self.append_state(state, Kind::Epoch, &[epoch])
    }

    /// Records that a snapshot was installed: every entry is gone, the log goes on behind `snapshot.index`.
    pub fn append_snapshot(&mut self, snapshot: SnapshotMark) -> Result<(), Error> {
        if snapshot.index == u64::MAX {
            return Err(Error::Gap { index: snapshot.index, first: self.first_index(), last: self.last_index() });
        }
        let state = State { snapshot, ..self.state };
        self.append_state(state, Kind::Snapshot, &[snapshot.index, snapshot.term])?;
        self.index.write().restart_behind(snapshot.index);
        Ok(())
    }

    /// Returns when everything appended so far is durable. After an error nothing is known about it, and the log takes
    /// nothing more.
    pub fn sync(&mut self) -> Result<(), Error> {
        self.check_usable()?;
        if self.at.offset == self.clean || !self.options.sync {
            return Ok(());
        }
        let result = self.builder().sync_file(&self.file, &self.path);
        sometimes!(result.is_err(), "fsync of the log failed");
        if !mutation!(FsyncErrorIgnored) {
            self.keep(result)?;
        }
        self.mark()
    }

    /// Entries `low..high`, as many as `max_bytes` of encoded entries allow, but at least one.
    pub fn read(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, Error> {
        self.reader().read(low, high, max_bytes)
    }

    pub fn term(&self, index: u64) -> Result<u64, Error> {
        self.reader().term(index)
    }

    /// A handle for other threads.
    pub fn reader(&self) -> Reader {
        Reader::new(self.index.clone())
    }

    /// Gives up the segments that hold nothing but entries below `index`, oldest first.
    pub fn release_below(&mut self, index: u64) -> Result<(), Error> {
        self.check_usable()?;
        loop {
            let sequence = {
                let log = self.index.read();
                let (oldest, _) = log.segments.first_key_value().expect("a log has a segment");
                if *oldest == self.at.sequence || log.needs(*oldest, index) {
                    return Ok(());
                }
                *oldest
            };
            let result = self.release(sequence);
            self.keep(result)?;
        }
    }

    /// Work that prepares the next segment, to be run on another thread now; `None` when there is nothing to prepare.
    /// Not for a segment that has hardly begun: a member that writes little needs no second one.
    pub fn spare(&self) -> Option<Spare> {
        let is_early = self.at.offset < self.size / 4;
        if is_early || self.failed.is_some() || !self.spares.is_empty() || !self.preparation.begin() {
            return None;
        }
        Some(Spare {
            disk: self.disk.clone(),
            dir: self.dir.clone(),
            bytes: self.options.segment_bytes,
            sync: self.options.sync,
            preparation: self.preparation.clone(),
        })
    }

    /// Says, behind what was just made durable, that it is. Not durable itself; see the module.
    pub(super) fn mark(&mut self) -> Result<(), Error> {
        self.synced = self.at.offset;
        let mut at = self.at;
        // Where a segment is full to the brim the hand-over says the same.
        if at.offset + RESERVE_BYTES <= self.size {
            self.buffer.clear();
            encode_mark(&mut self.buffer, &mut at);
            self.write(at)?;
        }
        self.clean = self.at.offset;
        Ok(())
    }

    fn append_state(&mut self, state: State, kind: Kind, words: &[u64]) -> Result<(), Error> {
        self.check_usable()?;
        self.make_room(STATE_RECORD_BYTES)?;
        let mut at = self.at;
        self.buffer.clear();
        encode_words(&mut self.buffer, &mut at, kind, words);
        self.write(at)?;
        self.state = state;
        Ok(())
    }

    fn check_usable(&self) -> Result<(), Error> {
        match &self.failed {
            None => Ok(()),
            Some(first) => Err(Error::Failed { dir: self.dir.clone(), first: first.clone() }),
        }
    }

    /// The bytes these entries take; nothing is changed by a refusal.
    fn check_entries(&self, entries: &[Entry]) -> Result<u64, Error> {
        let (first, last) = {
            let index = self.index.read();
            (index.first, index.last)
        };
        let begin = entries.first().map_or(0, |entry| entry.index().clamp(first, last + 1));
        let mut need = 0;
        for (expected, entry) in (begin..).zip(entries) {
            let (index, bytes) = (entry.index(), entry.encoded_len() as u64);
            if index != expected {
                return Err(Error::Gap { index, first, last });
            }
            if bytes > MAX_RECORD_BYTES {
                return Err(Error::TooLarge { index, bytes, limit: MAX_RECORD_BYTES });
            }
            need += record_bytes(bytes);
        }
        Ok(need)
    }

    /// Begins a new segment unless `need` bytes fit into this one.
    fn make_room(&mut self, need: u64) -> Result<(), Error> {
        if self.at.offset + need + RESERVE_BYTES <= self.size {
            return Ok(());
        }
        let result = self.rotate(need);
        self.keep(result)
    }

    /// All of this segment is durable before the next has its name, so only the last segment ever has a torn tail.
    fn rotate(&mut self, need: u64) -> Result<(), Error> {
        if self.synced < self.at.offset {
            self.builder().sync_file(&self.file, &self.path)?;
            self.synced = self.at.offset;
        }
        let header = Header {
            sequence: self.at.sequence + 1,
            member_id: self.metadata.member_id,
            cluster_id: self.metadata.cluster_id,
            first_index: self.last_index() + 1,
            previous_end: self.at.offset,
            previous_chain: self.at.chain,
            state: self.state,
        };
        let spare = self.spares.pop().or_else(|| self.preparation.take());
        sometimes!(spare.is_some(), "segment recycled");
        sometimes!(need + RESERVE_BYTES + HEADER_BYTES > self.options.segment_bytes, "segment made long for a batch");
        let bytes = self.options.segment_bytes.max(file_bytes(HEADER_BYTES + need + RESERVE_BYTES));
        let file = Builder { bytes, ..self.builder() }.build(&header, spare.as_deref())?;

        // From here on the new name is durable: say so where the old segment ends.
        sometimes!("log went on in a new segment");
        let mut at = self.at;
        self.buffer.clear();
        encode_words(&mut self.buffer, &mut at, Kind::Next, &[header.sequence]);
        self.file.write_at(self.at.offset, &self.buffer).map_err(Error::io("write", &self.path))?;
        self.builder().sync_file(&self.file, &self.path)?;

        self.path = join(&self.dir, &segment_name(header.sequence));
        self.file = file.clone();
        self.size = file.len().map_err(Error::io("measure", &self.path))?;
        self.at = first_position(&header);
        self.synced = HEADER_BYTES;
        self.clean = HEADER_BYTES;
        self.index.write().segments.insert(header.sequence, Segment { file, path: self.path.clone() });
        Ok(())
    }

    /// A file is used again only after its old name is durably gone.
    fn release(&mut self, sequence: u64) -> Result<(), Error> {
        let Some(segment) = self.index.write().release(sequence) else { return Ok(()) };
        let reusable = segment.file.len().is_ok_and(|len| len <= 2 * self.options.segment_bytes);
        if reusable && self.spares.len() < SPARES {
            sometimes!("released segment kept as a spare");
            let spare = spare_name(sequence);
            self.disk.rename(&segment.path, &join(&self.dir, &spare)).map_err(Error::io("recycle", &segment.path))?;
            self.builder().sync_dir()?;
            self.spares.push(spare);
            return Ok(());
        }
        sometimes!("released segment removed");
        self.disk.remove(&segment.path).map_err(Error::io("remove", &segment.path))?;
        self.builder().sync_dir()
    }

    fn builder(&self) -> Builder<'_> {
        Builder { disk: &*self.disk, dir: &self.dir, bytes: self.options.segment_bytes, sync: self.options.sync }
    }

    /// Writes the buffer, which ends at `end`.
    fn write(&mut self, end: Position) -> Result<(), Error> {
        let result = self.file.write_at(self.at.offset, &self.buffer).map_err(Error::io("write", &self.path));
        self.keep(result)?;
        self.written += self.buffer.len() as u64;
        self.at = end;
        if self.buffer.capacity() > BUFFER_KEPT_BYTES {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    /// The first failure is the last thing this log does.
    fn keep(&mut self, result: Result<(), Error>) -> Result<(), Error> {
        let is_full = matches!(result, Err(Error::Full { .. }));
        sometimes!(is_full, "log met a full disk");
        if is_full && mutation!(DiskFullIgnored) {
            return Ok(());
        }
        if let Err(error) = &result
            && self.failed.is_none()
        {
            self.failed = Some(error.to_string());
        }
        result
    }
}

/// Behind a header; the chain goes on from the header's own check value.
pub(super) fn first_position(header: &Header) -> Position {
    Position {
        sequence: header.sequence,
        offset: HEADER_BYTES,
        chain: u32_at(&header.encode(), HEADER_BYTES as usize - 4),
    }
}
