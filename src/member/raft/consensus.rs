//! The consensus machine: raft-rs driven by inputs, answering with effects.
//!
//! The order of promises is the heart of it. An effect that needs durable state (a vote, an acknowledgement of entries,
//! a new leader's first message) is held until the [`Persist`] it rests on came back as [`Input::Persisted`]; a
//! leader's appends leave while its own write is still under way (thesis 10.2.1). Persists are numbered, done in order,
//! and there may be many in flight. `RawNode::advance` and `advance_append` are never called: they would mark all of
//! those persisted.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use lockstep_proto::raftpb;
use raft::eraftpb::{self, MessageType};
use raft::{ProgressState, RawNode, ReadOnlyOption, SnapshotStatus, StateRole};

use super::changes::Changes;
use super::inbound;
use super::log::{Fetch, Log};
pub use super::reads::ReadRequest;
use super::reads::Reads;
use super::stamp::{Stamp, Taken};
use super::translate as tr;
use super::wrong;
use crate::ports::clock::Instant;
use crate::ports::dice::Dice;
use crate::wal::{self, SnapshotMark, Wal};

/// What does not change while a member lives.
#[derive(Clone, Debug)]
pub struct Config {
    pub id: u64,
    /// Ticks without a leader before an election; the draw is from `[election_ticks, 2 * election_ticks)`.
    pub election_ticks: usize,
    pub heartbeat_ticks: usize,
    pub pre_vote: bool,
    pub check_quorum: bool,
    /// Bytes of entries kept in memory for followers; entries not yet applied are kept in any case.
    pub log_cache_bytes: u64,
    /// Entries kept in the log behind what the store holds, for members that are not too far behind.
    pub log_slack_entries: u64,
    /// Entries kept beyond these for members that answer: they catch up by and by. Who does not answer, or is further
    /// behind, gets a snapshot.
    pub log_catch_up_entries: u64,
    /// This life of the member: durable, and greater than any before it.
    pub epoch: u64,
    /// What election time-outs are drawn with.
    pub dice: Arc<dyn Dice>,
}

/// What the disk held at boot.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    pub hard_state: raftpb::HardState,
    /// As of `applied`.
    pub conf_state: raftpb::ConfState,
    /// The store's durable consistent index.
    pub applied: u64,
    /// Index and term of the entry before the first one in the write-ahead log.
    pub truncated: (u64, u64),
    /// (first index, term) of each run of entries of one term in the write-ahead log.
    pub term_runs: Vec<(u64, u64)>,
    pub last_index: u64,
    /// The newest entries: at least all above `applied`.
    pub entries: Vec<raftpb::Entry>,
    /// Members that were removed, as of `applied`.
    pub removed: Vec<u64>,
}

/// A request to put into the log. Answered by its entry being applied, or not at all.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    /// A marshalled `InternalRaftRequest`, or `ConfChange`.
    pub data: Bytes,
    /// Nobody waits for it after that.
    pub expires: Instant,
    /// For the log only while this member leads this term: dropped otherwise, and never forwarded.
    pub term: Option<u64>,
}

/// What consensus is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// One heartbeat interval has passed.
    Tick,
    Message(Box<raftpb::Message>),
    Propose(Proposal),
    /// A change of the membership. It waits until it may be proposed.
    ProposeConfChange(Proposal),
    Read(ReadRequest),
    /// The persist of this number, and every one before it, is durable.
    Persisted(u64),
    /// The apply machine is done up to here.
    Applied(u64),
    /// The store is durable up to here: the log below is not needed for a restart.
    StoreDurable(u64),
    /// The apply machine accepted this change of the membership.
    ConfChange(raftpb::ConfChange),
    /// The members that were removed before the snapshot that was installed.
    Removed(Vec<u64>),
    Fetched {
        id: u64,
        entries: Vec<raftpb::Entry>,
    },
    Unreachable(u64),
    /// What [`Effect::TakeSnapshot`] asked for.
    Snapshot(SnapshotMeta),
    /// How the snapshot to this member ended.
    SnapshotSent {
        to: u64,
        ok: bool,
    },
    /// Hand leadership to this member.
    Transfer(u64),
}

