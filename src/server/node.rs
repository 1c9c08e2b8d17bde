//! What the services see of the member: propose a request, get a view, ask for its status.
//!
//! Calls come from tokio's workers; the member's threads answer through one-shot channels. Nothing here blocks, and
//! nobody waits longer than the request time-out: 5 s and two elections, as in etcd.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use lockstep_proto::etcdserverpb::{AlarmMember, InternalRaftRequest, RequestHeader};
use lockstep_proto::raftpb::ConfChange;
use parking_lot::{Mutex, RwLock};
use prost::Message;
use tokio::sync::watch;

use super::desk::{Answers, Desk, Granted, Sorted};
use super::host::{Mailbox, RealClock};
use super::leases::Leases;
use super::metrics::METRICS;
use super::room::Room;
use super::watching::Watching;
use crate::member::apply::{self, Change, Reply, Response};
use crate::member::error::EtcdError;
use crate::member::lease::Change as LeaseChange;
use crate::member::membership::{Member, Membership, ids};
use crate::member::raft::{Input, Proposal, ReadRequest, Status};
use crate::mvcc::View;
use crate::mvcc::read::Read;
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
    /// Streams that want a leader end when there has been none for so long.
    leaderless: Duration,
    pub(super) mailbox: Mailbox,
    pub(super) leases: Leases,
    clock: RealClock,
    /// Where the ids of this life's requests begin.
    life: u64,
    /// By number; the first is that of threads that serve no clients.
    desks: Vec<Arc<Desk>>,
    /// One for each desk but the first.
    pub(super) watching: Vec<Arc<Watching>>,
    published: Published,
    status: RwLock<Status>,
    alarms: RwLock<Arc<[AlarmMember]>>,
    /// `--quota-backend-bytes`.
    pub(super) quota: i64,
    pub(super) room: Arc<Room>,
    membership: watch::Sender<Arc<Membership>>,
    is_learner: AtomicBool,
    /// As the leader: how far each member's log is known to agree.
    progress: RwLock<Vec<(u64, u64)>>,
    /// The leader, 0 when there is none.
    leader: watch::Sender<u64>,
    stopping: watch::Sender<bool>,
    /// A peer said that this member was removed.
    told_to_leave: watch::Sender<bool>,
}

/// The newest view, and the reads that wait for a newer one, by the index that it must have applied.
struct Published {
    view: RwLock<Arc<View>>,
    waiting: Mutex<BTreeMap<u64, Vec<Waiting>>>,
}

/// Reads that have their index, and the term that their round confirmed.
struct Waiting {
    reads: Vec<ReadRequest>,
    led: Option<u64>,
}

/// A proposal that waits, in the metric of those.
struct Pending;

impl Drop for Pending {
    fn drop(&mut self) {
        METRICS.proposals_pending.dec();
    }
}

/// A view a linearizable read may use, or a local one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    Linearizable,
    Serializable,
}

/// What a node is made of.
pub(super) struct Parts {
    pub member_id: u64,
    pub cluster_id: u64,
    pub epoch: u64,
    pub max_request_bytes: usize,
    pub request_timeout: Duration,
    pub leaderless: Duration,
    pub mailbox: Mailbox,
    pub leases: Leases,
    pub quota: i64,
    pub clock: RealClock,
    pub desks: Vec<Arc<Desk>>,
    pub watching: Vec<Arc<Watching>>,
    pub view: Arc<View>,
    pub membership: Arc<Membership>,
    pub status: Status,
}

impl Node {
    pub(super) fn new(parts: Parts) -> Node {
        Node {
            member_id: parts.member_id,
            cluster_id: parts.cluster_id,
            max_request_bytes: parts.max_request_bytes,
            request_timeout: parts.request_timeout,
            leaderless: parts.leaderless,
            mailbox: parts.mailbox,
            leases: parts.leases,
            clock: parts.clock,
            life: ids::first_request(parts.member_id, parts.epoch),
            desks: parts.desks,
            watching: parts.watching,
            published: Published { view: RwLock::new(parts.view), waiting: Mutex::default() },
            status: RwLock::new(parts.status),
            is_learner: AtomicBool::new(is_learner(&parts.membership, parts.member_id)),
            progress: RwLock::default(),
            alarms: RwLock::new(Arc::default()),
            quota: parts.quota,
            room: Arc::default(),
            membership: watch::Sender::new(parts.membership),
            leader: watch::Sender::new(parts.status.leader),
            stopping: watch::Sender::new(false),
            told_to_leave: watch::Sender::new(false),
        }
    }

