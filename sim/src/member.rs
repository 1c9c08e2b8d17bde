//! One member on a disk in memory, moved stage by stage by whoever holds it.
//!
//! What production's four threads do (consensus, log, apply, backend), without threads: each stage has a queue and a
//! method that works some of it off. Between any two calls the process may die: [`SimMember::crash`] drops everything
//! that was not durable, and [`SimMember::boot`] starts over from the disk by the same steps as production. This file
//! decides nothing: no order, no delay, no fault is its own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use lockstep::member::apply::{self, Applier, Response};
use lockstep::member::boot::{self, Booted};
use lockstep::member::error::EtcdError;
use lockstep::member::lease;
use lockstep::member::lease::{Renewal, TimeToLive};
use lockstep::member::membership::{Member, Membership, ids};
use lockstep::member::raft::{Consensus, Effect, Fetch, Input, Persist, Proposal, ReadRequest, SnapshotMeta, Status};
use lockstep::member::snapshot;
use lockstep::member::watch;
use lockstep::mvcc::read::Read;
use lockstep::mvcc::{self, Backend, Batch, View};
use lockstep::ports::clock::Instant;
use lockstep::ports::dice::SeededDice;
use lockstep::ports::disk::Disk;
use lockstep::wal::{self, Wal};
use lockstep::{mutation, sometimes};
use lockstep_proto::etcdserverpb::alarm_request::AlarmAction;
use lockstep_proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, InternalRaftRequest, PutResponse, RequestHeader, ResponseHeader, WatchRequest,
};
use lockstep_proto::raftpb;
use prost::Message;

use crate::disk::{Loss, MemDisk};
use crate::keeping::Keeping;
use crate::watching::{Told, Watching};

/// How members of a simulated cluster are set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Members 1 to this.
    pub members: u64,
    pub raft: boot::RaftConfig,
    pub segment_bytes: u64,
    pub store_cache_bytes: usize,
    /// Of a defragmentation.
    pub copy_step_bytes: usize,
    pub quota_bytes: Option<u64>,
    pub watch: watch::Options,
    pub lease: lease::Settings,
    /// The member was added to the cluster: it has an empty log and nobody's founding.
    pub joins: bool,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            members: 1,
            raft: boot::RaftConfig {
                election_ticks: 10,
                heartbeat_ticks: 1,
                pre_vote: true,
                check_quorum: true,
                log_cache_bytes: 1 << 20,
                log_slack_entries: 1 << 16,
                log_catch_up_entries: 5_000,
                dice: Arc::new(SeededDice::new(1)),
            },
            segment_bytes: 1 << 16,
            store_cache_bytes: 1 << 20,
            copy_step_bytes: 4 << 10,
            quota_bytes: None,
            watch: watch::Options::default(),
            lease: lease::Settings::new(1_000),
            joins: false,
        }
    }
}

impl Setup {
    fn store_options(&self) -> mvcc::Options {
        mvcc::Options { cache_bytes: self.store_cache_bytes, copy_step_bytes: self.copy_step_bytes }
    }

    fn boot_config(&self, id: u64) -> boot::Config {
        let founder = |id| Member {
            id,
            name: format!("m{id}"),
            peer_urls: vec![format!("http://m{id}:2380")],
            ..Member::default()
        };
        boot::Config {
            member_id: id,
            cluster_id: 0xc1,
            founders: (1..=self.members).map(founder).filter(|_| !self.joins).collect(),
            joins: self.joins,
            force_new_cluster: false,
            wal_dir: boot::WAL_DIR.to_owned(),
            wal: wal::Options { segment_bytes: self.segment_bytes, sync: true },
            store: self.store_options(),
            raft: self.raft.clone(),
        }
    }
}

