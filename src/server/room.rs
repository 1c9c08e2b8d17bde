//! Waiting for room on a full disk, instead of stopping as etcd does.
//!
//! A write that finds no space has changed nothing that counts, so whoever must have it done tries it again until
//! there is space: the log for what it was given, the store for a commit. Meanwhile nothing is acknowledged that is not
//! durable, this member refuses what would have to be written, gives up leading, and says so; reads go on. Work that
//! may fail (a defragmentation's copy, a peer's snapshot, a segment prepared ahead of need) does not wait: it fails,
//! and gives back what it took. A failed fsync is another matter: what it lost is lost, and the member stops.
//!
//! Who waits is decided by what is being done, not by which file it is for: [`Room::insist`] marks the thread, the real
//! disk asks [`retried`] for every change. A boot does not wait, so that a member which cannot start says why.

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::{error, info};

use super::metrics::METRICS;

const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// Between two lines of the log that say the same.
const SAY_INTERVAL: Duration = Duration::from_secs(60);

thread_local! {
    static INSISTS: RefCell<Option<(Arc<Room>, Work)>> = const { RefCell::new(None) };
}

/// Who waits for space, and since when.
#[derive(Debug, Default)]
pub struct Room {
    waiting: AtomicUsize,
    store_waits: AtomicBool,
    since: Mutex<Option<(Instant, String)>>,
}

/// Who insists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    Log,
    Store,
}

impl Room {
    /// Does `work`; each of its changes to a disk that finds no space is tried until there is some.
    pub fn insist<T>(self: &Arc<Room>, work: Work, todo: impl FnOnce() -> T) -> T {
        if work == Work::Log {
            self.wait_for_store();
        }
        INSISTS.set(Some((self.clone(), work)));
        let done = todo();
        INSISTS.set(None);
        done
    }

    /// Since when there has been no space for what must be written, and where; `None` while there is.
    pub fn lacking(&self) -> Option<(Duration, String)> {
        if !self.is_lacking() {
            return None;
        }
        self.since.lock().as_ref().map(|(since, place)| (since.elapsed(), place.clone()))
    }

    pub fn is_lacking(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// What the log takes on has to go into the store later: where that waits, its memory is not to grow without end.
    fn wait_for_store(&self) {
        while self.store_waits.load(Ordering::Relaxed) {
            std::thread::sleep(RETRY_INTERVAL);
        }
    }

    fn wait<T>(
        &self,
        work: Work,
        path: &Path,
        mut error: io::Error,
        mut change: impl FnMut() -> io::Result<T>,
    ) -> io::Result<T> {
        let waiting = Waiting::begin(self, work, path);
        let began = Instant::now();
        let mut said: Option<Instant> = None;
        loop {
            if said.is_none_or(|said| said.elapsed() >= SAY_INTERVAL) {
                error!(
                    path = %path.display(),
                    error = %error,
                    waited = ?began.elapsed(),
                    "no space left on the disk: reads go on, writes are refused until there is; free space there, the \
                     member goes on by itself"
                );
                said = Some(Instant::now());
            }
            std::thread::sleep(RETRY_INTERVAL);
            match change() {
                Err(again) if is_full(&again) => error = again,
                done => {
                    drop(waiting);
                    info!(path = %path.display(), waited = ?began.elapsed(), "there is space on the disk again");
                    return done;
                }
            }
        }
    }
}

/// A change to the disk at `path`, tried again where the thread insists on it.
pub fn retried<T>(path: &Path, mut change: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    match change() {
        Err(error) if is_full(&error) => match INSISTS.with_borrow(Clone::clone) {
            Some((room, work)) => room.wait(work, path, error, change),
            None => Err(error),
        },
        done => done,
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

struct Waiting<'a> {
    room: &'a Room,
    work: Work,
}

impl<'a> Waiting<'a> {
    fn begin(room: &'a Room, work: Work, path: &Path) -> Waiting<'a> {
        let mut since = room.since.lock();
        since.get_or_insert_with(|| (Instant::now(), path.display().to_string()));
        room.waiting.fetch_add(1, Ordering::Relaxed);
        if work == Work::Store {
            room.store_waits.store(true, Ordering::Relaxed);
        }
        METRICS.disk_full.set(1);
        Waiting { room, work }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut since = self.room.since.lock();
        if self.work == Work::Store {
            self.room.store_waits.store(false, Ordering::Relaxed);
        }
        if self.room.waiting.fetch_sub(1, Ordering::Relaxed) == 1 {
            *since = None;
            METRICS.disk_full.set(0);
        }
    }
}
