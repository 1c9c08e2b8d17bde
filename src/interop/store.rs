//! Between our store and etcd's database: [`Export`] writes a view as one, [`load`] makes a store of one.
//!
//! Both take the rows as they come, in bounded memory. An export is of a view, so two passes over it see the same: the
//! first says how long the database will be, the second writes it. A load trusts nothing: what is not as etcd would
//! have it is refused, before the store has its name.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::ReadAt;
use super::bbolt::{self, Db, Layout, PAGE_BYTES, Plan, Writer};
use super::etcd::{self, CLUSTER_VERSION, Etcd, KEY, key_of};
use super::snapshot::Sealed;
use crate::mvcc::read::{Error as StoreError, Read, Revision};
use crate::mvcc::{Bucket, Loader, META_CONSISTENT_INDEX, META_TERM, Survivors, View, is_tombstone};
use crate::ports::disk::Disk;

/// Rows that go into the store together.
const BATCH_ROWS: usize = 1_000;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Etcd(#[from] etcd::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("writing the snapshot: {0}")]
    Database(#[from] bbolt::Error),
    #[error("writing the snapshot: {0}")]
    Io(#[from] io::Error),
}

/// Who is to read what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// A member of the same cluster: it goes on where the sender is.
    Member,
    /// Whoever restores it. The cluster's version stays away: a release of etcd that is older than that refuses to
    /// start, and a new cluster finds its own.
    Restore,
}

/// A view that is to be written as an etcd database.
pub struct Export {
    view: Arc<View>,
    reader: For,
    survivors: Survivors,
    plan: Plan,
}

impl Export {
    /// The first pass.
    pub fn new(view: Arc<View>, reader: For) -> Result<Export, Error> {
        let survivors = view.survivors_of_compaction()?;
        let mut layout = Layout::new(PAGE_BYTES);
        walk(&view, reader, &survivors, |item| match item {
            Item::Bucket(name) => layout.bucket(name),
            Item::Entry(key, value) => layout.row(key.len(), value.len()),
            Item::Row(revision, value) => layout.row(key_of(revision, is_tombstone(value)).len(), value.len()),
        })?;
        Ok(Export { plan: layout.finish()?, view, reader, survivors })
    }

    /// How many bytes [`Export::write`] writes, the digest at their end included.
    pub fn bytes(&self) -> u64 {
        self.plan.bytes() + super::snapshot::DIGEST_BYTES as u64
    }

    /// The newest revision that it will have.
    pub fn revision(&self) -> i64 {
        self.view.rev()
    }

    /// The second pass.
    pub fn write<W: io::Write>(&self, out: W) -> Result<W, Error> {
        let mut writer = Writer::new(self.plan, Sealed::new(out))?;
        walk(&self.view, self.reader, &self.survivors, |item| match item {
            Item::Bucket(name) => writer.bucket(name),
            Item::Entry(key, value) => writer.row(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)),
            Item::Row(revision, value) => {
                writer.row(key_of(revision, is_tombstone(value)), Bytes::copy_from_slice(value))
            }
        })?;
        Ok(writer.finish()?.finish()?)
    }
}