/// What came of working a stage off, in the order in which it happened.
#[derive(Debug)]
pub enum Event {
    /// For the network.
    Send(Box<raftpb::Message>),
    /// Queued for the log.
    Persist(Persist),
    /// The log is durable up to the persist of this number.
    Synced(u64),
    /// Queued for apply.
    Committed(Vec<raftpb::Entry>),
    /// Queued for the log.
    Fetch(Fetch),
    Release(u64),
    /// A round of read index is done for these reads; they may still wait for apply.
    ReadIndex {
        reads: Vec<u64>,
        index: u64,
    },
    /// This read may now be carried out on this view, now or later.
    /// `led` is the term that its round has confirmed since the read was asked for, if this member leads.
    ReadView {
        read: u64,
        view: Arc<View>,
        led: Option<u64>,
    },
    /// What a watch stream is sent, or that it ends.
    Watch(Told),
    /// Whoever waits for what a keeper was told may ask again.
    LeaseNews,
    /// The view that readers get from now on.
    Published(Arc<View>),
    Applied {
        index: u64,
        term: u64,
    },
    /// To the client that waits for it at this member.
    Reply {
        request: u64,
        result: Result<Response, EtcdError>,
    },
    /// Who the members are as of this index: they may have changed, or a life or a store begins.
    Members {
        index: u64,
        membership: Arc<Membership>,
    },
    /// The alarms that are raised as of this index: they may have changed, or a life or a store begins.
    Alarms {
        index: u64,
        raised: Vec<AlarmMember>,
    },
    /// Queued for the backend.
    Batch {
        consistent_index: u64,
    },
    StoreDurable(u64),
    /// What came of the snapshot that this member has sent: its transport is to hear.
    SnapshotEnded {
        sender: u64,
        ok: bool,
    },
    /// A received snapshot has taken the store's place.
    Installed(u64),
    /// The process has ended, and says why.
    Died(String),
}

/// See the head of this file.
pub struct SimMember {
    id: u64,
    setup: Setup,
    disk: MemDisk,
    life: Option<Life>,
    events: Vec<Event>,
    /// As of the last time that anybody said.
    now: Instant,
}

/// How long a member stands by its wish to raise an alarm.
const ALARM_PATIENCE_MS: u64 = 10_000;

/// What a crash takes.
struct Life {
    consensus: Consensus,
    applier: Applier,
    wal: Wal,
    backend: Backend,
    epoch: u64,
    inbox: Vec<Input>,
    log: VecDeque<LogWork>,
    /// The newest persist that was appended and waits for its fsync.
    appended: Option<u64>,
    apply: VecDeque<ApplyWork>,
    /// The view that members are sent which are too far behind.
    kept: Option<Arc<View>>,
    /// The snapshot that was received and is neither installed nor refused yet.
    receiving: Option<u64>,
    batches: VecDeque<Arc<Batch>>,
    /// A defragmentation is asked for.
    defragments: bool,
    alarms: Vec<AlarmMember>,
    compaction_waits: bool,
    view: Arc<View>,
    /// Requests that a client waits for here.
    requests: BTreeSet<u64>,
    /// Reads that have their index, by it.
    reads: BTreeMap<u64, Vec<(u64, Option<u64>)>>,
    watching: Watching,
    keeping: Keeping,
    sequence: u64,
}

enum LogWork {
    Persist(Persist),
    Fetch(Fetch),
    Release(u64),
}

#[derive(Debug)]
enum ApplyWork {
    Input(apply::Input),
    Install(u64),
}

/// What waits in front of each stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queues {
    pub inputs: usize,
    pub log: usize,
    pub unsynced: bool,
    pub apply: usize,
    pub batches: usize,
    /// A defragmentation is asked for, or under way.
    pub defragments: bool,
    pub compaction: bool,
    /// Publishes that the watch machine has not taken.
    pub published: usize,
    pub watch: bool,
    pub lease: bool,
}

