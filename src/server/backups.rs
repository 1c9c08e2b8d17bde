//! `--backup-dir`: backups that the cluster takes by itself, in the format of `snapshot save`.
//!
//! Only the leader takes them, when the newest in its folder is an interval old; so members may share a folder or have
//! one each, and nothing goes through the log. A lock in the folder keeps two writers apart, and a member that does not
//! lead any more gives up what it writes. A backup gets its name when it is durable and was read back; older ones go
//! only then.
//!
//! It reads a pinned view, so that nobody waits for it, at a pace that leaves the disk to the log. A folder that cannot
//! be used is logged and counted, and tried again: no member stops for want of a backup.
//!
//! Whoever reaches the client port may ask for one. What is asked for must not fill the disk, nor keep it busy, at the
//! cost of what is scheduled: one at a time, with a pause between two, and where the next scheduled one has room, too.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tracing::{error, info, warn};

use super::disk::free_bytes;
use super::log::errno_text;
use super::metrics::METRICS;
use super::node::Node;
use super::snapshots::export;
use crate::interop::ReadAt;
pub use crate::interop::backup::Backup;
use crate::interop::backup::{self, expired};

/// Before the name of a backup that is being written.
const UNFINISHED: &str = ".tmp-";
const LOCK: &str = ".lock";
/// What is written, and read back, in a second at most.
const PACE_BYTES_PER_S: u64 = 64 << 20;
/// What is written without being synced: more of it would hold up the log's own syncs.
const UNSYNCED_BYTES: u64 = 8 << 20;
/// What a backup leaves of its disk, which may be the log's, too.
const LEFT_BYTES: u64 = 16 << 20;
/// Between two that are asked for, unless the schedule takes them as often.
const MAX_ASK_INTERVAL: Duration = Duration::from_secs(10);
/// Between two looks at the folder.
const MAX_LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// After a failure, unless the interval is shorter.
const MAX_RETRY_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// The flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    pub dir: PathBuf,
    pub interval: Duration,
    /// Zero keeps all.
    pub retention: Duration,
}

/// Why there is no new backup.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("this member does not lead the cluster: ask its leader{}", at(.0))]
    NotLeader(Vec<String>),
    #[error("another backup is being taken in {}", .0.display())]
    Busy(PathBuf),
    #[error("the last one was asked for {}s ago: ask again in {}s", ago.as_secs(), wait.as_secs() + 1)]
    TooSoon { ago: Duration, wait: Duration },
    #[error(
        "{} has {free} bytes free, and {wanted} are needed for a backup of {bytes} bytes{}: free space there, or \
         remove old backups", dir.display(), if *is_asked { " and the next scheduled one" } else { "" }
    )]
    NoRoom { dir: PathBuf, free: u64, wanted: u64, bytes: u64, is_asked: bool },
    #[error("{doing} {}: {}", path.display(), errno_text(source))]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("writing {}: {detail}", path.display())]
    Write { path: PathBuf, detail: String },
    #[error("{} does not hold what was written: {source}; look after its disk", path.display())]
    Verify { path: PathBuf, source: backup::Error },
}

/// See the head of this file.
pub struct Backups {
    node: Arc<Node>,
    schedule: Schedule,
    /// When the last attempt of this life failed, if it did.
    failed: Mutex<Option<Instant>>,
    /// When the last one ended that was asked for; locked as long as one is under way.
    asked: Mutex<Option<Instant>>,
}

