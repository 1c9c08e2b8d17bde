//! Election safety (Raft, section 5.2): at most one leader a term. And what it rests on: a member votes once a term, in
//! all its lives (5.2, and 5.1's "persisted before responding"), and its term and commit never go back.
//!
//! Sees who leads from every step, and votes from hard states. A vote counts once it is durable: one that a crash took
//! was never promised to anyone. So a leader must have a majority of *durable* votes at the moment it first leads;
//! votes sent before they were synced are found there, before the second leader that they make possible. A majority is
//! one of the voters that it counts with, before its step or after it. Does not see the messages that carry votes.

use std::collections::{BTreeMap, VecDeque};

use lockstep::member::raft::{Role, Status};
use lockstep_proto::raftpb::HardState;

use super::{Checker, Objection, PerMember, Seen, is_majority, object};

#[derive(Debug, Default)]
pub struct ElectionSafety {
    /// Term -> who leads it.
    leaders: BTreeMap<u64, u64>,
    /// (term, member) -> whom it voted for, durably.
    votes: BTreeMap<(u64, u64), u64>,
    of: PerMember<Member>,
}

#[derive(Debug, Default)]
struct Member {
    durable: Promise,
    /// Handed to the log and not yet synced: number, and the promise.
    told: VecDeque<(u64, Promise)>,
    /// As of the last step of this life.
    stepped: Promise,
    /// Whom it counted with then.
    voters: Vec<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Promise {
    term: u64,
    vote: u64,
    commit: u64,
}

impl ElectionSafety {
    fn booted(&mut self, member: u64, found: Promise) -> Result<(), Objection> {
        let this = self.of.of(member);
        let durable = this.durable;
        let same = |promise: &Promise| (promise.term, promise.vote) == (found.term, found.vote);
        let known = durable == Promise::default() || same(&durable) || this.told.iter().any(|(_, told)| same(told));
        *this = Member { durable: found, told: VecDeque::new(), ..Member::default() };
        if !known {
            let story = format!("member {member} boots with {found}, but {durable} was synced");
            let behind = (found.term, found.vote) < (durable.term, durable.vote);
            return object(if behind { "vote forgotten" } else { "hard state that nobody wrote" }, story);
        }
        if found.commit < durable.commit {
            return object("commit forgotten", format!("member {member} boots with {found}, but {durable} was synced"));
        }
        self.voted(member, found)
    }

    fn told(&mut self, member: u64, number: u64, told: Promise) -> Result<(), Objection> {
        let this = self.of.of(member);
        let before = this.told.back().map_or(this.durable, |(_, promise)| *promise);
        this.told.push_back((number, told));
        follows(before, told)
            .map_err(|place| Objection::new(place, format!("member {member} writes {told} to its log, after {before}")))
    }

    fn synced(&mut self, member: u64, number: u64) -> Result<(), Objection> {
        loop {
            let this = self.of.of(member);
            let Some((_, promise)) = this.told.pop_front_if(|told| told.0 <= number) else { return Ok(()) };
            let is_new = (promise.term, promise.vote) != (this.durable.term, this.durable.vote);
            this.durable = promise;
            if is_new {
                self.voted(member, promise)?;
            }
        }
    }

    fn voted(&mut self, member: u64, promise: Promise) -> Result<(), Objection> {
        let Promise { term, vote, .. } = promise;
        if vote == 0 {
            return Ok(());
        }
        match *self.votes.entry((term, member)).or_insert(vote) {
            first if first == vote => Ok(()),
            first => {
                let story = format!("member {member} votes for {vote} in term {term}, and has voted for {first}");
                object("two votes in a term", story)
            }
        }
    }

    fn stepped(&mut self, status: &Status, voters: &[u64]) -> Result<(), Objection> {
        let this = self.of.of(status.id);
        let former = std::mem::replace(&mut this.voters, voters.to_vec());
        let now = Promise { term: status.term, vote: status.vote, commit: status.commit };
        let before = std::mem::replace(&mut this.stepped, now);
        if now != before {
            let durable = Promise { commit: 0, ..this.durable };
            let fault = follows(before, now).and_then(|()| follows(durable, now));
            fault.map_err(|place| {
                Objection::new(
                    place,
                    format!("member {} goes to {now}, after {before}; {durable} is durable", status.id),
                )
            })?;
        }
        if status.role != Role::Leader {
            return Ok(());
        }
        match self.leaders.get(&status.term) {
            Some(leader) if *leader == status.id => Ok(()),
            Some(leader) => object(
                "two leaders in a term",
                format!("members {leader} and {} both lead term {}", status.id, status.term),
            ),
            None => {
                self.leaders.insert(status.term, status.id);
                self.elected(status, &former, voters)
            }
        }
    }

    /// The voters of a leader that has just come up.
    fn elected(&self, status: &Status, former: &[u64], voters: &[u64]) -> Result<(), Objection> {
        let has_voted = |member: u64| self.votes.get(&(status.term, member)) == Some(&status.id);
        let voted: Vec<u64> = self.of.iter().map(|(id, _)| id).filter(|id| has_voted(*id)).collect();
        // A sole voter's own vote is durable with its first entry.
        let is_sole = |voters: &[u64]| *voters == [status.id];
        if [former, voters].into_iter().any(|voters| is_sole(voters) || is_majority(&voted, voters)) {
            return Ok(());
        }
        object(
            "elected without durable votes",
            format!(
                "member {} leads term {}, but of {} voters only {voted:?} have a durable vote for it",
                status.id,
                status.term,
                voters.len()
            ),
        )
    }
}

impl Checker for ElectionSafety {
    fn name(&self) -> &'static str {
        "election-safety"
    }

    fn see(&mut self, _now_us: u64, seen: &Seen) -> Result<(), Objection> {
        match seen {
            Seen::Booted { member, hard_state, .. } => self.booted(*member, hard_state.into()),
            Seen::Persist { member, persist } => self.told(*member, persist.number, (&persist.hard_state).into()),
            Seen::Synced { member, number } => self.synced(*member, *number),
            Seen::Stepped { status, voters } => self.stepped(status, voters),
            _ => Ok(()),
        }
    }
}

impl From<&HardState> for Promise {
    fn from(state: &HardState) -> Promise {
        Promise { term: state.term(), vote: state.vote(), commit: state.commit() }
    }
}

impl std::fmt::Display for Promise {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Term:{} Vote:{} Commit:{}", self.term, self.vote, self.commit)
    }
}

/// What a member may go to; otherwise what is wrong with it.
fn follows(before: Promise, now: Promise) -> Result<(), &'static str> {
    if now.term < before.term {
        return Err("term went back");
    }
    if now.commit < before.commit {
        return Err("commit went back");
    }
    if now.term == before.term && before.vote != 0 && now.vote != before.vote {
        return Err("two votes in a term");
    }
    Ok(())
}