impl SimMember {
    /// A member that is not running yet, on an empty disk.
    pub fn new(id: u64, setup: Setup) -> SimMember {
        assert!(setup.joins || (1..=setup.members).contains(&id), "member {id} is not of this cluster");
        SimMember { id, setup, disk: MemDisk::new(), life: None, events: Vec::new(), now: Instant(0) }
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn disk(&self) -> &MemDisk {
        &self.disk
    }

    /// Another disk, as after a replaced machine. The member must be down.
    pub fn replace_disk(&mut self, disk: MemDisk) {
        assert!(self.life.is_none(), "a running member keeps its disk");
        self.disk = disk;
    }

    pub fn is_up(&self) -> bool {
        self.life.is_some()
    }

    /// Starts the process. Its first words are among the events.
    pub fn boot(&mut self) -> Result<Vec<Event>, String> {
        assert!(self.life.is_none(), "member {} is running", self.id);
        let disk = Arc::new(self.disk.clone());
        let booted = boot::boot(disk.clone(), disk, &self.setup.boot_config(self.id)).map_err(|e| e.to_string())?;
        let Booted { member_id, epoch, repaired: _, consensus, mut applier, wal, backend, .. } = booted;
        assert_eq!(member_id, self.id, "the disk is this member's");
        applier.set_quota(self.setup.quota_bytes);
        let first = applier.start();
        let view = first
            .iter()
            .find_map(|e| if let apply::Effect::Publish { view, .. } = e { Some(view.clone()) } else { None })
            .expect("a life begins with a view");
        self.life = Some(Life {
            consensus,
            applier,
            wal,
            backend,
            epoch,
            inbox: Vec::new(),
            log: VecDeque::new(),
            appended: None,
            apply: VecDeque::new(),
            kept: None,
            receiving: None,
            batches: VecDeque::new(),
            defragments: false,
            alarms: Vec::new(),
            compaction_waits: false,
            view,
            requests: BTreeSet::new(),
            reads: BTreeMap::new(),
            watching: Watching::new(self.setup.watch, self.id),
            keeping: Keeping::new(self.setup.lease),
            sequence: 0,
        });
        self.apply_effects(first);
        Ok(self.take_events())
    }

    /// The process is gone, whatever it was doing. The disk keeps its pending writes until [`SimMember::power_loss`].
    pub fn kill(&mut self) {
        if let Some(life) = self.life.take() {
            sometimes!(life.appended.is_some(), "process ended between append and fsync");
            sometimes!(!life.batches.is_empty(), "process ended before the store's commit");
            sometimes!(!life.reads.is_empty(), "process ended while a read waited for apply");
            life.backend.poison();
        }
        self.events.clear();
    }

    /// The machine loses its power: the process is gone, and of what was not synced goes what `loss` says.
    pub fn crash(&mut self, loss: Loss, choose: &mut dyn FnMut(usize) -> usize) {
        self.kill();
        self.disk.crash(loss, choose);
    }

    /// What the member's clock shows, for what happens from now on.
    pub fn set_clock(&mut self, now: Instant) {
        self.now = now;
    }

    // Consensus.

    pub fn input(&mut self, input: Input) {
        match (&mut self.life, input) {
            (None, _) => {}
            (_, Input::Message(message)) if message.r#type() == raftpb::MessageType::MsgSnap => {
                self.receive_snapshot(message);
            }
            (Some(life), input) => life.inbox.push(input),
        }
    }

    /// Puts a client's request in; its answer comes as [`Event::Reply`] with the id returned.
    pub fn propose(&mut self, mut request: InternalRaftRequest, expires: Instant) -> Option<u64> {
        let life = self.life.as_mut()?;
        let id = life.next_id(self.id);
        request.header = Some(RequestHeader { id, ..Default::default() });
        life.requests.insert(id);
        if mutation!(ReplyBeforeCommit) {
            self.events.extend(life.reply_too_early(id, &request));
        }
        life.inbox.push(Input::Propose(Proposal { data: request.encode_to_vec().into(), expires, term: None }));
        Some(id)
    }

    /// The same with a change of the membership.
    pub fn propose_conf_change(&mut self, mut change: raftpb::ConfChange, expires: Instant) -> Option<u64> {
        let life = self.life.as_mut()?;
        let id = life.next_id(self.id);
        change.id = Some(id);
        life.requests.insert(id);
        let data = change.encode_to_vec().into();
        life.inbox.push(Input::ProposeConfChange(Proposal { data, expires, term: None }));
        Some(id)
    }

