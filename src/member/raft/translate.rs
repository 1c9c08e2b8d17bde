//! Between our `raftpb` (etcd's numbers, prost) and the raft crate's own protobuf types.
//!
//! The two differ where it hurts: the crate's `ConfChangeType` has no `UpdateNode` and numbers `AddLearnerNode` 2,
//! etcd's is 3. Fields that only the crate knows (priority, request_snapshot, commit_term) are never used, so they do
//! not travel.

use lockstep_proto::raftpb;
use raft::eraftpb;

use super::consensus::SnapshotMeta;

/// A message whose type this build does not know; from outside, so an error and not a panic.
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownType(pub i32);

pub fn entry_in(entry: raftpb::Entry) -> eraftpb::Entry {
    let mut out = eraftpb::Entry::default();
    out.set_entry_type(match entry.r#type() {
        raftpb::EntryType::EntryNormal => eraftpb::EntryType::EntryNormal,
        raftpb::EntryType::EntryConfChange => eraftpb::EntryType::EntryConfChange,
        raftpb::EntryType::EntryConfChangeV2 => eraftpb::EntryType::EntryConfChangeV2,
    });
    out.term = entry.term();
    out.index = entry.index();
    out.data = entry.data.unwrap_or_default();
    out
}

pub fn entry_out(entry: &eraftpb::Entry) -> raftpb::Entry {
    let kind = match entry.get_entry_type() {
        eraftpb::EntryType::EntryNormal => raftpb::EntryType::EntryNormal,
        eraftpb::EntryType::EntryConfChange => raftpb::EntryType::EntryConfChange,
        eraftpb::EntryType::EntryConfChangeV2 => raftpb::EntryType::EntryConfChangeV2,
    };
    raftpb::Entry {
        r#type: Some(kind as i32),
        term: Some(entry.term),
        index: Some(entry.index),
        data: (!entry.data.is_empty()).then(|| entry.data.clone()),
    }
}

pub fn hard_state_in(state: &raftpb::HardState) -> eraftpb::HardState {
    eraftpb::HardState { term: state.term(), vote: state.vote(), commit: state.commit(), ..Default::default() }
}

pub fn hard_state_out(state: &eraftpb::HardState) -> raftpb::HardState {
    raftpb::HardState { term: Some(state.term), vote: Some(state.vote), commit: Some(state.commit) }
}

pub fn conf_state_in(state: &raftpb::ConfState) -> eraftpb::ConfState {
    eraftpb::ConfState {
        voters: state.voters.clone(),
        learners: state.learners.clone(),
        voters_outgoing: state.voters_outgoing.clone(),
        learners_next: state.learners_next.clone(),
        auto_leave: state.auto_leave(),
        ..Default::default()
    }
}

/// `None` for an update, which changes nothing that raft knows of.
pub fn conf_change_in(change: &raftpb::ConfChange) -> Option<eraftpb::ConfChange> {
    let mut out = eraftpb::ConfChange::default();
    out.set_change_type(match change.r#type() {
        raftpb::ConfChangeType::ConfChangeAddNode => eraftpb::ConfChangeType::AddNode,
        raftpb::ConfChangeType::ConfChangeRemoveNode => eraftpb::ConfChangeType::RemoveNode,
        raftpb::ConfChangeType::ConfChangeAddLearnerNode => eraftpb::ConfChangeType::AddLearnerNode,
        raftpb::ConfChangeType::ConfChangeUpdateNode => return None,
    });
    out.node_id = change.node_id();
    Some(out)
}

pub fn message_in(message: raftpb::Message) -> Result<eraftpb::Message, UnknownType> {
    let kind = message.r#type.unwrap_or_default();
    let kind = protobuf::ProtobufEnum::from_i32(kind).filter(|_| kind <= 18).ok_or(UnknownType(kind))?;
    let mut out = eraftpb::Message::default();
    out.set_msg_type(kind);
    out.to = message.to();
    out.from = message.from();
    out.term = message.term();
    out.log_term = message.log_term();
    out.index = message.index();
    out.commit = message.commit();
    out.reject = message.reject();
    out.reject_hint = message.reject_hint();
    out.context = message.context.unwrap_or_default();
    if let Some(snapshot) = message.snapshot {
        out.set_snapshot(snapshot_in(&snapshot));
    }
    out.set_entries(message.entries.into_iter().map(entry_in).collect::<Vec<_>>().into());
    Ok(out)
}

pub fn message_out(message: &eraftpb::Message) -> raftpb::Message {
    use protobuf::ProtobufEnum;
    raftpb::Message {
        r#type: Some(message.get_msg_type().value()),
        to: Some(message.to),
        from: Some(message.from),
        term: Some(message.term),
        log_term: Some(message.log_term),
        index: Some(message.index),
        entries: message.entries.iter().map(entry_out).collect(),
        commit: Some(message.commit),
        snapshot: message.has_snapshot().then(|| snapshot_out(message.get_snapshot())),
        reject: Some(message.reject),
        reject_hint: Some(message.reject_hint),
        context: (!message.context.is_empty()).then(|| message.context.clone()),
    }
}

pub fn snapshot_meta_in(meta: &SnapshotMeta) -> eraftpb::SnapshotMetadata {
    let mut out = eraftpb::SnapshotMetadata { index: meta.index, term: meta.term, ..Default::default() };
    out.set_conf_state(conf_state_in(&meta.conf_state));
    out
}

/// What a snapshot is of; its content is the host's business.
fn snapshot_out(snapshot: &eraftpb::Snapshot) -> raftpb::Snapshot {
    let meta = snapshot.get_metadata();
    let conf_state = meta.get_conf_state();
    raftpb::Snapshot {
        data: None,
        metadata: Some(raftpb::SnapshotMetadata {
            conf_state: Some(raftpb::ConfState {
                voters: conf_state.voters.clone(),
                learners: conf_state.learners.clone(),
                ..Default::default()
            }),
            index: Some(meta.index),
            term: Some(meta.term),
        }),
    }
}

fn snapshot_in(snapshot: &raftpb::Snapshot) -> eraftpb::Snapshot {
    let mut out = eraftpb::Snapshot { data: snapshot.data.clone().unwrap_or_default(), ..Default::default() };
    if let Some(meta) = &snapshot.metadata {
        let to = out.mut_metadata();
        to.index = meta.index();
        to.term = meta.term();
        if let Some(conf) = &meta.conf_state {
            to.set_conf_state(conf_state_in(conf));
        }
    }
    out
}
