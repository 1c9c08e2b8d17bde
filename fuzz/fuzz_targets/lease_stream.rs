//! Keep-alives, raw and well-formed, among three members whose leadership changes, with a log that they apply at their
//! own pace, and with time.
//!
//! Held to what a lease promises: it is not revoked before the time that was last promised to its client, what was
//! given up is never renewed, and when nobody renews any more all leases are gone in time.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};

use libfuzzer_sys::fuzz_target;
use lockstep::member::lease::{Effect, Keeper, Renewal, Settings, Table, TimeToLive};
use lockstep::member::raft::Role;
use lockstep::ports::clock::Instant;
use lockstep_fuzz::choices::Choices;
use lockstep_proto::etcdserverpb::*;
use prost::Message;

const MEMBERS: usize = 3;
const MAX_STEPS: usize = 500;
const EXTEND_MS: u64 = 1_000;
const MAX_TTL_S: i64 = 40;
/// A round that is not confirmed is asked for again after a second.
const SLACK_MS: u64 = 5_000;

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let settings = Settings {
        extend_ms: EXTEND_MS,
        checkpoint_ms: choices.one_of(&[1_000, 5_000, 300_000]),
        revokes_in_flight: choices.one_of(&[1, 3, 1_000]),
        work_leases: choices.one_of(&[1, 5, 512]),
    };
    let mut cluster = Cluster::new(settings);
    for _ in 0..MAX_STEPS {
        if choices.is_empty() {
            break;
        }
        cluster.choose(&mut choices);
    }
    cluster.settle();
});

struct Cluster {
    members: Vec<Member>,
    /// Who leads, and in which term.
    leader: usize,
    term: u64,
    log: Vec<Entry>,
    now: Instant,
    /// Until when a lease must live.
    promised: BTreeMap<i64, Instant>,
}

struct Entry {
    term: u64,
    request: InternalRaftRequest,
    /// What the keeper that proposed it had applied; a client's has none.
    seen: Option<usize>,
}

impl Entry {
    fn grants(&self, id: i64) -> bool {
        self.request.lease_grant.is_some_and(|grant| grant.id == id)
    }
}

struct Member {
    table: Table,
    keeper: Keeper,
    /// Entries that are applied.
    applied: usize,
    /// The term of a round that was asked for.
    confirming: Option<u64>,
}

impl Cluster {
    fn new(settings: Settings) -> Cluster {
        let member = |_| Member {
            table: Table::default(),
            keeper: Keeper::new(settings),
            applied: 0,
            confirming: None,
        };
        let members = (0..MEMBERS).map(member).collect();
        let log = Vec::new();
        Cluster { members, leader: 0, term: 1, log, now: Instant(1_000), promised: BTreeMap::new() }
    }

    fn choose(&mut self, choices: &mut Choices<'_>) {
        let at = usize::from(choices.below(MEMBERS as u8));
        match choices.below(20) {
            0..2 => {
                let ttl = match choices.below(8) {
                    0 => choices.number(),
                    _ => 1 + i64::from(choices.byte()) % MAX_TTL_S,
                };
                let lease_grant = Some(LeaseGrantRequest { id: id(choices), ttl });
                self.append(self.term, InternalRaftRequest { lease_grant, ..Default::default() }, None);
            }
            2 => {
                let lease_revoke = Some(LeaseRevokeRequest { id: id(choices) });
                self.append(self.term, InternalRaftRequest { lease_revoke, ..Default::default() }, None);
            }
            3..5 => self.apply(at, self.log.len().min(self.members[at].applied + 1 + usize::from(choices.below(4)))),
            5..9 => {
                let asked = match choices.below(4) {
                    0 => LeaseKeepAliveRequest::decode(choices.bytes()).map(|request| request.id),
                    _ => Ok(id(choices)),
                };
                if let Ok(id) = asked {
                    self.renew(id);
                }
            }
            9 => self.time_to_live(id(choices)),
            10 => self.tell(at),
            // A proof that is no proof any more.
            11 => {
                self.tell(at);
                let stale = self.term - 1;
                let member = &mut self.members[at];
                assert_eq!(member.keeper.renew(self.now, id(choices), stale), Renewal::NotLeader);
                assert!(member.keeper.confirmed(self.now, stale).is_empty());
            }
            12 => self.elect(at, choices),
            13..16 => self.work(at),
            16 => self.confirm(),
            17 => self.now.0 += u64::from(choices.byte()),
            _ => self.now.0 += u64::from(choices.byte()) * 50,
        }
    }