/// What consensus asks of its host. To be carried out in the order given.
#[derive(Clone, Debug)]
pub enum Effect {
    Send(Vec<raftpb::Message>),
    Persist(Persist),
    /// Committed, for the apply machine.
    Apply(Vec<raftpb::Entry>),
    /// These reads may be served by a view that has applied up to `index`. `led`: the term that this member leads, and
    /// that their round has confirmed since they arrived.
    ReadReady {
        reads: Vec<ReadRequest>,
        index: u64,
        led: Option<u64>,
    },
    Fetch(Fetch),
    /// A member needs what the log has no more: keep a view of the store, and say of what by [`Input::Snapshot`].
    TakeSnapshot,
    /// Nobody needs that view any more.
    DropSnapshot,
    /// The log begins behind this snapshot now, durably: its store takes the place of the member's own.
    Install {
        index: u64,
    },
    /// Of no use to this member: its file can go.
    SnapshotRefused {
        index: u64,
    },
    /// No member needs the log up to `index`.
    Release {
        index: u64,
    },
    /// This member must stop: going on would break what it has promised.
    Stop(String),
}

/// Write these to the log, in this order, and make them durable.
#[derive(Clone, Debug, PartialEq)]
pub struct Persist {
    pub number: u64,
    /// The log starts anew behind this one.
    pub snapshot: Option<SnapshotMark>,
    pub hard_state: raftpb::HardState,
    pub entries: Vec<raftpb::Entry>,
}

impl Persist {
    /// Durable after the next sync.
    pub fn append_to(&self, wal: &mut Wal) -> Result<(), wal::Error> {
        if let Some(mark) = self.snapshot {
            wal.append_snapshot(mark)?;
        }
        wal.append(Some(&self.hard_state), &self.entries)
    }
}

/// Of which state of the store a snapshot is.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotMeta {
    pub index: u64,
    pub term: u64,
    pub conf_state: raftpb::ConfState,
}

