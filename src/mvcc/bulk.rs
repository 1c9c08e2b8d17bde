//! A whole store, written in one go from what comes in order: a snapshot, restored or received.
//!
//! It lies under a temporary name and gets its own when it is whole and durable, so a crash leaves a store or none.
//! What is put in is taken as it is: whoever puts it in has judged it.

use std::io;
use std::sync::Arc;

use redb::{Database, Durability, WriteTransaction};

use super::backend::{DiskBackend, ROWS, begin, table};
use super::blocks::{Blocks, directory};
use super::overlay::Bucket;
use super::read::{Error, Revision};
use super::row::row_key;
use crate::ports::disk::{Disk, Open};

/// What redb may hold of the file while it is written.
const CACHE_BYTES: usize = 64 << 20;
/// Bytes after which what was put in goes to the file, so that memory does not grow with the store. Far less than the
/// cache: a page that leaves it before its check value is made is read and written again.
const COMMIT_BYTES: usize = 8 << 20;

/// See the head of this file.
pub struct Loader {
    disk: Arc<dyn Disk>,
    path: String,
    blocks: Blocks,
    db: Option<Database>,
    txn: Option<WriteTransaction>,
    uncommitted_bytes: usize,
}

impl Loader {
    /// Begins a store that will lie at `path`, where nothing may be.
    pub fn create(disk: &Arc<dyn Disk>, path: &str) -> Result<Loader, Error> {
        let failed = |error: io::Error| Error::Storage(format!("creating the store {path}: {error}"));
        let temporary = temporary(path);
        if disk.exists(&temporary).map_err(failed)? {
            disk.remove(&temporary).map_err(failed)?;
        }
        let blocks = Blocks::direct(disk, &temporary, Open::CreateNew).map_err(failed)?;
        let mut loader =
            Loader { disk: disk.clone(), path: path.to_owned(), blocks, db: None, txn: None, uncommitted_bytes: 0 };
        loader.guarded(|loader| {
            let mut builder = Database::builder();
            builder.set_cache_size(CACHE_BYTES);
            let db = loader.db.insert(builder.create_with_backend(DiskBackend(loader.blocks.clone()))?);
            let txn = db.begin_write()?;
            begin(&txn)?;
            loader.txn = Some(txn);
            Ok(())
        })?;
        Ok(loader)
    }

    /// The next rows, in the order of their revisions.
    pub fn rows<'a>(&mut self, rows: impl IntoIterator<Item = (Revision, &'a [u8])>) -> Result<(), Error> {
        self.guarded(|loader| {
            {
                let mut table = loader.txn().open_table(ROWS)?;
                let mut bytes = 0;
                for (revision, value) in rows {
                    bytes += value.len();
                    table.insert(&row_key(revision), value)?;
                }
                drop(table);
                loader.uncommitted_bytes += bytes;
            }
            if loader.uncommitted_bytes >= COMMIT_BYTES {
                // One that is not durable leaves its check values to the last, which would read and write all again.
                loader.commit(Durability::Immediate)?;
                loader.txn = Some(loader.db.as_ref().expect("it is open").begin_write()?);
            }
            Ok(())
        })
    }

    /// An entry of another bucket.
    pub fn entry(&mut self, bucket: Bucket, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.guarded(|loader| {
            loader.txn().open_table(table(bucket))?.insert(key, value)?;
            Ok(())
        })
    }

    /// The store is whole: durable, and under its name.
    pub fn finish(mut self) -> Result<(), Error> {
        self.guarded(|loader| {
            loader.commit(Durability::Immediate)?;
            Ok(loader.db.take().expect("it is open").close()?)
        })?;
        let path = self.path.clone();
        let failed = |error: io::Error| Error::Storage(format!("finishing the store {path}: {error}"));
        self.blocks.file().sync_data().map_err(failed)?;
        self.disk.rename(&temporary(&self.path), &self.path).map_err(failed)?;
        self.disk.sync_dir(directory(&self.path)).map_err(failed)?;
        self.path.clear();
        Ok(())
    }

    fn txn(&self) -> &WriteTransaction {
        self.txn.as_ref().expect("a transaction is open until the store is finished")
    }

    fn commit(&mut self, durability: Durability) -> Result<(), redb::Error> {
        let mut txn = self.txn.take().expect("a transaction is open");
        txn.set_durability(durability)?;
        txn.commit()?;
        self.uncommitted_bytes = 0;
        Ok(())
    }

    fn guarded<T>(&mut self, f: impl FnOnce(&mut Loader) -> Result<T, redb::Error>) -> Result<T, Error> {
        f(self).map_err(|error| Error::Storage(format!("writing the store {}: {error}", self.path)))
    }
}

impl Drop for Loader {
    /// What was not finished is of no use to anybody.
    fn drop(&mut self) {
        if !self.path.is_empty() {
            self.blocks.poison().set();
            self.txn = None;
            self.db = None;
            let _ = self.disk.remove(&temporary(&self.path));
        }
    }
}

fn temporary(path: &str) -> String {
    format!("{path}.creating")
}
