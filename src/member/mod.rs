//! (in the making)
pub mod membership;
