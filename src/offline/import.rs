//! A stopped etcd's data directory becomes a member's of ours: the same member of the same cluster, as far on in the
//! same log.
//!
//! The database is loaded as a snapshot is, and the entries that it lacks are applied by the code that applies a
//! member's. What etcd does at a start is done here: the members are those of raft's last snapshot, and of all changes
//! since; requests count from the database's own index on. Entries that are not known to be committed are neither
//! applied nor dropped, for some may have been acknowledged: they stay in the log, and raft decides. Term, vote and
//! ids stay, too, so that a cluster whose members are taken over one by one goes on as if each had been restarted.
//!
//! Nothing of etcd's is written to; its database is locked for as long as it is read.

use std::fs::{self, File};
use std::io;
use std::path::{self, Path, PathBuf};

use bytes::Bytes;
use lockstep_proto::raftpb::{Entry, EntryType, HardState};

use super::directory::{self, MEMBER, STORE, Unfinished};
use super::file::{self, NO_AUTH, Snapshot, Watched, reason};
use crate::interop::etcd::{self, CLUSTER_VERSION};
use crate::interop::raft_snapshot::{self, RaftSnapshot, V2Store};
use crate::interop::store::{self, Keep, Loaded, member_entry, progress};
use crate::interop::wal::request::Meaning;
use crate::interop::wal::{self as etcd_wal, Log};
use crate::member::apply::{Applier, Effect, Input};
use crate::mvcc::read::Error as StoreError;
use crate::mvcc::{self, Backend, Bucket, Store};
use crate::wal::{self, SnapshotMark};

/// Entries, and bytes of them, that are in memory together.
const CHUNK_ENTRIES: usize = 1_000;
const CHUNK_BYTES: usize = 4 << 20;
const STORAGE_VERSION: &[u8] = b"storageVersion";

/// What to take over, and where to.
#[derive(Clone, Debug)]
pub struct Request {
    /// etcd's `--data-dir`, and its `--wal-dir` if it had one.
    pub from: PathBuf,
    pub from_wal_dir: Option<PathBuf>,
    pub data_dir: PathBuf,
    pub wal_dir: Option<PathBuf>,
    /// Leave behind what only the v2 API shows.
    pub ignore_v2_keys: bool,
}

