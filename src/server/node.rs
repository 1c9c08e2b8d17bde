//! What the services see of the member: propose a request, get a view, ask for its status.
//!
//! Calls come from tokio's workers; the member's threads answer through one-shot channels. Nothing here blocks, and
//! nobody waits longer than the request time-out: 5 s and two elections, as in etcd.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lockstep_proto::etcdserverpb::{InternalRaftRequest, RequestHeader};
use parking_lot::{Mutex, RwLock};
use prost::Message;
use tokio::sync::{oneshot, watch};

use super::host::{Mailbox, RealClock};
use crate::member::apply::{Reply, Response};
use crate::member::error::EtcdError;
use crate::member::membership::Membership;
use crate::member::raft::{Input, Proposal, ReadRequest, Status};
use crate::mvcc::View;
use crate::ports::clock::{Clock, Instant};

/// Committed but not yet applied entries beyond which new requests are refused.
const MAX_APPLY_LAG: u64 = 5_000;

/// One member, as its services see it.
pub struct Node {
    pub member_id: u64,
    pub cluster_id: u64,
    /// A marshalled request may be no larger.
    pub max_request_bytes: usize,
    pub request_timeout: Duration,
    pub(super) mailbox: Mailbox,
    pub(super) clock: RealClock,
    next_request: AtomicU64,
    next_read: AtomicU64,
    waiting: [Shard; SHARDS],
    reads: Mutex<HashMap<u64, oneshot::Sender<u64>>>,
    published: Published,
    status: RwLock<Status>,
    membership: watch::Sender<Arc<Membership>>,
    /// The leader, 0 when there is none.
    leader: watch::Sender<u64>,
    stopping: watch::Sender<bool>,
}

const SHARDS: usize = 16;

/// Who waits for the request of an id.
type Shard = Mutex<HashMap<u64, oneshot::Sender<Result<Response, EtcdError>>>>;

/// The newest view, and who waits for a newer one.
struct Published {
    view: RwLock<Arc<View>>,
    waiting: Mutex<BTreeMap<u64, Vec<oneshot::Sender<Arc<View>>>>>,
}

/// A view a linearizable read may use, or a local one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    Linearizable,
    Serializable,
}

impl Node {
    #[allow(clippy::too_many_arguments)]
    pub(super) fn new(
        member_id: u64,
        cluster_id: u64,
        epoch: u64,
        max_request_bytes: usize,
        request_timeout: Duration,
        mailbox: Mailbox,
        clock: RealClock,
        view: Arc<View>,
        membership: Arc<Membership>,
        status: Status,
    ) -> Node {
        // Unique among this member's requests in flight, and unlike another member's: the same shape as etcd's ids.
        let first_request = ((member_id & 0xffff) << 48) | ((epoch & 0xff) << 40);
        Node {
            member_id,
            cluster_id,
            max_request_bytes,
            request_timeout,
            mailbox,
            clock,
            next_request: AtomicU64::new(first_request + 1),
            next_read: AtomicU64::new(1),
            waiting: Default::default(),
            reads: Mutex::default(),
            published: Published { view: RwLock::new(view), waiting: Mutex::default() },
            status: RwLock::new(status),
            membership: watch::Sender::new(membership),
            leader: watch::Sender::new(status.leader),
            stopping: watch::Sender::new(false),
        }
    }