    /// Asks for a linearizable read; the view for it comes as [`Event::ReadView`] with the id returned.
    pub fn read(&mut self, expires: Instant) -> Option<u64> {
        let life = self.life.as_mut()?;
        let id = life.next_id(self.id);
        life.inbox.push(Input::Read(ReadRequest { id, expires }));
        Some(id)
    }

    /// Consensus takes everything that waits for it.
    pub fn step(&mut self, now: Instant) -> Vec<Event> {
        self.now = now;
        if let Some(life) = &mut self.life {
            let inputs = std::mem::take(&mut life.inbox);
            for effect in life.consensus.step(now, inputs) {
                self.consensus_effect(effect);
            }
        }
        self.take_events()
    }

    // The log.

    /// Carries out the first `count` pieces of work that wait for the log, without any fsync.
    pub fn append(&mut self, count: usize) -> Vec<Event> {
        for _ in 0..count {
            let Some(life) = &mut self.life else { break };
            let Some(work) = life.log.pop_front() else { break };
            if let Err(error) = life.log_work(work) {
                self.die(error.to_string());
            }
        }
        self.take_events()
    }

    /// Makes durable what was appended, and tells consensus.
    pub fn fsync(&mut self) -> Vec<Event> {
        if let Some(life) = &mut self.life
            && let Some(number) = life.appended.take()
        {
            match life.wal.sync() {
                Ok(()) => {
                    self.events.push(Event::Synced(number));
                    life.inbox.push(Input::Persisted(number));
                }
                Err(error) => self.die(error.to_string()),
            }
        }
        self.take_events()
    }

    // Apply and the store.

    /// The apply machine takes the first `count` inputs that wait for it.
    pub fn apply(&mut self, count: usize) -> Vec<Event> {
        let Some(life) = &mut self.life else { return Vec::new() };
        let count = count.min(life.apply.len());
        let mut inputs = Vec::new();
        for _ in 0..count {
            // An installation takes what the former store has to say out of the queue.
            match self.life.as_mut().and_then(|life| life.apply.pop_front()) {
                Some(ApplyWork::Input(input)) => inputs.push(input),
                Some(ApplyWork::Install(index)) => {
                    self.apply_inputs(std::mem::take(&mut inputs));
                    if let Err(reason) = self.install(index) {
                        self.die(reason);
                    }
                }
                None => break,
            }
        }
        self.apply_inputs(inputs);
        self.take_events()
    }

    fn apply_inputs(&mut self, inputs: Vec<apply::Input>) {
        let Some(life) = &mut self.life else { return };
        let effects = life.applier.step(inputs);
        self.apply_effects(effects);
    }

    fn apply_effects(&mut self, effects: Vec<apply::Effect>) {
        let has_members = effects.iter().any(|effect| matches!(effect, apply::Effect::Membership(_)));
        for effect in effects {
            self.apply_effect(effect);
        }
        // Of several changes in one step only the last is as of the index that the machine has come to.
        if let Some(life) = self.life.as_ref().filter(|_| has_members) {
            let membership = life.applier.membership().clone();
            self.events.push(Event::Members { index: life.applier.applied(), membership });
        }
    }

    /// What the old store was still to commit is of no more use, nor is what it has to say.
    fn install(&mut self, index: u64) -> Result<(), String> {
        let Some(life) = &mut self.life else { return Ok(()) };
        life.batches.clear();
        life.defragments = false;
        let is_of_former =
            |input: &apply::Input| matches!(input, apply::Input::Committed(_) | apply::Input::Defragmented(_));
        life.apply.retain(|work| !matches!(work, ApplyWork::Input(input) if is_of_former(input)));
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let options = self.setup.store_options();
        let (store, backend) = snapshot::install(&disk, index, options).map_err(|e| e.to_string())?;
        let former = std::mem::replace(&mut life.backend, backend);
        life.backend.succeed(former);
        life.receiving = None;
        let effects = life.applier.replace(store).map_err(|e| e.to_string())?;
        self.events.push(Event::Installed(index));
        self.apply_effects(effects);
        Ok(())
    }

