//! Who belongs to the cluster: changes on their way, machines that join and leave.
//!
//! The world knows of the membership what its members have shown. It starts the machine of whoever was added, takes out
//! whoever has heard of its own removal, as a server does, and at the end, as an operator does, whoever never heard.
//! What counts in what index is kept for the budget: a member that was away, or that has lost what it had not synced,
//! goes by former voters.

use std::collections::BTreeSet;
use std::sync::Arc;

use lockstep::member::membership::Membership;
use lockstep_proto::raftpb::{ConfChange, Entry, EntryType};
use prost::Message;

use super::{Failure, What, World};
use crate::check::Seen;
use crate::fault::budget::Standing;
use crate::fault::change::Change;

/// How soon the machine of a member that was added is started.
const JOIN_US: u64 = 100_000;
/// A removed member goes on for so long, as a server does.
const LEAVE_US: u64 = 1_000_000;

#[derive(Debug, Default)]
pub(super) struct Cluster {
    /// What counted from which index on, oldest first.
    history: Vec<Config>,
    open: Vec<Open>,
}

#[derive(Clone, Debug)]
struct Config {
    index: u64,
    voters: BTreeSet<u64>,
    learners: BTreeSet<u64>,
}

/// A change that was asked for.
#[derive(Debug)]
struct Open {
    /// Of the request.
    id: u64,
    change: Change,
    /// Where in the log it was committed.
    index: Option<u64>,
}

/// What a machine is to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nothing yet.
    Spare,
    Member,
    /// Nothing any more.
    Gone,
    /// Nothing any more, and its disk is lost.
    Lost,
}

impl Cluster {
    pub fn new(members: u64) -> Cluster {
        // The founding entries are the first.
        let founding = Config { index: members, voters: (1..=members).collect(), learners: BTreeSet::new() };
        Cluster { history: vec![founding], open: Vec::new() }
    }

    fn newest(&self) -> &Config {
        self.history.last().expect("the founding is there")
    }

    pub fn belongs(&self, id: u64) -> bool {
        let newest = self.newest();
        newest.voters.contains(&id) || newest.learners.contains(&id)
    }

    pub fn is_voter(&self, id: u64) -> bool {
        self.newest().voters.contains(&id)
    }

    /// From where on a member of today has belonged.
    fn since(&self, id: u64) -> u64 {
        let is_here = |config: &&Config| config.voters.contains(&id) || config.learners.contains(&id);
        self.history.iter().find(is_here).map_or(u64::MAX, |config| config.index)
    }

    /// An entry that changes the membership was committed.
    pub fn committed(&mut self, entries: &[Entry]) {
        for entry in entries.iter().filter(|entry| entry.r#type() == EntryType::EntryConfChange) {
            let Ok(change) = ConfChange::decode(entry.data.clone().unwrap_or_default()) else { continue };
            if let Some(open) = self.open.iter_mut().find(|open| open.id == change.id()) {
                open.index = Some(entry.index());
            }
        }
    }

    /// Some member has applied everything up to here.
    pub fn applied(&mut self, index: u64) {
        self.open.retain(|open| open.index.is_none_or(|at| at > index));
    }
}

impl World {
    // For faults.

    /// Whether this machine is, or may be again, a member's.
    pub fn takes_part(&self, id: u64) -> bool {
        self.machines.get(&id).is_some_and(|machine| machine.place == Place::Member)
    }

    /// Asks a member for a change, once.
    pub fn change_membership(&mut self, by: u64, change: Change) {
        let (now_us, patience_ms) = (self.now_us, self.knobs.request_timeout_ms);
        let machine = self.machine(by);
        let mut expires = machine.clock.now(now_us);
        expires.0 += patience_ms;
        if let Some(id) = machine.member.propose_conf_change(change.to_conf_change(), expires) {
            self.cluster.open.push(Open { id, change, index: None });
        }
        self.wake(by);
    }

    /// A machine is gone for good, and what was on its disk.
    pub fn lose(&mut self, id: u64) {
        self.say(&format!("{id:x} is lost, and its disk with it"));
        self.retire(id, Place::Lost, "lost");
        let shown = self.show(&Seen::Lost { member: id });
        self.note(shown);
    }

    // For the world.

