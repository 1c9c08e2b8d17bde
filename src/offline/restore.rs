//! A snapshot becomes a member's data directory, all of it or nothing.
//!
//! The new directory is built as `member.restoring` within the data directory (which may be a mount point, so it is not
//! built beside it), and named `member` last; a log that lies elsewhere gets its name just before. What is cut short
//! leaves that name, and a server that finds it refuses to start. What fails is taken away again.
//!
//! The file is judged by its digest, and the log is founded, on threads of their own beside the loading of the
//! store; nothing gets its name before all of them are done.
//!
//! The store begins before the first entry of a log that founds the cluster, as etcd's does: every member that is
//! restored from the same file with the same words is a founder of the same cluster.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use super::file::{self, Snapshot, reason};
use crate::interop::restore::NewCluster;
use crate::interop::store;
use crate::member::boot;
use crate::member::membership::Member;
use crate::mvcc::{self, Store};
use crate::ports::disk::Disk;
use crate::server::config::cluster::bootstrap_of;
use crate::server::disk::RealDisk;
use crate::wal;

const UNFINISHED: &str = boot::RESTORING_DIR;
const MEMBER: &str = "member";

/// What to restore, and for whom; the words are those of the flags.
#[derive(Clone, Debug)]
pub struct Request {
    pub snapshot: PathBuf,
    pub name: String,
    pub initial_cluster: String,
    pub initial_cluster_token: String,
    pub initial_advertise_peer_urls: String,
    pub data_dir: PathBuf,
    pub wal_dir: Option<PathBuf>,
    pub skip_hash_check: bool,
    pub bump_revision: i64,
}

impl Request {
    pub fn snap_dir(&self) -> PathBuf {
        self.data_dir.join(MEMBER).join("snap")
    }

    /// Where the log will lie.
    pub fn wal_path(&self) -> PathBuf {
        self.wal_dir.clone().unwrap_or_else(|| self.data_dir.join(MEMBER).join("wal"))
    }
}

/// What is worth a line of a log.
#[derive(Debug)]
pub enum Event<'a> {
    Started,
    /// The store is there, and stands at this revision.
    Loaded {
        rows: u64,
        revision: i64,
    },
    /// `--bump-revision`.
    Bumped {
        from: i64,
        by: i64,
    },
    Added {
        cluster_id: u64,
        member: &'a Member,
    },
    Finished,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Snapshot(#[from] file::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("founding the log: {0}")]
    Log(#[from] boot::Error),
    #[error("{doing} {}: {}", path.display(), reason(source))]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
}

/// See the head of this file.
pub fn restore(request: &Request, say: &mut dyn FnMut(Event<'_>)) -> Result<(), Error> {
    let Request { data_dir, wal_dir, .. } = request;
    let founding = bootstrap_of(
        &request.name,
        &request.initial_advertise_peer_urls,
        &request.initial_cluster,
        &request.initial_cluster_token,
    )
    .map_err(Error::Refused)?;
    if !is_empty(data_dir) {
        return Err(Error::Refused(format!("data-dir {:?} not empty or could not be read", data_dir.display())));
    }
    if let Some(dir) = wal_dir.as_deref().filter(|dir| dir.exists()) {
        return Err(Error::Refused(format!("wal-dir {:?} exists", dir.display())));
    }
    say(Event::Started);
    let snapshot = Snapshot::open(&request.snapshot, "open")?;
    let founders: Vec<Member> = founding
        .members
        .iter()
        .map(|m| Member { id: m.id, name: m.name.clone(), peer_urls: m.peer_urls.clone(), ..Member::default() })
        .collect();
    let metadata = wal::Metadata { member_id: founding.local_id, cluster_id: founding.cluster_id };
    let mut made = Made { was_there: data_dir.exists(), request, is_whole: false };
    build(request, &snapshot, metadata, &founders, say)?;
    made.name()?;
    say(Event::Finished);
    Ok(())
}

/// What is there until the restore has succeeded.
struct Made<'a> {
    request: &'a Request,
    /// The data directory was there before.
    was_there: bool,
    is_whole: bool,
}

impl Made<'_> {
    /// Gives everything its name: from here on it is a member's.
    fn name(&mut self) -> Result<(), Error> {
        let Request { data_dir, wal_dir, .. } = self.request;
        if let Some(dir) = wal_dir {
            rename(&unfinished(dir), dir)?;
        }
        rename(&data_dir.join(UNFINISHED), &data_dir.join(MEMBER))?;
        self.is_whole = true;
        Ok(())
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        if self.is_whole {
            return;
        }
        // The error that led here is the one to tell.
        if let Some(dir) = &self.request.wal_dir {
            let _ = fs::remove_dir_all(unfinished(dir));
            let _ = fs::remove_dir_all(dir);
        }
        let _ = fs::remove_dir_all(self.request.data_dir.join(UNFINISHED));
        if !self.was_there {
            let _ = fs::remove_dir(&self.request.data_dir);
        }
    }
}

