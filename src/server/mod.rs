//! The tokio build: drives one member with a real clock, real sockets, real files.

pub mod config;
pub mod http;
pub mod listen;
pub mod log;
mod run;
pub mod start;

pub use run::run;
