//! Whether a peer can be reached, and since when, with etcd's two log lines at the turns. May not decide anything.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tracing::{debug, info, warn};

#[derive(Debug)]
pub(super) struct PeerStatus {
    peer: String,
    since: Mutex<Option<Instant>>,
    disconnected: AtomicU64,
}

impl PeerStatus {
    pub fn new(peer: String) -> PeerStatus {
        PeerStatus { peer, since: Mutex::new(None), disconnected: AtomicU64::new(0) }
    }

    pub fn since(&self) -> Option<Instant> {
        *self.since.lock()
    }

    /// How often it became inactive.
    pub fn disconnected(&self) -> u64 {
        self.disconnected.load(Ordering::Relaxed)
    }

    pub fn activate(&self) {
        let mut since = self.since.lock();
        if since.is_none() {
            *since = Some(Instant::now());
            info!("peer-id" = %self.peer, "peer became active");
        }
    }

    /// `source` and `action` as in etcd: "failed to dial 8e9e05c52164694d on stream Message (...)".
    pub fn deactivate(&self, source: &str, action: &str, reason: &str) {
        let was_active = self.since.lock().take().is_some();
        let error = format!("failed to {action} {} on {source} ({reason})", self.peer);
        if was_active {
            self.disconnected.fetch_add(1, Ordering::Relaxed);
            warn!("peer-id" = %self.peer, %error, "peer became inactive (message send to peer failed)");
        } else {
            debug!("peer-id" = %self.peer, %error, "peer deactivated again");
        }
    }
}
