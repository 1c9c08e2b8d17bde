//! Deliberate bugs of consensus that take more than a line: what `mutation!` calls in [`super::consensus`].
//!
//! Nothing here is ever right. Without the feature `simulation` nothing calls it, and it is not in the program.

use bytes::Bytes;
use raft::eraftpb::{Entry, Message, MessageType};
use raft::{Raft, StateRole};

use super::log::Log;

/// Raft 5.4.2 forgotten: the entries of former terms are committed by counting copies (figure 8).
pub fn commit_whatever_a_majority_has(raft: &mut Raft<Log>) {
    if raft.state == StateRole::Leader {
        let index = raft.mut_prs().maximal_committed_index().0;
        commit(raft, index);
    }
}

/// A majority that is one member short.
pub fn commit_with_one_copy_too_few(raft: &mut Raft<Log>) {
    let mut copies: Vec<u64> = raft.prs().iter().map(|(_, progress)| progress.matched).collect();
    copies.sort_unstable_by(|a, b| b.cmp(a));
    let index = copies.get((copies.len() / 2).saturating_sub(1)).copied().unwrap_or(0);
    if raft.state == StateRole::Leader && raft.raft_log.term(index).is_ok_and(|term| term == raft.term) {
        commit(raft, index);
    }
}

/// A request as `RawNode::read_index` makes it.
pub fn read_index_request(context: Bytes) -> Message {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgReadIndex);
    message.set_entries(vec![Entry { data: context, ..Default::default() }].into());
    message
}

/// A leader opens a round whether or not it has committed in its term: its commit index may be an old one.
pub fn read_index_at_once(raft: &mut Raft<Log>, message: Message) {
    if raft.state != StateRole::Leader || raft.prs().is_singleton() {
        // An error is a request that nobody can serve now.
        let _ = raft.step(message);
        return;
    }
    let (commit, id) = (raft.raft_log.committed, raft.id);
    raft.read_only.add_request(commit, message, id);
    raft.bcast_heartbeat();
}

/// A leader that is no voter any more says nothing from now on.
pub fn step_down_if_removed(raft: &mut Raft<Log>) {
    if raft.state == StateRole::Leader && !raft.promotable() {
        raft.become_follower(raft.term, 0);
    }
}

fn commit(raft: &mut Raft<Log>, index: u64) {
    if index > raft.raft_log.committed && index <= raft.raft_log.last_index() {
        raft.raft_log.commit_to(index);
        raft.bcast_append();
    }
}