impl SnapshotMeta {
    /// What a message that brings a snapshot says of it; `None` for any other.
    pub fn of(message: &raftpb::Message) -> Option<SnapshotMeta> {
        let meta = message.snapshot.as_ref().filter(|_| message.r#type() == raftpb::MessageType::MsgSnap)?;
        let meta = meta.metadata.as_ref()?;
        let conf_state = meta.conf_state.clone().unwrap_or_default();
        Some(SnapshotMeta { index: meta.index(), term: meta.term(), conf_state })
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    #[default]
    Follower,
    PreCandidate,
    Candidate,
    Leader,
}

/// What anyone may want to know of a member's consensus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub id: u64,
    pub term: u64,
    pub vote: u64,
    /// 0 when unknown.
    pub leader: u64,
    pub role: Role,
    pub commit: u64,
    pub applied: u64,
    pub last_index: u64,
    /// The follower that should take over, while leadership is handed over; 0 otherwise.
    pub transferee: u64,
}

/// Bytes of proposals that go into one message.
const PROPOSE_BYTES: usize = 4 << 20;
const MAX_MESSAGE_BYTES: u64 = 1 << 20;
const MAX_INFLIGHT_MESSAGES: usize = 512;

/// See the head of this file.
pub struct Consensus {
    config: Config,
    node: RawNode<Log>,
    /// The drawn election time-out, and the term and role it was drawn for.
    election_timeout: usize,
    drawn_for: (u64, StateRole),
    sequence: u64,
    taken: Taken,
    reads: Reads,
    proposals: VecDeque<Proposal>,
    changes: Changes,
    /// Readies whose persist is under way, oldest first.
    unpersisted: VecDeque<Held>,
    /// The newest term and vote handed out to be persisted, and the number of that persist.
    promised: (u64, u64),
    promise_number: u64,
    leader: u64,
    applied: u64,
    store_durable: u64,
    /// The snapshot that was accepted and is not installed yet.
    installing: Option<u64>,
    /// A view was asked for.
    taking: bool,
    /// Ticks since a prepared snapshot was last of use.
    idle_snapshot_ticks: usize,
    stopped: bool,
}

/// A ready that waits, with the messages that rest on it.
struct Held {
    number: u64,
    /// Whether it wrote anything itself; if not, it is done when the one before it is.
    writes: bool,
    install: Option<u64>,
    messages: Vec<raftpb::Message>,
}

impl Consensus {
    pub fn new(config: Config, recovered: Recovered) -> Result<Consensus, String> {
        assert!(config.id != 0 && config.epoch != 0, "a member has an id and an epoch");
        let mut hard_state = tr::hard_state_in(&recovered.hard_state);
        if mutation!(VoteForgotten) {
            hard_state.vote = 0;
        }
        // A hard state that moves only the commit is not synced: what the store has applied was committed.
        let was_committed = recovered.applied.max(recovered.truncated.0);
        if hard_state.commit < was_committed && !mutation!(CommitNotRaised) {
            sometimes!("commit raised at boot to what the store had applied");
            hard_state.commit = was_committed;
        }
        if hard_state.commit > recovered.last_index {
            return Err(format!(
                "the write-ahead log ends at entry {}, but entries up to {} were committed: the log was truncated or \
                 is another member's; restore the member from a backup, or remove it from the cluster and add it again",
                recovered.last_index, hard_state.commit
            ));
        }
        let raft_config = raft::Config {
            id: config.id,
            election_tick: config.election_ticks,
            heartbeat_tick: config.heartbeat_ticks,
            applied: recovered.applied,
            // One entry a message, or a new leader's own entry never comes later than the old ones before it.
            max_size_per_msg: if mutation!(CommitOfOldTerm) { 0 } else { MAX_MESSAGE_BYTES },
            max_inflight_msgs: MAX_INFLIGHT_MESSAGES,
            check_quorum: config.check_quorum && !mutation!(NoCheckQuorum) && !mutation!(NoPreVote),
            pre_vote: config.pre_vote && !mutation!(NoPreVote),
            read_only_option: if mutation!(LeaseReads) { ReadOnlyOption::LeaseBased } else { ReadOnlyOption::Safe },
            // It joins entries to a waiting message of another position: see [`inbound`], and the head of this folder.
            batch_append: mutation!(BatchAppend),
            ..Default::default()
        };
        let log = Log::new(
            hard_state,
            tr::conf_state_in(&recovered.conf_state),
            recovered.truncated,
            recovered.term_runs,
            recovered.last_index,
            recovered.entries.into_iter().map(tr::entry_in).collect(),
            config.log_cache_bytes,
        );
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node =
            RawNode::new(&raft_config, log, &logger).map_err(|e| format!("raft refuses the state on disk: {e}"))?;
        let mut consensus = Consensus {
            drawn_for: (node.raft.term, node.raft.state),
            node,
            election_timeout: 0,
            sequence: 0,
            taken: Taken::default(),
            reads: Reads::default(),
            proposals: VecDeque::new(),
            changes: Changes::new(recovered.removed),
            unpersisted: VecDeque::new(),
            promised: (recovered.hard_state.term(), recovered.hard_state.vote()),
            promise_number: 0,
            leader: 0,
            applied: recovered.applied,
            store_durable: recovered.applied,
            installing: None,
            taking: false,
            idle_snapshot_ticks: 0,
            stopped: false,
            config,
        };
        consensus.draw_election_timeout();
        consensus.after_raft();
        Ok(consensus)
    }

    /// Takes inputs in order and returns what follows from them, in order.
    pub fn step(&mut self, now: Instant, inputs: impl IntoIterator<Item = Input>) -> Vec<Effect> {
        let mut effects = Vec::new();
        for input in inputs {
            if self.stopped {
                return effects;
            }
            self.take(now, input, &mut effects);
        }
        self.propose(now);
        self.propose_changes(now);
        self.start_read_round();
        self.handle_readies(&mut effects);
        effects
    }

    pub fn status(&self) -> Status {
        let raft = &self.node.raft;
        Status {
            id: self.config.id,
            term: raft.term,
            vote: raft.vote,
            leader: raft.leader_id,
            role: match raft.state {
                StateRole::Follower => Role::Follower,
                StateRole::PreCandidate => Role::PreCandidate,
                StateRole::Candidate => Role::Candidate,
                StateRole::Leader => Role::Leader,
            },
            commit: raft.raft_log.committed,
            applied: self.applied,
            last_index: raft.raft_log.last_index(),
            transferee: raft.lead_transferee.unwrap_or(0),
        }
    }

