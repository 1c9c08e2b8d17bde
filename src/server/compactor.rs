//! `--auto-compaction-mode` and `--auto-compaction-retention`: etcd's two compactors, by its rules of sampling.
//!
//! Every member samples; only the leader compacts. A compaction goes through the log like a client's.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_proto::etcdserverpb::{CompactionRequest, InternalRaftRequest};
use tracing::{info, warn};

use super::node::Node;
use crate::member::error::EtcdError;
use crate::mvcc::read::Read;

/// How much history is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    Periodic(Duration),
    Revisions(i64),
}

const HOUR: Duration = Duration::from_secs(60 * 60);
/// A period is sampled, and a failed compaction tried again, so many times in an hour, or in a shorter period.
const SAMPLES: u32 = 10;
const REVISION_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// Runs until the member stops.
pub async fn run(node: Arc<Node>, retention: Retention) {
    let mut stopping = node.watch_stopping();
    let compacting = async {
        match retention {
            Retention::Periodic(period) => periodic(&node, period).await,
            Retention::Revisions(kept) => revisions(&node, kept).await,
        }
    };
    tokio::select! {
        _ = compacting => {}
        _ = stopping.wait_for(|stopping| *stopping) => {}
    }
}

/// The newest sample that is a period old is compacted: first after a whole period, then every hour, or every period
/// where that is shorter.
async fn periodic(node: &Node, period: Duration) {
    let interval = period.min(HOUR);
    let sample_interval = (interval / SAMPLES).max(Duration::from_millis(1));
    let kept = (period.as_nanos() / sample_interval.as_nanos()) as usize + 1;
    let mut samples = VecDeque::new();
    let mut wait = period;
    let mut last = Instant::now();
    loop {
        samples.push_back(node.local_view().rev());
        if samples.len() > kept {
            samples.pop_front();
        }
        tokio::time::sleep(sample_interval).await;
        if !leads(node) || last.elapsed() < wait {
            continue;
        }
        wait = interval;
        let revision = samples[0];
        info!(revision, "compact-period" = ?period, "starting auto periodic compaction");
        let started = Instant::now();
        match compact(node, revision).await {
            Ok(()) => {
                let took = started.elapsed();
                info!(revision, "compact-period" = ?period, took = ?took, "completed auto periodic compaction");
                last = Instant::now();
            }
            Err(error) => warn!(
                revision,
                "compact-period" = ?period,
                "retry-interval" = ?sample_interval,
                error = %error,
                "failed auto periodic compaction"
            ),
        }
    }
}

/// Every five minutes, what lies further back than the kept revisions.
async fn revisions(node: &Node, kept: i64) {
    let mut compacted = 0;
    loop {
        tokio::time::sleep(REVISION_INTERVAL).await;
        let revision = node.local_view().rev() - kept;
        if !leads(node) || revision <= 0 || revision == compacted {
            continue;
        }
        info!(revision, "revision-compaction-retention" = kept, "starting auto revision compaction");
        let started = Instant::now();
        match compact(node, revision).await {
            Ok(()) => {
                let took = started.elapsed();
                info!(
                    revision,
                    "revision-compaction-retention" = kept,
                    took = ?took,
                    "completed auto revision compaction"
                );
                compacted = revision;
            }
            Err(error) => warn!(
                revision,
                "revision-compaction-retention" = kept,
                "retry-interval" = ?REVISION_INTERVAL,
                error = %error,
                "failed auto revision compaction"
            ),
        }
    }
}

fn leads(node: &Node) -> bool {
    node.status().leader == node.member_id
}

/// What is compacted already is as good.
async fn compact(node: &Node, revision: i64) -> Result<(), EtcdError> {
    let compaction = Some(CompactionRequest { revision, physical: false });
    match node.propose(InternalRaftRequest { compaction, ..Default::default() }).await {
        Ok(_) | Err(EtcdError::Compacted) => Ok(()),
        Err(error) => Err(error),
    }
}