    /// A snapshot comes: it is on the disk, whole and in our format, before consensus hears of it.
    fn receive_snapshot(&mut self, mut message: Box<raftpb::Message>) {
        let Some(life) = &mut self.life else { return };
        let sender = message.from();
        let body = message.snapshot.as_mut().and_then(|snapshot| snapshot.data.take()).unwrap_or_default();
        let received = match (life.receiving, SnapshotMeta::of(&message)) {
            (None, Some(meta)) => {
                let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
                snapshot::receive(&disk, &body, body.len() as u64, &meta)
                    .map(|()| meta.index)
                    .map_err(|e| e.to_string())
            }
            _ => Err("another one is on its way, or it does not say what it is of".to_owned()),
        };
        match received {
            Ok(index) => {
                life.receiving = Some(index);
                life.inbox.push(Input::Message(message));
                self.events.push(Event::SnapshotEnded { sender, ok: true });
            }
            Err(reason) if self.disk.crashed() => self.die(reason),
            Err(_) => {
                sometimes!("received snapshot could not be taken");
                self.events.push(Event::SnapshotEnded { sender, ok: false });
            }
        }
    }

    /// The timer of the store's commits has run out: queued for apply.
    pub fn commit_due(&mut self) {
        if let Some(life) = &mut self.life {
            life.apply.push_back(ApplyWork::Input(apply::Input::Commit));
        }
    }

    /// The pause of a compaction is over: queued for apply, if one is under way.
    pub fn compaction_due(&mut self) {
        if let Some(life) = &mut self.life
            && std::mem::take(&mut life.compaction_waits)
        {
            life.apply.push_back(ApplyWork::Input(apply::Input::CompactStep));
        }
    }

    /// The backend commits one batch, or goes on with a defragmentation.
    pub fn store_commit(&mut self) -> Vec<Event> {
        if let Some(life) = &mut self.life {
            let done = match life.batches.pop_front() {
                Some(batch) => {
                    sometimes!(life.backend.is_defragmenting(), "commit beside a defragmentation");
                    let committed = life.backend.commit(&batch);
                    let told = |committed| life.apply.push_back(ApplyWork::Input(apply::Input::Committed(committed)));
                    committed.map(told)
                }
                None => life.defragment(),
            };
            if let Err(error) = done {
                self.die(error.to_string());
            }
        }
        self.take_events()
    }

    /// Somebody wants the store's file to be written anew: queued for apply.
    pub fn defragment(&mut self) {
        if let Some(life) = &mut self.life {
            let id = life.next_id(self.id);
            life.apply.push_back(ApplyWork::Input(apply::Input::Defragment { id }));
        }
    }

    // Watches.

    pub fn open_watch(&mut self, stream: u64) -> Vec<Event> {
        self.watch(|watching, now, view| watching.open(now, stream, view))
    }

    pub fn close_watch(&mut self, stream: u64) -> Vec<Event> {
        self.watch(|watching, now, _| watching.close(now, stream))
    }

    pub fn watch_request(&mut self, stream: u64, request: WatchRequest) -> Vec<Event> {
        self.watch(|watching, now, view| watching.request(now, stream, request, view.rev()))
    }

    /// So much of what the stream was sent has been taken by its client.
    pub fn watch_taken(&mut self, stream: u64, charge: usize) -> Vec<Event> {
        self.watch(|watching, now, _| watching.taken(now, stream, charge))
    }

    /// The watch machine takes the first `count` publishes that wait for it, and catches up a piece.
    pub fn watch_work(&mut self, count: usize) -> Vec<Event> {
        self.watch(|watching, now, view| watching.work(now, count, view))
    }

    /// A tenth of a second has passed for the watch machine and the keeper.
    pub fn beat(&mut self) -> Vec<Event> {
        let now = self.now;
        if let Some(life) = &mut self.life {
            life.keeping.beat(now, &life.consensus.status());
            if !life.watching.has_streams() {
                return Vec::new();
            }
        }
        self.watch(|watching, now, view| watching.tick(now, view))
    }

    fn watch(&mut self, what: impl FnOnce(&mut Watching, Instant, &Arc<View>)) -> Vec<Event> {
        let Some(life) = &mut self.life else { return Vec::new() };
        what(&mut life.watching, self.now, &life.view);
        self.events.extend(life.watching.take_told().into_iter().map(Event::Watch));
        self.take_events()
    }

