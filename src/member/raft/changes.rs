//! Changes of the membership on their way through consensus: which may be proposed now, and how a leader leaves.
//!
//! A change counts from where it is applied. So one is proposed only when all before it are applied and this leader has
//! committed in its own term (thesis 4.1, and Ongaro's correction of it); until then it waits here, where raft-rs would
//! put an empty entry in its place and tell nobody.
//!
//! A leader that is removed goes on for a moment (thesis 4.2.2): a member that nobody told of the commit could wait for
//! this one's vote for ever. Once a voter has it, leadership is handed over, and only then does raft hear of the
//! change; the crate does not expect to lead a cluster that it is not part of.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use raft::eraftpb::{ConfChange, ConfChangeType, Entry, EntryType, Message, MessageType};
use raft::{Raft, StateRole};

use super::consensus::Proposal;
use super::log::Log;
use crate::ports::clock::Instant;

/// Changes that wait, at most; what is beyond is dropped as a lost message is.
const MAX_WAITING: usize = 64;
/// Ticks after which a leader that leaves asks again to be replaced.
const ASK_AGAIN_TICKS: u64 = 3;
/// Ticks after which it takes for told whoever has the entries: an etcd does not say what it knows to be committed.
const TOLD_TICKS: u64 = 5;

/// See the head of this file.
#[derive(Debug, Default)]
pub struct Changes {
    waiting: VecDeque<Proposal>,
    removed: BTreeSet<u64>,
    leaving: Option<Leaving>,
}

/// This member's own removal, which raft has not heard of.
#[derive(Debug)]
struct Leaving {
    change: ConfChange,
    /// Whoever knows that this is committed knows of the removal.
    index: u64,
    ticks: u64,
}

impl Changes {
    pub fn new(removed: impl IntoIterator<Item = u64>) -> Changes {
        Changes { removed: removed.into_iter().collect(), ..Changes::default() }
    }

    /// Those that left before the snapshot that was installed: no entry of theirs will be applied here.
    pub fn learn_removed(&mut self, removed: impl IntoIterator<Item = u64>) {
        self.removed.extend(removed);
    }

    pub fn push(&mut self, change: Proposal) {
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push_back(change);
        }
    }

    /// Puts into the log what may be there now, or gives it to the leader; `context` stamps what is forwarded.
    pub fn propose(&mut self, now: Instant, raft: &mut Raft<Log>, mut context: impl FnMut() -> Bytes) {
        let led = (raft.state == StateRole::Leader).then_some(raft.term);
        self.waiting.retain(|change| change.expires > now && (change.term.is_none() || change.term == led));
        while let Some(change) = self.waiting.front().filter(|_| raft.leader_id != 0) {
            let data = change.data.clone();
            let is_taken = match led {
                Some(_) => self.may_append(raft) && append(raft, data),
                None => raft.step(forwarded(data, raft.id, context())).is_ok(),
            };
            if !is_taken {
                sometimes!("change of the membership waited for its turn");
                return;
            }
            self.waiting.pop_front();
        }
    }

    /// Takes the changes out of a forwarded proposal to this leader, to wait for their turn.
    pub fn take_from(&mut self, message: &mut Message, raft: &Raft<Log>) {
        if message.entries.iter().all(|entry| entry.get_entry_type() == EntryType::EntryNormal) {
            return;
        }
        let (kept, changes): (Vec<Entry>, Vec<Entry>) = std::mem::take(&mut message.entries)
            .into_iter()
            .partition(|entry| entry.get_entry_type() == EntryType::EntryNormal);
        message.entries = kept.into();
        for Entry { data, .. } in changes {
            self.push(Proposal { data, expires: Instant(u64::MAX), term: Some(raft.term) });
        }
    }

    /// Whether this is for nobody to hear, because its sender was removed: it asks for votes, or for something to be
    /// done. A leader that was elected by who belongs may go on, until it has handed over.
    pub fn refuses(&self, message: &Message) -> bool {
        use MessageType::*;
        self.removed.contains(&message.from)
            && matches!(message.get_msg_type(), MsgRequestVote | MsgRequestPreVote | MsgPropose | MsgReadIndex)
    }

    /// A change was applied. What raft shall hear of now.
    pub fn applied(&mut self, change: ConfChange, raft: &Raft<Log>) -> Option<ConfChange> {
        if change.get_change_type() == ConfChangeType::RemoveNode {
            self.removed.insert(change.node_id);
            if change.node_id == raft.id && raft.state == StateRole::Leader && !mutation!(LeaderLeavesAtOnce) {
                sometimes!("leader removed");
                self.leaving = Some(Leaving { change, index: raft.raft_log.committed, ticks: 0 });
                return None;
            }
        }
        Some(change)
    }

    /// As a leader that leaves: the voter to hand over to, when it is time to ask.
    pub fn heir(&mut self, raft: &Raft<Log>) -> Option<u64> {
        let leaving = self.leaving.as_mut().filter(|_| raft.state == StateRole::Leader)?;
        leaving.ticks += 1;
        if !leaving.ticks.is_multiple_of(ASK_AGAIN_TICKS) && raft.lead_transferee.is_some() {
            return None;
        }
        let told = leaving.ticks > TOLD_TICKS;
        let voters = raft.prs().conf().voters().ids();
        let others = raft.prs().iter().filter(|(id, _)| **id != raft.id && voters.contains(**id));
        let ready = others.filter(|(_, p)| p.committed_index >= leaving.index || told && p.matched >= leaving.index);
        ready.max_by_key(|(id, p)| (p.matched, **id)).map(|(id, _)| *id)
    }

    /// The own removal, once somebody else may lead.
    pub fn left(&mut self, raft: &Raft<Log>) -> Option<ConfChange> {
        if raft.state == StateRole::Leader { None } else { self.leaving.take().map(|leaving| leaving.change) }
    }

    fn may_append(&self, raft: &Raft<Log>) -> bool {
        let is_free = !raft.has_pending_conf() && raft.commit_to_current_term() && self.leaving.is_none();
        raft.lead_transferee.is_none() && (is_free || mutation!(ConfChangeUnguarded))
    }
}

/// Puts a change into the leader's log. The crate's own way there parses it, and knows not the number that etcd has for
/// learners.
fn append(raft: &mut Raft<Log>, data: Bytes) -> bool {
    let index = raft.raft_log.last_index() + 1;
    if !raft.append_entry(&mut [entry(data)]) {
        return false;
    }
    raft.pending_conf_index = index;
    raft.bcast_append();
    true
}

fn forwarded(data: Bytes, from: u64, context: Bytes) -> Message {
    let mut message = Message { from, context, ..Default::default() };
    message.set_msg_type(MessageType::MsgPropose);
    message.entries.push(entry(data));
    message
}

fn entry(data: Bytes) -> Entry {
    let mut entry = Entry { data, ..Default::default() };
    entry.set_entry_type(EntryType::EntryConfChange);
    entry
}
