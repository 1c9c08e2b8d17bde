//! redb over the `Disk` port: opening the file, one durable transaction a batch, and the read transactions that views
//! pin.
//!
//! The backend belongs to whoever performs commits: production's backend thread, or the simulator's world loop. It
//! knows nothing of revisions; it writes what a sealed batch says. A batch and its consistent index are one
//! transaction. redb spawns no thread and reads no clock, and every byte it reads or writes goes through
//! [`Blocks`], so a simulated disk can crash inside a commit.

use std::any::Any;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use redb::{
    Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
    WriteTransaction,
};

use super::blocks::{Blocks, Poison, directory};
use super::defrag::{self, Copy, Old};
use super::overlay::{Bucket, BucketEntry, Overlay, Seq};
use super::read::{Error, Revision};
use super::row::{ROW_KEY_LEN, Row, Rows, parse_row_key, row_key};
use super::store::Options;
use crate::ports::disk::{Disk, DiskFile, Open};

/// The version of the tables and what is in them; a newer file is refused.
pub const FORMAT: u32 = 1;

pub const META_CONSISTENT_INDEX: &[u8] = b"consistent_index";
pub const META_TERM: &[u8] = b"term";
pub const META_SCHEDULED_COMPACT: &[u8] = b"scheduledCompactRev";
pub const META_FINISHED_COMPACT: &[u8] = b"finishedCompactRev";

type RowTable = TableDefinition<'static, &'static [u8; ROW_KEY_LEN], &'static [u8]>;
type BucketTable = TableDefinition<'static, &'static [u8], &'static [u8]>;

pub(super) const ROWS: RowTable = TableDefinition::new("key");
/// Ours, not etcd's: what this file is. Never part of a hash or a snapshot.
const ABOUT: BucketTable = TableDefinition::new("lockstep");
const ABOUT_FORMAT: &[u8] = b"format";

const REDB_MAGIC: &[u8] = b"redb\x1a\x0a\xa9\x0d\x0a";
/// Where bbolt's meta page has its magic number, on a little-endian machine.
const BBOLT_MAGIC_AT: usize = 16;
const BBOLT_MAGIC: [u8; 4] = 0xED0C_DAED_u32.to_le_bytes();
const LEAST_FILE: u64 = 4096;
/// Enough to make an empty store.
const NEW_CACHE_BYTES: usize = 1 << 20;

pub(super) const fn table(bucket: Bucket) -> BucketTable {
    TableDefinition::new(bucket.name())
}

/// Why a store cannot be opened. Every text says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{doing} the store {path}: {source}; check the disk and the permissions of the data directory")]
    Io { path: String, doing: &'static str, source: io::Error },
    #[error(
        "the store {path} is an etcd (bbolt) database; take it over with `lockstepctl import --from-etcd`, or \
         restore a snapshot of it"
    )]
    Bbolt { path: String },
    #[error(
        "{path} is not a lockstep store ({detail}); move the file away, then restore the member from a snapshot, or \
         remove it from the cluster and add it again with an empty data directory"
    )]
    NotAStore { path: String, detail: String },
    #[error(
        "the store {path} has format {found}, this program knows formats up to {known}; use the newer program again"
    )]
    Newer { path: String, found: u32, known: u32 },
    #[error(
        "the store {path} is damaged ({detail}); keep the file for inspection, then restore the member from a \
         snapshot, or remove it from the cluster and add it again with an empty data directory"
    )]
    Damaged { path: String, detail: String },
}

/// A sealed batch: everything the backend needs to make it durable.
#[derive(Debug)]
pub struct Batch {
    pub(super) overlay: Arc<Overlay>,
    /// Rows that compaction takes; some may be in the batch itself.
    pub(super) deletes: Vec<Revision>,
    pub(super) consistent_index: u64,
    pub(super) term: u64,
    /// The last change in the batch.
    pub(super) seq: Seq,
}

impl Batch {
    /// The consistent index that is durable once this batch is.
    pub fn consistent_index(&self) -> u64 {
        self.consistent_index
    }

    /// How many rows compaction takes with it.
    pub fn compacted_rows(&self) -> u64 {
        self.deletes.len() as u64
    }
}

/// The backend's word that a batch is durable: hand it to `Store::committed`.
#[derive(Debug)]
pub struct Committed {
    pub(super) reader: Arc<Reader>,
    pub(super) consistent_index: u64,
    pub(super) live: Live,
    pub(super) seq: Seq,
}

