//! The bytes of a segment: its header, its records, and the check value that chains them. `docs/wal-format.md` draws
//! them.
//!
//! Pure functions over slices: no file is opened here. Whatever is decoded here came from outside and may be anything.
//!
//! **The chain.** A record ends with its check value, and the check value of a record starts from the one before it,
//! which are the four bytes just in front of the record (a header ends the same way). It also covers the segment's
//! sequence number and the record's offset, which are not stored. So a record verifies only where it was written, in
//! the life of the file in which it was written, after the very records it was written after; and any record can be
//! verified without reading the segment from its beginning.

use lockstep_proto::raftpb::HardState;

pub const MAGIC: [u8; 8] = *b"LSTPWAL\0";
/// 1 had no check values of sectors.
pub const VERSION: u32 = 2;
/// A header lies in one sector, so that it is there whole or not at all.
pub const HEADER_BYTES: u64 = 128;
/// The most one record may hold; a length above it is damage.
pub const MAX_RECORD_BYTES: u64 = 64 << 20;
/// Length, kind and stamp in front of a payload.
pub const PREFIX_BYTES: u64 = 8;
/// Kept free at the end of a segment for the last mark and the hand-over to the next segment.
pub const RESERVE_BYTES: u64 = 2 * MARK_RECORD_BYTES;
pub const MARK_RECORD_BYTES: u64 = 32;
const MARK_BYTES: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A `raftpb.Entry`.
    Entry = 1,
    /// Term, vote, commit.
    HardState = 2,
    /// The boot epoch.
    Epoch = 3,
    /// Index and term of a received snapshot: the log starts anew behind it.
    Snapshot = 4,
    /// "Everything below this offset was durable when this was written", and where the chain stood.
    Mark = 5,
    /// "The next segment has its name, durably": a log that ends here lost a file.
    Next = 6,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        [Kind::Entry, Kind::HardState, Kind::Epoch, Kind::Snapshot, Kind::Mark, Kind::Next]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// Index and term of the last entry a snapshot holds; zeros when there was none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotMark {
    pub index: u64,
    pub term: u64,
}

/// What is true at one place of the log besides its entries. Each segment's header repeats it, so that older ones can
/// go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub epoch: u64,
    pub term: u64,
    pub vote: u64,
    pub commit: u64,
    pub snapshot: SnapshotMark,
}

impl State {
    pub fn hard_state(&self) -> HardState {
        HardState { term: Some(self.term), vote: Some(self.vote), commit: Some(self.commit) }
    }

    pub fn set_hard_state(&mut self, hard_state: &HardState) {
        self.term = hard_state.term();
        self.vote = hard_state.vote();
        self.commit = hard_state.commit();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub sequence: u64,
    pub member_id: u64,
    pub cluster_id: u64,
    /// The index the next new entry had when this segment was begun.
    pub first_index: u64,
    /// Where the segment before ends, and the chain there. All of that was durable before this segment got its name.
    pub previous_end: u64,
    pub previous_chain: u32,
    pub state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    Magic,
    Version(u32),
    Older(u32),
    Check,
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER_BYTES as usize] {
        let mut out = [0; HEADER_BYTES as usize];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&self.previous_chain.to_le_bytes());
        let state = &self.state;
        let words = [
            self.sequence,
            self.member_id,
            self.cluster_id,
            self.first_index,
            self.previous_end,
            state.epoch,
            state.term,
            state.vote,
            state.commit,
            state.snapshot.index,
            state.snapshot.term,
        ];
        for (slot, word) in out[16..].chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        let check = header_check(self.previous_chain, &out);
        out[124..].copy_from_slice(&check.to_le_bytes());
        out
    }

    pub fn decode(bytes: &[u8; HEADER_BYTES as usize]) -> Result<Header, HeaderError> {
        if bytes[..8] != MAGIC {
            return Err(HeaderError::Magic);
        }
        let version = u32_at(bytes, 8);
        if version > VERSION {
            return Err(HeaderError::Version(version));
        }
        if version == VERSION - 1 {
            return Err(HeaderError::Older(version));
        }
        let previous_chain = u32_at(bytes, 12);
        if version != VERSION || header_check(previous_chain, bytes) != u32_at(bytes, 124) {
            return Err(HeaderError::Check);
        }
        let word = |n: usize| u64_at(bytes, 16 + 8 * n);
        Ok(Header {
            sequence: word(0),
            member_id: word(1),
            cluster_id: word(2),
            first_index: word(3),
            previous_end: word(4),
            previous_chain,
            state: State {
                epoch: word(5),
                term: word(6),
                vote: word(7),
                commit: word(8),
                snapshot: SnapshotMark { index: word(9), term: word(10) },
            },
        })
    }
}

