//! The asynchronous shell: drives one member with a real clock, real sockets and real files.

mod api;
mod attend;
pub mod config;
pub mod disk;
mod host;
pub mod log;
pub mod node;
pub mod peer;
mod peers;
mod run;

pub use run::run;
