//! Defragmentation while the store is in use: everything is copied to a file beside it, in steps, and the file takes
//! the store's name once it holds all.
//!
//! ```text
//! begin    db.defrag is made, empty
//! step     the next entries are copied, as they are now: the buckets one by one, then the rows by revision
//! commit   between steps: durable in the old file, and repeated in the copy where the copying is past it
//! (last)   the copy is durable, is renamed to db, and the directory is synced
//! ```
//!
//! All of it happens where commits happen, one at a time, so the copy that takes the name holds exactly what the old
//! file holds, its consistent index too, and nothing is committed between the two. A crash finds the old file or the
//! new one under the name. Whatever fails before the renaming ends the copy and nothing else: the old file goes on.
//! Readers of the old file keep it until they are done.

use std::io;
use std::ops::Bound;
use std::sync::Arc;

use redb::{Database, Durability, ReadableDatabase};

use super::backend::{Backend, Batch, META_CONSISTENT_INDEX, META_TERM, ROWS, Reader, create_tables, guarded, table};
use super::blocks::{Blocks, Poison, directory};
use super::overlay::Bucket;
use super::read::Error;
use super::row::{ROW_KEY_LEN, row_key};
use crate::ports::disk::Disk;

/// What a step copies at most, beside [`Options::copy_step_bytes`](super::Options).
const STEP_ENTRIES: usize = 10_000;
/// Copied bytes after which the copy is synced: little, as the log's next sync waits behind it at the disk.
const SYNC_BYTES: usize = 512 << 10;
/// A copy up to this is made tight in a moment.
const SMALL_BYTES: u64 = 16 << 20;
/// What a copy leaves of the disk, for the log and for commits of the meantime.
const HEADROOM_BYTES: u64 = 4 << 20;

/// The store is in another file now: hand it to `Store::reopened`.
#[derive(Debug)]
pub struct Reopened {
    pub(super) reader: Arc<Reader>,
    /// The length of the file, before and after.
    pub before_bytes: u64,
    pub after_bytes: u64,
}

/// A copy that is being made.
#[derive(Debug)]
pub(super) struct Copy {
    db: Database,
    file: Blocks,
    place: Place,
    unsynced_bytes: usize,
}

/// How far the copying is: all tables before this one, and of this one all up to a key. The rows are the last table.
#[derive(Debug, Default)]
struct Place {
    table: usize,
    key: Option<Vec<u8>>,
}

impl Place {
    fn is_past(&self, table: usize, key: &[u8]) -> bool {
        table < self.table || (table == self.table && self.key.as_deref().is_some_and(|last| key <= last))
    }
}

/// An older file, for those who still read it.
#[derive(Debug)]
pub(super) struct Old {
    db: Option<Database>,
    readers: Arc<()>,
    poison: Poison,
}

impl Old {
    pub fn new(db: Database, readers: Arc<()>, poison: Poison) -> Old {
        Old { db: Some(db), readers, poison }
    }

    pub fn poison(&self) {
        self.poison.set();
    }

    pub fn is_read(&self) -> bool {
        Arc::strong_count(&self.readers) > 1
    }
}

impl Drop for Old {
    fn drop(&mut self) {
        super::backend::close(self.db.take());
    }
}

pub(super) fn copy_path(path: &str) -> String {
    format!("{path}.defrag")
}

/// Removes what a crash has left of a copy.
pub(super) fn remove_leftover(disk: &dyn Disk, path: &str) -> io::Result<()> {
    for name in [copy_path(path), format!("{}.suspect", copy_path(path))] {
        if disk.exists(&name)? {
            sometimes!("half-made copy of the store removed");
            disk.remove(&name)?;
        }
    }
    Ok(())
}

impl Backend {
    /// Begins a defragmentation; [`Backend::defragment_step`] does the work.
    pub fn defragment_begin(&mut self) -> Result<(), Error> {
        assert!(self.copy.is_none(), "one defragmentation at a time");
        let begun = guarded(|| {
            remove_leftover(&*self.disk, &self.path).map_err(redb::Error::Io)?;
            let file = Blocks::copy(&self.disk, &copy_path(&self.path), &self.file, HEADROOM_BYTES);
            let file = file.map_err(redb::Error::Io)?;
            let db = create_tables(&file, self.options.cache_bytes)?;
            Ok(Copy { db, file, place: Place::default(), unsynced_bytes: 0 })
        });
        match begun {
            Ok(copy) => self.copy = Some(copy),
            Err(error) => return Err(self.abandon(error)),
        }
        Ok(())
    }