/// The backups in a folder, of any cluster, oldest first, and their lengths.
pub fn list(dir: &Path) -> io::Result<Vec<(Backup, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let Some(backup) = entry.file_name().to_str().and_then(Backup::parse) else { continue };
        match entry.metadata() {
            Ok(metadata) if metadata.is_file() => found.push((backup, metadata.len())),
            Ok(_) => {}
            // Another member's retention was quicker.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The last one that is not dated ahead of now: a clock that was wrong must not put off the next one, nor its alarm.
pub fn newest_of(list: &[(Backup, u64)], now_s: u64) -> Option<(Backup, u64)> {
    list.iter().rfind(|(backup, _)| backup.taken_s <= now_s).copied()
}

impl Backups {
    pub fn new(node: Arc<Node>, schedule: Schedule) -> Backups {
        Backups { node, schedule, failed: Mutex::default(), asked: Mutex::default() }
    }

    /// Runs until the member stops.
    pub async fn run(self: Arc<Backups>) {
        let mut stopping = self.node.watch_stopping();
        let Schedule { dir, interval, retention } = &self.schedule;
        info!("backup-dir" = %dir.display(), ?interval, ?retention, "scheduled backups are on");
        let this = self.clone();
        let ready = move || make_dir(&this.schedule.dir).and_then(|()| lock(&this.schedule.dir).map(drop));
        match tokio::task::spawn_blocking(ready).await {
            Ok(Err(reason)) if !matches!(reason, Error::Busy(_)) => self.failed(&reason),
            _ => {}
        }
        let look_interval = (*interval / 10).min(MAX_LOOK_INTERVAL);
        loop {
            tokio::select! {
                _ = tokio::time::sleep(look_interval) => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
            let this = self.clone();
            // One that is cut short by a stop is removed before the next.
            let _ = tokio::task::spawn_blocking(move || this.look()).await;
        }
    }

    /// The backups of this cluster in this member's folder, oldest first.
    pub fn list(&self) -> Result<Vec<(Backup, u64)>, Error> {
        let dir = &self.schedule.dir;
        let mut found = match list(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            found => found.map_err(|source| Error::Io { doing: "reading", path: dir.clone(), source })?,
        };
        found.retain(|(backup, _)| backup.cluster_id == self.node.cluster_id);
        Ok(found)
    }

    /// Takes one for whoever asks, whether it is due or not. Blocks for as long as that takes.
    pub fn take_asked(&self) -> Result<(Backup, u64), Error> {
        self.check_leads()?;
        let Some(mut asked) = self.asked.try_lock() else { return Err(Error::Busy(self.schedule.dir.clone())) };
        let interval = self.schedule.interval.min(MAX_ASK_INTERVAL);
        if let Some(ago) = asked.map(|asked| asked.elapsed()).filter(|ago| *ago < interval) {
            return Err(Error::TooSoon { ago, wait: interval - ago });
        }
        let taken = self.take(true);
        // One that failed has kept the disk as busy.
        if !matches!(taken, Err(Error::NotLeader(_) | Error::Busy(_))) {
            *asked = Some(Instant::now());
        }
        taken
    }

    fn take(&self, is_asked: bool) -> Result<(Backup, u64), Error> {
        let started = Instant::now();
        let taken = self.write(is_asked);
        match &taken {
            Ok((backup, bytes)) => {
                *self.failed.lock() = None;
                METRICS.backup_seconds.observe(started.elapsed().as_secs_f64());
                let dir = self.schedule.dir.display();
                info!(
                    "backup-dir" = %dir, name = %backup, revision = backup.revision, bytes, took = ?started.elapsed(),
                    "took a backup and verified it"
                );
                self.remove_expired(backup);
                self.count();
                self.tell_of_the_future();
            }
            Err(Error::NotLeader(_) | Error::Busy(_) | Error::NoRoom { is_asked: true, .. }) => {}
            Err(reason) => self.failed(reason),
        }
        taken
    }

    /// Takes one when it is time.
    fn look(&self) {
        self.count();
        if !self.leads() {
            return;
        }
        let failed = *self.failed.lock();
        let retry_interval = self.schedule.interval.min(MAX_RETRY_INTERVAL);
        if failed.is_some_and(|failed| failed.elapsed() < retry_interval) {
            return;
        }
        // A folder that cannot be read is told by the attempt to write into it.
        let now_s = now_s();
        let newest = self.list().ok().and_then(|list| newest_of(&list, now_s));
        let is_due =
            newest.is_none_or(|(newest, _)| Duration::from_secs(now_s - newest.taken_s) >= self.schedule.interval);
        if is_due {
            // The error has been logged.
            let _ = self.take(false);
        }
    }

    fn write(&self, is_asked: bool) -> Result<(Backup, u64), Error> {
        self.check_leads()?;
        let dir = &self.schedule.dir;
        make_dir(dir)?;
        let _lock = lock(dir)?;
        remove_unfinished(dir)?;
        let detail = |error: &dyn std::fmt::Display| error.to_string();
        let export = export(&self.node).map_err(|e| Error::Write { path: dir.clone(), detail: detail(&e) })?;
        check_room(dir, export.bytes(), is_asked)?;
        // The first revision of a store has no row, and `snapshot status` calls it 0.
        let revision = if export.revision() == 1 { 0 } else { export.revision() };
        let backup = Backup { taken_s: now_s(), revision, cluster_id: self.node.cluster_id };
        let part = Part { path: dir.join(format!("{UNFINISHED}{backup}")) };
        let path = &part.path;
        let io = |doing| move |source| Error::Io { doing, path: path.clone(), source };
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(path).map_err(io("making"))?;
        let mut paced = Paced { backups: self, file: &file, pace: Mutex::new(Pace::new()), unsynced_bytes: 0 };
        let mut out = io::BufWriter::with_capacity(1 << 20, &mut paced);
        let written = match export.write(&mut out) {
            Ok(out) => out.flush().map_err(|e| detail(&e)),
            Err(error) => Err(detail(&error)),
        };
        drop(out);
        drop(export);
        self.check_leads()?;
        written.map_err(|detail| Error::Write { path: path.clone(), detail })?;
        file.sync_all().map_err(io("syncing"))?;
        forget_pages(&file);
        let bytes = file.metadata().map_err(io("reading"))?.len();
        paced.pace = Mutex::new(Pace::new());
        let verified = backup::verify(&paced, bytes, Some(backup.revision));
        self.check_leads()?;
        verified.map_err(|source| Error::Verify { path: path.clone(), source })?;
        let target = dir.join(backup.to_string());
        fs::rename(path, &target).map_err(io("naming"))?;
        sync_dir(dir)?;
        Ok((backup, bytes))
    }

    fn remove_expired(&self, newest: &Backup) {
        let Ok(list) = self.list() else { return };
        let all: Vec<Backup> = list.into_iter().map(|(backup, _)| backup).collect();
        for old in expired(&all, newest, now_s(), self.schedule.retention.as_secs()) {
            match fs::remove_file(self.schedule.dir.join(old.to_string())) {
                Ok(()) => info!(name = %old, "removed a backup that is older than --backup-retention"),
                Err(error) => warn!(name = %old, error = %error, "failed to remove an old backup"),
            }
        }
    }

    fn count(&self) {
        let Ok(list) = self.list() else { return };
        METRICS.backup_files.set(list.len() as i64);
        let (taken_s, bytes) = newest_of(&list, now_s()).map_or((0, 0), |(newest, bytes)| (newest.taken_s, bytes));
        METRICS.backup_last_success_s.set(taken_s as i64);
        METRICS.backup_last_bytes.set(bytes as i64);
    }

    /// Those that count for nothing yet, and do not go either.
    fn tell_of_the_future(&self) {
        let now_s = now_s();
        let Ok(list) = self.list() else { return };
        for (backup, _) in list.iter().filter(|(backup, _)| backup.taken_s > now_s) {
            warn!(
                name = %backup, taken = %backup.taken(),
                "a backup is dated ahead of this member's clock: it does not count as the last one, and stays until \
                 it is older than --backup-retention; look after the clocks"
            );
        }
    }

    fn failed(&self, reason: &Error) {
        *self.failed.lock() = Some(Instant::now());
        METRICS.backup_failures.inc();
        error!(
            "backup-dir" = %self.schedule.dir.display(), error = %reason,
            "failed to take a backup; older ones stay, and it will be tried again"
        );
    }

    fn leads(&self) -> bool {
        self.node.status().leader == self.node.member_id && !self.node.is_stopping()
    }

    fn check_leads(&self) -> Result<(), Error> {
        if self.leads() {
            return Ok(());
        }
        let leader = self.node.status().leader;
        let urls = self.node.membership().member(leader).map(|member| member.client_urls.clone());
        Err(Error::NotLeader(urls.unwrap_or_default()))
    }
}

/// A file that is gone when this is; after it got its name there is none.
struct Part {
    path: PathBuf,
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Writes and reads no faster than it should, and only while this member leads.
struct Paced<'a> {
    backups: &'a Backups,
    file: &'a File,
    pace: Mutex<Pace>,
    unsynced_bytes: u64,
}

struct Pace {
    started: Instant,
    bytes: u64,
}

impl Pace {
    fn new() -> Pace {
        Pace { started: Instant::now(), bytes: 0 }
    }
}

impl Paced<'_> {
    fn keep(&self, bytes: usize) -> io::Result<()> {
        if !self.backups.leads() {
            return Err(io::Error::other("this member does not lead any more"));
        }
        let mut pace = self.pace.lock();
        pace.bytes += bytes as u64;
        let until = Duration::from_micros(pace.bytes.saturating_mul(1_000_000) / PACE_BYTES_PER_S);
        let early = until.saturating_sub(pace.started.elapsed());
        // Shorter ones add up.
        if early > Duration::from_millis(5) {
            std::thread::sleep(early);
        }
        Ok(())
    }
}

impl Write for Paced<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.keep(bytes.len())?;
        let written = self.file.write(bytes)?;
        self.unsynced_bytes += written as u64;
        if self.unsynced_bytes >= UNSYNCED_BYTES {
            self.file.sync_data()?;
            self.unsynced_bytes = 0;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ReadAt for Paced<'_> {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.keep(out.len())?;
        self.file.read_exact_at(out, offset)
    }
}

fn make_dir(dir: &Path) -> Result<(), Error> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| Error::Io { doing: "making the folder of --backup-dir,", path: dir.to_owned(), source })
}

