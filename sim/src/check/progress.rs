//! Progress, within a bound: when only a core of members is left, healthy and connected, every client that talks to it
//! gets a write done, while the rest stays dead or cut off for ever, one-way cuts included (the Cloudflare outage of
//! 2020-11-02: a partial partition under which a majority could have gone on, and elected leaders in vain for six
//! hours; TigerBeetle's liveness mode). And when everything is healed, all members end at the same place.
//!
//! A stall's story says who waits for whom: the operations that are open, each member of the core, and what its last
//! step, its synced log and its view say it lacks. Sees states, not messages: that a message was lost shows as a
//! member that does not know. A client that asked only for reads since then must have one linearizable read answered;
//! and a member that, long after the others stayed out, lets every linearizable read time out serves none any more.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write;

use lockstep::member::raft::{Role, Status};

use super::voters::Newest;
use super::{Checker, Objection, PerMember, Seen, object};
use crate::history::{Operation, Outcome};
use crate::notation;

/// So many reads that time out, and none that is answered, are no accident.
const READS_GIVEN_UP: u64 = 3;

#[derive(Debug)]
pub struct Progress {
    cluster: Newest,
    bound_us: u64,
    core: Option<Core>,
    of: PerMember<Member>,
    open: BTreeMap<u64, Open>,
    at_rest: Vec<(Status, u64)>,
}

/// The phase in which a core must get on alone.
#[derive(Debug)]
struct Core {
    since_us: u64,
    members: Vec<u64>,
    /// Those that have got nothing done yet.
    waiting: BTreeMap<u64, Wants>,
    /// By member.
    reads: BTreeMap<u64, Reads>,
}

/// What became of linearizable reads that a member was asked for in the second half of the phase.
#[derive(Clone, Copy, Debug, Default)]
struct Reads {
    answered: u64,
    given_up: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Wants {
    asked_write: bool,
    read: bool,
}

/// What was last seen of a member.
#[derive(Debug, Default)]
struct Member {
    is_up: bool,
    since_us: u64,
    status: Status,
    /// Persists that were not synced: number, and where the log ends with it.
    unsynced: VecDeque<(u64, u64)>,
    told_last: u64,
    durable_last: u64,
    applied: u64,
}

#[derive(Debug)]
struct Open {
    since_us: u64,
    client: u64,
    member: u64,
    operation: Operation,
}

impl Progress {
    pub fn new(members: u64, bound_ms: u64) -> Progress {
        Progress {
            cluster: Newest::founded_by(members),
            bound_us: bound_ms * 1_000,
            core: None,
            of: PerMember::default(),
            open: BTreeMap::new(),
            at_rest: Vec::new(),
        }
    }

    fn watch(&mut self, now_us: u64, seen: &Seen) {
        match seen {
            Seen::Booted { member, first, log, view, .. } => {
                let last = log.last().map_or(first - 1, |entry| entry.index());
                let applied = view.applied_index();
                let (told_last, durable_last) = (last, last);
                let booted =
                    Member { is_up: true, since_us: now_us, told_last, durable_last, applied, ..Member::default() };
                *self.of.of(*member) = booted;
            }
            Seen::Ended { member } => {
                let this = self.of.of(*member);
                (this.is_up, this.since_us) = (false, now_us);
            }
            Seen::Stepped { status, .. } => self.of.of(status.id).status = **status,
            Seen::Persist { member, persist } => {
                let this = self.of.of(*member);
                let restarted = persist.snapshot.map_or(this.told_last, |mark| mark.index);
                this.told_last = persist.entries.last().map_or(restarted, |entry| entry.index());
                this.unsynced.push_back((persist.number, this.told_last));
            }
            Seen::Synced { member, number } => {
                let this = self.of.of(*member);
                while let Some((_, last)) = this.unsynced.pop_front_if(|persist| persist.0 <= *number) {
                    this.durable_last = last;
                }
            }
            Seen::Published { member, view } => self.of.of(*member).applied = view.applied_index(),
            _ => {}
        }
    }

    fn asked(&mut self, now_us: u64, number: u64, client: u64, member: u64, operation: &Operation) {
        self.open.insert(number, Open { since_us: now_us, client, member, operation: operation.clone() });
        if let Some(wants) = self.core.as_mut().and_then(|core| core.waiting.get_mut(&client)) {
            wants.asked_write |= !operation.is_read() && operation.shows_progress();
        }
    }

