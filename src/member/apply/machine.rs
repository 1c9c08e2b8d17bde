//! [`Applier`]: the machine itself. What a request means is in the files beside this one.

use std::sync::Arc;

use bytes::Bytes;
use lockstep_proto::etcdserverpb::{self as pb, AlarmType, InternalRaftRequest};
use lockstep_proto::mvccpb::KeyValue;
use lockstep_proto::raftpb;
use prost::Message;

use super::alarm::{self, Alarms};
use super::{kv, lease, range, txn};
use crate::member::error::EtcdError;
use crate::member::lease::{Change as LeaseChange, Table};
use crate::member::membership::{Member, Membership};
use crate::member::raft::SnapshotMeta;
use crate::mvcc::read::Error as StoreError;
use crate::mvcc::{Batch, Bucket, Committed, CompactProgress, Reopened, Store, View, WriteTxn};

/// What the apply machine is told.
#[derive(Debug)]
pub enum Input {
    /// Committed entries, in order, without gaps.
    Entries(Vec<raftpb::Entry>),
    /// Time to make durable what has been applied since the last commit.
    Commit,
    /// The backend is done with the batch of the last [`Effect::Commit`].
    Committed(Committed),
    /// Do a bounded piece of the compaction that is under way.
    CompactStep,
    /// Keep a view, for a member that the log cannot bring up to date.
    Snapshot,
    /// Which keys hang on this lease? Answered by an [`Effect::Reply`] of this id.
    LeaseKeys { id: u64, lease: i64 },
    /// Give back the space that the store's file does not need. Answered by an [`Effect::Reply`] of this id when that
    /// is done.
    Defragment { id: u64 },
    /// The backend is done with the last [`Effect::Defragment`], or says why it gave up.
    Defragmented(Result<Reopened, String>),
}

/// What the apply machine asks of its host, to be carried out in the order given.
#[derive(Debug)]
pub enum Effect {
    /// What became of leases, for the keeper; before the view that shows it.
    Leases(Arc<[LeaseChange]>),
    /// Readers get this view from now on, and watchers the changes that led to it from the one before.
    Publish { view: Arc<View>, changes: Arc<[Change]> },
    /// Everything up to here is applied and visible.
    Applied { index: u64, term: u64 },
    /// For consensus, before `Applied`.
    ConfChange(raftpb::ConfChange),
    /// For consensus, after a snapshot: who was removed before it.
    Removed(Vec<u64>),
    /// Members, their addresses, or the cluster version changed.
    Membership(Arc<Membership>),
    /// The alarms that are raised, whenever they have changed, and at the start.
    Alarms(Vec<pb::AlarmMember>),
    /// The quota is exceeded and no alarm says so: propose that this member's is raised.
    NoSpace,
    /// For whoever waits for the request of this id; others drop it.
    Reply(Reply),
    /// For the backend to commit durably; answered by [`Input::Committed`].
    Commit(Arc<Batch>),
    /// For the backend, step by step beside its commits; answered by [`Input::Defragmented`].
    Defragment,
    /// The store is durable up to this index: a restart needs no entry at or below it.
    StoreDurable(u64),
    /// What [`Input::Snapshot`] asked for: the state of this view, of which consensus is to be told.
    Snapshot { view: Arc<View>, meta: SnapshotMeta },
    /// Send [`Input::CompactStep`] after a pause.
    Compacting,
    /// This member must stop.
    Stop(String),
}

/// What one revision changed, in the order of its operations. A deletion is a `KeyValue` of key and revision alone: its
/// `version` is 0, which no put has.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub revision: i64,
    pub events: Vec<KeyValue>,
}

/// The answer to one request.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    pub id: u64,
    pub result: Result<Response, EtcdError>,
}

/// Headers carry the revision only; ids and term are for whoever sends it on.
#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    Range(pb::RangeResponse),
    Put(pb::PutResponse),
    DeleteRange(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Compaction(pb::CompactionResponse),
    LeaseGrant(pb::LeaseGrantResponse),
    LeaseRevoke(pb::LeaseRevokeResponse),
    /// The members, now that a change of them is applied.
    Members(Vec<Member>),
    /// In key order.
    LeaseKeys(Vec<Bytes>),
    Alarm(pb::AlarmResponse),
    Defragmented(Result<(), String>),
    /// Done, and there is nothing to say.
    Empty,
}