    /// The term of a log entry, where it is still known.
    pub fn term_at(&self, index: u64) -> Option<u64> {
        self.node.raft.raft_log.term(index).ok()
    }

    /// As the leader: how far each member's log is known to agree. Empty for others.
    pub fn progress(&self) -> Vec<(u64, u64)> {
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader {
            return Vec::new();
        }
        raft.prs().iter().map(|(id, progress)| (*id, progress.matched)).collect()
    }

    /// The voters that consensus counts with.
    pub fn voters(&self) -> Vec<u64> {
        let mut ids: Vec<u64> = self.node.raft.prs().conf().voters().ids().iter().collect();
        ids.sort_unstable();
        ids
    }

    fn take(&mut self, now: Instant, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::Tick => self.tick(now, effects),
            Input::Message(message) => self.receive(*message, effects),
            Input::Propose(proposal) => self.proposals.push_back(proposal),
            Input::ProposeConfChange(change) => self.changes.push(change),
            Input::Read(read) => self.reads.push(read),
            Input::Persisted(number) => self.persisted(number, effects),
            Input::Applied(index) => {
                assert!(index >= self.applied, "applied goes back from {} to {index}", self.applied);
                self.applied = index;
                self.installing = self.installing.filter(|installing| *installing > index);
                self.node.advance_apply_to(index);
                self.node.mut_store().evict(index);
            }
            Input::StoreDurable(index) => {
                self.store_durable = index;
                self.release(effects);
            }
            // A snapshot that was accepted since says who the members are.
            Input::ConfChange(_) if self.installing.is_some() => {
                sometimes!("conf change of before the snapshot left out");
            }
            Input::ConfChange(change) => {
                if let Some(change) = tr::conf_change_in(&change)
                    && let Some(change) = self.changes.applied(change, &self.node.raft)
                {
                    self.apply_conf_change(&change);
                    if mutation!(LeaderLeavesAtOnce) {
                        wrong::step_down_if_removed(&mut self.node.raft);
                    }
                }
            }
            Input::Removed(ids) => self.changes.learn_removed(ids),
            Input::Fetched { id, entries } => {
                let entries = entries.into_iter().map(tr::entry_in).collect();
                if let Some(context) = self.node.mut_store().fetched(id, entries) {
                    self.node.on_entries_fetched(context);
                    self.node.mut_store().drop_fetched();
                }
            }
            Input::Unreachable(peer) => self.node.report_unreachable(peer),
            Input::Snapshot(meta) => {
                self.taking = false;
                self.idle_snapshot_ticks = 0;
                self.node.mut_store().prepare(tr::snapshot_meta_in(&meta));
            }
            Input::SnapshotSent { to, ok } => {
                sometimes!(ok, "snapshot sent to a member that was too far behind");
                sometimes!(!ok, "snapshot did not arrive");
                let status = if ok { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
                self.node.report_snapshot(to, status);
            }
            Input::Transfer(to) => self.node.transfer_leader(to),
        }
        self.after_raft();
    }

    fn tick(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.drop_idle_snapshot(effects);
        // raft-rs asserts that a sole voter which campaigns has persisted its whole log.
        let raft = &self.node.raft;
        let is_persisted = raft.raft_log.persisted == raft.raft_log.last_index();
        let is_sole_voter = raft.prs().is_singleton() && raft.promotable();
        if !is_sole_voter || raft.state == StateRole::Leader {
            self.node.tick();
        } else if is_persisted {
            // There is nobody to wait for.
            let _ = self.node.campaign();
        }
        if let Some(heir) = self.changes.heir(&self.node.raft) {
            self.node.raft.abort_leader_transfer();
            self.node.transfer_leader(heir);
        }
        let patience_ticks = (self.config.election_ticks / 2).max(1) as u64;
        self.reads.tick(now, patience_ticks);
        let waiting = self.proposals.len();
        self.proposals.retain(|p| p.expires > now);
        sometimes!(self.proposals.len() < waiting, "proposal expired before there was a leader");
    }

