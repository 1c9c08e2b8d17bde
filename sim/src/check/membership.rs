//! The membership is what the log says it is (etcd #21694, a learner that an update made a voter on paper), and changes
//! one step at a time (Ongaro's correction of thesis section 4.1: a leader takes a change only once an entry of its own
//! term is committed, and all changes before it are applied; two that overlap have majorities that do not meet).
//!
//! A model of its own takes every change as it is first committed, by etcd's rules. Whenever a member says who the
//! members are, that must be the model at the index it has applied: voters, learners, URLs, and who was removed. What
//! raft counts with must be the model's, too, at the latest when all rests. Nobody votes for a member once it has
//! applied that one's removal (thesis 4.2.3). Names and client URLs, which members publish themselves, are not looked
//! at.

use std::collections::{BTreeMap, BTreeSet};

use lockstep::member::membership::{ChangeContext, DEFAULT_MAX_LEARNERS, Membership};
use lockstep::member::raft::{Persist, Role, Status};
use lockstep_proto::raftpb::{ConfChange, ConfChangeType, Entry, EntryType};
use prost::Message;

use super::{Checker, Objection, PerMember, Seen, object};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    members: BTreeMap<u64, Known>,
    removed: BTreeSet<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    peer_urls: Vec<String>,
    is_learner: bool,
}

#[derive(Debug, Default)]
pub struct MembershipModel {
    /// Looked at up to this index.
    looked: u64,
    /// The members from an index on.
    changes: BTreeMap<u64, Model>,
    /// Where a member was removed.
    removals: BTreeMap<u64, u64>,
    of: PerMember<Member>,
}

#[derive(Debug, Default)]
struct Member {
    /// As of the last step of this life.
    status: Option<Status>,
    voters: Vec<u64>,
    /// Changes in its log, by index.
    pending: BTreeSet<u64>,
    /// The first entry that it wrote as the leader of this term.
    own: (u64, u64),
}

impl Model {
    /// Etcd's rules. One that they refuse changes nothing.
    fn change(&mut self, change: &ConfChange) {
        let id = change.node_id();
        let context: Option<ChangeContext> = serde_json::from_slice(change.context()).ok();
        let context = context.filter(|context| context.member.id == id);
        if id == 0 || self.removed.contains(&id) {
            return;
        }
        let kind = change.r#type();
        let known = self.members.get(&id).cloned();
        let others_vote = self.members.iter().any(|(other, known)| *other != id && !known.is_learner);
        let free = |urls: &[String]| {
            let others = self.members.iter().filter(|(other, _)| **other != id);
            !others.flat_map(|(_, known)| &known.peer_urls).any(|url| urls.contains(url))
        };
        match (kind, known, context) {
            (ConfChangeType::ConfChangeRemoveNode, Some(_), _) if others_vote => {
                self.members.remove(&id);
                self.removed.insert(id);
            }
            (ConfChangeType::ConfChangeUpdateNode, Some(known), Some(context)) if free(&context.member.peer_urls) => {
                self.members.insert(id, Known { peer_urls: context.member.peer_urls, ..known });
            }
            (_, Some(known), Some(context)) if context.is_promote && known.is_learner => {
                self.members.insert(id, Known { is_learner: false, ..known });
            }
            (ConfChangeType::ConfChangeAddNode | ConfChangeType::ConfChangeAddLearnerNode, None, Some(context))
                if !context.is_promote && free(&context.member.peer_urls) =>
            {
                let is_learner = kind == ConfChangeType::ConfChangeAddLearnerNode;
                let learners = self.members.values().filter(|known| known.is_learner).count() as u64;
                let most = context.max_learners.unwrap_or(DEFAULT_MAX_LEARNERS);
                if !is_learner || others_vote && learners < most {
                    self.members.insert(id, Known { peer_urls: context.member.peer_urls, is_learner });
                }
            }
            _ => {}
        }
    }

    fn of(membership: &Membership) -> Model {
        let known = |member: &lockstep::member::membership::Member| Known {
            peer_urls: member.peer_urls.clone(),
            is_learner: member.is_learner,
        };
        Model {
            members: membership.members().map(|member| (member.id, known(member))).collect(),
            removed: membership.removed().collect(),
        }
    }

    fn voters(&self) -> Vec<u64> {
        self.members.iter().filter(|(_, known)| !known.is_learner).map(|(id, _)| *id).collect()
    }
}

impl MembershipModel {
    fn committed(&mut self, entry: &Entry) {
        if entry.index() <= self.looked {
            return;
        }
        self.looked = entry.index();
        let Some(change) = change_of(entry) else { return };
        let before = self.as_of(entry.index());
        let mut after = before.clone();
        after.change(&change);
        for id in after.removed.difference(&before.removed) {
            self.removals.insert(*id, entry.index());
        }
        if after != before {
            self.changes.insert(entry.index(), after);
        }
    }

