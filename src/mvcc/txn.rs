//! A write transaction: changes that share one main revision, numbered within it, seen at once by itself.
//!
//! It writes straight into the shared index and the pending batch under a revision no view has yet; there is nothing to
//! roll back, because what reaches the store is committed already. Ending it (or dropping it) moves the store's
//! revision by one if and only if something changed.

use bytes::Bytes;
use lockstep_proto::mvccpb::KeyValue;

use super::index::KeyRange;
use super::read::{Error, RangeOptions, RangeResult, Read, Revision, Write};
use super::store::Store;

#[derive(Debug)]
pub struct WriteTxn<'a> {
    store: &'a mut Store,
    /// The revision all changes get.
    main: i64,
    changes: Vec<KeyValue>,
}

impl<'a> WriteTxn<'a> {
    pub(super) fn new(store: &'a mut Store) -> WriteTxn<'a> {
        let main = store.revision() + 1;
        WriteTxn { store, main, changes: Vec::new() }
    }

    /// What changed so far, in order. A deletion is a `KeyValue` of the key and the revision alone (`version` is 0).
    pub fn changes(&self) -> &[KeyValue] {
        &self.changes
    }

    /// Ends the transaction and returns its changes, as [`WriteTxn::changes`] does.
    pub fn end(mut self) -> Vec<KeyValue> {
        let changes = std::mem::take(&mut self.changes);
        if !changes.is_empty() {
            self.store.advance();
        }
        changes
    }

    fn next(&self) -> Revision {
        Revision { main: self.main, sub: self.changes.len() as i64 }
    }
}

impl Drop for WriteTxn<'_> {
    fn drop(&mut self) {
        if !self.changes.is_empty() {
            self.store.advance();
        }
    }
}

impl Read for WriteTxn<'_> {
    fn rev(&self) -> i64 {
        if self.changed() { self.main } else { self.main - 1 }
    }

    fn compact_rev(&self) -> i64 {
        self.store.compact_revision()
    }

    fn range(&self, key: &[u8], end: &[u8], options: RangeOptions) -> Result<RangeResult, Error> {
        let mut stamp = *self.store.stamp();
        stamp.rev = self.rev();
        self.store.base().range(&self.store.index, &stamp, KeyRange::new(key, end), options)
    }
}

impl Write for WriteTxn<'_> {
    fn put(&mut self, key: Bytes, value: Bytes, lease: i64) -> i64 {
        let revision = self.next();
        let (create_revision, version) = self.store.index.put(&key, revision);
        let kv = KeyValue { key, create_revision, mod_revision: self.main, version, value, lease };
        self.store.push_row(revision, &kv);
        self.changes.push(kv);
        self.main
    }

    fn delete_range(&mut self, key: &[u8], end: &[u8]) -> i64 {
        let found = self.store.index.keys(KeyRange::new(key, end), self.rev());
        let keys = found.expect("the writer is never behind a compaction");
        for key in &keys {
            let revision = self.next();
            let deleted = self.store.index.tombstone(key, revision);
            debug_assert!(deleted, "the key was just found");
            let mut kv = KeyValue { key: key.clone(), ..KeyValue::default() };
            self.store.push_row(revision, &kv);
            kv.mod_revision = self.main;
            self.changes.push(kv);
        }
        keys.len() as i64
    }

    fn changed(&self) -> bool {
        !self.changes.is_empty()
    }
}