    fn receive(&mut self, message: raftpb::Message, effects: &mut Vec<Effect>) {
        let Ok(mut inbound) = tr::message_in(message) else { return };
        if inbound.get_msg_type() == MessageType::MsgSnapshot {
            return self.receive_snapshot(inbound, effects);
        }
        if !inbound::is_sound(&inbound, &self.node.raft) {
            sometimes!("message refused that no correct peer sends");
            return;
        }
        if self.changes.refuses(&inbound) && !mutation!(RemovedMemberHeard) {
            sometimes!("message of a removed member refused");
            return;
        }
        match inbound.get_msg_type() {
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote
                if mutation!(LearnerRefusesToVote) && !self.node.raft.promotable() =>
            {
                return;
            }
            MessageType::MsgPropose if !mutation!(ProposalTwice) && !self.take_stamp(&inbound.context) => {
                sometimes!("proposal dropped as a repeat");
                return;
            }
            MessageType::MsgPropose if inbound.term != 0 => {
                // Meant for the leader of this term and no other, who knows what it has taken. Another one, or the
                // same member in its next life, cannot know whether a copy was taken before.
                let raft = &self.node.raft;
                if (inbound.term, StateRole::Leader) != (raft.term, raft.state) {
                    sometimes!("proposal dropped that was for another leader");
                    return;
                }
                inbound.term = 0;
            }
            MessageType::MsgReadIndex if !mutation!(StockReadIndex) && !self.take_stamp(&inbound.entries[0].data) => {
                sometimes!("read index dropped as a repeat");
                return;
            }
            MessageType::MsgReadIndex if mutation!(ReadIndexBeforeOwnCommit) => {
                wrong::read_index_at_once(&mut self.node.raft, inbound);
                return;
            }
            MessageType::MsgHeartbeat
                if inbound.term >= self.node.raft.term && inbound.commit > self.node.raft.raft_log.last_index() =>
            {
                self.stop(
                    format!(
                        "leader {:x} says that this member has acknowledged entry {}, but its log ends at {}: was \
                         the data directory truncated, lost or restored from an old copy? remove the member from the \
                         cluster and add it again",
                        inbound.from,
                        inbound.commit,
                        self.node.raft.raft_log.last_index()
                    ),
                    effects,
                );
                return;
            }
            _ => {}
        }
        if inbound.get_msg_type() == MessageType::MsgPropose && self.node.raft.state == StateRole::Leader {
            self.changes.take_from(&mut inbound, &self.node.raft);
            if inbound.entries.is_empty() {
                return;
            }
        }
        // An error here is a message that raft has no use for (from a removed member, say).
        let _ = self.node.step(inbound);
        if mutation!(CommitOfOldTerm) {
            wrong::commit_whatever_a_majority_has(&mut self.node.raft);
        }
        if mutation!(CommitWithoutMajority) {
            wrong::commit_with_one_copy_too_few(&mut self.node.raft);
        }
    }

    /// Its store lies on the disk already, under a name of its own. At most one comes at a time, the next after this
    /// one is installed or refused.
    fn receive_snapshot(&mut self, message: eraftpb::Message, effects: &mut Vec<Effect>) {
        let index = message.get_snapshot().get_metadata().index;
        let is_sound = inbound::is_sound(&message, &self.node.raft);
        if is_sound {
            let _ = self.node.step(message);
        }
        let accepted = self.node.raft.raft_log.unstable_snapshot().as_ref().map(|snap| snap.get_metadata().index);
        if accepted != Some(index) {
            sometimes!(is_sound, "snapshot came that was of no use");
            effects.push(Effect::SnapshotRefused { index });
        }
    }

    /// Whether this request is to be taken: not a repeated one. Foreign contexts carry no stamp and pass.
    fn take_stamp(&mut self, bytes: &[u8]) -> bool {
        Stamp::decode(bytes).is_none_or(|stamp| self.taken.take(stamp))
    }

    fn stamp(&mut self) -> Stamp {
        self.sequence += 1;
        Stamp { member: self.config.id, epoch: self.config.epoch, sequence: self.sequence }
    }

    fn is_ours(&self, stamp: &Stamp) -> bool {
        stamp.member == self.config.id && (stamp.epoch == self.config.epoch || mutation!(FormerLifeAnswers))
    }

