//! Everything that is tested through the public surface: programs, sockets, files. One binary, so that it links once.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

#[path = "it/faces.rs"]
mod faces;
#[path = "it/flags.rs"]
mod flags;
#[path = "it/http.rs"]
mod http;
#[path = "it/util/mod.rs"]
mod util;

#[path = "it/metrics.rs"]
mod metrics;
#[path = "it/mvcc.rs"]
mod mvcc;

#[path = "it/core.rs"]
mod core;

#[path = "it/backups.rs"]
mod backups;
#[path = "it/big_reads.rs"]
mod big_reads;
#[path = "it/calendar.rs"]
mod calendar;
#[path = "it/checkers.rs"]
mod checkers;
#[path = "it/checkers_aside.rs"]
mod checkers_aside;

#[path = "it/crash_every_op.rs"]
mod crash_every_op;

#[path = "it/differential.rs"]
mod differential;
#[path = "it/disk_contract.rs"]
mod disk_contract;
#[path = "it/durability.rs"]
mod durability;
#[path = "it/explain.rs"]
mod explain;
#[path = "it/faults.rs"]
mod faults;
#[path = "it/gateway.rs"]
mod gateway;
#[path = "it/hostile_clients.rs"]
mod hostile_clients;
#[path = "it/hostile_peers.rs"]
mod hostile_peers;
#[path = "it/import.rs"]
mod import;
#[path = "it/interop.rs"]
mod interop;
#[cfg(feature = "server")]
#[path = "it/keepalive.rs"]
mod keepalive;
#[path = "it/kv.rs"]
mod kv;
#[path = "it/lease.rs"]
mod lease;
#[path = "it/linearizability.rs"]
mod linearizability;
#[path = "it/long_ranges.rs"]
mod long_ranges;
#[path = "it/membership.rs"]
mod membership;
#[path = "it/mirror.rs"]
mod mirror;
#[path = "it/offline.rs"]
mod offline;
#[cfg(feature = "server")]
#[path = "it/peer.rs"]
mod peer;
#[cfg(feature = "server")]
#[path = "it/peer_codec.rs"]
mod peer_codec;
#[cfg(feature = "server")]
#[path = "it/peer_oracle.rs"]
mod peer_oracle;
#[cfg(feature = "server")]
#[path = "it/peer_snapshot.rs"]
mod peer_snapshot;
#[path = "it/processes.rs"]
mod processes;
#[path = "it/rot.rs"]
mod rot;
#[path = "it/runbook.rs"]
mod runbook;
#[path = "it/scenarios.rs"]
mod scenarios;
#[path = "it/sim_program.rs"]
mod sim_program;
#[path = "it/snapshot.rs"]
mod snapshot;
#[path = "it/space.rs"]
mod space;
#[path = "it/wal.rs"]
mod wal;
#[path = "it/watch.rs"]
mod watch;
#[cfg(feature = "server")]
#[path = "it/watch_server.rs"]
mod watch_server;
#[path = "it/world.rs"]
mod world;
#[path = "it/zoo.rs"]
mod zoo;

#[cfg(feature = "server")]
#[path = "it/authority.rs"]
mod authority;
#[path = "it/ctl_conformance.rs"]
mod ctl_conformance;
#[path = "it/lock.rs"]
mod lock;
#[cfg(feature = "server")]
#[path = "it/mvcc_oracle.rs"]
mod mvcc_oracle;

#[path = "tidy.rs"]
mod tidy;
