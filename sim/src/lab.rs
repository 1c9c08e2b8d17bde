//! A cluster in which nothing happens by itself: every tick, delivery, fsync and crash is a line of a script.
//!
//! [`Lab::run`] takes one command and returns what happened, in etcd's notation. The scripts in `tests/it/core` are its
//! users; [`Lab::HELP`] is the language. After each command consensus takes its inputs at once: the accidents that can
//! happen inside a member are those between append, fsync, apply and the store's commit, and those are commands.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write;
use std::sync::Arc;

use lockstep::member::membership::{ChangeContext, Member};
use lockstep::member::raft::{Input, Role};
use lockstep::mvcc::View;
use lockstep::mvcc::read::{RangeOptions, Read};
use lockstep::ports::clock::Instant;
use lockstep::ports::dice::SeededDice;
use lockstep_proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, InternalRaftRequest, PutRequest, RequestOp, TxnRequest, compare,
    request_op,
};
use lockstep_proto::raftpb::{ConfChange, ConfChangeType, Message};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

use crate::disk::{Loss, MemDisk, chance};
use crate::member::{Event, Setup, SimMember};
use crate::notation;

const TICK_MS: u64 = 100;
const REQUEST_TIMEOUT_MS: u64 = 7_000;
/// A cluster that is not quiet after so many rounds never will be.
const STABILIZE_ROUNDS: usize = 200;

type Result<T> = std::result::Result<T, String>;

/// See the head of this file.
#[derive(Default)]
pub struct Lab {
    members: BTreeMap<u64, Slot>,
    /// What is under way on each link, in the order sent.
    links: BTreeMap<(u64, u64), VecDeque<Message>>,
    held: BTreeSet<(u64, u64)>,
    /// Members of different groups do not hear each other.
    groups: BTreeMap<u64, usize>,
    /// (member, id) -> the name printed for a request or read, and the key a read is for.
    names: BTreeMap<(u64, u64), (String, String)>,
    requests: usize,
    reads: usize,
    saved: BTreeMap<String, MemDisk>,
    /// How the members were set up.
    setup: Setup,
    out: String,
}

struct Slot {
    member: SimMember,
    ticks: u64,
}

impl Slot {
    fn now(&self) -> Instant {
        Instant(self.ticks * TICK_MS)
    }

    fn expires(&self) -> Instant {
        Instant(self.now().0 + REQUEST_TIMEOUT_MS)
    }
}

impl Lab {
    pub const HELP: &str = "\
cluster N [name=value ...]     N members, booted, the founding entries applied; names as in `Lab::cluster`
tick ID [COUNT]                so many ticks
campaign ID                    ticks until it asks for (pre-)votes
deliver A->B [all|first|NTH]   messages arrive (all by default)
deliver-together ID            all that is under way to it arrives in one step of consensus
drop A->B [all|first|NTH]      messages are lost
dup A->B [NTH]                 one is in flight twice from now on
hold A->B, release A->B        stabilize leaves the link alone, or no longer
inflight                       what is under way
append ID, fsync ID            the log writes what waits; makes it durable
apply ID [COUNT]               so many batches of committed entries are applied (all by default)
seal ID, backend ID, commit ID a batch of the store is closed; redb commits it; both
compact-step ID                a piece of the compaction under way
stabilize [ID ...]             deliver, append, fsync, apply until nothing moves (the store does not commit)
put ID K V, delete ID K, cas ID K OLD NEW, compact ID REV; x*9 is nine x
read ID K, get ID K            linearizable; serializable
transfer FROM TO               hand leadership over
add ID NEW, learner ID NEW     ask ID to add a member, to add a learner; `join NEW` boots it with nothing
promote ID WHO, remove ID WHO, update ID WHO  the other changes of the membership
members                        what each member has applied of them
crash ID lose|keep|torn|prefix power loss; restart ID; wipe ID
save ID NAME, load ID NAME PATH  keep the disk of a member; bring a folder or file of it back while the member is down
partition 1 2 | 3, heal
status [ID ...], log ID, hash
quiet COMMAND                  without output";

    pub fn new() -> Lab {
        Lab::default()
    }

    /// Carries out one command; returns what happened, or why the command makes no sense.
    pub fn run(&mut self, command: &str) -> std::result::Result<String, String> {
        let words: Vec<&str> = command.split_whitespace().collect();
        let (quiet, words) = match words.as_slice() {
            ["quiet", rest @ ..] => (true, rest),
            all => (false, all),
        };
        self.out.clear();
        self.command(words)?;
        let out = std::mem::take(&mut self.out);
        Ok(if quiet { String::new() } else { out })
    }

