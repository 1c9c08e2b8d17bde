//! What several test modules share.
#![allow(dead_code)]

pub mod mvcc_model;
pub mod oracle;
pub mod small_disk;