/// The bytes a record with this payload takes, check value and padding included.
pub fn record_bytes(payload: u64) -> u64 {
    (PREFIX_BYTES + payload + 4).next_multiple_of(8)
}

/// Where the next record goes and what it is chained to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub sequence: u64,
    pub offset: u64,
    pub chain: u32,
}

/// Appends one record to `out` and moves `at` behind it; `fill` writes exactly `payload` bytes.
pub fn encode_record(
    out: &mut Vec<u8>,
    at: &mut Position,
    kind: Kind,
    payload: usize,
    fill: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    out.extend_from_slice(&(payload as u32).to_le_bytes());
    out.push(kind as u8);
    out.extend_from_slice(&stamp(at.sequence));
    fill(out);
    assert_eq!(out.len() - start, PREFIX_BYTES as usize + payload, "a record's payload is as long as announced");
    let total = record_bytes(payload as u64);
    out.resize(start + total as usize - 4, 0);
    at.chain = record_check(at.chain, at.sequence, at.offset, &out[start..]);
    out.extend_from_slice(&at.chain.to_le_bytes());
    at.offset += total;
}

pub fn encode_words(out: &mut Vec<u8>, at: &mut Position, kind: Kind, words: &[u64]) {
    encode_record(out, at, kind, words.len() * 8, |out| {
        for word in words {
            out.extend_from_slice(&word.to_le_bytes());
        }
    });
}

/// A mark carries the chain it continues, so that it verifies even when the record before it is damaged.
pub fn encode_mark(out: &mut Vec<u8>, at: &mut Position) {
    let synced_to = at.offset;
    let chain = u64::from(at.chain);
    encode_words(out, at, Kind::Mark, &[synced_to, chain]);
}

/// What the eight bytes in front of a payload say, if they can belong to a record of this segment's present life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    pub kind: Kind,
    pub payload: u64,
}

impl Prefix {
    pub fn decode(bytes: &[u8], sequence: u64) -> Option<Prefix> {
        if bytes[5..8] != stamp(sequence) {
            return None;
        }
        let payload = u64::from(u32_at(bytes, 0));
        let kind = Kind::from_byte(bytes[4])?;
        (payload <= MAX_RECORD_BYTES).then_some(Prefix { kind, payload })
    }

    pub fn record_bytes(&self) -> u64 {
        record_bytes(self.payload)
    }
}

/// The chain behind `record` (all of its bytes), if its check value is right after `chain` at this place.
pub fn verify_record(record: &[u8], sequence: u64, offset: u64, chain: u32) -> Option<u32> {
    let (body, check) = record.split_at(record.len() - 4);
    let check = u32_at(check, 0);
    (record_check(chain, sequence, offset, body) == check || mutation!(RottedRecordAccepted)).then_some(check)
}

/// The offset up to which the segment was durable, if `record` is a mark that was written here.
pub fn verify_mark(record: &[u8], sequence: u64, offset: u64) -> Option<u64> {
    let prefix = Prefix::decode(record, sequence)?;
    if prefix.kind != Kind::Mark || prefix.payload != MARK_BYTES as u64 || record.len() as u64 != MARK_RECORD_BYTES {
        return None;
    }
    let chain = u32::try_from(u64_at(record, 16)).ok()?;
    verify_record(record, sequence, offset, chain)?;
    let synced_to = u64_at(record, 8);
    (synced_to == offset).then_some(synced_to)
}

/// The payload as little-endian words, if it has exactly `N` of them.
pub fn words<const N: usize>(payload: &[u8]) -> Option<[u64; N]> {
    (payload.len() == N * 8).then(|| std::array::from_fn(|n| u64_at(payload, 8 * n)))
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Tells a record of this life from one of a file's former lives at a glance, before any check value is worked out.
fn stamp(sequence: u64) -> [u8; 3] {
    let bytes = sequence.to_le_bytes();
    [bytes[0], bytes[1], bytes[2]]
}

fn header_check(chain: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(chain);
    hasher.update(&bytes[..124]);
    hasher.finalize()
}

fn record_check(chain: u32, sequence: u64, offset: u64, body: &[u8]) -> u32 {
    let mut place = [0; 16];
    place[..8].copy_from_slice(&sequence.to_le_bytes());
    place[8..].copy_from_slice(&offset.to_le_bytes());
    let mut hasher = crc32fast::Hasher::new_with_initial(chain);
    hasher.update(&place);
    hasher.update(body);
    hasher.finalize()
}
