//! A view: the store as it was at one moment, for any number of readers on any thread.
//!
//! It owns nothing but references: the shared key index (told apart by revision), the batches that redb did not hold
//! yet, and one redb read transaction. Nothing written or compacted later changes what it answers; when compaction
//! takes from the index what a view would need, the view says so ([`Error::Overtaken`], or [`Error::Compacted`] where
//! the request named the revision) rather than answer wrong.

use std::sync::Arc;

use bytes::Bytes;

use super::backend::{Live, META_CONSISTENT_INDEX, META_TERM, Reader};
use super::index::{Index, KeyRange};
use super::lost::explain;
use super::overlay::{Bucket, BucketChange, BucketEntry, Overlay, Seq};
use super::read::{Error, Overtaken, RangeOptions, RangeResult, Read, Revision};
use super::row::{Row, Rows, decode};

/// Where values are: redb as of one commit, and the batches after it, oldest first.
#[derive(Clone, Debug)]
pub struct Base {
    pub reader: Arc<Reader>,
    pub overlays: Vec<Arc<Overlay>>,
}

/// A position of a reader: what it may see of the base and the index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    pub rev: i64,
    pub compact_rev: i64,
    pub seq: Seq,
    pub applied_index: u64,
    pub consistent_index: u64,
    pub term: u64,
    pub live: Live,
}

/// An immutable view of the store. Cheap to make, cheap to share; it pins pages of redb, so drop it when done.
#[derive(Debug)]
pub struct View {
    base: Arc<Base>,
    index: Arc<Index>,
    stamp: Stamp,
}

impl View {
    pub(super) fn new(base: Arc<Base>, index: Arc<Index>, stamp: Stamp) -> View {
        View { base, index, stamp }
    }

    /// The last entry of the log whose changes this view shows.
    pub fn applied_index(&self) -> u64 {
        self.stamp.applied_index
    }

    /// The consistent index as of this view.
    pub fn consistent_index(&self) -> u64 {
        self.stamp.consistent_index
    }

    /// The term of that index.
    pub fn term(&self) -> u64 {
        self.stamp.term
    }

    /// What the live entries would fill in a freshly written file: entries, their keys, and a page's rounding. For
    /// quotas and `dbSize`.
    pub fn size_bytes(&self) -> u64 {
        self.stamp.live.size_bytes()
    }

    /// The bytes of all live entries, keys included.
    pub fn size_in_use_bytes(&self) -> u64 {
        self.stamp.live.bytes
    }

    /// How many keys exist, by the newest state rather than by this view's.
    pub fn key_count(&self) -> usize {
        self.index.len()
    }

    /// At most `limit` rows from `from` on, in the order of their revisions, as far as this view sees. What a snapshot
    /// copies. Rows that a compaction is still removing may or may not be there; `Compacted` when `from` is positive
    /// and lies below the compaction.
    pub fn rows(&self, from: Revision, limit: usize) -> Result<Vec<Row>, Error> {
        self.rows_within(from, limit, usize::MAX).map(|found| found.rows)
    }

    /// As [`View::rows`], and no further row after so many bytes of values: what a watch catches up with.
    pub fn rows_within(&self, from: Revision, limit: usize, limit_bytes: usize) -> Result<Rows, Error> {
        if from.main > 0 && from.main < self.stamp.compact_rev {
            return Err(Error::Compacted);
        }
        let upto = self.stamp.rev;
        let mut found = Rows::at_most(limit, limit_bytes);
        self.base.reader.rows_from(from, upto, &mut found)?;
        for overlay in &self.base.overlays {
            // A batch that is in redb by now overlaps it; its rows come once.
            let next = found.rows.last().map_or(from, |r| after(r.revision));
            overlay.rows_from(next, upto, &mut found);
        }
        Ok(found)
    }

    /// Where the values of a range are: the revisions of its first `want` keys, in key order, and how many keys it has
    /// in all. `rev` as in [`RangeOptions`].
    pub fn locate(&self, key: &[u8], end: &[u8], rev: i64, want: usize) -> Result<(Vec<Revision>, usize), Error> {
        locate(&self.index, &self.stamp, KeyRange::new(key, end), rev, want)
    }

    /// Shows `f` the stored row of a revision that [`View::locate`] gave, without a copy where that can be had.
    pub fn with_row<T>(&self, revision: Revision, f: impl FnOnce(&[u8]) -> T) -> Result<T, Error> {
        let row = self.base.with_row(revision, f);
        row.map_err(|error| explain(&self.base, &self.index, self.stamp.rev, revision, error))
    }

    pub fn bucket_get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.base.bucket_get(bucket, key, &self.stamp)
    }

    /// All entries of a bucket, in the order of their keys.
    pub fn bucket_scan(&self, bucket: Bucket) -> Result<Vec<BucketEntry>, Error> {
        self.base.bucket_scan(bucket, &self.stamp)
    }

    pub(super) fn base(&self) -> &Base {
        &self.base
    }

    pub(super) fn index(&self) -> &Index {
        &self.index
    }

    pub(super) fn stamp(&self) -> &Stamp {
        &self.stamp
    }
}

impl Read for View {
    fn rev(&self) -> i64 {
        self.stamp.rev
    }

    fn compact_rev(&self) -> i64 {
        self.stamp.compact_rev
    }

    fn range(&self, key: &[u8], end: &[u8], options: RangeOptions) -> Result<RangeResult, Error> {
        self.base.range(&self.index, &self.stamp, KeyRange::new(key, end), options)
    }
}