    /// Puts a request through the log; returns what applying it gave.
    pub async fn propose(&self, mut request: InternalRaftRequest) -> Result<Response, EtcdError> {
        let status = self.status();
        if status.commit > status.applied + MAX_APPLY_LAG {
            return Err(EtcdError::TooManyRequests);
        }
        let id = self.next_request.fetch_add(1, Ordering::Relaxed);
        request.header = Some(RequestHeader { id, ..Default::default() });
        let data = request.encode_to_vec();
        if data.len() > self.max_request_bytes {
            return Err(EtcdError::RequestTooLarge);
        }
        let (sender, receiver) = oneshot::channel();
        self.shard(id).lock().insert(id, sender);
        let proposal = Proposal { data: data.into(), expires: self.expires() };
        self.mailbox.consensus(Input::Propose(proposal));
        match tokio::time::timeout(self.request_timeout, receiver).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(EtcdError::Stopped),
            Err(_) => {
                self.shard(id).lock().remove(&id);
                Err(self.timed_out())
            }
        }
    }

    /// A view to read from.
    pub async fn view(&self, consistency: Consistency) -> Result<Arc<View>, EtcdError> {
        match consistency {
            Consistency::Serializable => Ok(self.published.view.read().clone()),
            Consistency::Linearizable => {
                let linearizable = self.linearizable_view();
                tokio::time::timeout(self.request_timeout, linearizable).await.unwrap_or_else(|_| Err(self.timed_out()))
            }
        }
    }

    /// The newest view, whatever the rest of the cluster knows.
    pub fn local_view(&self) -> Arc<View> {
        self.published.view.read().clone()
    }

    pub fn status(&self) -> Status {
        *self.status.read()
    }

    pub fn membership(&self) -> Arc<Membership> {
        self.membership.borrow().clone()
    }

    pub fn watch_membership(&self) -> watch::Receiver<Arc<Membership>> {
        self.membership.subscribe()
    }

    pub fn watch_leader(&self) -> watch::Receiver<u64> {
        self.leader.subscribe()
    }

    pub fn watch_stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    async fn linearizable_view(&self) -> Result<Arc<View>, EtcdError> {
        let id = self.next_read.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        let guard = ReadGuard { node: self, id };
        self.reads.lock().insert(id, sender);
        self.mailbox.consensus(Input::Read(ReadRequest { id, expires: self.expires() }));
        let index = receiver.await.map_err(|_| EtcdError::Stopped)?;
        drop(guard);
        self.wait_applied(index).await
    }

    async fn wait_applied(&self, index: u64) -> Result<Arc<View>, EtcdError> {
        let receiver = {
            let mut waiting = self.published.waiting.lock();
            // Under the lock that publishing takes, so that no view slips in between.
            let view = self.published.view.read().clone();
            if view.applied_index() >= index {
                return Ok(view);
            }
            let (sender, receiver) = oneshot::channel();
            waiting.entry(index).or_default().push(sender);
            receiver
        };
        receiver.await.map_err(|_| EtcdError::Stopped)
    }

    fn expires(&self) -> Instant {
        Instant(self.clock.now().0 + self.request_timeout.as_millis() as u64)
    }

    fn timed_out(&self) -> EtcdError {
        EtcdError::Timeout
    }

    fn shard(&self, id: u64) -> &Shard {
        &self.waiting[(id as usize) % SHARDS]
    }

    // What the member's threads call.

    pub(super) fn publish(&self, view: Arc<View>) {
        let applied = view.applied_index();
        let ready = {
            let mut waiting = self.published.waiting.lock();
            *self.published.view.write() = view.clone();
            if waiting.is_empty() {
                return;
            }
            let later = waiting.split_off(&(applied + 1));
            std::mem::replace(&mut *waiting, later)
        };
        for sender in ready.into_values().flatten() {
            let _ = sender.send(view.clone());
        }
    }

    pub(super) fn reply(&self, reply: Reply) {
        if let Some(sender) = self.shard(reply.id).lock().remove(&reply.id) {
            let _ = sender.send(reply.result);
        }
    }

    pub(super) fn read_ready(&self, reads: &[ReadRequest], index: u64) {
        let mut waiting = self.reads.lock();
        for read in reads {
            if let Some(sender) = waiting.remove(&read.id) {
                let _ = sender.send(index);
            }
        }
    }

    pub(super) fn set_status(&self, status: Status) {
        *self.status.write() = status;
        if *self.leader.borrow() != status.leader {
            self.leader.send_replace(status.leader);
        }
    }

    pub(super) fn set_membership(&self, membership: Arc<Membership>) {
        self.membership.send_replace(membership);
    }

    /// Lets everybody who waits go with `server stopped`.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
        for shard in &self.waiting {
            shard.lock().clear();
        }
        self.reads.lock().clear();
        self.published.waiting.lock().clear();
    }
}

/// Forgets a read whose client went away.
struct ReadGuard<'a> {
    node: &'a Node,
    id: u64,
}

impl Drop for ReadGuard<'_> {
    fn drop(&mut self) {
        self.node.reads.lock().remove(&self.id);
    }
}