    fn command(&mut self, words: &[&str]) -> Result<()> {
        let Some((name, args)) = words.split_first() else { return Ok(()) };
        match (*name, args) {
            ("cluster", [count, options @ ..]) => self.cluster(number(count)?, options),
            ("tick", [id, rest @ ..]) => {
                let count = rest.first().map_or(Ok(1), |n| number(n))?;
                self.tick(self.id(id)?, count)
            }
            ("campaign", [id]) => self.campaign(self.id(id)?),
            ("deliver", [link, rest @ ..]) => {
                let link = self.link(link)?;
                for message in self.take(link, rest.first().copied())? {
                    self.arrive(message);
                }
                Ok(())
            }
            ("deliver-together", [id]) => {
                let id = self.id(id)?;
                for (_, messages) in self.links.iter_mut().filter(|(link, _)| link.1 == id) {
                    for message in messages.drain(..) {
                        let member = &mut self.members.get_mut(&id).expect("checked").member;
                        member.input(Input::Message(Box::new(message)));
                    }
                }
                self.step(id);
                Ok(())
            }
            ("drop", [link, rest @ ..]) => {
                let link = self.link(link)?;
                self.take(link, rest.first().copied()).map(drop)
            }
            ("dup", [link, rest @ ..]) => {
                let link = self.link(link)?;
                let nth = rest.first().map_or(Ok(1), |n| number(n))? as usize;
                let messages = self.links.entry(link).or_default();
                let copy = messages.get(nth.wrapping_sub(1)).cloned().ok_or("there is no such message")?;
                messages.push_back(copy);
                Ok(())
            }
            ("hold", [link]) => self.link(link).map(|link| _ = self.held.insert(link)),
            ("release", [link]) => self.link(link).map(|link| _ = self.held.remove(&link)),
            ("inflight", []) => {
                for message in self.links.values().flatten() {
                    line(&mut self.out, notation::message(message));
                }
                Ok(())
            }
            ("append", [id]) => self.stage(id, |slot| slot.member.append(usize::MAX)),
            ("fsync", [id]) => self.stage(id, |slot| slot.member.fsync()),
            ("apply", [id, rest @ ..]) => {
                let count = rest.first().map_or(Ok(u64::MAX), |n| number(n))?;
                self.stage(id, |slot| slot.member.apply(count as usize))
            }
            ("seal", [id]) => self.stage(id, |slot| {
                slot.member.commit_due();
                slot.member.apply(usize::MAX)
            }),
            ("backend", [id]) => self.stage(id, |slot| {
                let mut events = slot.member.store_commit();
                events.extend(slot.member.apply(usize::MAX));
                events
            }),
            ("commit", [id]) => {
                self.command(&["seal", id])?;
                self.command(&["backend", id])
            }
            ("compact-step", [id]) => self.stage(id, |slot| {
                slot.member.compaction_due();
                slot.member.apply(usize::MAX)
            }),
            ("stabilize", ids) => {
                let ids = ids.iter().map(|id| self.id(id)).collect::<Result<Vec<u64>>>()?;
                self.stabilize(&ids)
            }
            ("put", [id, key, value]) => self.propose(id, put(key, &repeated(value))),
            ("delete", [id, key]) => {
                let delete = DeleteRangeRequest { key: bytes(key), ..Default::default() };
                self.propose(id, InternalRaftRequest { delete_range: Some(delete), ..Default::default() })
            }
            ("cas", [id, key, old, new]) => self.propose(id, compare_and_swap(key, old, new)),
            ("compact", [id, revision]) => {
                let compaction = CompactionRequest { revision: number(revision)? as i64, physical: false };
                self.propose(id, InternalRaftRequest { compaction: Some(compaction), ..Default::default() })
            }
            ("read", [id, key]) => self.read(self.id(id)?, key),
            ("get", [id, key]) => {
                let id = self.id(id)?;
                let view = self.members[&id].member.view().ok_or("the member is down")?;
                line(&mut self.out, format!("{id:x} Get {}", look_up(&view, key)));
                Ok(())
            }
            ("add" | "learner" | "promote" | "remove" | "update", [id, who]) => {
                self.change(name, self.id(id)?, number(who)?)
            }
            ("join", [id]) => {
                let id = number(id)?;
                let setup = Setup { joins: true, ..self.setup.clone() };
                self.members.insert(id, Slot { member: SimMember::new(id, setup), ticks: 0 });
                self.restart(id)
            }
            ("members", []) => {
                for (id, slot) in &self.members {
                    let Some(membership) = slot.member.membership() else { continue };
                    let member = |m: &Member| format!(" {}{}", m.id, if m.is_learner { "(learner)" } else { "" });
                    let members: String = membership.members().map(member).collect();
                    line(&mut self.out, format!("{id:x}:{members}"));
                }
                Ok(())
            }
            ("transfer", [from, to]) => {
                let to = self.id(to)?;
                self.stage(from, |slot| {
                    slot.member.input(Input::Transfer(to));
                    Vec::new()
                })
            }
            ("crash", [id, how]) => self.crash(self.id(id)?, how),
            ("restart", [id]) => self.restart(self.id(id)?),
            ("wipe", [id]) => {
                let id = self.id(id)?;
                self.down(id)?.member.replace_disk(MemDisk::new());
                Ok(())
            }
            ("save", [id, name]) => {
                let disk = self.members[&self.id(id)?].member.disk().fork();
                self.saved.insert((*name).to_owned(), disk);
                Ok(())
            }
            ("load", [id, name, path]) => self.load(self.id(id)?, name, path),
            ("partition", groups) => {
                self.groups.clear();
                for (group, ids) in groups.split(|word| *word == "|").enumerate() {
                    for id in ids {
                        self.groups.insert(self.id(id)?, group);
                    }
                }
                let cut: Vec<(u64, u64)> = self.links.keys().copied().filter(|link| self.is_cut(*link)).collect();
                for link in cut {
                    self.links.remove(&link);
                }
                Ok(())
            }
            ("heal", []) => {
                self.groups.clear();
                Ok(())
            }
            ("status", ids) => {
                let ids = ids.iter().map(|id| self.id(id)).collect::<Result<Vec<u64>>>()?;
                for (id, slot) in &self.members {
                    if ids.is_empty() || ids.contains(id) {
                        line(
                            &mut self.out,
                            slot.member.status().map_or(format!("{id:x}: down"), |s| notation::status(&s)),
                        );
                    }
                }
                Ok(())
            }
            ("log", [id]) => {
                let member = &self.members[&self.id(id)?].member;
                let state = member.log_hard_state().ok_or("the member is down")?;
                line(&mut self.out, notation::hard_state(&state));
                for entry in member.log_entries().map_err(|e| e.to_string())? {
                    line(&mut self.out, notation::entry(&entry));
                }
                Ok(())
            }
            ("hash", []) => self.hash(),
            _ => Err(format!("{:?} is no command; the language is\n{}", words.join(" "), Lab::HELP)),
        }
    }

