//! The asynchronous shell: drives one member with a real clock, real sockets and real files.

mod api;
mod attend;
mod buffered;
pub mod authority;
pub mod config;
mod desk;
pub mod disk;
mod faces;
mod host;
pub mod http;
pub mod listen;
pub mod log;
pub mod node;
pub mod peer;
mod peers;
mod run;
pub mod start;
mod workers;

pub use run::run;
