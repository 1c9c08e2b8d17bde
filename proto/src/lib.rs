//! etcd's wire: message types and gRPC services, generated from `proto/protos` by `make proto` and checked in.
//!
//! Field numbers and names are interface facts of etcd; the `.proto` files were written from them. With the
//! feature `grpc` off there are only messages, and no asynchronous dependency.

#![allow(clippy::all, missing_docs)]

pub mod schema;

pub mod mvccpb {
    include!("generated/mvccpb.rs");
}
pub mod authpb {
    include!("generated/authpb.rs");
}
pub mod raftpb {
    include!("generated/raftpb.rs");
}
pub mod etcdserverpb {
    include!("generated/etcdserverpb.rs");
}
pub mod leasepb {
    include!("generated/leasepb.rs");
}
pub mod v3lockpb {
    include!("generated/v3lockpb.rs");
}
pub mod v3electionpb {
    include!("generated/v3electionpb.rs");
}
pub mod health {
    include!("generated/grpc.health.v1.rs");
}