    /// Puts all waiting proposals into the log, or forwards them, in as few messages as can be. Without a leader they
    /// wait.
    fn propose(&mut self, now: Instant) {
        self.drop_proposals_of_other_terms();
        sometimes!(!self.proposals.is_empty() && self.node.raft.leader_id == 0, "proposal waited for a leader");
        while !self.proposals.is_empty() && self.node.raft.leader_id != 0 && !self.stopped {
            let mut bytes = 0;
            let mut count = 0;
            let mut message = eraftpb::Message::default();
            for proposal in &self.proposals {
                bytes += proposal.data.len();
                if count > 0 && bytes > PROPOSE_BYTES {
                    break;
                }
                count += 1;
                message.entries.push(eraftpb::Entry { data: proposal.data.clone(), ..Default::default() });
            }
            message.set_msg_type(MessageType::MsgPropose);
            message.from = self.config.id;
            message.context = self.stamp().encode();
            if self.node.raft.step(message).is_err() {
                // No leader after all, or leadership is being handed over: they wait for the next one.
                sometimes!("proposal refused by raft waited for its next chance");
                self.proposals.retain(|p| p.expires > now);
                break;
            }
            self.proposals.drain(..count);
            sometimes!(count > 1, "several proposals went into one message");
            sometimes!(self.node.raft.leader_id != self.config.id, "proposal forwarded to the leader");
        }
        self.after_raft();
    }

    /// Proposes changes of the membership, or forwards them, one at a time.
    fn propose_changes(&mut self, now: Instant) {
        let (id, epoch, sequence) = (self.config.id, self.config.epoch, &mut self.sequence);
        self.changes.propose(now, &mut self.node.raft, || {
            *sequence += 1;
            Stamp { member: id, epoch, sequence: *sequence }.encode()
        });
        self.after_raft();
    }

    fn apply_conf_change(&mut self, change: &eraftpb::ConfChange) {
        self.node.apply_conf_change(change).expect("a change that apply accepted is one raft can make");
    }

    fn drop_proposals_of_other_terms(&mut self) {
        let raft = &self.node.raft;
        let led = (raft.state == StateRole::Leader).then_some(raft.term);
        let waiting = self.proposals.len();
        self.proposals.retain(|p| p.term.is_none() || p.term == led || mutation!(RevokedAfterStall));
        sometimes!(self.proposals.len() < waiting, "proposal dropped that was bound to another term");
    }

    fn start_read_round(&mut self) {
        let raft = &self.node.raft;
        let is_leader = raft.state == StateRole::Leader;
        let knows_commit = !is_leader || raft.commit_to_current_term() || mutation!(ReadIndexBeforeOwnCommit);
        if raft.leader_id == 0 || !knows_commit || self.stopped {
            return;
        }
        let next = self.sequence + 1;
        if let Some(sequence) = self.reads.start_round(|| next) {
            let stamp = self.stamp();
            assert_eq!(stamp.sequence, sequence);
            if mutation!(ReadIndexBeforeOwnCommit) {
                wrong::read_index_at_once(&mut self.node.raft, wrong::read_index_request(stamp.encode()));
            } else {
                self.node.read_index(stamp.encode().to_vec());
            }
            self.after_raft();
        }
    }

    /// What must follow every call into raft: it may have reset its election timer from a generator that is not ours,
    /// and the leader may have changed.
    fn after_raft(&mut self) {
        let raft = &self.node.raft;
        if raft.election_elapsed == 0 {
            // Once for each term and role: a time-out that changed with every heartbeat would be no draw any more.
            if (raft.term, raft.state) != self.drawn_for {
                self.drawn_for = (raft.term, raft.state);
                self.draw_election_timeout();
            }
            self.node.raft.set_randomized_election_timeout(self.election_timeout);
        }
        if let Some(change) = self.changes.left(&self.node.raft) {
            self.apply_conf_change(&change);
        }
        let leader = self.node.raft.leader_id;
        if leader != self.leader {
            sometimes!(leader == self.config.id, "election won");
            sometimes!(self.leader == self.config.id && leader == 0, "leader stepped down and knew no successor");
            sometimes!(self.leader == self.config.id && leader != 0, "leader learnt that it was deposed");
            self.leader = leader;
            self.reads.restart();
        }
        if mutation!(ConfChangeUnguarded) {
            self.node.raft.pending_conf_index = 0;
        }
    }

