//! The asynchronous shell: drives one member with a real clock, real sockets and real files.

pub mod host;
pub mod node;
//! (in the making)

pub mod disk;
pub mod peer;