/// How much redb holds, counted row by row: independent of how long the file is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Live {
    pub entries: u64,
    pub bytes: u64,
}

impl Live {
    /// What a freshly written file would take: entries, their keys, and a page's rounding.
    pub fn size_bytes(&self) -> u64 {
        const ENTRY: u64 = 8;
        const EMPTY_FILE: u64 = 20 * 1024;
        EMPTY_FILE + (self.bytes + self.entries * ENTRY).next_multiple_of(4096)
    }

    pub fn add(&mut self, key: usize, value: usize) {
        self.entries += 1;
        self.bytes += (key + value) as u64;
    }

    pub fn remove(&mut self, key: usize, value: usize) {
        self.entries -= 1;
        self.bytes -= (key + value) as u64;
    }
}

/// redb's view of the store's file.
#[derive(Debug)]
pub(super) struct DiskBackend(pub Blocks);

impl StorageBackend for DiskBackend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}

/// The writing half of an open store. One commit at a time; after an error it commits nothing more.
#[derive(Debug)]
pub struct Backend {
    /// `None` only while it is dropped.
    pub(super) db: Option<Database>,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) path: String,
    pub(super) file: Blocks,
    pub(super) options: Options,
    live: Live,
    pub(super) failed: bool,
    /// Held by every reader of the file.
    pub(super) readers: Arc<()>,
    /// Files that this one took the place of, as long as somebody reads them.
    pub(super) old: Vec<Old>,
    pub(super) copy: Option<Copy>,
    /// Why the copy is gone, until somebody asks.
    pub(super) copy_error: Option<Error>,
}

impl Backend {
    /// Opens the file, creating it when it is missing. A creation that was cut short leaves only a temporary name.
    pub(super) fn open(disk: &Arc<dyn Disk>, path: &str, options: Options) -> Result<Backend, OpenError> {
        let io = |doing| move |source| OpenError::Io { path: path.to_string(), doing, source };
        if !disk.exists(path).map_err(io("looking for"))? {
            create(disk, path)?;
        }
        let blocks = Blocks::held(disk, path).map_err(io("opening"))?;
        check_magic(blocks.file(), path)?;
        let backend = open_blocks(disk, blocks, path, options)?;
        backend.check_format()?;
        Ok(backend)
    }

    /// The store is found right: from here on what it says to be durable is durable. Opening alone changes nothing on
    /// the disk, so a store that is refused stays as it is. The first commit implies it.
    pub fn keep(&mut self) -> Result<(), Error> {
        let kept = self.file.release().and_then(|()| defrag::remove_leftover(&*self.disk, &self.path));
        kept.map_err(|error| Error::Storage(format!("writing to the store {}: {error}", self.path)))
    }

    /// Whether an error has left it unknown what is durable: nothing is committed any more.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// The length of the file.
    pub fn file_bytes(&self) -> u64 {
        self.file.len().unwrap_or(0)
    }

    /// Makes a batch durable: one transaction, the consistent index in it.
    pub fn commit(&mut self, batch: &Batch) -> Result<Committed, Error> {
        if self.failed {
            return Err(Error::Storage(format!("the store {} failed before: restart the member", self.path)));
        }
        let result = guarded(|| {
            // Whoever commits has judged the store.
            self.file.release().map_err(redb::Error::Io)?;
            let live = self.write(batch)?;
            Ok((live, self.reader()?))
        });
        match result {
            Ok((live, reader)) => {
                self.live = live;
                self.repeat_in_copy(batch);
                self.old.retain(Old::is_read);
                let reader = Arc::new(reader);
                Ok(Committed { reader, consistent_index: batch.consistent_index, live, seq: batch.seq })
            }
            Err(error) => {
                sometimes!("commit of the store failed");
                let error = error.to_string();
                self.failed = true;
                Err(Error::Storage(format!("committing to the store {}: {error}; restart the member", self.path)))
            }
        }
    }

    /// From now on nothing reaches the file, whatever happens and whoever is dropped.
    pub fn poison(&self) {
        self.file.poison().set();
        self.old.iter().for_each(Old::poison);
    }