    fn draw_election_timeout(&mut self) {
        let ticks = self.config.election_ticks as u64;
        self.election_timeout = (ticks + self.config.dice.roll(self.config.id, ticks)) as usize;
    }

    fn handle_readies(&mut self, effects: &mut Vec<Effect>) {
        while self.node.has_ready() && !self.stopped {
            let mut ready = self.node.ready();
            let number = ready.number();
            if let Some(state) = ready.hs()
                && self.promised != (state.term, state.vote)
            {
                self.promised = (state.term, state.vote);
                self.promise_number = number;
            }
            // A leader's messages leave before its own write is durable, unless they rest on a new term or vote.
            let promise_is_durable =
                self.promise_number < number && self.unpersisted.front().is_none_or(|h| h.number > self.promise_number);
            let mut at_once = self.outbound(&ready.take_messages());
            let mut held = self.outbound(ready.persisted_messages());
            let writes = if mutation!(VoteNotDurable) { !ready.entries().is_empty() } else { ready.must_sync() };
            sometimes!(!promise_is_durable && !at_once.is_empty(), "new leader's messages waited for its term's fsync");
            let is_early = promise_is_durable && writes && !at_once.is_empty();
            sometimes!(is_early, "leader's append left before its own fsync");
            if !promise_is_durable {
                held.splice(0..0, std::mem::take(&mut at_once));
            }
            if !at_once.is_empty() {
                effects.push(Effect::Send(at_once));
            }
            for state in ready.take_read_states() {
                // Not ours, or of a former life, whose sequences were the same: an answer that was late.
                let Some(stamp) = Stamp::decode(&state.request_ctx).filter(|stamp| self.is_ours(stamp)) else {
                    sometimes!("answer to a read of a former life dropped");
                    continue;
                };
                let reads = self.reads.finish(stamp.sequence);
                sometimes!(reads.is_empty(), "read index came after its round was given up");
                if !reads.is_empty() {
                    // A change of leader gives every round up: one that is finished was issued in this term.
                    let raft = &self.node.raft;
                    let led = (raft.state == StateRole::Leader).then_some(raft.term);
                    effects.push(Effect::ReadReady { reads, index: state.index, led });
                }
            }
            let meta = ready.snapshot().get_metadata();
            let snapshot = (meta.index > 0).then_some(SnapshotMark { index: meta.index, term: meta.term });
            if writes {
                if let Some(mark) = snapshot {
                    sometimes!("snapshot accepted from the leader");
                    self.installing = Some(mark.index);
                    self.node.mut_store().restart_behind(mark);
                }
                let entries = ready.entries();
                self.node.mut_store().append(entries);
                let hard_state = tr::hard_state_out(&self.node.raft.hard_state());
                let entries = entries.iter().map(tr::entry_out).collect();
                effects.push(Effect::Persist(Persist { number, snapshot, hard_state, entries }));
            }
            let install = snapshot.map(|mark| mark.index);
            let committed = ready.take_committed_entries();
            if !committed.is_empty() {
                effects.push(Effect::Apply(committed.iter().map(tr::entry_out).collect()));
            }
            self.node.advance_append_async(ready);
            let waits = writes || !self.unpersisted.is_empty();
            // The first is of a promise, a new term or vote; that is another mutation's business.
            if waits && (self.promise_number == number || !mutation!(AckBeforeFsync)) {
                sometimes!(writes && self.unpersisted.len() > 1, "three writes of a member were in flight at once");
                self.unpersisted.push_back(Held { number, writes, install, messages: held });
            } else {
                self.node.on_persist_ready(number);
                effects.extend(install.map(|index| Effect::Install { index }));
                if !held.is_empty() {
                    effects.push(Effect::Send(held));
                }
            }
            self.after_raft();
        }
        for fetch in self.node.mut_store().take_fetches() {
            effects.push(Effect::Fetch(fetch));
        }
        if self.node.mut_store().take_wanted() && !self.taking {
            self.taking = true;
            effects.push(Effect::TakeSnapshot);
        }
    }