    /// Options: `election` and `heartbeat` (ticks), `prevote`, `checkquorum` (0 or 1), `cache` (bytes), `slack`
    /// (entries), `segment` (bytes), `seed`.
    fn cluster(&mut self, members: u64, options: &[&str]) -> Result<()> {
        let mut setup = Setup { members, ..Setup::default() };
        for option in options {
            let (name, value) = option.split_once('=').ok_or("an option is name=value")?;
            let value = number(value)?;
            match name {
                "election" => setup.raft.election_ticks = value as usize,
                "heartbeat" => setup.raft.heartbeat_ticks = value as usize,
                "prevote" => setup.raft.pre_vote = value != 0,
                "checkquorum" => setup.raft.check_quorum = value != 0,
                "cache" => setup.raft.log_cache_bytes = value,
                "slack" => setup.raft.log_slack_entries = value,
                "segment" => setup.segment_bytes = value,
                "seed" => setup.raft.dice = Arc::new(SeededDice::new(value)),
                _ => return Err(format!("there is no option {name}")),
            }
        }
        *self = Lab { setup: setup.clone(), ..Lab::new() };
        for id in 1..=members {
            self.members.insert(id, Slot { member: SimMember::new(id, setup.clone()), ticks: 0 });
            self.restart(id)?;
        }
        self.stabilize(&[])?;
        self.out.clear();
        Ok(())
    }

    fn tick(&mut self, id: u64, count: u64) -> Result<()> {
        for _ in 0..count {
            self.members.get_mut(&id).expect("checked").ticks += 1;
            self.input(id, Input::Tick);
        }
        Ok(())
    }

