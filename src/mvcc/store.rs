//! The store: the single writer's half. It gives out views, takes changes, and closes them into batches for the
//! backend.
//!
//! Everything here is synchronous and owned by the apply machine. A change is in memory at once, visible to readers
//! after the next [`Store::publish`], and durable after [`Store::seal`], `Backend::commit` and [`Store::committed`];
//! until then the write-ahead log is its durability. A batch carries the consistent index of the last entry in it, so
//! seal between entries, never within one. At most one batch is in flight.

use std::sync::Arc;

use bytes::Bytes;
use lockstep_proto::mvccpb::KeyValue;

use super::backend::{
    Backend, Batch, Committed, Live, META_CONSISTENT_INDEX, META_FINISHED_COMPACT, META_SCHEDULED_COMPACT, META_TERM,
    OpenError, Reader, guard_damage,
};
use super::compact::Compaction;
use super::defrag::Reopened;
use super::index::Index;
use super::key_index::Mark;
use super::overlay::{Bucket, BucketEntry, Overlay, Seq};
use super::read::{Error, Revision};
use super::row::{ROW_KEY_LEN, Row, encode, header, parse_row_key};
use super::txn::WriteTxn;
use super::view::{Base, Stamp, View};
use crate::ports::disk::Disk;

#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What redb may keep of the file in memory.
    pub cache_bytes: usize,
    /// What a step of a defragmentation copies at most.
    pub copy_step_bytes: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { cache_bytes: 64 << 20, copy_step_bytes: 64 << 10 }
    }
}

/// The store, as its single writer sees it.
#[derive(Debug)]
pub struct Store {
    pub(super) index: Arc<Index>,
    base: Arc<Base>,
    pending: Pending,
    committing: Option<Committing>,
    /// What the backend last said redb holds.
    live: Live,
    /// What the next view will show, but for the applied index.
    stamp: Stamp,
    durable_index: u64,
    /// The last change that redb has.
    durable_seq: Seq,
    view: Arc<View>,
    pub(super) compaction: Compaction,
    attachments: Vec<(Bytes, i64)>,
}

/// The batch that still takes changes.
#[derive(Debug, Default)]
struct Pending {
    overlay: Arc<Overlay>,
    deletes: Vec<Revision>,
    ops: usize,
    added: Live,
}

#[derive(Debug)]
struct Committing {
    batch: Arc<Batch>,
    added: Live,
}

impl Store {
    /// Opens the store, creating it when it is missing and repairing it after a crash. Restores the key index by
    /// reading every row once, and takes up a compaction that was scheduled but not finished.
    pub fn open(disk: Arc<dyn Disk>, path: &str, options: Options) -> Result<(Store, Backend), OpenError> {
        guard_damage(path, || {
            let mut backend = Backend::open(&disk, path, options)?;
            let restored = Restored::read(&backend);
            if restored.is_err() {
                // What is damaged stays as it is, for whoever inspects it.
                backend.poison();
            }
            let restored = restored?;
            backend.set_live(restored.live);
            Ok((Store::from_restored(restored), backend))
        })
    }

    fn from_restored(restored: Restored) -> Store {
        let Restored { reader, index, attachments, live, rev, finished, scheduled, consistent_index, term } = restored;
        let index = Arc::new(index);
        let base = Arc::new(Base { reader: Arc::new(reader), overlays: vec![Arc::default()] });
        let compact_rev = finished.max(scheduled);
        let applied_index = consistent_index;
        let stamp = Stamp { rev, compact_rev, seq: 0, applied_index, consistent_index, term, live };
        Store {
            view: Arc::new(View::new(base.clone(), index.clone(), stamp)),
            pending: Pending { overlay: base.overlays[0].clone(), ..Pending::default() },
            committing: None,
            live,
            stamp,
            durable_index: consistent_index,
            durable_seq: 0,
            compaction: Compaction::resume(finished, scheduled),
            index,
            base,
            attachments,
        }
    }

    /// The last published view.
    pub fn view(&self) -> Arc<View> {
        self.view.clone()
    }

    /// Makes everything up to now visible to views taken from here on. Cheap: nothing is copied.
    pub fn publish(&mut self, applied_index: u64) -> Arc<View> {
        self.stamp.applied_index = applied_index;
        self.show(self.stamp);
        self.view.clone()
    }