    fn answered(&mut self, number: u64, client: u64, operation: &Operation, outcome: &Outcome) {
        let open = self.open.remove(&number);
        let Some(core) = &mut self.core else { return };
        let late_us = core.since_us + self.bound_us / 2;
        if let Some(open) = open.filter(|open| open.since_us >= late_us)
            && operation.is_read()
            && !operation.is_serializable()
        {
            let reads = core.reads.entry(open.member).or_default();
            reads.answered += u64::from(matches!(outcome, Outcome::Read { .. }));
            reads.given_up += u64::from(matches!(outcome, Outcome::Unknown { .. }));
        }
        let waiting = &mut core.waiting;
        match outcome {
            Outcome::Done { .. } => drop(waiting.remove(&client)),
            Outcome::Told { revision: 1.., .. } => drop(waiting.remove(&client)),
            Outcome::Read { .. } if !operation.is_serializable() => {
                if let Some(wants) = waiting.get_mut(&client) {
                    wants.read = true;
                }
            }
            _ => {}
        }
    }

    fn judge(&mut self, now_us: u64) -> Result<(), Objection> {
        let Some(core) = self.core.take() else { return Ok(()) };
        let is_stuck = |wants: &Wants| wants.asked_write || !wants.read;
        let stuck: Vec<u64> = core.waiting.iter().filter(|(_, w)| is_stuck(w)).map(|(client, _)| *client).collect();
        if self.bound_us == 0 {
            return Ok(());
        }
        let deaf = |(_, reads): &(&u64, &Reads)| reads.answered == 0 && reads.given_up >= READS_GIVEN_UP;
        if stuck.is_empty()
            && let Some((member, reads)) = core.reads.iter().find(deaf)
        {
            let mut story = format!(
                "member {member} is one of {:?}, left to themselves, and none of {} linearizable reads that it was \
                 asked for long after was answered",
                core.members, reads.given_up
            );
            self.who_waits(&mut story, &core.members, now_us);
            return object("no reads", story);
        }
        if stuck.is_empty() {
            return Ok(());
        }
        let mut story = format!(
            "{} ms after members {:?} were left to themselves, clients {stuck:?} have not got a write done",
            (now_us - core.since_us) / 1_000,
            core.members
        );
        for client in stuck {
            let mut open = self.open.iter().filter(|(_, open)| open.client == client).peekable();
            if open.peek().is_none() {
                line(
                    &mut story,
                    format_args!("client {client} waits for nothing: all it asked for was answered or given up"),
                );
            }
            for (number, Open { since_us, member, operation, .. }) in open {
                let waited_ms = (now_us - since_us) / 1_000;
                line(
                    &mut story,
                    format_args!(
                        "client {client} waits for operation {number} ({operation}) at member {member}, {waited_ms} ms"
                    ),
                );
            }
        }
        self.who_waits(&mut story, &core.members, now_us);
        object("no progress", story)
    }

    /// Every one of these members, and what it lacks.
    fn who_waits(&self, story: &mut String, members: &[u64], now_us: u64) {
        let of = |id: &u64| self.of.0.get(*id as usize);
        let up: Vec<&Member> = members.iter().filter_map(of).filter(|member| member.is_up).collect();
        for id in members {
            match of(id) {
                Some(member) if member.is_up => line(story, format_args!("{}", notation::status(&member.status))),
                Some(member) => {
                    let down_ms = now_us.saturating_sub(member.since_us) / 1_000;
                    line(story, format_args!("member {id}: down for {down_ms} ms"));
                }
                None => line(story, format_args!("member {id}: never started")),
            }
        }
        let leaders = up.iter().map(|member| &member.status).filter(|status| status.role == Role::Leader);
        let leader = leaders.max_by_key(|status| status.term);
        match leader {
            Some(leader) => self.leader_waits(story, leader, &up),
            None => line(story, format_args!("nobody leads")),
        }
        for member in up {
            self.member_waits(story, member, leader, members);
        }
    }

    fn leader_waits(&self, story: &mut String, leader: &Status, up: &[&Member]) {
        let Status { id, term, commit, last_index: last, .. } = leader;
        if commit == last {
            return line(
                story,
                format_args!("leader {id} of term {term}: everything it has is committed, up to {last}"),
            );
        }
        let lacking: Vec<String> = up
            .iter()
            .filter(|member| member.status.term != *term || member.durable_last <= *commit)
            .map(|member| {
                let Status { id, term, .. } = member.status;
                format!("{id} (in term {term}, log synced up to {})", member.durable_last)
            })
            .collect();
        let voters = self.cluster.voters.len();
        let needs = voters / 2 + 1;
        line(
            story,
            format_args!(
                "leader {id} of term {term}: commit {commit} behind last {last}: needs {needs} of {voters} members, \
                 waits for acks of {}",
                if lacking.is_empty() { "members that have the entries".to_owned() } else { lacking.join(", ") }
            ),
        );
    }

