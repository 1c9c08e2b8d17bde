//! How members reach each other.
//!
//! The contract is rafthttp's over TCP, and no stronger: a message may be lost, delayed, or overtaken by another (the
//! streams and the pipeline are different connections). A connection belongs to the two processes that opened it:
//! **what was sent to a process that has since crashed is never delivered to its successor.** Duplicates do not happen
//! on TCP; a member survives them all the same, since the simulator makes them within one incarnation.

use lockstep_proto::raftpb;

/// Sends raft messages to other members. Never waits: what cannot be sent now is dropped, and raft sends it again.
pub trait Network: Send + Sync {
    fn send(&self, messages: Vec<raftpb::Message>);
}
