//! The member's keeper of leases behind a lock, and the thread that drives it.
//!
//! The apply thread tells it what became of leases, client threads renew, its own thread looks at what expires. Each
//! holds the lock for a bounded piece of work, so that none holds up another for long; consensus never takes it. A
//! renewal costs a round of reads, shared with all that wait, and nothing of the log.

use std::sync::Arc;
use std::time::Duration;

use lockstep_proto::etcdserverpb::{LeaseTimeToLiveRequest, LeaseTimeToLiveResponse};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::node::Node;
use crate::member::error::EtcdError;
use crate::member::lease::{Change, Counts, Effect, Keeper, Renewal, Settings, TimeToLive, min_ttl_s};
use crate::ports::clock::Instant;

/// See the head of this file.
pub struct Leases {
    /// The shortest TTL that is granted.
    pub min_ttl_s: i64,
    keeper: Mutex<Keeper>,
    /// Counts what the keeper has heard: for those whom it told to ask again later.
    news: watch::Sender<u64>,
    /// The keeper's thread has something to look at.
    woken: Notify,
}

/// Why this member cannot say anything about a lease itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unable {
    /// Ask who leads.
    NotPrimary,
    /// The client is told this.
    Failed(EtcdError),
}

/// How often the thread looks whether the member's role has changed.
const TICK: Duration = Duration::from_millis(100);
/// Leases listed at a time.
const LIST_LEASES: usize = 4_096;

impl Leases {
    pub fn new(election_ms: u64, heartbeat_ms: u64) -> Leases {
        Leases {
            min_ttl_s: min_ttl_s(election_ms / heartbeat_ms.max(1), heartbeat_ms),
            keeper: Mutex::new(Keeper::new(Settings::new(election_ms))),
            news: watch::Sender::new(0),
            woken: Notify::new(),
        }
    }

    /// From the apply thread.
    pub fn changed(&self, now: Instant, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        // In pieces: a restart hands in all leases there are.
        for piece in changes.chunks(LIST_LEASES) {
            self.keeper.lock().changed(now, piece);
        }
        self.tell();
    }

    /// How many leases there are, and what happened to leases since the start: for the metrics.
    pub fn counts(&self) -> (usize, Counts) {
        let keeper = self.keeper.lock();
        (keeper.len(), keeper.counts())
    }

    /// All leases: where this member leads, the one that expires first comes first, else by their ids.
    pub fn list(&self) -> Vec<i64> {
        let mut all = Vec::new();
        loop {
            let after = all.last().map(|(_, id)| *id);
            let piece = self.keeper.lock().list(after, LIST_LEASES);
            let is_last = piece.len() < LIST_LEASES;
            all.extend(piece);
            if is_last {
                break;
            }
        }
        all.sort();
        all.into_iter().map(|(_, id)| id).collect()
    }

    fn tell(&self) {
        self.news.send_modify(|count| *count += 1);
        self.woken.notify_one();
    }
}

impl Node {
    /// Renews these leases, if this member leads: the TTL of each, 0 for one that is not there (any more).
    pub async fn renew_leases(&self, ids: &[i64]) -> Result<Vec<i64>, Unable> {
        let mut news = self.leases.news.subscribe();
        let term = self.confirm().await.map_err(Unable::Failed)?.led.ok_or(Unable::NotPrimary)?;
        let mut ttls = vec![0; ids.len()];
        let mut open: Vec<usize> = (0..ids.len()).collect();
        loop {
            news.borrow_and_update();
            let mut is_leader = true;
            {
                let mut keeper = self.leases.keeper.lock();
                let now = self.now();
                open.retain(|at| match keeper.renew(now, ids[*at], term) {
                    Renewal::Renewed { ttl_s } => {
                        ttls[*at] = ttl_s;
                        false
                    }
                    Renewal::NotFound => false,
                    Renewal::Later => true,
                    Renewal::NotLeader => {
                        is_leader = false;
                        false
                    }
                });
            }
            if !is_leader {
                return Err(Unable::NotPrimary);
            }
            if open.is_empty() {
                return Ok(ttls);
            }
            self.leases.woken.notify_one();
            if self.is_stopping() || news.changed().await.is_err() {
                return Err(Unable::Failed(EtcdError::Stopped));
            }
        }
    }

    /// What is left of a lease, if this member leads; `None` when there is no such lease.
    pub async fn lease_time_to_live(
        &self,
        request: LeaseTimeToLiveRequest,
    ) -> Result<Option<LeaseTimeToLiveResponse>, Unable> {
        let term = self.confirm().await.map_err(Unable::Failed)?.led.ok_or(Unable::NotPrimary)?;
        let answer = self.leases.keeper.lock().time_to_live(self.now(), request.id, term);
        let (ttl, granted_ttl) = match answer {
            TimeToLive::Left { ttl_s, granted_ttl_s } => (ttl_s, granted_ttl_s),
            TimeToLive::NotFound => return Ok(None),
            TimeToLive::NotLeader => return Err(Unable::NotPrimary),
        };
        let keys = match request.keys {
            false => Vec::new(),
            true => match self.lease_keys(request.id).await {
                Ok(keys) => keys.iter().map(|key| key.to_vec()).collect(),
                Err(EtcdError::LeaseNotFound) => return Ok(None),
                Err(error) => return Err(Unable::Failed(error)),
            },
        };
        Ok(Some(LeaseTimeToLiveResponse { header: None, id: request.id, ttl, granted_ttl, keys }))
    }

    fn keep_leases(self: &Arc<Node>, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Confirm { term } => drop(tokio::spawn(confirm(self.clone(), term))),
                Effect::Propose { term, requests } => self.propose_in_term(term, requests),
            }
        }
    }
}

/// Drives the keeper until the member stops.
pub fn run(node: Arc<Node>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    // Timers and channels within the process need nothing that could be missing.
    runtime.expect("a runtime without sockets").block_on(keep(node));
}

async fn keep(node: Arc<Node>) {
    let mut stopping = node.watch_stopping();
    let mut leader = node.watch_leader();
    while !node.is_stopping() {
        let status = node.status();
        let (effects, wake_at, is_news) = {
            let mut keeper = node.leases.keeper.lock();
            let now = node.now();
            let led = keeper.leads();
            keeper.role(now, status.term, status.role);
            let effects = keeper.work(now);
            (effects, keeper.wake_at(now), keeper.leads() != led)
        };
        node.keep_leases(effects);
        if is_news {
            node.leases.news.send_modify(|count| *count += 1);
        }
        let pause = wake_at.map_or(TICK, |at| Duration::from_millis(at.saturating_since(node.now())).min(TICK));
        if pause.is_zero() {
            // Whoever wants the lock gets it, and rounds that are done are taken up.
            tokio::task::yield_now().await;
            continue;
        }
        tokio::select! {
            _ = tokio::time::sleep(pause) => {}
            _ = node.leases.woken.notified() => {}
            _ = leader.changed() => {}
            _ = stopping.changed() => {}
        }
    }
    // Those who wait for news hear that there is none.
    node.leases.news.send_modify(|count| *count += 1);
}

async fn confirm(node: Arc<Node>, term: u64) {
    // A round that fails is asked for again by the keeper.
    let Ok(granted) = node.confirm().await else { return };
    if granted.led == Some(term) {
        let effects = node.leases.keeper.lock().confirmed(node.now(), term);
        node.keep_leases(effects);
        node.leases.woken.notify_one();
    }
}