    pub fn is_defragmenting(&self) -> bool {
        self.copy.is_some() || self.copy_error.is_some()
    }

    /// Copies the next part. When all is copied, the store is in the new file. After an error it goes on in the old
    /// one, unless [`Backend::has_failed`].
    pub fn defragment_step(&mut self) -> Result<Option<Reopened>, Error> {
        self.step_of_defragmentation(false)
    }

    /// With `tight` the new file has nothing free.
    fn step_of_defragmentation(&mut self, tight: bool) -> Result<Option<Reopened>, Error> {
        if let Some(error) = self.copy_error.take() {
            return Err(error);
        }
        let mut copy = self.copy.take().expect("a step of a defragmentation that has begun");
        let stepped = guarded(|| {
            if !copy.step(self.db(), self.options.copy_step_bytes)? {
                return Ok(None);
            }
            if tight || copy.file.len().map_err(redb::Error::Io)? <= SMALL_BYTES {
                // Moves pages together, and gives back what is free at the file's end.
                copy.db.compact()?;
                copy.file.sync_data().map_err(redb::Error::Io)?;
            }
            let before_bytes = self.file.len().map_err(redb::Error::Io)?;
            let after_bytes = copy.file.len().map_err(redb::Error::Io)?;
            Ok(Some((before_bytes, after_bytes)))
        });
        match stepped {
            Ok(None) => {
                self.copy = Some(copy);
                Ok(None)
            }
            Ok(Some((before_bytes, after_bytes))) => {
                if let Err(error) = self.disk.rename(&copy_path(&self.path), &self.path) {
                    self.copy = Some(copy);
                    return Err(self.abandon(Error::Storage(error.to_string())));
                }
                self.take_over(copy)?;
                let reader = guarded(|| Ok(self.reader()?)).inspect_err(|_| self.failed = true)?;
                Ok(Some(Reopened { reader: Arc::new(reader), before_bytes, after_bytes }))
            }
            Err(error) => {
                self.copy = Some(copy);
                Err(self.abandon(error))
            }
        }
    }

    /// The whole of it in one go, for a store that nobody else uses. A large one that is in use would be held up by
    /// that, only to grow at its next commit, which doubles the file.
    pub fn defragment(&mut self) -> Result<Reopened, Error> {
        self.defragment_begin()?;
        loop {
            if let Some(done) = self.step_of_defragmentation(true)? {
                return Ok(done);
            }
        }
    }

    /// Repeats a batch in the copy, after it was committed. What fails here fails the next step.
    pub(super) fn repeat_in_copy(&mut self, batch: &Batch) {
        let Some(copy) = &self.copy else { return };
        if let Err(error) = guarded(|| Ok(copy.repeat(batch)?)) {
            sometimes!("commit not repeated in the copy of the store");
            let error = self.abandon(error);
            self.copy_error = Some(error);
        }
    }

    /// The copy has the store's name.
    fn take_over(&mut self, copy: Copy) -> Result<(), Error> {
        let Copy { db, file, .. } = copy;
        file.renamed(&self.path);
        self.file = file;
        let old = self.db.replace(db).expect("the store is open");
        self.old.push(Old::new(old, std::mem::take(&mut self.readers), self.file.poison().clone()));
        // From here on there is no way back: which of the two a power cut leaves is not known before this is done.
        self.disk.sync_dir(directory(&self.path)).map_err(|error| {
            self.failed = true;
            Error::Storage(format!("syncing the directory of the store {}: {error}; restart the member", self.path))
        })
    }

    /// This store takes the place of another: whoever reads that one goes on, and what was copied of it is of no use.
    pub fn succeed(&mut self, mut former: Backend) {
        if former.copy.is_some() {
            let _ = former.abandon(Error::Storage("another store takes the place of this one".to_owned()));
        }
        self.old.append(&mut former.old);
        if let Some(db) = former.db.take() {
            let readers = std::mem::take(&mut former.readers);
            self.old.push(Old::new(db, readers, former.file.poison().clone()));
        }
        self.old.retain(Old::is_read);
    }

