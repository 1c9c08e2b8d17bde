//! A cluster in fine weather: messages arrive at once and in order, disks answer at once, clocks go together.
//!
//! For tests that are about one accident in an otherwise quiet world. Whoever holds it makes the accident, mostly by
//! [`MemDisk::crash_after`](crate::disk::MemDisk::crash_after) on some member's disk; nothing here is random.

use std::collections::{BTreeMap, VecDeque};

use lockstep::member::apply::Response;
use lockstep::member::error::EtcdError;
use lockstep::member::raft::{Input, Role};
use lockstep::mvcc::read::{RangeOptions, Read};
use lockstep::ports::clock::Instant;
use lockstep_proto::etcdserverpb::InternalRaftRequest;
use lockstep_proto::mvccpb::KeyValue;
use lockstep_proto::raftpb::Message;

use crate::disk::Loss;
use crate::member::{Event, Setup, SimMember};

const TICK_MS: u64 = 100;
/// Ticks within which any healthy cluster has a leader: several elections.
const PATIENCE_TICKS: usize = 400;
/// Rounds after which a cluster that still moves is taken to move for ever.
const SETTLE_ROUNDS: usize = 10_000;

/// See the head of this file.
pub struct Calm {
    members: BTreeMap<u64, SimMember>,
    network: VecDeque<Box<Message>>,
    now: Instant,
    replies: BTreeMap<(u64, u64), Result<Response, EtcdError>>,
    /// Who has died by itself since the last look, and why.
    died: Vec<(u64, String)>,
}

impl Calm {
    /// Members that were never started, each on an empty disk.
    pub fn new(setup: &Setup) -> Calm {
        let members = (1..=setup.members).map(|id| (id, SimMember::new(id, setup.clone()))).collect();
        Calm { members, network: VecDeque::new(), now: Instant(0), replies: BTreeMap::new(), died: Vec::new() }
    }

    pub fn ids(&self) -> Vec<u64> {
        self.members.keys().copied().collect()
    }

    pub fn member(&self, id: u64) -> &SimMember {
        &self.members[&id]
    }

    pub fn boot(&mut self, id: u64) -> Result<(), String> {
        let events = self.members.get_mut(&id).expect("a member").boot()?;
        self.happened(id, events);
        Ok(())
    }

    pub fn crash(&mut self, id: u64, loss: Loss, choose: &mut dyn FnMut(usize) -> usize) {
        self.members.get_mut(&id).expect("a member").crash(loss, choose);
        self.network.retain(|message| message.to() != id);
        // Whoever was sending it a snapshot notices.
        for member in self.members.values_mut().filter(|member| member.id() != id) {
            member.input(Input::SnapshotSent { to: id, ok: false });
        }
    }

    /// Until nothing moves, or somebody has died.
    pub fn settle(&mut self) {
        for _ in 0..SETTLE_ROUNDS {
            let mut moved = false;
            for message in std::mem::take(&mut self.network) {
                if let Some(member) = self.members.get_mut(&message.to()) {
                    member.input(Input::Message(message));
                }
            }
            for id in self.ids() {
                moved |= self.work(id);
                if !self.died.is_empty() {
                    return;
                }
            }
            if !moved && self.network.is_empty() {
                return;
            }
        }
        panic!("the cluster does not come to rest");
    }

    pub fn tick(&mut self) {
        self.now.0 += TICK_MS;
        for member in self.members.values_mut() {
            member.input(Input::Tick);
        }
        self.settle();
    }

    /// The leader, after as many ticks as it takes; `None` when somebody died meanwhile.
    pub fn elect(&mut self) -> Option<u64> {
        for _ in 0..PATIENCE_TICKS {
            if !self.died.is_empty() {
                return None;
            }
            if let Some(leader) = self.leader() {
                return Some(leader);
            }
            self.tick();
        }
        panic!("no leader is elected: {:?}", self.members.values().map(|m| m.status()).collect::<Vec<_>>());
    }

    /// Who leads a majority, and has committed in its term.
    pub fn leader(&self) -> Option<u64> {
        let statuses: Vec<_> = self.members.values().filter_map(|m| m.status()).collect();
        let leads = |id, term| statuses.iter().filter(|s| s.leader == id && s.term == term).count();
        let leader = statuses.iter().find(|s| {
            s.role == Role::Leader && s.commit == s.last_index && 2 * leads(s.id, s.term) > self.members.len()
        });
        leader.map(|s| s.id)
    }

    pub fn propose(&mut self, id: u64, request: InternalRaftRequest) -> Option<(u64, u64)> {
        let expires = Instant(self.now.0 + 60_000);
        let request = self.members.get_mut(&id)?.propose(request, expires)?;
        Some((id, request))
    }

    /// What the client of this request was told, once.
    pub fn reply(&mut self, request: (u64, u64)) -> Option<Result<Response, EtcdError>> {
        self.replies.remove(&request)
    }

    pub fn take_died(&mut self) -> Vec<(u64, String)> {
        std::mem::take(&mut self.died)
    }

    /// Seals and commits a batch of the store, and does a step of compaction.
    pub fn commit_store(&mut self, id: u64) {
        let Some(member) = self.members.get_mut(&id) else { return };
        member.compaction_due();
        member.commit_due();
        let mut events = member.apply(usize::MAX);
        events.extend(member.store_commit());
        events.extend(member.apply(usize::MAX));
        self.happened(id, events);
    }

    /// The store's file is to be written anew; [`Calm::store_step`] does it piece by piece.
    pub fn defragment(&mut self, id: u64) {
        let Some(member) = self.members.get_mut(&id) else { return };
        member.defragment();
        let events = member.apply(usize::MAX);
        self.happened(id, events);
    }

    /// What waits for the store: a batch, or a step of a defragmentation.
    pub fn store_step(&mut self, id: u64) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let mut events = member.store_commit();
        events.extend(member.apply(usize::MAX));
        self.happened(id, events);
    }

    /// The key as this member's newest view has it.
    pub fn get(&self, id: u64, key: &[u8]) -> Option<KeyValue> {
        let view = self.members[&id].view()?;
        let found = view.range(key, b"", RangeOptions::default()).expect("the newest view is readable");
        found.kvs.into_iter().next()
    }

    fn work(&mut self, id: u64) -> bool {
        let mut moved = false;
        loop {
            let member = self.members.get_mut(&id).expect("a member");
            let queues = member.queues();
            let events = if queues.inputs > 0 {
                member.step(self.now)
            } else if queues.log > 0 || queues.unsynced {
                let mut events = member.append(usize::MAX);
                events.extend(member.fsync());
                events
            } else if queues.apply > 0 {
                member.apply(usize::MAX)
            } else {
                return moved;
            };
            moved = true;
            self.happened(id, events);
        }
    }

    fn happened(&mut self, id: u64, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Send(message) => self.network.push_back(message),
                Event::Reply { request, result } => drop(self.replies.insert((id, request), result)),
                Event::SnapshotEnded { sender, ok } => {
                    if let Some(sender) = self.members.get_mut(&sender) {
                        sender.input(Input::SnapshotSent { to: id, ok });
                    }
                }
                Event::Died(reason) => self.died.push((id, reason)),
                _ => {}
            }
        }
    }
}