/// What is worth a line of a log.
#[derive(Debug)]
pub enum Event<'a> {
    /// The log ended in what a crash had not let it finish.
    Torn(&'a str),
    /// A file beside the database that is not used.
    Passed {
        file: &'a Path,
        why: &'a str,
    },
    /// So much of the database is read.
    Loading {
        bytes: u64,
        of: u64,
    },
    Loaded {
        rows: u64,
        revision: i64,
        consistent_index: u64,
    },
    Finished(&'a Imported),
}

/// What was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Imported {
    pub member_id: u64,
    pub cluster_id: u64,
    /// The last entry that is applied, and the last there is.
    pub committed: u64,
    pub last: u64,
    pub revision: i64,
    pub compact_revision: i64,
    /// As `endpoint hashkv` prints it.
    pub hash: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Directory(#[from] directory::Error),
    #[error(transparent)]
    File(#[from] file::Error),
    #[error(transparent)]
    Database(#[from] etcd::Error),
    #[error(transparent)]
    EtcdLog(#[from] etcd_wal::Error),
    #[error("entry {index} of the write-ahead log: {what}")]
    Entry { index: u64, what: String },
    #[error(transparent)]
    Load(#[from] store::Error),
    #[error(transparent)]
    Open(#[from] mvcc::OpenError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Log(#[from] wal::Error),
}

/// See the head of this file.
pub fn import(request: &Request, say: &mut dyn FnMut(Event<'_>)) -> Result<Imported, Error> {
    let (data_dir, wal_dir) = (&*request.data_dir, request.wal_dir.as_deref());
    Unfinished::check(data_dir, wal_dir)?;
    check_apart(request)?;
    let source = Source::open(request, say)?;
    let unfinished = Unfinished::begin(data_dir, wal_dir)?;
    let disk = unfinished.disk()?;
    let mut keep = source.keep();
    let of = source.database.database_bytes();
    let mut told = |bytes| say(Event::Loading { bytes, of });
    let loaded = store::load(&disk, STORE, Watched::new(&source.database, &mut told), of, &mut keep)?;
    let Loaded { rows, revision } = loaded;
    say(Event::Loaded { rows, revision, consistent_index: source.consistent_index });
    let (store, backend) = Store::open(disk, STORE, mvcc::Options::default())?;
    let mut replay = Replay { applier: Applier::new(store)?, backend };
    source.each(source.start.0 + 1..=source.committed.0, |entries| replay.apply(entries))?;
    let metadata = source.log.metadata();
    let membership = replay.applier.membership();
    if membership.member(metadata.member_id).is_none() {
        return Err(Error::Refused(format!(
            "member {:x} does not belong to the cluster any more: take another member's directory, or add it anew",
            metadata.member_id
        )));
    }
    let view = replay.applier.view();
    let hash = view.hash_kv(0)?;
    let imported = Imported {
        member_id: metadata.member_id,
        cluster_id: metadata.cluster_id,
        committed: source.committed.0,
        last: source.log.last_index().max(source.committed.0),
        revision: hash.hash_revision,
        compact_revision: hash.compact_revision,
        hash: hash.hash,
    };
    drop((view, replay));
    source.write_log(&unfinished)?;
    unfinished.finish()?;
    say(Event::Finished(&imported));
    Ok(imported)
}

/// Refuses to make anything within what is only read.
fn check_apart(request: &Request) -> Result<(), Error> {
    let made = [("data-dir", Some(&request.data_dir)), ("wal-dir", request.wal_dir.as_ref())];
    let read = [Some(&request.from), request.from_wal_dir.as_ref()];
    for (flag, dir) in made.into_iter().filter_map(|(flag, dir)| Some((flag, dir?))) {
        for of in read.into_iter().flatten() {
            if existing(dir).is_some_and(|dir| fs::canonicalize(of).is_ok_and(|of| dir.starts_with(of))) {
                return Err(Error::Refused(format!(
                    "{flag} {:?} lies in {:?}, which is etcd's and only read: name a directory outside of it",
                    dir.display(),
                    of.display()
                )));
            }
        }
    }
    Ok(())
}

/// What there is already of the way to a directory, without links.
fn existing(dir: &Path) -> Option<PathBuf> {
    path::absolute(dir).ok()?.ancestors().find_map(|above| fs::canonicalize(above).ok())
}

/// A stopped etcd, looked at as a whole.
struct Source {
    database: Snapshot,
    consistent_index: u64,
    log: Log<Snapshot>,
    hard_state: HardState,
    /// Index and term that the replay begins behind.
    start: (u64, u64),
    /// Who belonged to the cluster there; as the database says where there is nothing else that does.
    members: Option<V2Store>,
    /// Index and term of the last entry that is known to be committed.
    committed: (u64, u64),
    ignore_v2_keys: bool,
    /// Held against an etcd that is started meanwhile.
    _lock: File,
}

impl Source {
    fn open(request: &Request, say: &mut dyn FnMut(Event<'_>)) -> Result<Source, Error> {
        let snap_dir = request.from.join(MEMBER).join("snap");
        let wal_dir = request.from_wal_dir.clone().unwrap_or_else(|| request.from.join(MEMBER).join("wal"));
        let lock = lock(&snap_dir.join("db"))?;
        let log = Log::read(wal_files(&wal_dir)?)?;
        if let Some(torn) = log.torn() {
            say(Event::Torn(torn));
        }
        let hard_state = *log.hard_state();
        let snapshot = newest_snapshot(&snap_dir, &log, say)?;
        let at = snapshot.as_ref().map_or((0, 0), |snapshot| (snapshot.index, snapshot.term));
        if log.first_index() > at.0 + 1 {
            return Err(Error::Refused(format!(
                "the write-ahead log in {} begins with entry {}, and there is no snapshot (*.snap) of the entry before \
                 it: bring the whole data directory, or restore from a snapshot",
                wal_dir.display(),
                log.first_index()
            )));
        }
        let (database, consistent_index) = database(&snap_dir, at.0)?;
        if let Some(snapshot) = &snapshot {
            check_snapshot(snapshot, request.ignore_v2_keys)?;
        }
        let start = match &snapshot {
            // The database has to tell who the members are: as of its own index.
            Some(snapshot) if snapshot.v2.is_none() => consistent_index.max(at.0),
            _ => at.0,
        };
        let committed = hard_state.commit().max(consistent_index).max(at.0);
        if committed > log.last_index().max(at.0) {
            return Err(Error::Refused(format!(
                "the write-ahead log in {} ends at entry {}, but entry {committed} was committed: its end was lost; \
                 take another member's directory, or restore from a snapshot",
                wal_dir.display(),
                log.last_index()
            )));
        }
        if committed == 0 {
            return Err(Error::Refused("nothing was ever committed by this member: there is nothing to import".into()));
        }
        let term_at = |index| if index == at.0 { Ok(at.1) } else { log.entry(index).map(|entry| entry.term()) };
        let (start, committed) = ((start, term_at(start)?), (committed, term_at(committed)?));
        // Without a snapshot the cluster begins with the log.
        let members = snapshot.map_or_else(|| Some(V2Store::default()), |snapshot| snapshot.v2);
        let ignore_v2_keys = request.ignore_v2_keys;
        Ok(Source {
            database,
            consistent_index,
            log,
            hard_state,
            start,
            members,
            committed,
            ignore_v2_keys,
            _lock: lock,
        })
    }

    fn keep(&self) -> Kept<'_> {
        Kept { members: self.members.as_ref(), start: self.start }
    }

    /// Entries as our log has them, some at a time. Of those that the database has, the changes of the membership are
    /// left.
    fn each(
        &self,
        indexes: std::ops::RangeInclusive<u64>,
        mut f: impl FnMut(Vec<Entry>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (mut chunk, mut bytes, mut term) = (Vec::new(), 0, self.start.1);
        for index in indexes {
            let entry = self.log.entry(index)?;
            let wrong = |what: String| Error::Entry { index, what };
            if entry.term() < term || entry.term() > self.hard_state.term() {
                return Err(wrong(format!("it is of term {}, which cannot be there", entry.term())));
            }
            term = entry.term();
            let meaning = Meaning::of(&entry).map_err(wrong)?;
            let is_done = index <= self.consistent_index && !meaning.is_of_the_membership();
            let data = if is_done { Vec::new() } else { self.allowed(meaning, index)?.data() };
            let kind = if is_done { EntryType::EntryNormal } else { entry.r#type() };
            bytes += data.len();
            chunk.push(Entry { r#type: Some(kind as i32), data: Some(data.into()), ..entry });
            if chunk.len() == CHUNK_ENTRIES || bytes >= CHUNK_BYTES {
                f(std::mem::take(&mut chunk))?;
                bytes = 0;
            }
        }
        if chunk.is_empty() { Ok(()) } else { f(chunk) }
    }

    fn allowed(&self, meaning: Meaning, index: u64) -> Result<Meaning, Error> {
        match meaning {
            Meaning::Auth => Err(Error::Entry { index, what: NO_AUTH.to_owned() }),
            Meaning::V2 { method, path } if !self.ignore_v2_keys => {
                Err(Error::Entry { index, what: format!("{method} {path}: {NO_V2}") })
            }
            other => Ok(other),
        }
    }

    /// The log goes on behind what the store holds, with what may still be committed.
    fn write_log(&self, unfinished: &Unfinished<'_>) -> Result<(), Error> {
        let etcd_wal::Metadata { member_id, cluster_id } = self.log.metadata();
        let metadata = wal::Metadata { member_id, cluster_id };
        let (index, term) = self.committed;
        let mut wal = unfinished.log_behind(SnapshotMark { index, term }, metadata, self.hard_state)?;
        self.each(index + 1..=self.log.last_index(), |entries| Ok(wal.append(None, &entries)?))?;
        Ok(wal.sync()?)
    }
}

const NO_V2: &str = "keys of the v2 API are not supported: they can be left behind with --ignore-v2-keys";

/// What becomes of the database's entries: all of it stays but how far the member had come, and who belonged to the
/// cluster, where raft's snapshot knows better.
struct Kept<'a> {
    members: Option<&'a V2Store>,
    start: (u64, u64),
}

impl Keep for Kept<'_> {
    fn entry(&mut self, bucket: Bucket, key: &[u8], value: Bytes) -> Result<Option<Bytes>, String> {
        let is_kept = match bucket {
            Bucket::Members | Bucket::MembersRemoved => self.members.is_none(),
            Bucket::Cluster => self.members.is_none() || key != CLUSTER_VERSION.as_bytes(),
            // `besides` has how far it came.
            Bucket::Meta => key != STORAGE_VERSION,
            _ => true,
        };
        Ok(is_kept.then_some(value))
    }

    fn besides(&mut self, _: &Loaded) -> Vec<(Bucket, Bytes, Bytes)> {
        let mut entries = Vec::from(progress(self.start));
        if let Some(known) = self.members {
            entries.extend(known.members.iter().map(|m| member_entry(m.id, m.json.clone())));
            let id = |id: u64| Bytes::from(format!("{id:x}"));
            let removed = Bytes::from_static(b"removed");
            entries.extend(known.removed.iter().map(|gone| (Bucket::MembersRemoved, id(*gone), removed.clone())));
            let version = known.cluster_version.clone().map(Bytes::from);
            entries.extend(version.map(|v| (Bucket::Cluster, Bytes::from_static(CLUSTER_VERSION.as_bytes()), v)));
        }
        entries
    }
}

/// A member's apply machine and its backend, driven by hand.
struct Replay {
    applier: Applier,
    backend: Backend,
}

impl Replay {
    fn apply(&mut self, entries: Vec<Entry>) -> Result<(), Error> {
        let mut inputs = vec![Input::Entries(entries), Input::Commit];
        while !inputs.is_empty() {
            let effects = self.applier.step(std::mem::take(&mut inputs));
            for effect in effects {
                match effect {
                    Effect::Commit(batch) => inputs.push(Input::Committed(self.backend.commit(&batch)?)),
                    Effect::Stop(why) => return Err(Error::Refused(why)),
                    // Nobody waits for an answer, and a compaction is finished by the server.
                    _ => {}
                }
            }
            if !inputs.is_empty() {
                inputs.push(Input::Commit);
            }
        }
        Ok(())
    }
}

/// The database, which etcd is kept away from.
fn lock(db: &Path) -> Result<File, Error> {
    let shown = db.display();
    let file = match File::open(db) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::Refused(format!(
                "there is no {shown}: --from-etcd names what etcd has as its --data-dir"
            )));
        }
        Err(error) => return Err(Error::Refused(format!("open {shown}: {}", reason(&error)))),
    };
    file::lock(&file, db)?;
    Ok(file)
}

fn wal_files(dir: &Path) -> Result<Vec<etcd_wal::File<Snapshot>>, Error> {
    let mut files = Vec::new();
    for name in names(dir)? {
        if name.ends_with(".seg") {
            let shown = dir.display();
            return Err(Error::Refused(format!("{shown} holds a log of lockstepd: there is nothing to import")));
        }
        let Some(sequence) = numbers(&name, ".wal").map(|(sequence, _)| sequence) else { continue };
        let data = Snapshot::open(&dir.join(&name), "open")?;
        files.push(etcd_wal::File { name: data.path().display().to_string(), sequence, bytes: data.bytes(), data });
    }
    files.sort_by_key(|file| file.sequence);
    Ok(files)
}

/// The newest `.snap` file that is sound and that the log knows of, as etcd chooses it.
fn newest_snapshot(
    dir: &Path,
    log: &Log<Snapshot>,
    say: &mut dyn FnMut(Event<'_>),
) -> Result<Option<RaftSnapshot>, Error> {
    let mut files = names(dir)?;
    files.retain(|name| numbers(name, ".snap").is_some());
    files.sort_unstable();
    for name in files.iter().rev() {
        let path = dir.join(name);
        let bytes = fs::metadata(&path).map_or(0, |found| found.len());
        let read = match bytes <= raft_snapshot::MAX_BYTES {
            true => fs::read(&path).map_err(|error| reason(&error)),
            false => Err(format!("it has {bytes} bytes")),
        };
        let why = match read.map(|file| RaftSnapshot::read(&file)) {
            Ok(Ok(found)) => {
                let is_known = |mark: &&etcd_wal::Mark| (mark.index, mark.term) == (found.index, found.term);
                if found.index <= log.hard_state().commit() && log.marks().iter().find(is_known).is_some() {
                    return Ok(Some(found));
                }
                "the log does not know of it".to_owned()
            }
            Ok(Err(error @ raft_snapshot::Error::Members(_))) => {
                return Err(Error::Refused(format!("{}: {error}", path.display())));
            }
            Ok(Err(error)) => error.to_string(),
            Err(why) => why,
        };
        say(Event::Passed { file: &path, why: &why });
    }
    Ok(None)
}

/// The database to begin with, and its index: one that a crash kept from taking the place of `db` is the better one.
fn database(snap_dir: &Path, snapshot_index: u64) -> Result<(Snapshot, u64), Error> {
    let path = snap_dir.join("db");
    let (database, index) = open_database(&path)?;
    if index >= snapshot_index {
        return Ok((database, index));
    }
    let received = snap_dir.join(format!("{snapshot_index:016x}.snap.db"));
    if !received.exists() {
        return Err(Error::Refused(format!(
            "{} holds what entry {index} did, and raft's last snapshot is of entry {snapshot_index}: the database is \
             an old copy; take another member's directory, or restore from a snapshot",
            path.display()
        )));
    }
    let (database, index) = open_database(&received)?;
    Ok((database, index.max(snapshot_index)))
}

fn open_database(path: &Path) -> Result<(Snapshot, u64), Error> {
    let file = Snapshot::open(path, "open")?;
    let index = file.unguarded()?.progress()?.consistent_index.unwrap_or_default();
    Ok((file, index))
}

fn check_snapshot(snapshot: &RaftSnapshot, ignore_v2_keys: bool) -> Result<(), Error> {
    let Some(v2) = &snapshot.v2 else { return Ok(()) };
    if v2.has_keys && !ignore_v2_keys {
        return Err(Error::Refused(format!("it has keys or users of the v2 API: {NO_V2}")));
    }
    let sorted = |mut ids: Vec<u64>| {
        ids.sort_unstable();
        ids
    };
    let counted = sorted([&snapshot.conf_state.voters[..], &snapshot.conf_state.learners].concat());
    let named = sorted(v2.members.iter().map(|member| member.id).collect());
    if counted != named {
        return Err(Error::Refused(format!(
            "raft counts the members {counted:x?}, and the store names {named:x?}: that cluster's members do not agree \
             with themselves; save a snapshot of it and restore that"
        )));
    }
    Ok(())
}

fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let failed = |error: io::Error| Error::Refused(format!("open {}: {}", dir.display(), reason(&error)));
    let entries = fs::read_dir(dir).map_err(failed)?;
    entries.map(|entry| Ok(entry.map_err(failed)?.file_name().to_string_lossy().into_owned())).collect()
}

/// The two numbers of a file that etcd named.
fn numbers(name: &str, suffix: &str) -> Option<(u64, u64)> {
    let (first, second) = name.strip_suffix(suffix)?.split_once('-')?;
    let number = |text: &str| (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok()).flatten();
    Some((number(first)?, number(second)?))
}