    fn persisted(&mut self, number: u64, effects: &mut Vec<Effect>) {
        let mut done = 0;
        let mut messages = Vec::new();
        let mut installs = Vec::new();
        let is_done = |held: &Held| held.number <= number || !held.writes || mutation!(FsyncCoversLaterWrites);
        while self.unpersisted.front().is_some_and(is_done) {
            let held = self.unpersisted.pop_front().expect("checked");
            done = held.number;
            messages.extend(held.messages);
            installs.extend(held.install);
        }
        if done > 0 {
            self.node.on_persist_ready(done);
        }
        effects.extend(installs.into_iter().map(|index| Effect::Install { index }));
        if !messages.is_empty() {
            effects.push(Effect::Send(messages));
        }
        self.release(effects);
    }

    fn outbound(&mut self, messages: &[eraftpb::Message]) -> Vec<raftpb::Message> {
        let term = self.node.raft.term;
        messages
            .iter()
            .map(|message| {
                let mut out = tr::message_out(message);
                mark_answer(message);
                if message.get_msg_type() == MessageType::MsgPropose {
                    out.term = Some(term);
                }
                out
            })
            .collect()
    }

    /// The log is kept for who is a little behind, and for who waits for a snapshot what follows that; never for who is
    /// away.
    fn release(&mut self, effects: &mut Vec<Effect>) {
        let stored = if mutation!(LogReleasedTooFar) { self.applied } else { self.store_durable };
        let stored = stored.min(self.applied);
        // The last entry that the store holds stays, whatever the slack: a restart needs its term, and goes on behind
        // it.
        let index = stored.saturating_sub(self.config.log_slack_entries.max(1)).min(self.needed_by_peers(stored));
        let log = self.node.mut_store();
        // In steps, so that it costs nothing a message.
        let step = (self.config.log_slack_entries / 4).max(1);
        if index >= log.released() + step && index <= log.last() {
            log.release(index);
            sometimes!("log released that nobody needs");
            effects.push(Effect::Release { index });
        }
    }

    /// As the leader: the last entry that some member which answers has, or is about to be given.
    fn needed_by_peers(&mut self, stored: u64) -> u64 {
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader {
            return u64::MAX;
        }
        let patience = stored.saturating_sub(self.config.log_slack_entries + self.config.log_catch_up_entries);
        let needs = raft.prs().iter().filter_map(|(_, progress)| match progress.state {
            ProgressState::Snapshot => Some(progress.pending_snapshot),
            _ => progress.recent_active.then(|| progress.matched.max(patience)),
        });
        let needed = needs.min().unwrap_or(u64::MAX);
        let prepared = self.node.mut_store().prepared();
        needed.min(prepared.unwrap_or(u64::MAX))
    }

    fn drop_idle_snapshot(&mut self, effects: &mut Vec<Effect>) {
        if self.node.mut_store().prepared().is_none() {
            return;
        }
        let raft = &self.node.raft;
        let is_used = raft.state == StateRole::Leader
            && raft.prs().iter().any(|(_, progress)| progress.state == ProgressState::Snapshot);
        self.idle_snapshot_ticks = if is_used { 0 } else { self.idle_snapshot_ticks + 1 };
        if self.idle_snapshot_ticks > self.config.election_ticks {
            self.node.mut_store().drop_prepared();
            effects.push(Effect::DropSnapshot);
        }
    }

    fn stop(&mut self, reason: String, effects: &mut Vec<Effect>) {
        self.stopped = true;
        effects.push(Effect::Stop(reason));
    }
}

fn mark_answer(message: &eraftpb::Message) {
    match message.get_msg_type() {
        MessageType::MsgAppendResponse if message.reject => sometimes!("append refused because of a gap or a conflict"),
        MessageType::MsgRequestVoteResponse if message.reject => sometimes!("vote refused"),
        MessageType::MsgRequestVoteResponse => sometimes!("vote granted"),
        MessageType::MsgRequestPreVoteResponse if message.reject => sometimes!("pre-vote refused"),
        _ => {}
    }
}
