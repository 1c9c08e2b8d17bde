//! Consensus: the only room that names the raft crate.
//!
//! [`Consensus`] wraps raft-rs 0.7 as a state machine that never waits. Everything that crosses its edge is our own
//! `raftpb` ([`translate`]), so the crate's protobuf types never parse outside bytes. What raft-rs leaves to its user,
//! or gets wrong, is mended here and nowhere else:
//!
//! * its election time-outs come from a thread-local generator: ours are drawn from a seeded stream ([`consensus`]);
//! * it serves a stale read index when a `MsgReadIndex` arrives twice: each one is stamped, and a stamp is taken once
//!   ([`stamp`]); so is a forwarded proposal, which raft would append twice;
//! * it drops a read index in silence when it cannot serve it: rounds are issued again with a new stamp ([`reads`]);
//! * its `batch_append` joins entries to an empty append that waits at another position, whose receiver then
//!   acknowledges an entry too many: it stays off, and appends that do not follow on are refused;
//! * it panics on messages that no correct peer sends: those never reach it ([`inbound`]);
//! * it puts an empty entry in the place of a change of the membership that comes too early, and does not expect to
//!   lead a cluster that it was removed from: changes wait for their turn, and a removed leader hands over
//!   ([`changes`]);
//! * it takes the log from memory: old entries are fetched from the write-ahead log, asynchronously ([`log`]).

mod changes;
mod consensus;
mod inbound;
mod log;
mod reads;
mod stamp;
mod translate;
mod wrong;

pub use consensus::{
    Config, Consensus, Effect, Input, Persist, Proposal, ReadRequest, Recovered, Role, SnapshotMeta, Status,
};
pub use log::Fetch;
pub use stamp::Stamp;