/// Revisions whose history one [`Input::CompactStep`] works through.
const COMPACT_REVISIONS: usize = 1_000;
/// Operations after which a batch is committed without waiting for the timer.
const BATCH_OPERATIONS: usize = 10_000;

/// See the head of this folder.
pub struct Applier {
    store: Store,
    leases: Table,
    membership: Arc<Membership>,
    alarms: Alarms,
    /// This member's; see [`alarm`].
    quota_bytes: Option<u64>,
    /// Requests that exceeded it, answered once the alarm is raised.
    out_of_space: Vec<Reply>,
    /// Who waits for the defragmentation that is under way.
    defragmenting: Vec<u64>,
    /// It begins after the commit that is under way.
    defragment_due: bool,
    applied: u64,
    applied_term: u64,
    /// Physical compactions that wait for their deletions.
    compacting: Vec<(i64, Reply)>,
    /// A compaction is under way and a step has been asked for.
    compact_step_due: bool,
    stopped: bool,
}

impl Applier {
    /// `store` as the disk held it.
    pub fn new(mut store: Store) -> Result<Applier, StoreError> {
        let membership = Arc::new(Membership::load(&store)?);
        let attachments = store.take_attachments();
        let records = store.bucket_scan(Bucket::Lease)?;
        let records = records.iter().map(|(_, record)| record.as_slice());
        let leases = Table::load(records, attachments).map_err(StoreError::Storage)?;
        let applied = store.consistent_index();
        let alarms = Alarms::load(&store)?;
        Ok(Applier {
            store,
            leases,
            membership,
            alarms,
            quota_bytes: None,
            out_of_space: Vec::new(),
            defragmenting: Vec::new(),
            defragment_due: false,
            applied,
            applied_term: 0,
            compacting: Vec::new(),
            compact_step_due: false,
            stopped: false,
        })
    }

    /// The first effects of a life: the view to start with, and a compaction that a crash interrupted.
    pub fn start(&mut self) -> Vec<Effect> {
        self.compact_step_due = true;
        vec![
            Effect::Leases(self.leases.take_changes().into()),
            Effect::Publish { view: self.store.publish(self.applied), changes: Arc::default() },
            Effect::Membership(self.membership.clone()),
            Effect::Alarms(self.alarms.list(AlarmType::None as i32)),
            Effect::Compacting,
        ]
    }

    /// The store of a snapshot takes the place of this one. Who waits for an answer here gets none: nobody knows what
    /// became of the entries between.
    pub fn replace(&mut self, store: Store) -> Result<Vec<Effect>, StoreError> {
        let gone: Arc<[LeaseChange]> = self.leases.ids().map(|id| LeaseChange::Revoked { id }).collect();
        let term = store.view().term();
        let quota_bytes = self.quota_bytes;
        let defragmenting = std::mem::take(&mut self.defragmenting);
        *self = Applier { quota_bytes, ..Applier::new(store)? };
        let mut effects = vec![Effect::Leases(gone)];
        // A store just made has nothing to give back.
        effects.extend(defragmenting.into_iter().map(|id| defragmented(id, Ok(()))));
        effects.extend(self.start());
        effects.push(Effect::Removed(self.membership.removed().collect()));
        effects.push(Effect::Applied { index: self.applied, term });
        effects.push(Effect::StoreDurable(self.store.durable_index()));
        Ok(effects)
    }

    /// How large the store may become, from the next entry on; without one it may always grow.
    pub fn set_quota(&mut self, bytes: Option<u64>) {
        self.quota_bytes = bytes;
    }

    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The store as the disk held it, or as last published.
    pub fn view(&self) -> Arc<View> {
        self.store.view()
    }

    pub fn membership(&self) -> &Arc<Membership> {
        &self.membership
    }

