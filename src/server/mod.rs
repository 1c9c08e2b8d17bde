//! The asynchronous shell: drives one member with a real clock, real sockets and real files.

mod apart;
mod api;
mod attend;
pub mod authority;
pub mod backups;
mod buffered;
pub mod compactor;
pub mod config;
mod corruption;
mod desk;
pub mod disk;
mod faces;
mod files;
mod host;
pub mod http;
mod leases;
pub mod listen;
pub mod log;
pub mod metrics;
pub mod node;
pub mod peer;
mod peers;
mod pings;
mod profile;
mod reconfigure;
mod room;
mod run;
mod snapshots;
mod space;
pub mod start;
mod watching;
pub mod workers;

pub use run::run;
