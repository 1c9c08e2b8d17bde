//! Hashes that equal replicas share, and that etcd shares too: CRC-32C over the rows' bytes, in the order of their
//! revisions.
//!
//! `HashKV` at a revision covers every row up to it, except rows at or below the compaction revision that a reader at
//! that revision would not find: whether a compaction has got round to removing them must not show. Two corners are
//! etcd's: when no key exists at that revision, the rows that the compaction itself keeps count; and a tombstone
//! exactly at the compaction revision never counts (releases before 3.5.16 deleted it, later ones keep it).

use super::backend::{META_CONSISTENT_INDEX, META_FINISHED_COMPACT, META_TERM};
use super::index::Pruned;
use super::overlay::Bucket;
use super::read::{Error, Revision};
use super::row::{Rows, is_tombstone, row_key};
use super::view::{View, after};

/// The name of the table of rows, which the hash starts with.
const ROWS_NAME: &[u8] = b"key";
/// What etcd appends to the key of a tombstone's row.
const TOMBSTONE_MARK: &[u8] = b"t";
/// How many rows of a batch are taken in one hold of its lock.
const CHUNK: usize = 1_000;

/// What `Maintenance.HashKV` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    pub hash: u32,
    pub compact_revision: i64,
    pub hash_revision: i64,
}

impl View {
    /// The hash of the history up to `rev`, or up to this view's revision when `rev` is 0. Up to a negative one there
    /// is nothing, and etcd hashes just that.
    pub fn hash_kv(&self, rev: i64) -> Result<HashKv, Error> {
        let stamp = self.stamp();
        let at = if rev == 0 { stamp.rev } else { rev };
        if at < 0 {
            let hash = crc32c::crc32c(ROWS_NAME);
            return Ok(HashKv { hash, compact_revision: stamp.compact_rev, hash_revision: at });
        }
        if at < stamp.compact_rev {
            return Err(Error::Compacted);
        }
        if at > stamp.rev {
            return Err(Error::FutureRev);
        }
        let overtaken = if rev == 0 { Error::Overtaken } else { Error::Compacted };
        let kept = self.kept(at).map_err(|Pruned| overtaken)?;
        let mut crc = crc32c::crc32c(ROWS_NAME);
        self.hash_rows(&mut crc, at, &kept)?;
        Ok(HashKv { hash: crc, compact_revision: stamp.compact_rev, hash_revision: at })
    }

    /// The hash of everything in the store but the consistent index, its term, and how far the work of a compaction has
    /// come.
    pub fn hash(&self) -> Result<u32, Error> {
        let mut crc = 0;
        let mut names: Vec<(&[u8], Option<Bucket>)> =
            Bucket::ALL.iter().map(|&b| (b.name().as_bytes(), Some(b))).chain([(ROWS_NAME, None)]).collect();
        names.sort_unstable_by_key(|(name, _)| *name);
        for (name, bucket) in names {
            crc = crc32c::crc32c_append(crc, name);
            let Some(bucket) = bucket else {
                let kept = self.survivors(self.stamp().compact_rev).map_err(|Pruned| Error::Overtaken)?;
                self.hash_rows(&mut crc, self.stamp().rev, &kept)?;
                continue;
            };
            for (key, value) in self.bucket_scan(bucket)? {
                let progress = [META_CONSISTENT_INDEX, META_TERM, META_FINISHED_COMPACT].contains(&&*key);
                if bucket != Bucket::Meta || !progress {
                    crc = crc32c::crc32c_append(crc32c::crc32c_append(crc, &key), &value);
                }
            }
        }
        Ok(crc)
    }

    /// The revisions at or below the compaction that count at `at`, ascending.
    fn kept(&self, at: i64) -> Result<Vec<Revision>, Pruned> {
        let compacted = self.stamp().compact_rev;
        if compacted <= 0 {
            return Ok(Vec::new());
        }
        let mut any = false;
        let mut kept = Vec::new();
        self.index().for_each_mark(at, |mark| {
            any |= !mark.tombstone;
            if !mark.tombstone && mark.main <= compacted {
                kept.push(mark.revision());
            }
        })?;
        if !any {
            return self.survivors(compacted);
        }
        kept.sort_unstable();
        Ok(kept)
    }

    /// The revisions that are the newest of an existing key as of `at`, ascending.
    fn survivors(&self, at: i64) -> Result<Vec<Revision>, Pruned> {
        let mut kept = Vec::new();
        if at > 0 {
            self.index().for_each_mark(at, |mark| {
                if !mark.tombstone {
                    kept.push(mark.revision());
                }
            })?;
        }
        kept.sort_unstable();
        Ok(kept)
    }

    /// Adds all rows up to `upto`, of those at or below the compaction only the `kept` ones.
    fn hash_rows(&self, crc: &mut u32, upto: i64, kept: &[Revision]) -> Result<(), Error> {
        self.each_kept_row(upto, kept, |revision, value| {
            let mut sum = crc32c::crc32c_append(*crc, &row_key(revision));
            if is_tombstone(value) {
                sum = crc32c::crc32c_append(sum, TOMBSTONE_MARK);
            }
            *crc = crc32c::crc32c_append(sum, value);
            Ok(())
        })
    }

    /// What the compaction leaves of the rows that it reaches. [`Error::Overtaken`] when the next one has pruned that.
    pub fn survivors_of_compaction(&self) -> Result<Survivors, Error> {
        self.survivors(self.stamp().compact_rev).map(Survivors).map_err(|Pruned| Error::Overtaken)
    }

    /// Shows `f` every row that this view sees, in order, as if the compaction had done all its work: what a snapshot
    /// copies.
    pub fn for_each_row(
        &self,
        survivors: &Survivors,
        f: impl FnMut(Revision, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.each_kept_row(self.stamp().rev, &survivors.0, f)
    }

    fn each_kept_row(
        &self,
        upto: i64,
        kept: &[Revision],
        mut f: impl FnMut(Revision, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let compacted = self.stamp().compact_rev;
        let mut kept = kept.iter().peekable();
        let mut take = |revision: Revision, value: &[u8]| {
            if revision.main <= compacted {
                while kept.next_if(|&&k| k < revision).is_some() {}
                if kept.next_if_eq(&&revision).is_none() {
                    return Ok(());
                }
            }
            f(revision, value)
        };
        self.base().reader.for_each_row(Revision::default(), upto, |revision, value| {
            take(revision, value)?;
            Ok(true)
        })?;
        for overlay in &self.base().overlays {
            let mut from = Revision::default();
            loop {
                let mut piece = Rows::at_most(CHUNK, usize::MAX);
                overlay.rows_from(from, upto, &mut piece);
                for row in &piece.rows {
                    take(row.revision, &row.value)?;
                }
                match piece.rows.last() {
                    Some(last) if piece.more => from = after(last.revision),
                    _ => break,
                }
            }
        }
        Ok(())
    }
}

/// See [`View::survivors_of_compaction`].
#[derive(Debug)]
pub struct Survivors(Vec<Revision>);
