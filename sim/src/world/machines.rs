//! Machines: each with a member's process, a disk and a clock, moved by the world's events.
//!
//! A stage that has work gets one event, begun after the knobs' constant and whatever the choices add. What a stage
//! brings about ([`Event`]) is shown to the checkers, sent, or answered here.

use std::sync::Arc;

use lockstep::member::boot::RaftConfig;
use lockstep::member::lease;
use lockstep::member::raft::{Input, Role, Status};
use lockstep::member::watch;
use lockstep::mvcc::View;
use lockstep::mvcc::read::{Read, Revision};
use lockstep::ports::clock::Instant;
use lockstep_proto::etcdserverpb::AlarmMember;
use lockstep_proto::raftpb::{Message, MessageType};

use super::cluster::Place;
use super::{Class, Failure, Happening, What, World, loss_name};
use crate::check::Seen;
use crate::choices::{ElectionDice, Point, Stage};
use crate::clock::Clock;
use crate::disk::Loss;
use crate::fault::print_time;
use crate::knobs::Knobs;
use crate::member::{Event, Setup, SimMember};
use crate::network::{Arrival, Fate, Released};
use crate::{notation, timeline};

const TICK_US: u64 = 100_000;
const COMPACT_PAUSE_US: u64 = 10_000;
/// How long a member waits for the answer to a snapshot.
const SNAPSHOT_PATIENCE_US: u64 = 3_000_000;
/// A cut of the power that waits for a disk operation comes after so long anyway.
const FUSE_US: u64 = 300_000;
/// How soon a process is started again once its operator may do so.
const OPERATOR_US: u64 = 100_000;

fn took(ok: bool) -> &'static str {
    if ok { "taken" } else { "refused" }
}

/// A member and what it runs on.
pub struct Machine {
    pub member: SimMember,
    pub clock: Clock,
    /// Its process gets no time until then.
    pub paused_until_us: u64,
    /// What every fsync takes longer.
    pub extra_fsync_us: u64,
    /// What every start takes longer.
    pub slow_start_us: u64,
    /// The power fails inside of the next commit of the store.
    pub crash_in_commit: Option<PowerCut>,
    /// The power fails after the store's next defragmentation.
    pub crash_after_defragment: Option<PowerCut>,
    /// The alarms that it showed when the operator last looked.
    pub(super) alarms_seen: Vec<AlarmMember>,
    /// The operator has compacted because of them, and disarms them next.
    pub(super) made_room: bool,
    pub(super) place: Place,
    /// The store holds everything up to here, whatever comes.
    pub(super) stored: u64,
    /// Faults at work for which it may stop, or refuse to start.
    pub damaged: u64,
    pub(super) ended_by: String,
    /// Counts the lives; events of an earlier one are void.
    pub(super) life: u64,
    starting: bool,
    /// What happened to it while it was paused, with the life that it happened to.
    deferred: Vec<(u64, What)>,
    /// What the crash keeps for which a fuse burns in its disk, and how long the machine is then down.
    fuse: Option<(Loss, u64)>,
    due: [bool; Stage::ALL.len()],
    /// Works begun, by stage; fsyncs; crashes.
    works: [u64; Stage::ALL.len()],
    fsyncs: u64,
    crashes: u64,
    /// The role, term and commit that the picture showed last.
    shown: Option<(Role, u64, u64)>,
}

/// After so many operations that change the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PowerCut {
    pub after_operations: u64,
    pub loss: Loss,
    pub down_us: u64,
}

