//! Opening a log: what is valid, what was torn by a crash, and what has rotted since.
//!
//! The module's head says why these rules are the right ones. Damage is judged here and nowhere else.

use std::sync::Arc;

use lockstep_proto::raftpb::{Entry, HardState};
use parking_lot::RwLock;
use prost::Message;

use super::cursor::Cursor;
use super::error::Error;
use super::format::{
    HEADER_BYTES, Header, Kind, MARK_RECORD_BYTES, PREFIX_BYTES, Position, Prefix, SnapshotMark, State, verify_mark,
    words,
};
use super::index::{Index, Segment};
use super::sectors::{Sectors, whole_sectors};
use super::segment::{Builder, Listing, SPARES, join, segment_name};
use super::writer::{Metadata, Options, Wal, first_position};
use crate::ports::disk::{Disk, Open};

const COPY_BYTES: u64 = 256 << 10;
const SCAN_BYTES: u64 = 16 << 10;
static ZEROS: [u8; SCAN_BYTES as usize] = [0; SCAN_BYTES as usize];

/// What a log holds when it is opened.
#[derive(Debug)]
pub struct Recovered {
    pub metadata: Metadata,
    pub hard_state: HardState,
    /// The last boot epoch recorded; zero when there was none.
    pub epoch: u64,
    /// The snapshot the log goes on from; zeros when there is none.
    pub snapshot: SnapshotMark,
    /// The oldest entry in the files.
    pub first_index: u64,
    pub last_index: u64,
    /// Those from `keep_from` on.
    pub entries: Vec<Entry>,
    /// (first index, term) of each run of entries of one term, over all entries in the files.
    pub term_runs: Vec<(u64, u64)>,
    /// What was cut off a torn tail, for the log.
    pub repaired: Option<String>,
}

impl Wal {
    /// Opens the log in `dir`, checks every byte that counts, cuts off what a crash tore, and leaves everything it
    /// reports durable. Entries below `keep_from` are checked but not kept in memory.
    pub fn open(disk: Arc<dyn Disk>, dir: &str, options: Options, keep_from: u64) -> Result<(Wal, Recovered), Error> {
        let listing = Listing::of(&*disk, dir)?;
        let segments = open_segments(&*disk, dir, &listing)?;
        let (_, oldest) = segments.first().expect("there is one");
        let metadata = Metadata { member_id: oldest.member_id, cluster_id: oldest.cluster_id };
        let mut replay = Replay {
            keep_from,
            state: oldest.state,
            index: Index::new(oldest.first_index),
            entries: Vec::new(),
            term_runs: Vec::new(),
        };

        for (position, (segment, header)) in segments.iter().enumerate() {
            replay.index.segments.insert(header.sequence, segment.clone());
            let Some((_, next)) = segments.get(position + 1) else { break };
            check_middle(&mut replay, segment, header, next)?;
        }
        let (last, header) = segments.last().expect("there is one");
        let tail = check_last(&mut replay, last, header, dir)?;

        let builder = Builder { disk: &*disk, dir, bytes: options.segment_bytes, sync: options.sync };
        let repaired = settle(&builder, last, &tail)?;
        let spares = tidy(&disk, dir, listing)?;
        if options.sync {
            builder.sync_dir()?;
        }
        let recovered = Recovered {
            metadata,
            hard_state: replay.state.hard_state(),
            epoch: replay.state.epoch,
            snapshot: replay.state.snapshot,
            first_index: replay.index.first,
            last_index: replay.index.last,
            entries: replay.entries,
            term_runs: replay.term_runs,
            repaired,
        };
        let mut wal = Wal {
            dir: dir.to_owned(),
            options,
            metadata,
            state: replay.state,
            index: Arc::new(RwLock::new(replay.index)),
            file: last.file.clone(),
            path: last.path.clone(),
            size: tail.len,
            at: tail.end,
            synced: tail.end.offset,
            clean: tail.end.offset,
            spares,
            preparation: Arc::default(),
            buffer: Vec::new(),
            written: 0,
            failed: None,
            disk,
        };
        if options.sync && tail.end.offset > tail.synced_to + MARK_RECORD_BYTES {
            wal.mark()?;
        }
        Ok((wal, recovered))
    }
}

