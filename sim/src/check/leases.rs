//! A lease lives as long as its client was promised, and not for ever (etcd #15247, #12528: a deposed leader revokes;
//! #9888: every new leader begins anew).
//!
//! * **Never revoked while kept alive.** A promise holds for the TTL from the moment at which the keep-alive, or the
//!   grant, was sent. Whoever leads when a revocation enters the log must have seen so much time pass on its own clock
//!   since then, however much that clock drifts or leaps: that is all that faults of clocks can excuse. Leases whose
//!   clients asked for their end are not judged.
//! * **Gone after expiry.** In the liveness phase, and after it, a leader has revoked what nobody has renewed in its
//!   time after the TTL, one election time-out and a few seconds. At rest no key has a lease that is gone.
//! * **Time passes over changes of leaders.** What leaders have seen pass counts: the time to live that somebody is
//!   told is not more than what that leaves. Only time in which the leader went on committing is counted, less an
//!   election time-out, the interval of checkpoints and some seconds for each leader.
//!
//! Does not see what a keeper thinks; nor whether a lease ends too late in the safety phase.

use std::collections::{BTreeMap, BTreeSet};

use lockstep::member::raft::{Role, Status};
use lockstep::mvcc::View;
use lockstep::mvcc::read::{RangeOptions, Read};
use lockstep::ports::clock::Instant;
use lockstep::sometimes;
use lockstep_proto::etcdserverpb::{AlarmRequest, InternalRaftRequest};
use lockstep_proto::raftpb::Entry;
use prost::Message;

use super::alarms::Alarms;
use super::{Checker, Objection, Seen, object};
use crate::asks::{LeaseAsk, Told};
use crate::history::{Operation, Outcome};
use crate::knobs::Knobs;

/// What a new leader adds.
const EXTEND_MS: u64 = 1_000;
/// What revoking may take, and noting a checkpoint.
const REVOKE_MS: u64 = 4_000;
const CHECKPOINT_MS: u64 = 2_000;
/// A leader that commits nothing for so long may not have noted a checkpoint either.
const STEADY_MS: u64 = 500;
/// Clocks show whole milliseconds.
const ROUNDING_MS: u64 = 2;

#[derive(Debug)]
pub struct Leases {
    checkpoint_ms: u64,
    patience_us: u64,
    clocks: BTreeMap<u64, Instant>,
    leases: BTreeMap<i64, Lease>,
    /// What entries do to leases, by index and term, once somebody wrote them down.
    entries: BTreeMap<(u64, u64), Act>,
    written: u64,
    committed: u64,
    alarms: Alarms,
    /// Counts what is noted.
    sequence: u64,
    reign: Reign,
    /// The members that must get on alone, and what clocks showed when that began.
    core: Option<(BTreeSet<u64>, BTreeMap<u64, Instant>)>,
    /// Times to live that were asked for, and the most that may be left.
    left: BTreeMap<u64, u64>,
    /// What leaders have seen pass, each in its time, and what the clock of the newest showed last.
    led_ms: u64,
    led_at: Instant,
}

#[derive(Debug, Default)]
struct Lease {
    exists: bool,
    ttl_ms: u64,
    /// Its client wants it to end.
    is_given_up: bool,
    promise: Option<Sent>,
    /// Keep-alives, or a grant, without an answer.
    open: BTreeMap<(bool, u64), Sent>,
    revoked: Vec<Revoked>,
    /// What clocks showed when somebody last renewed it, or may have.
    touched: BTreeMap<u64, Instant>,
    /// In this term, when its leader had been steady for so long.
    touched_in: (u64, u64),
    /// What former leaders have seen pass since then, at least.
    used_ms: i64,
}

/// Something that renews, when it was sent.
#[derive(Clone, Debug)]
struct Sent {
    sequence: u64,
    at_us: u64,
    clocks: BTreeMap<u64, Instant>,
    /// What leaders had seen pass.
    led_ms: u64,
}

/// A revocation entered the log of who led.
#[derive(Clone, Debug)]
struct Revoked {
    sequence: u64,
    member: u64,
    clock: Instant,
    led_ms: u64,
}

#[derive(Clone, Debug)]
enum Act {
    Grant { lease: i64, ttl_s: i64 },
    Revoke { lease: i64, revoked: Revoked },
    Alarm(AlarmRequest),
}