    fn tell(&mut self, at: usize) {
        let role = if at == self.leader { Role::Leader } else { Role::Follower };
        self.members[at].keeper.role(self.now, self.term, role);
    }

    /// Only the leader's proposals come into the log, and only in the term that they are bound to.
    fn append(&mut self, term: u64, request: InternalRaftRequest, seen: Option<usize>) {
        if term != self.term {
            return;
        }
        if let Some(LeaseRevokeRequest { id }) = request.lease_revoke.filter(|_| seen.is_some()) {
            let until = self.promised.get(&id);
            assert!(until.is_none_or(|until| *until <= self.now), "lease {id} was promised until {until:?}");
        }
        self.log.push(Entry { term, request, seen });
    }

    fn apply(&mut self, at: usize, upto: usize) {
        let newest = self.members.iter().map(|m| m.applied).max().unwrap_or_default();
        while self.members[at].applied < upto {
            let index = self.members[at].applied;
            let Member { table, keeper, .. } = &mut self.members[at];
            let Entry { request, seen, .. } = &self.log[index];
            // As in etcd: what is said of one lease may hit another of the same id that was granted at that moment.
            let granted_since =
                |id: i64| seen.is_some_and(|seen| self.log[seen..index].iter().any(|entry| entry.grants(id)));
            if let Some(LeaseGrantRequest { id, ttl }) = request.lease_grant {
                // Its client hears of it from the first who applies it.
                if let Ok(ttl_s) = table.grant(id, ttl)
                    && index >= newest
                {
                    self.promised.insert(id, Instant(self.now.0 + ttl_s as u64 * 1_000));
                }
            } else if let Some(LeaseRevokeRequest { id }) = request.lease_revoke {
                if table.revoke(id) && index >= newest {
                    self.promised.remove(&id);
                }
            } else if let Some(LeaseCheckpointRequest { checkpoints }) = &request.lease_checkpoint {
                for checkpoint in checkpoints {
                    table.checkpoint(checkpoint.id, checkpoint.remaining_ttl);
                    if granted_since(checkpoint.id)
                        && let Some(until) = self.promised.get_mut(&checkpoint.id)
                    {
                        *until = self.now.min(*until);
                    }
                }
            }
            keeper.changed(self.now, &table.take_changes());
            self.members[at].applied += 1;
            let Member { table, keeper, .. } = &self.members[at];
            assert_eq!(table.len(), keeper.len());
        }
    }

    /// What a round of reads shows: who leads has applied all that anybody has, and all of former terms.
    fn prove(&mut self) {
        let newest = self.members.iter().map(|m| m.applied).max().unwrap_or_default();
        let former = self.log.partition_point(|entry| entry.term < self.term);
        self.apply(self.leader, newest.max(former));
    }

    fn renew(&mut self, id: i64) {
        self.prove();
        let Member { table, keeper, applied, .. } = &mut self.members[self.leader];
        match keeper.renew(self.now, id, self.term) {
            Renewal::Renewed { ttl_s } => {
                // One of that id which was granted since is another lease.
                let is_given_up = self.log[*applied..].iter().any(|entry| {
                    entry.request.lease_revoke.is_some_and(|revoke| revoke.id == id)
                        && entry.seen.is_some_and(|seen| !self.log[seen..*applied].iter().any(|entry| entry.grants(id)))
                });
                assert!(table.exists(id) && !is_given_up, "what is given up is not renewed");
                self.promised.insert(id, Instant(self.now.0 + ttl_s as u64 * 1_000));
            }
            Renewal::NotFound => assert!(!table.exists(id)),
            Renewal::Later => assert!(table.exists(id)),
            Renewal::NotLeader => panic!("it does lead"),
        }
    }