/// What a database consists of, in order.
enum Item<'a> {
    Bucket(&'static str),
    Entry(&'a [u8], &'a [u8]),
    Row(Revision, &'a [u8]),
}

fn walk(
    view: &View,
    reader: For,
    survivors: &Survivors,
    mut f: impl FnMut(Item<'_>) -> Result<(), bbolt::Error>,
) -> Result<(), Error> {
    let mut names: Vec<(&'static str, Option<Bucket>)> =
        Bucket::ALL.iter().map(|bucket| (bucket.name(), Some(*bucket))).chain([(KEY, None)]).collect();
    names.sort_unstable_by_key(|(name, _)| *name);
    for (name, bucket) in names {
        f(Item::Bucket(name))?;
        let Some(bucket) = bucket else {
            let mut failed = None;
            let shown = view.for_each_row(survivors, |revision, value| {
                f(Item::Row(revision, value)).map_err(|error| {
                    let text = StoreError::Storage(error.to_string());
                    failed = Some(error);
                    text
                })
            });
            match failed {
                Some(error) => return Err(error.into()),
                None => shown?,
            }
            continue;
        };
        for (key, value) in view.bucket_scan(bucket)? {
            if (bucket, &key[..], reader) == (Bucket::Cluster, CLUSTER_VERSION.as_bytes(), For::Restore) {
                continue;
            }
            f(Item::Entry(&key, &value))?;
        }
    }
    Ok(())
}

/// What a store is made of.
pub trait Keep {
    /// What becomes of an entry of a bucket: its value, or `None` when it is left out.
    fn entry(&mut self, bucket: Bucket, key: &[u8], value: Bytes) -> Result<Option<Bytes>, String>;

    /// Entries that the store gets besides, in place of those that it has under their keys.
    fn besides(&mut self, _: &Loaded) -> Vec<(Bucket, Bytes, Bytes)> {
        Vec::new()
    }
}

/// How far a store has come in a log: index and term.
pub fn progress((index, term): (u64, u64)) -> [(Bucket, Bytes, Bytes); 2] {
    [(META_CONSISTENT_INDEX, index), (META_TERM, term)]
        .map(|(key, number)| (Bucket::Meta, Bytes::from_static(key), Bytes::copy_from_slice(&number.to_be_bytes())))
}

/// A member of the cluster.
pub fn member_entry(id: u64, json: Bytes) -> (Bucket, Bytes, Bytes) {
    (Bucket::Members, Bytes::from(format!("{id:x}")), json)
}

/// Everything is kept.
pub struct Everything;

impl Keep for Everything {
    fn entry(&mut self, _: Bucket, _: &[u8], value: Bytes) -> Result<Option<Bytes>, String> {
        Ok(Some(value))
    }
}

/// What was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    pub rows: u64,
    /// The newest revision.
    pub revision: i64,
}

/// Makes a new store at `path` out of a database of `bytes` bytes. The buckets that we do not know are left out.
pub fn load(
    disk: &Arc<dyn Disk>,
    path: &str,
    database: impl ReadAt,
    bytes: u64,
    keep: &mut impl Keep,
) -> Result<Loaded, Error> {
    let etcd = Etcd::new(Db::open(database, bytes).map_err(etcd::Error::from)?)?;
    let mut loader = Loader::create(disk, path)?;
    let mut loaded = Loaded::default();
    let mut batch: Vec<(Revision, Bytes)> = Vec::with_capacity(BATCH_ROWS);
    for row in etcd.key_rows()? {
        let row = row?;
        loaded.revision = row.revision.main;
        if row.is_marker() {
            continue;
        }
        loaded.rows += 1;
        batch.push((row.revision, row.value));
        if batch.len() == BATCH_ROWS {
            loader.rows(batch.iter().map(|(revision, value)| (*revision, &value[..])))?;
            batch.clear();
        }
    }
    loader.rows(batch.iter().map(|(revision, value)| (*revision, &value[..])))?;
    etcd.check_entries()?;
    for bucket in Bucket::ALL {
        let Some(rows) = etcd.db().bucket(bucket.name()).map_err(etcd::Error::from)? else { continue };
        for row in rows.rows() {
            let (key, value) = row.map_err(etcd::Error::from)?;
            let kept = keep.entry(bucket, &key, value).map_err(|detail| etcd::Error::Row {
                bucket: bucket.name().to_owned(),
                row: key.escape_ascii().to_string(),
                detail,
            })?;
            if let Some(value) = kept {
                loader.entry(bucket, &key, &value)?;
            }
        }
    }
    for (bucket, key, value) in keep.besides(&loaded) {
        loader.entry(bucket, &key, &value)?;
    }
    loader.finish()?;
    Ok(loaded)
}