/// The newest leader.
#[derive(Debug, Default)]
struct Reign {
    term: u64,
    member: u64,
    since: Instant,
    commit: u64,
    commit_at: Instant,
    steady_ms: u64,
}

impl Leases {
    pub fn new(knobs: &Knobs) -> Leases {
        Leases {
            checkpoint_ms: knobs.lease_checkpoint_ms,
            patience_us: knobs.request_timeout_ms * 1_000,
            clocks: BTreeMap::new(),
            leases: BTreeMap::new(),
            entries: BTreeMap::new(),
            written: 0,
            committed: 0,
            alarms: Alarms::default(),
            sequence: 0,
            reign: Reign::default(),
            core: None,
            left: BTreeMap::new(),
            led_ms: 0,
            led_at: Instant(0),
        }
    }

    // Clients.

    fn sent(&mut self, now_us: u64, lease: i64, is_grant: bool, number: u64) {
        self.sequence += 1;
        let sent = Sent { sequence: self.sequence, at_us: now_us, clocks: self.clocks.clone(), led_ms: self.led_ms };
        let reign = (self.reign.term, self.reign.steady_ms);
        let lease = self.leases.entry(lease).or_default();
        lease.touch(&self.clocks, reign);
        lease.open.insert((is_grant, number), sent);
    }

    fn promised(&mut self, id: i64, is_grant: bool, number: u64, ttl_s: i64) -> Result<(), Objection> {
        let reign = (self.reign.term, self.reign.steady_ms);
        let Some(lease) = self.leases.get_mut(&id) else { return Ok(()) };
        let Some(sent) = lease.open.remove(&(is_grant, number)) else { return Ok(()) };
        if ttl_s <= 0 {
            if lease.exists {
                let story =
                    format!("keep-alive {number} is told that there is no lease {id}, which nobody has revoked");
                return object("lease is not there", story);
            }
            return Ok(());
        }
        lease.touch(&self.clocks, reign);
        lease.ttl_ms = ttl_s as u64 * 1_000;
        if lease.promise.as_ref().is_none_or(|promise| promise.sequence < sent.sequence) {
            lease.promise = Some(sent);
        }
        if lease.exists { Ok(()) } else { lease.judge(id) }
    }

    fn asked(&mut self, now_us: u64, number: u64, ask: &LeaseAsk) {
        match ask {
            LeaseAsk::Grant { lease, .. } => self.sent(now_us, *lease, true, number),
            LeaseAsk::Revoke { lease } => self.leases.entry(*lease).or_default().is_given_up = true,
            LeaseAsk::Left { lease } => {
                let patience_us = self.patience_us;
                let reign = (self.reign.term, self.reign.steady_ms);
                let Some(known) = self.leases.get_mut(lease) else { return };
                known.settle(now_us, patience_us, &self.clocks, reign);
                if known.open.is_empty() && known.ttl_ms > 0 {
                    let most_ms = known.ttl_ms + EXTEND_MS - (known.used_ms.max(0) as u64).min(known.ttl_ms);
                    self.left.insert(number, most_ms);
                }
            }
            LeaseAsk::Keep { .. } | LeaseAsk::Leave { .. } | LeaseAsk::Attach { .. } => {}
        }
    }

    fn told_left(&mut self, number: u64, lease: i64, ttl_s: i64) -> Result<(), Objection> {
        let Some(most_ms) = self.left.remove(&number) else { return Ok(()) };
        // Somebody may have renewed it since.
        let is_renewed = self.leases.get(&lease).is_none_or(|known| known.used_ms == 0 || !known.open.is_empty());
        sometimes!(!is_renewed, "time to live told after time had passed under former leaders");
        if ttl_s > 0 && ttl_s as u64 * 1_000 > most_ms && !is_renewed {
            let story = format!(
                "operation {number} is told that lease {lease} has {ttl_s} s left, and no more than {most_ms} ms can \
                 be: leaders before have seen the rest pass"
            );
            return object("time of a lease begins anew", story);
        }
        Ok(())
    }

    // The log.

