//! The apply machine: committed entries in, the replicated store and its answers out.
//!
//! Every member applies the same entries in the same order and must end in the same state, byte for byte. So nothing
//! here may depend on anything but the entries and the store: no time, no randomness, no configuration that members
//! could differ in. A request that can be refused is refused with a result; an error stops the member, and means an
//! impossible state or a broken disk.
//!
//! What is applied is visible at once to later entries, to readers once a view is published, and durable once the
//! backend has committed its batch; until then the write-ahead log is what it survives by. Effects come in the order in
//! which they must be carried out: the view before the answers that promise it.

pub mod alarm;
pub mod kv;
mod lease;
mod machine;
pub mod range;
pub mod txn;

pub use machine::{Applier, Change, Effect, Input, Reply, Response};
