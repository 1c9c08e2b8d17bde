//! What redb does not hold yet: the changes of one batch, shared between the writer that appends and the views that
//! read.
//!
//! Nothing is copied to publish a view. Rows only ever ascend, so a view finds those it may see by their revision (its
//! index told it which); entries of the other buckets carry the number of the change that made them, and a view ignores
//! what is newer than itself. Deleted rows are not here at all: whoever may still see them holds the redb transaction
//! that has them.
//!
//! Locks are held for one look-up or one append, never across calls.

use std::collections::BTreeMap;

use bytes::Bytes;
use parking_lot::RwLock;

use super::read::Revision;
use super::row::{Row, Rows};

/// The tables beside the keys, named as etcd's buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bucket {
    Alarm,
    Auth,
    AuthRoles,
    AuthUsers,
    Cluster,
    Lease,
    Members,
    MembersRemoved,
    Meta,
}

impl Bucket {
    /// In the order of their names.
    pub const ALL: [Bucket; 9] = [
        Bucket::Alarm,
        Bucket::Auth,
        Bucket::AuthRoles,
        Bucket::AuthUsers,
        Bucket::Cluster,
        Bucket::Lease,
        Bucket::Members,
        Bucket::MembersRemoved,
        Bucket::Meta,
    ];

    /// etcd's name of it.
    pub const fn name(self) -> &'static str {
        match self {
            Bucket::Alarm => "alarm",
            Bucket::Auth => "auth",
            Bucket::AuthRoles => "authRoles",
            Bucket::AuthUsers => "authUsers",
            Bucket::Cluster => "cluster",
            Bucket::Lease => "lease",
            Bucket::Members => "members",
            Bucket::MembersRemoved => "members_removed",
            Bucket::Meta => "meta",
        }
    }
}

/// A key of a bucket and its value.
pub type BucketEntry = (Vec<u8>, Vec<u8>);

/// A key of a bucket and what it became; `None` is a deletion.
pub type BucketChange = (Bytes, Option<Bytes>);

/// The number of a change, counted over the life of one open store.
pub type Seq = u64;

/// The changes of one batch.
#[derive(Debug, Default)]
pub struct Overlay {
    rows: RwLock<Vec<Row>>,
    buckets: RwLock<BTreeMap<Bucket, Entries>>,
}

type Entries = BTreeMap<Bytes, Chain>;

/// What became of one entry, oldest first: `None` is a deletion.
type Chain = Vec<(Seq, Option<Bytes>)>;

impl Overlay {
    pub fn push_row(&self, row: Row) {
        let mut rows = self.rows.write();
        debug_assert!(rows.last().is_none_or(|last| last.revision < row.revision), "rows of a batch ascend");
        rows.push(row);
    }

    pub fn row(&self, revision: Revision) -> Option<Bytes> {
        let rows = self.rows.read();
        let at = rows.binary_search_by_key(&revision, |r| r.revision).ok()?;
        Some(rows[at].value.clone())
    }

    /// Adds the rows from `from` on whose main revision is at most `upto`, as far as there is room.
    pub fn rows_from(&self, from: Revision, upto: i64, into: &mut Rows) {
        if into.more {
            return;
        }
        let rows = self.rows.read();
        let start = rows.partition_point(|r| r.revision < from);
        for row in rows[start..].iter().take_while(|r| r.revision.main <= upto) {
            if !into.push(row.clone()) {
                return;
            }
        }
    }

    pub fn with_rows<T>(&self, f: impl FnOnce(&[Row]) -> T) -> T {
        f(&self.rows.read())
    }

    /// Records a change; what no view up to `published` can tell apart from it is replaced.
    pub fn set(&self, bucket: Bucket, key: &[u8], value: Option<Bytes>, seq: Seq, published: Seq) {
        let mut buckets = self.buckets.write();
        let entries = buckets.entry(bucket).or_default();
        match entries.get_mut(key) {
            Some(chain) => match chain.last_mut() {
                Some(last) if last.0 > published => *last = (seq, value),
                _ => chain.push((seq, value)),
            },
            None => drop(entries.insert(Bytes::copy_from_slice(key), vec![(seq, value)])),
        }
    }

    /// `None` when this batch says nothing about the key as of `seq`; `Some(None)` when it deletes it.
    pub fn entry(&self, bucket: Bucket, key: &[u8], seq: Seq) -> Option<Option<Bytes>> {
        let buckets = self.buckets.read();
        newest(buckets.get(&bucket)?.get(key)?, seq)
    }

    /// What this batch says about a bucket as of `seq`, in key order.
    pub fn entries(&self, bucket: Bucket, seq: Seq) -> Vec<BucketChange> {
        let buckets = self.buckets.read();
        let Some(entries) = buckets.get(&bucket) else {
            return Vec::new();
        };
        entries.iter().filter_map(|(k, chain)| Some((k.clone(), newest(chain, seq)?))).collect()
    }

    /// The last word of the batch on every bucket it touches, in order.
    pub fn buckets(&self) -> Vec<(Bucket, Vec<BucketChange>)> {
        let touched: Vec<Bucket> = self.buckets.read().keys().copied().collect();
        touched.into_iter().map(|b| (b, self.entries(b, Seq::MAX))).collect()
    }
}

fn newest(chain: &Chain, seq: Seq) -> Option<Option<Bytes>> {
    chain.iter().rev().find(|(s, _)| *s <= seq).map(|(_, value)| value.clone())
}
