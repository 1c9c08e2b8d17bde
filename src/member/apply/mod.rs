//! The replicated store: a committed entry in, a result and effects out. A request that can be refused is refused as a
//! result; only an impossible state stops the member.

pub mod kv;
pub mod range;
pub mod txn;