impl Machine {
    pub(super) fn new(id: u64, knobs: &Knobs, dice: &ElectionDice) -> Machine {
        let setup = Setup {
            joins: id > knobs.members,
            members: knobs.members,
            raft: RaftConfig {
                election_ticks: 10,
                heartbeat_ticks: 1,
                pre_vote: true,
                check_quorum: true,
                log_cache_bytes: knobs.log_cache_bytes,
                log_slack_entries: knobs.log_slack_entries,
                log_catch_up_entries: knobs.log_catch_up_entries,
                dice: Arc::new(dice.clone()),
            },
            segment_bytes: knobs.segment_bytes,
            store_cache_bytes: knobs.store_cache_bytes as usize,
            copy_step_bytes: 4 << 10,
            quota_bytes: (knobs.quota_bytes > 0).then_some(knobs.quota_bytes),
            watch: watch::Options {
                progress_interval_ms: knobs.watch_progress_ms,
                fragment_bytes: knobs.watch_fragment_bytes as usize,
                stream_bytes: knobs.watch_stream_bytes as usize,
                catch_up_rows: knobs.watch_catch_up_rows as usize,
                ..watch::Options::default()
            },
            lease: lease::Settings {
                checkpoint_ms: knobs.lease_checkpoint_ms,
                ..lease::Settings::new(10 * TICK_US / 1_000)
            },
        };
        Machine {
            member: SimMember::new(id, setup),
            clock: Clock::default(),
            paused_until_us: 0,
            extra_fsync_us: 0,
            slow_start_us: 0,
            crash_in_commit: None,
            crash_after_defragment: None,
            alarms_seen: Vec::new(),
            made_room: false,
            place: if id > knobs.members { Place::Spare } else { Place::Member },
            stored: 0,
            damaged: 0,
            ended_by: "never started".into(),
            life: 0,
            starting: id <= knobs.members,
            deferred: Vec::new(),
            fuse: None,
            due: Default::default(),
            works: Default::default(),
            fsyncs: 0,
            crashes: 0,
            shown: None,
        }
    }
}

impl World {
    // For faults.

    /// The power fails now and is back after `down_us`.
    pub fn crash(&mut self, id: u64, loss: Loss, down_us: u64) {
        self.say(&format!("{id:x} crashes, {}, back in {}", loss_name(loss), print_time(down_us)));
        let machine = self.machines.get_mut(&id).expect("a member of this world");
        machine.crashes += 1;
        machine.fuse = None;
        let (crash, choices) = (machine.crashes, &mut self.choices);
        let mut nth = 0;
        machine.member.crash(loss, &mut |bound| {
            nth += 1;
            let point = Point::Kept { member: id, crash, nth };
            let value = choices.choose(point, |random| random.below(bound as u64));
            value.min(bound as u64 - 1) as usize
        });
        self.ended(id, "crash");
        self.start_after(id, down_us);
    }

    /// The power fails inside of the disk operation after so many more, or in a while.
    pub fn crash_after(&mut self, id: u64, operations: u64, loss: Loss, down_us: u64) {
        self.light_fuse(id, loss, down_us);
        self.machine(id).member.disk().crash_after(operations);
    }

    /// A fault has lit a fuse in the disk of this machine; the crash that comes of it is this one.
    pub fn light_fuse(&mut self, id: u64, loss: Loss, down_us: u64) {
        let machine = self.machine(id);
        machine.fuse = Some((loss, down_us));
        let life = machine.life;
        self.after(FUSE_US, id, life, What::Fuse);
    }

    /// SIGTERM: the process ends, and the disk keeps all of it.
    pub fn stop(&mut self, id: u64, down_us: u64) {
        self.say(&format!("{id:x} stops, back in {}", print_time(down_us)));
        self.machine(id).member.kill();
        self.ended(id, "stop");
        self.start_after(id, down_us);
    }

    pub fn start_after(&mut self, id: u64, wait_us: u64) {
        let machine = self.machine(id);
        if !machine.starting {
            machine.starting = true;
            let wait_us = wait_us + machine.slow_start_us;
            self.after(wait_us, id, 0, What::Start);
        }
    }

    /// Everyone who believes to lead, the newest term last.
    pub fn leaders(&self) -> Vec<u64> {
        let statuses = self.machines.values().filter_map(|machine| machine.member.status());
        let mut leaders: Vec<_> = statuses.filter(|s| s.role == Role::Leader).map(|s| (s.term, s.id)).collect();
        leaders.sort_unstable();
        leaders.into_iter().map(|(_, id)| id).collect()
    }

    /// Sends on what the network no longer holds.
    pub fn release_held(&mut self) {
        for Released { message, number, arrivals } in self.network.take_released() {
            self.on_its_way(&message, number, &arrivals);
        }
    }