    fn member_waits(&self, story: &mut String, member: &Member, leader: Option<&Status>, core: &[u64]) {
        let Status { id, term, role, commit, leader: follows, .. } = member.status;
        let voters = || {
            let others = core.iter().filter(|other| **other != id).filter_map(|other| self.of.0.get(*other as usize));
            let votes = others.map(|other| {
                let Status { id, term, vote, leader, .. } = other.status;
                format!("{id} (in term {term}, voted for {vote}, follows {leader})")
            });
            votes.collect::<Vec<_>>().join(", ")
        };
        match role {
            Role::Candidate => {
                line(story, format_args!("member {id}: candidate of term {term}, no majority of votes: {}", voters()));
            }
            Role::PreCandidate => {
                let next = term + 1;
                line(story, format_args!("member {id}: nobody promises it votes for term {next}: {}", voters()));
            }
            Role::Follower if follows == 0 => {
                line(story, format_args!("member {id}: knows no leader in term {term}, and does not campaign"));
            }
            Role::Follower if leader.is_none_or(|leader| leader.id != follows) => {
                let whom = if core.contains(&follows) { "which does not lead" } else { "which is not of the core" };
                line(story, format_args!("member {id}: follows {follows} in term {term}, {whom}"));
            }
            Role::Follower | Role::Leader => {}
        }
        if member.applied < commit {
            line(story, format_args!("member {id}: has applied {} of {commit} committed entries", member.applied));
        }
        if let Some((number, _)) = member.unsynced.front() {
            let count = member.unsynced.len();
            line(story, format_args!("member {id}: {count} persists wait to be synced, from #{number} on"));
        }
    }

    fn at_rest(&mut self, now_us: u64, status: &Status, applied: u64) -> Result<(), Objection> {
        self.at_rest.push((*status, applied));
        let (first, first_applied) = self.at_rest[0];
        let is_same = (first.commit, first.applied, first_applied) == (status.commit, status.applied, applied);
        if is_same && status.commit == applied {
            return Ok(());
        }
        let ids: Vec<u64> = self.cluster.present().collect();
        let mut story = format!(
            "everything was healed, and still member {} ends with commit {} and view {applied}, member {} with commit \
             {} and view {first_applied}",
            status.id, status.commit, first.id, first.commit
        );
        self.who_waits(&mut story, &ids, now_us);
        object("members end differently", story)
    }

    fn over(&self) -> Result<(), Objection> {
        let shown: BTreeSet<u64> = self.at_rest.iter().map(|(status, _)| status.id).collect();
        match self.cluster.present().find(|id| !shown.contains(id)) {
            Some(id) if !shown.is_empty() => {
                object("member missing at the end", format!("everything was healed, and member {id} does not run"))
            }
            _ => Ok(()),
        }
    }
}

impl Checker for Progress {
    fn name(&self) -> &'static str {
        "progress"
    }

    fn see(&mut self, now_us: u64, seen: &Seen) -> Result<(), Objection> {
        if self.core.as_ref().is_some_and(|core| now_us > core.since_us + self.bound_us) {
            self.judge(now_us)?;
        }
        self.watch(now_us, seen);
        self.cluster.see(seen);
        match seen {
            Seen::Asked { number, client, member, operation } => {
                self.asked(now_us, *number, *client, *member, operation);
            }
            Seen::Answered { number, client, operation, outcome, .. } => {
                self.answered(*number, *client, operation, outcome);
            }
            Seen::Core { members, clients } => {
                let mut waiting: BTreeMap<u64, Wants> = clients.iter().map(|id| (*id, Wants::default())).collect();
                for open in
                    self.open.values().filter(|open| !open.operation.is_read() && open.operation.shows_progress())
                {
                    if let Some(wants) = waiting.get_mut(&open.client) {
                        wants.asked_write = true;
                    }
                }
                self.core = Some(Core { since_us: now_us, members: members.to_vec(), waiting, reads: BTreeMap::new() });
            }
            Seen::Healed => return self.judge(now_us),
            Seen::AtRest { status, view } => return self.at_rest(now_us, status, view.applied_index()),
            Seen::Over => return self.over(),
            _ => {}
        }
        Ok(())
    }
}

fn line(story: &mut String, what: std::fmt::Arguments<'_>) {
    write!(story, "\n  {what}").expect("a string takes everything");
}