/// Opens every segment and checks that together they are one unbroken log of one member.
fn open_segments(disk: &dyn Disk, dir: &str, listing: &Listing) -> Result<Vec<(Segment, Header)>, Error> {
    if let Some(name) = &listing.foreign {
        let what = "it belongs to etcd's own log, which `lockstepctl import --from-etcd` takes over".to_owned();
        return Err(Error::NotOurs { file: join(dir, name), what });
    }
    if listing.sequences.is_empty() {
        return Err(Error::NotFound { dir: dir.to_owned() });
    }
    let mut segments: Vec<(Segment, Header)> = Vec::new();
    for sequence in &listing.sequences {
        if let Some((_, before)) = segments.last()
            && before.sequence + 1 != *sequence
        {
            let file = join(dir, &segment_name(before.sequence + 1));
            return Err(Error::MissingSegment { file, why: "the ones before and behind it are there".into() });
        }
        let path = join(dir, &segment_name(*sequence));
        let file = disk.open(&path, Open::Existing).map_err(Error::io("open", &path))?;
        let file = Sectors::new(file);
        let header = Cursor::new(file.clone(), &path)?.with_read_ahead(0).header()?;
        if header.sequence != *sequence || header.sequence == u64::MAX || header.first_index == 0 {
            return Err(Error::corrupt(&path, 0, format!("its header says segment {:016x}", header.sequence)));
        }
        if let Some((_, before)) = segments.last()
            && (before.member_id, before.cluster_id) != (header.member_id, header.cluster_id)
        {
            let what = format!(
                "it was written by member {:x} of cluster {:x}, the one before it by member {:x} of cluster {:x}",
                header.member_id, header.cluster_id, before.member_id, before.cluster_id
            );
            return Err(Error::NotOurs { file: path, what });
        }
        segments.push((Segment { file, path }, header));
    }
    Ok(segments)
}

/// A segment that has a successor was durable up to the end the successor names.
fn check_middle(replay: &mut Replay, segment: &Segment, header: &Header, next: &Header) -> Result<(), Error> {
    let mut cursor = Cursor::new(segment.file.clone(), &segment.path)?;
    let mut at = first_position(header);
    while at.offset < next.previous_end {
        let Some(record) = cursor.record(at)? else {
            sometimes!("rot refused in a finished segment");
            return Err(Error::corrupt(
                &segment.path,
                at.offset,
                "a record's check value is wrong, and a segment follows this one",
            ));
        };
        let behind = record.next;
        replay.apply(&segment.path, at, record.kind, record.payload)?;
        at = behind;
    }
    if at.offset != next.previous_end || at.chain != next.previous_chain {
        return Err(Error::corrupt(&segment.path, at.offset, "it is not the segment that the next one continues"));
    }
    if replay.state != next.state || replay.index.last + 1 != next.first_index {
        return Err(Error::corrupt(
            &segment.path,
            at.offset,
            "the next segment's header says otherwise about the state at its end",
        ));
    }
    Ok(())
}

/// Where the log ends, and what lies behind.
struct Tail {
    end: Position,
    len: u64,
    /// The last offset some mark vouches for.
    synced_to: u64,
    leftovers: Leftovers,
}

/// What an interrupted write left behind the end.
#[derive(Default)]
struct Leftovers {
    /// Behind the last byte that may belong to a record of this life; zero when there is none.
    end: u64,
    /// Whether there is more than a mark, which nobody misses.
    records: bool,
}