    // Leases.

    /// The keeper's thread looks around.
    pub fn lease_work(&mut self, expires: Instant) -> Vec<Event> {
        let (id, now) = (self.id, self.now);
        if let Some(life) = &mut self.life {
            for effect in life.keeping.work(now, &life.consensus.status()) {
                match effect {
                    lease::Effect::Confirm { term } => {
                        let read = life.next_id(id);
                        life.keeping.asked(read, term);
                        life.inbox.push(Input::Read(ReadRequest { id: read, expires }));
                    }
                    lease::Effect::Propose { term, requests } => {
                        for mut request in requests {
                            request.header = Some(RequestHeader { id: life.next_id(id), ..Default::default() });
                            let data = request.encode_to_vec().into();
                            let proposal = Proposal { data, expires: Instant(u64::MAX), term: Some(term) };
                            life.inbox.push(Input::Propose(proposal));
                        }
                    }
                }
            }
            if life.keeping.take_news() {
                self.events.push(Event::LeaseNews);
            }
        }
        self.take_events()
    }

    /// Renews a lease with this proof; `None` when the process is gone.
    pub fn renew(&mut self, lease: i64, term: u64) -> Option<Renewal> {
        let now = self.now;
        self.life.as_mut().map(|life| life.keeping.renew(now, lease, term))
    }

    pub fn time_to_live(&mut self, lease: i64, term: u64) -> Option<TimeToLive> {
        let now = self.now;
        self.life.as_mut().map(|life| life.keeping.time_to_live(now, lease, term))
    }

    // Looking on.

    pub fn status(&self) -> Option<Status> {
        self.life.as_ref().map(|life| life.consensus.status())
    }

    /// Those that are raised, as this member knows.
    pub fn alarms(&self) -> &[AlarmMember] {
        self.life.as_ref().map_or(&[], |life| &life.alarms)
    }

    /// From now on, and in lives to come.
    pub fn lift_quota(&mut self) {
        self.setup.quota_bytes = None;
        if let Some(life) = &mut self.life {
            life.applier.set_quota(None);
        }
    }

    /// How often this member has been started.
    pub fn epoch(&self) -> Option<u64> {
        self.life.as_ref().map(|life| life.epoch)
    }

    pub fn queues(&self) -> Queues {
        self.life.as_ref().map_or(Queues::default(), |life| Queues {
            inputs: life.inbox.len(),
            log: life.log.len(),
            unsynced: life.appended.is_some(),
            apply: life.apply.len(),
            batches: life.batches.len(),
            defragments: life.defragments || life.backend.is_defragmenting(),
            compaction: life.compaction_waits,
            published: life.watching.waiting().0,
            watch: life.watching.waiting() != (0, false),
            lease: life.keeping.is_due(),
        })
    }

    /// The newest view, as a serializable read gets it.
    pub fn view(&self) -> Option<Arc<View>> {
        self.life.as_ref().map(|life| life.view.clone())
    }

    /// Those that its consensus counts with.
    pub fn voters(&self) -> Vec<u64> {
        self.life.as_ref().map_or(Vec::new(), |life| life.consensus.voters())
    }

    /// The members, as far as this one has applied.
    pub fn membership(&self) -> Option<&Membership> {
        self.life.as_ref().map(|life| &**life.applier.membership())
    }

    /// The write-ahead log's entries, as they can be read back.
    pub fn log_entries(&self) -> Result<Vec<raftpb::Entry>, wal::Error> {
        let Some(life) = &self.life else { return Ok(Vec::new()) };
        life.wal.read(life.wal.first_index(), life.wal.last_index() + 1, u64::MAX)
    }

    /// The index of the first of these, or of the next where there is none.
    pub fn log_first(&self) -> u64 {
        self.life.as_ref().map_or(1, |life| life.wal.first_index())
    }

    /// The hard state as the log has it, durable or not.
    pub fn log_hard_state(&self) -> Option<raftpb::HardState> {
        self.life.as_ref().map(|life| life.wal.hard_state())
    }

