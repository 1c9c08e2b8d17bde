//! The leader's clock: when each lease expires, who may renew it, what is to be revoked.
//!
//! Synchronous, and all it knows it is told: every [`Change`] of the table, every change of the member's role, the
//! time. One that does not lead keeps the leases and no times. One that leads gives every lease its TTL (or what a
//! checkpoint left of it) and one election time-out from the moment it was promoted, because it cannot know when the
//! leader before it renewed what.
//!
//! What keeps it safe:
//!
//! * a renewal is promised only with proof of leadership: the term in which a round of read index, begun after the
//!   renewal had arrived, was confirmed ([`Keeper::renew`]). Whoever was deposed has no such proof;
//! * a revocation is proposed only after such a round, too ([`Effect::Confirm`], [`Keeper::confirmed`]), and bound to
//!   that term: consensus drops it when the member does not lead that term, and never forwards it;
//! * what has expired is never renewed again, and what is being checkpointed is not renewed before the log says that
//!   all of its time is left: the next leader must not know of less than was promised.
//!
//! What keeps it quick: promoting and demoting take the same time whatever the number of leases, for their times are
//! worked out later, some at each [`Keeper::work`]. A renewal moves nothing in the queue: a lease whose turn comes too
//! early is put back. Each call does a bounded amount of work, and [`Keeper::wake_at`] says when there is more.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use lockstep_proto::etcdserverpb::{InternalRaftRequest, LeaseCheckpoint, LeaseCheckpointRequest, LeaseRevokeRequest};

use super::table::Change;
use crate::member::raft::Role;
use crate::ports::clock::Instant;

/// How a keeper is set up.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// What a new leader adds to every lease: one election time-out.
    pub extend_ms: u64,
    /// Leases with more than this left get a checkpoint so often; etcd's is [`Settings::CHECKPOINT_MS`].
    pub checkpoint_ms: u64,
    /// Most revocations in the log and not applied yet.
    pub revokes_in_flight: usize,
    /// Most leases looked at in one call.
    pub work_leases: usize,
}

impl Settings {
    /// etcd's interval of checkpoints.
    pub const CHECKPOINT_MS: u64 = 300_000;

    pub fn new(election_timeout_ms: u64) -> Settings {
        Settings {
            extend_ms: election_timeout_ms,
            checkpoint_ms: Settings::CHECKPOINT_MS,
            revokes_in_flight: 1_000,
            work_leases: 512,
        }
    }
}

/// What a keeper asks of its host.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Issue a round of read index from now on; when it is confirmed, and what it must see is applied and handed to
    /// [`Keeper::changed`], call [`Keeper::confirmed`]. Asked again when nothing came of it.
    Confirm { term: u64 },
    /// Propose these in this order, bound to the term, never to expire. They want ids in their headers; nobody waits.
    Propose { term: u64, requests: Vec<InternalRaftRequest> },
}

/// What becomes of a keep-alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// It lives for so long from now on.
    Renewed { ttl_s: i64 },
    /// There is no such lease.
    NotFound,
    /// It has expired, and its revocation is on its way, or its checkpoint is being set back through the log: ask again
    /// with the same proof once [`Keeper::changed`] or [`Keeper::role`] was called.
    Later,
    /// This member does not lead the term, or no longer: the proof is void. Ask who leads.
    NotLeader,
}

/// What is left of a lease, as etcd tells it: whole seconds, below 0 when its revocation is late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeToLive {
    Left { ttl_s: i64, granted_ttl_s: i64 },
    NotFound,
    NotLeader,
}

/// Counted since the keeper was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub granted: u64,
    pub revoked: u64,
    pub renewed: u64,
    /// Revocations that this member asked for because the lease had expired.
    pub expired: u64,
}

/// See the head of this file.
#[derive(Debug)]
pub struct Keeper {
    settings: Settings,
    leases: BTreeMap<i64, Held>,
    /// Reigns so far.
    reigns: u32,
    reign: Option<Reign>,
    /// The newest term and role heard of, as [`rank`] orders them.
    heard: (u64, u8),
    /// Queues of reigns that are over, to be let go bit by bit.
    over: Vec<BTreeSet<Place>>,
    counts: Counts,
}

