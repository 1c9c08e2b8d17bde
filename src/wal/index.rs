//! Which entry lies where: a sparse index over the segments, and the reader that follows it.
//!
//! One run is kept for every 64 KiB of entries, so a log of a gigabyte costs some hundred KiB of memory. Entries
//! themselves are never kept here: they are read from the files, and verified again on the way.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use lockstep_proto::raftpb::Entry;
use parking_lot::RwLock;
use prost::Message;

use super::cursor::Cursor;
use super::error::Error;
use super::format::{Kind, Position, u32_at};
use super::sectors::Sectors;

const RUN_BYTES: u64 = 64 << 10;

/// Entries `first..=last` in ascending order, the first at `offset`, all in one segment and with no dead ones among
/// them.
#[derive(Clone, Debug)]
struct Run {
    first: u64,
    last: u64,
    sequence: u64,
    offset: u64,
    /// Entries behind `last` in the file were overwritten: nothing can be added to this run.
    closed: bool,
}

#[derive(Clone, Debug)]
pub struct Segment {
    pub file: Sectors,
    pub path: String,
}

#[derive(Debug)]
pub struct Index {
    pub first: u64,
    pub last: u64,
    pub segments: BTreeMap<u64, Segment>,
    runs: VecDeque<Run>,
}

impl Index {
    /// A log that continues with entry `first`.
    pub fn new(first: u64) -> Index {
        Index { first, last: first.saturating_sub(1), segments: BTreeMap::new(), runs: VecDeque::new() }
    }

    /// Entry `index` now lies at `offset` of segment `sequence`; later ones are dead. The caller checked that there is
    /// no gap.
    pub fn push(&mut self, index: u64, sequence: u64, offset: u64) {
        assert!(index <= self.last + 1, "a log has no gaps");
        self.truncate_from(index);
        self.first = self.first.min(index);
        self.last = index;
        match self.runs.back_mut() {
            Some(run) if run.sequence == sequence && !run.closed && offset - run.offset < RUN_BYTES => run.last = index,
            _ => self.runs.push_back(Run { first: index, last: index, sequence, offset, closed: false }),
        }
    }

    /// Everything is dead; the log goes on behind entry `index`.
    pub fn restart_behind(&mut self, index: u64) {
        self.runs.clear();
        self.first = index + 1;
        self.last = index;
    }

    /// Whether segment `sequence` holds an entry that is alive and not below `index`.
    pub fn needs(&self, sequence: u64, index: u64) -> bool {
        self.runs
            .iter()
            .take_while(|run| run.sequence <= sequence)
            .any(|run| run.sequence == sequence && run.last >= index)
    }

    /// Forgets the oldest segment and its entries.
    pub fn release(&mut self, sequence: u64) -> Option<Segment> {
        while self.runs.front().is_some_and(|run| run.sequence <= sequence) {
            self.runs.pop_front();
        }
        self.first = self.runs.front().map_or(self.last + 1, |run| run.first);
        self.segments.remove(&sequence)
    }

    fn truncate_from(&mut self, index: u64) {
        if index > self.last {
            return;
        }
        while self.runs.back().is_some_and(|run| run.first >= index) {
            self.runs.pop_back();
        }
        // Also when it ends just below `index`: the dead ones may follow it in the file.
        if let Some(run) = self.runs.back_mut() {
            run.last = run.last.min(index - 1);
            run.closed = true;
        }
    }

    /// The runs that hold `low..high`, with their segments.
    fn find(&self, low: u64, high: u64) -> Vec<(Run, Segment)> {
        let from = self.runs.partition_point(|run| run.last < low);
        let runs = self.runs.range(from..).take_while(|run| run.first < high);
        runs.map(|run| (run.clone(), self.segments[&run.sequence].clone())).collect()
    }
}

/// Reads entries of the log, from any thread, while the log is being written.
#[derive(Clone, Debug)]
pub struct Reader {
    index: Arc<RwLock<Index>>,
}

impl Reader {
    pub(super) fn new(index: Arc<RwLock<Index>>) -> Reader {
        Reader { index }
    }

    pub fn first_index(&self) -> u64 {
        self.index.read().first
    }

    pub fn last_index(&self) -> u64 {
        self.index.read().last
    }

    /// Entries `low..high`, as many as `max_bytes` of encoded entries allow, but at least one.
    pub fn read(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, Error> {
        let runs = {
            let index = self.index.read();
            if low < index.first {
                return Err(Error::Released { index: low, first: index.first });
            }
            if high > index.last + 1 {
                return Err(Error::Unavailable { index: high - 1, last: index.last });
            }
            if low >= high {
                return Ok(Vec::new());
            }
            index.find(low, high)
        };
        let mut out = Output { low, high, max_bytes, bytes: 0, entries: Vec::new() };
        for (run, segment) in runs {
            match read_run(&run, &segment, &mut out) {
                Ok(true) => {}
                Ok(false) => break,
                // A segment released meanwhile may hold another life by now.
                Err(error) => {
                    let first = self.first_index();
                    sometimes!(low < first, "segment released while it was read");
                    return Err(if low < first { Error::Released { index: low, first } } else { error });
                }
            }
        }
        Ok(out.entries)
    }

    pub fn term(&self, index: u64) -> Result<u64, Error> {
        let entries = self.read(index, index.saturating_add(1), 0)?;
        Ok(entries[0].term())
    }
}

struct Output {
    low: u64,
    high: u64,
    max_bytes: u64,
    bytes: u64,
    entries: Vec<Entry>,
}

/// False when there is enough.
fn read_run(run: &Run, segment: &Segment, out: &mut Output) -> Result<bool, Error> {
    let mut cursor = Cursor::new(segment.file.clone(), &segment.path)?.with_read_ahead(RUN_BYTES);
    let damaged = |offset| Error::corrupt(&segment.path, offset, "a record that was read before no longer verifies");
    let chain = cursor.bytes(run.offset - 4, 4)?.map(|bytes| u32_at(bytes, 0));
    let chain = chain.ok_or_else(|| damaged(run.offset))?;
    let mut at = Position { sequence: run.sequence, offset: run.offset, chain };
    let mut expected = run.first;
    while expected <= run.last {
        let Some(record) = cursor.record(at)? else { return Err(damaged(at.offset)) };
        let next = record.next;
        if record.kind == Kind::Entry {
            let entry = Entry::decode(record.payload).map_err(|_| damaged(at.offset))?;
            if entry.index() != expected {
                return Err(damaged(at.offset));
            }
            if expected >= out.low {
                let bytes = record.payload.len() as u64;
                if !out.entries.is_empty() && out.bytes.saturating_add(bytes) > out.max_bytes {
                    return Ok(false);
                }
                out.bytes += bytes;
                out.entries.push(entry);
            }
            expected += 1;
            if expected >= out.high {
                return Ok(false);
            }
        }
        at = next;
    }
    Ok(true)
}
