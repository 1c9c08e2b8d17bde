//! Everything that is tested through the public surface: programs, sockets, files. One binary, so that it links once.

#[path = "it/flags.rs"]
mod flags;
#[path = "it/http.rs"]
mod http;
#[path = "it/util/mod.rs"]
mod util;

#[path = "it/mvcc.rs"]
mod mvcc;

#[path = "it/core.rs"]
mod core;
#[path = "it/disk_contract.rs"]
mod disk_contract;
#[path = "it/wal.rs"]
mod wal;
#[cfg(feature = "server")]
#[path = "it/peer.rs"]
mod peer;
#[cfg(feature = "server")]
#[path = "it/peer_codec.rs"]
mod peer_codec;
#[cfg(feature = "server")]
#[path = "it/peer_oracle.rs"]
mod peer_oracle;
#[path = "it/differential.rs"]
mod differential;
#[path = "it/kv.rs"]
mod kv;
#[path = "it/processes.rs"]
mod processes;
#[path = "it/durability.rs"]
mod durability;

#[cfg(feature = "server")]
#[path = "it/authority.rs"]
mod authority;
#[cfg(feature = "server")]
#[path = "it/mvcc_oracle.rs"]
mod mvcc_oracle;
#[path = "it/ctl_conformance.rs"]
mod ctl_conformance;
