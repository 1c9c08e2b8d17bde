//! Everything that is tested through the public surface: programs, sockets, files. One binary, so that it links once.

#[path = "it/util/mod.rs"]
mod util;

#[path = "it/mvcc.rs"]
mod mvcc;

#[path = "it/core.rs"]
mod core;
