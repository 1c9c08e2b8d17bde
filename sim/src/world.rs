//! The world: members, network, disks, clients and faults in one event loop, from one seed.
//!
//! One queue of events ordered by `(virtual time, sequence)`, one thread. Each member's stages (consensus, log, apply,
//! backend) are events of their own, begun after drawn delays, so they interleave as threads would; an fsync takes its
//! time, and a crash may come before its end, or inside of any disk operation. Reads are carried out on their view in a
//! later event. Faults stop after a while; then every client must get on, and all members must end alike.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use lockstep::member::apply::Response;
use lockstep::member::boot::RaftConfig;
use lockstep::member::error::EtcdError;
use lockstep::member::raft::Input;
use lockstep::mvcc::View;
use lockstep::ports::clock::Instant;
use lockstep_proto::raftpb::Message;

use crate::check::agreement::Agreement;
use crate::check::elections::Elections;
use crate::check::progress::Progress;
use crate::clients::{Clients, Operation};
use crate::disk::Loss;
use crate::knobs::Knobs;
use crate::member::{Event, Setup, SimMember};
use crate::network::Network;
use crate::notation;
use crate::random::{Purpose, Random};
use crate::trace::Trace;

const TICK_US: u64 = 100_000;
const COMPACT_PAUSE_US: u64 = 10_000;
/// Clients go on for so long in the calm; what remains is for coming to rest.
const LAST_REQUESTS_US: u64 = 4_000_000;
/// A cut of the power that waits for a disk operation comes after so long anyway.
const FUSE_US: u64 = 300_000;

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub seed: u64,
    pub knobs: String,
    /// SHA-256 of the trace.
    pub hash: String,
    pub simulated_ms: u64,
    pub counts: Counts,
    /// What was broken, with the end of the trace.
    pub failure: Option<String>,
    pub trace: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub events: u64,
    pub messages: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub crashes: u64,
    pub crashes_inside_disk_operations: u64,
    pub pauses: u64,
    pub partitions: u64,
    pub slow_disks: u64,
    pub elections: u64,
    pub writes: u64,
    pub reads: u64,
    pub entries: u64,
    pub log_fetches: u64,
    pub log_releases: u64,
}

/// Runs the world of these knobs to its end, or to what breaks.
pub fn run(knobs: &Knobs, keep_trace: bool) -> Report {
    let mut world = World::new(knobs.clone(), keep_trace);
    // A panic of the product is a finding like any other, and wants its seed printed.
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<String>().cloned();
        let what = what.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Err(format!("panic: {}", what.unwrap_or_default()))
    });
    world.report(outcome.err())
}

/// See the head of this file.
struct World {
    knobs: Knobs,
    now_us: u64,
    sequence: u64,
    events: BTreeMap<(u64, u64), (Whose, What)>,
    nodes: BTreeMap<u64, Node>,
    network: Network,
    clients: Clients,
    /// What each client waits for.
    pending: Vec<Option<Pending>>,
    /// (member, id at the member) -> the client.
    waiting: BTreeMap<(u64, u64), u64>,
    operations: u64,
    calm: bool,
    disk_random: Random,
    process_random: Random,
    schedule_random: Random,
    workload_random: Random,
    elections: Elections,
    agreement: Agreement,
    progress: Progress,
    counts: Counts,
    trace: Trace,
}

struct Node {
    member: SimMember,
    /// Counts the lives; events of an earlier one are void.
    life: u64,
    paused_until_us: u64,
    slow_disk_until_us: u64,
    /// The pace of its clock, 1000 being right.
    pace_permille: u64,
    due: Due,
}

/// Which stages have an event under way.
#[derive(Default)]
struct Due {
    consensus: bool,
    log: bool,
    apply: bool,
    backend: bool,
    compaction: bool,
}

struct Pending {
    number: u64,
    member: u64,
    operation: Operation,
}