    /// Puts a request through the log; returns what applying it gave.
    pub async fn propose(&self, mut request: InternalRaftRequest) -> Result<Response, EtcdError> {
        let status = self.status();
        if status.commit > status.applied + MAX_APPLY_LAG {
            return Err(EtcdError::TooManyRequests);
        }
        let desk = self.desk();
        let id = desk.next_id(self.life);
        request.header = Some(RequestHeader { id, ..Default::default() });
        let data = request.encode_to_vec();
        if data.len() > self.max_request_bytes {
            return Err(EtcdError::RequestTooLarge);
        }
        self.check_writable()?;
        let proposal = Proposal { data: data.into(), expires: self.expires(), term: None };
        METRICS.proposals_pending.inc();
        let _pending = Pending;
        let expires = proposal.expires;
        let answer = match request.compaction.as_ref().filter(|compaction| compaction.physical) {
            None => desk.propose(id, proposal, expires).await,
            Some(compaction) => self.outlast(compaction.revision, desk.propose(id, proposal, Instant(u64::MAX))).await,
        };
        // What was refused by applying it was no failure of the proposal.
        if matches!(answer, Err(EtcdError::Timeout | EtcdError::Stopped)) {
            METRICS.proposals_failed.inc();
        }
        answer
    }

    /// The deletions of a compaction may take longer than any request; only until they are under way is there a limit.
    async fn outlast(
        &self,
        revision: i64,
        compacting: impl Future<Output = Result<Response, EtcdError>>,
    ) -> Result<Response, EtcdError> {
        tokio::pin!(compacting);
        match tokio::time::timeout(self.request_timeout, &mut compacting).await {
            Ok(answer) => answer,
            Err(_) if self.local_view().compact_rev() >= revision => compacting.await,
            Err(_) => Err(EtcdError::Timeout),
        }
    }

    /// Puts a change of the membership through the log; the members once it is applied here.
    pub async fn propose_conf_change(&self, mut change: ConfChange) -> Result<Vec<Member>, EtcdError> {
        self.check_writable()?;
        let desk = self.desk();
        let id = desk.next_id(self.life);
        change.id = Some(id);
        let proposal = Proposal { data: change.encode_to_vec().into(), expires: self.expires(), term: None };
        match desk.propose_conf_change(id, proposal).await? {
            Response::Members(members) => Ok(members),
            other => unreachable!("a change of the membership was applied and says {other:?}"),
        }
    }

    /// A view to read from.
    pub async fn view(&self, consistency: Consistency) -> Result<Arc<View>, EtcdError> {
        if consistency == Consistency::Serializable {
            return Ok(self.local_view());
        }
        Ok(self.confirm().await?.view)
    }

    /// Waits for a round of read index that begins now, and for a view that has applied what it must.
    pub(super) async fn confirm(&self) -> Result<Granted, EtcdError> {
        self.check_running()?;
        let desk = self.desk();
        let read = desk.read(ReadRequest { id: desk.next_id(self.life), expires: self.expires() }).await;
        if matches!(read, Err(EtcdError::Timeout)) {
            METRICS.slow_read_indexes.inc();
            METRICS.read_indexes_failed.inc();
        }
        read
    }

    /// Puts requests into the log, in this order, if this member leads the term. Nobody waits for them.
    pub(super) fn propose_in_term(&self, term: u64, requests: Vec<InternalRaftRequest>) {
        let proposals = requests.into_iter().map(|mut request| {
            request.header = Some(RequestHeader { id: self.next_id(), ..Default::default() });
            let data = request.encode_to_vec().into();
            Input::Propose(Proposal { data, expires: Instant(u64::MAX), term: Some(term) })
        });
        self.mailbox.inputs(proposals.collect());
    }