    /// Starts whoever is down without anything being wrong any more.
    pub(super) fn operator_looks(&mut self) {
        for id in self.ids() {
            let machine = &self.machines[&id];
            let is_wanted = machine.place == Place::Member && !self.must_stay_down(id);
            if !machine.member.is_up() && machine.damaged == 0 && is_wanted {
                self.start_after(id, OPERATOR_US);
            }
        }
    }

    /// No crash is to come of itself any more.
    pub(super) fn put_out_fuse(&mut self, id: u64) {
        let machine = self.machine(id);
        machine.fuse = None;
        machine.member.disk().crash_after(u64::MAX);
    }

    /// Whoever is to start, starts soon, however long that was to take.
    pub(super) fn start_soon(&mut self, id: u64) {
        self.machine(id).starting = false;
        if !self.is_up(id) && self.takes_part(id) {
            self.start_after(id, OPERATOR_US);
        }
    }

    pub(super) fn life(&self, id: u64) -> u64 {
        self.machines.get(&id).map_or(0, |machine| machine.life)
    }

    // Events.

    pub(super) fn happen_to(&mut self, id: u64, life: u64, what: What) -> Result<(), Failure> {
        let now_us = self.now_us;
        if let What::Start = what {
            return self.start(id);
        }
        if let What::Resume = what {
            self.resume(id);
            return Ok(());
        }
        let machine = self.machines.get_mut(&id).expect("a member of this world");
        if (life != 0 && machine.life != life) || !machine.member.is_up() {
            return Ok(());
        }
        if machine.paused_until_us > now_us && !matches!(what, What::Fuse) {
            if machine.deferred.is_empty() {
                let until_us = machine.paused_until_us;
                self.at(until_us, Class::World, Happening { member: id, life: 0, what: What::Resume });
            }
            self.machine(id).deferred.push((life, what));
            return Ok(());
        }
        let events = match what {
            What::Tick => {
                machine.member.input(Input::Tick);
                let period_us = machine.clock.tick_us(TICK_US);
                self.after(period_us, id, life, What::Tick);
                Vec::new()
            }
            What::Arrive(message, number) => {
                let (from, to, kind) = (message.from(), message.to(), message.r#type().as_str_name());
                // A box that keeps stragglers stands on the receiver's side of the cut; they are those of any life.
                if self.network.is_cut(from, to) && life != 0 {
                    self.trace.line(now_us, format_args!("{from:x}->{to:x} #{number} lost on its way"));
                } else {
                    machine.member.input(Input::Message(message));
                    self.trace.line(now_us, format_args!("{from:x}->{to:x} #{number} arrives, {kind}"));
                    self.draw_arrival((from, to), number);
                }
                Vec::new()
            }
            What::SnapshotSent { to, ok } => {
                machine.member.input(Input::SnapshotSent { to, ok });
                Vec::new()
            }
            What::Beat => {
                let period_us = machine.clock.tick_us(TICK_US);
                let now = machine.clock.now(now_us);
                machine.member.set_clock(now);
                let events = machine.member.beat();
                self.after(period_us, id, life, What::Beat);
                events
            }
            What::WatchTaken { stream, charge } => {
                machine.member.set_clock(machine.clock.now(now_us));
                if !self.takes(stream, charge) {
                    return Ok(());
                }
                self.machine(id).member.watch_taken(stream, charge)
            }
            What::Asked { .. } | What::Errand { .. } => return self.step_of_member(id, what),
            What::Stage(stage) => return self.work(id, stage),
            What::Fsync => {
                machine.due[Stage::Log as usize] = false;
                let events = machine.member.fsync();
                self.happened(id, events)?;
                self.wake(id);
                return Ok(());
            }
            What::StoreCommitDue => {
                machine.member.commit_due();
                self.after(self.knobs.store_commit_ms * 1_000, id, life, What::StoreCommitDue);
                Vec::new()
            }
            What::Leave => {
                self.say(&format!("{id:x} was removed, and stops"));
                self.retire(id, Place::Gone, "removed");
                return Ok(());
            }
            What::Fuse => {
                if let Some((loss, down_us)) = machine.fuse.take() {
                    self.crash(id, loss, down_us);
                }
                return Ok(());
            }
            _ => unreachable!("no event of a member"),
        };
        self.happened(id, events)?;
        self.wake(id);
        Ok(())
    }

    /// What a pause held up happens now, unless another pause holds it up further.
    pub(super) fn resume(&mut self, id: u64) {
        let now_us = self.now_us;
        let machine = self.machine(id);
        if machine.paused_until_us > now_us && !machine.deferred.is_empty() {
            let until_us = machine.paused_until_us;
            self.at(until_us, Class::World, Happening { member: id, life: 0, what: What::Resume });
            return;
        }
        for (life, what) in std::mem::take(&mut machine.deferred) {
            self.after(0, id, life, what);
        }
    }

    fn work(&mut self, id: u64, stage: Stage) -> Result<(), Failure> {
        let now_us = self.now_us;
        let machine = self.machines.get_mut(&id).expect("a member of this world");
        let life = machine.life;
        machine.due[stage as usize] = false;
        let now = machine.clock.now(now_us);
        machine.member.set_clock(now);
        let events = match stage {
            Stage::Consensus => {
                let led = machine.member.status().is_some_and(|status| status.role == Role::Leader);
                let events = machine.member.step(now);
                let voters = machine.member.voters();
                if let Some(status) = machine.member.status() {
                    if led || status.role == Role::Leader {
                        self.show(&Seen::Clocks(&[(id, now)]))?;
                    }
                    self.show(&Seen::Stepped { status: &status, voters: &voters })?;
                    self.draw_role(status);
                }
                events
            }
            Stage::Log => {
                machine.due[stage as usize] = true;
                machine.fsyncs += 1;
                let point = Point::Fsync { member: id, number: machine.fsyncs };
                let wait_us = self.knobs.fsync_us + machine.extra_fsync_us + self.late_fsync_us(point);
                let events = self.machine(id).member.append(usize::MAX);
                self.after(wait_us, id, life, What::Fsync);
                events
            }
            Stage::Apply => {
                let waiting = machine.member.queues().apply as u64;
                let point = Point::Leave { member: id, number: machine.works[stage as usize] };
                let permille = self.knobs.late_stage_permille;
                let left = self.choices.choose(point, |random| {
                    if waiting > 1 && random.permille(permille) { random.below(waiting) } else { 0 }
                });
                let count = waiting.saturating_sub(left).max(1);
                self.machine(id).member.apply(count as usize)
            }
            Stage::Backend => {
                let crash = machine.crash_in_commit.take();
                if let Some(crash) = crash {
                    self.say(&format!("{id:x} commits its store, and will not end"));
                    self.crash_after(id, crash.after_operations, crash.loss, crash.down_us);
                }
                let machine = self.machine(id);
                let was_copying = machine.member.queues().defragments;
                let events = machine.member.store_commit();
                let is_copied = was_copying && !machine.member.queues().defragments;
                if let Some(crash) = machine.crash_after_defragment.take_if(|_| is_copied) {
                    self.say(&format!("{id:x} has defragmented its store, and will not live long"));
                    self.crash_after(id, crash.after_operations, crash.loss, crash.down_us);
                }
                events
            }
            Stage::Compaction => {
                machine.member.compaction_due();
                Vec::new()
            }
            Stage::Watch => {
                let waiting = machine.member.queues().published as u64;
                let point = Point::LeaveWatch { member: id, number: machine.works[stage as usize] };
                let permille = self.knobs.late_stage_permille;
                let left = self.choices.choose(point, |random| {
                    if waiting > 0 && random.permille(permille) { random.between(1, waiting) } else { 0 }
                });
                self.machine(id).member.watch_work(waiting.saturating_sub(left) as usize)
            }
            Stage::Lease => {
                let expires = Instant(now.0 + self.knobs.request_timeout_ms);
                self.machine(id).member.lease_work(expires)
            }
        };
        self.happened(id, events)?;
        self.wake(id);
        Ok(())
    }

    fn start(&mut self, id: u64) -> Result<(), Failure> {
        let now_us = self.now_us;
        if self.must_stay_down(id) || !self.takes_part(id) {
            self.machine(id).starting = false;
            return Ok(());
        }
        let machine = self.machines.get_mut(&id).expect("a member of this world");
        machine.starting = false;
        if machine.member.is_up() {
            return Ok(());
        }
        machine.member.set_clock(machine.clock.now(now_us));
        match machine.member.boot() {
            Ok(events) => {
                machine.life += 1;
                machine.due = Default::default();
                machine.paused_until_us = 0;
                machine.shown = None;
                let life = machine.life;
                let line = self.trace.line(now_us, format_args!("{id:x} starts, life {life}"));
                self.draw_life(id, line);
                let member = &self.machines[&id].member;
                let log = member.log_entries().map_err(|error| Failure {
                    checker: "process",
                    place: "the log cannot be read back",
                    story: format!("member {id}: {error}"),
                })?;
                let (view, hard_state) = (member.view().expect("it runs"), member.log_hard_state().unwrap_or_default());
                let first = member.log_first();
                self.machine(id).stored = view.applied_index();
                self.show(&Seen::Booted { member: id, first, log: &log, hard_state, view: &view })?;
                self.happened(id, events)?;
                let point = Point::FirstTick { member: id, life };
                let tick_us = self.choices.choose(point, |random| random.below(TICK_US));
                self.after(tick_us, id, life, What::Tick);
                self.after(tick_us + TICK_US / 2, id, life, What::Beat);
                self.after(self.knobs.store_commit_ms * 1_000, id, life, What::StoreCommitDue);
                self.wake(id);
                Ok(())
            }
            Err(_) if machine.member.disk().crashed() => {
                self.trace.line(now_us, format_args!("{id:x} dies starting"));
                let (loss, down_us) = machine.fuse.take().unwrap_or((Loss::Everything, OPERATOR_US));
                self.crash(id, loss, down_us);
                Ok(())
            }
            Err(reason) if !self.cluster.belongs(id) => {
                self.say(&format!("{id:x} does not start: {reason}"));
                self.retire(id, Place::Gone, "removed");
                Ok(())
            }
            Err(reason) => self.ends_itself(id, format!("does not start: {reason}"), "a member does not start"),
        }
    }

    fn ends_itself(&mut self, id: u64, reason: String, place: &'static str) -> Result<(), Failure> {
        self.say(&format!("{id:x} {reason}"));
        let damaged = self.machines[&id].damaged;
        self.ended(id, &reason);
        if damaged == 0 {
            return Err(Failure { checker: "process", place, story: format!("member {id} {reason}") });
        }
        Ok(())
    }

    pub(super) fn ended(&mut self, id: u64, why: &str) {
        why.clone_into(&mut self.machine(id).ended_by);
        self.draw_death(id, why);
        let shown = self.show(&Seen::Ended { member: id });
        self.note(shown);
        self.members_clients_lose(id);
        self.watchers_lose(id);
        self.errands_lose(id);
    }

    pub(super) fn happened(&mut self, id: u64, events: Vec<Event>) -> Result<(), Failure> {
        let now_us = self.now_us;
        for event in events {
            match event {
                Event::Send(message) => self.send(message),
                Event::Persist(persist) => {
                    self.show(&Seen::Persist { member: id, persist: &persist })?;
                    self.trace.line(now_us, format_args!("{id:x} Persist {}", notation::persist(&persist)));
                }
                Event::Synced(number) => {
                    self.show(&Seen::Synced { member: id, number })?;
                    self.trace.line(now_us, format_args!("{id:x} Synced #{number}"));
                }
                Event::Committed(entries) => {
                    self.cluster.committed(&entries);
                    self.show(&Seen::Committed { member: id, entries: &entries })?;
                    self.trace.line(now_us, format_args!("{id:x} Commit [{}]", notation::entries(&entries)));
                }
                Event::Fetch(fetch) => {
                    self.trace.line(now_us, format_args!("{id:x} Fetch [{}, {})", fetch.low, fetch.high));
                }
                Event::Release(index) => {
                    self.trace.line(now_us, format_args!("{id:x} Release up to {index}"));
                }
                Event::ReadIndex { reads, index } => {
                    self.trace.line(now_us, format_args!("{id:x} ReadIndex {} reads Index:{index}", reads.len()));
                }
                Event::ReadView { read, view, led } => {
                    if !self.confirmed_for(id, read, led)? {
                        self.view_for(id, read, view);
                    }
                }
                Event::Published(view) => {
                    self.made(&view)?;
                    self.show(&Seen::Published { member: id, view: &view })?;
                }
                Event::Watch(told) => self.watch_told(id, told)?,
                Event::LeaseNews => self.lease_news(id)?,
                Event::SnapshotEnded { sender, ok } => {
                    self.trace.line(now_us, format_args!("{id:x} snapshot of {sender:x} {}", took(ok)));
                    let (life, wait_us) = (self.life(sender), self.knobs.delay_us);
                    self.after(wait_us, sender, life, What::SnapshotSent { to: id, ok });
                }
                Event::Installed(index) => {
                    self.machine(id).stored = index;
                    self.trace.line(now_us, format_args!("{id:x} Installed:{index}"));
                }
                Event::Members { index, membership } => self.members_shown(id, index, &membership)?,
                Event::Applied { index, .. } => {
                    self.cluster.applied(index);
                    self.trace.line(now_us, format_args!("{id:x} Applied:{index}"));
                }
                Event::Alarms { index, raised } => {
                    self.show(&Seen::Alarms { member: id, index, raised: &raised })?;
                }
                Event::Reply { request, result } => self.reply(id, request, &result)?,
                Event::Batch { consistent_index } => {
                    self.trace.line(now_us, format_args!("{id:x} Batch up to {consistent_index}"));
                }
                Event::StoreDurable(index) => {
                    self.machine(id).stored = index;
                    self.trace.line(now_us, format_args!("{id:x} StoreDurable:{index}"));
                }
                Event::Died(reason) => {
                    let machine = self.machine(id);
                    if !machine.member.disk().crashed() {
                        return self.ends_itself(id, format!("stops: {reason}"), "a member stops");
                    }
                    let (loss, down_us) = machine.fuse.take().unwrap_or((Loss::Everything, OPERATOR_US));
                    self.crash(id, loss, down_us);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Shows the revisions that nobody has shown before.
    fn made(&mut self, view: &View) -> Result<(), Failure> {
        // What lies below the compaction may be gone already; that it was is all that there is to say.
        let from = (self.made + 1).max(view.compact_rev());
        if view.rev() < from {
            return Ok(());
        }
        self.made = view.rev();
        let Ok(rows) = view.rows(Revision { main: from, sub: 0 }, usize::MAX) else { return Ok(()) };
        let mut rows = rows.iter().filter_map(|row| row.decode().ok()).peekable();
        while let Some(first) = rows.next() {
            let revision = first.mod_revision;
            let mut events = vec![first];
            while let Some(kv) = rows.next_if(|kv| kv.mod_revision == revision) {
                events.push(kv);
            }
            self.show(&Seen::Made { revision, events: &events })?;
        }
        Ok(())
    }

    /// Gives every stage that has work an event, if it has none yet.
    pub(crate) fn wake(&mut self, id: u64) {
        let machine = self.machines.get_mut(&id).expect("a member of this world");
        if !machine.member.is_up() {
            return;
        }
        let queues = machine.member.queues();
        let life = machine.life;
        let keepers_rest = self.keepers_rest();
        for (stage, has_work) in [
            (Stage::Consensus, queues.inputs > 0),
            (Stage::Log, queues.log > 0),
            (Stage::Apply, queues.apply > 0),
            (Stage::Backend, queues.batches > 0 || queues.defragments),
            (Stage::Compaction, queues.compaction),
            (Stage::Watch, queues.watch),
            (Stage::Lease, queues.lease && !keepers_rest),
        ] {
            let machine = self.machines.get_mut(&id).expect("a member of this world");
            if !has_work || machine.due[stage as usize] {
                continue;
            }
            machine.due[stage as usize] = true;
            machine.works[stage as usize] += 1;
            let point = Point::Stage { member: id, stage, number: machine.works[stage as usize] };
            let (permille, most_us) = (self.knobs.late_stage_permille, self.knobs.late_stage_most_us);
            let late_us =
                self.choices.choose(point, |random| if random.permille(permille) { random.below(most_us) } else { 0 });
            let constant_us = self.knobs.stage_us
                + match stage {
                    Stage::Backend => 2 * (self.knobs.fsync_us + self.machines[&id].extra_fsync_us),
                    Stage::Compaction => COMPACT_PAUSE_US,
                    _ => 0,
                };
            self.after(constant_us + late_us, id, life, What::Stage(stage));
        }
    }

    fn late_fsync_us(&mut self, point: Point) -> u64 {
        let (permille, most_us) = (self.knobs.slow_fsync_permille, self.knobs.slow_fsync_most_us);
        self.choices.choose(point, |random| if random.permille(permille) { random.below(most_us) } else { 0 })
    }

    fn send(&mut self, message: Box<Message>) {
        let (now_us, link) = (self.now_us, (message.from(), message.to()));
        self.counted.messages += 1;
        let fate = self.network.fate(&mut self.choices, &self.knobs, &message);
        let number = self.network.number(link);
        let text = notation::message(&message);
        let is_up = self.is_up(link.1);
        let (copies, told) = match fate {
            Fate::Lost { told } => (Vec::new(), told),
            Fate::Held => {
                let line = self.trace.line(now_us, format_args!("{text} #{number} (held)"));
                self.draw_message(&message, number, text, line);
                return;
            }
            Fate::Arrives(copies) => (copies, false),
        };
        let note = match copies.len() {
            0 => " (lost)",
            1 => "",
            _ => " (twice)",
        };
        let line = self.trace.line(now_us, format_args!("{text} #{number}{note}"));
        self.draw_message(&message, number, text, line);
        self.on_its_way(&message, number, &copies);
        let is_noticed = told || !is_up;
        if is_noticed {
            self.machine(link.0).member.input(Input::Unreachable(link.1));
        }
        if message.r#type() == MessageType::MsgSnap {
            let wait_us = if is_noticed { self.knobs.delay_us } else { SNAPSHOT_PATIENCE_US };
            let life = self.life(link.0);
            self.after(wait_us, link.0, life, What::SnapshotSent { to: link.1, ok: false });
        }
    }

    fn on_its_way(&mut self, message: &Message, number: u64, arrivals: &[Arrival]) {
        let to = message.to();
        let (is_up, life) = (self.is_up(to), self.life(to));
        for arrival in arrivals {
            // A connection ends with the process at its end; only a straggler may reach the next one.
            if is_up || arrival.outlives {
                let life = if arrival.outlives { 0 } else { life };
                self.after(arrival.after_us, to, life, What::Arrive(Box::new(message.clone()), number));
            }
        }
    }

    // The picture.

    fn draw_role(&mut self, status: Status) {
        let Some(timeline) = &mut self.timeline else { return };
        let machine = self.machines.get_mut(&status.id).expect("a member of this world");
        let shown = Some((status.role, status.term, status.commit));
        if machine.shown == shown {
            return;
        }
        machine.shown = shown;
        timeline.roles.push(timeline::RoleChange {
            at_us: self.now_us,
            member: status.id,
            role: notation::role(status.role),
            term: status.term,
            commit: status.commit,
            applied: status.applied,
            line: self.trace.lines(),
        });
    }

    fn draw_life(&mut self, member: u64, line: u64) {
        if let Some(timeline) = &mut self.timeline {
            let from_us = self.now_us;
            timeline.lives.push(timeline::Life { member, from_us, to_us: None, ended_by: String::new(), line });
        }
    }

    fn draw_death(&mut self, member: u64, why: &str) {
        let Some(timeline) = &mut self.timeline else { return };
        let life = timeline.lives.iter_mut().rfind(|life| life.member == member && life.to_us.is_none());
        if let Some(life) = life {
            life.to_us = Some(self.now_us);
            why.clone_into(&mut life.ended_by);
        }
    }

    fn draw_message(&mut self, message: &Message, number: u64, text: String, line: u64) {
        let Some(timeline) = &mut self.timeline else { return };
        self.weather.arrows.insert((message.from(), message.to(), number), timeline.messages.len());
        timeline.messages.push(timeline::Arrow {
            from: message.from(),
            to: message.to(),
            sent_us: self.now_us,
            arrived_us: None,
            kind: message.r#type().as_str_name(),
            text,
            line,
        });
    }

    fn draw_arrival(&mut self, (from, to): (u64, u64), number: u64) {
        let Some(timeline) = &mut self.timeline else { return };
        if let Some(arrow) = self.weather.arrows.get(&(from, to, number)) {
            timeline.messages[*arrow].arrived_us.get_or_insert(self.now_us);
        }
    }
}