    /// Takes inputs in order and returns what follows from them, in order.
    pub fn step(&mut self, inputs: impl IntoIterator<Item = Input>) -> Vec<Effect> {
        let mut step = Step::default();
        for input in inputs {
            if self.stopped {
                break;
            }
            if let Err(error) = self.take(input, &mut step) {
                self.stopped = true;
                step.after.push(Effect::Stop(format!("applying the log: {error}")));
            }
        }
        self.finish(step)
    }

    fn take(&mut self, input: Input, step: &mut Step) -> Result<(), StoreError> {
        match input {
            Input::Entries(entries) => {
                for entry in entries {
                    self.apply(entry, step)?;
                }
                if self.store.pending_ops() >= BATCH_OPERATIONS {
                    sometimes!("batch committed because of its size");
                    self.commit(step);
                }
            }
            Input::Commit => {
                sometimes!(self.store.is_committing(), "commit skipped because one was under way");
                self.commit(step);
            }
            Input::Committed(done) => {
                self.store.committed(done);
                step.after.push(Effect::StoreDurable(self.store.durable_index()));
                step.visible = true;
                if self.defragment_due {
                    sometimes!("defragmentation waited for a commit");
                    self.defragment(step);
                }
            }
            Input::CompactStep => {
                self.compact_step_due = false;
                let progress = self.store.compact_step(COMPACT_REVISIONS);
                if let CompactProgress::Done(revision) = progress {
                    sometimes!("compaction finished");
                    let (done, rest) = self.compacting.drain(..).partition(|waiting| waiting.0 <= revision);
                    self.compacting = rest;
                    sometimes!(!done.is_empty(), "physical compaction answered after its deletions");
                    step.after.extend(done.into_iter().map(|waiting: (i64, Reply)| Effect::Reply(waiting.1)));
                }
                step.compacting = progress != CompactProgress::Idle;
                step.visible = true;
            }
            Input::Snapshot => {
                let view = self.store.publish(self.applied);
                let conf_state = self.membership.conf_state();
                let meta = SnapshotMeta { index: view.applied_index(), term: view.term(), conf_state };
                step.after.push(Effect::Snapshot { view, meta });
            }
            Input::LeaseKeys { id, lease } => {
                let keys = self.leases.keys(lease).ok_or(EtcdError::LeaseNotFound);
                step.after.push(Effect::Reply(Reply { id, result: keys.map(Response::LeaseKeys) }));
            }
            Input::Defragment { id } => {
                sometimes!(!self.defragmenting.is_empty(), "defragmentation asked for while one was under way");
                self.defragmenting.push(id);
                if self.defragmenting.len() == 1 {
                    self.defragment(step);
                }
            }
            Input::Defragmented(done) => {
                let result = done.map(|reopened| self.store.reopened(reopened));
                step.after.extend(self.defragmenting.drain(..).map(|id| defragmented(id, result.clone())));
                step.visible = true;
            }
        }
        Ok(())
    }