/// A lease as this member keeps it. What is below `reign` counts only in that reign.
#[derive(Debug)]
struct Held {
    ttl_s: i64,
    /// The last checkpoint; 0 when there is none.
    remaining_s: i64,
    expires_ms: u64,
    /// Its place in the queue; 0 when it has none.
    look_ms: u64,
    reign: u32,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Alive,
    /// A checkpoint of so many seconds is in the log, or on its way; 0 sets the last one back.
    Checkpointing(i64),
    /// Waits to be revoked, or its revocation is on its way.
    Expired,
}

/// When to look at a lease, and which.
type Place = (u64, i64);

/// One time of leading, in one term.
#[derive(Debug)]
struct Reign {
    term: u64,
    since_ms: u64,
    /// A round was confirmed in this term, so every entry of former ones is applied.
    settled: bool,
    /// Up to where leases have their times worked out; `None` when all have.
    unscanned_from: Option<Bound<i64>>,
    queue: BTreeSet<Place>,
    /// Leases that want a checkpoint, and what it says.
    checkpoints: VecDeque<(i64, i64)>,
    expired: VecDeque<i64>,
    /// How many of them had expired when the round that is under way was asked for.
    covered: usize,
    revoking: BTreeSet<i64>,
    /// When the round that is under way is given up.
    confirming_until_ms: Option<u64>,
}

/// Checkpoints in one entry, as in etcd.
const CHECKPOINTS_PER_ENTRY: usize = 1_000;
/// Entries of checkpoints in one call.
const CHECKPOINT_ENTRIES: usize = 4;
/// A round that was not confirmed for so long is asked for again.
const CONFIRM_RETRY_MS: u64 = 1_000;