    fn persisted(&mut self, member: u64, entries: &[Entry]) {
        for entry in entries {
            let place = (entry.index(), entry.term());
            if entry.index() <= self.written && self.entries.contains_key(&place) {
                continue;
            }
            self.written = self.written.max(entry.index());
            let data = entry.data.as_deref().unwrap_or_default();
            let Ok(request) = InternalRaftRequest::decode(data) else { continue };
            if let Some(grant) = &request.lease_grant {
                self.entries.insert(place, Act::Grant { lease: grant.id, ttl_s: grant.ttl.max(1) });
            }
            if let Some(alarm) = request.alarm {
                self.entries.insert(place, Act::Alarm(alarm));
            }
            if let Some(revoke) = &request.lease_revoke {
                self.sequence += 1;
                let clock = self.clocks.get(&member).copied().unwrap_or_default();
                let revoked = Revoked { sequence: self.sequence, member, clock, led_ms: self.led_ms };
                self.entries.entry(place).or_insert(Act::Revoke { lease: revoke.id, revoked });
            }
        }
    }

    fn committed(&mut self, entries: &[Entry]) -> Result<(), Objection> {
        for entry in entries.iter().filter(|entry| entry.index() > self.committed) {
            let act = self.entries.get(&(entry.index(), entry.term())).cloned();
            match act {
                Some(Act::Alarm(alarm)) => self.alarms.committed(&alarm),
                Some(Act::Grant { .. }) if !self.alarms.has_space() => {}
                Some(Act::Grant { lease, ttl_s }) => {
                    let known = self.leases.entry(lease).or_default();
                    if !known.exists {
                        known.exists = true;
                        known.ttl_ms = ttl_s as u64 * 1_000;
                    }
                }
                Some(Act::Revoke { lease, revoked }) => {
                    let known = self.leases.entry(lease).or_default();
                    if known.exists {
                        known.exists = false;
                        let is_expired = !known.is_given_up;
                        sometimes!(is_expired, "lease expired");
                        let renewed_in = known.touched_in.0;
                        sometimes!(is_expired && entry.term() > renewed_in, "lease expired under a later leader");
                        known.revoked.push(revoked);
                        known.judge(lease)?;
                    }
                }
                None => {}
            }
        }
        self.committed = self.committed.max(entries.last().map_or(0, Entry::index));
        Ok(())
    }

    // Who leads.

    fn stepped(&mut self, now_us: u64, status: &Status) -> Result<(), Objection> {
        if status.role != Role::Leader || status.term < self.reign.term {
            return Ok(());
        }
        let clock = self.clocks.get(&status.id).copied().unwrap_or_default();
        if status.term > self.reign.term {
            self.reign_over();
            let (term, member, commit) = (status.term, status.id, status.commit);
            self.reign = Reign { term, member, since: clock, commit, commit_at: clock, steady_ms: 0 };
            self.led_at = clock;
            return Ok(());
        }
        self.led_ms += clock.saturating_since(self.led_at);
        self.led_at = clock;
        if status.commit > self.reign.commit {
            let gap_ms = clock.saturating_since(self.reign.commit_at);
            self.reign.steady_ms += if gap_ms <= STEADY_MS { gap_ms } else { 0 };
            (self.reign.commit, self.reign.commit_at) = (status.commit, clock);
            return self.late(now_us, clock);
        }
        Ok(())
    }

    fn reign_over(&mut self) {
        let Reign { term, steady_ms, .. } = self.reign;
        let owed_ms = (EXTEND_MS + self.checkpoint_ms + CHECKPOINT_MS) as i64;
        for lease in self.leases.values_mut().filter(|lease| lease.exists) {
            let before_ms = if lease.touched_in.0 == term { lease.touched_in.1 } else { 0 };
            let passed_ms = steady_ms.saturating_sub(before_ms) as i64;
            lease.used_ms = (lease.used_ms + passed_ms - owed_ms).max(0);
        }
    }

    /// Whether there is a lease that this leader should have revoked.
    fn late(&mut self, now_us: u64, clock: Instant) -> Result<(), Objection> {
        let Some((members, begun)) = &self.core else { return Ok(()) };
        let Reign { member, since, term, steady_ms, .. } = self.reign;
        if !members.contains(&member) {
            return Ok(());
        }
        let begun = begun.get(&member).copied().unwrap_or_default();
        for (id, lease) in self.leases.iter_mut().filter(|(_, lease)| lease.exists) {
            lease.settle(now_us, self.patience_us, &self.clocks, (term, steady_ms));
            let touched = lease.touched.get(&member).copied().unwrap_or_default();
            let passed_ms = clock.saturating_since(touched.max(since).max(begun));
            if lease.open.is_empty() && passed_ms > lease.ttl_ms + EXTEND_MS + REVOKE_MS {
                let story = format!(
                    "lease {id} lives for {} ms, and {passed_ms} ms have passed for member {member}, which leads term \
                     {term}, since anybody renewed it",
                    lease.ttl_ms
                );
                return object("expired lease is still there", story);
            }
        }
        Ok(())
    }

