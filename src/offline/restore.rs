//! A snapshot becomes a member's data directory.
//!
//! The file is judged by its digest, and the log is made, on threads of their own beside the loading of the store;
//! nothing gets its name before all of them are done.
//!
//! Every member that is restored from the same file with the same words is a founder of the same cluster. Its log
//! begins behind the store, as after a snapshot that a leader sent: see [`boot::restored_at`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use lockstep_proto::raftpb::HardState;

use super::directory::{self, MEMBER, STORE, Unfinished, real_disk};
use super::file::{self, Snapshot, Watched};
use crate::interop::restore::NewCluster;
use crate::interop::store;
use crate::member::boot;
use crate::member::membership::Member;
use crate::mvcc::{self, Store};
use crate::ports::disk::Disk;
use crate::server::config::cluster::bootstrap_of;
use crate::wal;

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
    /// So much of the database is read.
    Loading {
        bytes: u64,
        of: u64,
    },
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
    Directory(#[from] directory::Error),
    #[error(transparent)]
    Snapshot(#[from] file::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("making the write-ahead log: {0}")]
    Log(#[from] wal::Error),
}

/// See the head of this file.
pub fn restore(request: &Request, say: &mut dyn FnMut(Event<'_>)) -> Result<(), Error> {
    let (data_dir, wal_dir) = (&*request.data_dir, request.wal_dir.as_deref());
    let founding = bootstrap_of(
        &request.name,
        &request.initial_advertise_peer_urls,
        &request.initial_cluster,
        &request.initial_cluster_token,
    )
    .map_err(Error::Refused)?;
    Unfinished::check(data_dir, wal_dir)?;
    say(Event::Started);
    let snapshot = Snapshot::open(&request.snapshot, "open")?;
    let founders: Vec<Member> = founding
        .members
        .iter()
        .map(|m| Member { id: m.id, name: m.name.clone(), peer_urls: m.peer_urls.clone(), ..Member::default() })
        .collect();
    let metadata = wal::Metadata { member_id: founding.local_id, cluster_id: founding.cluster_id };
    let unfinished = Unfinished::begin(data_dir, wal_dir)?;
    build(&unfinished, request, &snapshot, metadata, &founders, say)?;
    unfinished.finish()?;
    say(Event::Finished);
    Ok(())
}

fn build(
    unfinished: &Unfinished<'_>,
    request: &Request,
    snapshot: &Snapshot,
    metadata: wal::Metadata,
    founders: &[Member],
    say: &mut dyn FnMut(Event<'_>),
) -> Result<(), Error> {
    let begins = boot::restored_at(founders.len());
    let members = founders.iter().map(|member| (member.id, member.to_json().into())).collect();
    let mut keep = NewCluster::new(request.bump_revision, (begins.index, begins.term), members);
    let state = HardState { term: Some(begins.term), vote: Some(0), commit: None };
    let make_log = || -> Result<(), Error> { Ok(unfinished.log_behind(begins, metadata, state)?.sync()?) };
    let loaded = load(snapshot, request.skip_hash_check, &unfinished.disk()?, &mut keep, make_log, say)?;
    let (latest, revision) = keep.revisions(&loaded);
    if request.bump_revision > 0 {
        say(Event::Bumped { from: latest, by: request.bump_revision });
    }
    say(Event::Loaded { rows: loaded.rows, revision });
    for member in founders {
        say(Event::Added { cluster_id: metadata.cluster_id, member });
    }
    Ok(())
}

/// Loads the store, and does beside it what need not wait for it.
fn load(
    snapshot: &Snapshot,
    skip_hash_check: bool,
    disk: &Arc<dyn Disk>,
    keep: &mut NewCluster,
    make_log: impl FnOnce() -> Result<(), Error> + Send,
    say: &mut dyn FnMut(Event<'_>),
) -> Result<store::Loaded, Error> {
    let of = snapshot.database_bytes();
    let mut told = |bytes| say(Event::Loading { bytes, of });
    let database = Watched::new(snapshot, &mut told);
    let (verified, loaded, logged) = thread::scope(|scope| {
        let verifying = scope.spawn(|| snapshot.verify(skip_hash_check));
        let logging = scope.spawn(make_log);
        let unguarded = snapshot.unguarded().map_err(Error::from);
        let loaded = unguarded.and_then(|_| Ok(store::load(disk, STORE, database, of, keep)?));
        let joined = "neither digesting nor making a log panics";
        (verifying.join().expect(joined), loaded, logging.join().expect(joined))
    });
    // A file that is not what was saved is told as that, whatever else was wrong with it.
    verified?;
    logged?;
    loaded
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
