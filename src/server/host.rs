//! The threads that drive one member: consensus, log (with one that prepares its segments), apply, backend, and the
//! leader's clock of leases.
//!
//! ```text
//!  services ──proposals, reads──▶ consensus ──persists──▶ log (append, one fdatasync for all that wait)
//!  peers ────────messages───────▶     │  ◀──persisted──────┘
//!                                     └──committed──▶ apply ──batches──▶ backend (redb commits)
//!  services ◀──views, replies──────────────────────────┘  ◀──committed──────┘
//! ```
//!
//! Each thread takes everything that waits for it at once, so batches grow by themselves when a step is slow, without
//! caps. Channels are unbounded; what may pile up in them is bounded by the requests the services admit. A thread that
//! meets an error it cannot answer ends the process through [`Fatal`]: going on would acknowledge what may not be
//! there.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant as StdInstant};

use lockstep_proto::raftpb;

use super::leases;
use super::metrics::METRICS;
use super::node::Node;
use super::room::{Room, Work};
use super::snapshots::Snapshots;
use crate::member::apply::{self, Applier};
use crate::member::boot::Booted;
use crate::member::raft::{Consensus, Effect, Fetch, Input, Persist};
use crate::mvcc::read::{Error as StoreError, Read};
use crate::mvcc::{Backend, Batch, Reopened, Store};
use crate::ports::clock::{Clock, Instant};
use crate::ports::network::Network;
use crate::wal::{Spare, Wal};

/// The machine's monotonic clock, from the start of the process.
#[derive(Clone, Copy, Debug)]
pub struct RealClock {
    start: StdInstant,
}

impl RealClock {
    pub fn start() -> RealClock {
        RealClock { start: StdInstant::now() }
    }
}

impl Clock for RealClock {
    fn now(&self) -> Instant {
        Instant(self.start.elapsed().as_millis() as u64)
    }
}

/// Ends the process, saying why. Called at most once, from any thread.
pub type Fatal = Arc<dyn Fn(String) + Send + Sync>;

/// How often things happen.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub tick: Duration,
    /// Between two commits of the store.
    pub commit: Duration,
    /// Between two steps of a compaction.
    pub compact: Duration,
}

/// Where inputs for the member go. Cheap to clone; never blocks.
#[derive(Clone)]
pub struct Mailbox {
    consensus: Sender<ToConsensus>,
    apply: Sender<ToApply>,
}

enum ToConsensus {
    Input(Input),
    Inputs(Vec<Input>),
    /// All that arrived together: one wake-up.
    Messages(Vec<raftpb::Message>),
    Stop,
}

enum ToLog {
    Persist(Persist),
    Fetch(Fetch),
    Release(u64),
}

/// The receiving end of a [`Mailbox`], before the threads run.
pub struct Inbox {
    consensus: Receiver<ToConsensus>,
    apply: Receiver<ToApply>,
}

pub fn mailbox() -> (Mailbox, Inbox) {
    let (to_consensus, consensus) = channel();
    let (to_apply, apply) = channel();
    (Mailbox { consensus: to_consensus, apply: to_apply }, Inbox { consensus, apply })
}

impl Mailbox {
    /// What arrives after the member has stopped is dropped, as a message to a dead process is.
    pub fn consensus(&self, input: Input) {
        let _ = self.consensus.send(ToConsensus::Input(input));
    }

    pub fn inputs(&self, inputs: Vec<Input>) {
        let _ = self.consensus.send(ToConsensus::Inputs(inputs));
    }

    pub fn messages(&self, messages: Vec<raftpb::Message>) {
        let _ = self.consensus.send(ToConsensus::Messages(messages));
    }

    /// A question that only the apply machine can answer.
    pub fn apply(&self, input: apply::Input) {
        let _ = self.apply.send(ToApply::Input(input));
    }
}

/// The running threads.
pub struct Host {
    mailbox: Mailbox,
    threads: Vec<JoinHandle<()>>,
}