    fn at_rest(&self, member: u64, view: &View) -> Result<(), Objection> {
        let Ok(everything) = view.range(b"\0", b"\0", RangeOptions::default()) else { return Ok(()) };
        for kv in everything.kvs.iter().filter(|kv| kv.lease != 0) {
            if self.leases.get(&kv.lease).is_some_and(|lease| !lease.exists) {
                let key = String::from_utf8_lossy(&kv.key);
                let story = format!("at rest member {member} has {key}, whose lease {} is gone", kv.lease);
                return object("key outlives its lease", story);
            }
        }
        Ok(())
    }
}

impl Lease {
    fn touch(&mut self, clocks: &BTreeMap<u64, Instant>, reign: (u64, u64)) {
        self.touched.clone_from(clocks);
        self.touched_in = reign;
        self.used_ms = 0;
    }

    /// What was not answered for so long is not under way any more; until then it may have renewed the lease.
    fn settle(&mut self, now_us: u64, patience_us: u64, clocks: &BTreeMap<u64, Instant>, reign: (u64, u64)) {
        let before = self.open.len();
        self.open.retain(|(is_grant, _), sent| *is_grant && !self.exists || sent.at_us + patience_us > now_us);
        if self.open.len() < before {
            self.touch(clocks, reign);
        }
    }

    /// It is revoked; whether its client had been promised more.
    fn judge(&self, id: i64) -> Result<(), Objection> {
        let (Some(promise), false) = (&self.promise, self.is_given_up) else { return Ok(()) };
        for revoked in self.revoked.iter().filter(|revoked| revoked.sequence > promise.sequence) {
            let sent = promise.clocks.get(&revoked.member).copied().unwrap_or_default();
            // Or together under one leader after the other.
            let passed_ms = revoked.clock.saturating_since(sent).max(revoked.led_ms - promise.led_ms);
            if passed_ms + ROUNDING_MS < self.ttl_ms {
                let story = format!(
                    "lease {id} was promised for {} ms, and revoked when {passed_ms} ms had passed on the clock of \
                     member {}, which led",
                    self.ttl_ms, revoked.member
                );
                return object("revoked while kept alive", story);
            }
        }
        Ok(())
    }
}

impl Checker for Leases {
    fn name(&self) -> &'static str {
        "leases"
    }

    fn see(&mut self, now_us: u64, seen: &Seen) -> Result<(), Objection> {
        match seen {
            Seen::Clocks(clocks) => self.clocks.extend(clocks.iter().copied()),
            Seen::Asked { number, operation: Operation::Lease(ask), .. } => self.asked(now_us, *number, ask),
            Seen::Answered { number, operation: Operation::Lease(ask), outcome, .. } => match outcome {
                Outcome::Told { told: Told::Granted { ttl_s }, .. } => {
                    return self.promised(ask.lease(), true, *number, *ttl_s);
                }
                Outcome::Told { told: Told::Left { ttl_s }, .. } => {
                    return self.told_left(*number, ask.lease(), *ttl_s);
                }
                _ => {}
            },
            Seen::Renews { number, lease } => self.sent(now_us, *lease, false, *number),
            Seen::Renewed { number, lease, ttl_s } => return self.promised(*lease, false, *number, *ttl_s),
            Seen::Persist { member, persist } => self.persisted(*member, &persist.entries),
            Seen::Committed { entries, .. } => return self.committed(entries),
            Seen::Stepped { status, .. } => return self.stepped(now_us, status),
            Seen::Core { members, .. } => self.core = Some((members.iter().copied().collect(), self.clocks.clone())),
            Seen::Healed => {
                let members = self.clocks.keys().copied().collect();
                self.core = Some((members, self.clocks.clone()));
            }
            Seen::AtRest { status, view } => return self.at_rest(status.id, view),
            _ => {}
        }
        Ok(())
    }
}