/// Whoever has it is the only one who writes into the folder, among the members of all clusters.
fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join(LOCK);
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
    let failed = |source| Error::Io { doing: "locking", path: path.clone(), source };
    let file = file.map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Busy(dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Under the lock: nobody writes what a process has left that was killed.
fn remove_unfinished(dir: &Path) -> Result<(), Error> {
    let io = |doing| move |source| Error::Io { doing, path: dir.to_owned(), source };
    for entry in fs::read_dir(dir).map_err(io("reading"))? {
        let name = entry.map_err(io("reading"))?.file_name();
        let is_ours = name.to_str().and_then(|name| name.strip_prefix(UNFINISHED)).and_then(Backup::parse).is_some();
        if is_ours {
            fs::remove_file(dir.join(&name)).map_err(io("removing an unfinished backup in"))?;
            warn!(name = %name.to_string_lossy(), "removed a backup that was never finished");
        }
    }
    Ok(())
}

/// Before anything is written: a disk that fills up while a backup is made stops those who write the log there.
fn check_room(dir: &Path, bytes: u64, is_asked: bool) -> Result<(), Error> {
    let free =
        free_bytes(dir).map_err(|source| Error::Io { doing: "looking for room in", path: dir.to_owned(), source })?;
    let wanted = bytes.saturating_mul(if is_asked { 2 } else { 1 }).saturating_add(LEFT_BYTES);
    if free < wanted {
        return Err(Error::NoRoom { dir: dir.to_owned(), free, wanted, bytes, is_asked });
    }
    Ok(())
}

fn sync_dir(dir: &Path) -> Result<(), Error> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|source| Error::Io { doing: "syncing", path: dir.to_owned(), source })
}

/// What is read back comes from the disk then, as far as the system grants it.
fn forget_pages(file: &File) {
    // SAFETY: plain numbers and a descriptor that `file` keeps open; no memory is shared. It is advice.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn at(urls: &[String]) -> String {
    if urls.is_empty() { String::new() } else { format!(" at {}", urls.join(",")) }
}
