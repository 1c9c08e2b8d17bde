//! A row of the table `key`: one revision of one key, byte for byte as etcd stores it.
//!
//! The row's key is etcd's 17 bytes (main, `_`, sub); its value is a marshalled `KeyValue`. etcd marks a tombstone with
//! an eighteenth byte of the row's key; here a tombstone is the value that holds nothing but the key, so that row keys
//! have one width. Values are read in place: nothing in here copies a value.

use bytes::Bytes;
use lockstep_proto::mvccpb::KeyValue;
use prost::Message;

use super::read::{Error, Revision};

pub const ROW_KEY_LEN: usize = 17;

/// The key of a row: big-endian main, `_`, big-endian sub.
pub type RowKey = [u8; ROW_KEY_LEN];

/// One revision of one key, as the store holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub revision: Revision,
    /// The marshalled `KeyValue`.
    pub value: Bytes,
}

/// Rows in order, up to a limit.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    pub rows: Vec<Row>,
    /// The limit was reached: there may be more rows.
    pub more: bool,
    left: usize,
    left_bytes: usize,
}

impl Rows {
    pub(super) fn at_most(limit: usize, limit_bytes: usize) -> Rows {
        Rows { rows: Vec::new(), more: limit == 0, left: limit, left_bytes: limit_bytes }
    }

    /// Takes a row; whether there is room for another one.
    pub(super) fn push(&mut self, row: Row) -> bool {
        if self.more {
            return false;
        }
        self.left -= 1;
        self.left_bytes = self.left_bytes.saturating_sub(row.value.len());
        self.rows.push(row);
        self.more = self.left == 0 || self.left_bytes == 0;
        !self.more
    }
}

/// What a row says besides the value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header<'a> {
    pub key: &'a [u8],
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
    pub lease: i64,
    /// The row records a deletion.
    pub tombstone: bool,
}

impl Row {
    /// The `KeyValue` of the row; for a tombstone its key and, as etcd reports deletions, the revision it went at.
    pub fn decode(&self) -> Result<KeyValue, Error> {
        let mut kv = decode(self.revision, self.value.clone())?;
        kv.mod_revision = self.revision.main;
        Ok(kv)
    }

    pub fn is_tombstone(&self) -> bool {
        is_tombstone(&self.value)
    }
}

pub fn row_key(revision: Revision) -> RowKey {
    let mut key = [b'_'; ROW_KEY_LEN];
    key[..8].copy_from_slice(&revision.main.to_be_bytes());
    key[9..].copy_from_slice(&revision.sub.to_be_bytes());
    key
}

/// The revision of a row's key, or `None` when these bytes are not one.
pub fn parse_row_key(key: &[u8]) -> Option<Revision> {
    let key: &RowKey = key.try_into().ok()?;
    let main = i64::from_be_bytes(key[..8].try_into().ok()?);
    let sub = i64::from_be_bytes(key[9..].try_into().ok()?);
    (key[8] == b'_' && main >= 0 && (0..=i64::from(u32::MAX)).contains(&sub)).then_some(Revision { main, sub })
}

pub fn encode(kv: &KeyValue) -> Bytes {
    kv.encode_to_vec().into()
}

pub fn decode(revision: Revision, value: Bytes) -> Result<KeyValue, Error> {
    KeyValue::decode(value)
        .map_err(|e| Error::Storage(format!("the row of revision {}.{} is damaged: {e}", revision.main, revision.sub)))
}

/// Whether a stored value is a tombstone: it ends where its key ends.
pub fn is_tombstone(value: &[u8]) -> bool {
    let Some((&0x0a, mut rest)) = value.split_first() else {
        return value.is_empty();
    };
    varint(&mut rest).is_some_and(|len| rest.len() as u64 == len)
}

/// Reads a stored value without its value bytes; `None` when it is not a `KeyValue`.
pub fn header(value: &[u8]) -> Option<Header<'_>> {
    let mut header = Header { tombstone: is_tombstone(value), ..Header::default() };
    let mut rest = value;
    while let Some((&tag, after)) = rest.split_first() {
        rest = after;
        let number = varint(&mut rest)?;
        match tag {
            0x0a => header.key = take(&mut rest, number)?,
            0x10 => header.create_revision = number as i64,
            0x18 => header.mod_revision = number as i64,
            0x20 => header.version = number as i64,
            0x2a => drop(take(&mut rest, number)?),
            0x30 => header.lease = number as i64,
            _ => return None,
        }
    }
    Some(header)
}

fn take<'a>(rest: &mut &'a [u8], len: u64) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(usize::try_from(len).ok()?)?;
    *rest = after;
    Some(taken)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}
