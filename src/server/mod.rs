//! (in the making)

pub mod peer;
