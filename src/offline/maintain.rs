//! etcdutl's commands on a data directory of ours: its store made smaller, hashed, verified.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file::{self, Snapshot, reason};
use super::look::{self, Stopped, open_file};
use crate::interop::store::{self, Everything};
use crate::member::boot;
use crate::mvcc::{self, HashKv, Store};
use crate::ports::disk::Disk;
use crate::server::disk::{DirLock, RealDisk};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Look(#[from] look::Error),
    #[error(transparent)]
    File(#[from] file::Error),
    #[error(transparent)]
    Load(#[from] store::Error),
    #[error(transparent)]
    Open(#[from] mvcc::OpenError),
    #[error(transparent)]
    Store(#[from] mvcc::read::Error),
}

/// Gives the space that a store does not need back to the file system: the length of its file, before and after.
pub fn defrag(data_dir: &Path, wal_dir: Option<&Path>) -> Result<(u64, u64), Error> {
    // Nothing is written to what a boot would refuse: it stays as it is, for whoever inspects it.
    let stopped = Stopped::open(data_dir, wal_dir)?;
    stopped.check(&stopped.store()?.store, &stopped.log()?.1)?;
    drop(stopped);
    let failed = |error: std::io::Error| Error::Refused(error.to_string());
    let _lock = DirLock::acquire(&data_dir.join(super::directory::MEMBER)).map_err(failed)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(data_dir).map_err(failed)?);
    let (store, mut backend) = Store::open(disk, boot::STORE_PATH, mvcc::Options::default())?;
    backend.keep()?;
    let done = backend.defragment()?;
    drop(store);
    Ok((done.before_bytes, done.after_bytes))
}

/// What a directory was found to hold, all of it sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub member_id: u64,
    pub cluster_id: u64,
    pub revision: i64,
    pub compact_revision: i64,
    pub keys: usize,
    pub consistent_index: u64,
    pub first_index: u64,
    pub last_index: u64,
    pub commit: u64,
    /// What the next boot will cut off the end of the log.
    pub torn: Option<String>,
}

/// Reads every page of the store and every record of the log, and whether they belong together.
pub fn verify(data_dir: &Path, wal_dir: Option<&Path>) -> Result<Verified, Error> {
    let stopped = Stopped::open(data_dir, wal_dir)?;
    let looked = stopped.store()?;
    let (_, log) = stopped.log()?;
    stopped.check(&looked.store, &log)?;
    looked.store.view().hash()?;
    Ok(Verified {
        member_id: log.metadata.member_id,
        cluster_id: log.metadata.cluster_id,
        revision: looked.store.revision(),
        compact_revision: looked.store.compact_revision(),
        keys: looked.store.keys(),
        consistent_index: looked.store.consistent_index(),
        first_index: log.first_index,
        last_index: log.last_index,
        commit: log.hard_state.commit().max(looked.store.consistent_index()),
        torn: log.repaired,
    })
}

/// The hash of a directory's history, up to a revision or (0) all of it.
pub fn hash_kv_of_dir(data_dir: &Path, revision: i64) -> Result<HashKv, Error> {
    let stopped = Stopped::open(data_dir, None)?;
    Ok(stopped.store()?.store.view().hash_kv(revision)?)
}

/// The same of a file: a snapshot, the database of a stopped etcd, or a store of ours.
pub fn hash_kv_of_file(path: &Path, revision: i64) -> Result<HashKv, Error> {
    let snapshot = Snapshot::open(path, "stat")?;
    let mut start = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
    if read.is_ok() && &start == b"redb" {
        if let Some(data_dir) = data_dir_of(path) {
            return hash_kv_of_dir(&data_dir, revision);
        }
        return Ok(open_file(path)?.store.view().hash_kv(revision)?);
    }
    snapshot.lock()?;
    // It needs an index of its keys, which a store of ours has.
    let scratch = Scratch::new()?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(&scratch.0).map_err(|e| Error::Refused(e.to_string()))?);
    store::load(&disk, "db", &snapshot, snapshot.database_bytes(), &mut Everything)?;
    let (store, backend) = Store::open(disk, "db", mvcc::Options::default())?;
    let hash = store.view().hash_kv(revision)?;
    backend.poison();
    Ok(hash)
}

/// Where a server looks for this store, and would have it open.
fn data_dir_of(store: &Path) -> Option<PathBuf> {
    let store = store.canonicalize().ok()?;
    let data_dir = store.ancestors().nth(Path::new(boot::STORE_PATH).iter().count())?;
    store.ends_with(boot::STORE_PATH).then(|| data_dir.to_owned())
}

/// A folder that goes with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch, Error> {
        let path = std::env::temp_dir().join(format!("lockstepctl-{}", std::process::id()));
        let made = std::fs::create_dir(&path);
        made.map_err(|error| Error::Refused(format!("making {}: {}", path.display(), reason(&error))))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