enum What {
    Tick,
    Arrive(Box<Message>),
    Consensus,
    Append,
    Fsync,
    Apply,
    StoreCommitDue,
    StoreCommit,
    CompactionDue,
    /// The power fails now, unless a disk operation met its end before.
    CutPower(Loss),
    Start,
    /// Of a client.
    Ask(u64),
    TimeOut(u64, u64),
    Look {
        client: u64,
        number: u64,
        view: Arc<View>,
    },
    /// Of the world.
    Fault,
    Heal,
    Calm,
}

/// An event of this member's life; `(0, 0)` for the world's own.
type Whose = (u64, u64);
type Answer = Result<Response, EtcdError>;

impl World {
    fn new(knobs: Knobs, keep_trace: bool) -> World {
        let setup = Setup {
            members: knobs.members,
            raft: RaftConfig {
                election_ticks: 10,
                heartbeat_ticks: 1,
                pre_vote: true,
                check_quorum: true,
                log_cache_bytes: knobs.log_cache_bytes,
                log_slack_entries: knobs.log_slack_entries,
                seed: knobs.seed,
            },
            segment_bytes: knobs.segment_bytes,
            store_cache_bytes: 1 << 20,
        };
        let mut clock = Random::new(knobs.seed, Purpose::Clock);
        let drift = knobs.drift_permille;
        let mut node = |id| Node {
            member: SimMember::new(id, setup.clone()),
            life: 0,
            paused_until_us: 0,
            slow_disk_until_us: 0,
            pace_permille: clock.between(1_000 - drift, 1_000 + drift),
            due: Due::default(),
        };
        let random = |purpose| Random::new(knobs.seed, purpose);
        World {
            now_us: 0,
            sequence: 0,
            events: BTreeMap::new(),
            nodes: (1..=knobs.members).map(|id| (id, node(id))).collect(),
            network: Network::new(&knobs),
            clients: Clients::new(knobs.clients),
            pending: (0..knobs.clients).map(|_| None).collect(),
            waiting: BTreeMap::new(),
            operations: 0,
            calm: false,
            disk_random: random(Purpose::Disk),
            process_random: random(Purpose::Process),
            schedule_random: random(Purpose::Schedule),
            workload_random: random(Purpose::Workload),
            elections: Elections::default(),
            agreement: Agreement::default(),
            progress: Progress::default(),
            counts: Counts::default(),
            trace: Trace::new(keep_trace),
            knobs,
        }
    }

    fn run(&mut self) -> Result<(), String> {
        let calm_us = self.knobs.busy_ms * 1_000;
        let end_us = calm_us + self.knobs.calm_ms * 1_000;
        for id in self.ids() {
            self.after(0, (id, 0), What::Start);
        }
        for client in 0..self.knobs.clients {
            self.think(client);
        }
        if self.knobs.fault_every_ms > 0 {
            self.next_fault();
        }
        self.after(calm_us, (0, 0), What::Calm);
        while let Some(((time_us, _), (whose, what))) = self.events.pop_first() {
            if time_us > end_us {
                break;
            }
            self.now_us = time_us;
            self.counts.events += 1;
            self.happen(whose, what)?;
        }
        self.end(calm_us)
    }