fn check_last(replay: &mut Replay, segment: &Segment, header: &Header, dir: &str) -> Result<Tail, Error> {
    let mut cursor = Cursor::new(segment.file.clone(), &segment.path)?;
    let mut at = first_position(header);
    let mut synced_to = HEADER_BYTES;
    while let Some(record) = cursor.record(at)? {
        let (behind, kind) = (record.next, record.kind);
        replay.apply(&segment.path, at, kind, record.payload)?;
        if kind == Kind::Mark {
            synced_to = at.offset;
        }
        if kind == Kind::Next {
            let file = join(dir, &segment_name(header.sequence + 1));
            return Err(Error::MissingSegment { file, why: format!("{} says that it was there", segment.path) });
        }
        at = behind;
    }
    if let Some(sector) = cursor.rotten(at)?.filter(|_| !mutation!(RotCutOff)) {
        let what = format!("the sector at offset {sector} is not as it ever was written");
        return Err(Error::corrupt(&segment.path, at.offset, what));
    }
    let leftovers = scan_behind(&mut cursor, &segment.path, at)?;
    Ok(Tail { end: at, len: cursor.len(), synced_to, leftovers })
}

/// Looks through everything behind the last valid record: for a mark, which proves that more was durable than verifies,
/// and for what else an interrupted write may have left.
fn scan_behind(cursor: &mut Cursor, path: &str, end: Position) -> Result<Leftovers, Error> {
    let mut leftovers = Leftovers::default();
    let mut offset = end.offset;
    while offset + PREFIX_BYTES <= cursor.len() {
        let count = SCAN_BYTES.min((cursor.len() - offset) / PREFIX_BYTES * PREFIX_BYTES);
        let chunk = cursor.bytes(offset, count)?.unwrap_or_default();
        // Most segments are zeros from here on, and this is the quick way to see it.
        let found: Vec<(u64, Prefix)> = if chunk == &ZEROS[..chunk.len()] {
            Vec::new()
        } else {
            let prefixes = chunk.chunks_exact(PREFIX_BYTES as usize).zip((offset..).step_by(PREFIX_BYTES as usize));
            prefixes.filter_map(|(bytes, at)| Some((at, Prefix::decode(bytes, end.sequence)?))).collect()
        };
        for (at, prefix) in found {
            let record = if prefix.kind == Kind::Mark { cursor.bytes(at, MARK_RECORD_BYTES)? } else { None };
            let synced_to = record.and_then(|record| verify_mark(record, end.sequence, at));
            if let Some(synced_to) = synced_to.filter(|upto| *upto > end.offset && !mutation!(RotCutOff)) {
                sometimes!("rot refused in front of a mark");
                let what = format!(
                    "a record's check value is wrong, and everything below offset {synced_to} was made durable"
                );
                return Err(Error::corrupt(path, end.offset, what));
            }
            leftovers.end = cursor.len().min(at + prefix.record_bytes()).max(leftovers.end);
            leftovers.records |= prefix.kind != Kind::Mark;
        }
        offset += count;
    }
    Ok(leftovers)
}

/// Wipes what is cut off, so that it can never be taken for a record again, and makes what is kept durable.
fn settle(builder: &Builder<'_>, segment: &Segment, tail: &Tail) -> Result<Option<String>, Error> {
    let (end, leftovers) = (tail.end.offset, &tail.leftovers);
    let torn = leftovers.end > end;
    if leftovers.records && mutation!(TornTailRefused) {
        return Err(Error::corrupt(&segment.path, end, "a record's check value is wrong"));
    }
    sometimes!(leftovers.records, "torn tail repaired");
    sometimes!(torn && !leftovers.records, "torn mark wiped");
    if torn {
        let mut wiped = leftovers.end;
        fill(&segment.file, &segment.path, end, wiped, |_, _| Ok(()))?;
        // That went on to the end of a sector. What lies across it, and has lost its first half, may look like the
        // beginning of a record only now.
        loop {
            let mut cursor = Cursor::new(segment.file.clone(), &segment.path)?;
            let again = scan_behind(&mut cursor, &segment.path, tail.end)?;
            if again.end <= wiped {
                break;
            }
            fill(&segment.file, &segment.path, end, again.end, |_, _| Ok(()))?;
            wiped = again.end;
        }
    }
    // What no mark vouches for may be in the page cache only, and after an fsync error of a former process it may even
    // count as clean there. Written again, it is dirty again.
    if builder.sync && (end > tail.synced_to || torn) {
        sometimes!(end > tail.synced_to + MARK_RECORD_BYTES, "tail without a mark made durable again");
        let file = &segment.file;
        fill(file, &segment.path, tail.synced_to, end, |offset, out| {
            file.read_at(offset, out).map_err(Error::io("read", &segment.path))
        })?;
        builder.sync_file(file, &segment.path)?;
    }
    Ok(leftovers.records.then(|| {
        let cut = leftovers.end - end;
        format!("{}: cut off {cut} bytes at offset {end} that a crash left unfinished", segment.path)
    }))
}

