//! Which messages from outside raft may see.
//!
//! raft-rs trusts its peers: it panics on what no correct peer sends (an empty proposal, a forwarded request with a
//! term), and acknowledges entries that it does not have (behind a gap, or behind a position past its log, whose term
//! it takes for 0). One faulty peer must not stop a member or make it promise what it cannot keep, so such messages end
//! here. Nothing a correct member of this version or an etcd sends may be refused, but what comes too late to be true.

use lockstep_proto::raftpb;
use prost::Message as _;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};
use raft::{Raft, StateRole};

use super::log::Log;

/// No cluster gets there by elections; raft-rs counts on from a message's term without a look at the end of the range.
const MAX_TERM: u64 = u64::MAX / 2;

/// Whether raft can do without harm what this message asks.
pub fn is_sound(message: &Message, raft: &Raft<Log>) -> bool {
    use MessageType::*;
    let kind = message.get_msg_type();
    // Requests are forwarded without a term (ours name the term of the leader that they are for); without one anything
    // else would count as the member's own.
    let is_request = matches!(kind, MsgPropose | MsgReadIndex);
    let may_have_term = kind != MsgReadIndex;
    if message.from == 0 || (message.term == 0 && !is_request) || (message.term != 0 && !may_have_term) {
        return false;
    }
    if message.term > MAX_TERM {
        return false;
    }
    match kind {
        MsgPropose => !message.entries.is_empty() && message.entries.iter().all(is_proposal),
        MsgReadIndex | MsgReadIndexResp => message.entries.len() == 1,
        MsgAppend => follows_on(message) || mutation!(BatchAppend),
        MsgAppendResponse if raft.state == StateRole::Leader && message.term == raft.term => {
            // A follower has no more than the leader sent it in this term.
            let is_known = message.index.max(message.reject_hint) <= raft.raft_log.last_index();
            let is_late = message.reject && is_acknowledged(message, raft);
            sometimes!(is_late, "rejection came after its position was acknowledged");
            is_known && !is_late
        }
        // A follower would forward it, and raft-rs panics on what it forwards with a term.
        MsgTransferLeader => raft.state == StateRole::Leader,
        // A sole voter needs no asking; raft-rs asserts that one which campaigns has persisted its whole log.
        MsgTimeoutNow => !raft.prs().is_singleton(),
        MsgSnapshot => is_snapshot(message),
        _ => true,
    }
}

/// Whether the sender has acknowledged in this term that it has this position. raft-rs, while it probes that member,
/// would take a rejection of it for news and go back behind what everybody has, where the log may be released.
fn is_acknowledged(message: &Message, raft: &Raft<Log>) -> bool {
    raft.prs().get(message.from).is_some_and(|progress| message.index <= progress.matched)
}

/// Whether these are entries that a leader can have, right behind one another and behind one that is there.
fn follows_on(message: &Message) -> bool {
    let is_next = |(entry, offset): (&Entry, u64)| {
        message.index.checked_add(offset) == Some(entry.index) && (1..=message.term).contains(&entry.term)
    };
    (message.index == 0) == (message.log_term == 0) && message.entries.iter().zip(1..).all(is_next)
}

/// Whether raft could count with the members that this snapshot names: it ends the process over those it cannot.
fn is_snapshot(message: &Message) -> bool {
    let meta = message.get_snapshot().get_metadata();
    let conf = meta.get_conf_state();
    let mut ids: Vec<u64> = conf.voters.iter().chain(&conf.learners).copied().collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    let is_joint = conf.auto_leave || !conf.voters_outgoing.is_empty() || !conf.learners_next.is_empty();
    (1..u64::MAX).contains(&meta.index)
        && (1..=message.term).contains(&meta.term)
        && !conf.voters.is_empty()
        && ids.len() == count
        && ids[0] != 0
        && !is_joint
}

/// Whether the leader may put this into the log. raft-rs parses conf changes with a decoder that must not be the first
/// to see outside bytes: it has no limit of depth.
fn is_proposal(entry: &Entry) -> bool {
    match entry.get_entry_type() {
        EntryType::EntryNormal => true,
        EntryType::EntryConfChange => raftpb::ConfChange::decode(&entry.data[..]).is_ok(),
        EntryType::EntryConfChangeV2 => false,
    }
}
