//! What several test modules share.
#![allow(dead_code)]

pub mod oracle;
pub mod small_disk;