impl Host {
    /// Starts the threads. `first` are the effects of [`Applier::start`], already carried out as far as readers go.
    #[allow(clippy::too_many_arguments)]
    pub fn start(
        member: MemberParts,
        inbox: Inbox,
        node: Arc<Node>,
        network: Arc<dyn Network>,
        snapshots: Arc<Snapshots>,
        clock: RealClock,
        pace: Pace,
        fatal: Fatal,
    ) -> Host {
        let MemberParts { consensus, applier, wal, backend, first } = member;
        let (to_log, log_inbox) = channel();
        let (to_backend, backend_inbox) = channel();
        let mailbox = node.mailbox.clone();
        let to_apply = mailbox.apply.clone();
        let keeper = node.clone();

        let (to_spares, spares_inbox) = channel::<Spare>();

        let log = LogThread {
            wal,
            room: node.room.clone(),
            consensus: mailbox.clone(),
            spares: to_spares,
            last_sync: Duration::ZERO,
            synced_entries: 0,
            expected_entries: 0,
            fatal: fatal.clone(),
        };
        let backend = BackendThread {
            backend,
            room: node.room.clone(),
            apply: to_apply.clone(),
            snapshots: snapshots.clone(),
            fatal: fatal.clone(),
            defragmenting_since: StdInstant::now(),
            defragment_next: StdInstant::now(),
        };
        let apply = ApplyThread {
            applier,
            consensus: mailbox.clone(),
            backend: to_backend.clone(),
            node: node.clone(),
            snapshots: snapshots.clone(),
            parked: None,
            pace,
            fatal: fatal.clone(),
            compact_at: None,
            compact_rev: 0,
            compacting_since: None,
        };
        let consensus = ConsensusThread {
            consensus,
            log: to_log,
            apply: to_apply,
            backend: to_backend,
            node,
            network,
            snapshots,
            clock,
            pace,
            fatal: fatal.clone(),
        };
        let threads = vec![
            spawn("consensus", &fatal, move || consensus.run(inbox.consensus)),
            spawn("log", &fatal, move || log.run(log_inbox)),
            spawn("apply", &fatal, move || apply.run(inbox.apply, first)),
            spawn("backend", &fatal, move || backend.run(backend_inbox)),
            spawn("leases", &fatal, move || leases::run(keeper)),
            // What fails here the log meets itself when it needs the segment, and says so.
            spawn("spares", &fatal, move || spares_inbox.iter().for_each(|spare| drop(spare.prepare()))),
        ];
        Host { mailbox, threads }
    }