impl Keeper {
    pub fn new(settings: Settings) -> Keeper {
        Keeper {
            settings,
            leases: BTreeMap::new(),
            reigns: 0,
            reign: None,
            heard: (0, 0),
            over: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// What entries did to the table, in the order of the log. Before the view that shows it is published.
    pub fn changed(&mut self, now: Instant, changes: &[Change]) {
        for change in changes {
            match *change {
                Change::Granted { id, ttl_s, remaining_s } => self.granted(now, id, ttl_s, remaining_s),
                Change::Revoked { id } => self.revoked(id),
                Change::Checkpointed { id, remaining_s } => self.checkpointed(id, remaining_s),
            }
        }
    }

    /// The member's role in a term, whenever it changes. News that is older than what is known already changes nothing.
    pub fn role(&mut self, now: Instant, term: u64, role: Role) {
        let news = (term, rank(role));
        if news <= self.heard {
            return;
        }
        self.heard = news;
        if let Some(reign) = self.reign.take() {
            sometimes!("leader's leases lost their clock");
            self.over.push(reign.queue);
        }
        if role == Role::Leader {
            self.reigns += 1;
            self.reign = Some(Reign {
                term,
                since_ms: now.0,
                settled: false,
                unscanned_from: (!self.leases.is_empty()).then_some(Bound::Unbounded),
                queue: BTreeSet::new(),
                checkpoints: VecDeque::new(),
                expired: VecDeque::new(),
                covered: 0,
                revoking: BTreeSet::new(),
                confirming_until_ms: None,
            });
        }
    }

    /// The term that this member leads, as far as it has heard.
    pub fn leads(&self) -> Option<u64> {
        self.reign.as_ref().map(|reign| reign.term)
    }

    /// Renews a lease. The proof is `term`: this member led it when a round of read index was confirmed that began
    /// after the renewal had arrived; everything up to that round's index has been handed to [`Keeper::changed`].
    pub fn renew(&mut self, now: Instant, id: i64, term: u64) -> Renewal {
        if !self.prove(now, term) {
            return Renewal::NotLeader;
        }
        if !self.adopt(id) {
            return Renewal::NotFound;
        }
        let held = self.leases.get_mut(&id).expect("it was just found");
        let reign = self.reign.as_mut().expect("the proof holds");
        if held.stage == Stage::Expired || held.expires_ms <= now.0 {
            sometimes!("renewal came after its lease had expired");
            return Renewal::Later;
        }
        match held.stage {
            Stage::Alive if held.remaining_s == 0 => {
                held.expires_ms = expiry(now, held.ttl_s);
                self.counts.renewed += 1;
                Renewal::Renewed { ttl_s: held.ttl_s }
            }
            Stage::Alive => {
                sometimes!("renewal waited for its lease's checkpoint to be set back");
                held.stage = Stage::Checkpointing(0);
                reign.checkpoints.push_back((id, 0));
                Renewal::Later
            }
            Stage::Checkpointing(_) => Renewal::Later,
            Stage::Expired => unreachable!("answered above"),
        }
    }

    /// What is left of a lease; the proof is as for [`Keeper::renew`].
    pub fn time_to_live(&mut self, now: Instant, id: i64, term: u64) -> TimeToLive {
        if !self.prove(now, term) {
            return TimeToLive::NotLeader;
        }
        if !self.adopt(id) {
            return TimeToLive::NotFound;
        }
        let held = &self.leases[&id];
        // Some of this millisecond is over: a lease that was granted in it has not all of its time left.
        let left_ms = held.expires_ms as i64 - now.0 as i64 - 1;
        TimeToLive::Left { ttl_s: left_ms / 1000, granted_ttl_s: held.ttl_s }
    }

    /// The leases after `after` in the order of their ids, `limit` of them at most, each with when it expires: what
    /// etcd's list is sorted by. A member that does not lead knows of no expiry, and says 0.
    pub fn list(&self, after: Option<i64>, limit: usize) -> Vec<(u64, i64)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let leases = self.leases.range((from, Bound::Unbounded)).take(limit);
        leases
            .map(|(id, held)| match &self.reign {
                Some(_) if held.reign == self.reigns => (held.expires_ms, *id),
                Some(reign) => (self.first_expiry(reign, held), *id),
                None => (0, *id),
            })
            .collect()
    }

    /// Whether there is such a lease, as far as this member has applied the log.
    pub fn exists(&self, id: i64) -> bool {
        self.leases.contains_key(&id)
    }

    pub fn len(&self) -> usize {
        self.leases.len()
    }

    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Looks at some of the leases whose turn it is. To be called when [`Keeper::wake_at`] says so, and after news.
    pub fn work(&mut self, now: Instant) -> Vec<Effect> {
        let mut left = self.settings.work_leases;
        self.let_go(&mut left);
        if self.reign.is_none() {
            return Vec::new();
        }
        // Half for each: a promotion must not put off what has expired already.
        let mut to_scan = left.div_ceil(2);
        left -= to_scan;
        self.scan(&mut to_scan);
        self.look(now, left + to_scan);

        let reign = self.reign.as_mut().expect("checked");
        let mut effects = Vec::new();
        if reign.confirming_until_ms.is_some_and(|until| until <= now.0) {
            sometimes!("round before a revocation asked for again");
            reign.confirming_until_ms = None;
        }
        let may_revoke = !reign.expired.is_empty() && reign.revoking.len() <= self.settings.revokes_in_flight / 2;
        if mutation!(RevokedAfterStall) && may_revoke {
            let due = reign.expired.drain(..).filter(|id| reign.revoking.insert(*id));
            let revocation =
                |id| InternalRaftRequest { lease_revoke: Some(LeaseRevokeRequest { id }), ..Default::default() };
            effects.push(Effect::Propose { term: reign.term, requests: due.map(revocation).collect() });
            return effects;
        }
        if (!reign.settled || may_revoke) && reign.confirming_until_ms.is_none() {
            reign.confirming_until_ms = Some(now.0 + CONFIRM_RETRY_MS);
            reign.covered = reign.expired.len();
            effects.push(Effect::Confirm { term: reign.term });
        }
        if reign.settled {
            let requests = reign.take_checkpoints(&self.leases, self.reigns);
            if !requests.is_empty() {
                effects.push(Effect::Propose { term: reign.term, requests });
            }
        }
        effects
    }

    /// A round that was issued after [`Effect::Confirm`] is confirmed in this term, and everything up to its index has
    /// been handed to [`Keeper::changed`].
    pub fn confirmed(&mut self, now: Instant, term: u64) -> Vec<Effect> {
        if !self.prove(now, term) {
            sometimes!("round before a revocation confirmed too late");
            return Vec::new();
        }
        let reign = self.reign.as_mut().expect("the proof holds");
        reign.confirming_until_ms = None;
        let room = self.settings.revokes_in_flight.saturating_sub(reign.revoking.len());
        let mut requests = Vec::new();
        while reign.covered > 0
            && requests.len() < room
            && let Some(id) = reign.expired.pop_front()
        {
            reign.covered -= 1;
            // One that was revoked meanwhile, and perhaps granted anew, is another lease.
            let is_due = self.leases.get(&id).is_some_and(|h| h.reign == self.reigns && h.stage == Stage::Expired);
            if is_due && reign.revoking.insert(id) {
                let lease_revoke = Some(LeaseRevokeRequest { id });
                requests.push(InternalRaftRequest { lease_revoke, ..Default::default() });
            }
        }
        if requests.is_empty() {
            return Vec::new();
        }
        self.counts.expired += requests.len() as u64;
        sometimes!("expired leases revoked");
        vec![Effect::Propose { term, requests }]
    }

    /// When [`Keeper::work`] has something to do, if nothing happens before; now or earlier when it has already.
    pub fn wake_at(&self, now: Instant) -> Option<Instant> {
        if !self.over.is_empty() {
            return Some(now);
        }
        let reign = self.reign.as_ref()?;
        let waits_to_revoke = !reign.expired.is_empty() && reign.revoking.len() <= self.settings.revokes_in_flight / 2;
        if reign.settled && (reign.unscanned_from.is_some() || !reign.checkpoints.is_empty()) {
            return Some(now);
        }
        let confirm = match reign.confirming_until_ms {
            Some(until) => Some(until),
            None => (!reign.settled || waits_to_revoke).then_some(now.0),
        };
        let look = reign.queue.first().map(|place| place.0);
        confirm.into_iter().chain(look).min().map(Instant)
    }

    fn granted(&mut self, now: Instant, id: i64, ttl_s: i64, remaining_s: i64) {
        self.counts.granted += 1;
        self.forget(id);
        let mut held = Held { ttl_s, remaining_s, expires_ms: 0, look_ms: 0, reign: 0, stage: Stage::Alive };
        if let Some(reign) = &mut self.reign {
            held.reign = self.reigns;
            held.expires_ms = expiry(now, ttl_s);
            reign.enqueue(id, &mut held, now.0, self.settings.checkpoint_ms);
        }
        self.leases.insert(id, held);
    }

    fn checkpointed(&mut self, id: i64, remaining_s: i64) {
        let Some(held) = self.leases.get_mut(&id) else { return };
        held.remaining_s = remaining_s;
        let Some(reign) = self.reign.as_mut().filter(|_| held.reign == self.reigns) else { return };
        match held.stage {
            // One of a former reign is applied before any of this one is proposed.
            Stage::Checkpointing(_) => held.stage = Stage::Alive,
            // Meant for a lease of this id that is gone: what this one was promised is more.
            Stage::Alive if remaining_s > 0 && reign.settled => {
                sometimes!("checkpoint of a former lease set back");
                held.stage = Stage::Checkpointing(0);
                reign.checkpoints.push_back((id, 0));
            }
            Stage::Alive | Stage::Expired => {}
        }
    }

    fn revoked(&mut self, id: i64) {
        self.counts.revoked += 1;
        self.forget(id);
    }

    fn forget(&mut self, id: i64) {
        let Some(held) = self.leases.remove(&id) else { return };
        if let Some(reign) = &mut self.reign
            && held.reign == self.reigns
        {
            reign.queue.remove(&(held.look_ms, id));
            reign.revoking.remove(&id);
        }
    }

    /// Takes a confirmed term as what it is: proof that this member leads it, or led it until what it heard since.
    fn prove(&mut self, now: Instant, term: u64) -> bool {
        self.role(now, term, Role::Leader);
        match &mut self.reign {
            Some(reign) if reign.term == term => {
                reign.settled = true;
                true
            }
            _ => false,
        }
    }

    /// Gives a lease its time in this reign, if it has none yet; false when there is no such lease.
    fn adopt(&mut self, id: i64) -> bool {
        let Some(held) = self.leases.get(&id) else { return false };
        let Some(reign) = &self.reign else { return false };
        if held.reign == self.reigns {
            return true;
        }
        let expires_ms = self.first_expiry(reign, held);
        let held = self.leases.get_mut(&id).expect("it was just found");
        let reign = self.reign.as_mut().expect("it was just found");
        (held.expires_ms, held.reign, held.stage) = (expires_ms, self.reigns, Stage::Alive);
        reign.enqueue(id, held, reign.since_ms, self.settings.checkpoint_ms);
        true
    }

    /// When a lease that nobody has renewed in this reign expires.
    fn first_expiry(&self, reign: &Reign, held: &Held) -> u64 {
        let has_less = held.remaining_s > 0 && !mutation!(CheckpointLost);
        let left_s = if has_less { held.remaining_s } else { held.ttl_s };
        expiry(Instant(reign.since_ms + self.settings.extend_ms), left_s)
    }

    /// Frees what former reigns left.
    fn let_go(&mut self, left: &mut usize) {
        while *left > 0
            && let Some(queue) = self.over.last_mut()
        {
            match queue.pop_first() {
                Some(_) => *left -= 1,
                None => drop(self.over.pop()),
            }
        }
    }

    /// Gives leases their times that nobody has asked for since the promotion. Not before all entries of former terms
    /// are applied: in one of them a checkpoint may be set back, because the lease was renewed.
    fn scan(&mut self, left: &mut usize) {
        let settled = self.reign.as_ref().filter(|reign| reign.settled);
        let Some(from) = settled.and_then(|reign| reign.unscanned_from) else { return };
        if *left == 0 {
            return;
        }
        let ids: Vec<i64> = self.leases.range((from, Bound::Unbounded)).take(*left).map(|(id, _)| *id).collect();
        for id in &ids {
            self.adopt(*id);
        }
        let reign = self.reign.as_mut().expect("it has leases to look at");
        reign.unscanned_from = ids.last().filter(|_| ids.len() == *left).map(|last| Bound::Excluded(*last));
        *left -= ids.len();
    }

    /// Looks at leases whose turn has come: expired, due for a checkpoint, or renewed since.
    fn look(&mut self, now: Instant, left: usize) {
        let reign = self.reign.as_mut().expect("only a leader looks");
        for _ in 0..left {
            let Some(&(at_ms, id)) = reign.queue.first().filter(|place| place.0 <= now.0) else { return };
            reign.queue.pop_first();
            let held = self.leases.get_mut(&id).expect("what is gone has no place");
            debug_assert_eq!(held.look_ms, at_ms, "a lease has one place");
            held.look_ms = 0;
            if held.expires_ms <= now.0 {
                held.stage = Stage::Expired;
                reign.expired.push_back(id);
                continue;
            }
            // Counted from its last renewal, so that one that is renewed often costs no entry of the log.
            let left_ms = held.expires_ms - now.0;
            let gone_ms = (held.ttl_s as u64).saturating_mul(1000).saturating_sub(left_ms);
            if gone_ms >= self.settings.checkpoint_ms && held.stage == Stage::Alive {
                sometimes!("lease checkpointed");
                let left_s = left_ms.div_ceil(1000) as i64;
                held.stage = Stage::Checkpointing(left_s);
                reign.checkpoints.push_back((id, left_s));
            }
            let counted_from = now.0.saturating_sub(gone_ms.min(self.settings.checkpoint_ms.saturating_sub(1)));
            let from = if held.stage == Stage::Alive { counted_from } else { now.0 };
            reign.enqueue(id, held, from, self.settings.checkpoint_ms);
        }
    }
}

impl Reign {
    /// Puts a lease into the queue: to be looked at when it expires, or before, for a checkpoint.
    fn enqueue(&mut self, id: i64, held: &mut Held, from_ms: u64, checkpoint_ms: u64) {
        let checkpoint_at = from_ms.saturating_add(checkpoint_ms);
        held.look_ms = match held.expires_ms > checkpoint_at {
            true => checkpoint_at,
            false => held.expires_ms,
        };
        self.queue.insert((held.look_ms, id));
    }