    fn consensus_effect(&mut self, effect: Effect) {
        let Some(life) = &mut self.life else { return };
        match effect {
            Effect::Send(messages) => {
                let sent = messages.into_iter().filter_map(|message| life.with_body(message));
                self.events.extend(sent.map(Box::new).map(Event::Send));
            }
            Effect::Persist(persist) => {
                self.events.push(Event::Persist(persist.clone()));
                life.log.push_back(LogWork::Persist(persist));
            }
            Effect::Apply(entries) => {
                self.events.push(Event::Committed(entries.clone()));
                life.apply.push_back(ApplyWork::Input(apply::Input::Entries(entries)));
            }
            Effect::TakeSnapshot => life.apply.push_back(ApplyWork::Input(apply::Input::Snapshot)),
            Effect::DropSnapshot => life.kept = None,
            Effect::Install { index } => life.apply.push_back(ApplyWork::Install(index)),
            Effect::SnapshotRefused { index } => {
                life.receiving = None;
                let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
                if let Err(error) = snapshot::discard(&*disk, index) {
                    self.die(error.to_string());
                }
            }
            Effect::ReadReady { reads, index, led } => {
                let ids: Vec<u64> = reads.iter().map(|read| read.id).collect();
                life.reads.entry(index).or_default().extend(ids.iter().map(|id| (*id, led)));
                self.events.push(Event::ReadIndex { reads: ids, index });
                life.serve_reads(&mut self.events);
            }
            Effect::Fetch(fetch) => {
                self.events.push(Event::Fetch(fetch.clone()));
                life.log.push_back(LogWork::Fetch(fetch));
            }
            Effect::Release { index } => {
                self.events.push(Event::Release(index));
                life.log.push_back(LogWork::Release(index));
            }
            Effect::Stop(reason) => self.die(reason),
        }
    }

    fn apply_effect(&mut self, effect: apply::Effect) {
        let Some(life) = &mut self.life else { return };
        match effect {
            apply::Effect::Publish { view, changes } => {
                life.view = view.clone();
                life.watching.publish(&view, &changes);
                self.events.push(Event::Published(view));
                life.serve_reads(&mut self.events);
            }
            apply::Effect::Applied { index, term } => {
                self.events.push(Event::Applied { index, term });
                life.inbox.push(Input::Applied(index));
            }
            apply::Effect::ConfChange(change) => life.inbox.push(Input::ConfChange(change)),
            apply::Effect::Removed(ids) => life.inbox.push(Input::Removed(ids)),
            apply::Effect::Membership(_) => {}
            apply::Effect::Leases(changes) => {
                life.keeping.changed(self.now, &changes);
                if life.keeping.take_news() {
                    self.events.push(Event::LeaseNews);
                }
            }
            apply::Effect::Reply(reply) => {
                if life.requests.remove(&reply.id) {
                    self.events.push(Event::Reply { request: reply.id, result: reply.result });
                }
            }
            apply::Effect::Alarms(alarms) => {
                life.alarms.clone_from(&alarms);
                self.events.push(Event::Alarms { index: life.applier.applied(), raised: alarms });
            }
            apply::Effect::NoSpace => {
                let alarm = AlarmRequest {
                    action: AlarmAction::Activate as i32,
                    member_id: self.id,
                    alarm: AlarmType::Nospace as i32,
                };
                let mut request = InternalRaftRequest { alarm: Some(alarm), ..Default::default() };
                request.header = Some(RequestHeader { id: life.next_id(self.id), ..Default::default() });
                let data = request.encode_to_vec().into();
                let expires = Instant(self.now.0 + ALARM_PATIENCE_MS);
                life.inbox.push(Input::Propose(Proposal { data, expires, term: None }));
            }
            apply::Effect::Defragment => life.defragments = true,
            apply::Effect::Commit(batch) => {
                self.events.push(Event::Batch { consistent_index: batch.consistent_index() });
                life.batches.push_back(batch);
            }
            apply::Effect::StoreDurable(index) => {
                self.events.push(Event::StoreDurable(index));
                life.inbox.push(Input::StoreDurable(index));
            }
            apply::Effect::Snapshot { view, meta } => {
                life.kept = Some(view);
                life.inbox.push(Input::Snapshot(meta));
            }
            apply::Effect::Compacting => life.compaction_waits = true,
            apply::Effect::Stop(reason) => self.die(reason),
        }
    }