    fn campaign(&mut self, id: u64) -> Result<()> {
        let before = self.members[&id].member.status().ok_or("the member is down")?;
        for _ in 0..1_000 {
            self.tick(id, 1)?;
            let Some(now) = self.members[&id].member.status() else { return Ok(()) };
            if now.role != Role::Follower && (now.role, now.term) != (before.role, before.term) {
                return Ok(());
            }
        }
        Err(format!("member {id} does not campaign"))
    }

    fn propose(&mut self, id: &str, request: InternalRaftRequest) -> Result<()> {
        let id = self.id(id)?;
        self.requests += 1;
        let name = format!("q{}", self.requests);
        let slot = self.members.get_mut(&id).expect("checked");
        let request = slot.member.propose(request, slot.expires()).ok_or("the member is down")?;
        self.names.insert((id, request), (name, String::new()));
        self.step(id);
        Ok(())
    }

    fn change(&mut self, kind: &str, id: u64, who: u64) -> Result<()> {
        let url = if kind == "update" { format!("http://m{who}:2390") } else { format!("http://m{who}:2380") };
        let member = Member { id: who, peer_urls: vec![url], is_learner: kind == "learner", ..Member::default() };
        let context = ChangeContext { member, is_promote: kind == "promote", max_learners: None };
        let kind = match kind {
            "learner" => ConfChangeType::ConfChangeAddLearnerNode,
            "remove" => ConfChangeType::ConfChangeRemoveNode,
            "update" => ConfChangeType::ConfChangeUpdateNode,
            _ => ConfChangeType::ConfChangeAddNode,
        };
        let change = ConfChange {
            id: None,
            r#type: Some(kind as i32),
            node_id: Some(who),
            context: Some(context.to_json().into()),
        };
        self.requests += 1;
        let name = format!("q{}", self.requests);
        let slot = self.members.get_mut(&id).expect("checked");
        let request = slot.member.propose_conf_change(change, slot.expires()).ok_or("the member is down")?;
        self.names.insert((id, request), (name, String::new()));
        self.step(id);
        Ok(())
    }

    fn read(&mut self, id: u64, key: &str) -> Result<()> {
        self.reads += 1;
        let name = format!("r{}", self.reads);
        let slot = self.members.get_mut(&id).expect("checked");
        let read = slot.member.read(slot.expires()).ok_or("the member is down")?;
        self.names.insert((id, read), (name, key.to_owned()));
        self.step(id);
        Ok(())
    }

    fn stage(&mut self, id: &str, work: impl FnOnce(&mut Slot) -> Vec<Event>) -> Result<()> {
        let id = self.id(id)?;
        let events = work(self.members.get_mut(&id).expect("checked"));
        self.happened(id, events);
        self.step(id);
        Ok(())
    }

    fn input(&mut self, id: u64, input: Input) {
        self.members.get_mut(&id).expect("checked").member.input(input);
        self.step(id);
    }

    fn step(&mut self, id: u64) {
        let slot = self.members.get_mut(&id).expect("checked");
        let now = slot.now();
        let events = slot.member.step(now);
        self.happened(id, events);
    }

    fn arrive(&mut self, message: Message) {
        if self.members.get(&message.to()).is_some_and(|slot| slot.member.is_up()) {
            self.input(message.to(), Input::Message(Box::new(message)));
        }
    }