    /// Stops the threads one after the other, each when it has done what the one before gave it, and waits for them.
    pub fn stop(self) {
        let _ = self.mailbox.consensus.send(ToConsensus::Stop);
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

/// A booted member, taken apart for its threads.
pub struct MemberParts {
    pub consensus: Consensus,
    pub applier: Applier,
    pub wal: Wal,
    pub backend: Backend,
    pub first: Vec<apply::Effect>,
}

impl MemberParts {
    pub fn new(booted: Booted, first: Vec<apply::Effect>) -> MemberParts {
        let Booted { consensus, applier, wal, backend, .. } = booted;
        MemberParts { consensus, applier, wal, backend, first }
    }
}

/// A thread that panics ends the process: without it the member would go on in part, and answer nobody.
fn spawn(name: &'static str, fatal: &Fatal, run: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    let fatal = fatal.clone();
    let run = move || {
        if std::panic::catch_unwind(AssertUnwindSafe(run)).is_err() {
            fatal(format!("the {name} thread panicked; what it said is on standard error"));
        }
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(run).expect("a thread can be started")
}

/// Everything that waits in a channel, at once.
fn drain<T>(first: T, receiver: &Receiver<T>, into: &mut Vec<T>) {
    into.push(first);
    into.extend(receiver.try_iter());
}

struct ConsensusThread {
    consensus: Consensus,
    log: Sender<ToLog>,
    apply: Sender<ToApply>,
    backend: Sender<ToBackend>,
    node: Arc<Node>,
    network: Arc<dyn Network>,
    snapshots: Arc<Snapshots>,
    clock: RealClock,
    pace: Pace,
    fatal: Fatal,
}

impl ConsensusThread {
    fn run(mut self, inbox: Receiver<ToConsensus>) {
        let mut next_tick = StdInstant::now() + self.pace.tick;
        let mut waiting = Vec::new();
        loop {
            let patience = next_tick.saturating_duration_since(StdInstant::now());
            match inbox.recv_timeout(patience) {
                Ok(first) => drain(first, &inbox, &mut waiting),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let mut inputs = Vec::with_capacity(waiting.len() + 1);
            for message in waiting.drain(..) {
                match message {
                    ToConsensus::Input(input) => inputs.push(input),
                    ToConsensus::Inputs(more) => inputs.extend(more),
                    ToConsensus::Messages(messages) => {
                        inputs.extend(messages.into_iter().map(|m| Input::Message(Box::new(m))));
                    }
                    ToConsensus::Stop => return,
                }
            }
            // At every tick, and at every change of who there is.
            let mut shows_progress = inputs.iter().any(|input| matches!(input, Input::ConfChange(_)));
            let now = StdInstant::now();
            if now > next_tick + 2 * self.pace.tick && self.node.status().leader == self.node.member_id {
                METRICS.heartbeat_send_failures.inc();
            }
            if now >= next_tick {
                inputs.push(Input::Tick);
                shows_progress = true;
                // A process that was paused ticks on from now; the ticks it missed are gone.
                next_tick = (next_tick + self.pace.tick).max(now);
            }
            for effect in self.consensus.step(self.clock.now(), inputs) {
                self.carry_out(effect);
            }
            self.node.set_status(self.consensus.status());
            if shows_progress {
                self.node.set_progress(self.consensus.progress());
            }
        }
    }

    fn carry_out(&self, effect: Effect) {
        match effect {
            Effect::Send(messages) => self.network.send(messages),
            Effect::Persist(persist) => {
                let _ = self.log.send(ToLog::Persist(persist));
            }
            Effect::Apply(entries) => {
                let _ = self.apply.send(ToApply::Input(apply::Input::Entries(entries)));
            }
            Effect::ReadReady { reads, index, led } => self.node.read_ready(reads, index, led),
            Effect::Fetch(fetch) => {
                let _ = self.log.send(ToLog::Fetch(fetch));
            }
            Effect::Release { index } => {
                let _ = self.log.send(ToLog::Release(index));
            }
            Effect::TakeSnapshot => {
                let _ = self.apply.send(ToApply::Input(apply::Input::Snapshot));
            }
            Effect::DropSnapshot => self.snapshots.drop_kept(),
            Effect::Install { index } => {
                let _ = self.apply.send(ToApply::Install(index));
            }
            Effect::SnapshotRefused { index } => {
                let _ = self.backend.send(ToBackend::Discard(index));
            }
            Effect::Stop(reason) => (self.fatal)(reason),
        }
    }
}

impl Drop for ConsensusThread {
    fn drop(&mut self) {
        let _ = self.apply.send(ToApply::Stop);
    }
}

struct LogThread {
    wal: Wal,
    room: Arc<Room>,
    consensus: Mailbox,
    /// Segments to be prepared ahead of need.
    spares: Sender<Spare>,
    last_sync: Duration,
    /// Entries made durable by the last sync.
    synced_entries: usize,
    /// Entries that may soon be here to be made durable together.
    expected_entries: usize,
    fatal: Fatal,
}

/// The part of a sync's time, and the most, that is spent on waiting for more to sync; less than the third is not
/// worth it.
const GATHER_PART: u32 = 4;
const GATHER_LIMIT: Duration = Duration::from_millis(5);
const GATHER_WORTH: Duration = Duration::from_micros(100);

/// A vote or a term without entries: an election waits for it.
fn is_urgent(work: &ToLog) -> bool {
    matches!(work, ToLog::Persist(persist) if persist.entries.is_empty())
}

fn entries_of(work: &[ToLog]) -> usize {
    work.iter().map(|work| if let ToLog::Persist(persist) = work { persist.entries.len() } else { 0 }).sum()
}

impl LogThread {
    fn run(mut self, inbox: Receiver<ToLog>) {
        let mut waiting = Vec::new();
        loop {
            if waiting.is_empty() {
                let Ok(first) = inbox.recv() else { return };
                drain(first, &inbox, &mut waiting);
            }
            self.gather(&inbox, &mut waiting);
            let room = self.room.clone();
            if let Err(error) = room.insist(Work::Log, || self.work(&mut waiting)) {
                (self.fatal)(error.to_string());
                return;
            }
            // Who arrived during the sync, and who was answered by it: those are at work, and may all be back soon.
            waiting.extend(inbox.try_iter());
            self.expected_entries = self.synced_entries + entries_of(&waiting);
        }
    }

    fn work(&mut self, waiting: &mut Vec<ToLog>) -> Result<(), crate::wal::Error> {
        let entries = entries_of(waiting);
        let mut persisted = None;
        let mut fetches = Vec::new();
        for work in waiting.drain(..) {
            match work {
                ToLog::Persist(persist) => {
                    persist.append_to(&mut self.wal)?;
                    persisted = Some(persist.number);
                }
                ToLog::Fetch(fetch) => fetches.push(fetch),
                ToLog::Release(index) => self.wal.release_below(index + 1)?,
            }
        }
        if let Some(number) = persisted {
            let started = StdInstant::now();
            self.wal.sync()?;
            self.last_sync = started.elapsed();
            METRICS.wal_fsync_seconds.observe(self.last_sync.as_secs_f64());
            METRICS.wal_written_bytes.set(self.wal.written_bytes() as i64);
            self.synced_entries = entries;
            self.consensus.consensus(Input::Persisted(number));
            self.order_spare();
        }
        for fetch in fetches {
            let entries = fetch.read_from(&self.wal)?;
            self.consensus.consensus(Input::Fetched { id: fetch.id, entries });
        }
        Ok(())
    }

    /// Where syncing is slow, waits a little for those whom the last sync answered: in a closed loop half of the
    /// clients would else always just miss a sync, and wait for two.
    fn gather(&self, inbox: &Receiver<ToLog>, waiting: &mut Vec<ToLog>) {
        let limit = (self.last_sync / GATHER_PART).min(GATHER_LIMIT);
        if limit < GATHER_WORTH || waiting.iter().any(is_urgent) {
            return;
        }
        let until = StdInstant::now() + limit;
        while entries_of(waiting) < self.expected_entries {
            match inbox.recv_timeout(until.saturating_duration_since(StdInstant::now())) {
                Ok(more) => drain(more, inbox, waiting),
                Err(_) => return,
            }
        }
    }

    fn order_spare(&self) {
        if let Some(spare) = self.wal.spare() {
            let _ = self.spares.send(spare);
        }
    }
}

/// etcd's `--warning-apply-duration`.
const SLOW_APPLY: Duration = Duration::from_millis(100);

enum ToApply {
    Input(apply::Input),
    /// Everything from here on is of after this snapshot.
    Install(u64),
    /// The snapshot's store is in place.
    Installed(Box<Store>),
    Stop,
}

enum ToBackend {
    Commit(Arc<Batch>),
    Defragment,
    /// A received snapshot takes the store's place.
    Install(u64),
    /// A received snapshot is of no use.
    Discard(u64),
}

struct ApplyThread {
    applier: Applier,
    consensus: Mailbox,
    backend: Sender<ToBackend>,
    node: Arc<Node>,
    snapshots: Arc<Snapshots>,
    /// While a snapshot's store is put in place: what comes after it.
    parked: Option<Vec<apply::Input>>,
    pace: Pace,
    fatal: Fatal,
    compact_at: Option<StdInstant>,
    /// The last compaction that was seen, and when its work began.
    compact_rev: i64,
    compacting_since: Option<StdInstant>,
}

impl ApplyThread {
    fn run(mut self, inbox: Receiver<ToApply>, first: Vec<apply::Effect>) {
        for effect in first {
            self.carry_out(effect);
        }
        // Whether a crash has left some of it, the first step finds out; it is no new one.
        self.compacting_since = None;
        let mut commit_at = StdInstant::now() + self.pace.commit;
        let mut waiting = Vec::new();
        loop {
            let wake_at = self.compact_at.map_or(commit_at, |at| at.min(commit_at));
            match inbox.recv_timeout(wake_at.saturating_duration_since(StdInstant::now())) {
                Ok(message) => drain(message, &inbox, &mut waiting),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let mut inputs = Vec::with_capacity(waiting.len() + 2);
            let mut stop = false;
            for message in waiting.drain(..) {
                match message {
                    ToApply::Input(input) => self.sort(input, &mut inputs),
                    ToApply::Install(index) => {
                        self.step(std::mem::take(&mut inputs));
                        self.parked = Some(Vec::new());
                        let _ = self.backend.send(ToBackend::Install(index));
                    }
                    ToApply::Installed(store) => {
                        self.step(std::mem::take(&mut inputs));
                        self.installed(*store);
                        inputs = self.parked.take().unwrap_or_default();
                    }
                    ToApply::Stop => stop = true,
                }
            }
            let now = StdInstant::now();
            if now >= commit_at || stop {
                // A batch of the store that goes would be committed to the one that comes.
                if self.parked.is_none() {
                    inputs.push(apply::Input::Commit);
                }
                commit_at = now + self.pace.commit;
            }
            if !inputs.is_empty() {
                self.step(inputs);
            }
            if self.compact_at.is_some_and(|at| now >= at) && self.parked.is_none() {
                self.compact();
            }
            if stop {
                // The backend finishes the batch it was just given; what is not in it is in the write-ahead log.
                return;
            }
        }
    }

    /// What the store that goes still has to say is taken at once, what comes after the snapshot waits for its store.
    fn sort(&mut self, input: apply::Input, inputs: &mut Vec<apply::Input>) {
        match &mut self.parked {
            Some(parked) if !matches!(input, apply::Input::Committed(_) | apply::Input::Defragmented(_)) => {
                parked.push(input)
            }
            _ => inputs.push(input),
        }
    }

    fn installed(&mut self, store: Store) {
        match self.applier.replace(store) {
            Ok(effects) => {
                self.snapshots.received_no_more();
                METRICS.snapshot_applying.set(0);
                self.compacting_since = None;
                tracing::info!("applied-index" = self.applier.applied(), "applied snapshot of the leader");
                effects.into_iter().for_each(|effect| self.carry_out(effect));
            }
            Err(error) => (self.fatal)(format!("taking over a received snapshot: {error}")),
        }
    }

    fn step(&mut self, inputs: Vec<apply::Input>) {
        let mut replies = Vec::new();
        let started = StdInstant::now();
        let effects = self.applier.step(inputs);
        if started.elapsed() > SLOW_APPLY {
            METRICS.slow_apply.inc();
        }
        for effect in effects {
            match effect {
                // They come last, and leave together.
                apply::Effect::Reply(reply) => replies.push(reply),
                effect => self.carry_out(effect),
            }
        }
        self.node.replies(replies);
    }

    /// A piece of compaction; the machine asks for the next one while there is more to do.
    fn compact(&mut self) {
        self.compact_at = None;
        let started = StdInstant::now();
        self.step(vec![apply::Input::CompactStep]);
        if self.compact_at.is_some() {
            METRICS.compaction_paused(started.elapsed());
        } else if let Some(since) = self.compacting_since.take() {
            METRICS.compacted(since.elapsed());
            let revision = self.compact_rev;
            tracing::info!("compact-revision" = revision, took = ?since.elapsed(), "finished scheduled compaction");
        }
    }

    fn carry_out(&mut self, effect: apply::Effect) {
        use apply::Effect;
        match effect {
            Effect::Leases(changes) => {
                METRICS.leases_changed(&changes);
                self.node.leases_changed(&changes);
            }
            Effect::Publish { view, changes } => {
                METRICS.applied(&changes);
                if view.compact_rev() > self.compact_rev {
                    self.compact_rev = view.compact_rev();
                    self.compacting_since.get_or_insert_with(StdInstant::now);
                }
                self.node.publish(view, changes);
            }
            Effect::Applied { index, .. } => self.consensus.consensus(Input::Applied(index)),
            Effect::ConfChange(change) => self.consensus.consensus(Input::ConfChange(change)),
            Effect::Removed(ids) => self.consensus.consensus(Input::Removed(ids)),
            Effect::Membership(membership) => self.node.set_membership(membership),
            Effect::Reply(reply) => self.node.replies([reply]),
            Effect::Commit(batch) => {
                METRICS.compacted_rows.inc_by(batch.compacted_rows());
                let _ = self.backend.send(ToBackend::Commit(batch));
            }
            Effect::Defragment => {
                let _ = self.backend.send(ToBackend::Defragment);
            }
            Effect::Alarms(alarms) => self.node.set_alarms(alarms),
            Effect::NoSpace => self.node.ask_for_alarm(),
            Effect::StoreDurable(index) => self.consensus.consensus(Input::StoreDurable(index)),
            Effect::Snapshot { view, meta } => {
                self.snapshots.keep(view);
                self.consensus.consensus(Input::Snapshot(meta));
            }
            Effect::Compacting => self.compact_at = Some(StdInstant::now() + self.pace.compact),
            Effect::Stop(reason) => (self.fatal)(reason),
        }
    }
}

/// Between two steps of a defragmentation everybody else gets the disk and the processor for twice as long as the last
/// one took, within these bounds: one that the disk held up is not to hold up the next.
const DEFRAGMENT_PAUSE: Duration = Duration::from_millis(2);
const DEFRAGMENT_LONGEST_PAUSE: Duration = Duration::from_millis(20);

struct BackendThread {
    backend: Backend,
    room: Arc<Room>,
    apply: Sender<ToApply>,
    snapshots: Arc<Snapshots>,
    fatal: Fatal,
    defragmenting_since: StdInstant,
    /// When the next step is due, however many commits come in between.
    defragment_next: StdInstant,
}

impl BackendThread {
    fn run(mut self, inbox: Receiver<ToBackend>) {
        loop {
            let work = match self.backend.is_defragmenting() {
                true => inbox.recv_timeout(self.defragment_next.saturating_duration_since(StdInstant::now())),
                false => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let done = match work {
                Ok(ToBackend::Commit(batch)) => self.commit(&batch),
                Ok(ToBackend::Defragment) => {
                    self.defragmenting_since = StdInstant::now();
                    METRICS.defragmenting.set(1);
                    self.backend.defragment_begin().or_else(|error| self.defragmented(Err(error)))
                }
                Ok(ToBackend::Install(index)) => {
                    METRICS.defragmenting.set(0);
                    METRICS.snapshot_applying.set(1);
                    match self.snapshots.install(index) {
                        Ok((store, backend)) => {
                            let former = std::mem::replace(&mut self.backend, backend);
                            self.backend.succeed(former);
                            let _ = self.apply.send(ToApply::Installed(Box::new(store)));
                            Ok(())
                        }
                        Err(reason) => return (self.fatal)(reason),
                    }
                }
                Ok(ToBackend::Discard(index)) => {
                    self.snapshots.discard(index);
                    Ok(())
                }
                Err(RecvTimeoutError::Timeout) => {
                    let started = StdInstant::now();
                    let stepped = self.backend.defragment_step();
                    let pause = (2 * started.elapsed()).clamp(DEFRAGMENT_PAUSE, DEFRAGMENT_LONGEST_PAUSE);
                    self.defragment_next = StdInstant::now() + pause;
                    match stepped {
                        Ok(None) => Ok(()),
                        Ok(Some(reopened)) => self.defragmented(Ok(reopened)),
                        Err(error) => self.defragmented(Err(error)),
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if let Err(error) = done {
                (self.fatal)(format!(
                    "committing the store: {error}; what was acknowledged is in the write-ahead log: free space, or \
                     mend the disk, then start the member again"
                ));
                return;
            }
        }
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let started = StdInstant::now();
        let committed = self.room.clone().insist(Work::Store, || self.backend.commit(batch))?;
        METRICS.backend_commit_seconds.observe(started.elapsed().as_secs_f64());
        METRICS.store_file_bytes.set(self.backend.file_bytes() as i64);
        let _ = self.apply.send(ToApply::Input(apply::Input::Committed(committed)));
        Ok(())
    }

    /// The store goes on where a defragmentation could not be done; the error is one that leaves it unable to.
    fn defragmented(&mut self, done: Result<Reopened, StoreError>) -> Result<(), StoreError> {
        if self.backend.has_failed() {
            return done.map(drop);
        }
        if let Ok(Reopened { before_bytes, after_bytes, .. }) = &done {
            let took = self.defragmenting_since.elapsed();
            METRICS.defragment_seconds.observe(took.as_secs_f64());
            METRICS.store_file_bytes.set(*after_bytes as i64);
            tracing::info!(
                "current-db-size-bytes-diff" = *after_bytes as i64 - *before_bytes as i64,
                "current-db-size-bytes" = after_bytes,
                took = ?took,
                "finished defragmenting the store's file"
            );
        }
        METRICS.defragmenting.set(0);
        let done = done.map_err(|error| error.to_string());
        let _ = self.apply.send(ToApply::Input(apply::Input::Defragmented(done)));
        Ok(())
    }
}