    /// Gives up the copy and its space.
    fn abandon(&mut self, error: Error) -> Error {
        sometimes!("defragmentation given up");
        if let Some(Copy { db, file, .. }) = self.copy.take() {
            super::backend::close(Some(db));
            drop(file);
        }
        let removed = remove_leftover(&*self.disk, &self.path);
        let left = removed.err().map(|e| format!(" (removing {}: {e})", copy_path(&self.path))).unwrap_or_default();
        Error::Storage(format!(
            "defragmenting the store {}: {error}{left}; it goes on in the file it has: make room for a copy of it, \
             then defragment again",
            self.path
        ))
    }
}

impl Copy {
    pub fn into_db(self) -> Database {
        self.db
    }

    /// Copies the next entries of `from`; true when there are no more, and all is durable.
    fn step(&mut self, from: &Database, bytes: usize) -> Result<bool, redb::Error> {
        let read = from.begin_read()?;
        let mut txn = self.db.begin_write()?;
        let mut budget = Budget { bytes, entries: STEP_ENTRIES };
        while self.place.table < Bucket::ALL.len() && budget.is_left() {
            let name = table(Bucket::ALL[self.place.table]);
            let (source, mut target) = (read.open_table(name)?, txn.open_table(name)?);
            let start = match &self.place.key {
                Some(key) => Bound::Excluded(key.clone()),
                None => Bound::Unbounded,
            };
            let start = start.as_ref().map(Vec::as_slice);
            let mut last = None;
            for entry in source.range::<&[u8]>((start, Bound::Unbounded))? {
                let (key, value) = entry?;
                target.insert(key.value(), value.value())?;
                budget.take(key.value().len() + value.value().len());
                last = Some(key.value().to_vec());
                if !budget.is_left() {
                    break;
                }
            }
            self.place.key = last.or_else(|| self.place.key.take());
            if budget.is_left() {
                self.place = Place { table: self.place.table + 1, key: None };
            }
        }
        let mut is_done = false;
        if budget.is_left() {
            let (source, mut target) = (read.open_table(ROWS)?, txn.open_table(ROWS)?);
            let last: Option<[u8; ROW_KEY_LEN]> = self.place.key.as_deref().and_then(|key| key.try_into().ok());
            let start = last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            for entry in source.range::<&[u8; ROW_KEY_LEN]>((start, Bound::Unbounded))? {
                let (key, value) = entry?;
                target.insert(key.value(), value.value())?;
                budget.take(ROW_KEY_LEN + value.value().len());
                self.place.key = Some(key.value().to_vec());
                if !budget.is_left() {
                    break;
                }
            }
            is_done = budget.is_left();
        }
        self.unsynced_bytes += bytes.saturating_sub(budget.bytes);
        let durability = match is_done || self.unsynced_bytes >= SYNC_BYTES {
            true => {
                self.unsynced_bytes = 0;
                Durability::Immediate
            }
            false => Durability::None,
        };
        txn.set_durability(durability)?;
        txn.commit()?;
        Ok(is_done)
    }

    /// What a commit changed where the copying is past it. The rest is copied as it is by then.
    fn repeat(&self, batch: &Batch) -> Result<(), redb::Error> {
        let mut txn = self.db.begin_write()?;
        txn.set_durability(Durability::None)?;
        for (bucket, entries) in batch.overlay.buckets() {
            let mut target = txn.open_table(table(bucket))?;
            for (key, value) in entries.iter().filter(|(key, _)| self.place.is_past(bucket as usize, key)) {
                match value {
                    Some(value) => drop(target.insert(&**key, &**value)?),
                    None => drop(target.remove(&**key)?),
                }
            }
        }
        if !mutation!(DefragmentedIndexStale) {
            let mut meta = txn.open_table(table(Bucket::Meta))?;
            let index = [(META_CONSISTENT_INDEX, batch.consistent_index), (META_TERM, batch.term)];
            for (key, value) in index.iter().filter(|(key, _)| self.place.is_past(Bucket::Meta as usize, key)) {
                meta.insert(*key, &*value.to_be_bytes().to_vec())?;
            }
        }
        let rows = Bucket::ALL.len();
        if self.place.table == rows {
            let mut target = txn.open_table(ROWS)?;
            // New rows are behind the last one that was copied.
            for &revision in &batch.deletes {
                let key = row_key(revision);
                if self.place.is_past(rows, &key) {
                    target.remove(&key)?;
                }
            }
        }
        Ok(txn.commit()?)
    }
}

struct Budget {
    bytes: usize,
    entries: usize,
}

impl Budget {
    fn take(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.entries -= 1;
    }

    fn is_left(&self) -> bool {
        self.bytes > 0 && self.entries > 0
    }
}
