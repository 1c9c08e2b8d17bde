//! `Maintenance.Snapshot`: a view of the store as an etcd database, in blobs as etcd cuts them, and its digest.
//!
//! It is written while it is sent, by a thread of its own, so memory holds some blobs of it. Writes go on meanwhile,
//! but the view pins pages of the store: a client must take [`LEAST_BYTES_PER_S`] on average, with [`ALLOWANCE`] to
//! spare, or is given up. (A copy on the disk would pin nothing, and might take the room that the member needs.)

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lockstep_proto::etcdserverpb::SnapshotResponse;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout_at;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tracing::{info, warn};

use super::{store_status, too_many_requests};
use crate::CLUSTER_VERSION;
use crate::interop::snapshot::DIGEST_BYTES;
use crate::interop::store::Error;
use crate::server::metrics::METRICS;
use crate::server::node::Node;
use crate::server::snapshots::export;

/// A blob of etcd's.
const BLOB_BYTES: usize = 32 << 10;
/// Blobs between the thread and the client.
const BLOBS: usize = 32;
const LEAST_BYTES_PER_S: u64 = 64 << 10;
const ALLOWANCE: Duration = Duration::from_secs(60);
/// Each is a thread and a pinned view.
const AT_A_TIME: usize = 4;

type Blob = Result<SnapshotResponse, Status>;

pub type SnapshotStream = ReceiverStream<Blob>;

/// See the head of this file.
pub struct Snapshots {
    permits: Arc<Semaphore>,
}

impl Default for Snapshots {
    fn default() -> Snapshots {
        Snapshots { permits: Arc::new(Semaphore::new(AT_A_TIME)) }
    }
}

impl Snapshots {
    /// Begins to send the newest view.
    pub fn send(&self, node: &Arc<Node>) -> Result<SnapshotStream, Status> {
        let permit = self.permits.clone().try_acquire_owned().map_err(|_| too_many_requests())?;
        let (written, blobs) = mpsc::channel(BLOBS);
        let (sent, stream) = mpsc::channel(BLOBS);
        let node = node.clone();
        let work = move || write(&node, permit, written);
        std::thread::Builder::new()
            .name("snapshot".into())
            .spawn(work)
            .map_err(|e| Status::resource_exhausted(format!("starting the thread that writes the snapshot: {e}")))?;
        tokio::spawn(pass_on(blobs, sent));
        Ok(ReceiverStream::new(stream))
    }
}

/// Gives a client up that takes too little: then the thread that writes ends, and the view with it.
async fn pass_on(mut blobs: mpsc::Receiver<Blob>, client: mpsc::Sender<Blob>) {
    let started = tokio::time::Instant::now();
    let mut bytes = 0;
    while let Some(blob) = blobs.recv().await {
        bytes += blob.as_ref().map_or(0, |blob| blob.blob.len() as u64);
        let until = started + ALLOWANCE + Duration::from_secs(bytes / LEAST_BYTES_PER_S);
        match timeout_at(until, client.send(blob)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => {
                drop(blobs);
                warn!(bytes, took = ?started.elapsed(), "gave up a client that takes its snapshot too slowly");
                let text = format!("lockstep: the snapshot was taken slower than {LEAST_BYTES_PER_S} bytes a second");
                // It holds some blobs for as long as the connection lasts.
                let _ = client.send(Err(Status::deadline_exceeded(text))).await;
                return;
            }
        }
    }
}

fn write(node: &Node, _permit: OwnedSemaphorePermit, out: mpsc::Sender<Blob>) {
    let started = Instant::now();
    let written = export(node).and_then(|export| {
        let total_bytes = export.bytes() - DIGEST_BYTES as u64;
        info!("total-bytes" = total_bytes, "sending database snapshot to client");
        let mut blobs = Blobs { out: &out, left: total_bytes, buffer: Vec::with_capacity(BLOB_BYTES) };
        export.write(&mut blobs)?;
        blobs.flush()?;
        Ok(total_bytes)
    });
    match written {
        Ok(bytes) => {
            METRICS.snapshot_seconds.observe(started.elapsed().as_secs_f64());
            info!("total-bytes" = bytes, took = ?started.elapsed(), "sent database snapshot to client");
        }
        Err(_) if out.is_closed() => info!(took = ?started.elapsed(), "the client of a snapshot went away"),
        Err(error) => {
            warn!(%error, "failed to send database snapshot to client");
            let status = match error {
                Error::Store(error) => store_status(error),
                error => Status::internal(error.to_string()),
            };
            let _ = out.blocking_send(Err(status));
        }
    }
}

/// Cuts what is written into blobs; none has bytes of the database and of its digest.
struct Blobs<'a> {
    out: &'a mpsc::Sender<Blob>,
    /// Of the database.
    left: u64,
    buffer: Vec<u8>,
}

impl Write for Blobs<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut room = BLOB_BYTES - self.buffer.len();
        if self.left > 0 {
            room = room.min(self.left as usize - self.buffer.len());
        }
        let taken = room.min(bytes.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if taken == room {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let blob = Bytes::from(std::mem::replace(&mut self.buffer, Vec::with_capacity(BLOB_BYTES)));
        self.left = self.left.saturating_sub(blob.len() as u64);
        let response = SnapshotResponse {
            // etcd sends none.
            header: None,
            remaining_bytes: self.left,
            blob,
            version: CLUSTER_VERSION.to_owned(),
        };
        self.out.blocking_send(Ok(response)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