    fn time_to_live(&mut self, id: i64) {
        self.prove();
        let Member { table, keeper, .. } = &mut self.members[self.leader];
        match keeper.time_to_live(self.now, id, self.term) {
            TimeToLive::Left { ttl_s, granted_ttl_s } => {
                // A new leader adds an election, to whole seconds at that.
                assert!(ttl_s <= granted_ttl_s + EXTEND_MS as i64 / 1_000 && table.exists(id));
                let promised_ms = self.promised[&id].saturating_since(self.now) as i64;
                assert!(promised_ms == 0 || ttl_s >= (promised_ms - 1) / 1_000, "{ttl_s} s of {promised_ms} ms");
            }
            TimeToLive::NotFound => assert!(!table.exists(id)),
            TimeToLive::NotLeader => panic!("it does lead"),
        }
    }

    /// What nobody has applied may be lost.
    fn elect(&mut self, at: usize, choices: &mut Choices<'_>) {
        let newest = self.members.iter().map(|m| m.applied).max().unwrap_or_default();
        let kept = newest + usize::from(choices.byte()) % (self.log.len() - newest + 1);
        self.log.truncate(kept);
        self.leader = at;
        self.term += 1;
        // It often begins to lead before it has applied what it knows to be committed.
        if choices.one_in(2) {
            self.tell(at);
            self.work(at);
        }
    }

    fn work(&mut self, at: usize) {
        let effects = self.members[at].keeper.work(self.now);
        self.carry_out(at, effects);
    }

    /// The round that the leader asked for.
    fn confirm(&mut self) {
        let asked = self.members[self.leader].confirming.take();
        if asked == Some(self.term) {
            self.prove();
            let effects = self.members[self.leader].keeper.confirmed(self.now, self.term);
            self.carry_out(self.leader, effects);
        }
    }

    fn carry_out(&mut self, at: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Confirm { term } => self.members[at].confirming = Some(term),
                Effect::Propose { term, requests } => {
                    assert!(at == self.leader || term != self.term, "only its leader proposes in a term");
                    let (mut ids, seen) = (BTreeSet::new(), self.members[at].applied);
                    for request in requests {
                        assert!(request.lease_revoke.is_none_or(|revoke| ids.insert(revoke.id)));
                        self.append(term, request, Some(seen));
                    }
                }
            }
        }
    }

    /// Nobody renews any more, everything works.
    fn settle(&mut self) {
        let leader = self.leader;
        self.tell(leader);
        self.apply(leader, self.log.len());
        // What lives for longer is taken away by its client.
        let limit = Instant(self.now.0 + MAX_TTL_S as u64 * 1_000 + EXTEND_MS);
        for (_, id) in self.members[leader].keeper.list(None, usize::MAX).into_iter().filter(|at| at.0 > limit.0) {
            let lease_revoke = Some(LeaseRevokeRequest { id });
            self.append(self.term, InternalRaftRequest { lease_revoke, ..Default::default() }, None);
        }
        let end = Instant(limit.0 + SLACK_MS);
        for _ in 0..100_000 {
            self.work(leader);
            self.confirm();
            self.apply(leader, self.log.len());
            match self.members[leader].keeper.wake_at(self.now) {
                Some(at) if at > end => break,
                Some(at) => self.now = self.now.max(at),
                None => break,
            }
        }
        let Member { table, keeper, .. } = &self.members[leader];
        assert!(table.is_empty() && keeper.is_empty(), "at {end:?} there is {:?}", keeper.list(None, 9));
        for at in 0..MEMBERS {
            self.apply(at, self.log.len());
            assert!(self.members[at].table.is_empty());
        }
    }
}

fn id(choices: &mut Choices<'_>) -> i64 {
    i64::from(choices.below(5))
}