    /// Puts a request into the log, wherever it leads. Nobody waits for it.
    pub(super) fn propose_unheard(&self, mut request: InternalRaftRequest) {
        request.header = Some(RequestHeader { id: self.next_id(), ..Default::default() });
        let data = request.encode_to_vec().into();
        self.mailbox.consensus(Input::Propose(Proposal { data, expires: self.expires(), term: None }));
    }

    /// The keys of a lease, as of what this member has applied.
    pub(super) async fn lease_keys(&self, lease: i64) -> Result<Vec<Bytes>, EtcdError> {
        self.check_running()?;
        let id = self.next_id();
        match self.desk().ask(id, apply::Input::LeaseKeys { id, lease }, self.expires()).await? {
            Response::LeaseKeys(keys) => Ok(keys),
            other => unreachable!("the apply machine was asked for keys and says {other:?}"),
        }
    }

    /// An id that no other request of any member has.
    pub(super) fn next_id(&self) -> u64 {
        self.desk().next_id(self.life)
    }

    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// The newest view, whatever the rest of the cluster knows.
    pub fn local_view(&self) -> Arc<View> {
        self.published.view.read().clone()
    }

    pub fn status(&self) -> Status {
        *self.status.read()
    }

    pub fn raised_alarms(&self) -> Arc<[AlarmMember]> {
        self.alarms.read().clone()
    }

    /// Returns what there were before.
    pub(super) fn replace_alarms(&self, alarms: Vec<AlarmMember>) -> Arc<[AlarmMember]> {
        std::mem::replace(&mut *self.alarms.write(), alarms.into())
    }

    pub fn membership(&self) -> Arc<Membership> {
        self.membership.borrow().clone()
    }

    /// Whether this member only listens: it serves little.
    pub fn is_learner(&self) -> bool {
        self.is_learner.load(Ordering::Relaxed)
    }

    /// A peer says that this member was removed from the cluster.
    pub fn leave(&self) {
        self.told_to_leave.send_replace(true);
    }

    /// Returns when this member has applied its own removal, or was told of it.
    pub async fn removed(&self) {
        let (mut membership, mut told) = (self.watch_membership(), self.told_to_leave.subscribe());
        // The senders are this node's own.
        tokio::select! {
            _ = membership.wait_for(|membership| membership.is_removed(self.member_id)) => {}
            _ = told.wait_for(|told| *told) => {}
        }
    }

    /// How far this member's log is known to agree, and the leader's; `None` where this member does not lead, or has
    /// not counted that one yet.
    pub(super) fn progress(&self, id: u64) -> Option<(u64, u64)> {
        let progress = self.progress.read();
        let of = |id: u64| progress.iter().find(|(member, _)| *member == id).map(|(_, matched)| *matched);
        Some((of(id)?, of(self.member_id)?))
    }

    pub fn watch_membership(&self) -> watch::Receiver<Arc<Membership>> {
        self.membership.subscribe()
    }

    pub fn watch_leader(&self) -> watch::Receiver<u64> {
        self.leader.subscribe()
    }

    /// Returns when this member has known no leader for so long that it gives streams up which want one.
    pub async fn leaderless(&self) {
        let mut leader = self.watch_leader();
        loop {
            // The sender is this node's own.
            let _ = leader.wait_for(|id| *id == 0).await;
            if tokio::time::timeout(self.leaderless, leader.wait_for(|id| *id != 0)).await.is_err() {
                return;
            }
        }
    }