    /// Begins a write transaction. Its changes share one revision, and take effect as they are made; there is no way
    /// back.
    pub fn write(&mut self) -> WriteTxn<'_> {
        WriteTxn::new(self)
    }

    pub fn revision(&self) -> i64 {
        self.stamp.rev
    }

    /// The revision up to which history is compacted, finished or not; -1 when it never was.
    pub fn compact_revision(&self) -> i64 {
        self.stamp.compact_rev
    }

    /// As [`View::size_bytes`], now.
    pub fn size_bytes(&self) -> u64 {
        self.stamp.live.size_bytes()
    }

    /// Keys in the index, deleted but not yet compacted ones included.
    pub fn keys(&self) -> usize {
        self.index.len()
    }

    /// The keys that had a lease when the store was opened, in key order, and that lease. Empty at the second call.
    pub fn take_attachments(&mut self) -> Vec<(Bytes, i64)> {
        std::mem::take(&mut self.attachments)
    }

    pub fn bucket_put(&mut self, bucket: Bucket, key: &[u8], value: &[u8]) {
        self.set(bucket, key, Some(Bytes::copy_from_slice(value)));
    }

    pub fn bucket_delete(&mut self, bucket: Bucket, key: &[u8]) {
        self.set(bucket, key, None);
    }

    pub fn bucket_get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.base.bucket_get(bucket, key, &self.stamp)
    }

    /// All entries of a bucket, in the order of their keys.
    pub fn bucket_scan(&self, bucket: Bucket) -> Result<Vec<BucketEntry>, Error> {
        self.base.bucket_scan(bucket, &self.stamp)
    }

    /// The index of the last entry whose changes the store has.
    pub fn consistent_index(&self) -> u64 {
        self.stamp.consistent_index
    }

    /// Goes into the same batch as the changes of that entry.
    pub fn set_consistent_index(&mut self, index: u64, term: u64) {
        debug_assert!(index >= self.stamp.consistent_index, "entries are applied in order");
        self.stamp.consistent_index = index;
        self.stamp.term = term;
    }

    /// The consistent index of the last batch that is durable: the log is needed from the entry after it.
    pub fn durable_index(&self) -> u64 {
        self.durable_index
    }

    /// Changes in the batch that is not sealed yet.
    pub fn pending_ops(&self) -> usize {
        self.pending.ops
    }

    pub fn is_committing(&self) -> bool {
        self.committing.is_some()
    }

    /// Closes the pending batch: hand it to `Backend::commit`. `None` while one is in flight, or when there is nothing
    /// to make durable.
    pub fn seal(&mut self) -> Option<Arc<Batch>> {
        let moved = self.stamp.consistent_index > self.durable_index;
        if self.committing.is_some() || (self.pending.ops == 0 && !moved) {
            return None;
        }
        let sealed = std::mem::take(&mut self.pending);
        let batch = Arc::new(Batch {
            overlay: sealed.overlay,
            deletes: sealed.deletes,
            consistent_index: self.stamp.consistent_index,
            term: self.stamp.term,
            seq: self.stamp.seq,
        });
        self.committing = Some(Committing { batch: batch.clone(), added: sealed.added });
        self.rebase(self.base.reader.clone());
        Some(batch)
    }

    /// The batch is durable: what redb holds now is read from redb, and its overlay goes as soon as no view needs it.
    pub fn committed(&mut self, done: Committed) {
        let committing = self.committing.take().expect("a batch is committed only after it was sealed");
        assert_eq!(committing.batch.seq, done.seq, "the batch in flight is the one committed");
        self.durable_index = done.consistent_index;
        self.durable_seq = done.seq;
        self.live = done.live;
        self.rebase(done.reader);
        self.measure();
        self.show_durable();
    }

    /// The store was defragmented: what redb holds is read from its new file from now on, and the old one goes as
    /// soon as no view needs it.
    pub fn reopened(&mut self, done: Reopened) {
        self.rebase(done.reader);
        self.show_durable();
    }

    /// The last view need not pin an older transaction, unless redb now holds what that view may not see.
    fn show_durable(&mut self) {
        let shown = *self.view.stamp();
        sometimes!(shown.seq < self.durable_seq, "view kept the older transaction of the store");
        if shown.seq >= self.durable_seq {
            self.show(shown);
        }
    }

    pub(super) fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    pub(super) fn base(&self) -> &Base {
        &self.base
    }

    /// Ends a transaction that changed something.
    pub(super) fn advance(&mut self) {
        self.stamp.rev += 1;
        self.measure();
    }

    pub(super) fn set_compact_revision(&mut self, rev: i64) {
        self.stamp.compact_rev = rev;
    }

    pub(super) fn push_row(&mut self, revision: Revision, kv: &KeyValue) {
        let value = encode(kv);
        self.pending.added.add(ROW_KEY_LEN, value.len());
        self.stamp.seq += 1;
        self.pending.ops += 1;
        self.pending.overlay.push_row(Row { revision, value });
    }

    pub(super) fn drop_rows(&mut self, revisions: &[Revision]) {
        self.stamp.seq += 1;
        self.pending.ops += revisions.len();
        self.pending.deletes.extend_from_slice(revisions);
    }

    fn set(&mut self, bucket: Bucket, key: &[u8], value: Option<Bytes>) {
        self.stamp.seq += 1;
        self.pending.ops += 1;
        self.pending.overlay.set(bucket, key, value, self.stamp.seq, self.view.stamp().seq);
    }

    fn show(&mut self, stamp: Stamp) {
        self.view = Arc::new(View::new(self.base.clone(), self.index.clone(), stamp));
    }

    fn rebase(&mut self, reader: Arc<Reader>) {
        let committing = self.committing.iter().map(|c| c.batch.overlay.clone());
        let overlays = committing.chain([self.pending.overlay.clone()]).collect();
        self.base = Arc::new(Base { reader, overlays });
    }

    fn measure(&mut self) {
        let mut live = self.live;
        for added in self.committing.iter().map(|c| c.added).chain([self.pending.added]) {
            live.entries += added.entries;
            live.bytes += added.bytes;
        }
        self.stamp.live = live;
    }
}