    fn take_checkpoints(&mut self, leases: &BTreeMap<i64, Held>, reigns: u32) -> Vec<InternalRaftRequest> {
        let count = self.checkpoints.len().min(CHECKPOINTS_PER_ENTRY * CHECKPOINT_ENTRIES);
        // A lease that was granted anew or has expired since wants none.
        let wants = |&(id, left_s): &(i64, i64)| {
            leases.get(&id).is_some_and(|h| h.reign == reigns && h.stage == Stage::Checkpointing(left_s))
        };
        let taken: Vec<_> = self.checkpoints.drain(..count).filter(wants).collect();
        let entry = |leases: &[(i64, i64)]| {
            let checkpoints = leases.iter().map(|&(id, remaining_ttl)| LeaseCheckpoint { id, remaining_ttl }).collect();
            let lease_checkpoint = Some(LeaseCheckpointRequest { checkpoints });
            InternalRaftRequest { lease_checkpoint, ..Default::default() }
        };
        taken.chunks(CHECKPOINTS_PER_ENTRY).map(entry).collect()
    }
}

/// In one term a member is a candidate first, then perhaps its leader, then perhaps a follower.
fn rank(role: Role) -> u8 {
    match role {
        Role::Candidate => 1,
        Role::Leader => 2,
        Role::Follower | Role::PreCandidate => 3,
    }
}

fn expiry(from: Instant, seconds: i64) -> u64 {
    from.0.saturating_add(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
}
