//! What several test modules share.
#![allow(dead_code)]

pub mod client;
pub mod differences;
pub mod generator;
pub mod http2;
pub mod metrics;
pub mod model;
pub mod mvcc_model;
pub mod oracle;
pub mod process;
pub mod small_disk;
pub mod start;
pub mod target;
pub mod volume;
pub mod watch;