    fn apply(&mut self, entry: raftpb::Entry, step: &mut Step) -> Result<(), StoreError> {
        let index = entry.index();
        assert_eq!(index, self.applied + 1, "committed entries come without gaps");
        match entry.r#type() {
            raftpb::EntryType::EntryNormal => {
                let data = entry.data.as_deref().unwrap_or_default();
                // An empty entry is a new leader's first; what cannot be read is the same nothing on every member.
                if let Ok(request) = InternalRaftRequest::decode(data)
                    && !data.is_empty()
                {
                    self.apply_request(request, step)?;
                }
            }
            raftpb::EntryType::EntryConfChange => {
                let data = entry.data.as_deref().unwrap_or_default();
                if let Ok(change) = raftpb::ConfChange::decode(data) {
                    self.apply_conf_change(change, step);
                }
            }
            raftpb::EntryType::EntryConfChangeV2 => {}
        }
        self.store.set_consistent_index(index, entry.term());
        self.applied = index;
        self.applied_term = entry.term();
        step.visible = true;
        step.applied = true;
        Ok(())
    }

    /// Consensus hears only of a change that is accepted; to raft a refused one is an entry like any other.
    fn apply_conf_change(&mut self, change: raftpb::ConfChange, step: &mut Step) {
        let id = change.id();
        let changed = Arc::make_mut(&mut self.membership).apply_conf_change(&mut self.store, &change);
        if changed.is_ok() {
            step.after.push(Effect::Membership(self.membership.clone()));
            let conf_state = self.membership.conf_state();
            let (voters, learners) = (&conf_state.voters, &conf_state.learners);
            let json = serde_json::json!({ "voters": voters, "learners": learners, "auto_leave": false });
            self.store.bucket_put(Bucket::Meta, CONF_STATE_KEY, json.to_string().as_bytes());
            step.conf_changes.push(Effect::ConfChange(change));
        }
        // Founders have none.
        if id != 0 {
            let result = changed.map(|()| Response::Members(self.membership.members().cloned().collect()));
            step.after.push(Effect::Reply(Reply { id, result }));
        }
    }

    fn apply_request(&mut self, request: InternalRaftRequest, step: &mut Step) -> Result<(), StoreError> {
        let id = request.header.as_ref().map_or(0, |h| h.id).max(request.id);
        let fits = alarm::has_room(self.quota_bytes, self.store.size_bytes(), &request);
        let result = if let Some(error) = self.alarms.refusal(&request) {
            Err(error.into())
        } else if let Some(put) = &request.put {
            self.write(step, |w, leases| kv::put(w, put, &|id| leases.exists(id))).map(Response::Put)
        } else if let Some(read) = &request.range {
            range::range(&self.store.write(), read).map(Response::Range).map_err(Into::into)
        } else if let Some(delete) = &request.delete_range {
            self.write(step, |w, _| kv::delete_range(w, delete)).map(Response::DeleteRange)
        } else if let Some(request) = &request.txn {
            self.write(step, |w, leases| txn::txn(w, request, &|id| leases.exists(id))).map(Response::Txn)
        } else if let Some(compaction) = &request.compaction {
            match self.compact(compaction, id, step) {
                Some(result) => result.map(Response::Compaction),
                None => return Ok(()),
            }
        } else if let Some(grant) = &request.lease_grant {
            lease::grant(&mut self.store, &mut self.leases, grant).map(Response::LeaseGrant).map_err(Into::into)
        } else if let Some(revoke) = &request.lease_revoke {
            let deleted = self.write(step, |w, leases| lease::delete_keys(w, leases, revoke));
            let revoked = deleted.map(|()| lease::revoke(&mut self.store, &mut self.leases, revoke));
            revoked.map(Response::LeaseRevoke).map_err(Into::into)
        } else if let Some(checkpoint) = &request.lease_checkpoint {
            lease::checkpoint(&mut self.store, &mut self.leases, checkpoint);
            Ok(Response::Empty)
        } else if let Some(request) = &request.alarm {
            let response = self.alarms.apply(&mut self.store, request);
            step.alarms = true;
            if self.alarms.is_raised(AlarmType::Nospace) {
                step.after.extend(self.out_of_space.drain(..).map(Effect::Reply));
            }
            Ok(Response::Alarm(response))
        } else if let Some(set) = &request.cluster_member_attr_set {
            let attributes = set.member_attributes.clone().unwrap_or_default();
            self.change_membership(
                |m, store| {
                    m.set_attributes(store, set.member_id, &attributes);
                    true
                },
                step,
            );
            Ok(Response::Empty)
        } else if let Some(set) = &request.cluster_version_set {
            self.change_membership(
                |m, store| {
                    m.set_version(store, &set.ver);
                    true
                },
                step,
            );
            Ok(Response::Empty)
        } else {
            Err(kv::KvError::Refused(EtcdError::NotCapable))
        };
        let result = match result {
            // What exceeds the quota is done all the same: members may have different ones.
            Ok(_) if !fits => {
                sometimes!("request exceeded the quota");
                Err(EtcdError::NoSpaceLeft)
            }
            Ok(response) => Ok(response),
            Err(kv::KvError::Refused(error)) => {
                sometimes!("request refused when it was applied");
                Err(error)
            }
            Err(kv::KvError::Overtaken) => unreachable!("nothing compacts while an entry is applied"),
            Err(kv::KvError::Storage(error)) => return Err(StoreError::Storage(error)),
        };
        let reply = Reply { id, result };
        if reply.result == Err(EtcdError::NoSpaceLeft) && !self.alarms.is_raised(AlarmType::Nospace) {
            self.out_of_space.push(reply);
            step.after.push(Effect::NoSpace);
        } else {
            step.after.push(Effect::Reply(reply));
        }
        Ok(())
    }

    /// One transaction. Leases follow what it changed; watchers hear of it together with the next view.
    fn write<T>(&mut self, step: &mut Step, change: impl FnOnce(&mut WriteTxn<'_>, &Table) -> T) -> T {
        let mut txn = self.store.write();
        let result = change(&mut txn, &self.leases);
        let mut events = txn.end();
        if mutation!(TxnEventTwice) && events.len() > 1 {
            events.extend(events.last().cloned());
        }
        self.leases.follow(&events);
        if let Some(first) = events.first() {
            step.changes.push(Change { revision: first.mod_revision, events });
        }
        result
    }

    /// `None` when the answer waits for the deletions.
    fn compact(
        &mut self,
        request: &pb::CompactionRequest,
        id: u64,
        step: &mut Step,
    ) -> Option<Result<pb::CompactionResponse, kv::KvError>> {
        if mutation!(CompactionByMember) && self.compact_step_due {
            return Some(Err(EtcdError::Compacted.into()));
        }
        if let Err(error) = self.store.compact(request.revision) {
            return Some(Err(error.into()));
        }
        let header = pb::ResponseHeader { revision: self.store.revision(), ..Default::default() };
        let response = pb::CompactionResponse { header: Some(header) };
        step.compacting = true;
        if request.physical {
            self.compacting.push((request.revision, Reply { id, result: Ok(Response::Compaction(response)) }));
            return None;
        }
        Some(Ok(response))
    }

    /// What is pending is committed first: the copy is to be without what a compaction has deleted.
    fn defragment(&mut self, step: &mut Step) {
        self.defragment_due = self.store.is_committing();
        if !self.defragment_due {
            self.commit(step);
            step.after.push(Effect::Defragment);
        }
    }

    fn change_membership(&mut self, change: impl FnOnce(&mut Membership, &mut Store) -> bool, step: &mut Step) -> bool {
        let changed = change(Arc::make_mut(&mut self.membership), &mut self.store);
        if changed {
            step.after.push(Effect::Membership(self.membership.clone()));
        }
        changed
    }

    fn commit(&mut self, step: &mut Step) {
        if !self.store.is_committing()
            && let Some(batch) = self.store.seal()
        {
            step.after.push(Effect::Commit(batch));
        }
    }

    fn finish(&mut self, step: Step) -> Vec<Effect> {
        let mut effects = Vec::with_capacity(step.after.len() + 4);
        let leases = self.leases.take_changes();
        if !leases.is_empty() {
            effects.push(Effect::Leases(leases.into()));
        }
        if step.alarms {
            // Before the view, so that who reads linearizably knows of them.
            effects.push(Effect::Alarms(self.alarms.list(AlarmType::None as i32)));
        }
        if step.visible {
            let changes = step.changes.into();
            effects.push(Effect::Publish { view: self.store.publish(self.applied), changes });
        }
        let applied = step.applied.then_some(Effect::Applied { index: self.applied, term: self.applied_term });
        effects.extend(step.conf_changes);
        effects.extend(applied);
        effects.extend(step.after);
        if step.compacting && !self.compact_step_due {
            self.compact_step_due = true;
            effects.push(Effect::Compacting);
        }
        effects
    }
}

fn defragmented(id: u64, result: Result<(), String>) -> Effect {
    Effect::Reply(Reply { id, result: Ok(Response::Defragmented(result)) })
}

const CONF_STATE_KEY: &[u8] = b"confState";

/// What one call of [`Applier::step`] has gathered.
#[derive(Default)]
struct Step {
    visible: bool,
    applied: bool,
    /// There is compaction left to do.
    compacting: bool,
    /// They may have changed.
    alarms: bool,
    changes: Vec<Change>,
    conf_changes: Vec<Effect>,
    after: Vec<Effect>,
}
