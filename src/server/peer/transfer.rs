//! How snapshots to and from a peer go: for `/metrics`, under etcd's names.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::{Histogram, HistogramOpts, exponential_buckets};
use tokio::time::Instant;

use super::identity::hex;

/// Those in one direction.
pub(super) struct Transfers {
    /// Of those that succeeded.
    seconds: Histogram,
    under_way: AtomicU64,
    failed: AtomicU64,
}

/// As `/metrics` shows them.
pub struct TransferReport {
    pub seconds: Histogram,
    pub under_way: u64,
    pub failed: u64,
}

impl TransferReport {
    /// As with etcd, there is nothing to show before the first.
    pub fn is_any(&self) -> bool {
        self.any().is_some() || self.under_way + self.failed > 0
    }

    pub fn any(&self) -> Option<&Histogram> {
        Some(&self.seconds).filter(|seconds| seconds.get_sample_count() > 0)
    }
}

impl Transfers {
    /// To this peer.
    pub fn to(peer: u64) -> Transfers {
        Transfers::new("send", "To", peer)
    }

    /// From this peer.
    pub fn from(peer: u64) -> Transfers {
        Transfers::new("receive", "From", peer)
    }

    fn new(what: &str, label: &str, peer: u64) -> Transfers {
        let name = format!("etcd_network_snapshot_{what}_total_duration_seconds");
        let opts = HistogramOpts::new(name, format!("Total latency distributions of v3 snapshot {what}s"));
        let opts = opts.const_label(label, hex(peer)).buckets(exponential_buckets(0.1, 2.0, 10).expect("they ascend"));
        let seconds = Histogram::with_opts(opts).expect("the name is well-formed");
        Transfers { seconds, under_way: AtomicU64::new(0), failed: AtomicU64::new(0) }
    }

    /// Until the answer is dropped, or [`Transfer::end`]ed.
    pub fn begin(&self) -> Transfer<'_> {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        Transfer { of: self, since: Instant::now() }
    }

    pub fn report(&self) -> TransferReport {
        TransferReport {
            seconds: self.seconds.clone(),
            under_way: self.under_way.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }
}

/// One that is under way.
pub(super) struct Transfer<'a> {
    of: &'a Transfers,
    since: Instant,
}

impl Transfer<'_> {
    pub fn end(self, ok: bool) {
        match ok {
            true => self.of.seconds.observe(self.since.elapsed().as_secs_f64()),
            false => drop(self.of.failed.fetch_add(1, Ordering::Relaxed)),
        }
    }
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        self.of.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}