    /// The same, for whoever cannot hold the backend itself.
    pub fn poison_handle(&self) -> Poison {
        self.file.poison().clone()
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn set_live(&mut self, live: Live) {
        self.live = live;
    }

    pub(super) fn reader(&self) -> Result<Reader, redb::Error> {
        let txn = self.db().begin_read()?;
        let rows = txn.open_table(ROWS)?;
        let buckets = Bucket::ALL.iter().map(|&b| txn.open_table(table(b))).collect::<Result<_, _>>()?;
        Ok(Reader { rows, buckets, _file: self.readers.clone() })
    }

    pub(super) fn db(&self) -> &Database {
        self.db.as_ref().expect("the backend is being dropped")
    }

    fn write(&self, batch: &Batch) -> Result<Live, redb::Error> {
        let mut deletes = batch.deletes.clone();
        deletes.sort_unstable();
        let mut live = self.live;
        let mut txn = self.db().begin_write()?;
        txn.set_durability(Durability::Immediate)?;
        if mutation!(ConsistentIndexApart) {
            self.write_index(batch, &txn, &mut live)?;
            txn.commit()?;
            txn = self.db().begin_write()?;
        }
        {
            let mut rows = txn.open_table(ROWS)?;
            // A row that compaction takes in the batch that brought it is never written.
            let mut unwritten = 0;
            batch.overlay.with_rows(|new| -> Result<(), redb::Error> {
                for row in new {
                    if deletes.binary_search(&row.revision).is_ok() {
                        sometimes!("row compacted before it was ever stored");
                        unwritten += 1;
                        continue;
                    }
                    rows.insert(&row_key(row.revision), &*row.value)?;
                    live.add(ROW_KEY_LEN, row.value.len());
                }
                Ok(())
            })?;
            for &revision in &deletes {
                match rows.remove(&row_key(revision))? {
                    Some(old) => live.remove(ROW_KEY_LEN, old.value().len()),
                    None => unwritten -= 1,
                }
            }
            assert_eq!(unwritten, 0, "compaction takes only rows that exist");
        }
        for (bucket, entries) in batch.overlay.buckets() {
            let mut target = txn.open_table(table(bucket))?;
            for (key, value) in entries {
                set(&mut target, &key, value.as_deref(), &mut live)?;
            }
        }
        self.write_index(batch, &txn, &mut live)?;
        txn.commit()?;
        Ok(live)
    }

    fn write_index(&self, batch: &Batch, txn: &WriteTransaction, live: &mut Live) -> Result<(), redb::Error> {
        let mut meta = txn.open_table(table(Bucket::Meta))?;
        set(&mut meta, META_CONSISTENT_INDEX, Some(&batch.consistent_index.to_be_bytes()), live)?;
        set(&mut meta, META_TERM, Some(&batch.term.to_be_bytes()), live)
    }

    fn check_format(&self) -> Result<(), OpenError> {
        let path = || self.path.clone();
        let found = self.format().map_err(|e| OpenError::NotAStore { path: path(), detail: e.to_string() })?;
        match found {
            Some(FORMAT) => Ok(()),
            Some(found) if found > FORMAT => Err(OpenError::Newer { path: path(), found, known: FORMAT }),
            _ => Err(OpenError::NotAStore { path: path(), detail: "it does not say its format".to_string() }),
        }
    }

    fn format(&self) -> Result<Option<u32>, redb::Error> {
        let about = self.db().begin_read()?.open_table(ABOUT)?;
        let format = about.get(ABOUT_FORMAT)?;
        Ok(format.and_then(|f| Some(u32::from_be_bytes(f.value().try_into().ok()?))))
    }
}

impl Drop for Backend {
    /// redb closes the file, which reads and writes it; on a rotten one it may panic, and a shutdown is no time for
    /// that.
    fn drop(&mut self) {
        close(self.copy.take().map(Copy::into_db));
        close(self.db.take());
    }
}

pub(super) fn close(db: Option<Database>) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(db)));
}

/// One redb read transaction with its tables open. It pins the pages it can see, so nobody keeps one for long.
pub struct Reader {
    rows: ReadOnlyTable<&'static [u8; ROW_KEY_LEN], &'static [u8]>,
    buckets: Vec<ReadOnlyTable<&'static [u8], &'static [u8]>>,
    /// The file stays open meanwhile.
    _file: Arc<()>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader")
    }
}