/// Overwrites `from..to` in pieces with what `source` puts into the zeros it is given.
fn fill(
    file: &Sectors,
    path: &str,
    from: u64,
    to: u64,
    source: impl Fn(u64, &mut [u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut buffer = Vec::new();
    let mut offset = from;
    while offset < to {
        buffer.clear();
        // A write ends its last sector: only the last piece may end in the middle of one.
        let end = to.min(whole_sectors(offset + COPY_BYTES));
        buffer.resize((end - offset) as usize, 0);
        source(offset, &mut buffer)?;
        file.write_at(offset, &buffer).map_err(Error::io("write", path))?;
        offset += buffer.len() as u64;
    }
    Ok(())
}

/// Removes what an interrupted life left; returns the spare files that are kept.
fn tidy(disk: &Arc<dyn Disk>, dir: &str, listing: Listing) -> Result<Vec<String>, Error> {
    let mut spares = listing.spares;
    let surplus = spares.split_off(spares.len().min(SPARES));
    sometimes!(!listing.leftovers.is_empty(), "half-made segment removed at boot");
    sometimes!(!spares.is_empty(), "spare segment found at boot");
    for name in listing.leftovers.iter().chain(&surplus) {
        let path = join(dir, name);
        disk.remove(&path).map_err(Error::io("remove", &path))?;
    }
    Ok(spares)
}

/// The state of the log while its records are gone through.
struct Replay {
    keep_from: u64,
    state: State,
    index: Index,
    entries: Vec<Entry>,
    term_runs: Vec<(u64, u64)>,
}

impl Replay {
    /// A record that verifies but makes no sense is damage, too.
    fn apply(&mut self, path: &str, at: Position, kind: Kind, payload: &[u8]) -> Result<(), Error> {
        let nonsense = |what: String| Error::corrupt(path, at.offset, what);
        let length = || nonsense(format!("a {kind:?} record has {} bytes", payload.len()));
        match kind {
            Kind::Entry => {
                let entry =
                    Entry::decode(payload).map_err(|error| nonsense(format!("an entry cannot be decoded: {error}")))?;
                let last = self.index.last;
                if entry.index() == 0 || entry.index() > last.saturating_add(1) || entry.index() == u64::MAX {
                    return Err(nonsense(format!("entry {} follows entry {last}", entry.index())));
                }
                self.push(at, entry);
            }
            Kind::HardState => {
                let [term, vote, commit] = words(payload).ok_or_else(length)?;
                self.state = State { term, vote, commit, ..self.state };
            }
            Kind::Epoch => [self.state.epoch] = words(payload).ok_or_else(length)?,
            Kind::Snapshot => {
                let [index, term] = words(payload).ok_or_else(length)?;
                if index == u64::MAX {
                    return Err(nonsense("a snapshot's index is out of range".into()));
                }
                self.state.snapshot = SnapshotMark { index, term };
                self.index.restart_behind(index);
                self.entries.clear();
                self.term_runs.clear();
            }
            Kind::Mark | Kind::Next => {}
        }
        Ok(())
    }

    fn push(&mut self, at: Position, entry: Entry) {
        let index = entry.index();
        sometimes!(index <= self.index.last, "recovery dropped a conflicting suffix");
        self.index.push(index, at.sequence, at.offset);
        while self.term_runs.last().is_some_and(|run| run.0 >= index) {
            self.term_runs.pop();
        }
        if self.term_runs.last().is_none_or(|run| run.1 != entry.term()) {
            self.term_runs.push((index, entry.term()));
        }
        let kept = self.entries.partition_point(|kept| kept.index() < index);
        self.entries.truncate(kept);
        if index >= self.keep_from {
            self.entries.push(entry);
        }
    }
}