    fn as_of(&self, index: u64) -> Model {
        self.changes.range(..=index).next_back().map(|(_, model)| model.clone()).unwrap_or_default()
    }

    fn shown(&self, member: u64, index: u64, membership: &Membership) -> Result<(), Objection> {
        let (found, expected) = (Model::of(membership), self.as_of(index));
        if found == expected {
            return Ok(());
        }
        let story = format!(
            "member {member} has applied up to {index}, and the members are to it {found:?}; the log up to there makes \
             them {expected:?}"
        );
        object("different members", story)
    }

    fn stepped(&mut self, status: &Status, voters: &[u64]) -> Result<(), Objection> {
        let this = self.of.of(status.id);
        let before = this.status.replace(*status);
        let is_new = this.voters != voters;
        if is_new {
            voters.clone_into(&mut this.voters);
        }
        if let Some(before) = before
            && (before.term, before.vote) != (status.term, status.vote)
            && let Some(removed) = self.removals.get(&status.vote).filter(|index| **index <= before.applied)
        {
            let Status { id, vote, term, .. } = status;
            let story = format!(
                "member {id} votes for member {vote} in term {term}, and has applied its removal (entry {removed})"
            );
            return object("vote for a removed member", story);
        }
        // A snapshot counts before it is installed; a leader that leaves goes by what was before.
        let from = self.changes.range(..=status.applied).rev().nth(1).map_or(0, |(index, _)| *index);
        let is_known = || self.changes.range(from..).any(|(_, model)| model.voters() == voters) || voters.is_empty();
        if is_new && !is_known() {
            let Status { id, applied, .. } = status;
            let story = format!(
                "member {id} has applied up to {applied} and counts with the voters {voters:?}; the log makes them \
                 {:?}",
                self.as_of(*applied).voters()
            );
            return object("voters that nobody agreed on", story);
        }
        Ok(())
    }

    fn persist(&mut self, member: u64, persist: &Persist) -> Result<(), Objection> {
        let this = self.of.of(member);
        let Some(first) = persist.entries.first() else { return Ok(()) };
        let _ = this.pending.split_off(&first.index());
        let leads = this.status.filter(|status| status.role == Role::Leader);
        for entry in &persist.entries {
            let index = entry.index();
            let own = leads.filter(|status| status.term == entry.term());
            if let Some(status) = own
                && this.own.0 != status.term
            {
                this.own = (status.term, index);
            }
            if change_of(entry).is_none() {
                continue;
            }
            if let Some(Status { id, term, applied, commit, .. }) = own {
                if let Some(other) = this.pending.last().filter(|other| **other > applied) {
                    let story = format!(
                        "leader {id} of term {term} takes the change {index} while it has not applied the one at \
                         {other}"
                    );
                    return object("changes of the membership overlap", story);
                }
                if commit < this.own.1 {
                    let story = format!(
                        "leader {id} of term {term} takes the change {index} before its first entry, {}, is committed",
                        this.own.1
                    );
                    return object("change before an entry of the own term", story);
                }
            }
            this.pending.insert(index);
        }
        Ok(())
    }

    fn at_rest(&self, status: &Status) -> Result<(), Objection> {
        let Some(voters) = self.of.0.get(status.id as usize).map(|member| &member.voters) else { return Ok(()) };
        let expected = self.as_of(status.applied).voters();
        if *voters == expected {
            return Ok(());
        }
        let story =
            format!("at rest member {} counts with the voters {voters:?}; the log makes them {expected:?}", status.id);
        object("different voters at rest", story)
    }
}

impl Checker for MembershipModel {
    fn name(&self) -> &'static str {
        "membership"
    }

    fn see(&mut self, _now_us: u64, seen: &Seen) -> Result<(), Objection> {
        match seen {
            Seen::Booted { member, log, .. } => {
                let changes = log.iter().filter(|entry| change_of(entry).is_some());
                let pending = changes.map(Entry::index).collect();
                *self.of.of(*member) = Member { pending, ..Member::default() };
                Ok(())
            }
            Seen::Committed { entries, .. } => {
                entries.iter().for_each(|entry| self.committed(entry));
                Ok(())
            }
            Seen::Members { member, index, membership } => self.shown(*member, *index, membership),
            Seen::Stepped { status, voters } => self.stepped(status, voters),
            Seen::Persist { member, persist } => self.persist(*member, persist),
            Seen::AtRest { status, .. } => self.at_rest(status),
            _ => Ok(()),
        }
    }
}

fn change_of(entry: &Entry) -> Option<ConfChange> {
    let data = entry.data.as_ref().filter(|_| entry.r#type() == EntryType::EntryConfChange)?;
    ConfChange::decode(data.clone()).ok()
}
