//! Snapshots between members: the view that is sent, and the one that is being received.
//!
//! Both are written and read on threads of their own, in pieces, so that neither memory nor anybody's time grows with
//! the store. At most one is received at a time, and the next only when consensus has installed or refused it.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::metrics::METRICS;
use super::node::Node;
use super::peer::Pieces;
use crate::interop::ReadAt;
use crate::interop::store::{Error, Export, For};
use crate::member::boot::SNAP_DIR;
use crate::member::raft::SnapshotMeta;
use crate::member::snapshot;
use crate::mvcc::read::{Error as StoreError, Read};
use crate::mvcc::{self, Backend, Store, View};
use crate::ports::disk::{Disk, DiskFile, Open};

/// How much of a snapshot is on its way within the process.
const PIECE_BYTES: usize = 64 << 10;
const PIECES: usize = 8;

/// See the head of this file.
pub struct Snapshots {
    disk: Arc<dyn Disk>,
    store: mvcc::Options,
    /// What members are sent that the log cannot bring up to date.
    kept: Mutex<Option<Arc<View>>>,
    /// One is being received, or waits for consensus.
    receiving: Mutex<bool>,
}

impl Snapshots {
    pub fn new(disk: Arc<dyn Disk>, store: mvcc::Options) -> Snapshots {
        Snapshots { disk, store, kept: Mutex::default(), receiving: Mutex::default() }
    }

    pub fn keep(&self, view: Arc<View>) {
        *self.kept.lock() = Some(view);
    }

    pub fn drop_kept(&self) {
        *self.kept.lock() = None;
    }

    /// The snapshot of this index, written while it is taken. `None` when it is not kept any more.
    pub fn open(&self, index: u64) -> Option<Pieces> {
        let view = self.kept.lock().clone().filter(|view| view.applied_index() == index)?;
        let (pieces, body) = mpsc::channel(PIECES);
        let write = move || {
            let mut out = ToPieces { pieces, buffer: Vec::with_capacity(PIECE_BYTES) };
            let started = Instant::now();
            let written = snapshot::write(&view, &mut out).map_err(io::Error::other).and_then(|()| out.flush());
            match written {
                Ok(()) => METRICS.snapshot_seconds.observe(started.elapsed().as_secs_f64()),
                Err(error) => drop(out.pieces.blocking_send(Err(error))),
            }
        };
        // Without a thread for it there is no snapshot, and raft will ask again.
        std::thread::Builder::new().name("snapshot".into()).spawn(write).ok()?;
        Some(body)
    }

    /// Takes a snapshot that a peer sends: when this returns `Ok`, its store lies on the disk.
    pub async fn receive(self: &Arc<Snapshots>, meta: SnapshotMeta, body: Pieces) -> Result<(), String> {
        if std::mem::replace(&mut *self.receiving.lock(), true) {
            return Err("another snapshot is being received".into());
        }
        let this = self.clone();
        let index = meta.index;
        let took = tokio::task::spawn_blocking(move || this.take(&meta, body)).await;
        let took = took.unwrap_or_else(|error| Err(io::Error::other(error.to_string())));
        if took.is_err() {
            self.received_no_more();
        }
        took.map_err(|error| format!("receiving the snapshot of entry {index}: {error}"))
    }

    /// Consensus is done with the one that was received.
    pub fn received_no_more(&self) {
        *self.receiving.lock() = false;
    }

    pub fn install(&self, index: u64) -> Result<(Store, Backend), String> {
        snapshot::install(&self.disk, index, self.store)
            .map_err(|error| format!("taking over the received snapshot of entry {index}: {error}"))
    }

    pub fn discard(&self, index: u64) {
        if let Err(error) = snapshot::discard(&*self.disk, index) {
            warn!(%error, index, "failed to remove a snapshot that is of no use");
        }
        self.received_no_more();
    }

    /// First as it comes, then as a store of ours: the pages of a database refer to each other in any order.
    fn take(&self, meta: &SnapshotMeta, mut body: Pieces) -> io::Result<()> {
        let started = Instant::now();
        let path = format!("{SNAP_DIR}/{:016x}.snap.db", meta.index);
        let spool = Spool { disk: &*self.disk, path: &path };
        let file = spool.create()?;
        let mut length = 0;
        while let Some(piece) = body.blocking_recv() {
            let piece = piece?;
            file.write_at(length, &piece)?;
            length += piece.len() as u64;
        }
        info!(index = meta.index, bytes = length, "received and saved database snapshot");
        snapshot::receive(&self.disk, &Image(&*file), length, meta).map_err(io::Error::other)?;
        METRICS.snapshot_save_seconds.observe(started.elapsed().as_secs_f64());
        Ok(())
    }
}

/// A file that is gone when this is.
struct Spool<'a> {
    disk: &'a dyn Disk,
    path: &'a str,
}

impl Spool<'_> {
    fn create(&self) -> io::Result<Arc<dyn DiskFile>> {
        if self.disk.exists(self.path)? {
            self.disk.remove(self.path)?;
        }
        self.disk.open(self.path, Open::CreateNew)
    }
}

impl Drop for Spool<'_> {
    fn drop(&mut self) {
        let _ = self.disk.remove(self.path);
    }
}

struct Image<'a>(&'a dyn DiskFile);

impl ReadAt for Image<'_> {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, out)
    }
}

struct ToPieces {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Write for ToPieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE_BYTES));
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody takes the snapshot any more");
        if piece.is_empty() { Ok(()) } else { self.pieces.blocking_send(Ok(piece.into())).map_err(gone) }
    }
}

/// For clients and backups. Plans on a fresh view whenever a compaction overtook the one before.
pub fn export(node: &Node) -> Result<Export, Error> {
    let mut view = node.local_view();
    loop {
        match Export::new(view.clone(), For::Restore) {
            Err(Error::Store(StoreError::Overtaken)) => {
                let fresh = node.local_view();
                if Arc::ptr_eq(&fresh, &view) || fresh.rev() <= view.rev() {
                    return Err(StoreError::Overtaken.into());
                }
                view = fresh;
            }
            made => return made,
        }
    }
}