    fn happen(&mut self, whose: Whose, what: What) -> Result<(), String> {
        let (id, life) = whose;
        if id == 0 {
            return self.world_event(what);
        }
        let now_us = self.now_us;
        let node = self.node(id);
        if let What::Start = what {
            return self.start(id);
        }
        if node.life != life || !node.member.is_up() {
            return Ok(());
        }
        if node.paused_until_us > now_us && !matches!(what, What::CutPower(_)) {
            let until_us = node.paused_until_us;
            self.at(until_us, whose, what);
            return Ok(());
        }
        let events = match what {
            What::Tick => {
                let period_us = TICK_US * 1_000 / node.pace_permille;
                node.member.input(Input::Tick);
                self.after(period_us, whose, What::Tick);
                Vec::new()
            }
            What::Arrive(message) => {
                if self.network.is_cut((message.from(), message.to())) {
                    self.counts.lost += 1;
                } else {
                    self.trace.line(now_us, &format!("= {}", notation::message(&message)));
                    self.node(id).member.input(Input::Message(message));
                }
                Vec::new()
            }
            What::Consensus => {
                node.due.consensus = false;
                let now = Instant(now_us * node.pace_permille / 1_000_000);
                let events = node.member.step(now);
                if let Some(status) = node.member.status() {
                    self.elections.see(&status)?;
                }
                events
            }
            What::Append => {
                let events = node.member.append(usize::MAX);
                let wait_us = self.fsync_us(id);
                self.after(wait_us, whose, What::Fsync);
                events
            }
            What::Fsync => {
                node.due.log = false;
                node.member.fsync()
            }
            What::Apply => {
                node.due.apply = false;
                let waiting = node.member.queues().apply as u64;
                let count = self.schedule_random.between(1, waiting.max(1));
                self.node(id).member.apply(count as usize)
            }
            What::StoreCommitDue => {
                node.member.commit_due();
                self.after(self.knobs.store_commit_ms * 1_000, whose, What::StoreCommitDue);
                Vec::new()
            }
            What::StoreCommit => {
                node.due.backend = false;
                node.member.store_commit()
            }
            What::CompactionDue => {
                node.due.compaction = false;
                node.member.compaction_due();
                Vec::new()
            }
            What::CutPower(loss) => {
                self.crash(id, loss);
                return Ok(());
            }
            _ => unreachable!("no event of a member"),
        };
        self.happened(id, events)?;
        self.wake(id);
        Ok(())
    }

    fn world_event(&mut self, what: What) -> Result<(), String> {
        match what {
            What::Ask(client) => self.ask(client),
            What::TimeOut(client, number) => {
                if self.pending[client as usize].as_ref().is_some_and(|p| p.number == number) {
                    self.give_up(client, "timed out");
                }
            }
            What::Look { client, number, view } => return self.look(client, number, &view),
            What::Fault => {
                if !self.calm {
                    self.fault();
                    self.next_fault();
                }
            }
            What::Heal => {
                self.network.heal();
                self.say("heal");
            }
            What::Calm => self.become_calm(),
            _ => unreachable!("no event of the world"),
        }
        Ok(())
    }

    // Members.

    fn start(&mut self, id: u64) -> Result<(), String> {
        let now_us = self.now_us;
        let node = self.node(id);
        if node.member.is_up() {
            return Ok(());
        }
        match node.member.boot() {
            Ok(events) => {
                node.life += 1;
                node.due = Due::default();
                node.paused_until_us = 0;
                let life = node.life;
                self.trace.line(now_us, &format!("{id:x} starts"));
                self.happened(id, events)?;
                let tick_us = self.schedule_random.below(TICK_US);
                self.after(tick_us, (id, life), What::Tick);
                self.after(self.knobs.store_commit_ms * 1_000, (id, life), What::StoreCommitDue);
                self.node(id).member.input(Input::Tick);
                self.wake(id);
                Ok(())
            }
            Err(_) if node.member.disk().crashed() => {
                self.trace.line(now_us, &format!("{id:x} dies starting"));
                let loss = *self.disk_random.pick(&Loss::ALL);
                self.crash(id, loss);
                Ok(())
            }
            Err(reason) => Err(format!("member {id} does not start: {reason}")),
        }
    }

    fn crash(&mut self, id: u64, loss: Loss) {
        self.say(&format!("{id:x} crashes, {loss:?}"));
        self.counts.crashes += 1;
        let mut random = self.disk_random.clone();
        self.node(id).member.crash(loss, random.core());
        self.disk_random = random;
        let orphans: Vec<u64> = (0..self.knobs.clients)
            .filter(|c| self.pending[*c as usize].as_ref().is_some_and(|p| p.member == id))
            .collect();
        for client in orphans {
            self.give_up(client, "lost its member");
        }
        let down_us = if self.calm { 100_000 } else { self.process_random.between(20_000, 4_000_000) };
        if !self.calm && self.process_random.permille(200) {
            // The power fails again while it recovers.
            let operations = self.process_random.below(40);
            self.node(id).member.disk().crash_after(operations);
        }
        self.after(down_us, (id, 0), What::Start);
    }