/// What one pass over the file finds.
struct Restored {
    reader: Reader,
    index: Index,
    attachments: Vec<(Bytes, i64)>,
    live: Live,
    rev: i64,
    finished: i64,
    scheduled: i64,
    consistent_index: u64,
    term: u64,
}

impl Restored {
    fn read(backend: &Backend) -> Result<Restored, OpenError> {
        let damaged = |detail: String| OpenError::Damaged { path: backend.path().to_string(), detail };
        let reader = backend.reader().map_err(|e| damaged(e.to_string()))?;
        let text = |e: Error| damaged(e.to_string());

        let mut live = Live::default();
        let index = Index::default();
        let mut leased: std::collections::BTreeMap<Box<[u8]>, i64> = std::collections::BTreeMap::new();
        let mut rev = 1;
        let all = (Revision::default(), i64::MAX);
        let scanned = reader.for_each_row(all.0, all.1, |revision, value| {
            let found = header(value).filter(|h| h.tombstone || h.mod_revision == revision.main);
            let Some(found) = found else {
                let Revision { main, sub } = revision;
                return Err(Error::Storage(format!(
                    "the row of revision {main}.{sub} is not a KeyValue of that revision"
                )));
            };
            live.add(ROW_KEY_LEN, value.len());
            index.restore(found.key, Mark::new(revision, found.tombstone), found.create_revision, found.version);
            match found.lease {
                0 if leased.is_empty() => {}
                0 => drop(leased.remove(found.key)),
                lease => drop(leased.insert(found.key.into(), lease)),
            }
            rev = revision.main;
            Ok(true)
        });
        scanned.map_err(text)?;

        for bucket in Bucket::ALL {
            for (key, value) in reader.entries(bucket).map_err(text)? {
                live.add(key.len(), value.len());
            }
        }
        let meta = |key: &[u8]| reader.entry(Bucket::Meta, key).map_err(text);
        let number = |key: &[u8]| -> Result<u64, OpenError> {
            let Some(value) = meta(key)? else { return Ok(0) };
            let bytes = value.try_into().map_err(|_| damaged(format!("{} is no number", key.escape_ascii())))?;
            Ok(u64::from_be_bytes(bytes))
        };
        let revision = |key: &[u8]| -> Result<i64, OpenError> {
            let Some(value) = meta(key)? else { return Ok(-1) };
            let parsed = parse_row_key(&value);
            Ok(parsed.ok_or_else(|| damaged(format!("{} is no revision", key.escape_ascii())))?.main)
        };
        let (finished, scheduled) = (revision(META_FINISHED_COMPACT)?, revision(META_SCHEDULED_COMPACT)?);
        let (mut consistent_index, term) = (number(META_CONSISTENT_INDEX)?, number(META_TERM)?);
        if mutation!(AppliedAgainAfterRestart) && consistent_index > 1 {
            consistent_index -= 1;
        }
        // Compaction may have taken every row there was; the revision never goes back below it.
        let rev = if mutation!(RevisionOfRowsAlone) { rev } else { rev.max(finished).max(scheduled) };
        let attachments = leased.into_iter().map(|(key, lease)| (Bytes::from(key), lease)).collect();
        Ok(Restored { reader, index, attachments, live, rev, finished, scheduled, consistent_index, term })
    }
}