    pub fn watch_stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Lets everybody who waits go with `server stopped`.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
        for desk in &self.desks {
            desk.dismiss();
        }
        for watching in &self.watching {
            watching.stop();
        }
        self.published.waiting.lock().clear();
    }

    /// From the returned view on, publishes reach this part of watching.
    pub(super) fn subscribe(&self, watching: &Watching) -> Arc<View> {
        // Publishing looks for subscribers under this lock.
        let _waiting = self.published.waiting.lock();
        watching.subscribe();
        self.local_view()
    }

    pub(super) fn desk(&self) -> Arc<Desk> {
        Desk::here().unwrap_or_else(|| self.desks[0].clone())
    }

    fn check_running(&self) -> Result<(), EtcdError> {
        if self.is_stopping() { Err(EtcdError::Stopped) } else { Ok(()) }
    }

    /// What this member cannot write down is refused at once, not left to time out.
    fn check_writable(&self) -> Result<(), EtcdError> {
        self.check_running()?;
        if self.room.is_lacking() { Err(EtcdError::NoSpace) } else { Ok(()) }
    }

    fn expires(&self) -> Instant {
        Instant(self.clock.now().0 + self.request_timeout.as_millis() as u64)
    }
}

/// What the member's threads call.
impl Node {
    pub(super) fn publish(&self, view: Arc<View>, changes: Arc<[Change]>) {
        let (ready, subscribed) = {
            let mut waiting = self.published.waiting.lock();
            let before = std::mem::replace(&mut *self.published.view.write(), view.clone());
            // A snapshot moves the revision, too, and says no changes: then watchers catch up.
            let subscribed: Vec<_> = match before.rev() == view.rev() {
                true => Vec::new(),
                false => self.watching.iter().filter(|watching| watching.is_subscribed()).collect(),
            };
            let later = waiting.split_off(&(view.applied_index() + 1));
            (std::mem::replace(&mut *waiting, later), subscribed)
        };
        for watching in subscribed {
            watching.publish(view.clone(), changes.clone());
        }
        for Waiting { reads, led } in ready.into_values().flatten() {
            self.give_view(reads, Granted { view: view.clone(), led });
        }
    }

    pub(super) fn replies(&self, replies: impl IntoIterator<Item = Reply>) {
        let mut sorted = Sorted::default();
        for reply in replies {
            sorted.push(Desk::of_id(reply.id), reply);
        }
        for (desk, replies) in sorted.drain() {
            // An id of another member may name a desk that is not here.
            if let Some(desk) = self.desks.get(desk) {
                desk.answer(Answers::Replies(replies));
            }
        }
    }

    /// What became of leases, before the view that shows it is published.
    pub(super) fn leases_changed(&self, changes: &[LeaseChange]) {
        self.leases.changed(self.now(), changes);
    }

    /// These reads may use any view that has applied up to `index`. `led` as in `Effect::ReadReady`.
    pub(super) fn read_ready(&self, reads: Vec<ReadRequest>, index: u64, led: Option<u64>) {
        let view = {
            let mut waiting = self.published.waiting.lock();
            // Under the lock that publishing takes, so that no view slips in between.
            let view = self.local_view();
            if view.applied_index() < index {
                waiting.entry(index).or_default().push(Waiting { reads, led });
                return;
            }
            view
        };
        self.give_view(reads, Granted { view, led });
    }

    pub(super) fn set_status(&self, status: Status) {
        *self.status.write() = status;
        if *self.leader.borrow() != status.leader {
            if status.leader != 0 {
                METRICS.leader_changes.inc();
            }
            self.leader.send_replace(status.leader);
        }
    }

    pub(super) fn set_progress(&self, progress: Vec<(u64, u64)>) {
        *self.progress.write() = progress;
    }

    pub(super) fn set_membership(&self, membership: Arc<Membership>) {
        self.is_learner.store(is_learner(&membership, self.member_id), Ordering::Relaxed);
        self.membership.send_replace(membership);
    }

    fn give_view(&self, reads: Vec<ReadRequest>, granted: Granted) {
        let mut sorted = Sorted::default();
        for read in reads {
            sorted.push(Desk::of_id(read.id), read.id);
        }
        for (desk, ids) in sorted.drain() {
            self.desks[desk].answer(Answers::Reads { ids, granted: granted.clone() });
        }
    }
}

fn is_learner(membership: &Membership, id: u64) -> bool {
    membership.member(id).is_some_and(|m| m.is_learner)
}