impl Reader {
    pub fn row(&self, revision: Revision) -> Result<Option<Bytes>, Error> {
        self.with_row(revision, Bytes::copy_from_slice)
    }

    /// Shows `f` a row in place.
    pub fn with_row<T>(&self, revision: Revision, f: impl FnOnce(&[u8]) -> T) -> Result<Option<T>, Error> {
        guarded(|| {
            let found = self.rows.get(&row_key(revision))?;
            Ok(found.map(|value| f(value.value())))
        })
    }

    /// Calls `f` with every row from `from` on whose main revision is at most `upto`, until `f` says stop (`false`).
    pub fn for_each_row(
        &self,
        from: Revision,
        upto: i64,
        mut f: impl FnMut(Revision, &[u8]) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let from = row_key(from);
        let range = (Bound::Included(&from), Bound::<&[u8; ROW_KEY_LEN]>::Unbounded);
        guarded(|| {
            for entry in self.rows.range::<&[u8; ROW_KEY_LEN]>(range)? {
                let (key, value) = entry?;
                let revision = parse_row_key(key.value()).ok_or(Trouble::Shape("a key of a row is no revision"))?;
                if revision.main > upto || !f(revision, value.value()).map_err(Trouble::Ours)? {
                    break;
                }
            }
            Ok(())
        })
    }

    pub fn rows_from(&self, from: Revision, upto: i64, into: &mut Rows) -> Result<(), Error> {
        self.for_each_row(from, upto, |revision, value| {
            Ok(into.push(Row { revision, value: Bytes::copy_from_slice(value) }))
        })
    }

    pub fn entry(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        guarded(|| {
            let found = self.buckets[bucket as usize].get(key)?;
            Ok(found.map(|value| value.value().to_vec()))
        })
    }

    pub fn entries(&self, bucket: Bucket) -> Result<Vec<BucketEntry>, Error> {
        guarded(|| {
            let mut entries = Vec::new();
            for entry in self.buckets[bucket as usize].iter()? {
                let (key, value) = entry?;
                entries.push((key.value().to_vec(), value.value().to_vec()));
            }
            Ok(entries)
        })
    }
}

/// What can go wrong while redb is at work.
pub(super) enum Trouble {
    Redb(redb::Error),
    Shape(&'static str),
    Ours(Error),
}

impl<E: Into<redb::Error>> From<E> for Trouble {
    fn from(error: E) -> Trouble {
        Trouble::Redb(error.into())
    }
}

/// Runs `f`, which is redb at work on a file that may have rotted since it was opened: redb checks what it reads by
/// assertions, so a panic in there is an error like any other, and the member stops in good order.
pub(super) fn guarded<T>(f: impl FnOnce() -> Result<T, Trouble>) -> Result<T, Error> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(Trouble::Redb(error))) => Err(Error::Storage(error.to_string())),
        Ok(Err(Trouble::Shape(what))) => Err(Error::Storage(what.to_string())),
        Ok(Err(Trouble::Ours(error))) => Err(error),
        Err(panic) => {
            sometimes!("rot noticed while the store was at work");
            Err(Error::Storage(format!("the file is damaged: {}", panic_text(&*panic))))
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("redb gave up on it").to_string()
}

/// Runs `f` over a file that anything may have written to: what panics in there is damage, not a reason to die.
pub(super) fn guard_damage<T>(path: &str, f: impl FnOnce() -> Result<T, OpenError>) -> Result<T, OpenError> {
    let opened = catch_unwind(AssertUnwindSafe(f))
        .unwrap_or_else(|panic| Err(OpenError::Damaged { path: path.to_string(), detail: panic_text(&*panic) }));
    sometimes!(matches!(opened, Err(OpenError::Damaged { .. })), "damaged store refused");
    opened
}

fn set(
    table: &mut redb::Table<'_, &'static [u8], &'static [u8]>,
    key: &[u8],
    value: Option<&[u8]>,
    live: &mut Live,
) -> Result<(), redb::Error> {
    let old = match value {
        Some(value) => {
            live.add(key.len(), value.len());
            table.insert(key, value)?
        }
        None => table.remove(key)?,
    };
    if let Some(old) = old {
        live.remove(key.len(), old.value().len());
    }
    Ok(())
}

