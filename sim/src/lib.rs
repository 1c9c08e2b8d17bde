//! (in the making)

pub mod disk;