    fn happened(&mut self, id: u64, events: Vec<Event>) -> Result<(), String> {
        for event in events {
            match event {
                Event::Send(message) => self.send(message),
                Event::Persist(persist) => self.say(&format!("{id:x} Persist {}", notation::persist(&persist))),
                Event::Committed(entries) => {
                    self.agreement.committed(id, &entries)?;
                    self.say(&format!("{id:x} Commit [{}]", notation::entries(&entries)));
                }
                Event::Fetch(fetch) => {
                    self.counts.log_fetches += 1;
                    self.say(&format!("{id:x} Fetch [{}, {})", fetch.low, fetch.high));
                }
                Event::Release(index) => {
                    self.counts.log_releases += 1;
                    self.say(&format!("{id:x} Release up to {index}"));
                }
                Event::ReadIndex { reads, index } => {
                    self.say(&format!("{id:x} ReadIndex {} reads Index:{index}", reads.len()))
                }
                Event::ReadView { read, view } => {
                    if let Some(client) = self.waiting.remove(&(id, read)) {
                        self.look_later(client, view);
                    }
                }
                Event::Published(view) => self.agreement.published(id, &view)?,
                Event::Applied { index, .. } => self.say(&format!("{id:x} Applied:{index}")),
                Event::Reply { request, result } => {
                    if let Some(client) = self.waiting.remove(&(id, request)) {
                        self.answered(client, &result)?;
                    }
                }
                Event::Batch { consistent_index } => self.say(&format!("{id:x} Batch up to {consistent_index}")),
                Event::StoreDurable(index) => self.say(&format!("{id:x} StoreDurable:{index}")),
                Event::Died(reason) => {
                    if !self.node(id).member.disk().crashed() {
                        return Err(format!("member {id} stops: {reason}"));
                    }
                    self.counts.crashes_inside_disk_operations += 1;
                    let loss = *self.disk_random.pick(&Loss::ALL);
                    self.crash(id, loss);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Gives every stage that has work an event, if it has none yet.
    fn wake(&mut self, id: u64) {
        let node = self.node(id);
        if !node.member.is_up() {
            return;
        }
        let whose = (id, node.life);
        let queues = node.member.queues();
        let due = &mut node.due;
        let mut begins = Vec::new();
        for (has_work, due, what) in [
            (queues.inputs > 0, &mut due.consensus, What::Consensus),
            (queues.log > 0, &mut due.log, What::Append),
            (queues.apply > 0, &mut due.apply, What::Apply),
            (queues.batches > 0, &mut due.backend, What::StoreCommit),
            (queues.compaction, &mut due.compaction, What::CompactionDue),
        ] {
            if has_work && !*due {
                *due = true;
                begins.push(what);
            }
        }
        for what in begins {
            let mut wait_us = self.schedule_random.below(self.knobs.stage_most_us) + 1;
            match what {
                What::Apply if !self.calm && self.schedule_random.permille(50) => {
                    wait_us += self.schedule_random.below(self.knobs.apply_straggle_us);
                }
                What::StoreCommit => wait_us += 2 * self.fsync_us(id),
                What::CompactionDue => wait_us += COMPACT_PAUSE_US,
                _ => {}
            }
            self.after(wait_us, whose, what);
        }
    }

    fn fsync_us(&mut self, id: u64) -> u64 {
        let time_us = self.disk_random.between(self.knobs.fsync_least_us, self.knobs.fsync_most_us);
        let now_us = self.now_us;
        if self.node(id).slow_disk_until_us > now_us { time_us * 50 } else { time_us }
    }

    fn send(&mut self, message: Box<Message>) {
        let link = (message.from(), message.to());
        let delays_us = self.network.delays_us(link);
        let receiver = self.nodes.get(&link.1).filter(|node| node.member.is_up()).map(|node| node.life);
        self.counts.messages += 1;
        let (Some(life), false) = (receiver, delays_us.is_empty()) else {
            self.counts.lost += 1;
            self.say(&format!("{} (lost)", notation::message(&message)));
            if receiver.is_none() || self.network.is_cut(link) {
                self.node(link.0).member.input(Input::Unreachable(link.1));
            }
            return;
        };
        self.counts.duplicated += delays_us.len() as u64 - 1;
        self.say(&format!("{} {}", notation::message(&message), if delays_us.len() > 1 { "(twice)" } else { "" }));
        for delay_us in delays_us {
            self.after(delay_us, (link.1, life), What::Arrive(message.clone()));
        }
    }

    // Clients.

    fn think(&mut self, client: u64) {
        let pause_us = self.workload_random.between(1, self.knobs.think_most_ms * 1_000);
        self.after(pause_us, (0, 0), What::Ask(client));
    }

    fn ask(&mut self, client: u64) {
        let last_us = (self.knobs.busy_ms + self.knobs.calm_ms) * 1_000 - LAST_REQUESTS_US;
        if self.now_us > last_us {
            return;
        }
        let id = self.workload_random.between(1, self.knobs.members);
        let now_us = self.now_us;
        let timeout_ms = self.knobs.request_timeout_ms;
        let node = self.node(id);
        if !node.member.is_up() {
            self.think(client);
            return;
        }
        let expires = Instant(now_us * node.pace_permille / 1_000_000 + timeout_ms);
        let operation = self.clients.next(client, &mut self.workload_random);
        self.operations += 1;
        let number = self.operations;
        self.say(&format!("client {client} asks {id:x}: {operation:?}"));
        self.pending[client as usize] = Some(Pending { number, member: id, operation: operation.clone() });
        self.after(timeout_ms * 1_000, (0, 0), What::TimeOut(client, number));
        let member = &mut self.node(id).member;
        let asked = match (&operation, operation.request()) {
            (_, Some(request)) => member.propose(request, expires),
            (Operation::Read { .. }, None) => member.read(expires),
            _ => {
                let view = member.view().expect("it runs");
                self.look_later(client, view);
                return;
            }
        };
        self.waiting.insert((id, asked.expect("it runs")), client);
        self.wake(id);
    }

    fn answered(&mut self, client: u64, result: &Answer) -> Result<(), String> {
        let Some(pending) = self.pending[client as usize].take() else { return Ok(()) };
        self.say(&format!("client {client} is told {}", notation::reply(result)));
        self.clients.answered(client, &pending.operation, result)?;
        if matches!(pending.operation, Operation::Put { .. }) {
            self.counts.writes += 1;
            self.progress.done(client, self.now_us);
        }
        self.think(client);
        Ok(())
    }

    fn look_later(&mut self, client: u64, view: Arc<View>) {
        let Some(number) = self.pending[client as usize].as_ref().map(|p| p.number) else { return };
        let wait_us = if self.workload_random.permille(50) { self.workload_random.below(200_000) } else { 1 };
        self.after(wait_us, (0, 0), What::Look { client, number, view });
    }

    fn look(&mut self, client: u64, number: u64, view: &View) -> Result<(), String> {
        let Some(pending) = self.pending[client as usize].as_ref().filter(|p| p.number == number) else {
            return Ok(());
        };
        let (operation, member) = (pending.operation.clone(), pending.member);
        match self.clients.read(&operation, view).map_err(|e| format!("client {client} at member {member}: {e}"))? {
            Some(found) => {
                self.say(&format!("client {client} reads {found}"));
                self.counts.reads += 1;
                self.pending[client as usize] = None;
                self.think(client);
            }
            None => match self.node(member).member.view() {
                Some(fresh) => self.look_later(client, fresh),
                None => self.give_up(client, "lost its member"),
            },
        }
        Ok(())
    }

    fn give_up(&mut self, client: u64, why: &str) {
        let Some(pending) = self.pending[client as usize].take() else { return };
        self.say(&format!("client {client} {why}"));
        self.waiting.retain(|_, waiting| *waiting != client);
        self.clients.lost(client, &pending.operation);
        self.think(client);
    }

    // Faults.

    fn next_fault(&mut self) {
        let wait_us = self.process_random.between(1, 2_000 * self.knobs.fault_every_ms);
        self.after(wait_us, (0, 0), What::Fault);
    }

    fn fault(&mut self) {
        let ids = self.ids();
        let id = *self.process_random.pick(&ids);
        match self.process_random.below(100) {
            0..35 => self.cut_power(id),
            35..40 => {
                for id in ids {
                    self.cut_power(id);
                }
            }
            40..60 => {
                let pause_us = self.process_random.between(10_000, 4_000_000);
                self.say(&format!("{id:x} pauses for {pause_us} us"));
                self.counts.pauses += 1;
                let until_us = self.now_us + pause_us;
                self.node(id).paused_until_us = until_us;
            }
            60..85 if ids.len() > 1 => self.partition(&ids),
            _ => {
                let slow_us = self.process_random.between(100_000, 3_000_000);
                self.say(&format!("{id:x} has a slow disk for {slow_us} us"));
                self.counts.slow_disks += 1;
                let until_us = self.now_us + slow_us;
                self.node(id).slow_disk_until_us = until_us;
            }
        }
    }

    /// Now, or inside of one of the next disk operations.
    fn cut_power(&mut self, id: u64) {
        let node = self.node(id);
        if !node.member.is_up() {
            return;
        }
        let whose = (id, node.life);
        let loss = *self.disk_random.pick(&Loss::ALL);
        if self.process_random.permille(500) {
            let operations = self.process_random.below(30);
            self.node(id).member.disk().crash_after(operations);
            self.after(FUSE_US, whose, What::CutPower(loss));
        } else {
            self.crash(id, loss);
        }
    }

    fn partition(&mut self, ids: &[u64]) {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for id in ids {
            if self.process_random.permille(500) { a.push(*id) } else { b.push(*id) }
        }
        let one_way = self.process_random.permille(300);
        self.network.cut(&a, &b);
        if !one_way {
            self.network.cut(&b, &a);
        }
        self.counts.partitions += 1;
        self.say(&format!("partition {a:?} {} {b:?}", if one_way { "-/>" } else { "|" }));
        let until_us = self.process_random.between(50_000, 5_000_000);
        self.after(until_us, (0, 0), What::Heal);
    }

    fn become_calm(&mut self) {
        self.say("calm");
        self.calm = true;
        self.network.calm();
        for id in self.ids() {
            let now_us = self.now_us;
            let node = self.node(id);
            node.slow_disk_until_us = 0;
            node.paused_until_us = node.paused_until_us.min(now_us);
            node.member.disk().crash_after(u64::MAX);
            if !node.member.is_up() {
                self.after(1_000, (id, 0), What::Start);
            }
        }
    }

    // The end.

    fn end(&mut self, calm_us: u64) -> Result<(), String> {
        self.counts.entries = self.agreement.last();
        self.counts.elections = self.elections.terms_led() as u64;
        self.progress.at_the_end(self.knobs.clients, calm_us)?;
        let mut ends = Vec::new();
        for id in self.ids() {
            let member = &self.nodes[&id].member;
            let (Some(view), Some(status)) = (member.view(), member.status()) else {
                return Err(format!("member {id} is down at the end"));
            };
            self.clients.at_the_end(&view).map_err(|e| format!("member {id}: {e}"))?;
            let hash = view.hash_kv(0).map_err(|e| format!("member {id}: hash: {e}"))?;
            ends.push((status.commit, view.applied_index(), hash));
        }
        if ends.windows(2).any(|pair| pair[0] != pair[1]) {
            return Err(format!("the members end differently: {ends:?}"));
        }
        Ok(())
    }

    fn report(self, failure: Option<String>) -> Report {
        let failure = failure.map(|what| format!("{what}\n\nthe end of the trace:\n{}", self.trace.tail()));
        Report {
            seed: self.knobs.seed,
            knobs: self.knobs.to_string(),
            hash: self.trace.hash(),
            simulated_ms: self.now_us / 1_000,
            counts: self.counts,
            failure,
            trace: self.trace.whole().map(str::to_owned),
        }
    }

    // Time.

    fn after(&mut self, wait_us: u64, whose: Whose, what: What) {
        self.at(self.now_us + wait_us, whose, what);
    }

    fn at(&mut self, time_us: u64, whose: Whose, what: What) {
        self.sequence += 1;
        self.events.insert((time_us, self.sequence), (whose, what));
    }

    fn say(&mut self, what: &str) {
        self.trace.line(self.now_us, what);
    }

    fn ids(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).expect("a member of this world")
    }
}