    fn happened(&mut self, id: u64, events: Vec<Event>) {
        for event in events {
            let said = match event {
                Event::Send(message) => {
                    let link = (message.from(), message.to());
                    let mut said = notation::message(&message);
                    let receiver_is_up = self.members.get(&link.1).is_some_and(|slot| slot.member.is_up());
                    if self.is_cut(link) || !receiver_is_up {
                        said.push_str(" (lost)");
                    } else {
                        self.links.entry(link).or_default().push_back(*message);
                    }
                    said
                }
                Event::Persist(persist) => format!("{id:x} Persist {}", notation::persist(&persist)),
                Event::Committed(entries) => format!("{id:x} Commit [{}]", notation::entries(&entries)),
                Event::Fetch(fetch) => format!("{id:x} Fetch [{}, {})", fetch.low, fetch.high),
                Event::Release(index) => format!("{id:x} Release up to {index}"),
                Event::ReadIndex { reads, index } => {
                    let names: Vec<&str> = reads.iter().map(|read| self.name(id, *read).0).collect();
                    format!("{id:x} ReadIndex {} Index:{index}", names.join(" "))
                }
                Event::ReadView { read, view, .. } => {
                    let (name, key) = self.name(id, read);
                    format!("{id:x} Read {name} Applied:{} {}", view.applied_index(), look_up(&view, key))
                }
                Event::Published(_) | Event::Synced(_) | Event::Watch(_) | Event::LeaseNews => continue,
                // A script sees what apply answers.
                Event::Alarms { .. } | Event::Members { .. } => continue,
                Event::Applied { index, .. } => format!("{id:x} Applied:{index}"),
                Event::Reply { request, result } => {
                    format!("{id:x} Reply {} {}", self.name(id, request).0, notation::reply(&result))
                }
                Event::Batch { consistent_index } => format!("{id:x} Batch up to {consistent_index}"),
                Event::StoreDurable(index) => format!("{id:x} StoreDurable:{index}"),
                Event::SnapshotEnded { sender, ok } => {
                    if let Some(slot) = self.members.get_mut(&sender) {
                        slot.member.input(Input::SnapshotSent { to: id, ok });
                    }
                    format!("{id:x} Snapshot of {sender:x} {}", if ok { "taken" } else { "refused" })
                }
                Event::Installed(index) => format!("{id:x} Installed:{index}"),
                Event::Died(reason) => {
                    self.links.retain(|(_, to), _| *to != id);
                    format!("{id:x} Died: {reason}")
                }
            };
            line(&mut self.out, said);
        }
    }

    fn stabilize(&mut self, only: &[u64]) -> Result<()> {
        let ids: Vec<u64> = self.members.keys().copied().filter(|id| only.is_empty() || only.contains(id)).collect();
        for _ in 0..STABILIZE_ROUNDS {
            let mut moved = false;
            for id in &ids {
                let arriving: Vec<Message> = self
                    .links
                    .iter_mut()
                    .filter(|(link, _)| link.1 == *id && !self.held.contains(link))
                    .flat_map(|(_, messages)| std::mem::take(messages))
                    .collect();
                moved |= !arriving.is_empty();
                for message in arriving {
                    self.arrive(message);
                }
                moved |= self.work(*id);
            }
            if !moved {
                return Ok(());
            }
        }
        Err("the cluster does not come to rest".into())
    }

    /// Whether the member had anything to do but commits of the store.
    fn work(&mut self, id: u64) -> bool {
        let mut moved = false;
        loop {
            let member = &mut self.members.get_mut(&id).expect("checked").member;
            let queues = member.queues();
            let mut events = Vec::new();
            if queues.log > 0 || queues.unsynced {
                events.extend(member.append(usize::MAX));
                events.extend(member.fsync());
            } else if queues.apply > 0 {
                events.extend(member.apply(usize::MAX));
            } else if queues.inputs == 0 {
                return moved;
            }
            moved = true;
            self.happened(id, events);
            self.step(id);
        }
    }

    fn crash(&mut self, id: u64, how: &str) -> Result<()> {
        let loss = match how {
            "lose" => Loss::Everything,
            "keep" => Loss::Nothing,
            "torn" => Loss::Sectors,
            "prefix" => Loss::Prefix,
            _ => return Err(format!("{how} is no way to crash")),
        };
        let slot = self.members.get_mut(&id).expect("checked");
        let mut rng = ChaCha8Rng::seed_from_u64(slot.ticks ^ (id << 32));
        let mut chance = chance(&mut rng);
        // Of a file's four ways to come out, the last: torn, sector by sector.
        slot.member.crash(loss, &mut |bound| if bound == 4 { 3 } else { chance(bound) });
        // A connection ends with the process at its end: nothing sent to this one reaches the next.
        self.links.retain(|(_, to), _| *to != id);
        Ok(())
    }

    fn restart(&mut self, id: u64) -> Result<()> {
        match self.down(id)?.member.boot() {
            Ok(events) => {
                self.happened(id, events);
                self.step(id);
            }
            Err(reason) => line(&mut self.out, format!("{id:x} does not start: {reason}")),
        }
        Ok(())
    }

    fn load(&mut self, id: u64, name: &str, path: &str) -> Result<()> {
        let from = self.saved.get(name).cloned().ok_or("nothing was saved under that name")?;
        let to = self.down(id)?.member.disk().clone();
        let below = |file: &String| file.starts_with(path);
        for file in to.files().iter().filter(|f| below(f)) {
            lockstep::ports::disk::Disk::remove(&to, file).map_err(|e| e.to_string())?;
        }
        for file in from.files().iter().filter(|f| below(f)) {
            let contents = from.contents(file).map_err(|e| e.to_string())?;
            to.plant(file, &contents).map_err(|e| e.to_string())?;
        }
        // Nothing of this is in doubt at the next crash.
        to.crash(Loss::Nothing, &mut |_| 0);
        Ok(())
    }