/// Makes an empty store under a temporary name, and gives it its own once it is whole and durable.
fn create(disk: &Arc<dyn Disk>, path: &str) -> Result<(), OpenError> {
    let io = |doing| move |source| OpenError::Io { path: path.to_string(), doing, source };
    let temporary = format!("{path}.creating");
    let directory = directory(path);
    if !directory.is_empty() {
        disk.create_dir_all(directory).map_err(io("creating the directory of"))?;
    }
    if disk.exists(&temporary).map_err(io("looking for a half-made copy of"))? {
        sometimes!("half-made store made anew");
        disk.remove(&temporary).map_err(io("removing a half-made copy of"))?;
    }
    let blocks = Blocks::direct(disk, &temporary, Open::CreateNew).map_err(io("creating"))?;
    let made = create_tables(&blocks, NEW_CACHE_BYTES).and_then(|db| Ok(db.close()?));
    made.map_err(|e| OpenError::Io { path: path.to_string(), doing: "creating", source: io::Error::other(e) })?;
    blocks.file().sync_data().map_err(io("creating"))?;
    disk.rename(&temporary, path).map_err(io("naming"))?;
    disk.sync_dir(directory).map_err(io("syncing the directory of"))
}

/// A store without anything in it, in a new file.
pub(super) fn create_tables(blocks: &Blocks, cache_bytes: usize) -> Result<Database, redb::Error> {
    let mut builder = Database::builder();
    builder.set_cache_size(cache_bytes);
    let db = builder.create_with_backend(DiskBackend(blocks.clone()))?;
    let txn = db.begin_write()?;
    begin(&txn)?;
    txn.commit()?;
    Ok(db)
}

/// Every table that a store has, and what it is.
pub(super) fn begin(txn: &WriteTransaction) -> Result<(), redb::Error> {
    txn.open_table(ROWS)?;
    for bucket in Bucket::ALL {
        txn.open_table(table(bucket))?;
    }
    txn.open_table(ABOUT)?.insert(ABOUT_FORMAT, &*FORMAT.to_be_bytes().to_vec())?;
    Ok(())
}

/// Looks at the first bytes before redb does, to say what the file is rather than what it is not.
fn check_magic(file: &dyn DiskFile, path: &str) -> Result<(), OpenError> {
    let io = |source| OpenError::Io { path: path.to_string(), doing: "reading", source };
    let not = |detail: String| Err(OpenError::NotAStore { path: path.to_string(), detail });
    let len = file.len().map_err(io)?;
    let mut start = vec![0; len.min(64) as usize];
    file.read_at(0, &mut start).map_err(io)?;
    if start.get(BBOLT_MAGIC_AT..BBOLT_MAGIC_AT + 4) == Some(&BBOLT_MAGIC) {
        return Err(OpenError::Bbolt { path: path.to_string() });
    }
    if !start.starts_with(REDB_MAGIC) {
        return not(format!("its {len} bytes do not start like one"));
    }
    if len < LEAST_FILE {
        return not(format!("it has only {len} bytes"));
    }
    Ok(())
}

fn open_blocks(disk: &Arc<dyn Disk>, blocks: Blocks, path: &str, options: Options) -> Result<Backend, OpenError> {
    let io = |source| OpenError::Io { path: path.to_string(), doing: "opening", source };
    let backend = DiskBackend(blocks.clone());
    let mut builder = Database::builder();
    builder.set_cache_size(options.cache_bytes);
    // A rotten page is found now (0.5 s for a million rows, which are about to be read anyway), not served later.
    builder.set_check_integrity_on_open(!mutation!(RottedPageAccepted));
    match builder.create_with_backend(backend) {
        Ok(db) => Ok(Backend {
            db: Some(db),
            disk: disk.clone(),
            path: path.to_string(),
            file: blocks,
            options,
            live: Live::default(),
            failed: false,
            readers: Arc::default(),
            old: Vec::new(),
            copy: None,
            copy_error: None,
        }),
        Err(redb::DatabaseError::Storage(redb::StorageError::Io(source))) => Err(io(source)),
        Err(redb::DatabaseError::UpgradeRequired(found)) => {
            let detail = format!("redb file format {found}, which only older programs read");
            Err(OpenError::NotAStore { path: path.to_string(), detail })
        }
        Err(error) => Err(OpenError::Damaged { path: path.to_string(), detail: error.to_string() }),
    }
}
