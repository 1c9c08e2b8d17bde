//! Everything that is tested through the public surface: programs, sockets, files. One binary, so that it links once.

#[path = "it/util/mod.rs"]
mod util;

#[path = "it/differential.rs"]
mod differential;
#[path = "it/kv.rs"]
mod kv;
#[path = "it/processes.rs"]
mod processes;