    fn die(&mut self, reason: String) {
        sometimes!("process ended by its own decision");
        self.kill_keeping_events();
        self.events.push(Event::Died(reason));
    }

    fn kill_keeping_events(&mut self) {
        let events = std::mem::take(&mut self.events);
        self.kill();
        self.events = events;
    }

    fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }
}

impl Life {
    fn next_id(&mut self, member: u64) -> u64 {
        self.sequence += 1;
        ids::first_request(member, self.epoch).wrapping_add(self.sequence)
    }

    /// A snapshot leaves with what it is of. One that nobody keeps any more does not leave.
    fn with_body(&mut self, mut message: raftpb::Message) -> Option<raftpb::Message> {
        let Some(meta) = SnapshotMeta::of(&message) else { return Some(message) };
        let body = self.kept.as_ref().filter(|view| view.applied_index() == meta.index).map(|view| {
            let mut body = Vec::new();
            snapshot::write(view, &mut body).map(|()| body)
        });
        let Some(Ok(body)) = body else {
            self.inbox.push(Input::SnapshotSent { to: message.to(), ok: false });
            return None;
        };
        message.snapshot.get_or_insert_default().data = Some(body.into());
        Some(message)
    }

    /// A step of the defragmentation that is under way, or the first of one that is asked for. Only an error that the
    /// store does not survive is one.
    fn defragment(&mut self) -> Result<(), mvcc::read::Error> {
        let stepped = if self.backend.is_defragmenting() {
            self.backend.defragment_step()
        } else if std::mem::take(&mut self.defragments) {
            self.backend.defragment_begin().map(|()| None)
        } else {
            return Ok(());
        };
        let done = match stepped {
            Ok(None) => return Ok(()),
            Ok(Some(reopened)) => {
                sometimes!("store defragmented");
                Ok(reopened)
            }
            Err(error) if self.backend.has_failed() => return Err(error),
            Err(error) => Err(error.to_string()),
        };
        self.apply.push_back(ApplyWork::Input(apply::Input::Defragmented(done)));
        Ok(())
    }

    /// An answer as it would be if nothing could go wrong from here on. Forgets that a client waits.
    fn reply_too_early(&mut self, id: u64, request: &InternalRaftRequest) -> Option<Event> {
        request.put.as_ref()?;
        self.requests.remove(&id);
        let header = ResponseHeader { revision: self.view.rev() + 1, ..Default::default() };
        let response = PutResponse { header: Some(header), prev_kv: None };
        Some(Event::Reply { request: id, result: Ok(Response::Put(response)) })
    }

    fn log_work(&mut self, work: LogWork) -> Result<(), wal::Error> {
        match work {
            LogWork::Persist(persist) => {
                persist.append_to(&mut self.wal)?;
                sometimes!(self.appended.is_some(), "several appends shared one fsync");
                self.appended = Some(persist.number);
            }
            LogWork::Fetch(fetch) => {
                let entries = fetch.read_from(&self.wal)?;
                self.inbox.push(Input::Fetched { id: fetch.id, entries });
            }
            LogWork::Release(index) => self.wal.release_below(index + 1)?,
        }
        Ok(())
    }

    fn serve_reads(&mut self, events: &mut Vec<Event>) {
        let applied = if mutation!(ReadBeforeApply) { u64::MAX - 1 } else { self.view.applied_index() };
        let later = self.reads.split_off(&(applied + 1));
        sometimes!(!later.is_empty(), "read waited for apply");
        for (read, led) in std::mem::replace(&mut self.reads, later).into_values().flatten() {
            if !self.keeping.answered(read, led) {
                events.push(Event::ReadView { read, view: self.view.clone(), led });
            }
        }
    }
}