/// Reads the newest state with `read`, on a fresh view from `view` whenever compaction overtook the one before.
pub fn read_newest<T, E: Overtaken>(
    mut view: impl FnMut() -> Arc<View>,
    mut read: impl FnMut(&Arc<View>) -> Result<T, E>,
) -> Result<T, E> {
    let mut current = view();
    loop {
        match read(&current) {
            Err(error) if error.is_overtaken() => {
                let fresh = view();
                if Arc::ptr_eq(&fresh, &current) || fresh.rev() <= current.rev() {
                    return Err(error);
                }
                current = fresh;
            }
            result => return result,
        }
    }
}

impl Base {
    pub fn range(
        &self,
        index: &Index,
        stamp: &Stamp,
        range: KeyRange<'_>,
        options: RangeOptions,
    ) -> Result<RangeResult, Error> {
        let want = match options {
            RangeOptions { count_only: true, .. } => 0,
            RangeOptions { limit: 0, .. } => usize::MAX,
            RangeOptions { limit, .. } => limit,
        };
        let (revisions, count) = locate(index, stamp, range, options.rev, want)?;
        let mut kvs = Vec::with_capacity(revisions.len());
        for revision in revisions {
            let row = self.row(revision).map_err(|error| explain(self, index, stamp.rev, revision, error))?;
            let mut kv = decode(revision, row)?;
            if options.keys_only {
                kv.value = Bytes::new();
            }
            kvs.push(kv);
        }
        Ok(RangeResult { kvs, count: count as i64, rev: stamp.rev })
    }

    /// The value of a row that the index says exists.
    pub fn row(&self, revision: Revision) -> Result<Bytes, Error> {
        match self.pending_row(revision) {
            Some(value) => Ok(value),
            None => self.reader.row(revision)?.ok_or_else(|| missing(revision)),
        }
    }

    fn with_row<T>(&self, revision: Revision, f: impl FnOnce(&[u8]) -> T) -> Result<T, Error> {
        match self.pending_row(revision) {
            Some(value) => Ok(f(&value)),
            None => self.reader.with_row(revision, f)?.ok_or_else(|| missing(revision)),
        }
    }

    fn pending_row(&self, revision: Revision) -> Option<Bytes> {
        let value = self.overlays.iter().rev().find_map(|overlay| overlay.row(revision))?;
        sometimes!(self.overlays.len() > 1, "value read from memory while the store was committing");
        Some(value)
    }

    pub fn bucket_get(&self, bucket: Bucket, key: &[u8], stamp: &Stamp) -> Result<Option<Vec<u8>>, Error> {
        if let Some(value) = own_meta(bucket, stamp).and_then(|own| own.into_iter().find(|(k, _)| *k == key)) {
            return Ok(Some(value.1.to_vec()));
        }
        for overlay in self.overlays.iter().rev() {
            if let Some(value) = overlay.entry(bucket, key, stamp.seq) {
                return Ok(value.map(Vec::from));
            }
        }
        self.reader.entry(bucket, key)
    }

    pub fn bucket_scan(&self, bucket: Bucket, stamp: &Stamp) -> Result<Vec<BucketEntry>, Error> {
        let mut entries = self.reader.entries(bucket)?;
        for overlay in &self.overlays {
            let changes = overlay.entries(bucket, stamp.seq);
            if !changes.is_empty() {
                entries = merge(entries, changes);
            }
        }
        if let Some(own) = own_meta(bucket, stamp) {
            let own = own.map(|(k, v)| (Bytes::from_static(k), Some(Bytes::copy_from_slice(&v))));
            entries = merge(entries, own.into());
        }
        Ok(entries)
    }
}

/// The revisions of the first `want` keys of a range as of `rev`, and the number of all its keys.
fn locate(
    index: &Index,
    stamp: &Stamp,
    range: KeyRange<'_>,
    rev: i64,
    want: usize,
) -> Result<(Vec<Revision>, usize), Error> {
    let newest = rev <= 0;
    let at = if newest { stamp.rev } else { rev };
    if at > stamp.rev {
        return Err(Error::FutureRev);
    }
    if at < stamp.compact_rev {
        sometimes!("read below the compaction refused");
        return Err(Error::Compacted);
    }
    let overtaken = if newest { Error::Overtaken } else { Error::Compacted };
    index.revisions(range, at, want).map_err(|_| {
        sometimes!("view overtaken by a compaction");
        overtaken
    })
}

fn missing(revision: Revision) -> Error {
    Error::Storage(format!("the row of revision {}.{} is missing", revision.main, revision.sub))
}

/// The revision right after.
pub fn after(revision: Revision) -> Revision {
    Revision { main: revision.main, sub: revision.sub + 1 }
}

/// The consistent index moves with every entry, so it is not an entry of the batch until that is sealed.
fn own_meta(bucket: Bucket, stamp: &Stamp) -> Option<[(&'static [u8], [u8; 8]); 2]> {
    let own = [(META_CONSISTENT_INDEX, stamp.consistent_index.to_be_bytes()), (META_TERM, stamp.term.to_be_bytes())];
    (bucket == Bucket::Meta && stamp.consistent_index > 0).then_some(own)
}

/// Both in key order; `changes` wins, and `None` takes an entry away.
fn merge(entries: Vec<BucketEntry>, changes: Vec<BucketChange>) -> Vec<BucketEntry> {
    let mut merged = Vec::with_capacity(entries.len() + changes.len());
    let mut entries = entries.into_iter().peekable();
    for (key, value) in changes {
        while let Some(entry) = entries.next_if(|(k, _)| **k < *key) {
            merged.push(entry);
        }
        entries.next_if(|(k, _)| **k == *key);
        if let Some(value) = value {
            merged.push((key.to_vec(), value.to_vec()));
        }
    }
    merged.extend(entries);
    merged
}