    fn hash(&mut self) -> Result<()> {
        let mut said = Vec::new();
        for (id, slot) in &self.members {
            let Some(view) = slot.member.view() else { continue };
            let hash = view.hash_kv(0).map_err(|e| e.to_string())?;
            said.push((format!("applied:{} rev:{} hash:{:08x}", view.applied_index(), view.rev(), hash.hash), *id));
        }
        let different: BTreeSet<&String> = said.iter().map(|(what, _)| what).collect();
        if different.len() == 1 {
            line(&mut self.out, format!("all: {}", said[0].0));
        } else {
            for (what, id) in said {
                line(&mut self.out, format!("{id:x}: {what}"));
            }
        }
        Ok(())
    }

    fn down(&mut self, id: u64) -> Result<&mut Slot> {
        let slot = self.members.get_mut(&id).expect("checked");
        if slot.member.is_up() { Err(format!("member {id} is running")) } else { Ok(slot) }
    }

    fn take(&mut self, link: (u64, u64), which: Option<&str>) -> Result<Vec<Message>> {
        let messages = self.links.entry(link).or_default();
        match which {
            None | Some("all") => Ok(std::mem::take(messages).into()),
            Some(which) => {
                let nth = if which == "first" { 1 } else { number(which)? as usize };
                let message = messages.remove(nth.wrapping_sub(1)).ok_or("there is no such message")?;
                Ok(vec![message])
            }
        }
    }

    fn is_cut(&self, (from, to): (u64, u64)) -> bool {
        self.groups.get(&from) != self.groups.get(&to)
    }

    fn name(&self, member: u64, id: u64) -> (&str, &str) {
        self.names.get(&(member, id)).map_or(("?", ""), |(name, key)| (name, key))
    }

    fn id(&self, word: &str) -> Result<u64> {
        let id = number(word)?;
        if self.members.contains_key(&id) { Ok(id) } else { Err(format!("there is no member {id}")) }
    }

    fn link(&self, word: &str) -> Result<(u64, u64)> {
        let (from, to) = word.split_once("->").ok_or("a link is A->B")?;
        Ok((self.id(from)?, self.id(to)?))
    }
}

/// A put, as a member proposes it.
pub fn put(key: &str, value: &str) -> InternalRaftRequest {
    let put = PutRequest { key: bytes(key), value: bytes(value), ..Default::default() };
    InternalRaftRequest { put: Some(put), ..Default::default() }
}

/// Puts `new` if the key's value is `old`.
pub fn compare_and_swap(key: &str, old: &str, new: &str) -> InternalRaftRequest {
    let condition = Compare {
        result: compare::CompareResult::Equal as i32,
        target: compare::CompareTarget::Value as i32,
        key: bytes(key),
        target_union: Some(compare::TargetUnion::Value(bytes(old))),
        ..Default::default()
    };
    let put = PutRequest { key: bytes(key), value: bytes(new), ..Default::default() };
    let op = RequestOp { request: Some(request_op::Request::RequestPut(put)) };
    let txn = TxnRequest { compare: vec![condition], success: vec![op], failure: vec![] };
    InternalRaftRequest { txn: Some(txn), ..Default::default() }
}

fn look_up(view: &View, key: &str) -> String {
    match view.range(key.as_bytes(), b"", RangeOptions::default()) {
        Ok(found) => match found.kvs.first() {
            Some(kv) => format!("rev:{} {key}={}", found.rev, notation::text(&kv.value)),
            None => format!("rev:{} {key} is not there", found.rev),
        },
        Err(error) => format!("{key}: {error}"),
    }
}

/// `x*1000` is a thousand x.
fn repeated(value: &str) -> String {
    match value.split_once('*') {
        Some((unit, count)) if count.parse::<usize>().is_ok() => unit.repeat(count.parse().expect("checked")),
        _ => value.to_owned(),
    }
}

fn bytes(text: &str) -> bytes::Bytes {
    text.as_bytes().to_vec().into()
}

fn number(word: &str) -> Result<u64> {
    word.parse().map_err(|_| format!("{word:?} is no number"))
}

fn line(out: &mut String, what: String) {
    writeln!(out, "{what}").expect("a string takes everything");
}
