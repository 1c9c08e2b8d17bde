//! Whole clusters of Lockstep members in one event loop, from one seed.
//!
//! ```text
//! disk      a crash-losing disk in memory                     disk.rs
//! member    one member, moved stage by stage                  member.rs watching.rs keeping.rs
//! calm      a cluster in fine weather, for one accident       calm.rs
//! lab       a cluster in which a script is every accident     lab.rs   (the text scripts of tests/it/core)
//! world     members, network, disks, clients, faults: chance  world/ knobs.rs random.rs network.rs …
//! check     what must hold in every world, one file each      check/
//! asks      watches, leases, locks, as clients ask for them   asks/
//! notation  etcd's notation for messages and entries          notation.rs
//! host      where a world runs: a thread, a madsim runtime    host.rs
//! program   lockstep-sim                                      program/
//! ```
//!
//! Architecture invariant: no thread, no clock, no socket, no file and no random number that does not come from a seed.
//! Only host and program, which stand outside of the worlds, are excused.

pub mod asks;
pub mod calm;
pub mod check;
pub mod choices;
pub mod clock;
pub mod disk;
pub mod explain;
pub mod fault;
pub mod history;
#[allow(clippy::disallowed_types, clippy::disallowed_methods)]
pub mod host;
pub mod keeping;
pub mod knobs;
pub mod lab;
pub mod marks;
pub mod member;
pub mod meter;
pub mod network;
pub mod notation;
#[allow(clippy::disallowed_types, clippy::disallowed_methods)]
pub mod program;
pub mod random;
pub mod report;
pub mod requests;
pub mod scenario;
pub mod shrink;
pub mod timeline;
pub mod trace;
pub mod watching;
pub mod workload;
pub mod world;
