//! The tokio build: drives one member with a real clock, real sockets, real files.

pub mod config;
pub mod log;