fn build(
    request: &Request,
    snapshot: &Snapshot,
    metadata: wal::Metadata,
    founders: &[Member],
    say: &mut dyn FnMut(Event<'_>),
) -> Result<(), Error> {
    let root = request.data_dir.join(UNFINISHED);
    let disk = real_disk(&root)?;
    disk.create_dir_all("snap").map_err(|source| Error::Io { doing: "making", path: root.join("snap"), source })?;
    let mut keep = NewCluster::new(request.bump_revision);
    let (wal_disk, wal_dir) = match &request.wal_dir {
        None => (disk.clone(), "wal".to_owned()),
        Some(dir) => {
            let above = dir.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let name = unfinished(dir).file_name().map(|name| name.to_string_lossy().into_owned());
            let name = name.ok_or_else(|| Error::Refused("--wal-dir names no directory".to_owned()))?;
            (real_disk(above)?, name)
        }
    };
    let found = || boot::found_log(&wal_disk, &wal_dir, wal::Options::default(), metadata, founders);
    let loaded = load(snapshot, request.skip_hash_check, &disk, &mut keep, found)?;
    let (latest, revision) = keep.revisions(&loaded);
    if request.bump_revision > 0 {
        say(Event::Bumped { from: latest, by: request.bump_revision });
    }
    say(Event::Loaded { rows: loaded.rows, revision });
    for member in founders {
        say(Event::Added { cluster_id: metadata.cluster_id, member });
    }
    let synced = ["snap"].iter().try_for_each(|dir| disk.sync_dir(dir)).and_then(|()| wal_disk.sync_dir(&wal_dir));
    synced.and_then(|()| File::open(&root)?.sync_all()).map_err(|source| Error::Io {
        doing: "syncing",
        path: root,
        source,
    })
}

/// Loads the store, and does beside it what need not wait for it.
fn load(
    snapshot: &Snapshot,
    skip_hash_check: bool,
    disk: &Arc<dyn Disk>,
    keep: &mut NewCluster,
    found_log: impl FnOnce() -> Result<(), boot::Error> + Send,
) -> Result<store::Loaded, Error> {
    let (verified, loaded, founded) = thread::scope(|scope| {
        let verifying = scope.spawn(|| snapshot.verify(skip_hash_check));
        let founding = scope.spawn(found_log);
        let loaded = store::load(disk, "snap/db", snapshot, snapshot.database_bytes(), keep);
        let joined = "neither digesting nor founding panics";
        (verifying.join().expect(joined), loaded, founding.join().expect(joined))
    });
    // A file that is not what was saved is told as that, whatever else was wrong with it.
    verified?;
    founded?;
    Ok(loaded?)
}

fn real_disk(root: &Path) -> Result<Arc<dyn Disk>, Error> {
    let disk = RealDisk::new(root);
    Ok(Arc::new(disk.map_err(|source| Error::Io { doing: "making", path: root.to_owned(), source })?))
}

fn unfinished(wal_dir: &Path) -> PathBuf {
    let mut name = wal_dir.as_os_str().to_owned();
    name.push(".restoring");
    name.into()
}

/// Whether nothing is there, or an empty directory.
fn is_empty(dir: &Path) -> bool {
    match fs::read_dir(dir) {
        Ok(mut names) => names.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    let above = to.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let renamed = fs::rename(from, to).and_then(|()| File::open(above)?.sync_all());
    renamed.map_err(|source| Error::Io { doing: "naming", path: to.to_owned(), source })
}

/// What members that were restored from the same file have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sums {
    pub revision: i64,
    /// Of the history, as `endpoint hashkv` prints it.
    pub hash: u32,
    /// Of everything in the store.
    pub whole: u32,
}

/// Reads a restored store back. Nothing is written.
pub fn sums(data_dir: &Path) -> Result<Sums, String> {
    let disk = real_disk(data_dir).map_err(|error| error.to_string())?;
    let (store, backend) =
        Store::open(disk, boot::STORE_PATH, mvcc::Options::default()).map_err(|error| error.to_string())?;
    let view = store.view();
    let hash = view.hash_kv(0).map_err(|error| error.to_string())?.hash;
    let whole = view.hash().map_err(|error| error.to_string())?;
    backend.poison();
    Ok(Sums { revision: store.revision(), hash, whole })
}