    pub(super) fn standing(&self) -> Standing {
        let newest = self.cluster.newest();
        let of = |place| self.machines.iter().filter(move |(_, m)| m.place == place).map(|(id, _)| *id);
        // Who has just come goes by nobody yet, and hardly is who is elected.
        let oldest = of(Place::Member)
            .filter(|id| newest.voters.contains(id))
            .map(|id| (self.machines[&id].stored, self.cluster.since(id)))
            .filter(|(stored, since)| stored >= since)
            .map(|(stored, _)| stored)
            .min()
            .unwrap_or(newest.index);
        let first = self.cluster.history.iter().rposition(|config| config.index <= oldest).unwrap_or(0);
        Standing {
            voters: self.cluster.history[first..].iter().map(|config| config.voters.clone()).collect(),
            learners: newest.learners.clone(),
            lost: of(Place::Gone).chain(of(Place::Lost)).collect(),
            open: self.cluster.open.iter().map(|open| open.change).collect(),
            least: (self.knobs.members as usize).div_ceil(2),
        }
    }

    /// Machines that nobody has run on yet; at the end those that were asked for, which may be on their way.
    pub(super) fn spares(&self) -> Vec<u64> {
        let is_asked_for = |id: u64| self.cluster.open.iter().any(|open| open.change.member == id);
        let spares = self.machines.iter().filter(|(_, machine)| machine.place == Place::Spare);
        let mut spares: Vec<u64> = spares.map(|(id, _)| *id).collect();
        spares.sort_by_key(|id| (is_asked_for(*id), *id));
        spares
    }

    /// Voters, as far as anybody knows, whose machine is not lost.
    pub(super) fn voters(&self) -> Vec<u64> {
        self.ids().into_iter().filter(|id| self.cluster.is_voter(*id) && self.takes_part(*id)).collect()
    }

    /// All members, as far as anybody knows, whose machine is not lost.
    pub(super) fn members(&self) -> Vec<u64> {
        self.ids().into_iter().filter(|id| self.cluster.belongs(*id) && self.takes_part(*id)).collect()
    }

    /// A member says who the members are as of this index.
    pub(super) fn members_shown(&mut self, id: u64, index: u64, membership: &Arc<Membership>) -> Result<(), Failure> {
        self.show(&Seen::Members { member: id, index, membership })?;
        if membership.is_removed(id) {
            let life = self.life(id);
            self.after(LEAVE_US, id, life, What::Leave);
        }
        let newest = self.cluster.newest();
        let voters: BTreeSet<u64> = membership.voters().map(|member| member.id).collect();
        let learners: BTreeSet<u64> = membership.learners().map(|member| member.id).collect();
        // A founder's first words are of before the founding.
        if index <= newest.index || voters.is_empty() || (&voters, &learners) == (&newest.voters, &newest.learners) {
            return Ok(());
        }
        let coming: Vec<u64> = voters.union(&learners).copied().collect();
        self.cluster.history.push(Config { index, voters, learners });
        for id in coming {
            if let Some(machine) = self.machines.get_mut(&id).filter(|machine| machine.place == Place::Spare) {
                machine.place = Place::Member;
                self.start_after(id, JOIN_US);
            }
        }
        Ok(())
    }

    /// Takes a machine out of the cluster.
    pub(super) fn retire(&mut self, id: u64, place: Place, why: &str) {
        let machine = self.machine(id);
        machine.place = place;
        machine.member.disk().crash_after(u64::MAX);
        if machine.member.is_up() {
            machine.member.kill();
            self.ended(id, why);
        }
    }

    /// At last the operator takes out whoever has not heard of its removal.
    pub(super) fn retire_removed(&mut self) {
        for id in self.ids() {
            if self.takes_part(id) && !self.cluster.belongs(id) {
                self.say(&format!("{id:x} was removed, and is taken out"));
                self.retire(id, Place::Gone, "removed");
            }
        }
    }

    /// Whom a client turns to after this one.
    pub(super) fn next_voter(&self, after: u64) -> u64 {
        let voters = self.voters();
        voters.iter().copied().find(|id| *id > after).or(voters.first().copied()).unwrap_or(after)
    }

    /// Whether the members left in are enough to get on.
    pub(super) fn has_quorum_of(&self, members: &[u64]) -> bool {
        let voters = &self.cluster.newest().voters;
        2 * members.iter().filter(|id| voters.contains(id)).count() > voters.len()
    }
}
