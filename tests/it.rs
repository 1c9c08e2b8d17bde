//! Everything that is tested through the public surface: programs, sockets, files. One binary, so that it links once.

#[path = "it/util/mod.rs"]
mod util;

#[path = "it/ctl_conformance.rs"]
mod ctl_conformance;
